"""How many queries of the second layer can one prefix below re-aim at once?

One row is free (`one_row`). For several rows a search: the attention of every position to every
prefix vector of the first layer, and the values, are free numbers, as they are for linearly
independent queries; gradient descent brings the wanted rows of the second layer as near as it can.
One head in each layer, no residual stream. Whatever the search misses may be out of reach or only
hard to find; what it reaches is in reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import total_variation

__all__ = ["Reached", "re_aim_rows"]


@dataclass(frozen=True)
class Reached:
    """Result of the search."""

    lengths: tuple[int, ...]
    rows: tuple[int, ...]  # how many were asked for
    distance: Tensor  # (lengths, rows, instances): total variation from the rows wanted
    untouched: Tensor  # (rows, instances): the same without a prefix


def re_aim_rows(
    lengths: Sequence[int],
    rows: Sequence[int],
    instances: int,
    generator: torch.Generator,
    *,
    n_tokens: int = 8,
    width: int = 8,
    steps: int = 800,
    learning_rate: float = 0.1,
) -> Reached:
    """Search prefixes that give the first rows of the second layer random patterns, with Adam."""
    for name, numbers, most in (("lengths", lengths, None), ("rows", rows, n_tokens)):
        if not numbers or min(numbers) < 1 or (most is not None and max(numbers) > most):
            raise ValueError(f"{name} must be from 1 to {most or 'any number'}, got {numbers}")
    if instances < 1:
        raise ValueError(f"instances must be at least 1, got {instances}")
    longest = max(lengths)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    plain = draw(instances, n_tokens, width)
    form = draw(instances, width, width) / width
    wanted = (2 * draw(instances, n_tokens, n_tokens)).softmax(-1)
    # (lengths, rows, instances, …): every pair has its own prefix.
    pairs = (len(lengths), len(rows), instances)
    scores = draw(*pairs, n_tokens, longest).requires_grad_()
    values = draw(*pairs, longest, width).requires_grad_()
    absent = torch.arange(longest) >= torch.tensor(lengths)[:, None]  # (lengths, longest)
    asked = torch.arange(n_tokens) < torch.tensor(rows)[:, None]  # (rows, n)
    counts = asked.sum(-1)[:, None]

    def second_rows() -> Tensor:
        to_prefix = scores.masked_fill(absent[:, None, None, None], float("-inf"))
        weights = F.pad(to_prefix, (1, 0)).softmax(-1)  # the content has the score 0
        stream = weights[..., :1] * plain + weights[..., 1:] @ values
        return (stream @ form @ stream.mT).log_softmax(-1)

    optimiser = torch.optim.Adam([scores, values], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        misses = -(wanted * second_rows()).sum(-1) * asked[:, None]
        misses.sum().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        distance = total_variation(second_rows().exp(), wanted) * asked[:, None]
        untouched = total_variation((plain @ form @ plain.mT).softmax(-1), wanted)
        untouched = untouched * asked[:, None]
    return Reached(
        tuple(lengths), tuple(rows), distance.sum(-1) / counts, untouched.sum(-1) / counts
    )


check_public(__name__)

r"""How close do the constructions come to failing?

The errors of a lookup under a gradient search over tables and contents, the errors of packed
numbers in exact arithmetic, and the inverse temperature at which decoding starts to work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.prefix_tuning.one_virtual_token import measuring
from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions import bounds
from promptlib.prefix_tuning.constructions.conditional import (
    ConditionalGenerator,
    conditional_generator,
)
from promptlib.prefix_tuning.constructions.unconditional import (
    UnconditionalGenerator,
    unconditional_generator,
)

__all__ = [
    "hardest_maps",
    "hardest_sequences",
    "lookup_errors",
    "measured_threshold",
    "packed_errors",
    "smallest_temperature",
    "worst_lookup_errors",
]


def lookup_errors(
    speaker: UnconditionalGenerator, virtual_tokens: Tensor, contents: Tensor
) -> Tensor:
    """How far the number found at the last position is from the table's entry.

    Tables (..., N) have entries in [0, 1); `contents`, (..., N - 1, N), is whatever stands at the
    other positions, with entries in [0, 1].
    """
    stream = speaker.stages(torch.cat((virtual_tokens.unsqueeze(-2), contents), -2))[-1].stream
    found = stream[..., -1, speaker.layout["value"]].squeeze(-1)
    return (found - virtual_tokens[..., -1]).abs()


def worst_lookup_errors(
    speaker: UnconditionalGenerator, restarts: int, steps: int, generator: torch.Generator
) -> Tensor:
    """The largest lookup errors that a gradient search finds, one for each restart.

    Tables move in ``[0, 1 - 1/V]`` and the contents of the other positions in ``[0, 1]``: each step
    follows the sign of the gradient, and what leaves the box is set back.
    """
    length, top = speaker.length, 1 - 1 / speaker.vocab_size

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    table, contents = top * draw(restarts, length), draw(restarts, length - 1, length)
    best = lookup_errors(speaker, table, contents)
    for step in range(steps):
        table.requires_grad_(True)
        contents.requires_grad_(True)
        errors = lookup_errors(speaker, table, contents)
        pushes = torch.autograd.grad(errors.sum(), (table, contents))
        rate = 0.5 * (1 - step / steps)
        table = (table.detach() + rate * pushes[0].sign()).clamp(0, top)
        contents = (contents.detach() + rate * pushes[1].sign()).clamp(0, 1)
        best = torch.maximum(best, lookup_errors(speaker, table, contents))
    return best


def packed_errors(speaker: ConditionalGenerator, maps: Tensor) -> Tensor:
    """Errors of the packed number that was looked up, in units of its last digit, (n, V * V).

    Against the exact number, whose last digit is worth ``V ** -V``; the speaker has two inputs.
    """
    base = speaker.vocab_size
    prompts = measuring.all_sequences(base, 2)
    contents = speaker.contents(speaker.virtual_token(maps).unsqueeze(1), prompts)
    stream = speaker.stages(contents)[-1].stream[..., -1, :]
    found = stream[..., speaker.layout["packed"]].squeeze(-1)  # (n, V * V)
    whole = torch.zeros_like(maps[..., 0])
    for place in range(base):
        whole = base * whole + maps[..., place]
    exact = [[int(row) for row in table] for table in whole]
    units = base**base
    # Exact rational arithmetic: the errors are smaller than the spacing of float64 there.
    errors = [
        [
            _distance(float(value), rows[a], units)
            for value, (a, _) in zip(values, prompts.tolist(), strict=True)
        ]
        for values, rows in zip(found.tolist(), exact, strict=True)
    ]
    return torch.tensor(errors, dtype=torch.float64)


def smallest_temperature(
    decodes: Callable[[float], bool], low: float, high: float, steps: int = 30
) -> float:
    """The inverse temperature above which something decodes, by bisection."""
    for place, expected in ((low, False), (high, True)):
        if decodes(place) != expected:
            raise ValueError(
                f"the threshold is not between {low} and {high}: at {place} everything is "
                f"{'not ' if expected else ''}decoded"
            )
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if decodes(middle) else (middle, high)
    return high


def measured_threshold(vocab_size: int, length: int, conditional: bool) -> float:
    """The smallest inverse temperature at which everything is decoded, by bisection.

    Exhaustive for at most 4,000 sequences or maps; else by the one that the proof names as worst
    and twenty that differ from it in one place at most.
    """
    count = vocab_size ** (length * (vocab_size if conditional else 1))

    def decodes(beta: float) -> bool:
        options = {"inverse_temperature": beta, "beyond_bounds": True}
        if conditional:
            speaker = conditional_generator(vocab_size, length, **options)  # type: ignore[arg-type]
            maps = (
                measuring.all_maps(vocab_size, length)
                if count <= 4000
                else hardest_maps(vocab_size, length)
            )
            return not measuring.wrong_answers(speaker, maps).any()
        plain = unconditional_generator(vocab_size, length, **options)  # type: ignore[arg-type]
        sequences = (
            measuring.all_sequences(vocab_size, length)
            if count <= 4000
            else hardest_sequences(vocab_size, length)
        )
        return not measuring.wrong_symbols(plain, sequences).any()

    high = bounds.least_inverse_temperature(vocab_size, 2 * length if conditional else length)
    return smallest_temperature(decodes, high - 2, high)


def hardest_sequences(vocab_size: int, length: int) -> Tensor:
    """Zeros with ``V - 1`` at the end, and the same with one symbol changed."""
    worst = torch.zeros(length, dtype=torch.int64)
    worst[-1] = vocab_size - 1
    others = worst.repeat(20, 1)
    rows = torch.arange(20)
    others[rows, rows % length] = (rows * 7) % vocab_size
    return torch.cat((worst[None], others))


def hardest_maps(vocab_size: int, length: int) -> Tensor:
    """Maps that answer every prompt with one of the hardest sequences."""
    return hardest_sequences(vocab_size, length)[:, None].repeat(1, vocab_size, 1)


def _distance(number: float, whole: int, units: int) -> float:
    """``|number * units - whole|`` for a float64 and large integers, rounded once at the end."""
    numerator, denominator = number.as_integer_ratio()
    return abs(numerator * units - whole * denominator) / denominator


check_public(__name__)

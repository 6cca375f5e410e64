r"""Does self-attention escape if every position has a head of its own?

With heads :math:`u_1, \dots, u_T` the score of an aligned bag is
:math:`\tfrac1T \sum_t b_t\, \mu(v_t)` with :math:`b_t = \langle u_t, a_y\rangle`, where :math:`v_t`
is 1 on the relevant set ``R`` and :math:`-\Delta` (or 0) elsewhere. It depends on ``R`` through
:math:`S_R = \sum_{t\in R} b_t` alone:

.. math::

    T f_0(R) &= (\mu_0(1) - \zeta)\, S_R + \zeta \textstyle\sum_t b_t, \\
    T f_\Delta(R) &= (\mu(1) - \mu(-\Delta))\, S_R + \mu(-\Delta) \textstyle\sum_t b_t .

An adversary who chooses ``R`` takes the ``m`` largest or the ``m`` smallest :math:`b_t`; averaged
over ``R`` the scores are those of one shared head. Hence: not against an adversary, but yes against
chance, see :func:`escaping_heads`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public, whole_number
from promptlib.prompt_attention.expressivity import aligned_reading, self_attention_threshold

__all__ = [
    "PositionalScores",
    "escape_errors",
    "escaping_accuracy",
    "escaping_heads",
    "positional_accuracy",
    "positional_scores",
    "search_worst_case",
    "worst_case",
    "worst_cases",
]

SIZES = [(3, 1), (5, 2), (7, 5), (11, 3)]
"""Tokens and relevant tokens of the bags that a head for each position is tried on."""
STARTS, STEPS = 128, 150
"""Of that search."""


class PositionalScores(NamedTuple):
    """The scores of one label at the two deviations."""

    core: Tensor  # At δ = (0, 0)
    strayed: Tensor  # At δ = (Δ, Δ)


def positional_scores(
    readouts: Tensor, chosen: Tensor, c: Tensor, deviation: float, sparsity: float
) -> PositionalScores:
    r"""Scores of aligned bags from the sum of the readouts over the relevant set.

    Shapes: readouts (..., T), c (...).
    """
    total, count = readouts.sum(dim=-1), readouts.shape[-1]
    scores = []
    for size in (0.0, deviation):
        relevant = aligned_reading(1.0, c, size, sparsity)
        irrelevant = aligned_reading(-size, c, size, sparsity)
        scores.append(((relevant - irrelevant) * chosen + irrelevant * total) / count)
    return PositionalScores(*scores)


def worst_case(readouts: Tensor, c: Tensor, deviation: float, relevant_tokens: int) -> Tensor:
    r"""The smaller score of the two deviations, after an adversary chose ``R`` for each.

    Shapes: readouts (..., T), c (...) -> (...).
    """
    count = readouts.shape[-1]
    if not 1 <= relevant_tokens < count:
        raise ValueError(f"relevant_tokens must lie in 1..{count - 1}, got {relevant_tokens}")
    ordered = readouts.sort(dim=-1).values
    extremes = (ordered[..., :relevant_tokens], ordered[..., -relevant_tokens:])
    scores = [
        score
        for extreme in extremes
        for score in positional_scores(
            readouts, extreme.sum(dim=-1), c, deviation, relevant_tokens / count
        )
    ]
    return torch.stack(scores).amin(dim=0)


def search_worst_case(
    deviation: float,
    tokens: int,
    relevant_tokens: int,
    *,
    restarts: int,
    steps: int,
    generator: torch.Generator,
) -> float:
    """The best worst case that Adam finds over heads and ``c``, relative to the largest readout."""
    # Half of the starts are heads that nearly agree, where a shared head would live.
    spread = torch.logspace(-3, 0, restarts, dtype=torch.float64)[:, None]
    readouts = (1 + 3 * spread * _normal(generator, restarts, tokens)).requires_grad_()
    logits = _normal(generator, restarts)
    decades = 2 * torch.rand(restarts, generator=generator, dtype=torch.float64) - 1
    scale = 10**decades / (1 + deviation)
    logits.requires_grad_()
    optimiser = torch.optim.Adam((readouts, logits), lr=0.05)
    best = -float("inf")
    for step in range(steps + 1):
        worst = worst_case(readouts, scale * logits, deviation, relevant_tokens)
        relative = worst / readouts.abs().amax(dim=-1)
        best = max(best, float(relative.detach().max()))
        if step < steps:
            optimiser.zero_grad()
            (-relative.sum()).backward()
            optimiser.step()
    return best


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def positional_accuracy(
    readouts: Tensor, c: float, deviation: float, relevant_tokens: int
) -> float:
    """The exact accuracy of one label when ``R`` is uniform, by going through every ``R``.

    Shapes: readouts (T,).
    """
    count = readouts.shape[-1]
    sets = torch.tensor(list(combinations(range(count), relevant_tokens)))
    chosen = readouts[sets].sum(dim=-1)
    logit = torch.full_like(chosen, c)
    scores = positional_scores(readouts, chosen, logit, deviation, relevant_tokens / count)
    threshold = 1e-9 * readouts.abs().max()  # a tie counts as wrong
    right = torch.stack([score > threshold for score in scores])
    return float(right.double().mean())


def escaping_heads(tokens: int, raised: int) -> Tensor:
    r"""Readouts that beat chance when the relevant set is uniform, for every Δ and c > 0.

    :math:`b = (T-k, \dots, T-k, -k, \dots, -k)`, the first number ``k`` times, sums to zero, so
    both scores are a positive factor times :math:`S_R`. With ``j`` relevant tokens among the first
    ``k`` that is :math:`jT - km`, so the scores are right exactly when :math:`j > k\zeta`.

    Shape (T,).
    """
    whole_number("tokens", tokens, at_least=2)
    whole_number("raised", raised, at_least=1, at_most=tokens - 1)
    readouts = torch.full((tokens,), -float(raised), dtype=torch.float64)
    readouts[:raised] = tokens - raised
    return readouts


def escaping_accuracy(tokens: int, relevant_tokens: int, raised: int) -> float:
    r"""How often the heads of :func:`escaping_heads` are right when the relevant set is uniform.

    The probability that a hypergeometric variable, relevant tokens among the first ``k``, is above
    :math:`k\zeta`: it is :math:`\zeta` for ``k = 1`` and :math:`1-\zeta` for ``k = T - 1``.
    """
    whole_number("tokens", tokens, at_least=2)
    whole_number("relevant_tokens", relevant_tokens, at_least=1, at_most=tokens)
    whole_number("raised", raised, at_least=1, at_most=tokens - 1)
    right = sum(
        comb(raised, found) * comb(tokens - raised, relevant_tokens - found)
        for found in range(min(raised, relevant_tokens) + 1)
        if found * tokens > raised * relevant_tokens
    )
    return right / comb(tokens, relevant_tokens)


def worst_cases(
    seed: int,
    restarts: int = STARTS,
    steps: int = STEPS,
    search: Callable[..., float] = search_worst_case,
    excess: float = 1.01,
) -> list[float]:
    """Remark to c: one head for each position, against an adversary who places the tokens."""
    generator = torch.Generator().manual_seed(seed)
    values = [
        search(
            excess * self_attention_threshold(chosen / count),
            count,
            chosen,
            restarts=restarts,
            steps=steps,
            generator=generator,
        )
        for count, chosen in SIZES
    ]
    return values


def escape_errors(
    heads: Callable[[int, int], Tensor] = escaping_heads,
    accuracy: Callable[..., float] = positional_accuracy,
) -> list[float]:
    """Remark to c, its limit: with a random relevant set a head for each position does help."""
    errors = [
        accuracy(heads(count, raised), c, size, chosen) - escaping_accuracy(count, chosen, raised)
        for count, chosen in ((3, 1), (5, 2), (7, 3), (7, 5), (11, 3))
        for raised in range(1, count)
        for c in (0.01, 1.0)
        for size in (0.5, 500.0)
    ]
    return errors


check_public(__name__)

"""On which instances are the claims checked? Random discrete mixtures, and every case of each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import Bags, ContextualMixture

TOLERANCE = 1e-10
"""What float64 rounding may amount to in an identity."""
SPARSITIES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6, 0.7, 0.9)
"""Where the thresholds are tried."""

POINTS = (
    ContextualMixture(6, 20, 0.3, 1.2, 0.8, 0.7),
    ContextualMixture(5, 10, 0.1, 1.5, 1.2, 1.0),
    ContextualMixture(6, 10, 0.3, 1.2, 0.8, 0.7, 0.5),
    ContextualMixture(
        5, 10, 0.2, 1.3, 0.8, 0.9, -0.4, ((0.0, 0.0), (2.0, 0.5), (1.0, -0.7)), (0.5, 0.2, 0.3)
    ),
    ContextualMixture(7, 8, 0.25, 1.0, 1.0, 0.6, 0.0, ((0.0, 0.0), (1.0, 1.0))),
)
"""Core, sparse, oblique, oblique with three deviations, and the deviations of result A1."""


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal draws of the given shape, in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_mixtures(
    generator: torch.Generator, count: int, deviations: int = 3, spread: float = 2.0
) -> Iterator[ContextualMixture]:
    """Random discrete mixtures: dimension, bag, norms, angle and deviations all drawn."""
    for _ in range(count):
        dim, tokens = (int(torch.randint(2, 14, (), generator=generator)) for _ in range(2))
        relevant = int(torch.randint(1, tokens, (), generator=generator))
        norms = 0.5 + torch.rand(3, generator=generator, dtype=torch.float64)
        pairs = spread * normal(generator, deviations, 2)
        yield ContextualMixture(
            dim,
            tokens,
            relevant / tokens,
            context_norm=float(norms[0]),
            signal_norm=float(norms[1]),
            cosine=float(1.8 * (norms[2] - 1)),
            deviations=tuple((abs(float(first)), float(second)) for first, second in pairs),
        )


def cell(
    share: float, deviations: tuple[tuple[float, float], ...], cosine: float
) -> ContextualMixture:
    """A small discrete mixture of 20 tokens; `share` is a multiple of 1/20."""
    return ContextualMixture(3, 20, share, cosine=cosine, deviations=deviations)


def every_case(
    mixture: ContextualMixture, generator: torch.Generator, copies: int = 3
) -> tuple[Bags, Tensor]:
    """Bags of every case (y, δ), a few of each with random relevant sets, and their case."""
    count = len(mixture.deviations)
    case = torch.arange(2 * count).repeat(copies)  # the order of Population.of
    labels = torch.where(case < count, 1.0, -1.0).to(mixture.dtype)
    ranks = torch.rand(len(case), mixture.tokens, generator=generator).argsort(dim=1)
    relevant = ranks < mixture.relevant_tokens
    tokens = mixture.compose(labels, relevant, mixture.deviation_table[case % count])
    return Bags(tokens, labels, relevant), case


def share_right(scores: Tensor, labels: Tensor) -> float:
    """The share of scores with the strict sign of their label."""
    return float((scores * labels > 0).double().mean())


check_public(__name__)

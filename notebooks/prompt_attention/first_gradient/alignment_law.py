r"""How do the first two steps end in thousands of dimensions, without drawing the tokens?

A bag's irrelevant tokens matter through their components along the first head. In the other
:math:`d - 1` directions the prompt's noise is a sum of independent normal vectors whose weights
those components decide. So the exact law of both cosines costs one number a token, whatever the
width.

With :math:`a_t = \langle w_1, x_t - \bar x \rangle` and the residual
:math:`\varepsilon = y - \langle w_1, \bar x \rangle`, one bag adds
:math:`\frac{\varepsilon}{T} \sum_t a_t x_t` to the prompt (the :math:`a_t` sum to zero). The
relevant tokens' share of it lies in the plane of :math:`q_\star` and :math:`w_\star`; in every
direction orthogonal to :math:`w_1` the noise of irrelevant tokens adds a normal number, with
variance :math:`\frac{\varepsilon^2\sigma^2}{T^2} \sum_{t \notin R} a_t^2`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import require_core
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = ["alignment_by_law"]

CACHED = 2**17
"""Numbers drawn at a time: what a processor keeps at hand."""


def alignment_by_law(
    mixture: ContextualMixture, n: int, eta: float, runs: int, generator: torch.Generator
) -> Tensor:
    r"""Cosines of the first two iterates with their targets, from their exact law.

    The same law as `alignment.measured_alignment`, at a cost
    that does not grow with the width. Core model, :math:`\rho = 0`. Source: this book.

    Shape (runs, 2).
    """
    require_core(mixture)
    if mixture.dim < 4:
        raise ValueError(f"the law needs a direction beside three, so dim >= 4, got {mixture.dim}")
    if n < 1 or runs < 1:
        raise ValueError(f"n and runs must be at least 1, got {n} and {runs}")
    at_once = max(1, CACHED // (n * mixture.tokens + 2 * mixture.dim))
    parts = [
        _some_runs(mixture, n, eta, min(at_once, runs - begin), generator)
        for begin in range(0, runs, at_once)
    ]
    return torch.cat(parts)


def _some_runs(
    mixture: ContextualMixture, n: int, eta: float, runs: int, generator: torch.Generator
) -> Tensor:
    """:func:`alignment_by_law` for so many runs that their numbers fit into memory at once."""
    tokens, relevant = mixture.tokens, mixture.relevant_tokens
    share, context, signal = mixture.sparsity, mixture.context_norm, mixture.signal_norm
    std = mixture.noise_std
    # Step 1. The head: context, signal, and the length of the rest.
    noise = std * math.sqrt((1 - share) / (tokens * n))
    head = noise * _normal(generator, runs, 3)
    head[:, 0] += share * context * _labels(generator, runs, n).mean(1)
    head[:, 1] += share * signal
    head[:, 2] = noise * _chi_square(mixture.dim - 2, runs, generator).sqrt()
    head *= eta
    length = head.norm(dim=1, keepdim=True)  # (runs, 1)
    towards = head / length
    # Step 2, on fresh bags, in the basis of context, signal and the head's rest.
    labels = _labels(generator, runs, n)
    heading = context * head[:, :1] + signal * labels * head[:, 1:2]  # (runs, n), relevant tokens
    others = (std * length)[..., None] * _normal(generator, runs, n, tokens - relevant)
    mean = share * heading + others.sum(2) / tokens
    residual = labels - mean
    at_relevant = relevant * residual * (heading - mean)
    at_others = others - mean[..., None]
    inside = torch.zeros(runs, 3, dtype=torch.float64)
    inside[:, 0] = context * at_relevant.sum(1)
    inside[:, 1] = signal * (at_relevant * labels).sum(1)
    along = (residual * (at_others * others).sum(2)).sum(1, keepdim=True) / length
    spread = std * (residual * at_others.square().sum(2).sqrt()).norm(dim=1, keepdim=True)
    across = spread * _normal(generator, runs, 3)
    across -= (across * towards).sum(1, keepdim=True) * towards
    inside += along * towards + across
    outside = spread[:, 0].square() * _chi_square(mixture.dim - 3, runs, generator)
    return torch.stack(
        (towards[:, 1], inside[:, 0] / (inside.square().sum(1) + outside).sqrt()), dim=1
    )


def _labels(generator: torch.Generator, runs: int, n: int) -> Tensor:
    return 2.0 * torch.randint(0, 2, (runs, n), generator=generator).double() - 1.0


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _chi_square(freedom: int, runs: int, generator: torch.Generator) -> Tensor:
    return _normal(generator, runs, freedom).square().sum(1)


check_public(__name__)

r"""How do the first two steps end in thousands of dimensions, without drawing the tokens?

A bag's tokens matter through their components in the plane of context and signal and along the
noise of the first head. In the other :math:`d - 3` directions the prompt is a sum of independent
normal vectors whose weights those components decide. So the exact law of both cosines costs three
numbers a token, whatever the width.

With :math:`a_t = \langle w_1, x_t - \bar x \rangle` and the residual
:math:`\varepsilon = y - \langle w_1, \bar x \rangle`, one bag adds
:math:`\frac{\varepsilon}{T} \sum_t a_t x_t` to the prompt (the :math:`a_t` sum to zero). In a
direction orthogonal to :math:`q_\star, w_\star, w_1` only the noise of irrelevant tokens is left,
with variance :math:`\frac{\varepsilon^2\sigma^2}{T^2} \sum_{t \notin R} a_t^2`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import require_core
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = ["alignment_by_law"]


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
    tokens, relevant = mixture.tokens, mixture.relevant_tokens
    share, context, signal = mixture.sparsity, mixture.context_norm, mixture.signal_norm
    std = mixture.noise_std
    cosines = torch.empty(runs, 2, dtype=torch.float64)
    for run in range(runs):
        labels = _labels(n, generator)
        # Step 1. The head: context, signal, and the length of the rest.
        noise = std * math.sqrt((1 - share) / (tokens * n))
        head = noise * _normal(generator, 3)
        head[0] += share * context * labels.mean()
        head[1] += share * signal
        head[2] = noise * _chi_square(mixture.dim - 2, generator).sqrt()
        head *= eta
        cosines[run, 0] = head[1] / head.norm()
        # Step 2, on fresh bags, in the basis of context, signal and the head's rest.
        labels = _labels(n, generator)
        heading = torch.stack(
            (torch.full_like(labels, context), signal * labels, torch.zeros_like(labels)), dim=1
        )  # (n, 3), the relevant token
        others = std * _normal(generator, n, tokens - relevant, 3)
        mean = share * heading + others.sum(1) / tokens
        residual = labels - mean @ head
        at_relevant = (heading - mean) @ head  # (n,)
        at_others = others @ head - (mean @ head)[:, None]  # (n, N)
        along = relevant * at_relevant[:, None] * heading + (at_others[..., None] * others).sum(1)
        inside = residual @ along / (tokens * n)  # (3,)
        variance = (std / (tokens * n)) ** 2 * (residual.square() @ at_others.square().sum(1))
        outside = variance * _chi_square(mixture.dim - 3, generator)
        cosines[run, 1] = inside[0] / (inside.square().sum() + outside).sqrt()
    return cosines


def _labels(n: int, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, (n,), generator=generator).double() - 1.0


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _chi_square(freedom: int, generator: torch.Generator) -> Tensor:
    return _normal(generator, freedom).square().sum()


check_public(__name__)

"""What would refute what the book says of its data? The claims, and what they are judged by.

Every measurement takes the implementation under test, so that a test can hand over a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from notebooks.prompt_attention.contextual_mixture import reach
from promptlib import claims
from promptlib.attention import attend
from promptlib.claims import HERE
from promptlib.prompt_attention import bag_moments
from promptlib.prompt_attention.deviations import Comparison
from promptlib.prompt_attention.instances import POINTS, normal
from promptlib.prompt_attention.mixture import ContextualMixture

ROWS = (
    claims.Identity(
        "readout-is-a-gradient",
        "What a prompt $q$ reads from a bag is $\\nabla K_X(q)$ with $K_X(q) = "
        "\\log\\frac1T\\sum_t e^{\\langle q, x_t\\rangle}$: the mean token at $q = 0$, and the "
        "covariance $S_X$ is its slope there.",
        tolerance=1e-12,
        source=HERE,
        checks=reach.query_readout,
    ),
    claims.Identity(
        "prompts-as-keys",
        "Prompts that are also keys and values disturb the frozen rows: every output becomes "
        "$(1-\\alpha_i)\\,o_i$ plus a mix of the prompt values, with $\\alpha_i > 0$.",
        tolerance=1e-12,
        source=HERE,
        checks=attend,
    ),
    claims.Estimate(
        "bag-statistics",
        "The label shows in the mean token as $E[y\\bar x] = "
        "(\\zeta-(1-\\zeta)E\\delta_w)\\,w^\\star$ and in the covariance as a multiple of "
        "$q^\\star w^{\\star\\top} + w^\\star q^{\\star\\top}$: the covariance knows the context.",
        max_deviation=lambda met: met.chance,
        source=HERE,
        checks=bag_moments.signed_covariance,
    ),
    claims.Estimate(
        "low-rank-reach",
        "Through a random frozen head of width $k$ a prompt reaches the share $k/d$ of a "
        "context's squared length, on average.",
        max_deviation=lambda met: met.chance,
        source=HERE,
        checks=reach.prompt_for_query,
    ),
)


def measure(seed: int, samples: int, layers: int) -> dict[str, Any]:
    """What each row is judged by."""
    return {
        "readout-is-a-gradient": readout_errors(seed),
        "prompts-as-keys": errors_of_joined_rows(seed),
        "bag-statistics": signed_moments(seed, samples),
        "low-rank-reach": shares_reached(seed, layers),
    }


def readout_errors(
    seed: int,
    instances: int = 50,
    readout: Callable[[Tensor, Tensor], Tensor] = reach.query_readout,
) -> Tensor:
    """The readout against the gradient and the Hessian of the cumulant function, by autograd."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        tokens, q = normal(generator, 7, 5), normal(generator, 5)
        query = q.clone().requires_grad_()
        (slope,) = torch.autograd.grad(reach.cumulant(tokens, query), query)
        errors.append((readout(tokens, q) - slope).abs().max())
        hessian = torch.autograd.functional.hessian(
            lambda v, tokens=tokens: reach.cumulant(tokens, v), torch.zeros_like(q)
        )
        centred = tokens - tokens.mean(0)
        errors.append((hessian - centred.T @ centred / len(tokens)).abs().max())
        errors.append((readout(tokens, torch.zeros_like(q)) - tokens.mean(0)).abs().max())
    return torch.stack(errors)


def errors_of_joined_rows(
    seed: int, instances: int = 50, attention: Callable[..., tuple[Tensor, Tensor]] = attend
) -> Tensor:
    """Prompts that are keys too: what the frozen rows become."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        queries, keys, values = (normal(generator, 6, 4) for _ in range(3))
        prompt_keys, prompt_values = normal(generator, 2, 4), normal(generator, 2, 4)
        frozen, _ = attend(queries, keys, values)
        joined, weights = attention(queries, keys, values, prompt_keys, prompt_values)
        lost = weights[:, :2].sum(-1, keepdim=True)
        expected = (1 - lost) * frozen + weights[:, :2] @ prompt_values
        errors.append((joined - expected).abs().max())
        errors.append((lost <= 0).double().max())  # every row gives something away
    return torch.stack(errors)


def signed_moments(
    seed: int,
    samples: int,
    mean: Callable[[ContextualMixture], Tensor] = bag_moments.signed_mean,
    covariance: Callable[[ContextualMixture], Tensor] = bag_moments.signed_covariance,
) -> Comparison:
    """The label's part in the mean and in the covariance of a bag, against drawn bags."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for mixture in POINTS:
        bags = mixture.sample(samples, generator)
        average = bags.tokens.mean(1)
        centred = bags.tokens - average[:, None]
        spread = centred.mT @ centred / mixture.tokens  # (n, d, d)
        upper = torch.triu_indices(mixture.dim, mixture.dim)
        for predicted, values in (
            (mean(mixture), average),
            (covariance(mixture)[*upper], spread[:, *upper]),
        ):
            signed = bags.labels[:, None] * values
            rows.append((predicted, signed.mean(0), signed.std(0) / math.sqrt(samples)))
    return Comparison.of(rows)


def shares_reached(
    seed: int,
    layers: int = 400,
    dim: int = 24,
    widths: tuple[int, ...] = (3, 6, 12),
    solve: Callable[..., reach.Reach] = reach.prompt_for_query,
) -> Comparison:
    """How much of a context prompts reach through one narrow head, over random layers."""
    generator = torch.Generator().manual_seed(seed)
    context = ContextualMixture(dim, 10, 0.1).context
    rows = []
    for width in widths:
        W_Q, W_K = normal(generator, layers, dim, width), normal(generator, layers, dim, width)
        squared = solve(W_Q, W_K, context).cosine.square()
        rows.append((width / dim, squared.mean(), squared.std() / math.sqrt(layers)))
    return Comparison.of(rows)

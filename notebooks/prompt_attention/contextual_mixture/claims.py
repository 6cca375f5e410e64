"""What would refute the chapter *The contextual mixture*? Its claims, one function each.

Every function takes the implementation under test as an argument, so that a test can hand over a
wrong one and see the claim fail, and draws from the seed that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.prompt_attention.contextual_mixture import reach
from promptlib import claims
from promptlib.attention import attend
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention import bag_moments
from promptlib.prompt_attention.deviations import largest_deviation
from promptlib.prompt_attention.instances import BOOK, POINTS
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = ["bag_statistics", "low_rank_reach", "prompts_as_keys", "readout_is_a_gradient"]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def readout_is_a_gradient(
    seed: int,
    instances: int = 50,
    readout: Callable[[Tensor, Tensor], Tensor] = reach.query_readout,
) -> Claim:
    """The readout against the gradient and the Hessian of the cumulant function, by autograd."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        tokens, q = _normal(generator, 7, 5), _normal(generator, 5)
        query = q.clone().requires_grad_()
        (slope,) = torch.autograd.grad(reach.cumulant(tokens, query), query)
        errors.append((readout(tokens, q) - slope).abs().max())
        hessian = torch.autograd.functional.hessian(
            lambda v, tokens=tokens: reach.cumulant(tokens, v), torch.zeros_like(q)
        )
        centred = tokens - tokens.mean(0)
        errors.append((hessian - centred.T @ centred / len(tokens)).abs().max())
        errors.append((readout(tokens, torch.zeros_like(q)) - tokens.mean(0)).abs().max())
    return claims.identity(
        "prompt-attention/readout-is-a-gradient",
        "What a prompt $q$ reads from a bag is $\\nabla K_X(q)$ with "
        "$K_X(q) = \\log\\frac1T\\sum_t e^{\\langle q, x_t\\rangle}$: the mean token at $q = 0$, "
        "and the "
        "covariance $S_X$ is its slope there.",
        errors=torch.stack(errors),
        tolerance=1e-12,
        source=BOOK,
        checks=reach.query_readout,
    )


def prompts_as_keys(
    seed: int, instances: int = 50, attention: Callable[..., tuple[Tensor, Tensor]] = attend
) -> Claim:
    """Prompts that are keys too: what the frozen rows become."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        queries, keys, values = (_normal(generator, 6, 4) for _ in range(3))
        prompt_keys, prompt_values = _normal(generator, 2, 4), _normal(generator, 2, 4)
        frozen, _ = attend(queries, keys, values)
        joined, weights = attention(queries, keys, values, prompt_keys, prompt_values)
        lost = weights[:, :2].sum(-1, keepdim=True)
        expected = (1 - lost) * frozen + weights[:, :2] @ prompt_values
        errors.append((joined - expected).abs().max())
        errors.append((lost <= 0).double().max())  # every row gives something away
    return claims.identity(
        "prompt-attention/prompts-as-keys",
        "Prompts that are also keys and values disturb the frozen rows: every output becomes "
        "$(1-\\alpha_i)\\,o_i$ plus a mix of the prompt values, with $\\alpha_i > 0$.",
        errors=torch.stack(errors),
        tolerance=1e-12,
        source=BOOK,
        checks=attend,
    )


def bag_statistics(
    seed: int,
    samples: int,
    mean: Callable[[ContextualMixture], Tensor] = bag_moments.signed_mean,
    covariance: Callable[[ContextualMixture], Tensor] = bag_moments.signed_covariance,
) -> Claim:
    """The label's part in the mean and in the covariance of a bag, against drawn bags."""
    generator = torch.Generator().manual_seed(seed)
    formula, measured, errors = [], [], []
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
            formula.append(predicted)
            measured.append(signed.mean(0))
            errors.append(signed.std(0) / math.sqrt(samples))
    return claims.estimate(
        "prompt-attention/bag-statistics",
        "The label shows in the mean token as $E[y\\bar x] = "
        "(\\zeta-(1-\\zeta)E\\delta_w)\\,w^\\star$ and in "
        "the covariance as a multiple of $q^\\star w^{\\star\\top} + w^\\star q^{\\star\\top}$: "
        "the covariance "
        "knows the context.",
        formula=torch.cat(formula),
        measured=torch.cat(measured),
        standard_errors=torch.cat(errors),
        source=BOOK,
        checks=bag_moments.signed_covariance,
        max_deviation=largest_deviation(sum(len(part) for part in formula)),
    )


def low_rank_reach(
    seed: int,
    layers: int = 400,
    dim: int = 24,
    widths: tuple[int, ...] = (3, 6, 12),
    solve: Callable[..., reach.Reach] = reach.prompt_for_query,
) -> Claim:
    """How much of a context prompts reach through one narrow head, over random layers."""
    generator = torch.Generator().manual_seed(seed)
    context = ContextualMixture(dim, 10, 0.1).context
    measured, errors = [], []
    for width in widths:
        W_Q, W_K = _normal(generator, layers, dim, width), _normal(generator, layers, dim, width)
        squared = solve(W_Q, W_K, context).cosine.square()
        measured.append(squared.mean())
        errors.append(squared.std() / math.sqrt(layers))
    return claims.estimate(
        "prompt-attention/low-rank-reach",
        "Through a random frozen head of width $k$ a prompt reaches the share $k/d$ of a "
        "context's squared "
        "length, on average.",
        formula=[width / dim for width in widths],
        measured=measured,
        standard_errors=errors,
        source=BOOK,
        checks=reach.prompt_for_query,
        max_deviation=largest_deviation(len(widths)),
    )


check_public(__name__)

"""Claims about the attention on the relevant tokens."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.prompt_attention.first_gradient.instances import PAPER
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention import mass
from promptlib.prompt_attention.deviations import largest_deviation
from promptlib.prompt_attention.instances import BOOK
from promptlib.prompt_attention.mixture import ContextualMixture


def finite_tokens(
    seed: int,
    samples: int,
    moments: Callable[..., tuple[Tensor, Tensor]] = mass.attention_moments,
) -> Claim:
    """The exact mean mass and the mean squared weights against drawn bags."""
    generator = torch.Generator().manual_seed(seed)
    formula, measured, errors = [], [], []
    for tokens, share, norm, std in ((5, 0.2, 1.5, 1.0), (20, 0.1, 2.0, 1.0), (50, 0.3, 1.0, 0.7)):
        mixture = ContextualMixture(2, tokens, share, norm, 1.0, std)
        scales = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64) / std**2
        prompts = scales[:, None] * mixture.context
        predicted = moments(tokens, share, scales * norm**2, scales * norm * std)
        bags = mixture.sample(samples, generator)
        attention = torch.softmax(bags.tokens @ prompts.T, dim=1)  # (n, T, scales)
        here = bags.relevant[:, :, None]
        for expected, values in (
            (predicted[0], (attention * here).sum(1)),
            (predicted[1], (attention.square() * ~here).sum(1)),
        ):
            formula.append(expected)
            measured.append(values.mean(0))
            errors.append(values.std(0) / math.sqrt(samples))
    return claims.estimate(
        "prompt-attention/attention-mass-finite-tokens",
        "The mean attention on the relevant tokens, and the mean of the squared weights "
        "elsewhere, are "
        "integrals of the Laplace transform of a lognormal variable, at every number of tokens.",
        formula=torch.cat(formula),
        measured=torch.cat(measured),
        standard_errors=torch.cat(errors),
        source=BOOK,
        checks=mass.attention_moments,
        max_deviation=largest_deviation(sum(len(part) for part in formula)),
    )


def limit_is_a_floor(
    seed: int,
    instances: int = 150,
    limit: Callable[..., Tensor] = mass.limiting_mass,
) -> Claim:
    """The mean mass falls with the number of tokens, towards the limit and never below."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(4, instances, generator=generator, dtype=torch.float64)
    share, norm = 0.05 + 0.9 * draws[0], 0.3 + 2.0 * draws[1]
    std, scale = 0.3 + 1.2 * draws[2], 2.0 * draws[3]
    tokens = torch.tensor([4.0, 16.0, 64.0, 1024.0], dtype=torch.float64)
    means = mass.attention_moments(
        tokens[:, None], share, scale * norm**2, (scale * norm * std).clamp_max(8.0)
    )[0]
    floor = limit(share, norm, std, scale)
    return claims.bound(
        "prompt-attention/attention-mass-floor",
        "At a fixed share of relevant tokens the mean attention on them falls with the number of "
        "tokens, "
        "and the limit of many tokens is a lower bound at every number.",
        values=torch.cat((means[1:], floor[None])),
        limits=means,
        source=BOOK,
        checks=mass.limiting_mass,
        search=f"{instances} random mixtures and scales, 4 to 1024 tokens",
        tolerance=1e-9,
    )


def excess_over_the_limit(
    seed: int,
    instances: int = 60,
    limit: Callable[..., Tensor] = mass.limiting_mass,
) -> Claim:
    """How far above the limit the mean mass can be: the floor is sharp."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(4, instances, generator=generator, dtype=torch.float64)
    share, norm = 0.05 + 0.9 * draws[0], 0.3 + 1.2 * draws[1]
    spread = 1.5 * draws[2]  # κQσ, the standard deviation of an irrelevant logit
    std = 0.3 + 1.2 * draws[3]
    scale = spread / (norm * std)
    tokens = torch.tensor([4.0, 64.0, 1024.0, 16384.0], dtype=torch.float64)[:, None]
    means = mass.attention_moments(tokens, share, scale * norm**2, spread)[0]
    floor = limit(share, norm, std, scale)
    others = (1 - share) * tokens
    return claims.bound(
        "prompt-attention/attention-mass-excess",
        "With $N$ irrelevant tokens the mean attention on the relevant ones exceeds the limit of "
        "many tokens by at most $(1-A_\\infty)^2\\,(e^{\\kappa^2Q^2\\sigma^2}-1)/N$.",
        values=means - floor,
        limits=(1 - floor) ** 2 * torch.expm1(spread**2) / others,
        source=BOOK,
        checks=mass.limiting_mass,
        search=f"{instances} random mixtures and scales, 4 to 16384 tokens",
        tolerance=1e-9,
    )


def best_scale(
    seed: int,
    instances: int = 200,
    best: Callable[..., tuple[Tensor, Tensor]] = mass.sharpest_scale,
) -> Claim:
    """No scale gives more mass than the best one, which gives exactly the predicted odds."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(4, instances, generator=generator, dtype=torch.float64)
    share, norm = 0.02 + 0.9 * draws[0], 0.3 + 2.0 * draws[1]
    std, away = 0.3 + 1.2 * draws[2], 2.0 * draws[3]
    scale, gain = best(norm, std, away)
    top = torch.sigmoid(torch.logit(share) + gain)
    reached = mass.limiting_mass(share, norm, std, scale, deviation=away)
    rivals = torch.linspace(-1.0, 4.0, 2001, dtype=torch.float64)[:, None] / std**2
    found = mass.limiting_mass(share, norm, std, rivals, deviation=away).amax(0)
    return claims.bound(
        "prompt-attention/attention-mass-best-scale",
        "For many tokens the attention on the relevant ones is largest at $\\kappa = "
        "(1+\\delta_q)/\\sigma^2$, "
        "where their odds are $\\frac{\\zeta}{1-\\zeta}\\exp((1+\\delta_q)^2Q^2/(2\\sigma^2))$.",
        values=torch.stack((found, top)),
        limits=torch.stack((top, reached)),
        source=PAPER,
        checks=mass.sharpest_scale,
        search=f"a grid of 2001 scales for each of {instances} random mixtures",
        tolerance=1e-12,
    )


def log_rule(
    seed: int,
    instances: int = 200,
    needed: Callable[..., Tensor] = mass.context_for_mass,
) -> Claim:
    """A context just shorter than the formula's fails at every scale, one just longer succeeds."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(3, instances, generator=generator, dtype=torch.float64)
    share = 10 ** (-4 * draws[0] - 0.4)
    std, wanted = 0.3 + 1.2 * draws[1], 0.5 + 0.49 * draws[2]
    norm = needed(share, std, wanted)
    scales = torch.linspace(0.0, 4.0, 4001, dtype=torch.float64)[:, None] / std**2
    short = mass.limiting_mass(share, norm * 0.999, std, scales).amax(0)
    long = mass.limiting_mass(share, norm * 1.001, std, scales).amax(0)
    return claims.bound(
        "prompt-attention/attention-mass-log-rule",
        "Some prompt puts the share $A$ of its attention on the relevant tokens exactly when "
        "$Q \\geq \\sigma\\sqrt{2\\log(\\frac{1-\\zeta}{\\zeta}\\frac{A}{1-A})}$: sparsity costs "
        "the root of a "
        "logarithm.",
        values=torch.stack((short, wanted)),
        limits=torch.stack((wanted, long)),
        source=PAPER,
        checks=mass.context_for_mass,
        search=f"a grid of 4001 scales for each of {instances} random sparsities from 0.4 to 4e-5, "
        "contexts 0.1 % shorter and longer",
    )


check_public(__name__)

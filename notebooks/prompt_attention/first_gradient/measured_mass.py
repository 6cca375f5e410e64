"""How far is the attention on the relevant tokens from what the formulas say?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from promptlib.prompt_attention import mass
from promptlib.prompt_attention.deviations import Comparison
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.sampled_descent import batches


def context_for_mass(
    sparsity: Tensor | float, noise_std: Tensor | float, wanted: Tensor | float = 0.5
) -> Tensor:
    r"""The shortest context with which some prompt puts the share `wanted` on relevant tokens.

    .. math:: Q = \sigma\sqrt{2\log\Bigl(\frac{1-\zeta}{\zeta}\cdot\frac{A}{1-A}\Bigr)}

    and zero where mean pooling already does. For :math:`T\to\infty`, core model,
    :math:`\rho = 0`. Sparse tokens cost only the root of a logarithm. Source: this book, after
    Oymak et al. 2023, contribution (2).
    """
    share = mass._number("sparsity", sparsity, above=0.0, below=1.0)
    std = mass._number("noise_std", noise_std, least=0.0)
    wanted = mass._number("wanted", wanted, above=0.0, below=1.0)
    return std * (2 * (torch.logit(wanted) - torch.logit(share)).clamp_min(0.0)).sqrt()


def measured_mass(
    mixture: ContextualMixture, q: Tensor, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The attention on the relevant tokens in `n` drawn bags: mean and standard error.

    Shapes: q (..., d) -> (...).
    """
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 bags, got n={n}")
    masses = []
    for bags in batches(mixture, n, generator):
        attention = torch.softmax(bags.tokens @ q.reshape(-1, mixture.dim).T, dim=1)  # (b, T, K)
        masses.append((attention * bags.relevant[:, :, None]).sum(1).double())
    values = torch.cat(masses)  # (n, K)
    shape = q.shape[:-1]
    return values.mean(0).reshape(shape), (values.std(0) / math.sqrt(n)).reshape(shape)


def moments_beside_bags(
    seed: int,
    samples: int,
    moments: Callable[..., tuple[Tensor, Tensor]] = mass.attention_moments,
) -> Comparison:
    """The exact mean mass and the mean squared weights against drawn bags."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
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
            rows.append((expected, values.mean(0), values.std(0) / math.sqrt(samples)))
    return Comparison.of(rows)


def floors(
    seed: int,
    instances: int = 150,
    limit: Callable[..., Tensor] = mass.limiting_mass,
) -> tuple[Tensor, Tensor]:
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
    return torch.cat((means[1:], floor[None])), means


def excesses(
    seed: int,
    instances: int = 60,
    limit: Callable[..., Tensor] = mass.limiting_mass,
) -> tuple[Tensor, Tensor]:
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
    return means - floor, (1 - floor) ** 2 * torch.expm1(spread**2) / others


def masses_by_scale(
    seed: int,
    instances: int = 200,
    best: Callable[..., tuple[Tensor, Tensor]] = mass.sharpest_scale,
) -> tuple[Tensor, Tensor]:
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
    return torch.stack((found, top)), torch.stack((top, reached))


def masses_by_context(
    seed: int,
    instances: int = 200,
    needed: Callable[..., Tensor] = context_for_mass,
) -> tuple[Tensor, Tensor]:
    """A context just shorter than the formula's fails at every scale, one just longer succeeds."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(3, instances, generator=generator, dtype=torch.float64)
    share = 10 ** (-4 * draws[0] - 0.4)
    std, wanted = 0.3 + 1.2 * draws[1], 0.5 + 0.49 * draws[2]
    norm = needed(share, std, wanted)
    scales = torch.linspace(0.0, 4.0, 4001, dtype=torch.float64)[:, None] / std**2
    short = mass.limiting_mass(share, norm * 0.999, std, scales).amax(0)
    long = mass.limiting_mass(share, norm * 1.001, std, scales).amax(0)
    return torch.stack((short, wanted)), torch.stack((wanted, long))

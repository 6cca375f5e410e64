"""Can self-attention, linear prompt-attention and mean pooling do it? Statements c, d and e."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.prompt_attention.softmax_separates import constructions
from notebooks.prompt_attention.softmax_separates.search import SearchResult, search_mixtures
from notebooks.prompt_attention.softmax_separates.threshold_map import CHALLENGES
from promptlib.prompt_attention import expressivity, models
from promptlib.prompt_attention.instances import (
    SPARSITIES,
    cell,
    every_case,
    normal,
    random_mixtures,
    share_right,
)
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.population import PLANE_MODELS, PlaneModel, aligned, mirrored


def attack(
    name: str,
    seed: int,
    restarts: int,
    steps: int,
    threshold: Callable[[float], float] | None = None,
    model: PlaneModel | None = None,
) -> SearchResult:
    """The best accuracy of a search just beyond a model's threshold and far, in 90 mixtures.

    Another threshold or another model can be put in the place of its own.
    """
    challenge = CHALLENGES[name]
    first = threshold or challenge.threshold
    assert first is not None
    cells = [
        cell(share, challenge.deviations(factor * first(share)), cosine=cosine)
        for share in SPARSITIES
        for factor in (1.001, 1.01, 1.1, 2.0, 10.0)
        for cosine in (0.0, -0.8)
    ]
    return search_mixtures(
        model or PLANE_MODELS[name],
        cells,
        restarts=restarts,
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
        label=f"attacking: {name}",
    )


def with_deviations(
    mixture: ContextualMixture, deviations: tuple[tuple[float, float], ...]
) -> ContextualMixture:
    """The mixture without noise and with other values of (δq, δw), equally likely."""
    return ContextualMixture(
        mixture.dim,
        mixture.tokens,
        mixture.sparsity,
        mixture.context_norm,
        mixture.signal_norm,
        cosine=mixture.cosine,
        deviations=deviations,
    )


def factor_errors(
    seed: int,
    instances: int = 60,
    gain: Callable[[Tensor, float, float], Tensor] = expressivity.aligned_gain,
    sign: Callable[[Tensor, float, float], Tensor] = expressivity.sign_function,
) -> Tensor:
    """Statement c, its algebra: the score on aligned bags, and the function that has its sign."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for mixture in random_mixtures(generator, instances, deviations=1):
        size = float(3 * torch.rand((), generator=generator))
        strayed = with_deviations(mixture, aligned(size))
        u, A = normal(generator, mixture.dim), 0.3 * normal(generator, mixture.dim, mixture.dim)
        bags, case = every_case(strayed, generator)
        heading = strayed.context + bags.labels[:, None] * strayed.signal  # a_y, (n, d)
        c = ((heading @ A) * heading).sum(dim=-1)
        factor = torch.stack([gain(c, 0.0, mixture.sparsity), gain(c, size, mixture.sparsity)])
        factor = factor.gather(0, (case % 2)[None])[0]
        score = models.self_attention(bags.tokens, u, A)
        errors.append((score - (heading @ u) * factor).abs().max())

        c = normal(generator, 20)
        x, odds = torch.exp((1 + size) * c), mixture.sparsity / (1 - mixture.sparsity)
        denominator = (1 + odds) * (1 + odds * x) * (odds + x**size)
        quotient = -sign(x, size, mixture.sparsity) / denominator
        errors.append((gain(c, size, mixture.sparsity) - quotient).abs().max())
    return torch.stack(errors)


def self_attention_below(
    seed: int,
    threshold: Callable[[float], float] = expressivity.self_attention_threshold,
    shortfall: float = 1e-3,
) -> list[float]:
    """Statement c, sharpness: the constructed weights just below the threshold."""
    generator = torch.Generator().manual_seed(seed)
    wrong = []
    for share in SPARSITIES:
        size = threshold(share) * (1 - shortfall)
        c = constructions.best_gain_argument(size, share)
        mixture = cell(share, aligned(size), cosine=0.5)
        bags, _ = every_case(mixture, generator)
        scores = models.self_attention(
            bags.tokens, *constructions.self_attention_weights(mixture, c)
        )
        wrong.append(1 - share_right(scores, bags.labels))
    return wrong


def aligned_gain_supremum(deviation: float, sparsity: float, points: int = 4001) -> float:
    r"""The supremum of :func:`aligned_gain` over c in [-∞, ∞], by a grid and golden sections.

    Slower than the convex function behind :func:`self_attention_threshold`, and independent of it.
    """
    grid = torch.linspace(-12.0, 12.0, points, dtype=torch.float64)
    limits = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    gain = expressivity.aligned_gain(grid.sinh() / (1 + deviation), deviation, sparsity)
    best = int(gain.argmax())
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, points - 1)])
    for _ in range(6):  # each pass narrows the bracket a hundredfold
        fine = torch.linspace(low, high, 201, dtype=torch.float64)
        gain = expressivity.aligned_gain(fine.sinh() / (1 + deviation), deviation, sparsity)
        best = int(gain.argmax())
        low, high = float(fine[max(best - 1, 0)]), float(fine[min(best + 1, 200)])
    return float(torch.cat((gain, expressivity.aligned_gain(limits, deviation, sparsity))).max())


def threshold_errors(
    threshold: Callable[[float], float] = expressivity.self_attention_threshold,
) -> list[float]:
    """Statement c, its number: the threshold from the convex function and from the definition."""
    errors = []
    for share in SPARSITIES:
        low, high = 0.5 * max(share / (1 - share), 1.0), 1.1 / min(share, 1 - share)
        for _ in range(40):
            middle = (low + high) / 2
            if aligned_gain_supremum(middle, share, points=801) < 0:
                high = middle
            else:
                low = middle
        errors.append(threshold(share) / high - 1)
    return errors


def bracket_sides(
    bracket: Callable[[float], tuple[float, float]] = expressivity.self_attention_bracket,
    points: int = 199,
) -> tuple[list[float], list[float]]:
    """Statement c, in closed form: the threshold between two simple functions."""
    shares = [(place + 1) / (points + 1) for place in range(points)]
    thresholds = [expressivity.self_attention_threshold(share) for share in shares]
    lower, upper = zip(*(bracket(share) for share in shares), strict=True)
    apart = [low / max(share, 1 - share) for low, share in zip(lower, shares, strict=True)]
    # The paper's form of the sufficient condition lies above ours.
    printed = [
        max((1 - share) ** -2 - 1, (1 - share + share**2) / (share * (1 - share)))
        for share in shares
    ]
    return [*lower, *thresholds, *upper, *upper], [*thresholds, *upper, *printed, *apart]


def linear_attention_around(
    seed: int,
    threshold: Callable[[float], float] = expressivity.linear_attention_threshold,
) -> tuple[list[float], list[float]]:
    """Statement d, sharpness: constructed weights just below the threshold, and beyond it."""
    generator = torch.Generator().manual_seed(seed)
    wrong, limits = [], []
    for share in SPARSITIES:
        for factor in (0.5, 0.999, 1.001, 10.0):
            size = factor * threshold(share)
            coupling = size**2 * (1 - share) / share
            ratio = 1.0 if factor < 1 else 0.5 / coupling
            mixture = cell(share, mirrored(size), cosine=0.5)
            bags, _ = every_case(mixture, generator)
            weights = constructions.linear_attention_weights(mixture, ratio)
            wrong.append(
                1 - share_right(models.linear_attention(bags.tokens, *weights), bags.labels)
            )
            limits.append(0.0 if factor < 1 else 0.25)
    return wrong, limits

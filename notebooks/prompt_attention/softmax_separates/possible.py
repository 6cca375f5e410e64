"""Can it be done? Statements a and b: the models that are perfect, and what noise does to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from notebooks.prompt_attention.softmax_separates import constructions
from promptlib.prompt_attention import expressivity, models
from promptlib.prompt_attention.instances import (
    every_case,
    normal,
    random_mixtures,
    share_right,
)
from promptlib.prompt_attention.mixture import ContextualMixture


def mean_pooling_errors(
    seed: int,
    instances: int = 100,
    head: Callable[[ContextualMixture], Tensor] = constructions.mean_pooling_head,
) -> Tensor:
    """Statement a: the constructed head's score on a mixture with one deviation."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for mixture in random_mixtures(generator, instances, deviations=1):
        bags, _ = every_case(mixture, generator)
        (_, delta_w), share = mixture.deviations[0], mixture.sparsity
        power = mixture.signal_only @ mixture.signal_only
        predicted = bags.labels * abs(share - (1 - share) * delta_w) * power
        errors.append((models.mean_pooling(bags.tokens, head(mixture)) - predicted).abs().max())
    return torch.stack(errors)


def prompt_score_errors(
    seed: int,
    instances: int = 100,
    model: Callable[..., Tensor] = models.prompt_attention,
) -> Tensor:
    """Statement b, its formula: the score of the constructed prompt."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for mixture in random_mixtures(generator, instances):
        scale = float(normal(generator)) * 2
        w, q = constructions.prompt_weights(mixture, scale)
        bags, case = every_case(mixture, generator)
        deviations = mixture.deviation_table.repeat(2, 1)[case]
        power = mixture.context_only @ mixture.context_only
        odds = mixture.sparsity / (1 - mixture.sparsity)
        odds_of_mass = odds * torch.exp(scale * power * (1 + deviations[:, 0]))
        mass = odds_of_mass / (1 + odds_of_mass)
        bracket = mass - (1 - mass) * deviations[:, 1]
        predicted = bags.labels * (w @ w) * bracket
        errors.append((model(bags.tokens, w, q) - predicted).abs().max())
    return torch.stack(errors)


def shares_wrong_beyond(
    seed: int,
    instances: int = 200,
    scale_bound: Callable[[ContextualMixture], float] = expressivity.prompt_scale_bound,
    excess: float = 1e-3,
) -> list[float]:
    """Statement b: the constructed prompt on many deviations, just beyond the scale's bound."""
    generator = torch.Generator().manual_seed(seed)
    wrong = [
        _share_wrong(mixture, _beyond(scale_bound(mixture), excess), generator)
        for mixture in random_mixtures(generator, instances, deviations=7, spread=100.0)
    ]
    return wrong


def shares_right_below(
    seed: int,
    instances: int = 200,
    scale_bound: Callable[[ContextualMixture], float] = expressivity.prompt_scale_bound,
) -> list[float]:
    """Statement b, the bound on the scale is the right one: just below it a case is wrong."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for mixture in random_mixtures(generator, instances, deviations=7, spread=100.0):
        if any(delta_w > 0 for _, delta_w in mixture.deviations):
            scale = scale_bound(mixture)
            values.append(_share_wrong(mixture, scale - 1e-3 * abs(scale), generator))
    return [-share for share in values]


def _beyond(scale: float, excess: float) -> float:
    """A finite scale, `excess` beyond a bound that may be negative infinity."""
    return scale + excess * abs(scale) if scale > -float("inf") else 0.0


def _share_wrong(mixture: ContextualMixture, scale: float, generator: torch.Generator) -> float:
    bags, _ = every_case(mixture, generator, copies=1)
    scores = models.prompt_attention(bags.tokens, *constructions.prompt_weights(mixture, scale))
    return 1 - share_right(scores, bags.labels)


def margins_by_scale(mixture: ContextualMixture, scales: Sequence[float]) -> Tensor:
    r"""The margin :math:`y f / |w_\perp|^2` of the constructed prompt, by scale and deviation.

    Shape (len(scales), len(mixture.deviations)).
    """
    count = len(mixture.deviations)
    relevant = torch.arange(mixture.tokens).expand(count, -1) < mixture.relevant_tokens
    tokens = mixture.compose(torch.ones(count), relevant, mixture.deviation_table)
    rows = []
    for scale in scales:
        w, q = constructions.prompt_weights(mixture, scale)
        rows.append(models.prompt_attention(tokens, w, q) / (w @ w))
    return torch.stack(rows)


class AccuracyByScale(NamedTuple):
    """Measured accuracies of one mixture."""

    mean: Tensor  # (scales,)
    standard_error: Tensor  # (scales,)


def accuracy_by_scale(
    mixture: ContextualMixture, scales: Sequence[float], n: int, generator: torch.Generator
) -> AccuracyByScale:
    r"""The accuracy of the head :math:`w_\perp` with the prompt :math:`\kappa q_\perp`."""
    if n < 2:
        raise ValueError(f"n must be at least 2 for a standard error, got {n}")
    bags = mixture.sample(n, generator)
    means = []
    for scale in scales:
        scores = models.prompt_attention(
            bags.tokens, mixture.signal_only, scale * mixture.context_only
        )
        means.append((scores * bags.labels > 0).double().mean())
    mean = torch.stack(means)
    return AccuracyByScale(mean, (mean * (1 - mean) / n).sqrt())

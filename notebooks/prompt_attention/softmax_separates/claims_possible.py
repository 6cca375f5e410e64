"""Can it be done? Claims about statements a and b: the models that are perfect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from notebooks.prompt_attention.softmax_separates import constructions
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention import expressivity, models
from promptlib.prompt_attention.instances import (
    BOOK,
    PAPER,
    TOLERANCE,
    every_case,
    normal,
    random_mixtures,
    share_right,
)
from promptlib.prompt_attention.mixture import ContextualMixture


def mean_pooling_one_deviation(
    seed: int,
    instances: int = 100,
    head: Callable[[ContextualMixture], Tensor] = constructions.mean_pooling_head,
) -> Claim:
    """Statement a: the constructed head's score on a mixture with one deviation."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for mixture in random_mixtures(generator, instances, deviations=1):
        bags, _ = every_case(mixture, generator)
        (_, delta_w), share = mixture.deviations[0], mixture.sparsity
        power = mixture.signal_only @ mixture.signal_only
        predicted = bags.labels * abs(share - (1 - share) * delta_w) * power
        errors.append((models.mean_pooling(bags.tokens, head(mixture)) - predicted).abs().max())
    return claims.identity(
        "prompt-attention/mean-pooling-one-deviation",
        "On one deviation the head $\\pm w_\\perp$ gives mean pooling the score "
        "$y\\,|\\zeta-(1-\\zeta)\\delta_w|\\,|w_\\perp|^2$: perfect unless "
        "$\\delta_w = \\zeta/(1-\\zeta)$.",
        errors=torch.stack(errors),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=constructions.mean_pooling_head,
    )


def prompt_score(
    seed: int,
    instances: int = 100,
    model: Callable[..., Tensor] = models.prompt_attention,
) -> Claim:
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
    return claims.identity(
        "prompt-attention/prompt-score",
        "With $q = \\kappa q_\\perp$ and $w = w_\\perp$ prompt-attention's score is "
        "$y|w_\\perp|^2[A-(1-A)\\delta_w]$, where the attention on the relevant tokens has the "
        "odds $A/(1-A) = \\frac{\\zeta}{1-\\zeta} e^{\\kappa|q_\\perp|^2(1+\\delta_q)}$.",
        errors=torch.stack(errors),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=models.prompt_attention,
    )


def prompt_attention_perfect(
    seed: int,
    instances: int = 200,
    scale_bound: Callable[[ContextualMixture], float] = expressivity.prompt_scale_bound,
    excess: float = 1e-3,
) -> Claim:
    """Statement b: the constructed prompt on many deviations, just beyond the scale's bound."""
    generator = torch.Generator().manual_seed(seed)
    wrong = [
        _share_wrong(mixture, _beyond(scale_bound(mixture), excess), generator)
        for mixture in random_mixtures(generator, instances, deviations=7, spread=100.0)
    ]
    return claims.bound(
        "prompt-attention/prompt-attention-is-perfect",
        "The constructed prompt, scaled 0.1 % beyond its bound, makes no mistake on any of seven "
        "deviations with $0 \\le \\delta_q$ and $|\\delta_w|$ up to several hundred.",
        values=wrong,
        limits=0.0,
        source=PAPER,
        checks=expressivity.prompt_scale_bound,
        search=f"{instances} random mixtures with 7 deviations each, every case (y, δ)",
    )


def prompt_scale_sharp(
    seed: int,
    instances: int = 200,
    scale_bound: Callable[[ContextualMixture], float] = expressivity.prompt_scale_bound,
) -> Claim:
    """Statement b, the bound on the scale is the right one: just below it a case is wrong."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for mixture in random_mixtures(generator, instances, deviations=7, spread=100.0):
        if any(delta_w > 0 for _, delta_w in mixture.deviations):
            scale = scale_bound(mixture)
            values.append(_share_wrong(mixture, scale - 1e-3 * abs(scale), generator))
    return claims.bound(
        "prompt-attention/prompt-scale-bound-is-sharp",
        "At 0.1 % below the bound on $\\kappa$ the constructed prompt gets at least one of the "
        "deviations wrong, for both labels.",
        values=[-share for share in values],
        limits=-1 / 7,
        tolerance=1e-9,
        source=BOOK,
        checks=expressivity.prompt_scale_bound,
        search=f"{len(values)} random mixtures in which some δw is positive",
    )


def _beyond(scale: float, excess: float) -> float:
    """A finite scale, `excess` beyond a bound that may be negative infinity."""
    return scale + excess * abs(scale) if scale > -float("inf") else 0.0


def _share_wrong(mixture: ContextualMixture, scale: float, generator: torch.Generator) -> float:
    bags, _ = every_case(mixture, generator, copies=1)
    scores = models.prompt_attention(bags.tokens, *constructions.prompt_weights(mixture, scale))
    return 1 - share_right(scores, bags.labels)


def margins_by_scale(mixture: ContextualMixture, scales: Sequence[float]) -> Tensor:
    r"""The margin :math:`y f / |w_\perp|^2` of the constructed prompt, by scale and deviation.

    Parameters
    ----------
    mixture : ContextualMixture
        Without noise.
    scales : sequence of float
        κ.

    Returns
    -------
    Tensor, shape (len(scales), len(mixture.deviations))
    """
    count = len(mixture.deviations)
    relevant = torch.arange(mixture.tokens).expand(count, -1) < mixture.relevant_tokens
    tokens = mixture.compose(torch.ones(count), relevant, mixture.deviation_table)
    rows = []
    for scale in scales:
        w, q = constructions.prompt_weights(mixture, scale)
        rows.append(models.prompt_attention(tokens, w, q) / (w @ w))
    return torch.stack(rows)


check_public(__name__)

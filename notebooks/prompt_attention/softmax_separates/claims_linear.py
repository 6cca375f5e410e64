"""Can models without softmax do it? Claims about statements d and e."""

from __future__ import annotations

from collections.abc import Callable

import torch

from notebooks.prompt_attention.softmax_separates import constructions
from notebooks.prompt_attention.softmax_separates.attack import ceiling_claim
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention import expressivity, models
from promptlib.prompt_attention.instances import (
    BOOK,
    SPARSITIES,
    cell,
    every_case,
    share_right,
)
from promptlib.prompt_attention.population import (
    PLANE_MODELS,
    PlaneModel,
    aligned,
    mirrored,
)


def linear_attention_threshold(
    seed: int,
    restarts: int,
    steps: int,
    threshold: Callable[[float], float] = expressivity.linear_attention_threshold,
    model: PlaneModel = PLANE_MODELS["linear-attention"],
) -> Claim:
    """Statement d: the search against the ceiling of 75 %."""
    return ceiling_claim(
        "prompt-attention/linear-attention-threshold",
        "On the deviations $(0,0)$ and $(\\Delta,-\\Delta)$ with "
        "$\\Delta^2 \\ge \\zeta/(1-\\zeta)$, no head and no prompt lift linear prompt-attention "
        "above 75 %.",
        0.75,
        mirrored,
        threshold,
        model,
        seed,
        restarts,
        steps,
    )


def linear_attention_sharp(
    seed: int,
    threshold: Callable[[float], float] = expressivity.linear_attention_threshold,
) -> Claim:
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
    return claims.bound(
        "prompt-attention/linear-attention-threshold-is-sharp",
        "Explicit weights make linear prompt-attention perfect at 0.1 % below the threshold, and "
        "right in three cases of four at any distance beyond it.",
        values=wrong,
        limits=limits,
        source=BOOK,
        checks=constructions.linear_attention_weights,
        search=f"every case at {len(SPARSITIES)} values of ζ and 4 of Δ",
    )


def mean_pooling_threshold(
    seed: int,
    restarts: int,
    steps: int,
    threshold: Callable[[float], float] = expressivity.mean_pooling_threshold,
    model: PlaneModel = PLANE_MODELS["mean-pooling"],
) -> Claim:
    """Statement e: the search against the ceiling of 50 %."""
    return ceiling_claim(
        "prompt-attention/mean-pooling-threshold",
        "On the deviations $(0,0)$ and $(\\Delta,\\Delta)$ with $\\Delta \\ge \\zeta/(1-\\zeta)$, "
        "no head lifts mean pooling above 50 %.",
        0.5,
        aligned,
        threshold,
        model,
        seed,
        restarts,
        steps,
    )


check_public(__name__)

r"""Where in the plane of sparsity and deviation does each model fail? Search against theory.

Each cell of the map is a discrete mixture with sparsity ζ and deviations of size Δ:

- mean pooling and self-attention on the aligned pair (0, 0), (Δ, Δ),
- linear prompt-attention on the mirrored pair (0, 0), (Δ, -Δ),
- prompt-attention on all three at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from notebooks.prompt_attention.softmax_separates.constructions import prompt_weights
from notebooks.prompt_attention.softmax_separates.search import search_mixtures
from promptlib.checks import check_public
from promptlib.prompt_attention.expressivity import (
    linear_attention_threshold,
    mean_pooling_threshold,
    self_attention_threshold,
)
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.models import prompt_attention
from promptlib.prompt_attention.population import (
    PLANE_MODELS,
    PlaneModel,
    aligned,
    mirrored,
)

__all__ = [
    "CHALLENGES",
    "Challenge",
    "MapOfModel",
    "constructed_accuracy",
    "map_model",
    "map_sides",
]

_GRAIN = 1000
"""Tokens of the mixtures on the map: ζ is rounded to a thousandth. The search does not see T."""


@dataclass(frozen=True)
class Challenge:
    """The deviations that a model is tried on, and what is proved about it there."""

    model: str  # A key of `population.PLANE_MODELS`
    deviations: Callable[[float], tuple[tuple[float, float], ...]]  # Δ -> the values of (δq, δw)
    # ζ -> the Δ from which on `ceiling` holds; None if the model never fails
    threshold: Callable[[float], float] | None
    ceiling: float  # The largest accuracy possible at the threshold and beyond

    def limit(self, sparsity: float, deviation: float) -> float:
        """The best accuracy that any weights have in a cell."""
        if self.threshold is None or deviation < self.threshold(sparsity):
            return 1.0
        return self.ceiling


CHALLENGES: Mapping[str, Challenge] = {
    challenge.model: challenge
    for challenge in (
        Challenge("mean-pooling", aligned, mean_pooling_threshold, 0.5),
        Challenge("self-attention", aligned, self_attention_threshold, 0.5),
        Challenge("linear-attention", mirrored, linear_attention_threshold, 0.75),
        Challenge(
            "prompt-attention",
            lambda size: ((0.0, 0.0), (size, size), (size, -size)),
            None,
            1.0,
        ),
    )
}
"""What each model is tried on, by the name of the model."""


@dataclass(frozen=True)
class MapOfModel:
    """What search found for one model, beside what is proved."""

    sparsities: Tensor  # (k,)
    deviations: Tensor  # (k,)
    found: Tensor  # (k, k): best accuracy, one row for each deviation
    limits: Tensor  # (k, k): the best accuracy possible, by the theorems
    closeness: Tensor  # (k, k): Δ over the threshold; zero where there is none
    trials: int  # Most weights scored in a cell


def map_cells(
    challenge: Challenge, resolution: int
) -> tuple[Tensor, Tensor, list[ContextualMixture]]:
    """The axes of the map, and its mixtures row by row."""
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2, got {resolution}")
    counts = torch.linspace(0.08, 0.92, resolution, dtype=torch.float64).mul(_GRAIN).round()
    sparsities = counts / _GRAIN
    deviations = torch.logspace(-0.638, 1.23, resolution, dtype=torch.float64)
    mixtures = [
        ContextualMixture(2, _GRAIN, float(share), deviations=challenge.deviations(float(size)))
        for size in deviations
        for share in sparsities
    ]
    return sparsities, deviations, mixtures


def map_model(
    challenge: Challenge,
    resolution: int,
    *,
    restarts: int,
    steps: int,
    seed: int,
    model: PlaneModel | None = None,
) -> MapOfModel:
    """Search every cell of the map for one model."""
    sparsities, deviations, mixtures = map_cells(challenge, resolution)
    result = search_mixtures(
        PLANE_MODELS[challenge.model] if model is None else model,
        mixtures,
        restarts=restarts,
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
        glance=4,
        label=f"searching: {challenge.model}",
    )
    limits = [
        [challenge.limit(float(share), float(size)) for share in sparsities] for size in deviations
    ]
    closeness = torch.zeros(resolution, resolution, dtype=torch.float64)
    if challenge.threshold is not None:
        thresholds = torch.tensor([challenge.threshold(float(share)) for share in sparsities])
        closeness = deviations[:, None] / thresholds.double()
    return MapOfModel(
        sparsities,
        deviations,
        result.accuracy.reshape(resolution, resolution),
        torch.tensor(limits, dtype=torch.float64),
        closeness,
        result.trials,
    )


def map_sides(
    maps: Mapping[str, MapOfModel], margin: float = 0.03, reach: float = 15.0
) -> tuple[Tensor, Tensor, int]:
    """Accuracies and shortfalls, their limits, and the weights tried in each cell.

    Search never exceeds a ceiling, and reaches each in the cells whose Δ is neither closer to the
    threshold than `margin`, relatively, nor beyond `reach` times it.
    """
    found, limits, missing = [], [], []
    for part in maps.values():
        found.append(part.found.reshape(-1))
        limits.append(part.limits.reshape(-1))
        clear = ((part.closeness - 1).abs() > margin) & (part.closeness < reach)
        missing.append((part.limits - part.found)[clear])
    shortfall = torch.cat(missing)
    trials = max(part.trials for part in maps.values())
    return (
        torch.cat((*found, shortfall)),
        torch.cat((*limits, torch.zeros_like(shortfall))),
        trials,
    )


def constructed_accuracy(
    resolution: int, n: int, seed: int, model: Callable[..., Tensor] = prompt_attention
) -> Tensor:
    """The accuracy of the constructed prompt on bags that are drawn in every cell of the map.

    Shape (resolution, resolution).
    """
    generator = torch.Generator().manual_seed(seed)
    _, _, mixtures = map_cells(CHALLENGES["prompt-attention"], resolution)
    accuracies = []
    for mixture in mixtures:
        bags = mixture.sample(n, generator)
        scores = model(bags.tokens, *prompt_weights(mixture))
        accuracies.append((scores * bags.labels > 0).double().mean())
    return torch.stack(accuracies).reshape(resolution, resolution)


check_public(__name__)

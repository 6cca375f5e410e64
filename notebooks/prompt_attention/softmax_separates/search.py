r"""How good can a model get when nobody helps it? A search over weights, with exact accuracies.

The ceilings of result A1 hold for every choice of weights, so the book attacks them: for each cell
(one discrete mixture, such as one point of the map of ζ and Δ) many random weights are drawn at
scales over four decades, and each is improved by Adam on a smooth count of the right cases.
All cells and restarts move together as one batch; each is scored exactly, at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.progress import progress_bar
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.population import PlaneModel, Population

__all__ = ["SearchResult", "search_accuracy", "search_mixtures"]

_SCALES = (-2.0, 2.0)
"""Decades over which the initial sizes of the weights are spread evenly."""
_SHARPNESS = (0.0, 7.0)
"""Decades of the slope with which the smooth objective turns a score into a right case."""


@dataclass(frozen=True)
class SearchResult:
    """The best that was found in each cell."""

    accuracy: Tensor  # (cells,): the best exact accuracy
    # Weights that reach it, each of shape (cells, ...), in the plane's coordinates
    weights: dict[str, Tensor]
    trials: int  # Weights scored in each cell


def search_accuracy(
    model: PlaneModel,
    population: Population,
    *,
    restarts: int,
    steps: int,
    generator: torch.Generator,
    learning_rate: float = 0.1,
) -> SearchResult:
    """Search for the most accurate weights of a model in every cell of a population."""
    if population.sparsity.dim() != 1:
        raise ValueError(
            f"the population needs one dimension of cells, got {tuple(population.sparsity.shape)}; "
            f"use Population.stack([mixture])"
        )
    if restarts < 1 or steps < 0:
        raise ValueError(f"restarts must be >= 1 and steps >= 0, got {restarts} and {steps}")
    cells = population.sparsity.shape[0]
    crowd = population.with_restarts()
    # weight = size * direction, with the size fixed: the step is then relative to the size.
    sizes, directions = {}, {}
    for name, shape in model.sizes.items():
        decades = torch.empty(cells, restarts, dtype=crowd.relevant.dtype)
        decades.uniform_(*_SCALES, generator=generator)
        sizes[name] = (10.0**decades).reshape(cells, restarts, *(1,) * len(shape))
        directions[name] = torch.randn(
            cells, restarts, *shape, generator=generator, dtype=crowd.relevant.dtype
        ).requires_grad_(steps > 0)
    sharpness = torch.empty(cells, restarts, 1, dtype=crowd.relevant.dtype)
    sharpness = 10.0 ** sharpness.uniform_(*_SHARPNESS, generator=generator)
    best = torch.full((cells,), -1.0, dtype=crowd.relevant.dtype)
    kept = {name: torch.zeros(cells, *shape).to(best) for name, shape in model.sizes.items()}
    optimiser = torch.optim.Adam(directions.values(), lr=learning_rate) if steps > 0 else None
    for step in range(steps + 1):
        weights = {name: sizes[name] * directions[name] for name in model.sizes}
        reading = model.read(crowd, **weights)
        with torch.no_grad():
            accuracy, winner = reading.accuracy(crowd).max(dim=1)
            better = accuracy > best
            best = torch.where(better, accuracy, best)
            for name, weight in weights.items():
                kept[name][better] = weight[torch.arange(cells), winner][better]
        if optimiser is not None and step < steps:
            # Relative to the largest case, so that a step that helps one case shows in all.
            scores = crowd.labels * reading.scores / reading.sizes.amax(dim=-1, keepdim=True)
            right = torch.tanh(sharpness * scores) * crowd.probabilities
            optimiser.zero_grad()
            (-right.sum()).backward()
            optimiser.step()
    return SearchResult(best, kept, restarts * (steps + 1))


def search_mixtures(
    model: PlaneModel,
    mixtures: Sequence[ContextualMixture],
    *,
    restarts: int,
    steps: int,
    generator: torch.Generator,
    batch: int = 128,
    glance: int | None = None,
    label: str = "searching",
) -> SearchResult:
    """Search in every mixture of a list, a batch of cells at a time, with a progress bar.

    With a `glance`, so many steps come first, and a cell that they solve without a mistake is left:
    nothing is above that.
    """
    starts: Iterable[int] = range(0, len(mixtures), batch)
    parts = []
    for start in progress_bar(starts, label):
        cells = mixtures[start : start + batch]
        stages = [steps] if glance is None else [min(glance, steps), steps]
        parts.append(_search_in_stages(model, cells, restarts, stages, generator))
    if not parts:
        raise ValueError("search_mixtures needs at least one mixture, got none")
    return SearchResult(
        torch.cat([part.accuracy for part in parts]),
        {name: torch.cat([part.weights[name] for part in parts]) for name in model.sizes},
        max(part.trials for part in parts),
    )


def _search_in_stages(
    model: PlaneModel,
    cells: Sequence[ContextualMixture],
    restarts: int,
    stages: Sequence[int],
    generator: torch.Generator,
) -> SearchResult:
    """Search again, with the steps of the next stage, in cells without a perfect answer yet."""

    def search(places: Sequence[int], steps: int) -> SearchResult:
        crowd = Population.stack([cells[place] for place in places])
        return search_accuracy(model, crowd, restarts=restarts, steps=steps, generator=generator)

    result = search(range(len(cells)), stages[0])
    for steps in stages[1:]:
        unsolved = (result.accuracy < 1).nonzero().flatten()
        if len(unsolved) == 0:
            break
        again = search(unsolved.tolist(), steps)
        better = again.accuracy > result.accuracy[unsolved]
        result.accuracy[unsolved[better]] = again.accuracy[better]
        for name, weight in again.weights.items():
            result.weights[name][unsolved[better]] = weight[better]
        result = SearchResult(result.accuracy, result.weights, result.trials + again.trials)
    return result


check_public(__name__)

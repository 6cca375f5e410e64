"""What do finite samples give: alignment, its growth with the width, and what bounds it?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from notebooks.prompt_attention.first_gradient import alignment, imbalance
from notebooks.prompt_attention.first_gradient.alignment_law import alignment_by_law
from promptlib.progress import progress_bar
from promptlib.prompt_attention.deviations import Comparison, largest_deviation
from promptlib.prompt_attention.mixture import Bags, ContextualMixture

SETTING: dict[str, Any] = {"sparsity": 0.3, "signal_norm": 1.0, "noise_std": 1.0, "tokens": 10}
"""The world of the alignment experiments, but for the context."""
CONTEXT_NORM = 1.0
STEP = 1.0


def world(dim: int) -> ContextualMixture:
    """The mixture of the alignment experiments at one width, in float32 for speed."""
    return ContextualMixture(dim, 10, 0.3, CONTEXT_NORM, 1.0, 1.0, dtype=torch.float32)


def law_beside_bags(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, int]] = ((6, 8), (20, 40), (60, 200)),
    law: Callable[..., Tensor] = alignment_by_law,
) -> Comparison:
    """Cosines of steps on whole bags against those of the exact law, four times as many."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for dim, n in cells:
        drawn = law(world(dim), n, STEP, 4 * runs, generator)
        cosines = alignment.measured_alignment(world(dim), n, STEP, runs, generator)
        errors = (cosines.var(0) / runs + drawn.var(0) / (4 * runs)).sqrt()
        rows.append((drawn.mean(0), cosines.mean(0), errors))
    return Comparison.of(rows, runs)


class AtWidth(NamedTuple):
    """A limit beside means at one width, and what it may be off there."""

    formula: Tensor
    measured: Tensor
    standard_errors: Tensor
    chance: float  # see Comparison.chance
    allowance: Tensor
    dim: int


def narrower(dim: int) -> int:
    """The width that shows what a limit is off: a quarter."""
    return max(4, dim // 4)


def formula_beside_law(
    seed: int,
    dim: int,
    runs: int,
    samples_per_dim: Sequence[float] = (1.0, 2.0, 4.0),
    head: Callable[..., Tensor] = alignment.head_alignment,
    prompt: Callable[..., Tensor] = alignment.prompt_alignment,
) -> AtWidth:
    """Both cosines at one large width against their limits.

    The formula is a limit, off by a multiple of 1/d. A quarter of the width shows that multiple: of
    what is found there, a quarter should be left, and half is allowed. A formula that is wrong by
    the same amount at every width exceeds the allowance.
    """
    generator = torch.Generator().manual_seed(seed)
    alphas = torch.tensor(samples_per_dim, dtype=torch.float64)
    predicted = torch.stack(
        (
            head(alphas, **SETTING),
            prompt(alphas, eta=STEP, context_norm=CONTEXT_NORM, **SETTING),
        ),
        dim=1,
    )

    def measure(width: int, repetitions: int) -> tuple[Tensor, Tensor]:
        cosines = torch.stack(
            [
                alignment_by_law(world(width), round(alpha * width), STEP, repetitions, generator)
                for alpha in progress_bar(samples_per_dim, f"alignment, {width} dimensions")
            ]
        )  # (alphas, repetitions, 2)
        return cosines.mean(1), cosines.std(1) / math.sqrt(repetitions)

    narrow = measure(narrower(dim), 4 * runs)[0]
    means, errors = measure(dim, runs)
    allowance = (narrow - predicted).abs() / 2
    return AtWidth(
        predicted, means, errors, largest_deviation(predicted.numel(), runs), allowance, dim
    )


class Exponents(NamedTuple):
    """How fast the bags that a cosine needs grow with the width."""

    exponents: Tensor  # one for each independent block of runs
    target: float
    widths: str

    @classmethod
    def of(cls, growth: alignment.Growth, target: float, blocks: int) -> Exponents:
        """From the cosines on the whole grid."""
        exponents = alignment.growth_exponent(growth.dims, growth.needed(target, blocks))
        widths = "widths " + ", ".join(f"{dim:g}" for dim in growth.dims.tolist())
        return cls(exponents, target, widths)


def estimators_beside_limit(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, int]] = ((10, 20), (40, 80), (100, 50)),
    estimators: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = alignment.MEAN_ESTIMATORS,
    limit: Callable[..., float] = alignment.best_alignment_from_means,
) -> tuple[Tensor, Tensor, int]:
    """Estimators that see bag means, against the exact optimum over random directions."""
    generator = torch.Generator().manual_seed(seed)
    values, limits = [], []
    # Only an excess that chance does not explain counts.
    chance = largest_deviation(len(cells) * len(estimators), runs) / math.sqrt(runs)
    for dim, n in cells:
        cosines = alignment.mean_estimator_alignments(
            estimators, dim, n, runs, generator, **SETTING
        )
        values.append(cosines.mean(1) - chance * cosines.std(1))
        limits.append(torch.full((len(estimators),), limit(dim, n, **SETTING), dtype=torch.float64))
    return torch.cat(values), torch.cat(limits), runs


def average_beside_limit(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, int]] = ((10, 20), (40, 80), (100, 50)),
    limit: Callable[..., float] = alignment.best_alignment_from_means,
) -> Comparison:
    """The signed average against the optimum, which it must reach: the bound is sharp."""
    generator = torch.Generator().manual_seed(seed)
    name = "average (the first gradient)"
    average = {name: alignment.MEAN_ESTIMATORS[name]}
    rows = []
    for dim, n in cells:
        cosines = alignment.mean_estimator_alignments(average, dim, n, runs, generator, **SETTING)
        error = cosines.std() / math.sqrt(runs)
        rows.append((limit(dim, n, **SETTING), cosines.mean(), error))
    return Comparison.of(rows, runs)


def errors_from_two_bags(
    seed: int,
    dims: Sequence[int] = (5, 50, 500),
    estimate: Callable[[Bags], tuple[Tensor, Tensor]] = alignment.context_and_signal_from_repeats,
) -> Tensor:
    """Context and signal from one bag of each label, in float64."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for dim in dims:
        mixture = ContextualMixture(dim, 10, 0.2, 1.5, 1.0, 1.0)
        bags = mixture.sample(64, generator)
        pair = torch.stack([(bags.labels == label).nonzero()[0, 0] for label in (1.0, -1.0)])
        context, signal = estimate(Bags(*(part[pair] for part in bags)))
        errors.append((context - mixture.context).abs().max())
        errors.append((signal - mixture.signal).abs().max())
    return torch.stack(errors)


def shares_failed(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, float]] = ((21, 1.5), (41, 2.0), (101, 2.5)),
    formula: Callable[..., Tensor] = imbalance.imbalance_failure,
) -> Comparison:
    """How often a head step gets one of the labels wrong, on fresh bags."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n, norm in cells:
        mixture = ContextualMixture(3, 10, 0.2, norm, 1.0, 0.2)
        failed = imbalance.measured_imbalance_failure(mixture, 3.0, n, runs, generator).double()
        predicted = float(formula(n, norm, 1.0))
        error = math.sqrt(predicted * (1 - predicted) / runs) or math.nan
        rows.append((predicted, float(failed.mean()), error))
    return Comparison.of(rows)

"""Claims about finite samples: alignment, its growth with the width, and what bounds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from notebooks.prompt_attention.first_gradient import alignment, imbalance
from notebooks.prompt_attention.first_gradient.alignment_law import alignment_by_law
from notebooks.prompt_attention.first_gradient.instances import PAPER
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.progress import progress_bar
from promptlib.prompt_attention.deviations import largest_deviation
from promptlib.prompt_attention.instances import BOOK
from promptlib.prompt_attention.mixture import Bags, ContextualMixture

SETTING: dict[str, Any] = {"sparsity": 0.3, "signal_norm": 1.0, "noise_std": 1.0, "tokens": 10}
"""The world of the alignment experiments, but for the context."""
CONTEXT_NORM = 1.0
STEP = 1.0


def world(dim: int) -> ContextualMixture:
    """The mixture of the alignment experiments at one width, in float32 for speed."""
    return ContextualMixture(dim, 10, 0.3, CONTEXT_NORM, 1.0, 1.0, dtype=torch.float32)


def law_of_two_steps(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, int]] = ((6, 8), (20, 40), (60, 200)),
    law: Callable[..., Tensor] = alignment_by_law,
) -> Claim:
    """Cosines of steps on whole bags against those of the exact law, four times as many."""
    generator = torch.Generator().manual_seed(seed)
    formula, measured, errors = [], [], []
    for dim, n in cells:
        drawn = law(world(dim), n, STEP, 4 * runs, generator)
        cosines = alignment.measured_alignment(world(dim), n, STEP, runs, generator)
        formula.append(drawn.mean(0))
        measured.append(cosines.mean(0))
        errors.append((cosines.var(0) / runs + drawn.var(0) / (4 * runs)).sqrt())
    return claims.estimate(
        "prompt-attention/alignment-law",
        "The first head and the first prompt depend on a bag through three components of each "
        "token: cosines drawn from that law have the means of those from whole bags.",
        formula=torch.stack(formula),
        measured=torch.stack(measured),
        standard_errors=torch.stack(errors),
        source=BOOK,
        checks=alignment_by_law,
        max_deviation=largest_deviation(2 * len(cells), runs),
    )


def alignment_formula(
    seed: int,
    dim: int,
    runs: int,
    samples_per_dim: Sequence[float] = (1.0, 2.0, 4.0),
    head: Callable[..., Tensor] = alignment.head_alignment,
    prompt: Callable[..., Tensor] = alignment.prompt_alignment,
) -> Claim:
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

    narrow = measure(max(4, dim // 4), 4 * runs)[0]
    means, errors = measure(dim, runs)
    return claims.estimate(
        "prompt-attention/alignment-formula",
        "For large $n$ and $d$ the cosines of the first head with the signal and of the first "
        "prompt with the context are functions of $n/d$ alone, given in closed form "
        f"(measured at $d = {dim}$).",
        formula=predicted,
        measured=means,
        standard_errors=errors,
        source=BOOK,
        checks=alignment.prompt_alignment,
        max_deviation=largest_deviation(predicted.numel(), runs),
        allowance=(narrow - predicted).abs() / 2,
        allowance_reason=f"the finite width: half of the difference at d = {max(4, dim // 4)}",
    )


EXPONENT = claims.Published(
    1.0,
    favours="lower",
    margin=0.1,
    reason="in the exponent: over the widths of a build it is far less than the step to the next "
    "plausible power, a half or three halves",
)
"""The rate of the paper's theorem, with the tolerance of this book."""


def grows_no_faster(growth: alignment.Growth, target: float, blocks: int) -> Claim:
    """The exponent of n(d) from above, one value for each independent block of runs."""
    return claims.outcome(
        "prompt-attention/samples-grow-linearly",
        f"The number of bags at which the first prompt reaches the cosine {target:g} with the "
        f"context grows no faster than $d^{{1.1}}$ ({_widths(growth)}).",
        values=alignment.growth_exponent(growth.dims, growth.needed(target, blocks)),
        limit=1.1,
        side="below",
        source=PAPER,
        checks=alignment.sample_growth,
        unit="(exponent)",
        published=EXPONENT,
        note="the exponent of the formula is 1; a tenth is the tolerance of this book",
    )


def grows_no_slower(growth: alignment.Growth, target: float, blocks: int) -> Claim:
    """The same exponents from below."""
    return claims.outcome(
        "prompt-attention/samples-grow-at-least-linearly",
        f"The number of bags at which the first prompt reaches the cosine {target:g} with the "
        f"context grows faster than $d^{{0.9}}$ ({_widths(growth)}).",
        values=alignment.growth_exponent(growth.dims, growth.needed(target, blocks)),
        limit=0.9,
        side="above",
        source=BOOK,
        checks=alignment.sample_growth,
        unit="(exponent)",
        note="narrow layers need more than their share of bags, which flattens the growth; the "
        "page computes by how much at these widths",
    )


def _widths(growth: alignment.Growth) -> str:
    return "widths " + ", ".join(f"{dim:g}" for dim in growth.dims.tolist())


def best_from_means(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, int]] = ((10, 20), (40, 80), (100, 50)),
    estimators: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = alignment.MEAN_ESTIMATORS,
    limit: Callable[..., float] = alignment.best_alignment_from_means,
) -> Claim:
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
    return claims.bound(
        "prompt-attention/best-from-bag-means",
        "A method that sees a bag only through its mean token needs of the order of $d$ bags: "
        "none beats the signed average, which is the first gradient with the context removed.",
        values=torch.cat(values),
        limits=torch.cat(limits),
        source=BOOK,
        checks=alignment.best_alignment_from_means,
        search=f"{len(estimators)} estimators, {runs} random signals each; only an excess that "
        "chance does not explain counts",
    )


def average_is_best(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, int]] = ((10, 20), (40, 80), (100, 50)),
    limit: Callable[..., float] = alignment.best_alignment_from_means,
) -> Claim:
    """The signed average against the optimum, which it must reach: the bound is sharp."""
    generator = torch.Generator().manual_seed(seed)
    name = "average (the first gradient)"
    average = {name: alignment.MEAN_ESTIMATORS[name]}
    means, errors = [], []
    for dim, n in cells:
        cosines = alignment.mean_estimator_alignments(average, dim, n, runs, generator, **SETTING)
        means.append(cosines.mean())
        errors.append(cosines.std() / math.sqrt(runs))
    return claims.estimate(
        "prompt-attention/signed-average-is-best",
        "The signed average reaches the largest mean cosine that any method can get from bag "
        "means.",
        formula=[limit(dim, n, **SETTING) for dim, n in cells],
        measured=torch.stack(means),
        standard_errors=torch.stack(errors),
        source=BOOK,
        checks=alignment.best_alignment_from_means,
        max_deviation=largest_deviation(len(cells), runs),
    )


def two_bags_suffice(
    seed: int,
    dims: Sequence[int] = (5, 50, 500),
    estimate: Callable[[Bags], tuple[Tensor, Tensor]] = alignment.context_and_signal_from_repeats,
) -> Claim:
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
    return claims.identity(
        "prompt-attention/two-bags-suffice",
        "Relevant tokens have no noise of their own and repeat inside a bag, so two bags with "
        "different "
        "labels reveal context and signal exactly, in any dimension.",
        errors=torch.stack(errors),
        tolerance=1e-12,
        source=BOOK,
        checks=alignment.context_and_signal_from_repeats,
    )


def labels_out_of_balance(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, float]] = ((21, 1.5), (41, 2.0), (101, 2.5)),
    formula: Callable[..., Tensor] = imbalance.imbalance_failure,
) -> Claim:
    """How often a head step gets one of the labels wrong, on fresh bags."""
    generator = torch.Generator().manual_seed(seed)
    predicted, shares, errors = [], [], []
    for n, norm in cells:
        mixture = ContextualMixture(3, 10, 0.2, norm, 1.0, 0.2)
        failed = imbalance.measured_imbalance_failure(mixture, 3.0, n, runs, generator).double()
        predicted.append(float(formula(n, norm, 1.0)))
        shares.append(float(failed.mean()))
        errors.append(math.sqrt(predicted[-1] * (1 - predicted[-1]) / runs) or math.nan)
    return claims.estimate(
        "prompt-attention/labels-out-of-balance",
        "Without an intercept a head step on $n$ bags gets one of the two labels wrong in most "
        "fresh bags with the probability that the mean label exceeds $W^2/Q^2$ in size (prompt "
        "sharp, noise small).",
        formula=predicted,
        measured=shares,
        standard_errors=errors,
        source=BOOK,
        checks=imbalance.imbalance_failure,
        max_deviation=largest_deviation(len(cells)),
    )


check_public(__name__)

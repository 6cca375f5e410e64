"""Claims about finite samples: alignment, its growth with the width, and what bounds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptlib import claims
from promptlib.claims import Claim
from promptlib.progress import progress_bar
from promptlib.prompt_attention import alignment, imbalance
from promptlib.prompt_attention.first_gradient.instances import BOOK, LIBRARY, PAPER
from promptlib.prompt_attention.mixture import Bags, ContextualMixture

SETTING: dict[str, Any] = {"sparsity": 0.3, "signal_norm": 1.0, "noise_std": 1.0, "tokens": 10}
"""The world of the alignment experiments, but for the context."""
CONTEXT_NORM = 1.0
STEP = 1.0


def world(dim: int) -> ContextualMixture:
    """The mixture of the alignment experiments at one width, in float32 for speed."""
    return ContextualMixture(dim, 10, 0.3, CONTEXT_NORM, 1.0, 1.0, dtype=torch.float32)


def alignment_formula(
    seed: int,
    dim: int,
    runs: int,
    samples_per_dim: Sequence[float] = (1.0, 2.0, 4.0),
    head: Callable[..., Tensor] = alignment.head_alignment,
    prompt: Callable[..., Tensor] = alignment.prompt_alignment,
) -> Claim:
    """Both cosines at one large width against their limits."""
    generator = torch.Generator().manual_seed(seed)
    alphas = torch.tensor(samples_per_dim, dtype=torch.float64)
    means, errors = [], []
    for alpha in progress_bar(samples_per_dim, f"alignment, {dim} dimensions"):
        cosines = alignment.measured_alignment(
            world(dim), round(alpha * dim), STEP, runs, generator
        )
        means.append(cosines.mean(0))
        errors.append(cosines.std(0) / math.sqrt(runs))
    predicted = torch.stack(
        (
            head(alphas, **SETTING),
            prompt(alphas, eta=STEP, context_norm=CONTEXT_NORM, **SETTING),
        ),
        dim=1,
    )
    return claims.estimate(
        "prompt-attention/alignment-formula",
        "The cosines of the first head with the signal and of the first prompt with the context "
        "are "
        f"functions of $n/d$ alone, given in closed form (measured at $d = {dim}$).",
        formula=predicted,
        measured=torch.stack(means),
        standard_errors=torch.stack(errors),
        source=BOOK,
        checks=f"{LIBRARY}.alignment.prompt_alignment",
    )


def linear_growth(growth: alignment.Growth, target: float, blocks: int) -> Claim:
    """The exponent of n(d), one value for each independent block of runs."""
    exponents = alignment.growth_exponent(growth.dims, growth.needed(target, blocks))
    dims = ", ".join(f"{dim:g}" for dim in growth.dims.tolist())
    return claims.outcome(
        "prompt-attention/samples-grow-linearly",
        f"The number of bags at which the first prompt reaches the cosine {target:g} with the "
        f"context "
        f"grows like $d^{{p}}$ with $p$ close to 1 (widths {dims}).",
        values=exponents,
        source=PAPER,
        checks=f"{LIBRARY}.alignment.sample_growth",
        unit="(exponent)",
        published=1.0,
        tolerance=0.1,
        favours="lower",
        refuted_if=(">", 1.25),
    )


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
    for dim, n in cells:
        cosines = alignment.mean_estimator_alignments(
            estimators, dim, n, runs, generator, **SETTING
        )
        # Only an excess that chance does not explain counts.
        values.append(cosines.mean(1) - 4 * cosines.std(1) / math.sqrt(runs))
        limits.append(torch.full((len(estimators),), limit(dim, n, **SETTING), dtype=torch.float64))
    return claims.bound(
        "prompt-attention/best-from-bag-means",
        "A method that sees a bag only through its mean token needs of the order of $d$ bags: "
        "none beats the signed average, which is the first gradient with the context removed.",
        values=torch.cat(values),
        limits=torch.cat(limits),
        source=BOOK,
        checks=f"{LIBRARY}.alignment.best_alignment_from_means",
        search=f"{len(estimators)} estimators, {runs} random signals each; mean less 4 errors",
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
        checks=f"{LIBRARY}.alignment.context_and_signal_from_repeats",
    )


def labels_out_of_balance(
    seed: int,
    runs: int,
    cells: Sequence[tuple[int, float]] = ((21, 1.5), (41, 2.0), (101, 2.5)),
    formula: Callable[..., Tensor] = imbalance.imbalance_failure,
) -> Claim:
    """How often a head step fails for its labels alone."""
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
        "Without an intercept a head step on $n$ bags ends at 50 % error with the probability "
        "that the "
        "mean label exceeds $W^2/Q^2$: strong contexts need $n$ of the order $(Q/W)^4$, at any "
        "width.",
        formula=predicted,
        measured=shares,
        standard_errors=errors,
        source=BOOK,
        checks=f"{LIBRARY}.imbalance.imbalance_failure",
    )

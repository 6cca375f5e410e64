"""What would refute the formulas for what a learned head costs?

Each is judged by what a function of `results` or of `head_simulation` measured.
"""

from __future__ import annotations

from operator import attrgetter, itemgetter

import torch
from torch import Tensor

from notebooks.prompt_attention.price_of_the_head.concentrated_head import signal_to_noise
from notebooks.prompt_attention.price_of_the_head.head_limits import (
    averaging_error,
    hard_attention_error,
    informed_error,
)
from notebooks.prompt_attention.price_of_the_head.head_simulation import learned_heads
from notebooks.prompt_attention.price_of_the_head.results import Priced
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prompt_attention.feature_law import feature_laws
from promptlib.prompt_attention.head_price import head_error
from promptlib.prompt_attention.ridge_head import ridge_error

OYMAK = "after Oymak et al. 2023, contribution (3)"
BOTH = f"{HERE}, {OYMAK}"
FINITE_WIDTH = (
    "the finite width: 0.2/(d - 1), twice what the claim on finite width bounds, since more than "
    "the width varies here"
)
chance, allowance = attrgetter("chance"), attrgetter("allowance")


def beyond_chance(met: Priced) -> tuple[Tensor, Tensor]:
    """What chance leaves of the differences from 8 dimensions on, and 0.1/(d - 1)."""
    wide = met.at(met.widths[:, 0] >= 9)
    left = (wide.measured - wide.formula).abs() - wide.chance * wide.standard_errors
    return left, 0.1 / (wide.widths - 1)


ROWS = (
    claims.Identity(
        "features-are-two-numbers",
        "In the complement of the context vector, a feature of a bag under the prompt "
        "$\\kappa q^\\star$ is $A w^\\star$ plus noise of size $\\sigma s$, with $A$ and $s$ "
        "computed from the logits alone.",
        tolerance=1e-12,
        source=OYMAK,
        checks=feature_laws,
    ),
    claims.Estimate(
        "price-of-averaging",
        "The averaging head errs on fresh bags as often as the formula says, with and without a "
        "prompt.",
        max_deviation=chance,
        allowance=allowance,
        allowance_reason=FINITE_WIDTH,
        source=OYMAK,
        checks=averaging_error,
    ),
    claims.Estimate(
        "price-of-ridge-on-bags",
        "Heads by least squares and ridge, learned on bags of tokens, err on fresh bags as often "
        "as the formula says.",
        max_deviation=chance,
        allowance=allowance,
        allowance_reason=FINITE_WIDTH,
        source=BOTH,
        checks=head_error,
    ),
    claims.Estimate(
        "price-of-ridge",
        "Over $\\alpha$, $\\kappa$, $\\zeta$, $Q$ and $\\lambda$, least squares, ridge and "
        "averaging heads have the error that the formula gives.",
        max_deviation=chance,
        allowance=allowance,
        allowance_reason=FINITE_WIDTH,
        source=BOTH,
        checks=ridge_error,
    ),
    claims.Identity(
        "ridge-limits",
        "The ridge formula tends to least squares as $\\lambda \\to 0$, to averaging as "
        "$\\lambda \\to \\infty$, and to the known head as $\\alpha \\to \\infty$, for any law of "
        "signal and noise.",
        errors=lambda near: torch.cat([error.flatten() for error in near.values()]),
        tolerance=1e-7,
        source=HERE,
        checks=ridge_error,
    ),
    claims.Identity(
        "concentrated-closed-forms",
        "With constant signal and noise the fixed point gives the closed forms for least squares, "
        "averaging and the known head, on both sides of $\\alpha = 1$.",
        tolerance=1e-10,
        source=OYMAK,
        checks=ridge_error,
    ),
    claims.Bound(
        "informed-bound",
        "No ridge head beats the weighted average of somebody who knows how well each bag was "
        "read.",
        values=itemgetter(0),
        limits=itemgetter(1),
        tolerance=1e-12,
        search="26 ridges at 11 values of samples per dimension, for 200 random laws",
        source=HERE,
        checks=informed_error,
    ),
    claims.Identity(
        "informed-bound-is-sharp",
        "When all bags are read alike the averaging head has the error of the informed one: the "
        "bound is reached.",
        tolerance=1e-12,
        source=HERE,
        checks=informed_error,
    ),
    claims.Bound(
        "double-descent",
        "With one bag for each dimension, least squares errs more often than with half as many or "
        "2.2 times as many bags.",
        values=lambda runs: [run.mean[0] + 4 * run.standard_error[0] for run in runs[1:]],
        limits=lambda runs: runs[0].mean[0] - 4 * runs[0].standard_error[0],
        search=lambda runs: (
            f"{len(runs[0].errors)} training sets at each ratio, four standard errors on both sides"
        ),
        source=OYMAK,
        checks=learned_heads,
    ),
    claims.Identity(
        "best-prompt-scale",
        "For many tokens the signal-to-noise ratio is largest at the prompt scale "
        "$1/(2\\sigma^2)$, and its square is there $e^{Q^2/(2\\sigma^2)}$ times that of mean "
        "pooling.",
        tolerance=1e-10,
        source=OYMAK,
        checks=signal_to_noise,
    ),
    claims.Estimate(
        "hard-attention-limit",
        "An endlessly long prompt leaves the error $\\frac12(1 - \\Phi(Q/\\sigma)^{T-m})$ "
        "(measured at $\\kappa = 10^6$).",
        max_deviation=chance,
        source=HERE,
        checks=hard_attention_error,
    ),
    claims.Outcome(
        "best-ridge-is-finite",
        "Where bags are read unequally well, the ridge 0.15 makes fewer mistakes than averaging: "
        "the difference, over training sets, is above zero.",
        values=lambda errors: 100 * (errors[:, 1] - errors[:, 0]),
        above=0.0,
        unit="percentage points fewer",
        note="the ridge was chosen by the formula, whose best it nearly is, not on these training "
        "sets",
        source=HERE,
        checks=learned_heads,
    ),
    claims.Bound(
        "finite-width",
        "From 8 dimensions on, at two bags per dimension, the formula is wrong by at most "
        "$0.1/(d-1)$, beyond what chance explains.",
        values=lambda met: beyond_chance(met)[0],
        limits=lambda met: beyond_chance(met)[1],
        search="least squares, ridge 0.1 and averaging at 8, 16, 32 and 64 dimensions",
        source=HERE,
        checks=head_error,
    ),
)

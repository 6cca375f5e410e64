"""What would refute the laws of the first steps? The claims, and what judges them."""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import Any

from notebooks.prompt_attention.first_gradient import (
    alignment,
    imbalance,
    measured_bags,
    measured_mass,
    measured_steps,
)
from notebooks.prompt_attention.first_gradient.alignment_law import alignment_by_law
from notebooks.prompt_attention.first_gradient.long_steps import (
    critical_step,
    logistic_prompt_coefficient,
)
from notebooks.prompt_attention.first_gradient.measured_bags import narrower
from notebooks.prompt_attention.first_gradient.measured_steps import ETAS, FACTORS
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prompt_attention import descent, mass, sampled_descent

PAPER = "Oymak et al. 2023, contribution (2)"
chance = attrgetter("chance")

ROWS = (
    claims.Estimate(
        "alignment-law",
        "The first head and the first prompt depend on a bag through three components of each "
        "token: cosines drawn from that law have the means of those from whole bags.",
        source=HERE,
        checks=alignment_by_law,
        max_deviation=chance,
    ),
    claims.Estimate(
        "alignment-formula",
        lambda met: (
            "For large $n$ and $d$ the cosines of the first head with the signal and of the first "
            "prompt with the context are functions of $n/d$ alone, given in closed form "
            f"(measured at $d = {met.dim}$)."
        ),
        source=HERE,
        checks=alignment.prompt_alignment,
        max_deviation=chance,
        allowance=lambda met: met.allowance,
        allowance_reason=lambda met: (
            f"the finite width: half of the difference at d = {narrower(met.dim)}"
        ),
    ),
    claims.Bound(
        "best-from-bag-means",
        "A method that sees a bag only through its mean token needs of the order of $d$ bags: "
        "none beats the signed average, which is the first gradient with the context removed.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=HERE,
        checks=alignment.best_alignment_from_means,
        search=lambda met: (
            f"{len(alignment.MEAN_ESTIMATORS)} estimators, {met[2]} random signals each; only an "
            "excess that chance does not explain counts"
        ),
    ),
    claims.Estimate(
        "signed-average-is-best",
        "The signed average reaches the largest mean cosine that any method can get from bag "
        "means.",
        source=HERE,
        checks=alignment.best_alignment_from_means,
        max_deviation=chance,
    ),
    claims.Identity(
        "two-bags-suffice",
        "Relevant tokens have no noise of their own and repeat inside a bag, so two bags with "
        "different labels reveal context and signal exactly, in any dimension.",
        tolerance=1e-12,
        source=HERE,
        checks=alignment.context_and_signal_from_repeats,
    ),
    claims.Estimate(
        "labels-out-of-balance",
        "Without an intercept a head step on $n$ bags gets one of the two labels wrong in most "
        "fresh bags with the probability that the mean label exceeds $W^2/Q^2$ in size (prompt "
        "sharp, noise small).",
        source=HERE,
        checks=imbalance.imbalance_failure,
        max_deviation=chance,
    ),
    claims.Estimate(
        "attention-mass-finite-tokens",
        "The mean attention on the relevant tokens, and the mean of the squared weights "
        "elsewhere, are integrals of the Laplace transform of a lognormal variable, at every "
        "number of tokens.",
        source=HERE,
        checks=mass.attention_moments,
        max_deviation=chance,
    ),
    claims.Bound(
        "attention-mass-floor",
        "At a fixed share of relevant tokens the mean attention on them falls with the number of "
        "tokens, and the limit of many tokens is a lower bound at every number.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=HERE,
        checks=mass.limiting_mass,
        search=lambda sides: f"{sides[0].shape[-1]} random mixtures and scales, 4 to 1024 tokens",
        tolerance=1e-9,
    ),
    claims.Bound(
        "attention-mass-excess",
        "With $N$ irrelevant tokens the mean attention on the relevant ones exceeds the limit of "
        "many tokens by at most $(1-A_\\infty)^2\\,(e^{\\kappa^2Q^2\\sigma^2}-1)/N$.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=HERE,
        checks=mass.limiting_mass,
        search=lambda sides: f"{sides[0].shape[-1]} random mixtures and scales, 4 to 16384 tokens",
        tolerance=1e-9,
    ),
    claims.Bound(
        "attention-mass-best-scale",
        "For many tokens the attention on the relevant ones is largest at $\\kappa = "
        "(1+\\delta_q)/\\sigma^2$, where their odds are "
        "$\\frac{\\zeta}{1-\\zeta}\\exp((1+\\delta_q)^2Q^2/(2\\sigma^2))$.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=PAPER,
        checks=mass.sharpest_scale,
        search=lambda sides: (
            f"a grid of 2001 scales for each of {sides[0].shape[-1]} random mixtures"
        ),
        tolerance=1e-12,
    ),
    claims.Bound(
        "attention-mass-log-rule",
        "Some prompt puts the share $A$ of its attention on the relevant tokens exactly when $Q "
        "\\geq \\sigma\\sqrt{2\\log(\\frac{1-\\zeta}{\\zeta}\\frac{A}{1-A})}$: sparsity costs the "
        "root of a logarithm.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=PAPER,
        checks=measured_mass.context_for_mass,
        search=lambda sides: (
            f"a grid of 4001 scales for each of {sides[0].shape[-1]} random sparsities from 0.4 to "
            "4e-5, contexts 0.1 % shorter and longer"
        ),
    ),
    claims.Estimate(
        "first-steps",
        "With infinitely many samples the three steps are $w_1 = \\eta a w^\\star$, $q_1 = "
        "\\gamma(k_q q^\\star + k_w w^\\star)$ and the head $w_2$ on the features of $q_1$, for "
        "any deviations and any cosine; $k_w = 0$ when $q^\\star \\perp w^\\star$.",
        source=PAPER,
        checks=descent.population_descent,
        max_deviation=chance,
    ),
    claims.Identity(
        "first-prompt-closed-form",
        "The closed form of $k_q$ and $k_w$ is the average over labels and deviations of the "
        "gradient of one bag, on random mixtures with several deviations and any cosine.",
        tolerance=1e-12,
        source=HERE,
        checks=descent.first_prompt_coefficients,
    ),
    claims.Bound(
        "head-step-too-long",
        "Under squared loss the first prompt points along the context for "
        "$\\eta < \\eta_{\\mathrm{crit}} = 1/(\\zeta(\\zeta W^2 - \\sigma^2/T))$ and against it "
        "beyond.",
        values=itemgetter(0),
        limits=0.0,
        source=HERE,
        checks=critical_step,
        search=lambda met: (
            f"{met[1]:,} bags at {', '.join(f'{f:g}' for f in FACTORS)} times the step; "
            "the wrong sign must lie 4 standard errors away"
        ),
    ),
    claims.Estimate(
        "logistic-first-prompt",
        "Under logistic loss the first prompt is the multiple of the context that the formula "
        "gives, in core models and with deviations, for short and for long steps of the head.",
        source=HERE,
        checks=logistic_prompt_coefficient,
        max_deviation=chance,
    ),
    claims.Bound(
        "logistic-sign",
        "Under logistic loss the first prompt of a core model points along the context, however "
        "long the head step. With the deviations $(0,0)$ and $(1,1)$ at $\\zeta = 1/4$ it points "
        "against it.",
        values=itemgetter(0),
        limits=0.0,
        source=HERE,
        checks=sampled_descent.gradients,
        search=lambda met: (
            f"{met[1]:,} bags at head steps of {', '.join(f'{eta:g}' for eta in ETAS)}; "
            "the wrong sign must lie 4 standard errors away"
        ),
    ),
)

EXPONENT = claims.Published(
    1.0,
    favours="lower",
    margin=0.1,
    reason="in the exponent: over the widths of a build it is far less than the step to the next "
    "plausible power, a half or three halves",
)
"""The rate of the paper's theorem, with the tolerance of this book."""

GROWTH = (
    claims.Outcome(
        "samples-grow-linearly",
        lambda met: (
            f"The number of bags at which the first prompt reaches the cosine {met.target:g} with "
            f"the context grows no faster than $d^{{1.1}}$ ({met.widths})."
        ),
        values=lambda met: met.exponents,
        below=1.1,
        source=PAPER,
        checks=alignment.sample_growth,
        unit="(exponent)",
        published=EXPONENT,
        note="the exponent of the formula is 1; a tenth is the tolerance of this book",
    ),
    claims.Outcome(
        "samples-grow-at-least-linearly",
        lambda met: (
            f"The number of bags at which the first prompt reaches the cosine {met.target:g} with "
            f"the context grows faster than $d^{{0.9}}$ ({met.widths})."
        ),
        values=lambda met: met.exponents,
        above=0.9,
        source=HERE,
        checks=alignment.sample_growth,
        unit="(exponent)",
        note="narrow layers need more than their share of bags, which flattens the growth; the "
        "page computes by how much at these widths",
    ),
)


def measure(
    seed: int,
    *,
    samples: int,
    mass_samples: int,
    law_runs: int,
    formula_dim: int,
    formula_runs: int,
    estimator_runs: int,
    imbalance_runs: int,
) -> dict[str, Any]:
    """What each of `ROWS` is judged by."""
    bags, masses, steps = measured_bags, measured_mass, measured_steps
    return {
        "first-steps": steps.steps_beside_gradients(seed, samples),
        "first-prompt-closed-form": steps.closed_form_errors(seed),
        "attention-mass-finite-tokens": masses.moments_beside_bags(seed, mass_samples),
        "attention-mass-floor": masses.floors(seed, 60),
        "attention-mass-excess": masses.excesses(seed),
        "attention-mass-best-scale": masses.masses_by_scale(seed),
        "attention-mass-log-rule": masses.masses_by_context(seed),
        "alignment-law": bags.law_beside_bags(seed, law_runs),
        "alignment-formula": bags.formula_beside_law(seed, formula_dim, formula_runs),
        "best-from-bag-means": bags.estimators_beside_limit(seed, estimator_runs),
        "signed-average-is-best": bags.average_beside_limit(seed, 5 * estimator_runs),
        "two-bags-suffice": bags.errors_from_two_bags(seed),
        "labels-out-of-balance": bags.shares_failed(seed, imbalance_runs),
        "head-step-too-long": steps.gradients_around_critical_step(seed, samples // 2),
        "logistic-first-prompt": steps.logistic_prompts(seed, samples),
        "logistic-sign": steps.logistic_signs(seed, samples),
    }

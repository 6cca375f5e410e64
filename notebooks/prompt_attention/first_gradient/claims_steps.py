"""Claims about the three steps with infinitely many samples, and about logistic loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.prompt_attention.first_gradient.instances import PAPER, random_mixture
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.progress import progress_bar
from promptlib.prompt_attention import bag_moments, descent
from promptlib.prompt_attention.deviations import largest_deviation
from promptlib.prompt_attention.instances import BOOK, POINTS
from promptlib.prompt_attention.mixture import ContextualMixture

BLOCKS = 200
"""Groups of bags behind each standard error of a mean gradient."""
CORE = (POINTS[0], POINTS[1], ContextualMixture(7, 8, 0.25, 1.0, 1.0, 0.6))
LIARS = POINTS[4]
"""The last of the core models, with irrelevant tokens that claim the opposite of the label."""


def mean_gradient(
    mixture: ContextualMixture,
    w: Tensor,
    q: Tensor,
    n: int,
    generator: torch.Generator,
    loss: descent.Loss = "squared",
    blocks: int = BLOCKS,
) -> tuple[Tensor, Tensor]:
    """Minus both gradients on `n` fresh bags, and their standard errors from blocks.

    Returns
    -------
    mean, standard_error : Tensor, shape (2, d)
        The gradient of the head, then the one of the prompt.
    """
    rows = []
    for _ in range(blocks):
        bags = mixture.sample(max(1, n // blocks), generator)
        rows.append(torch.stack(descent.gradients(bags.tokens, bags.labels, w, q, loss)))
    values = -torch.stack(rows)  # (blocks, 2, d)
    return values.mean(0), values.std(0) / math.sqrt(blocks)


def first_steps(
    seed: int,
    samples: int,
    eta: float = 0.9,
    gamma: float = 5.0,
    population: Callable[..., tuple[Tensor, Tensor]] = descent.population_descent,
    head: Callable[..., Tensor] = descent.population_head,
) -> Claim:
    """Each population step against the gradient on fresh bags, coordinate by coordinate."""
    generator = torch.Generator().manual_seed(seed)
    formula, measured, errors = [], [], []
    for mixture in progress_bar(POINTS, "population steps"):
        w1, q1 = population(mixture, eta, gamma)
        zero = torch.zeros_like(w1)
        for predicted, step, (w, q), part in (
            (w1, eta, (zero, zero), 0),
            (q1, gamma, (w1, zero), 1),
            (head(mixture, q1, eta), eta, (zero, q1), 0),
        ):
            mean, error = mean_gradient(mixture, w, q, samples, generator)
            formula.append(predicted)
            measured.append(step * mean[part])
            errors.append(step * error[part])
    return claims.estimate(
        "prompt-attention/first-steps",
        "With infinitely many samples the three steps are $w_1 = \\eta a w^\\star$, "
        "$q_1 = \\gamma(k_q q^\\star + k_w w^\\star)$ and the head $w_2$ on the features of "
        "$q_1$, for "
        "any deviations and any cosine; $k_w = 0$ when $q^\\star \\perp w^\\star$.",
        formula=torch.cat(formula),
        measured=torch.cat(measured),
        standard_errors=torch.cat(errors),
        source=PAPER,
        checks=descent.population_descent,
        max_deviation=largest_deviation(sum(len(part) for part in formula), BLOCKS),
    )


def closed_form(
    seed: int,
    instances: int = 300,
    population: Callable[..., tuple[Tensor, Tensor]] = descent.population_descent,
) -> Claim:
    """The closed form of the first prompt against the sum over cases."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        mixture = random_mixture(generator)
        w1, q1 = population(mixture, 0.7, 1.0)
        exact = bag_moments.mean_prompt_gradient(mixture, w1)
        errors.append((q1 - exact).norm() / (1.0 + exact.norm()))
    return claims.identity(
        "prompt-attention/first-prompt-closed-form",
        "The closed form of $k_q$ and $k_w$ is the average over labels and deviations of the "
        "gradient "
        "of one bag, on random mixtures with several deviations and any cosine.",
        errors=torch.stack(errors),
        tolerance=1e-12,
        source=BOOK,
        checks=descent.first_prompt_coefficients,
    )


def step_too_long(
    seed: int,
    samples: int,
    factors: tuple[float, ...] = (0.5, 0.8, 1.25, 2.0),
    critical: Callable[..., Tensor] = descent.critical_step,
) -> Claim:
    """The measured first prompt, on either side of the critical head step."""
    generator = torch.Generator().manual_seed(seed)
    mixture = ContextualMixture(6, 20, 0.3, 1.2, 1.5, 0.7)
    limit = float(
        critical(mixture.sparsity, mixture.signal_norm, mixture.noise_std, mixture.tokens)
    )
    values = []
    for factor in factors:
        w1 = factor * limit * mixture.sparsity * mixture.signal
        mean, error = mean_gradient(mixture, w1, torch.zeros_like(w1), samples, generator)
        side = 1.0 if factor < 1 else -1.0
        axis = int(mixture.context.argmax())
        values.append(float(4 * error[1, axis] - side * mean[1, axis]))
    return claims.bound(
        "prompt-attention/head-step-too-long",
        "Under squared loss the first prompt points along the context for "
        "$\\eta < \\eta_{\\mathrm{crit}} = 1/(\\zeta(\\zeta W^2 - \\sigma^2/T))$ and against it "
        "beyond.",
        values=values,
        limits=0.0,
        source=BOOK,
        checks=descent.critical_step,
        search=f"{samples:,} bags at {', '.join(f'{f:g}' for f in factors)} times the step; "
        "the wrong sign must lie 4 standard errors away",
    )


def logistic_prompt(
    seed: int,
    samples: int,
    etas: tuple[float, ...] = (1.0, 10.0, 40.0),
    coefficient: Callable[..., Tensor] = descent.logistic_prompt_coefficient,
) -> Claim:
    """The first prompt under logistic loss against the gradient on fresh bags."""
    generator = torch.Generator().manual_seed(seed)
    formula, measured, errors = [], [], []
    for mixture in (*CORE, LIARS):
        for eta in etas:
            mean, error = logistic_gradient(mixture, eta, samples, generator)
            formula.append(float(coefficient(mixture, eta)) * mixture.context_norm)
            measured.append(mean)
            errors.append(error)
    return claims.estimate(
        "prompt-attention/logistic-first-prompt",
        "Under logistic loss the first prompt is the multiple of the context that the formula "
        "gives, in core models and with deviations, for short and for long steps of the head.",
        formula=formula,
        measured=measured,
        standard_errors=errors,
        source=BOOK,
        checks=descent.logistic_prompt_coefficient,
        max_deviation=largest_deviation(len(formula), BLOCKS),
    )


def logistic_sign(
    seed: int,
    samples: int,
    etas: tuple[float, ...] = (1.0, 10.0, 40.0),
    gradient: Callable[..., tuple[float, float]] | None = None,
) -> Claim:
    """On which side the first prompt starts, without deviations and with them."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for mixture, side in (*((core, 1.0) for core in CORE), (LIARS, -1.0)):
        for eta in etas:
            mean, error = (gradient or logistic_gradient)(mixture, eta, samples, generator)
            values.append(4 * error - side * mean)
    return claims.bound(
        "prompt-attention/logistic-sign",
        "Under logistic loss the first prompt of a core model points along the context, however "
        "long the head step. With the deviations $(0,0)$ and $(1,1)$ at $\\zeta = 1/4$ it points "
        "against it.",
        values=values,
        limits=0.0,
        source=BOOK,
        checks=descent.gradients,
        search=f"{samples:,} bags at head steps of {', '.join(f'{eta:g}' for eta in etas)}; "
        "the wrong sign must lie 4 standard errors away",
    )


def logistic_gradient(
    mixture: ContextualMixture, eta: float, samples: int, generator: torch.Generator
) -> tuple[float, float]:
    """The first prompt under logistic loss along the context (prompt step one), and its error."""
    _, delta_w = mixture.deviation_table.T
    gain = descent.first_head_gain(mixture.sparsity, mixture.deviation_probabilities @ delta_w)
    w1 = eta / 2 * gain * mixture.signal
    mean, error = mean_gradient(
        mixture, w1, torch.zeros_like(w1), samples, generator, loss="logistic"
    )
    axis = int(mixture.context.argmax())
    return float(mean[1, axis]), float(error[1, axis])


check_public(__name__)

"""How far are gradients on bags from the closed forms of the three steps, and of long ones?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from notebooks.prompt_attention.first_gradient.long_steps import (
    critical_step,
    logistic_prompt_coefficient,
)
from promptlib.progress import progress_bar
from promptlib.prompt_attention import bag_moments, descent, sampled_descent
from promptlib.prompt_attention.deviations import Comparison
from promptlib.prompt_attention.instances import POINTS
from promptlib.prompt_attention.mixture import ContextualMixture

BLOCKS = 100
"""Groups of bags behind each standard error of a mean gradient."""
CORE = (POINTS[0], POINTS[1], ContextualMixture(7, 8, 0.25, 1.0, 1.0, 0.6))
FACTORS = (0.5, 0.8, 1.25, 2.0)
"""Head steps, in parts of the critical one."""
ETAS = (1.0, 10.0, 40.0)
"""Head steps under logistic loss."""
LIARS = POINTS[4]
"""The last of the core models, with irrelevant tokens that claim the opposite of the label."""


def random_mixture(generator: torch.Generator, **fixed: object) -> ContextualMixture:
    """A mixture with random parameters; `fixed` ones are kept."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    tokens = int(torch.randint(2, 40, (), generator=generator))
    kinds = int(torch.randint(1, 4, (), generator=generator))
    weights = [uniform(0.1, 1.0) for _ in range(kinds)]
    parameters: dict[str, object] = {
        "dim": int(torch.randint(2, 9, (), generator=generator)),
        "tokens": tokens,
        "sparsity": int(torch.randint(1, tokens, (), generator=generator)) / tokens,
        "context_norm": uniform(0.3, 3.0),
        "signal_norm": uniform(0.3, 3.0),
        "noise_std": uniform(0.0, 2.0),
        "cosine": uniform(-0.95, 0.95),
        "deviations": tuple((uniform(0.0, 3.0), uniform(-3.0, 3.0)) for _ in range(kinds)),
        "probabilities": tuple(weight / sum(weights) for weight in weights),
    }
    return ContextualMixture(**{**parameters, **fixed})  # type: ignore[arg-type]


def mean_prompt_gradient(mixture: ContextualMixture, w: Tensor) -> Tensor:
    r"""The population step of the prompt at ``q = 0`` for any head, squared loss.

    .. math::

        -\nabla_q L(w, 0) = E\bigl[(y - \langle w, \bar x\rangle)\, S_X w\bigr]
        = E_{y,\delta}\Bigl[
            &\zeta(1-\zeta)\bigl((y-h)\,D^\top w + \tfrac{\sigma^2}{T}\lVert w\rVert^2\bigr) D \\
            &+ (1-\zeta)\sigma^2\bigl((1-\tfrac1T)(y-h) + \tfrac{\zeta}{T} D^\top w\bigr) w
        \Bigr]

    with :math:`h = \langle w, \zeta r + (1-\zeta) i\rangle`. It holds for every cosine and every
    distribution of the deviations; the terms in 1/T come from the noise of the mean token, which
    appears in both factors.

    Shapes: w (..., d) -> (..., d).
    """
    if w.shape[-1:] != (mixture.dim,):
        raise ValueError(f"w must have shape (..., {mixture.dim}), got {tuple(w.shape)}")
    kinds, share, count = bag_moments.cases(mixture), mixture.sparsity, mixture.tokens
    variance = mixture.noise_std**2
    residual = kinds.labels - w @ bag_moments.bag_mean(mixture).T  # (..., P)
    contrast = w @ kinds.difference.T  # (..., P), Dᵀw
    squared = (w * w).sum(-1, keepdim=True)  # (..., 1)
    along_difference = share * (1 - share) * (residual * contrast + variance / count * squared)
    along_head = (1 - share) * variance * ((1 - 1 / count) * residual + share / count * contrast)
    weights = kinds.probabilities
    return (weights * along_difference) @ kinds.difference + (weights * along_head).sum(
        -1, keepdim=True
    ) * w


def mean_gradient(
    mixture: ContextualMixture,
    w: Tensor,
    q: Tensor,
    n: int,
    generator: torch.Generator,
    loss: sampled_descent.Loss = "squared",
    blocks: int = BLOCKS,
) -> tuple[Tensor, Tensor]:
    """Minus both gradients on `n` fresh bags, and their standard errors from blocks.

    Shape (2, d).
    """
    rows = []
    for _ in range(blocks):
        bags = mixture.sample(max(1, n // blocks), generator)
        rows.append(torch.stack(sampled_descent.gradients(bags.tokens, bags.labels, w, q, loss)))
    values = -torch.stack(rows)  # (blocks, 2, d)
    return values.mean(0), values.std(0) / math.sqrt(blocks)


def steps_beside_gradients(
    seed: int,
    samples: int,
    eta: float = 0.9,
    gamma: float = 5.0,
    population: Callable[..., tuple[Tensor, Tensor]] = descent.population_descent,
    head: Callable[..., Tensor] = descent.population_head,
) -> Comparison:
    """Each population step against the gradient on fresh bags, coordinate by coordinate."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for mixture in progress_bar(POINTS, "population steps"):
        w1, q1 = population(mixture, eta, gamma)
        zero = torch.zeros_like(w1)
        for predicted, step, (w, q), part in (
            (w1, eta, (zero, zero), 0),
            (q1, gamma, (w1, zero), 1),
            (head(mixture, q1, eta), eta, (zero, q1), 0),
        ):
            mean, error = mean_gradient(mixture, w, q, samples, generator)
            rows.append((predicted, step * mean[part], step * error[part]))
    return Comparison.of(rows, BLOCKS)


def closed_form_errors(
    seed: int,
    instances: int = 150,
    population: Callable[..., tuple[Tensor, Tensor]] = descent.population_descent,
) -> Tensor:
    """The closed form of the first prompt against the sum over cases."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        mixture = random_mixture(generator)
        w1, q1 = population(mixture, 0.7, 1.0)
        exact = mean_prompt_gradient(mixture, w1)
        errors.append((q1 - exact).norm() / (1.0 + exact.norm()))
    return torch.stack(errors)


def gradients_around_critical_step(
    seed: int,
    samples: int,
    factors: tuple[float, ...] = FACTORS,
    critical: Callable[..., Tensor] = critical_step,
) -> tuple[list[float], int]:
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
    return values, samples


def logistic_prompts(
    seed: int,
    samples: int,
    etas: tuple[float, ...] = ETAS,
    coefficient: Callable[..., Tensor] = logistic_prompt_coefficient,
) -> Comparison:
    """The first prompt under logistic loss against the gradient on fresh bags."""
    rows = [
        (float(coefficient(mixture, eta)) * mixture.context_norm, mean, error)
        for mixture, eta, mean, error in _logistic_gradients(seed, samples, etas, logistic_gradient)
    ]
    return Comparison.of(rows, BLOCKS)


def logistic_signs(
    seed: int,
    samples: int,
    etas: tuple[float, ...] = ETAS,
    gradient: Callable[..., tuple[float, float]] | None = None,
) -> tuple[list[float], int]:
    """On which side the first prompt starts, without deviations and with them."""
    drawn = _logistic_gradients(seed, samples, etas, gradient or logistic_gradient)
    values = [
        4 * error - (-1.0 if mixture is LIARS else 1.0) * mean for mixture, _, mean, error in drawn
    ]
    return values, samples


@lru_cache(maxsize=1)  # two claims ask for the same draws
def _logistic_gradients(
    seed: int,
    samples: int,
    etas: tuple[float, ...],
    gradient: Callable[..., tuple[float, float]],
) -> list[tuple[ContextualMixture, float, float, float]]:
    """Mixture, head step, and `logistic_gradient` there."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (mixture, eta, *gradient(mixture, eta, samples, generator))
        for mixture in (*CORE, LIARS)
        for eta in etas
    ]


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

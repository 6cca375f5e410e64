"""How far are the formulas for a head's price from what bags, features and limits give?

Every claim of the chapter "The exact price of learning the head" is decided on numbers that a
function of this module makes. Each takes the formula under test as an argument, so that a test can
hand in a wrong one and see the claim fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from notebooks.prompt_attention.price_of_the_head.concentrated_head import (
    best_scale,
    concentrated_averaging_error,
    concentrated_known_error,
    concentrated_least_squares_error,
    context_gain,
    signal_to_noise,
)
from notebooks.prompt_attention.price_of_the_head.head_limits import (
    averaging_error,
    hard_attention_error,
    informed_error,
    known_head_error,
)
from notebooks.prompt_attention.price_of_the_head.head_simulation import (
    SimulatedErrors,
    simulate_on_features,
    simulate_on_tokens,
)
from promptlib.attention import attend
from promptlib.checks import check_public
from promptlib.progress import progress_bar
from promptlib.prompt_attention.deviations import Comparison, largest_deviation
from promptlib.prompt_attention.feature_law import FeatureLaw, feature_law, feature_laws
from promptlib.prompt_attention.head_price import head_error
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.ridge_head import ridge_error

__all__ = [
    "Priced",
    "Setting",
    "against_bags",
    "against_features",
    "attention_weight_errors",
    "best_prompt_errors",
    "closed_form_errors",
    "hard_attention_comparison",
    "informed_bound",
    "informed_gaps",
    "random_laws",
    "ridge_limit_errors",
]


class Setting(NamedTuple):
    """One point at which formula and simulation meet."""

    mixture: ContextualMixture
    scale: float  # κ of the known prompt
    samples: int  # Labelled bags; the formula gets ``samples / (dim - 1)``

    @property
    def samples_per_dim(self) -> float:
        """α: the features live in ``dim - 1`` dimensions."""
        return self.samples / (self.mixture.dim - 1)


class Priced(NamedTuple):
    """Formula and simulation, each of shape (settings, ridges)."""

    formula: Tensor
    measured: Tensor
    standard_errors: Tensor
    widths: Tensor  # (settings, 1): d
    runs: int  # training sets behind each standard error

    @property
    def deviations(self) -> Tensor:
        """Measured minus formula, in standard errors."""
        return (self.measured - self.formula) / self.standard_errors

    @property
    def chance(self) -> float:
        """What chance explains, in standard errors."""
        return largest_deviation(self.formula.numel(), self.runs)

    @property
    def allowance(self) -> Tensor:
        """What a formula for endless width may be off at these widths."""
        return 0.2 / (self.widths - 1)

    def at(self, settings: Any, ridges: Any = slice(None)) -> Priced:
        """Some settings and ridges alone."""
        formula, measured, standard_errors = (
            part[settings][:, ridges]
            for part in (self.formula, self.measured, self.standard_errors)
        )
        return Priced(formula, measured, standard_errors, self.widths[settings], self.runs)

    @classmethod
    def joined(cls, parts: Sequence[Priced]) -> Priced:
        """Several, one point a row."""

        def column(name: str) -> Tensor:
            columns = [getattr(part, name).expand_as(part.formula) for part in parts]
            return torch.cat([one.double().reshape(-1, 1) for one in columns])

        formula, measured, standard_errors, widths = map(column, cls._fields[:4])
        return cls(formula, measured, standard_errors, widths, parts[0].runs)


Formula = Callable[[ContextualMixture, float, float, float], float]


def against_bags(
    settings: Sequence[Setting],
    ridges: Sequence[float],
    repetitions: int,
    generator: torch.Generator,
    *,
    formula: Formula = head_error,
    progress: Callable[..., Iterable[Any]] = progress_bar,
    **options: Any,
) -> Priced:
    """Confront a formula for the error with heads learned on bags of tokens."""
    return _confront(
        simulate_on_tokens, settings, ridges, repetitions, generator, formula, progress, options
    )


def against_features(
    settings: Sequence[Setting],
    ridges: Sequence[float],
    repetitions: int,
    generator: torch.Generator,
    *,
    formula: Formula = head_error,
    progress: Callable[..., Iterable[Any]] = progress_bar,
    **options: Any,
) -> Priced:
    """The same with features drawn from their exact law; parameters as for :func:`against_bags`."""
    return _confront(
        simulate_on_features, settings, ridges, repetitions, generator, formula, progress, options
    )


def attention_weight_errors(
    mixture: ContextualMixture,
    scale: float,
    bags: int,
    generator: torch.Generator,
    *,
    laws: Callable[..., FeatureLaw] = feature_laws,
) -> Tensor:
    """Differences between (A, s) read off real attention weights and computed from the logits.

    Rows, (3, bags): errors of A, of s, and of the feature rebuilt from them (largest coordinate).
    """
    sample = mixture.sample(bags, generator)
    context = mixture.context
    pooled, weights = attend((scale * context)[None, :], sample.tokens, sample.tokens, scale=1.0)
    pooled, weights = pooled[:, 0], weights[:, 0]  # (n, d), (n, T)
    noise = sample.tokens[~sample.relevant].view(bags, -1, mixture.dim)  # (n, T - m, d)
    law = laws(
        noise @ context / (mixture.context_norm * mixture.noise_std),
        mixture.tokens,
        sparsity=mixture.sparsity,
        context_norm=mixture.context_norm,
        signal_norm=mixture.signal_norm,
        noise_std=mixture.noise_std,
        scale=scale,
    )
    mass = (weights * sample.relevant).sum(-1)
    outside = weights[~sample.relevant].view(bags, -1)
    spread = outside.square().sum(-1).sqrt()
    direction = context / context.norm()
    across = pooled - (pooled @ direction)[:, None] * direction
    noise_across = noise - (noise @ direction)[..., None] * direction
    rest = (outside[..., None] * noise_across).sum(1)
    signal = law.signal / mixture.signal_norm
    rebuilt = signal[:, None] * sample.labels[:, None] * mixture.signal + rest
    return torch.stack(
        (
            mass - signal,
            spread - law.noise / mixture.noise_std,
            (across - rebuilt).abs().amax(-1),
        )
    )


def random_laws(count: int, draws: int, generator: torch.Generator) -> FeatureLaw:
    """Laws of signal and noise that no mixture need have: to try formulas on."""
    shape = (count, draws)
    signal = 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    # Not too faint: a head's approach to its limits slows down with the inverse square of it.
    signal = signal * (0.05 + 0.95 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
    spread = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    noise = (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).exp()
    return FeatureLaw(signal, noise)


def ridge_limit_errors(
    law: FeatureLaw, *, error: Callable[..., Tensor] = ridge_error
) -> dict[str, Tensor]:
    """How far the ridge formula is from its limits, close to each of them."""
    alphas = torch.tensor([[0.3], [0.7], [1.5], [4.0]], dtype=torch.float64)  # against (count,)
    averaged = averaging_error(law, alphas)
    return {
        "no ridge": error(law, alphas, 1e-12) - error(law, alphas, 0.0),
        "heavy ridge": error(law, alphas, 1e12) - averaged,
        "endless data": error(law, 1e11, 0.1) - known_head_error(law),
        "ordinary ridge at infinity": error(law, alphas, math.inf) - averaged,
    }


def closed_form_errors(
    count: int, generator: torch.Generator, *, error: Callable[..., Tensor] = ridge_error
) -> Tensor:
    """The fixed point with a constant law, against the closed forms of the concentrated case.

    Shape (3, count).
    """
    signal = 0.05 + 2 * torch.rand(count, generator=generator, dtype=torch.float64)
    noise = 0.05 + 2 * torch.rand(count, generator=generator, dtype=torch.float64)
    alpha = 10 ** (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1)
    law = FeatureLaw(signal[:, None], noise[:, None])
    ratio = signal / noise
    return torch.stack(
        (
            error(law, alpha, 0.0) - concentrated_least_squares_error(ratio, alpha),
            error(law, alpha, math.inf) - concentrated_averaging_error(ratio, alpha),
            error(law, math.inf, 0.0) - concentrated_known_error(ratio),
        )
    )


def best_prompt_errors(
    *, ratio: Callable[..., Tensor] = signal_to_noise, points: int = 2001
) -> Tensor:
    r"""Where :math:`R^2` is largest in κ, and how much larger than without a prompt.

    Rows, (2, cells): relative distance of the best point of a grid from :math:`1/(2\sigma^2)`,
    where the grid has a point, and relative error of the gain, for 5 × 4 values of (Q, σ).
    """
    context = torch.linspace(0.5, 3.0, 5, dtype=torch.float64)[:, None]
    noise = torch.linspace(0.6, 1.5, 4, dtype=torch.float64)
    expected = best_scale(noise)
    grid = torch.linspace(0, 4, points, dtype=torch.float64)[:, None, None] * expected
    shared = {"sparsity": 0.1, "context_norm": context, "signal_norm": 0.7, "noise_std": noise}
    squared = ratio(1000, scale=grid, **shared).square()  # (points, 5, 4)
    found = grid.expand_as(squared).gather(0, squared.argmax(0, keepdim=True))[0]
    gain = squared.amax(0) / squared[0]
    return torch.stack(
        (
            (found / expected - 1).flatten(),
            (gain / context_gain(context, noise) - 1).flatten(),
        )
    )


def informed_bound(
    law: FeatureLaw, *, bound: Callable[..., Tensor] = informed_error
) -> tuple[Tensor, Tensor]:
    """The informed head's error, and the smallest error that any ridge reaches, at many α.

    Shape (alphas, count).
    """
    alphas = torch.logspace(-1, 1.5, 11, dtype=torch.float64)[:, None]
    ridges = torch.logspace(-3, 3, 25, dtype=torch.float64)[:, None, None]
    smallest = torch.minimum(
        ridge_error(law, alphas, ridges).amin(0), ridge_error(law, alphas, math.inf)
    )
    return bound(law, alphas), smallest


def informed_gaps(
    count: int,
    generator: torch.Generator,
    *,
    bound: Callable[..., Tensor] = informed_error,
) -> Tensor:
    """The averaging head's error less the informed bound, where all bags are read alike.

    Shape (count,).
    """
    signal = 0.05 + 2 * torch.rand(count, generator=generator, dtype=torch.float64)
    noise = 0.05 + 2 * torch.rand(count, generator=generator, dtype=torch.float64)
    alpha = 10 ** (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1)
    law = FeatureLaw(signal[:, None], noise[:, None])
    return averaging_error(law, alpha) - bound(law, alpha)


def hard_attention_comparison(
    mixtures: Sequence[ContextualMixture],
    scale: float,
    draws: int,
    generator: torch.Generator,
    *,
    formula: Callable[..., Tensor] = hard_attention_error,
) -> Comparison:
    """The limit κ → ∞ against the known head at one large κ, on independent draws."""
    rows = []
    for mixture in mixtures:
        law = feature_law(mixture, scale, generator, draws)
        errors = torch.special.ndtr(-law.signal / law.noise)
        limit = formula(
            mixture.tokens,
            sparsity=mixture.sparsity,
            context_norm=mixture.context_norm,
            noise_std=mixture.noise_std,
        )
        rows.append((limit, errors.mean(), errors.std() / math.sqrt(draws)))
    return Comparison.of(rows)


def _confront(
    simulate: Callable[..., SimulatedErrors],
    settings: Sequence[Setting],
    ridges: Sequence[float],
    repetitions: int,
    generator: torch.Generator,
    formula: Formula,
    progress: Callable[..., Iterable[Any]],
    options: dict[str, Any],
) -> Priced:
    def silent(items: Iterable[Any], *_: Any, **__: Any) -> Iterable[Any]:
        return items  # one bar, over the settings, is enough

    rows = []
    for setting in progress(settings, "formula against simulation", total=len(settings)):
        simulated = simulate(
            setting.mixture,
            setting.scale,
            setting.samples,
            ridges,
            repetitions,
            generator,
            progress=silent,
            **options,
        )
        predicted = torch.tensor(
            [
                formula(setting.mixture, setting.scale, setting.samples_per_dim, ridge)
                for ridge in ridges
            ],
            dtype=torch.float64,
        )
        rows.append(torch.stack((predicted, simulated.mean, simulated.standard_error)))
    widths = torch.tensor([[setting.mixture.dim] for setting in settings])
    formulas, measured, standard_errors = torch.stack(rows, dim=1)
    return Priced(formulas, measured, standard_errors, widths, repetitions)


check_public(__name__)

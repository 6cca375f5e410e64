r"""How many bags does it take until head and prompt point the right way?

The first two steps of :mod:`promptlib.prompt_attention.sampled_descent` on ``n`` fresh bags each,
core model with :math:`q_\star \perp w_\star`. A gradient is its mean plus :math:`d` coordinates of
noise of variance ``v/n``, so the cosines depend on ``n`` and ``d`` through :math:`\alpha = n/d`
alone when both are large. With

.. math::

    c = \eta\zeta, \quad \varepsilon^2 = \frac{(1-\zeta)\sigma^2}{T\zeta^2\alpha}, \quad
    \omega^2 = c^2 (W^2 + \varepsilon^2), \quad N = (1-\zeta)T, \quad
    \tau^2 = \frac{\omega^2\sigma^2}{N}, \\
    a = 1 - \zeta c W^2, \quad b = 1-\zeta, \quad B = cW^2

(:math:`\omega` is the length of the noisy head), the limits are

.. math::

    \cos(w_1, w_\star) &= \frac{W}{\sqrt{W^2 + \varepsilon^2}}, \qquad
    \cos(q_1, q_\star) = \frac{\mu}{\sqrt{\mu^2 + v/\alpha}}, \\
    \mu &= Q\zeta(1-\zeta)\bigl[B - \zeta B^2 + \tfrac{\sigma^2}{T}\omega^2\bigr], \\
    v &= \tfrac{(1-\zeta)\sigma^2}{T}\Bigl\{ \zeta^2\bigl[a^2B^2 + \tau^2(a^2 + b^2B^2 + 4abB)
         + 3b^2\tau^4\bigr] + (a^2 + b^2\tau^2)\,\omega^2\sigma^2\,(1-\tfrac1N) \Bigr\}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.progress import progress_bar
from promptlib.prompt_attention.mass import _number
from promptlib.prompt_attention.mixture import Bags, ContextualMixture
from promptlib.prompt_attention.sampled_descent import MEMORY_LIMIT, batches, gradients

CACHED = 2**17
"""Numbers drawn at a time: what a processor keeps at hand."""

__all__ = [
    "MEAN_ESTIMATORS",
    "Growth",
    "best_alignment_from_means",
    "context_and_signal_from_repeats",
    "growth_exponent",
    "head_alignment",
    "mean_estimator_alignments",
    "measured_alignment",
    "prompt_alignment",
    "sample_growth",
    "samples_for_alignment",
]


def head_alignment(
    samples_per_dim: Tensor | float,
    *,
    sparsity: Tensor | float,
    signal_norm: Tensor | float,
    noise_std: Tensor | float,
    tokens: Tensor | int,
) -> Tensor:
    r"""The cosine of the first head and the signal, ``n, d`` large with :math:`n/d = \alpha`.

    .. math:: \cos(w_1, w_\star)
              = \Bigl(1 + \frac{(1-\zeta)\sigma^2}{T\zeta^2W^2\alpha}\Bigr)^{-1/2}

    Core model, :math:`\rho = 0`; the same for every step size. Source: this book, after Oymak et
    al. 2023, contribution (2).
    """
    alpha, share, norm, std, count = _parameters(
        samples_per_dim, sparsity, signal_norm, noise_std, tokens
    )
    return (1 + _head_noise(alpha, share, std, count) / norm**2) ** -0.5


def prompt_alignment(
    samples_per_dim: Tensor | float,
    *,
    eta: Tensor | float,
    sparsity: Tensor | float,
    signal_norm: Tensor | float,
    noise_std: Tensor | float,
    tokens: Tensor | int,
    context_norm: Tensor | float = 1.0,
) -> Tensor:
    r"""The cosine of the first prompt and the context, ``n, d`` large with :math:`n/d = \alpha`.

    :math:`\mu/\sqrt{\mu^2 + v/\alpha}` with the symbols at the top of this module: ``μ`` is the
    mean of the gradient along the context, ``v`` the variance of one bag's gradient in every other
    direction, both given the noisy head of the first step. Core model, :math:`\rho = 0`, squared
    loss, ``n`` fresh bags in each step. Source: this book, after Oymak et al. 2023, contribution
    (2).
    """
    alpha, share, norm, std, count = _parameters(
        samples_per_dim, sparsity, signal_norm, noise_std, tokens
    )
    context = _number("context_norm", context_norm, above=0.0)
    c = _number("eta", eta, above=0.0) * share
    others = (1 - share) * count
    length = c**2 * (norm**2 + _head_noise(alpha, share, std, count))  # ω²
    wobble = length * std**2 / others  # τ²
    a, b, pull = 1 - share * c * norm**2, 1 - share, c * norm**2
    mean = context * share * (1 - share) * (pull - share * pull**2 + std**2 / count * length)
    fourth = (
        a**2 * pull**2 + wobble * (a**2 + b**2 * pull**2 + 4 * a * b * pull) + 3 * b**2 * wobble**2
    )
    variance = ((1 - share) * std**2 / count) * (
        share**2 * fourth + (a**2 + b**2 * wobble) * length * std**2 * (1 - 1 / others)
    )
    return mean / (mean**2 + variance / alpha).sqrt()


def samples_for_alignment(
    target: float, alignment: Callable[[Tensor], Tensor], low: float = 1e-4, high: float = 1e8
) -> float:
    """The n/d at which an alignment formula reaches a target, by bisection of its logarithm."""
    ends = [float(alignment(torch.tensor(alpha, dtype=torch.float64))) for alpha in (low, high)]
    if not ends[0] < target < ends[1]:
        raise ValueError(
            f"the cosine goes from {ends[0]:.4g} to {ends[1]:.4g} for n/d from {low:g} to {high:g} "
            f"and does not cross {target}"
        )
    below, above = math.log(low), math.log(high)
    while above - below > 1e-12:
        middle = (below + above) / 2
        reached = float(alignment(torch.tensor(math.exp(middle), dtype=torch.float64))) >= target
        below, above = (below, middle) if reached else (middle, above)
    return math.exp((below + above) / 2)


def measured_alignment(
    mixture: ContextualMixture,
    n: int,
    eta: float,
    runs: int,
    generator: torch.Generator,
    memory_limit: int = MEMORY_LIMIT,
) -> Tensor:
    r"""Cosines of the first two iterates with their targets, in independent runs.

    Shape (runs, 2).
    """
    zero = torch.zeros(mixture.dim, dtype=mixture.dtype)
    cosines = torch.empty(runs, 2, dtype=torch.float64)
    for run in range(runs):
        w1, q1 = torch.zeros_like(zero), torch.zeros_like(zero)
        for bags in batches(mixture, n, generator, memory_limit):
            # The gradient at the start is the mean token times the label: no softmax needed.
            w1 += eta / n * (bags.labels @ bags.tokens.mean(1))
        for bags in batches(mixture, n, generator, memory_limit):
            q1 -= len(bags.tokens) / n * gradients(bags.tokens, bags.labels, w1, zero)[1]
        cosines[run, 0] = torch.cosine_similarity(w1, mixture.signal, dim=0)
        cosines[run, 1] = torch.cosine_similarity(q1, mixture.context, dim=0)
    return cosines


class Growth(NamedTuple):
    """What :func:`sample_growth` measures."""

    dims: Tensor  # (D,)
    samples: Tensor  # (D, S): ``n`` of each measurement
    cosines: Tensor  # (D, S, runs): `\cos(q_1, q_\star)`

    def needed(self, target: float, blocks: int) -> Tensor:
        """The ``n`` at which the mean cosine of a block of runs crosses `target`.

        By linear interpolation in log n.

        Shape (blocks, D).
        """
        runs = self.cosines.shape[-1]
        if blocks < 1 or runs % blocks:
            raise ValueError(f"blocks must divide the {runs} runs, got {blocks}")
        means = self.cosines.reshape(*self.cosines.shape[:2], blocks, -1).mean(-1)  # (D, S, blocks)
        reached = means >= target
        first = reached.int().argmax(1)  # (D, blocks), the first grid point at or above the target
        if not reached.any(1).all() or (first == 0).any():
            raise ValueError(
                f"the cosine {target} must be crossed inside the measured samples "
                f"{self.samples.min():g} to {self.samples.max():g}, means go from "
                f"{float(means.min()):.3f} to {float(means.max()):.3f}; widen the grid"
            )
        log_n = self.samples.log()
        upper = log_n.gather(1, first)
        lower = log_n.gather(1, first - 1)
        high = means.gather(1, first[:, None]).squeeze(1)
        low = means.gather(1, first[:, None] - 1).squeeze(1)
        return (lower + (target - low) / (high - low) * (upper - lower)).exp().T


def sample_growth(
    mixture: Callable[[int], ContextualMixture],
    dims: Sequence[int],
    samples_per_dim: Sequence[float],
    eta: float,
    runs: int,
    generator: torch.Generator,
    measure: Callable[..., Tensor] = measured_alignment,
) -> Growth:
    """Measure the prompt's alignment on a grid of widths and of bags per width."""
    samples = torch.tensor([[max(2, round(a * d)) for a in samples_per_dim] for d in dims])
    cosines = torch.empty(*samples.shape, runs, dtype=torch.float64)
    cells = [(i, j) for i in range(len(dims)) for j in range(len(samples_per_dim))]
    for i, j in progress_bar(cells, "alignment against n and d"):
        cosines[i, j] = measure(mixture(dims[i]), int(samples[i, j]), eta, runs, generator)[:, 1]
    return Growth(torch.tensor(dims, dtype=torch.float64), samples.double(), cosines)


def growth_exponent(dims: Tensor, needed: Tensor) -> Tensor:
    r"""The least-squares slope of :math:`\log n` against :math:`\log d`.

    Shapes: dims (D,), needed (..., D) -> (...).
    """
    if len(dims.unique()) < 2:
        raise ValueError(f"a slope needs at least 2 widths, got {dims.tolist()}")
    x = dims.double().log()
    x = x - x.mean()
    return (needed.double().log() * x).sum(-1) / (x * x).sum()


def best_alignment_from_means(
    dim: int, n: int, *, sparsity: float, signal_norm: float, noise_std: float, tokens: int
) -> float:
    r"""The largest mean cosine with the signal that any method can reach from ``n`` bag means.

    Even when the labels and the context are known, a bag mean only says
    :math:`y\bar x = \zeta w_\star + N(0, s^2 I)` on the :math:`d-1` directions orthogonal to
    :math:`q_\star`, with :math:`s^2 = (1-\zeta)\sigma^2/T`. For a signal of uniformly random
    direction the posterior is a von Mises-Fisher law around the average of the :math:`y\bar x`, so
    that average is the best estimate, and its mean cosine is

    .. math:: E\,\frac{\beta + g}{\sqrt{(\beta + g)^2 + \chi^2_{d-2}}}, \qquad
              \beta = \frac{\zeta W\sqrt n}{s}.

    It tends to :func:`head_alignment` as ``n`` and ``d`` grow together. Core model with
    :math:`\rho = 0` and noise. Source: this book.
    """
    if dim < 3:
        raise ValueError(f"dim must be at least 3, so that a direction is left to find, got {dim}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    _parameters(1.0, sparsity, signal_norm, noise_std, tokens)
    if noise_std == 0:
        raise ValueError("noise_std must be > 0: without noise one bag mean says everything")
    strength = sparsity * signal_norm * math.sqrt(n * tokens / (1 - sparsity)) / noise_std
    normal = torch.linspace(-9.0, 9.0, 361, dtype=torch.float64)
    weight = torch.exp(-(normal**2) / 2)
    freedom = dim - 2
    centre = math.sqrt(max(freedom - 1, 0))
    radius = torch.linspace(max(centre - 9, 1e-9), centre + 9, 721, dtype=torch.float64)
    log_chi = (freedom - 1) * radius.log() - radius**2 / 2
    chi = torch.exp(log_chi - log_chi.max())
    along = strength + normal[:, None]
    cosine = along / torch.sqrt(along**2 + radius**2)
    return float((weight @ cosine @ chi) / (weight.sum() * chi.sum()))


def _signed_average(means: Tensor, labels: Tensor) -> Tensor:
    return (labels[..., None] * means).mean(-2)


def _signed_median(means: Tensor, labels: Tensor) -> Tensor:
    return (labels[..., None] * means).median(-2).values


def _signed_trimmed(means: Tensor, labels: Tensor) -> Tensor:
    count = labels.shape[-1]
    cut = count // 10
    return (labels[..., None] * means).sort(-2).values[..., cut : count - cut, :].mean(-2)


def _ridge(means: Tensor, labels: Tensor) -> Tensor:
    gram = means.mT @ means
    level = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    penalty = level * torch.eye(gram.shape[-1], dtype=gram.dtype)
    return torch.linalg.solve(gram + penalty, means.mT @ labels[..., None])[..., 0]


def _principal(means: Tensor, labels: Tensor) -> Tensor:
    leading = torch.linalg.svd(means, full_matrices=False).Vh[..., 0, :]
    along = (leading * _signed_average(means, labels)).sum(-1, keepdim=True)
    return leading * torch.sign(along)


def _thresholded(means: Tensor, labels: Tensor) -> Tensor:
    average = _signed_average(means, labels)
    middle = average.abs().median(-1, keepdim=True).values
    return torch.where(average.abs() >= middle, average, 0.0)


MEAN_ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "average (the first gradient)": _signed_average,
    "median of each coordinate": _signed_median,
    "trimmed average": _signed_trimmed,
    "ridge regression": _ridge,
    "first principal axis": _principal,
    "average, small half set to zero": _thresholded,
}
"""Estimators of the signal's direction from bag means (..., n, d) and labels (..., n)."""


def mean_estimator_alignments(
    estimators: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    dim: int,
    n: int,
    runs: int,
    generator: torch.Generator,
    *,
    sparsity: float,
    signal_norm: float,
    noise_std: float,
    tokens: int,
) -> Tensor:
    """Cosines that estimators reach from bag means when the signal's direction is random.

    The means are drawn from their exact law on the complement of the context.

    Shape (len(estimators), runs).
    """
    std = noise_std * math.sqrt((1 - sparsity) / tokens)
    cosines = torch.empty(len(estimators), runs, dtype=torch.float64)
    at_once = max(1, CACHED // (n * dim))
    for begin in range(0, runs, at_once):
        end = min(begin + at_once, runs)
        shape = (end - begin, n)
        signal = torch.randn(end - begin, dim - 1, generator=generator, dtype=torch.float64)
        signal *= signal_norm / signal.norm(dim=1, keepdim=True)
        labels = 2.0 * torch.randint(0, 2, shape, generator=generator).double() - 1.0
        noise = torch.randn(*shape, dim - 1, generator=generator, dtype=torch.float64)
        means = sparsity * labels[..., None] * signal[:, None] + std * noise
        for row, estimator in enumerate(estimators.values()):
            found = estimator(means, labels)
            cosines[row, begin:end] = torch.cosine_similarity(found, signal, dim=1)
    return cosines


def context_and_signal_from_repeats(bags: Bags, tolerance: float = 1e-9) -> tuple[Tensor, Tensor]:
    r"""Context and signal from two bags, because relevant tokens repeat and noise never does.

    In a bag with label ``y`` and at least two relevant tokens, two rows are equal, and they are
    :math:`q_\star + y w_\star`. Half the sum and half the difference over the two labels are
    :math:`q_\star` and :math:`w_\star`: exact, from two bags, in any dimension. Needs
    ``noise_std > 0`` and noiseless relevant tokens, which is what the contextual mixture has.
    Source: this book.

    Shape (d,).
    """
    found = []
    for label in (1.0, -1.0):
        rows = (bags.labels == label).nonzero()
        if len(rows) == 0:
            raise ValueError(f"both labels are needed, got no bag with label {label:+g}")
        tokens = bags.tokens[int(rows[0])]
        gaps = (tokens[:, None] - tokens[None]).norm(dim=-1)
        gaps.fill_diagonal_(torch.inf)
        if float(gaps.min()) > tolerance:
            raise ValueError(
                f"no token repeats in the bag with label {label:+g} (smallest distance "
                f"{float(gaps.min()):.3g}); two relevant tokens without noise are needed"
            )
        found.append(tokens[int(gaps.argmin()) // len(tokens)])
    return (found[0] + found[1]) / 2, (found[0] - found[1]) / 2


def _head_noise(alpha: Tensor, share: Tensor, std: Tensor, count: Tensor) -> Tensor:
    """ε², the squared length of the head's noise relative to the length that one W stands for."""
    return (1 - share) * std**2 / (count * share**2 * alpha)


def _parameters(
    samples_per_dim: Tensor | float,
    sparsity: Tensor | float,
    signal_norm: Tensor | float,
    noise_std: Tensor | float,
    tokens: Tensor | int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _number("samples_per_dim", samples_per_dim, above=0.0),
        _number("sparsity", sparsity, above=0.0, below=1.0),
        _number("signal_norm", signal_norm, above=0.0),
        _number("noise_std", noise_std, least=0.0),
        _number("tokens", tokens, least=2.0),
    )


check_public(__name__)

r"""Which functions of the query can a prefix be?

With plain inner products as logits a prefix alone returns

.. math:: \mu(q) = \sum_m e^{\langle q, \bar k_m\rangle}\,\bar v_m \Big/
    \sum_m e^{\langle q, \bar k_m\rangle} .

Keys that are spread over the circle of all queries make it an interpolation; infinitely many random
keys make it a smoothing. Source: this book, after Petrov, Torr and Bibi 2024 and Liang et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "GaussianSums",
    "circle",
    "error_limit",
    "gaussian_sums",
    "interpolating_prefix",
    "random_curve",
    "share_left",
]


def circle(angles: Tensor) -> Tensor:
    """Unit vectors: angles (n,) -> (n, 2)."""
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def interpolating_prefix(curve: Callable[[Tensor], Tensor], length: int) -> tuple[Tensor, Tensor]:
    r"""Keys :math:`p^2 u_m` at p evenly spaced unit vectors, and the values of a function there.

    Parameters
    ----------
    curve
        From angles (n,) to values (n, e).
    length
        Number p of prefix vectors, at least 3.

    Returns
    -------
    tuple of Tensor
        Keys (p, 2) and values (p, e).
    """
    if length < 3:
        raise ValueError(f"an interpolating prefix has at least 3 vectors, got {length}")
    angles = torch.arange(length, dtype=torch.float64) * (2 * math.pi / length)
    return length**2 * circle(angles), curve(angles)


def error_limit(slope: float, length: int) -> float:
    r"""How far the interpolating prefix can be from a function of this slope.

    .. math:: L\,\frac{\pi}{p}\sqrt{\frac{\pi^2}{4} + \frac{\log p}{2}}
    """
    if not slope >= 0:
        raise ValueError(f"the slope is a Lipschitz constant, at least 0, got {slope}")
    if length < 3:
        raise ValueError(f"an interpolating prefix has at least 3 vectors, got {length}")
    return slope * math.pi / length * math.sqrt(math.pi**2 / 4 + math.log(length) / 2)


def share_left(tokens: int, largest_logit: float, length: int) -> float:
    r"""What the interpolating prefix leaves to content at most: :math:`n e^{B-p^2\cos(\pi/p)}`."""
    return tokens * math.exp(largest_logit - length**2 * math.cos(math.pi / length))


def random_curve(
    generator: torch.Generator, degree: int = 3, width: int = 2
) -> tuple[Callable[[Tensor], Tensor], float]:
    """A random trigonometric polynomial, angles (n,) -> (n, width), and its Lipschitz constant."""
    coefficients = torch.randn(2, degree, width, generator=generator, dtype=torch.float64)
    orders = torch.arange(1, degree + 1, dtype=torch.float64)

    def waves(angles: Tensor, derivative: bool = False) -> Tensor:
        phases = angles[:, None] * orders
        if derivative:
            return torch.cat((-orders * phases.sin(), orders * phases.cos()), dim=1)
        return torch.cat((phases.cos(), phases.sin()), dim=1)

    def curve(angles: Tensor) -> Tensor:
        return waves(angles) @ coefficients.flatten(0, 1)

    steps = 4096
    grid = torch.arange(steps, dtype=torch.float64) * (2 * math.pi / steps)
    slopes = (waves(grid, derivative=True) @ coefficients.flatten(0, 1)).norm(dim=1)
    bend = float((orders[:, None] ** 2 * coefficients.abs().sum(0)).sum())
    return curve, float(slopes.max()) + bend * math.pi / steps  # between grid points, too


class GaussianSums(NamedTuple):
    """What a prefix of Gaussian keys adds up to, for each vector: means, or their limits."""

    normaliser: Tensor  # (n,), the mean of e^<q, k>
    linear: Tensor  # (n, e), the mean of e^<q, k> C k
    wave: Tensor  # (n,), the mean of e^<q, k> cos <w, k>


def gaussian_sums(
    queries: Tensor, spread: float, matrix: Tensor, frequency: Tensor
) -> GaussianSums:
    r"""The limit of infinitely many keys, drawn from :math:`\mathcal N(0, s^2)` in each coordinate.

    .. math::

        \mathrm E\, e^{\langle q,k\rangle} = e^{s^2\lVert q\rVert^2/2}, \qquad
        \mathrm E\, e^{\langle q,k\rangle} V(k) = e^{s^2\lVert q\rVert^2/2}\;
        \mathrm E\, V(s^2 q + s g)

    with standard normal g, for the values :math:`V(k) = Ck` and :math:`\cos\langle w, k\rangle`.

    Shapes: queries (n, d), matrix (e, d), frequency (d,).
    """
    if not spread > 0:
        raise ValueError(f"spread must be > 0, got {spread}")
    normaliser = (spread**2 * queries.square().sum(-1) / 2).exp()
    centres = spread**2 * queries
    damped = math.exp(-(spread**2) * float(frequency @ frequency) / 2)
    return GaussianSums(
        normaliser,
        normaliser[:, None] * (centres @ matrix.mT),
        normaliser * damped * (centres @ frequency).cos(),
    )


check_public(__name__)

r"""What does a ridge head cost, exactly, as samples and dimensions grow together?

With :math:`u_i = y_i v_i` the ridge head is
:math:`\hat w = (\sum u_i u_i^\top + n\lambda I)^{-1}\sum u_i`. Write ``x`` and :math:`\tau` for
signal and noise of a sample (module ``feature_law``), :math:`\gamma = 1/\alpha = (d-1)/n`. The
*effective ridge* :math:`\theta \ge 0` is the largest root of

.. math:: \theta\left(\gamma - E\Big[\frac{\tau^2}{\theta+\tau^2}\Big]\right) = \lambda,

and with the weights :math:`\omega = 1/(\theta+\tau^2)` the head has, along :math:`w_\star` and
across it, the lengths

.. math::

    a = \frac{E[x\omega]}{\gamma + E[x^2\omega]}, \qquad
    b^2 = \frac{E[\tau^2\omega^2(1-xa)^2] + a^2 E[\tau^4\omega^2]}{\gamma - E[\tau^4\omega^2]},
    \qquad \text{error} = E\,\Phi\!\left(-\frac{x}{\tau}\frac{a}{\sqrt{a^2+b^2}}\right).

The usual form of the same equations has :math:`\xi = 1/(\gamma\theta)` and
:math:`D = 1+\gamma\tau^2\xi = (\theta+\tau^2)/\theta`. This one stays finite where :math:`\xi` does
not: :math:`\theta = 0` is least squares with more dimensions than samples.

Solving. :math:`G(\theta) = \theta\gamma - E[\theta\tau^2/(\theta+\tau^2)] - \lambda` is convex and
:math:`G(0) \le 0`, so there is one largest root and Newton's method from any point above falls to
it monotonically. A point above is the root for the constant noise :math:`\sqrt{E\tau^2}`, in closed
form: by Jensen's inequality its ``G`` is the smaller one.

An endless ridge leaves the plain average, :math:`\hat w = \frac1n \sum_i y_i v_i` up to a factor,
as one gradient step from zero does; its cosine with :math:`w_\star` is
:math:`\bar x / \sqrt{\bar x^2 + E[\tau^2]/\alpha}` with :math:`\bar x = E[x]`.

After Oymak et al. 2023, contribution (3); proved for λ > 0 in the chapter "The exact price of
learning the head".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import as_parameters
from promptlib.prompt_attention.feature_law import FeatureLaw

__all__ = [
    "FixedPointError",
    "RidgeHead",
    "aligned_error",
    "averaging_cosine",
    "constant_noise_ridge",
    "effective_ridge",
    "ridge_cosine",
    "ridge_error",
    "ridge_head",
]

TOLERANCE = 1e-12
"""Relative change of θ below which the iteration has converged."""

MAX_STEPS = 100
"""Newton steps before the iteration is declared failed; typical cells take 4 to 8,
those next to one sample per dimension up to 20."""


class FixedPointError(ArithmeticError):
    """The fixed point was not reached to the stated tolerance."""


class RidgeHead(NamedTuple):
    """The learned head in the limit, each tensor of shape (...).

    Attributes
    ----------
    along : Tensor
        ``a``, the component along w*.
    across : Tensor
        ``b``, the length of the rest; inf where least squares meets as many samples as dimensions.
    effective_ridge : Tensor
        θ.
    """

    along: Tensor
    across: Tensor
    effective_ridge: Tensor


def effective_ridge(
    noise: Tensor, inverse_ratio: Tensor, ridge: Tensor, *, max_steps: int = MAX_STEPS
) -> Tensor:
    r"""The largest root :math:`\theta` of the fixed-point equation.

    Parameters
    ----------
    noise : Tensor, shape (..., M)
        :math:`\tau`, positive.
    inverse_ratio : Tensor, shape (...)
        :math:`\gamma`, positive.
    ridge : Tensor, shape (...)
        :math:`\lambda`, finite, at least 0.
    max_steps : int
        Newton steps allowed.

    Returns
    -------
    Tensor, shape (...)
        Exactly 0 for least squares with :math:`\gamma \ge 1`.

    Raises
    ------
    FixedPointError
        If some cell still moves by more than :data:`TOLERANCE` of itself after ``max_steps``.
    """
    squared = noise.square()
    cells = torch.broadcast_shapes(noise.shape[:-1], inverse_ratio.shape, ridge.shape)
    gamma, lam = inverse_ratio.expand(cells), ridge.expand(cells)
    vanishing = (lam == 0) & (gamma >= 1)
    theta = constant_noise_ridge(squared.mean(-1), gamma, lam)
    # γ - E[τ²/(θ+τ²)] and γ - 1 + E[θ/(θ+τ²)] are equal; each is exact where the other cancels.
    scarce = gamma >= 0.5
    offset = torch.where(scarce, gamma - 1, gamma)
    sign = torch.where(scarce, 1.0, -1.0)
    change = theta.new_full((), math.inf)
    for _ in range(max_steps):
        denominator = theta[..., None] + squared  # (..., M)
        part = torch.where(scarce[..., None], theta[..., None], squared).div_(denominator)
        mean = part.mean(-1)
        value = theta * (offset + sign * mean) - lam
        slope = offset + torch.where(scarce, 2 * mean, 0.0) - part.square_().mean(-1)
        # From above the steps only fall; the guard keeps rounding from leaving the half-line.
        step = torch.where(vanishing, 0.0, value / slope)
        moved = torch.maximum(theta - step, 0.5 * theta)
        change = (moved - theta).abs() / moved.clamp_min(1e-300)
        theta = moved
        if not (change > TOLERANCE).any():
            return theta
    stuck = change > TOLERANCE
    raise FixedPointError(
        f"the effective ridge still moves by {float(change[stuck].max()):.1e} of itself after "
        f"{max_steps} steps in {int(stuck.sum())} of {stuck.numel()} cells; the first has "
        f"samples_per_dim={1 / float(gamma[stuck][0]):g} and ridge={float(lam[stuck][0]):g}"
    )


def constant_noise_ridge(squared_noise: Tensor, inverse_ratio: Tensor, ridge: Tensor) -> Tensor:
    r"""The effective ridge when :math:`\tau` is constant: the larger root of a quadratic equation.

    .. math:: \gamma\theta^2 - (\lambda + (1-\gamma)\tau^2)\,\theta - \lambda\tau^2 = 0

    Parameters
    ----------
    squared_noise, inverse_ratio, ridge : Tensor
        :math:`\tau^2 > 0`, :math:`\gamma > 0`, :math:`\lambda \ge 0`; they broadcast.

    Returns
    -------
    Tensor
        At least 0; exactly 0 for :math:`\lambda = 0`, :math:`\gamma \ge 1`.
    """
    middle = ridge + (1 - inverse_ratio) * squared_noise
    last = ridge * squared_noise
    root = (middle.square() + 4 * inverse_ratio * last).sqrt()
    # Of the two equal forms of the larger root, the one that does not subtract.
    large = (middle + root) / (2 * inverse_ratio)
    small = 2 * last / (root - middle).clamp_min(1e-300)
    return torch.where(middle > 0, large, small)


def ridge_head(
    law: FeatureLaw, samples_per_dim: float | Tensor, ridge: float | Tensor
) -> RidgeHead:
    r"""Length of the ridge head along :math:`w_\star` and across it.

    Parameters
    ----------
    law : FeatureLaw
        Tensors of shape (..., M).
    samples_per_dim : float or Tensor
        :math:`\alpha`, positive and finite; broadcasts with ``...``.
    ridge : float or Tensor
        :math:`\lambda \ge 0`, finite; broadcasts with ``...``.

    Returns
    -------
    RidgeHead

    Raises
    ------
    ValueError
        If a number lies outside its range; the infinite ones have formulas of their own.
    FixedPointError
        If the fixed point is not reached.
    """
    alpha, lam = as_parameters(samples_per_dim=samples_per_dim, ridge=ridge)
    for name, value in (("samples_per_dim", alpha), ("ridge", lam)):
        if value.isinf().any():
            raise ValueError(f"{name} must be finite here, got inf; use ridge_error")
    gamma = alpha.reciprocal()
    squared = law.noise.square()
    theta = effective_ridge(law.noise, gamma, lam)
    weight = (theta[..., None] + squared).reciprocal()  # (..., M), ω
    weighted = law.signal * weight
    along = weighted.mean(-1) / (gamma + (law.signal * weighted).mean(-1))
    shared = squared * weight.square()  # τ²ω²
    residual = (1 - law.signal * along[..., None]).square()
    above = (shared * residual).mean(-1) + along.square() * (shared * squared).mean(-1)
    # γ - E[τ⁴ω²] without the cancellation, by the fixed-point equation.
    below = torch.where(
        theta > 0, lam / theta + theta * shared.mean(-1), (gamma - 1).expand(theta.shape)
    )
    return RidgeHead(along, (above / below).sqrt(), theta)


def ridge_cosine(law: FeatureLaw, samples_per_dim: float | Tensor, ridge: float | Tensor) -> Tensor:
    r"""Cosine between the ridge head and :math:`w_\star`, limits included.

    ``ridge=inf`` is the averaging head, ``samples_per_dim=inf`` the known head; least squares
    (``ridge=0``) is the minimum-norm solution when there are fewer samples than dimensions, and has
    cosine 0 when there are exactly as many.

    Parameters and errors as for :func:`ridge_head`; returns a Tensor of shape (...).
    """
    alpha, lam = as_parameters(samples_per_dim=samples_per_dim, ridge=ridge)
    averaged = averaging_cosine(law, alpha)
    endless, heavy = alpha.isinf(), lam.isinf()
    if (endless | heavy).all():  # no fixed point to solve
        return torch.where(endless, 1.0, torch.where(heavy, averaged, 0.0))
    head = ridge_head(law, alpha.masked_fill(endless, 1.0), lam.masked_fill(heavy, 1.0))
    cosine = head.along / (head.along.square() + head.across.square()).sqrt()
    return torch.where(endless, 1.0, torch.where(heavy, averaged, cosine))


def ridge_error(law: FeatureLaw, samples_per_dim: float | Tensor, ridge: float | Tensor) -> Tensor:
    """Test error of the ridge head; parameters, result and errors as for :func:`ridge_cosine`."""
    return aligned_error(law, ridge_cosine(law, samples_per_dim, ridge))


def aligned_error(law: FeatureLaw, cosine: Tensor) -> Tensor:
    r"""Error of any head whose cosine with :math:`w_\star` is given: :math:`E\,\Phi(-x c/\tau)`.

    Parameters
    ----------
    law : FeatureLaw
        Tensors of shape (..., M).
    cosine : Tensor, shape (...)
        In [-1, 1].

    Returns
    -------
    Tensor, shape (...)
    """
    return torch.special.ndtr(-law.signal / law.noise * cosine[..., None]).mean(-1)


def averaging_cosine(law: FeatureLaw, samples_per_dim: float | Tensor) -> Tensor:
    r"""Cosine between the averaging head and :math:`w_\star`.

    Parameters
    ----------
    law : FeatureLaw
        Tensors of shape (..., M).
    samples_per_dim : float or Tensor
        :math:`\alpha`, positive, inf allowed; broadcasts with ``...``.

    Returns
    -------
    Tensor, shape (...)
    """
    (alpha,) = as_parameters(samples_per_dim=samples_per_dim)
    mean = law.signal.mean(-1)
    return mean / (mean.square() + law.noise.square().mean(-1) / alpha).sqrt()


check_public(__name__)

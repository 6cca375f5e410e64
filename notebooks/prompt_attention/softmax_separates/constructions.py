r"""Which weights reach what the theorems allow? Explicit ones, the proof beside each.

Write :math:`w_\perp` for the part of :math:`w^\star` orthogonal to :math:`q^\star`, and
:math:`q_\perp` for the part of :math:`q^\star` orthogonal to :math:`w^\star`. Since
:math:`\rho^2 < 1` neither is zero, and

.. math::

    \langle w_\perp, q^\star\rangle = 0, \quad \langle w_\perp, w^\star\rangle = |w_\perp|^2, \qquad
    \langle q_\perp, w^\star\rangle = 0, \quad \langle q_\perp, q^\star\rangle = |q_\perp|^2 .

So :math:`w_\perp` reads a label and is blind to the context; :math:`q_\perp` reads the context and
is blind to the label.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.expressivity import aligned_gain, prompt_scale_bound
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = [
    "best_gain_argument",
    "linear_attention_weights",
    "mean_pooling_head",
    "prompt_weights",
    "self_attention_weights",
]


def mean_pooling_head(mixture: ContextualMixture) -> Tensor:
    r"""A head with which mean pooling is perfect on one deviation.

    The mean token, read by :math:`w_\perp`, is :math:`y |w_\perp|^2 (\zeta - (1-\zeta)\delta_w)`.
    The head is :math:`w_\perp` with the sign of the bracket.

    Shape (d,).
    """
    share = mixture.sparsity
    brackets = [share - (1 - share) * delta_w for _, delta_w in mixture.deviations]
    signs = {math.copysign(1.0, value) if abs(value) > 1e-12 else 0.0 for value in brackets}
    if len(signs) != 1 or 0.0 in signs:
        raise ValueError(
            f"one head serves only deviations with δw on one side of ζ/(1-ζ) = "
            f"{share / (1 - share):g}, got {mixture.deviations!r}"
        )
    return signs.pop() * mixture.signal_only


def prompt_weights(mixture: ContextualMixture, scale: float | None = None) -> tuple[Tensor, Tensor]:
    r"""A head and a prompt with which prompt-attention is perfect on every bounded deviation.

    With :math:`q = \kappa q_\perp` a relevant token has the logit :math:`\kappa|q_\perp|^2` and an
    irrelevant one :math:`-\delta_q\kappa|q_\perp|^2`, whatever the label, so the attention ``A`` on
    the relevant tokens has odds :math:`\frac{\zeta}{1-\zeta}e^{\kappa|q_\perp|^2(1+\delta_q)}`.
    With :math:`w = w_\perp` the score is :math:`y|w_\perp|^2[A - (1-A)\delta_w]`, and the bracket
    is positive when those odds exceed every :math:`\delta_w`. By default they are ``e²`` times what
    is needed, or more.

    Shape (d,).
    """
    power = float(mixture.context_only @ mixture.context_only)
    if scale is None:
        scale = max(prompt_scale_bound(mixture), 0.0) + 2.0 / power
    elif not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return mixture.signal_only, scale * mixture.context_only


def self_attention_weights(mixture: ContextualMixture, c: float) -> tuple[Tensor, Tensor]:
    r"""A head and a matrix with which self-attention's score is :math:`y|w_\perp|^2 g(c)`.

    With :math:`A = c\, q_\perp q_\perp^\top / |q_\perp|^4` both labels have
    :math:`a_y^\top A a_y = c`, and with :math:`u = w_\perp`,
    :math:`\langle u, a_y\rangle = y|w_\perp|^2`. On (0, 0) and (Δ, Δ) these weights are perfect
    when :math:`g_\Delta(c) > 0`; see :func:`best_gain_argument`.

    Shape (d,).
    """
    if not math.isfinite(c):
        raise ValueError(f"c must be finite, got {c}")
    context = mixture.context_only
    power = context @ context
    return mixture.signal_only, c * torch.outer(context, context) / power**2


def linear_attention_weights(mixture: ContextualMixture, ratio: float) -> tuple[Tensor, Tensor]:
    r"""A head and a prompt with given products ``h_y`` of their readings of :math:`a_y`.

    Let :math:`h_y = \langle w, a_y\rangle\langle q, a_y\rangle`. The vectors :math:`a_+` and
    :math:`a_-` are independent, so some ``w`` has :math:`\langle w, a_\pm\rangle = 1`, and some
    ``q`` has :math:`\langle q, a_+\rangle = 1` and :math:`\langle q, a_-\rangle = -t`. Then
    :math:`h_+ = 1`, :math:`h_- = -t`, and the scores are proportional to :math:`h_y` at δ = 0 and
    to :math:`h_y + \lambda h_{-y}` at (Δ, -Δ), with :math:`\lambda = \Delta^2(1-\zeta)/\zeta`.
    Every case is right for t = 1 and λ < 1; all but one for 0 < t and λt < 1.

    Shape (d,).
    """
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio must be positive and finite, got {ratio}")
    context, signal = mixture.context_only, mixture.signal_only
    # Dual vectors: ⟨even, a_y⟩ = 1 and ⟨odd, a_y⟩ = y.
    even, odd = context / (context @ context), signal / (signal @ signal)
    return even, (1 - ratio) / 2 * even + (1 + ratio) / 2 * odd


def best_gain_argument(deviation: float, sparsity: float) -> float:
    r"""A finite ``c`` at which :func:`aligned_gain` is within a grid step of its supremum."""
    grid = torch.linspace(-12.0, 12.0, 24001, dtype=torch.float64).sinh() / (1 + deviation)
    return float(grid[aligned_gain(grid, deviation, sparsity).argmax()])


check_public(__name__)

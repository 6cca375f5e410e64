r"""How far must irrelevant tokens stray before a model must fail? The thresholds of result A1.

After Oymak et al. 2023, contribution (1). All are for the discrete model with
:math:`\rho^2 < 1` and two equally likely deviations, (0, 0) and one of size :math:`\Delta`. Write
:math:`D = \zeta/(1-\zeta)`:

===================  ================  ========================================  ========
model                deviations        fails exactly for                         accuracy
===================  ================  ========================================  ========
mean pooling         (0, 0), (Δ, Δ)    :math:`\Delta \ge D`                        50 %
self-attention       (0, 0), (Δ, Δ)    :math:`\Delta \ge \Delta^\star(\zeta)`      50 %
linear attention     (0, 0), (Δ, -Δ)   :math:`\Delta \ge \sqrt D`                  75 %
prompt-attention     any with δq >= 0  never                                     100 %
===================  ================  ========================================  ========

Self-attention. All tokens of an aligned bag are multiples of :math:`a_y = q^\star + y w^\star`, and
the score is :math:`\langle u, a_y\rangle\, g_\Delta(c)` with :math:`c = a_y^\top A a_y`; at
:math:`\delta = 0` the second factor is positive. With :math:`x = e^{(1+\Delta)c}`,

.. math::

    g_\Delta(c) = -\frac{F_\Delta(x)}{(1+D)(1+Dx)(D+x^\Delta)}, \qquad
    F_\Delta(x) = \Delta(1+D)x^\Delta + D(\Delta D-1) - D^2(1+D)x + D(\Delta-D)x^{1+\Delta}.

For :math:`\Delta > \max(D, 1/D)` the function :math:`F_\Delta` is convex with one negative
coefficient, so its minimum is found safely, and :math:`\Delta^\star` is where that minimum is zero.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = [
    "aligned_gain",
    "aligned_reading",
    "linear_attention_threshold",
    "mean_pooling_threshold",
    "prompt_scale_bound",
    "self_attention_bracket",
    "self_attention_threshold",
    "sign_function",
]


def mean_pooling_threshold(sparsity: float) -> float:
    r"""The deviation from which mean pooling fails on (0, 0), (Δ, Δ): :math:`\zeta/(1-\zeta)`.

    Parameters
    ----------
    sparsity : float
        ζ, in (0, 1).

    Raises
    ------
    ValueError
        If the sparsity lies outside (0, 1).
    """
    return _odds(sparsity)


def linear_attention_threshold(sparsity: float) -> float:
    r"""The deviation from which linear prompt-attention fails on (0, 0), (Δ, -Δ).

    .. math:: \sqrt{\zeta/(1-\zeta)}

    Parameters and errors as for :func:`mean_pooling_threshold`.
    """
    return math.sqrt(_odds(sparsity))


def self_attention_threshold(sparsity: float) -> float:
    r"""The deviation from which softmax self-attention fails on (0, 0), (Δ, Δ).

    .. math:: \Delta^\star(\zeta) = \inf\{\Delta : \sup_c g_\Delta(c) < 0\}

    Parameters
    ----------
    sparsity : float
        ζ, in (0, 1).

    Returns
    -------
    float
        Exactly :math:`\zeta/(1-\zeta)` for ζ >= 1/2. Below, the root by bisection between
        :math:`(1-\zeta)/\zeta` and :math:`1/\zeta` (which enclose it, see
        :func:`self_attention_bracket`), to a relative error below 1e-12.

    Raises
    ------
    ValueError
        If the sparsity lies outside (0, 1).

    Examples
    --------
    >>> [round(self_attention_threshold(share), 3) for share in (0.1, 0.2, 0.5, 0.9)]
    [9.341, 4.159, 1.0, 9.0]
    """
    odds = _odds(sparsity)
    if odds >= 1:
        return odds
    # Bisect the excess over (1 - ζ)/ζ, which loses no digits when ζ is small or close to 1/2.
    low, high = 0.0, 1.0
    while high - low > 1e-15 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if _least_sign(middle, odds) > 0:
            high = middle
        else:
            low = middle
    return 1 / odds + (low + high) / 2


def self_attention_bracket(sparsity: float) -> tuple[float, float]:
    r"""Closed forms below and above :func:`self_attention_threshold`, one apart.

    .. math::

        \max\Bigl(\tfrac{\zeta}{1-\zeta}, \tfrac{1-\zeta}{\zeta}\Bigr)
        \;\le\; \Delta^\star(\zeta) \;<\; \frac{1}{\min(\zeta, 1-\zeta)}

    So :math:`\Delta \ge 1/\min(\zeta, 1-\zeta)` always suffices for self-attention to fail.

    Parameters and errors as for :func:`mean_pooling_threshold`.

    Returns
    -------
    (float, float)
        The lower and the upper bound.
    """
    odds = _odds(sparsity)
    lower = max(odds, 1 / odds)
    return lower, 1 + lower


def aligned_reading(query: float, c: Tensor, deviation: float, sparsity: float) -> Tensor:
    r"""What a query :math:`v a_y` reads from a bag of :math:`a_y` and :math:`-\Delta a_y`.

    .. math::

        \mu(v) = \frac{\zeta e^{cv} - \Delta(1-\zeta) e^{-\Delta c v}}
                      {\zeta e^{cv} + (1-\zeta) e^{-\Delta c v}}

    The attention output is :math:`\mu(v) a_y`.

    Parameters
    ----------
    query : float
        ``v``: 1 for a relevant token, -Δ for an irrelevant one.
    c : Tensor
        :math:`a_y^\top A a_y`, any shape; infinite entries give the limits.
    deviation : float
        Δ >= 0; 0 gives the bag at δ = (0, 0).
    sparsity : float
        ζ, in (0, 1).

    Returns
    -------
    Tensor, the shape of `c`

    Raises
    ------
    ValueError
        If Δ is negative or not finite, or the sparsity lies outside (0, 1).
    """
    log_odds = math.log(_odds(sparsity))
    _require_deviation(deviation)
    # The attention on the relevant tokens is a logistic function: stable at both ends.
    # A query of zero reads the plain mean, also where c is infinite.
    logits = log_odds + (query * (1 + deviation) * c if query != 0 else torch.zeros_like(c))
    return torch.sigmoid(logits) - deviation * torch.sigmoid(-logits)


def aligned_gain(c: Tensor, deviation: float, sparsity: float) -> Tensor:
    r"""The factor :math:`g_\Delta(c)` of self-attention's score on (Δ, Δ), from its definition.

    .. math:: g_\Delta(c) = \zeta\, \mu(1) + (1-\zeta)\, \mu(-\Delta)

    with :math:`\mu` as in :func:`aligned_reading`, which has the same parameters and errors.
    """
    first = aligned_reading(1.0, c, deviation, sparsity)
    second = aligned_reading(-float(deviation), c, deviation, sparsity)
    return sparsity * first + (1 - sparsity) * second


def sign_function(x: Tensor, deviation: float, sparsity: float) -> Tensor:
    r"""The function :math:`F_\Delta(x)`, whose sign is opposite to that of :math:`g_\Delta(c)`.

    .. math::

        F_\Delta(x) = \Delta(1+D)x^\Delta + D(\Delta D-1) - D^2(1+D)x + D(\Delta-D)x^{1+\Delta}

    Parameters
    ----------
    x : Tensor
        :math:`e^{(1+\Delta)c} > 0`.
    deviation, sparsity : float
        Δ >= 0 and ζ in (0, 1).

    Raises
    ------
    ValueError
        If Δ is negative or not finite, or the sparsity lies outside (0, 1).
    """
    odds = _odds(sparsity)
    _require_deviation(deviation)
    power = x**deviation
    return (
        deviation * (1 + odds) * power
        + odds * (deviation * odds - 1)
        - odds**2 * (1 + odds) * x
        + odds * (deviation - odds) * x * power
    )


def prompt_scale_bound(mixture: ContextualMixture) -> float:
    r"""The scale that the constructed prompt must exceed to be perfect.

    .. math::

        \max_\delta \frac{\log\bigl(\max(\delta_w, 0)\,(1-\zeta)/\zeta\bigr)}
                         {Q^2(1-\rho^2)(1+\delta_q)}

    Parameters
    ----------
    mixture : ContextualMixture
        Without noise.

    Returns
    -------
    float
        Negative infinity when no deviation has δw > 0: then every scale will do.

    Raises
    ------
    ValueError
        If the mixture has noise.
    """
    if mixture.noise_std != 0:
        raise ValueError(
            f"the bound holds for noise_std=0, got {mixture.noise_std}; with noise no prompt is "
            f"perfect"
        )
    power = float(mixture.context_only @ mixture.context_only)
    bounds = [-math.inf]
    for delta_q, delta_w in mixture.deviations:
        if delta_w > 0:
            gain = math.log(delta_w) - math.log(_odds(mixture.sparsity))  # the quotient may be 0
            bounds.append(gain / (power * (1 + delta_q)))
    return max(bounds)


def _least_sign(excess: float, odds: float) -> float:
    r"""The minimum of :math:`F_\Delta/D^2` over x in (0, 1), for Δ = 1/D + `excess` and D < 1.

    F is convex in x, its derivative is negative at 0 and positive at 1. The minimum is found by
    bisection of the derivative in :math:`r = -\log x`; the term :math:`D(\Delta D-1)/D^2` is the
    excess itself, so nothing cancels.
    """
    inverse = 1 / odds
    deviation = inverse + excess

    def slope(r: float) -> float:
        return (
            deviation**2 * inverse**2 * (1 + odds) * math.exp((1 - deviation) * r)
            - (1 + odds)
            + (deviation * inverse - 1) * (1 + deviation) * math.exp(-deviation * r)
        )

    high = 1.0
    while slope(high) > 0 and high < 1e9:  # Δ = 1 + rounding has no interior minimum
        high *= 2
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if slope(middle) > 0:
            low = middle
        else:
            high = middle
    r = (low + high) / 2
    return (
        deviation * inverse**2 * (1 + odds) * math.exp(-deviation * r)
        + excess
        - (1 + odds) * math.exp(-r)
        + (deviation * inverse - 1) * math.exp(-(1 + deviation) * r)
    )


def _odds(sparsity: float) -> float:
    """D = ζ/(1-ζ)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 < sparsity < 1:
        raise ValueError(
            f"sparsity must lie in (0, 1), got {sparsity!r}; it is the share of relevant tokens"
        )
    return float(sparsity) / (1 - float(sparsity))


def _require_deviation(deviation: float) -> None:
    if not isinstance(deviation, Real) or not 0 <= deviation < math.inf:
        raise ValueError(f"the deviation Δ must be finite and >= 0, got {deviation!r}")


check_public(__name__)

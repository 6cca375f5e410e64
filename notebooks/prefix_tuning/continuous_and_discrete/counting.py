r"""How many strings can a prompt say, when they are too many to list?

Draw strings :math:`y` from a distribution :math:`q` that is known, and try to force each. Let
:math:`Z = -\log_2 q(y)` if ``y`` was forced and :math:`-\infty` if not. A string with
:math:`Z \ge h` has probability at most :math:`2^{-h}`, so at least :math:`2^h P(Z \ge h)` strings
can be forced, for every ``h``. With probability at least ``1 - δ`` the inequality of Dvoretzky,
Kiefer and Wolfowitz bounds :math:`P(Z \ge h)` from below for all ``h`` at once, by the observed
share of ``k`` draws minus :math:`\sqrt{\ln(1/\delta)/(2k)}` (Massart's constant).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

MISSED = 0.05
"""Probability δ with which the lower limit may be too high."""


def certified_bits(bits: ArrayLike, forced: ArrayLike, missed: float = MISSED) -> float:
    """A lower limit of log2 of the number of strings that can be forced.

    From the surprisals of the drawn strings and whether each was forced; too high with probability
    `missed` at most. Minus infinity if nothing was forced.
    """
    surprisal = np.asarray(bits, dtype=np.float64)
    success = np.asarray(forced, dtype=bool)
    if surprisal.ndim != 1 or len(surprisal) == 0 or surprisal.shape != success.shape:
        raise ValueError(
            f"expected as many surprisals as outcomes, at least 1; got shapes {surprisal.shape} "
            f"and {success.shape}"
        )
    if not np.isfinite(surprisal).all() or (surprisal < 0).any():
        raise ValueError(f"surprisals must be finite and at least 0, got {surprisal.min()}")
    if not 0 < missed <= 0.5:
        raise ValueError(f"missed must lie in (0, 1/2], got {missed}")
    if not success.any():
        return -math.inf
    k = len(surprisal)
    heights = np.sort(surprisal[success])[::-1]  # the j-th highest is reached by j strings
    shares = np.arange(1, len(heights) + 1) / k - deviation(k, missed)
    possible = shares > 0
    limits = heights[possible] + np.log2(shares[possible])
    return float(max(limits.max(initial=0.0), 0.0))


def deviation(k: int, missed: float = MISSED) -> float:
    """How far the observed share of `k` draws may lie above the true one."""
    return math.sqrt(math.log(1 / missed) / (2 * k))


def share_at_most(successes: int, trials: int, missed: float = MISSED) -> float:
    """An upper limit of a probability, after Clopper and Pearson (1934).

    Nothing in 59 independent trials leaves at most 5 % (0.0495).
    """
    if trials < 1 or not 0 <= successes <= trials or not 0 < missed < 1:
        raise ValueError(
            f"expected 0 <= successes <= trials, trials >= 1 and missed in (0, 1); got "
            f"{successes}, {trials}, {missed}"
        )
    if successes == trials:
        return 1.0
    from scipy.stats import beta  # here: it takes a third of a second

    return float(beta.ppf(1 - missed, successes + 1, trials - successes))


def misses(
    n_reachable: int,
    shares: ArrayLike,
    draws: int,
    repetitions: int,
    generator: np.random.Generator,
    certify: Callable[[ArrayLike, ArrayLike], float] = certified_bits,
) -> float:
    """How often the limit of `certify` is too high where the number is known, in [0, 1].

    Strings are drawn by `shares`, and the first `n_reachable` of them count as forced.
    """
    probabilities = np.asarray(shares, dtype=np.float64)
    if not 0 <= n_reachable <= len(probabilities):
        raise ValueError(f"n_reachable must lie in 0..{len(probabilities)}, got {n_reachable}")
    drawn = generator.choice(len(probabilities), size=(repetitions, draws), p=probabilities)
    limits = np.array([certify(-np.log2(probabilities[row]), row < n_reachable) for row in drawn])
    truth = math.log2(n_reachable) if n_reachable else -math.inf
    return float((limits > truth + 1e-12).mean())


def bits_of_precision(width: int, reach: float, radius: float) -> float:
    r"""How many bits a vector can carry if every completion survives a little shift.

    If each of :math:`N` completions has a ball of radius :math:`\rho` around a vector within
    :math:`R` of the origin, the balls are disjoint and lie in one of radius :math:`R + \rho`, so
    :math:`N \le (1 + R/\rho)^D`.
    """
    if width < 1 or not reach >= 0 or not radius > 0:
        raise ValueError(
            f"expected width >= 1, reach >= 0 and radius > 0; got {width}, {reach}, {radius}"
        )
    return width * math.log2(1 + reach / radius)

"""How far can the mean over seeds be trusted: intervals, p-values, and their correction?

Student's interval, on the logarithms for ratios and rates; for accuracies never narrower than the
exact binomial one of all test sequences together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from promptlib.claims.words import LEVEL

Scale = Literal["linear", "log"]


def interval(
    values: ArrayLike,
    level: float = LEVEL,
    *,
    scale: Scale = "linear",
    trials: int | None = None,
    resolution: float = 0.0,
) -> tuple[float, float] | None:
    """Interval of the mean over seeds; None for a single value.

    Parameters
    ----------
    values
        Independent values, shape (n,); in percent if there are `trials`.
    level
        Coverage, in (0, 1).
    scale, trials, resolution
        As in `outcome`.

    Returns
    -------
    pair of float or None
        Lower and upper end.
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    moved = np.log(sample) if scale == "log" else sample
    reach = t_half_width(moved, level)
    if reach is None:
        return None
    centre = float(moved.mean())
    low, high = centre - reach, centre + reach
    if scale == "log":
        low, high = math.exp(low), math.exp(high)
        centre = math.exp(centre)
    low, high = min(low, centre - resolution), max(high, centre + resolution)
    if trials is not None:
        right, all_trials = _pooled(sample, trials)
        exact = _clopper_pearson(right, all_trials, level)
        low, high = min(low, exact[0]), max(high, exact[1])
        low, high = max(low, 0.0), min(high, 100.0)
    return low, high


def t_half_width(sample: ArrayLike, level: float = LEVEL) -> float | None:
    """Half-width of the Student t-interval of the mean; None for a single value.

    Parameters
    ----------
    sample
        Independent values, shape (n,).
    level
        Coverage, in (0, 1).
    """
    # Not scipy.stats, which takes much longer to import; and here, since most claims need none.
    from scipy.special import stdtrit

    values = np.asarray(sample, dtype=np.float64).ravel()
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    if values.size < 2:
        return None
    quantile = float(stdtrit(values.size - 1, 0.5 + level / 2))
    return quantile * float(values.std(ddof=1)) / math.sqrt(values.size)


def p_value(
    values: ArrayLike,
    limit: float,
    *,
    scale: Scale = "linear",
    trials: int | None = None,
    resolution: float = 0.0,
) -> float | None:
    """Smallest share of errors at which `interval` excludes the limit; None for one value.

    Two-sided: the larger of the p-values of Student's test, of the exact binomial test, and of the
    resolution (0 or 1).
    """
    from scipy.special import bdtr, bdtrc, stdtr

    sample = np.asarray(values, dtype=np.float64).ravel()
    if sample.size < 2:
        return None
    moved, border = (np.log(sample), math.log(limit)) if scale == "log" else (sample, limit)
    error = float(moved.std(ddof=1)) / math.sqrt(moved.size)
    distance = abs(float(moved.mean()) - border)
    if error <= 1e-12 * max(1.0, abs(border)):  # equal values, but for rounding
        p = 1.0 if distance <= 1e-12 * max(1.0, abs(border)) else 0.0
    else:
        p = 2 * float(stdtr(moved.size - 1, -distance / error))
    if abs(centre_of(sample, scale) - limit) <= resolution:
        p = 1.0
    if trials is not None:
        right, all_trials = _pooled(sample, trials)
        share = min(max(limit / 100, 0.0), 1.0)
        tail = min(bdtr(right, all_trials, share), bdtrc(right - 1, all_trials, share))
        p = max(p, min(1.0, 2 * float(tail)))
    return p


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number: Holm's step-down procedure, in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def centre_of(sample: np.ndarray, scale: Scale) -> float:
    """The mean; of ratios and rates the geometric one."""
    return float(np.exp(np.log(sample).mean())) if scale == "log" else float(sample.mean())


def _pooled(sample: np.ndarray, trials: int) -> tuple[int, int]:
    """Right answers and test sequences of all seeds together."""
    return round(float(sample.sum()) / 100 * trials), trials * sample.size


def _clopper_pearson(right: int, trials: int, level: float) -> tuple[float, float]:
    """Exact binomial interval, in percent."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if right == 0 else float(betaincinv(right, trials - right + 1, tail))
    high = 1.0 if right == trials else float(betaincinv(right + 1, trials - right, 1 - tail))
    return 100 * low, 100 * high

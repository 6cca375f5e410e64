"""When does a mathematical statement hold: identities, bounds and estimates?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from promptlib.claims.claim import Checked, Claim, finite, make
from promptlib.claims.words import KINDS


def identity(
    id: str,
    sentence: str,
    *,
    errors: ArrayLike,
    tolerance: float,
    source: str,
    checks: Checked,
) -> Claim:
    """An equality that holds up to rounding.

    Parameters
    ----------
    errors
        Absolute (or relative, said in the sentence) errors, one for each instance; any shape.
    tolerance
        The largest error that still counts as rounding, > 0.

    Raises
    ------
    ValueError
        If there is no error to judge, one is not finite, or the tolerance is not positive.
    """
    values = np.abs(finite(id, "errors", errors))
    if not tolerance > 0:
        raise ValueError(f"claim {id}: tolerance must be > 0, got {tolerance}")
    worst = float(values.max())
    return make(
        id,
        sentence,
        "identity",
        source,
        checks,
        "holds" if worst <= tolerance else "fails",
        worst,
        tolerance=float(tolerance),
        instances=int(values.size),
    )


def bound(
    id: str,
    sentence: str,
    *,
    values: ArrayLike,
    limits: ArrayLike,
    source: str,
    checks: Checked,
    search: str,
    tolerance: float = 0.0,
) -> Claim:
    """An inequality ``values <= limits``, elementwise (flip both signs for ``>=``).

    Whether the bound says much is another question than whether it holds: where values and limits
    have one sign, the summary tells the median and the largest ratio of the two sides. A statement
    that a bound is sharp is a claim of its own.

    Parameters
    ----------
    values, limits
        Arrays that broadcast against each other.
    search
        How hard the build tried to break it, such as ``"2000 restarts of hill climbing"``.
    tolerance
        Rounding that is forgiven, >= 0.

    Raises
    ------
    ValueError
        If there is nothing to judge, a number is not finite, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"claim {id}: tolerance must be >= 0, got {tolerance}")
    upper, lower = np.broadcast_arrays(finite(id, "limits", limits), finite(id, "values", values))
    slack = upper - lower
    tightest = float(slack.min())
    return make(
        id,
        sentence,
        "bound",
        source,
        checks,
        "holds" if tightest >= -tolerance else "fails",
        tightest,
        tolerance=float(tolerance),
        instances=int(slack.size),
        search=search,
        **_ratios(lower, upper),
    )


def _ratios(values: np.ndarray, limits: np.ndarray) -> dict[str, Any]:
    """Median and largest part of the limit that is used, where that has a meaning."""
    if (limits > 0).all() and (values >= 0).all():
        ratios = values / limits
    elif (limits < 0).all() and (values < 0).all():  # an inequality >= whose signs were flipped
        ratios = limits / values
    else:
        return {}
    return {"median_ratio": float(np.median(ratios)), "largest_ratio": float(ratios.max())}


def estimate(
    id: str,
    sentence: str,
    *,
    formula: ArrayLike,
    measured: ArrayLike,
    standard_errors: ArrayLike,
    source: str,
    checks: Checked,
    max_deviation: float = 4.0,
    allowance: ArrayLike = 0.0,
    allowance_reason: str = "",
) -> Claim:
    """A formula that agrees with Monte Carlo means.

    Parameters
    ----------
    formula, measured
        Predicted and measured values; arrays that broadcast.
    standard_errors
        Standard errors of the measured means, > 0.
    max_deviation
        The largest allowed deviation in standard errors.
    allowance
        What the formula, as a limit, may be off at the size that was measured, >= 0 and in the unit
        of the values; without it more Monte Carlo refutes a true limit theorem.
    allowance_reason
        Where the allowance comes from; needed if there is one.

    Raises
    ------
    ValueError
        If there is nothing to judge, a number is not finite, a standard error is not positive, or
        an allowance is negative or has no reason.
    """
    predicted = finite(id, "formula", formula)
    means = finite(id, "measured", measured)
    errors = finite(id, "standard_errors", standard_errors)
    allowed = finite(id, "allowance", allowance)
    if not (errors > 0).all():
        raise ValueError(f"claim {id}: standard errors must be > 0, got {errors.min()}")
    if not max_deviation > 0:
        raise ValueError(f"claim {id}: max_deviation must be > 0, got {max_deviation}")
    if (allowed < 0).any():
        raise ValueError(f"claim {id}: allowance must be >= 0, got {allowed.min()}")
    if (allowed > 0).any() and not allowance_reason.strip():
        raise ValueError(f"claim {id}: an allowance needs a reason")
    deviations = np.maximum(np.abs(predicted - means) - allowed, 0) / errors
    worst = float(deviations.max())
    more: dict[str, Any] = {}
    if (allowed > 0).any():
        more = {"allowance": float(allowed.max()), "allowance_reason": allowance_reason}
    return make(
        id,
        sentence,
        "estimate",
        source,
        checks,
        "holds" if worst <= max_deviation else "fails",
        worst,
        max_deviation=float(max_deviation),
        instances=int(deviations.size),
        **more,
    )


def not_checked(
    id: str, sentence: str, *, kind: str, source: str, checks: Checked, needs: str
) -> Claim:
    """A claim that this build cannot check, because an optional extra is not installed.

    Parameters
    ----------
    kind
        What it is where it is checked, one of `KINDS`.
    needs
        Name of the extra.

    Raises
    ------
    ValueError
        If the kind is unknown or no extra is named.
    """
    if kind not in KINDS:
        raise ValueError(f"claim {id}: kind must be one of {KINDS}, got {kind!r}")
    if not needs:
        raise ValueError(f"claim {id}: say which extra it needs")
    return make(id, sentence, kind, source, checks, "not checked", None, needs=needs)


def needing(claim: Claim, extra: str) -> Claim:
    """The same claim, marked as one that only a build with this optional extra can check."""
    return replace(claim, details={**claim.details, "needs": extra})

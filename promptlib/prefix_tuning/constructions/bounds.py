r"""How cold must attention be, and how many symbols does float64 allow?

A head that should read one of ``n`` positions gives the others at most :math:`(n-1)e^{-\beta}` in
all. A lookup has two heads, so the number that it finds is wrong by at most
:math:`2(n-1)e^{-\beta}`, and everything is decoded correctly while that stays below the margin:

.. math::

    \beta \ge \log\frac{2(n-1)}{\text{margin}}, \qquad
    \text{margin} = \begin{cases}
        1/(2V) & \text{when the number is } j/V, \\
        \frac{15}{32} V^{-V} & \text{when it packs } V \text{ digits.}
    \end{cases}

:func:`least_in_float64` says what rounding adds: nothing for small sizes.

Symbols: ``V`` symbols, ``n`` visible positions, ``beta`` the inverse temperature.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions.unpacking import LARGEST_PACKED, MARGIN

__all__ = [
    "LARGEST_VOCABULARY",
    "RESERVE",
    "check_temperature",
    "least_in_float64",
    "least_inverse_temperature",
    "margin",
]

RESERVE = math.log(16.0)
"""Added to the least inverse temperature by default: leaks then use a sixteenth of the margin."""

UNIT = 2.0**-53
"""Relative error of one rounding in float64."""

LARGEST_VOCABULARY = {1: 2**24, 2: 13}
"""By number of prompt symbols, the largest ``V`` for which float64 is proved to suffice."""


def margin(vocab_size: int, inputs: int = 1) -> float:
    """By how much the number found by the first lookup may be wrong.

    Parameters
    ----------
    vocab_size : int
        ``V`` >= 2.
    inputs : int
        Symbols of the prompt; with 2 the number packs a row of the map.
    """
    return MARGIN * float(vocab_size) ** -vocab_size if inputs == 2 else 0.5 / vocab_size


def least_inverse_temperature(vocab_size: int, n: int, inputs: int = 1) -> float:
    r"""The inverse temperature from which on correct decoding is proved in exact arithmetic.

    Parameters
    ----------
    vocab_size : int
        ``V`` >= 2.
    n : int
        Positions that the last output sees, >= 1.
    inputs : int
        As for :func:`margin`.

    Returns
    -------
    float
        :math:`\log(2(n-1)/\text{margin})`, or 0 if there is only one position to look at.
    """
    return math.log(2 * (n - 1) / margin(vocab_size, inputs)) if n > 1 else 0.0


def least_in_float64(vocab_size: int, n: int, inputs: int = 1) -> float:
    r"""The inverse temperature from which on correct decoding is proved, rounding included.

    Let ``u`` be :data:`UNIT` and let the two leaks be :math:`L` together. Sums of attention weights
    and of what they weigh add at most :math:`3nu`, and at most :math:`2L`, since no addition of a
    small term is wrong by more than that term. Reading, adding and subtracting 1 cost less than
    :math:`4u`, and two scores of the read-out are told apart if they differ by :math:`16u`, that
    is if the number is inside its margin by :math:`8Vu`. The unpacking network costs less than
    another :math:`4u`. So for one input it suffices that :math:`L \le 1/(2V) - (8V + 3n + 8)u`,
    and for two that :math:`L` is at most the larger one of

    .. math:: \tfrac{15}{32} V^{-V} - (3n + 8)u, \qquad
        \tfrac13\bigl(\tfrac{15}{32} V^{-V} - 8u\bigr).

    The exact leaks are :math:`L = 2(n-1)/(e^\beta + n - 1)`, less than in
    :func:`least_inverse_temperature`; so for small sizes nothing has to be added to that bound.

    Parameters
    ----------
    vocab_size, n, inputs
        As for :func:`least_inverse_temperature`.

    Returns
    -------
    float
        At least :func:`least_inverse_temperature`, and equal to it where rounding leaves no room,
        so that nothing is proved.
    """
    least = least_inverse_temperature(vocab_size, n, inputs)
    exact = margin(vocab_size, inputs)
    rounding = (3 * n + 8) * UNIT
    room = exact - rounding - (8 * vocab_size * UNIT if inputs == 1 else 0.0)
    if inputs == 2:
        room = max(room, (exact - 8 * UNIT) / 3)
    if n == 1 or room <= 0:
        return least
    return max(least, math.log((n - 1) * (2 / room - 1)))


def as_count(name: str, value: Any, least: int) -> int:
    """A size as an int.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : int, or anything that Python takes for an index
    least : int
        The smallest that is allowed.

    Raises
    ------
    ValueError
        If it is not a whole number, or too small.
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise ValueError(
            f"{name} must be a whole number, got {value!r}; give an int of at least {least}"
        )
    if found < least:
        raise ValueError(f"{name} must be at least {least}, got {found}")
    return found


def check_vocabulary(vocab_size: int, inputs: int, beyond_bounds: bool) -> None:
    """Refuse vocabularies for which float64 is not proved to suffice.

    Raises
    ------
    ValueError
        If ``V`` is beyond :data:`LARGEST_VOCABULARY` and nobody asked for that, or if two
        inputs would need more digits than can be packed at all.
    """
    largest = LARGEST_VOCABULARY[max(inputs, 1)]
    if inputs == 2 and vocab_size > LARGEST_PACKED:
        raise ValueError(
            f"vocab_size must be at most {LARGEST_PACKED} with two inputs, got {vocab_size}: "
            f"{vocab_size}**{vocab_size} rows of a map are more than a 64-bit number can tell apart"
        )
    if vocab_size > largest and not beyond_bounds:
        raise ValueError(
            f"float64 is proved to suffice up to vocab_size={largest:,} here, got {vocab_size:,}; "
            "pass beyond_bounds=True to see it fail"
        )


def check_temperature(
    inverse_temperature: float | None,
    vocab_size: int,
    n: int,
    inputs: int,
    beyond_bounds: bool,
) -> float:
    """The inverse temperature to use: the default, or the one given if it suffices in float64.

    Raises
    ------
    ValueError
        If it is not finite, or under the proved bound and nobody asked for that.
    """
    if inverse_temperature is None:
        return least_inverse_temperature(vocab_size, n, inputs) + RESERVE
    try:
        given = float(inverse_temperature)
    except (TypeError, ValueError):
        given = math.nan
    if isinstance(inverse_temperature, str) or not math.isfinite(given):
        raise ValueError(
            f"inverse_temperature must be a finite number, got {inverse_temperature!r}; "
            "leave it out for one that suffices"
        )
    least = least_in_float64(vocab_size, n, inputs)
    if given < least and not beyond_bounds:
        raise ValueError(
            f"inverse_temperature {given:.12g} is under the proved bound {least:.12g}, "
            "so symbols may be decoded wrongly; raise it, leave it out, or pass "
            "beyond_bounds=True to see the failure"
        )
    return given


check_public(__name__)

"""A chapter's claims as one table: a row says what is claimed, `check` says what became of it.

A row holds the sentence and how to judge it. Whatever depends on what was measured (values, errors,
a published figure's differences, a number in the sentence) is a function of it, so that a test can
hand in what a wrong implementation measures and see the verdict change:

    ROWS = (
        Outcome("learned", "…on more than half of the sequences.", values=lambda m: m.accuracies,
                above=50.0, unit="% of sequences", source="this book", checks=pretrain),
        Outcome("forgets", "…", values=…, below=1.0, requires=("learned",), …),
    )
    found = check("prefix-tuning/new-task", ROWS, measured)   # name -> Claim
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar, TypeAlias

from numpy.typing import ArrayLike

from promptlib.claims.claim import Checked, Claim
from promptlib.claims.mathematics import bound, estimate, identity
from promptlib.claims.outcomes import Published, Scale, outcome

Of: TypeAlias = Callable[[Any], ArrayLike]
"""A function of what was measured."""
Text: TypeAlias = str | Callable[[Any], str]


def itself(measured: Any) -> Any:
    """What was measured, as it is: the usual values of a row that `check_each` judges."""
    return measured


@dataclass(frozen=True)
class Row:
    """What all kinds of claims have in common.

    Attributes
    ----------
    name
        The end of the claim's id, after the chapter's prefix.
    sentence
        The statement, or a function of what was measured.
    checks
        The function whose correctness it speaks of.
    source
        A paper and its contribution, or ``"this book"``.
    """

    name: str
    sentence: Text
    _: KW_ONLY
    checks: Checked
    source: str

    judge: ClassVar[Callable[..., Claim]]

    def arguments(self, measured: Any) -> dict[str, Any]:
        """The arguments of `judge` beside id and sentence, functions evaluated."""
        return {
            one.name: _of(getattr(self, one.name), measured, one.name)
            for one in fields(self)
            if one.name not in ("name", "sentence")
        }


@dataclass(frozen=True, kw_only=True)
class Identity(Row):
    """See `promptlib.claims.identity`."""

    errors: Of = itself
    tolerance: float | Of

    judge = staticmethod(identity)


@dataclass(frozen=True, kw_only=True)
class Bound(Row):
    """See `promptlib.claims.bound`."""

    values: Of = itself
    limits: ArrayLike | Of
    search: Text
    tolerance: float = 0.0

    judge = staticmethod(bound)


@dataclass(frozen=True, kw_only=True)
class Estimate(Row):
    """See `promptlib.claims.estimate`; by default what was measured has these attributes."""

    formula: Of = attrgetter("formula")
    measured: Of = attrgetter("measured")
    standard_errors: Of = attrgetter("standard_errors")
    max_deviation: float | Of = 4.0
    allowance: ArrayLike | Of = 0.0
    allowance_reason: Text = ""

    judge = staticmethod(estimate)


@dataclass(frozen=True)
class Outcome(Row):
    """See `promptlib.claims.outcome`; `above` or `below` is the limit and its side.

    Attributes
    ----------
    requires
        Names of rows of the same table, or claims, without whose support it says nothing.
    """

    values: Of
    unit: str
    above: float | Of | None = None
    below: float | Of | None = None
    scale: Scale = "linear"
    trials: int | Callable[[Any], int] | None = None
    resolution: float | Callable[[Any], float] = 0.0
    published: Published | Callable[[Any], Published] | None = None
    requires: Sequence[str | Claim] = ()
    note: Text = ""

    judge = staticmethod(outcome)

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"row {self.name!r}: give the limit either as above= or as below=")

    def arguments(self, measured: Any) -> dict[str, Any]:
        """As of every row, with limit and side in the place of `above` and `below`."""
        found = super().arguments(measured)
        above, below = found.pop("above"), found.pop("below")
        side = "below" if above is None else "above"
        return {**found, "limit": below if above is None else above, "side": side}


def check(
    prefix: str, rows: Iterable[Row], measured: Any, known: Mapping[str, Claim] | None = None
) -> dict[str, Claim]:
    """Judge the rows of a table by what was measured.

    Parameters
    ----------
    prefix
        Beginning of the claims' ids, before ``-<name>``; a wing, ``"prefix-tuning/"``, is joined to
        the name as it is.
    rows
        In any order; a control may stand below what requires it.
    measured
        What the rows' functions are given.
    known
        Claims of other tables that rows require, by name.

    Returns
    -------
    dict of Claim
        By the rows' names, in their order.

    Raises
    ------
    ValueError
        If two rows have one name, or one requires what is in no row.
    """
    table: dict[str, Row] = {}
    for row in rows:
        if row.name in table:
            raise ValueError(f"two rows of {prefix} are called {row.name!r}")
        table[row.name] = row
    found: dict[str, Claim] = dict(known or {})

    def judge(name: str) -> Claim:
        if name not in found:
            if name not in table:
                raise ValueError(f"a row of {prefix} requires {name!r}, which is no row")
            row = table[name]
            given = row.arguments(measured)
            if "requires" in given:
                given["requires"] = [
                    judge(one) if isinstance(one, str) else one for one in given["requires"]
                ]
            sentence = row.sentence(measured) if callable(row.sentence) else row.sentence
            whole = prefix + name if prefix.endswith("/") else f"{prefix}-{name}"
            found[name] = row.judge(whole, sentence, **given)
        return found[name]

    return {name: judge(name) for name in table}


def check_each(
    prefix: str,
    rows: Iterable[Row],
    measured: Mapping[str, Any],
    known: Mapping[str, Claim] | None = None,
) -> dict[str, Claim]:
    """Judge each row by what was measured for it alone.

    Parameters
    ----------
    prefix, known
        As for `check`.
    rows
        Those without an entry in `measured` are left out.
    measured
        By the rows' names; a row's functions are given its entry. Controls come first.

    Raises
    ------
    ValueError
        If an entry belongs to no row, or as for `check`.
    """
    table = {row.name: row for row in rows}
    unknown = set(measured) - set(table)
    if unknown:
        raise ValueError(f"no row of {prefix} is called {min(unknown)!r}")
    found: dict[str, Claim] = {}
    for name, own in measured.items():
        found |= check(prefix, [table[name]], own, {**(known or {}), **found})
    return found


def _of(value: Any, measured: Any, field: str) -> Any:
    """A field's value, computed from what was measured where it is a function; never `checks`."""
    return value(measured) if callable(value) and field != "checks" else value

"""What is a claim, once it has been checked?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from promptlib.claims.box import box, sentence_html, summary
from promptlib.claims.words import MIME_TYPE

Checked = Callable[..., object] | str
"""What a claim speaks of: the function itself; its dotted name where it cannot be imported without
an optional extra, or where it is no function."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Claim:
    """A sentence about the world, and what this build found when it checked it.

    Attributes
    ----------
    id
        ``"<wing>/<kebab-case>"``, unique in the book.
    sentence
        The statement in words (Markdown with ``$…$`` for formulas).
    kind
        One of `KINDS`.
    source
        Where the statement comes from: a paper and its contribution, or ``"this book"``.
    checks
        Dotted name of the function whose correctness the statement speaks of.
    verdict
        Whether the sentence is true; one of `VERDICTS`.
    value
        The deciding number: worst error, tightest slack, largest deviation in standard errors,
        or mean over seeds. None if the claim was not checked.
    details
        What else was measured, by name; JSON-able.
    replication
        One of `REPLICATIONS`; None where nothing was published.
    """

    id: str
    sentence: str
    kind: str
    source: str
    checks: str
    verdict: str
    value: float | None
    details: Mapping[str, Any] = field(default_factory=dict)
    replication: str | None = None

    @property
    def anchor(self) -> str:
        """The id of the box on the page, to link to."""
        return "claim-" + self.id.replace("/", "-")

    @property
    def passes(self) -> bool:
        """False when the statement, as a mathematical one, was refuted."""
        return self.verdict != "fails"

    def to_json(self) -> dict[str, Any]:
        """The claim as plain JSON-able data; `from_json` reads it back."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """Rebuild a claim from `to_json`; further keys are ignored.

        Raises
        ------
        KeyError
            If an entry is missing.
        """
        return cls(**{one.name: data[one.name] for one in fields(cls)})

    def summary(self) -> str:
        """What was measured, in one line of plain text."""
        return summary(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        beside = f"\n[{self.replication}] beside the published figure" if self.replication else ""
        text = f"[{self.verdict}] {self.sentence}\n{self.summary()}{beside}"
        return {MIME_TYPE: self.to_json(), "text/html": box(self), "text/plain": text}


def make(
    id: str,
    sentence: str,
    kind: str,
    source: str,
    checks: Checked,
    verdict: str,
    value: float | None,
    replication: str | None = None,
    **details: Any,
) -> Claim:
    """Build a claim, and refuse what no page could show."""
    if not _ID.fullmatch(id):
        raise ValueError(f"claim id {id!r} must read '<wing>/<kebab-case>'")
    checked = checks if isinstance(checks, str) else f"{checks.__module__}.{checks.__qualname__}"
    for name, text in (("sentence", sentence), ("source", source), ("checks", checked)):
        if not text.strip():
            raise ValueError(f"claim {id}: {name} is empty")
    sentence_html(sentence)
    return Claim(id, sentence, kind, source, checked, verdict, value, details, replication)


def finite(id: str, name: str, numbers: ArrayLike) -> np.ndarray:
    """Return the numbers as float64; ValueError if there is none or one is not finite."""
    values = np.asarray(numbers, dtype=np.float64)
    if values.size == 0:
        raise ValueError(f"claim {id}: {name} is empty, so nothing was checked")
    if not np.isfinite(values).all():
        bad = values.ravel()[~np.isfinite(values.ravel())][0]
        raise ValueError(f"claim {id}: {name} contains {bad}")
    return values

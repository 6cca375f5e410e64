"""Do the rows of a chapter judge as they should what was measured, rightly and wrongly?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptlib import claims
from promptlib.claims.rows import Row


def hold(group: str, rows: Sequence[Row], measured: Mapping[str, Any]) -> None:
    """Every row is measured, and holds."""
    assert set(measured) == {row.name for row in rows}
    for claim in claims.check_each(group, rows, measured).values():
        assert claim.verdict == "holds", f"{claim.id}: {claim.summary()}"


def refuted(group: str, rows: Sequence[Row], name: str, found: Any) -> None:
    """What a wrong implementation gave makes the row fail."""
    claim = claims.check_each(group, rows, {name: found})[name]
    assert claim.verdict == "fails", claim.summary()

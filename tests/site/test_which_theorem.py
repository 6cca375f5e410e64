"""The page that sets the theorems' assumptions side by side has every theorem, once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from workflow.sources import Source

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "book" / "which_theorem.md").read_text(encoding="utf-8")
CHAPTERS = (
    "bridge/two_theories_one_layer",
    "bridge/before_and_after",
    "prefix_tuning/cannot_re_aim",
    "prefix_tuning/beyond_one_layer",
    "prefix_tuning/long_prefixes",
    "prefix_tuning/new_task",
)
"""Those whose theorems are on what learned vectors do to attention."""
ROWS = [line for line in PAGE.splitlines() if line.startswith("| {")]


def test_every_theorem_has_one_row():
    text = "\n".join(Source(chapter).path.read_text(encoding="utf-8") for chapter in CHAPTERS)
    stated = set(re.findall(r"^:label: (thm-[\w-]+)$", text, re.MULTILINE))
    listed = Counter(
        name for row in ROWS for name in re.findall(r"`((?:thm|cor)-[\w-]+)`", row.split("|")[1])
    )
    assert len(stated) > 25
    assert stated - set(listed) == set()
    assert {name for name in listed if name.startswith("thm-")} - stated == set()
    assert [name for name, count in listed.items() if count > 1] == []


def test_every_row_says_all():
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        assert all(cells), row

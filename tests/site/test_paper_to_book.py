"""The page that sets both papers beside the book: its claims exist, and none is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.site import little
from tests.site.test_stage import stage_it
from workflow.site import build
from workflow.sources import BuildError

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "book" / "paper_to_book.md"
ROLE = re.compile(r"\{claim\}`([^`]+)`")
PAPERS = re.compile(r"(Oymak|Petrov) et al\.")


def test_every_claim_that_a_page_names_is_recorded():
    recorded = yaml.safe_load((PROJECT / "config" / "verdicts.yml").read_text(encoding="utf-8"))
    pages = [*(PROJECT / "book").glob("*.md"), *(PROJECT / "notebooks").glob("*/*/*.md")]
    named = {path: ROLE.findall(path.read_text(encoding="utf-8")) for path in pages}
    assert len(named[PAGE]) > 100
    unknown = {path.name: set(ids) - set(recorded) for path, ids in named.items()}
    assert {name: ids for name, ids in unknown.items() if ids} == {}


def test_every_row_compares_and_says_where():
    words = re.findall(r"^: ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| The paper |", "| ---"))
    ]
    assert len(words) == 5
    assert len(rows) > 40
    for paper, place, compared in rows:
        assert paper
        found = re.findall(r"\*\*(.+?)\*\*", compared)
        assert set(found) <= {"same", "stronger", "weaker", "other size", "absent"}
        assert found, paper
        assert place.startswith("{") or (place == "nowhere" and found == ["absent"]), paper
        assert ROLE.search(compared) or found == ["absent"], paper


def test_every_claim_that_comes_from_a_paper_is_on_the_page(site):
    """A claim that is added with a paper as its source needs its place in the tables."""
    made = json.loads((site / "claims.json").read_text(encoding="utf-8"))["claims"]
    owed = {claim["id"] for claim in made if PAPERS.search(claim["source"])}
    assert len(owed) > 50
    assert owed - set(ROLE.findall(PAGE.read_text(encoding="utf-8"))) == set()


def test_the_role_prints_this_builds_verdict_and_leads_to_the_row(tmp_path):
    book = little.make(tmp_path / "book")
    book.archive(little.a_claim(values=[60.0] * 5))
    (book.root / "book" / "index.md").write_text(
        "# Home\n\n| Claim |\n| --- |\n| So it is: {claim}`wing/line-rises` |\n"
    )
    stage_it(book)
    build(book.staged, book.root / "site")
    page = (book.root / "site" / "index.html").read_text(encoding="utf-8")
    link = page.split('<span class="claim-link claim-supported">')[1].split("</td>")[0]
    assert '<a href="ledger.html#ledger-claim-wing-line-rises">line-rises</a>' in link
    assert '<span class="claim-verdict">supported</span>' in link
    assert "published figure: reproduced; at the published size: weaker" in link
    assert 'id="ledger-claim-wing-line-rises"' in (book.root / "site" / "ledger.html").read_text()


def test_an_unknown_claim_stops_the_build(tmp_path):
    book = little.make(tmp_path / "book")
    (book.root / "book" / "index.md").write_text("# Home\n\nSee {claim}`wing/no-such-claim`.\n")
    stage_it(book)
    with pytest.raises(BuildError, match=r"`wing/no-such-claim` is no claim of this build"):
        build(book.staged, book.root / "site")

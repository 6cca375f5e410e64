"""A little book through jupyter-book: numbers, links, faults, and the same bytes twice."""

from __future__ import annotations

import json
import re

import pytest
from book_site import SHOWN_AT_ONCE

from tests.site import little
from tests.site.test_stage import stage_it
from tests.site.visits import DESK, PHONE, Visitor, pages_of
from workflow.site import build, complaints, digest
from workflow.sources import BuildError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The little book and its site."""
    book = little.make(tmp_path_factory.mktemp("little") / "book")
    book.archive(little.a_claim(values=[91.0] * 5))
    stage_it(book)
    build(book.staged, book.root / "site")
    return book, book.root / "site"


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """The site of a little book that was published although its gate was closed."""
    book = little.make(tmp_path_factory.mktemp("refused") / "book")
    book.close_gate([f"wing/claim-{place} fails: 1 < 2" for place in range(SHOWN_AT_ONCE + 1)])
    stage_it(book)
    build(book.staged, book.root / "site")
    return book.root / "site"


def test_every_page_of_a_refused_book_names_what_failed(built, refused):
    assert {"index.html", "search.html", "ledger.html", "wing/chapter.html"} < set(
        pages_of(refused)
    )
    for name in pages_of(refused):
        page = (refused / name).read_text()
        banner = page.split('<section class="gate-banner"')[1].split("</section>")[0]
        assert page.count('class="gate-banner"') == 1, name
        assert "was published although checks failed" in banner
        assert banner.count("<li>wing/claim-") == SHOWN_AT_ONCE + 1
        assert "fails: 1 &lt; 2</li>" in banner
        assert "<summary>4 checks failed</summary>" in banner
        assert f'href="{"../" * name.count("/")}ledger.html"' in banner or name == "ledger.html"
        assert page.index("pst-skip-link") < page.index("gate-banner") < page.index("<main")
    for name in pages_of(built[1]):
        assert "gate-banner" not in (built[1] / name).read_text(), name


@pytest.mark.browser
def test_the_banner_is_accessible_fits_a_phone_and_is_printed_whole(refused, browser):
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    visitor = Visitor(context, refused.as_uri())
    for name in pages_of(refused):
        seen = visitor.visit(name, audit=True)
        assert seen.audits == {"dark": [], "light": []}, name
        assert seen.phone_width <= PHONE["width"], name
        assert not seen.console + seen.seen["violations"] + seen.failed, name
        banner = visitor.page.get_by_role("region", name="Warning")
        assert banner.bounding_box()["y"] == 0
        assert banner.locator("button").count() == 0  # it cannot be dismissed
        last = banner.locator("li").last
        assert not last.is_visible()
        visitor.page.emulate_media(media="print")
        assert last.bounding_box()["height"] > 0
        visitor.page.emulate_media(media="screen")
    context.close()


def test_theorems_figures_and_claims_are_on_the_page(built):
    page = (built[1] / "wing" / "chapter.html").read_text()
    assert "Theorem 1.1" in page
    assert "Fig. 1.1" in page
    assert page.count(f'alt="{little.ALT}"') == 2  # light and dark
    assert 'id="claim-wing-line-rises"' in page
    assert "<dt>published size, archived</dt>" in page
    assert '<span class="measured">1 min 15 s, 310 MiB at its peak</span>' in page
    assert 'href="../notebooks/wing/chapter.md" download' in page
    assert "Parameters in the quick profile" in page
    assert "Theorem 1.1" in (built[1] / "index.html").read_text()


def test_the_ledger_leads_to_cell_module_and_test(built):
    page = (built[1] / "ledger.html").read_text()
    for target in (
        "wing/chapter.html#claim-wing-line-rises",
        "source/promptlib/thing.html#measure",
        "source/tests/test_thing.html#test_measure",
    ):
        assert f'href="{target}"' in page
        path, anchor = target.split("#")
        assert f'id="{anchor}"' in (built[1] / path).read_text()
    record = json.loads((built[1] / "claims.json").read_text())
    assert [claim["id"] for claim in record["claims"]] == ["wing/line-rises"]


def test_two_builds_give_the_same_bytes(built, tmp_path):
    book, site = built
    build(book.staged, tmp_path / "again")
    assert digest(tmp_path / "again") == digest(site)


def test_a_warning_stops_the_build_and_the_last_site_stays(built, tmp_path):
    book = little.make(tmp_path / "book")
    home = book.root / "book" / "index.md"
    home.write_text("# Home\n\nSee {doc}`nowhere` and {ref}`nothing`.\n")
    stage_it(book)
    to = tmp_path / "site"
    to.mkdir()
    (to / "index.html").write_text("the last good one")
    with pytest.raises(BuildError, match="unknown document: 'nowhere'") as caught:
        build(book.staged, to)
    assert "undefined label: 'nothing'" in str(caught.value)
    assert (to / "index.html").read_text() == "the last good one"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_an_unstaged_folder_is_refused(tmp_path):
    with pytest.raises(BuildError, match=r"run python -m workflow\.stage first"):
        build(tmp_path, tmp_path / "site")


def test_complaints_are_the_warnings_of_a_log():
    log = "reading\n\x1b[91mbook/a.md:3: WARNING: bad\x1b[39m\nbook/a.md:3: WARNING: bad\ndone"
    assert complaints(log) == "book/a.md:3: WARNING: bad"
    assert complaints("no word of it") == "no word of it"


def test_no_formula_or_number_of_the_theme_is_left_to_chance(built):
    page = (built[1] / "index.html").read_text()
    assert not re.search(r"20\d\d-\d\d-\d\d|Copyright \d", page)

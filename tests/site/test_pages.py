"""Every page of the built site, in a browser: offline, safe, accessible, readable on a phone."""

from __future__ import annotations

import pytest

from tests.site.visits import DESK, PHONE, Visitor, pages_of, report, worth_a_visit

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(browser, site, address):
    """A judged visit to each page on http://localhost; pages of code stand for each other."""
    context = browser.new_context(viewport=DESK, reduced_motion="reduce")
    visitor = Visitor(context, address)
    yield {name: visitor.visit(name, audit=True) for name in worth_a_visit(site)}
    context.close()


@pytest.fixture(scope="module")
def opened(browser, site):
    """A visit to each page as a file; pages of code stand for each other."""
    context = browser.new_context(viewport=DESK)
    visitor = Visitor(context, site.as_uri())
    yield {name: visitor.visit(name, audit=False) for name in worth_a_visit(site)}
    context.close()


@pytest.fixture(params=["served", "opened"])
def visits(request):
    """All visits, on http://localhost and as files."""
    return request.getfixturevalue(request.param)


def test_the_book_is_there(site):
    pages = pages_of(site)
    for name in ("index", "notation", "rerun", "ledger", "reproducibility", "glossary", "search"):
        assert f"{name}.html" in pages
    assert sum(name.startswith(("prompt_attention/", "prefix_tuning/")) for name in pages) >= 3


def test_no_request_leaves_the_site(visits):
    assert report((name, seen.outside) for name, seen in visits.items()) == ""


def test_every_request_is_answered(visits):
    assert report((name, seen.failed) for name, seen in visits.items()) == ""


def test_the_console_stays_empty(visits):
    assert report((name, seen.console) for name, seen in visits.items()) == ""


def test_every_page_has_a_policy_and_keeps_it(visits):
    assert all(seen.seen["policy"] for seen in visits.values())
    assert report((name, seen.seen["violations"]) for name, seen in visits.items()) == ""


def test_every_image_is_described_and_loads(visits):
    problems = [
        (name, image)
        for name, seen in visits.items()
        for image in seen.seen["images"]
        if len((image["alt"] or "").strip()) < 5 or (image["shown"] and not image["loaded"])
    ]
    assert report(problems) == ""


def test_every_formula_is_typeset(visits):
    assert sum(seen.seen["formulas"] for seen in visits.values()) > 50
    problems = [
        (name, [*seen.seen["untypeset"], *seen.seen["broken"], *(["raw TeX"] * seen.seen["raw"])])
        for name, seen in visits.items()
        if not name.startswith("source/")
    ]
    assert report(problems) == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(served, scheme):
    assert report((name, seen.audits[scheme]) for name, seen in served.items()) == ""


def test_no_page_scrolls_sideways_on_a_phone(served):
    wide = {name: seen.phone_width for name, seen in served.items()}
    assert report((name, w) for name, w in wide.items() if w > PHONE["width"]) == ""


def test_the_home_page_asks_for_little(served):
    assert served["index.html"].requests <= 30

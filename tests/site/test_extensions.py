"""The extensions behind the ledger, the source pages and the generated tables."""

from __future__ import annotations

import html

import book_site
import claims_ledger
import pytest
import source_pages

from promptlib.claims import VERDICTS

MODULE = '''
"""A module."""
import functools

LIMIT: float = 2.0


@functools.cache
def plain(x):
    return x


class Thing:
    size = 3

    def method(self):
        def inner(): ...
        return inner
'''


@pytest.fixture
def sources(tmp_path):
    """A library with a package that re-exports lazily, and a test."""
    package = tmp_path / "promptlib" / "wing"
    package.mkdir(parents=True)
    (tmp_path / "promptlib" / "__init__.py").write_text("")
    (package / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from .thing import Thing\n    from promptlib.wing.thing import plain as simple\n"
    )
    (package / "thing.py").write_text(MODULE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_thing.py").write_text(
        "def test_a(): ...\n\n\nclass TestB:\n    def test_c(self): ...\n"
    )
    return source_pages.Sources(tmp_path)


def test_definitions_are_found_with_their_decorators():
    assert source_pages.definitions(MODULE) == {
        "LIMIT": 5,
        "plain": 8,
        "Thing": 13,
        "Thing.size": 14,
        "Thing.method": 16,
    }


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("promptlib.wing.thing", "source/promptlib/wing/thing.html"),
        ("promptlib.wing.thing.plain", "source/promptlib/wing/thing.html#plain"),
        ("promptlib.wing.thing.Thing.method", "source/promptlib/wing/thing.html#Thing.method"),
        ("promptlib.wing.Thing.method", "source/promptlib/wing/thing.html#Thing.method"),
        ("promptlib.wing.simple", "source/promptlib/wing/thing.html#plain"),
        ("promptlib.wing", "source/promptlib/wing/__init__.html"),
    ],
)
def test_a_name_leads_to_its_definition(sources, name, page):
    assert sources.find(name).page == page


@pytest.mark.parametrize("name", ["promptlib.wing.nothing", "promptlib.wing.thing.no", "numpy"])
def test_an_unknown_name_leads_nowhere(sources, name):
    assert sources.find(name) is None


@pytest.mark.parametrize(
    ("test", "page"),
    [
        ("tests/test_thing.py::test_a", "source/tests/test_thing.html#test_a"),
        ("tests/test_thing.py::test_a[0.5-x]", "source/tests/test_thing.html#test_a"),
        ("tests/test_thing.py::TestB::test_c", "source/tests/test_thing.html#TestB.test_c"),
    ],
)
def test_a_test_leads_to_its_source(sources, test, page):
    assert sources.find_test(test).page == page


def test_an_unknown_test_leads_nowhere(sources):
    assert sources.find_test("tests/test_thing.py::test_z") is None
    assert sources.find_test("tests/test_other.py::test_a") is None


def test_source_pages_keep_every_line():
    page = source_pages.render(MODULE, source_pages.definitions(MODULE))
    assert page.count('class="line"') == len(MODULE.rstrip("\n").split("\n"))
    assert '<span id="plain"></span><span class="line" id="L8">' in page


def a_row(**changes):
    claim = {
        "id": "wing/a-b",
        "anchor": "claim-wing-a-b",
        "sentence_html": "It <b>holds</b>.",
        "kind": "bound",
        "source": "this book",
        "verdict": "holds",
        "published": None,
        "this_build": "slack 1.0e-15",
        "archived": None,
        "notebook": "wing/chapter",
        "chapter": "Chapter & verse",
        "part": "Part I",
        "checks": "promptlib.wing.Thing",
        "tests": ["tests/test_thing.py::test_a"],
    }
    return claim | changes


def test_a_row_of_the_ledger(sources):
    row = claims_ledger.row(a_row(), sources, lambda path: "../" + path)
    assert 'data-part="Part I" data-kind="bound" data-verdict="holds"' in row
    assert 'href="../wing/chapter.html#claim-wing-a-b">Chapter &amp; verse</a>' in row
    assert 'href="../source/promptlib/wing/thing.html#Thing"' in row
    assert 'href="../source/tests/test_thing.html#test_a"' in row
    assert '<span class="nowrap">1.0e-15</span>' in row
    assert row.count('class="none"') == 2


def test_the_ledger_counts_and_offers_what_there_is(sources):
    claims = [a_row(), a_row(id="wing/c", kind="outcome", verdict="not reproduced")]
    assert "<b>1</b>" in claims_ledger.summary(claims)
    assert 'class="claim-not-reproduced"' in claims_ledger.summary(claims)
    form = claims_ledger.filters(claims)
    for option in ("bound", "outcome", "holds", "not reproduced", "Part I"):
        assert f"<option>{option}</option>" in form
    assert "hidden" in form  # until the script that makes it work has run
    assert "onclick" not in form


def test_a_book_without_claims_says_so(sources):
    assert "no claims" in claims_ledger.ledger(lambda path: path, [], str(sources.root))


def test_the_ledger_lists_what_was_not_checked():
    assert set(claims_ledger.VERDICTS) == set(VERDICTS)
    rows = [a_row(), a_row(verdict="not checked", this_build="needs EXTRAS=real")]
    assert 'class="claim-not-checked"' in claims_ledger.summary(rows)
    assert "<option>not checked</option>" in claims_ledger.filters(rows)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(8.26, "8.3 s"), (59.94, "59.9 s"), (125, "2 min 05 s"), (4200, "1 h 10 min")],
)
def test_durations_in_words(seconds, words):
    assert book_site.duration(seconds) == words


def test_tables_mark_what_was_measured():
    build = {
        "notebooks": [
            {
                "name": "wing/chapter",
                "title": "A < B",
                "seconds": 3.0,
                "peak_memory_mib": 99.0,
                "parameters": [{"name": "seed", "used": "0", "meaning": "x > 0"}],
            }
        ],
        "machine": {"cores": "2"},
        "versions": {"torch": "2.13.0"},
        "runs": [
            {
                "name": f"pretrain-seed{seed}-abc",
                "train": "promptlib.wing.training:pretrain",
                "config": {"seed": seed},
                "seconds": 61.0 + seed,
            }
            for seed in (0, 1)
        ],
        "one_seed": {
            "rows": [
                {
                    "experiment": "B4",
                    "what": "prefix",
                    "task": "add_one",
                    "published": 99.62,
                    "percent": 100.0,
                    "steps": 1000,
                    "seconds": 15.2,
                },
                {
                    "experiment": "B4",
                    "what": "prefix",
                    "task": "add_two",
                    "published": None,
                    "percent": 99.9,
                    "steps": 1000,
                    "seconds": 0,
                },
            ]
        },
    }
    pages = {kind: make(lambda path: path, build) for kind, make in book_site.TABLES.items()}
    assert pages["notebooks"].count('class="measured"') == 2
    assert pages["machine"].count('class="measured"') == 1
    assert pages["runs"].count('class="measured"') == 4  # together, longest, and each run
    assert '<span class="measured">2 min 03 s</span>' in pages["runs"]
    assert "<td>0, 1</td>" in pages["runs"]
    assert "99.62" in pages["one-seed"]
    assert "All together, on one core" in pages["one-seed"]
    assert pages["one-seed"].count("15.2 s") == 2  # of its row, and of all
    none = book_site.TABLES["one-seed"](lambda path: path, {**build, "one_seed": None})
    assert "has been archived" in none
    assert "<code>pretrain-seed1-abc</code>" in pages["runs"]
    assert "measured" not in pages["versions"] + pages["parameters"]
    assert html.escape("A < B") in pages["notebooks"]


def test_a_build_without_runs_says_so():
    assert "trained no model" in book_site.TABLES["runs"](lambda path: path, {"runs": []})

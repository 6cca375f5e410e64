"""The extensions behind the ledger, the source pages and the generated tables."""

from __future__ import annotations

import html
import re
from pathlib import Path

import book_site
import claims_ledger
import pytest
import source_pages

from promptlib.claims import REPLICATIONS, VERDICTS
from promptlib.claims.box import slug

BOOK = Path(__file__).resolve().parents[2] / "book"
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
        "recorded": None,
        "replication": None,
        "published": None,
        "this_build": "slack 1.0e-15",
        "archived": None,
        "archived_replication": None,
        "notebook": "wing/chapter",
        "chapter": "Chapter & verse",
        "part": "Part I",
        "checks": "promptlib.wing.Thing",
        "tests": ["tests/test_thing.py::test_a"],
    }
    return claim | changes


def test_a_row_of_the_ledger(sources):
    row = claims_ledger.row(a_row(), sources, lambda path: "../" + path)
    assert 'data-part="Part I" data-kind="bound" data-verdict="holds" data-replication=""' in row
    assert 'href="../wing/chapter.html#claim-wing-a-b">Chapter &amp; verse</a>' in row
    assert 'href="../source/promptlib/wing/thing.html#Thing"' in row
    assert 'href="../source/tests/test_thing.html#test_a"' in row
    assert '<span class="nowrap">1.0e-15</span>' in row
    assert row.count("<dt>") == 1  # nothing was published or archived
    assert "published figure" not in row
    assert "recorded" not in row


def test_a_row_of_an_outcome_has_both_words_and_the_record(sources):
    claim = a_row(
        kind="outcome",
        verdict="undecided",
        recorded="supported",
        replication="other size",
        published="91.00 %; here width 96",
        archived="supported; published figure: weaker; asked: above 50",
    )
    row = claims_ledger.row(claim, sources, lambda path: path)
    assert '<span class="claim-verdict">undecided</span>' in row
    assert '<span class="claim-recorded">recorded: supported</span>' in row
    assert '<span class="claim-replication">published figure: other size</span>' in row
    assert 'data-verdict="undecided" data-replication="other size"' in row
    assert "<dt>published</dt><dd>91.00 %; here width 96</dd>" in row
    assert "<dt>published size, archived</dt>" in row


def test_the_ledger_counts_and_offers_what_there_is(sources):
    outcome = {"kind": "outcome", "verdict": "single run", "replication": "other size"}
    claims = [a_row(), a_row(id="wing/c", **outcome, archived_replication="weaker")]
    lists = claims_ledger.summary(claims).split("<ul")[1:]
    assert len(lists) == 3
    assert 'aria-label="Is the sentence true?"' in lists[0]
    assert lists[0].count("<b>1</b>") == 2
    assert 'class="claim-single-run"' in lists[0]
    assert 'aria-label="Is it what was published?"' in lists[1]
    assert '<b>1</b> <span class="claim-replication">other size</span>' in lists[1]
    assert '<b>1</b> <span class="claim-replication">weaker</span>' in lists[2]
    form = claims_ledger.filters(claims)
    for option in ("bound", "outcome", "holds", "single run", "other size", "Part I"):
        assert f"<option>{option}</option>" in form
    for label in ("Part", "Kind", "Verdict", "Published figure"):
        assert f">{label}</label>" in form
    assert "Published figure" not in claims_ledger.filters([a_row()])
    assert len(claims_ledger.summary([a_row()]).split("<ul")) == 2
    assert "hidden" in form  # until the script that makes it work has run
    assert "onclick" not in form


def test_a_book_without_claims_says_so(sources):
    assert "no claims" in claims_ledger.ledger(lambda path: path, [], str(sources.root))


def test_the_ledger_lists_what_was_not_checked():
    rows = [a_row(), a_row(verdict="not checked", this_build="needs EXTRAS=real")]
    assert 'class="claim-not-checked"' in claims_ledger.summary(rows)
    assert "<option>not checked</option>" in claims_ledger.filters(rows)


WORDS = sorted({*VERDICTS, *REPLICATIONS})


@pytest.mark.parametrize("word", WORDS)
def test_glossary_home_and_rules_know_every_word(word):
    texts = {name: (BOOK / f"{name}.md").read_text() for name in ("glossary", "index")}
    assert f"\n{word}\n" in texts["glossary"]
    assert re.search(rf"\*{word}\*".replace("fails", "fails?").replace(" ", r"\s+"), texts["index"])
    rules = (BOOK / "reproducibility.md").read_text()
    assert f"*{word}*" in rules


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_its_colours(verdict):
    style = (BOOK / "assets" / "book.css").read_text()
    assert re.search(rf"\.claim-{slug(verdict)}\b[^{{]*{{ --claim-colour", style)


def test_no_page_says_what_no_claim_can_be():
    for path in [*BOOK.glob("*.md"), BOOK / "assets" / "book.css"]:
        assert not re.search(r"not[ -]reproduced", path.read_text()), path


ROBUST = {
    "cases": [
        {
            "name": name,
            "first_seed": seed,
            "path": path,
            "processor": "A <fast> one",
            "date": "2026-01-02",
        }
        for name, seed, path in [("quick", 0, "native"), ("quick@100-avx2", 100, "avx2")]
    ],
    "claims": {
        "wing/a": {"holds": 2},
        "wing/b": {"supported": 2},
        "wing/c": {"supported": 1, "undecided": 1},
        "wing/gone": {"single run": 2},
        "wing/d": {"uninformative": 1, "supported": 1},
    },
    "gate": [],
}


def robust(**changes):
    build = {"robust": {**ROBUST, **changes}, "anchors": {"wing/c": "claim-wing-c"}}
    return book_site.TABLES["robust"](lambda path: path, build)


def test_repetitions_list_the_claims_that_differed_and_count_the_rest():
    page = robust()
    assert "Of 5 claims, 3 came out the same way in all 2 repetitions" in page
    assert "(1 holds, 1 supported, 1 single run)" in page
    assert "The gate was open in every repetition." in page
    machines, counts = page.split("<table")[1:]
    assert machines.count("A &lt;fast&gt; one") == 2
    assert 'href="ledger.html#ledger-claim-wing-c"' in counts
    assert counts.count('<th scope="row">') == 2
    assert "</th><td>1 supported, 1 undecided</td>" in counts
    assert "<code>wing/d</code></th><td>1 supported, 1 uninformative</td>" in counts


def test_the_least_settled_claims_come_first():
    page = robust(
        claims={
            "wing/nearly": {"supported": 5, "undecided": 1},
            "wing/half": {"undecided": 3, "contradicted": 3},
        }
    )
    assert page.index("wing/half") < page.index("wing/nearly")
    assert "3 contradicted, 3 undecided" in page


def test_repetitions_name_what_closed_the_gate():
    page = robust(gate=["quick@100-avx2: wing/b: recorded 'supported', now 'contradicted'"])
    assert "The gate was closed by:" in page
    assert "<li>quick@100-avx2: wing/b: recorded" in page


def test_repetitions_that_all_agree_need_no_table_of_claims():
    page = robust(claims={"wing/a": {"holds": 2}})
    assert page.count("<table") == 1
    assert "Of 1 claims, 1 came out the same way" in page


@pytest.mark.parametrize("found", [None, {"cases": [], "claims": {}, "gate": []}])
def test_repetitions_that_were_not_run_are_said_to_be(found):
    page = book_site.TABLES["robust"](lambda path: path, {"robust": found})
    assert "have not been run" in page


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
    build["robust"] = build["published_cost"] = None
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


def test_what_published_sizes_cost_is_listed_in_the_order_of_the_book():
    def cost(name, **changes):
        known = {"runs": 10, "alone": 0, "card": "Card <1>", "card_seconds": 65.0}
        return {"name": name, **known, "alone_seconds": 0, "core_hours": 12.3, **changes}

    found = [
        cost("w/b", alone=2, alone_seconds=30.0, core_hours=0.26),
        cost("w/a", core_hours=None),
        cost("w/gone"),
        cost(None, runs=20),
    ]
    notebooks = [{"name": "w/a", "title": "A < B"}, {"name": "w/b", "title": "B"}]
    build = {"published_cost": found, "notebooks": notebooks}
    page = book_site.TABLES["published-cost"](lambda path: path, build)
    assert [page.index(part) for part in ("A &lt; B", ">B<", "All together")] == sorted(
        page.index(part) for part in ("A &lt; B", ">B<", "All together")
    )
    assert page.count("1 min 05 s, Card &lt;1&gt;") == 3
    assert "<td>2: 30.0 s</td><td>0.3</td>" in page
    assert "<td></td><td>12</td>" in page
    assert "w/gone" not in page
    none = book_site.TABLES["published-cost"](lambda path: path, {"published_cost": None})
    assert "that a GPU trained" in none


def test_a_build_without_runs_says_so():
    assert "trained no model" in book_site.TABLES["runs"](lambda path: path, {"runs": []})


ARCHIVED = {
    "anchor": "claim-wing-one",
    "sentence_html": "It learns.",
    "published": 91.5,
    "mean": 94.0,
    "interval": [92.5, 95.5],
    "seeds": 5,
    "unit": "% of sequences",
    "verdict": "supported",
    "replication": "reproduced",
}
TURNED = {
    **ARCHIVED,
    "anchor": "claim-wing-two",
    "sentence_html": "It fails.",
    "published": None,
    "verdict": "contradicted",
    "replication": None,
}


def relative(path):
    return f"../{path}"


def test_a_chapter_opens_with_what_its_archived_runs_gave():
    record = {"published_size": [ARCHIVED], "turned": [TURNED]}
    text = book_site.published_size(relative, record, "quick")
    assert "over 5 seeds" in text
    assert "of the quick profile, are a rehearsal of it" in text
    assert '<a href="#claim-wing-one">It learns.</a>' in text
    assert "<td>91.5</td>" in text
    assert '94.00 <span class="nowrap">(92.50 to 95.50)</span>' in text
    assert "supported; reproduced" in text
    assert "<summary>Published figures: 1 reproduced</summary>" in text
    assert "Otherwise than in this build&#x27;s small runs: 1 contradicted</summary>" in text
    assert "<b>contradicted</b>" in text


def test_one_seed_has_no_interval_and_nothing_turned_needs_no_table():
    record = {"published_size": [{**ARCHIVED, "interval": None, "seeds": 1}], "turned": []}
    text = book_site.published_size(relative, record, "quick")
    assert "over 1 seed and" in text
    assert "94.00 (one seed)" in text
    assert "Otherwise" not in text


def test_a_chapter_lists_its_code_with_what_each_file_answers():
    code = [{"path": "notebooks/wing/chapter/plan.py", "asks": "Which runs & why?"}]
    text = book_site.chapter_code(relative, "wing/chapter", code)
    assert 'href="../source/notebooks/wing/chapter/plan.html"' in text
    assert "<code>plan.py</code></a> Which runs &amp; why?" in text
    assert "<code>notebooks/wing/chapter</code>" in text


def test_a_link_to_a_claim_says_where_the_archive_judges_otherwise():
    claim = {
        "anchor": "claim-wing-two",
        "id": "wing/two",
        "verdict": "supported",
        "replication": None,
        "archived_verdict": "contradicted",
        "archived_replication": None,
    }
    assert "at the published size: contradicted" in claims_ledger.claim_link(relative, claim)
    same = {**claim, "archived_verdict": "supported"}
    assert "published size" not in claims_ledger.claim_link(relative, same)

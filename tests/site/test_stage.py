"""Staging gathers what the site needs, or says what is missing and leaves everything as it was."""

from __future__ import annotations

import dataclasses
import html
import json

import pytest

from promptlib import claims
from tests.site import little
from tests.site.little import NAME, a_claim, claim_output
from workflow.sources import BuildError
from workflow.stage import stage


@pytest.fixture
def book(tmp_path):
    """A little book, ready to be staged."""
    return little.make(tmp_path / "book")


def stage_it(book, **changes):
    options = {
        "profile": "quick",
        "executed": book.executed,
        "claims_file": book.claims_file,
        "archive": book.root / "archive",
        "gate_file": book.gate_file,
        "to": book.staged,
        "root": book.root,
    }
    return stage(**(options | changes))


def test_the_staged_folder_has_the_shape_of_the_repository(book):
    assert stage_it(book) == []
    for name in (
        "_config.yml",
        "book/_toc.yml",
        "book/wing/chapter.ipynb",
        "book/_data/build.json",
        "book/_data/ledger.json",
        "book/_data/sources/promptlib/thing.py",
        "book/_extra/claims.json",
        "book/_extra/notebooks/wing/chapter.md",
        "book/_extra/notebooks/wing/chapter.ipynb",
    ):
        assert (book.staged / name).is_file(), name
    build = json.loads((book.staged / "book/_data/build.json").read_text())
    assert build["profile"] == "quick"
    assert build["notebooks"][0]["seconds"] == 75.2
    assert build["notebooks"][0]["part"] == "One part"
    assert "torch" in build["versions"]
    assert "cores" in build["machine"]


def test_the_downloads_are_the_source_and_the_notebook_with_its_parameters(book):
    stage_it(book)
    offered = book.staged / "book" / "_extra" / "notebooks" / "wing"
    assert (offered / "chapter.md").read_text() == little.SOURCE
    notebook = json.loads((offered / "chapter.ipynb").read_text())
    assert any("rate = 0.25" in "".join(cell["source"]) for cell in notebook["cells"])


def test_new_prose_needs_no_new_execution(book):
    source = book.root / "notebooks" / NAME / "chapter.md"
    source.write_text(little.SOURCE.replace("It has one theorem.", "Other words."))
    stage_it(book)
    assert "Other words." in (book.staged / "book/wing/chapter.ipynb").read_text()


def test_new_code_needs_a_new_execution(book):
    source = book.root / "notebooks" / NAME / "chapter.md"
    source.write_text(little.SOURCE.replace("draw()", "draw(2)"))
    with pytest.raises(BuildError, match="executed with other code"):
        stage_it(book)


def staged_data(book, name):
    return json.loads((book.staged / "book" / "_data" / name).read_text())


def test_the_ledger_has_published_ours_and_archived(book):
    book.archive(a_claim(values=[70.0] * 5))
    stage_it(book)
    (row,) = staged_data(book, "ledger.json")
    assert row["published"].startswith("91.00 % of sequences; the same within ± 5")
    assert row["this_build"].startswith("asked: above 50 % of sequences; mean 91.00 over 3 seeds")
    assert row["archived"].startswith("supported; published figure: weaker; asked: above 50")
    assert (row["verdict"], row["replication"]) == ("supported", "reproduced")
    assert row["archived_replication"] == "weaker"
    assert row["recorded"] is None
    assert row["chapter"] == "A chapter about prefixes"
    assert row["tests"] == ["tests/test_thing.py::test_measure"]


def test_box_and_ledger_show_the_claim_as_the_chapter_decided_it(book):
    """A cell judges alone; what the chapter's outcomes decided together is shown everywhere."""
    alone = a_claim(values=[58.0, 54.0, 56.5], published=None)
    noise = [
        dataclasses.replace(a_claim(values=[90.0, 10.0, 40.0]), id=f"wing/noise-{place}")
        for place in range(3)
    ]
    needing = dataclasses.replace(a_claim(requires=[alone]), id="wing/needing")
    shown = [alone, needing, *noise]
    assert [claim.verdict for claim in shown[:2]] == ["supported", "supported"]
    book.outputs[2] = [claim_output(claim) for claim in shown]
    book.execute()
    decided = claims.decide(shown)
    assert [claim.verdict for claim in decided[:2]] == ["undecided", "uninformative"]
    records = [{**claim.to_json(), "notebook": NAME, "tests": []} for claim in decided]
    records[0]["recorded"] = "supported"
    book.write_claims(records)
    stage_it(book)
    rows = {row["id"]: row for row in staged_data(book, "ledger.json")}
    page = json.loads((book.staged / "book/wing/chapter.ipynb").read_text())
    boxes = "".join(
        "".join(output["data"]["text/html"])
        for cell in page["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    )
    for claim in decided:
        box = boxes.split(f'id="{claim.anchor}"')[1].split("</aside>")[0]
        row = rows[claim.id]
        assert f'<span class="claim-verdict">{row["verdict"]}</span>' in box
        assert f"<dt>this build</dt><dd>{html.escape(row['this_build'])}</dd>" in box
        assert ("published figure: " in box) == (row["replication"] is not None)
        assert f"published figure: {row['replication']}" in box or row["replication"] is None
        assert (row["published"] is None) == ("<dt>published</dt>" not in box)
        assert ("<dt>recorded</dt>" in box) == (row["recorded"] is not None)
    assert rows[alone.id]["recorded"] == "supported"
    assert rows[alone.id]["verdict"] == "undecided"
    assert "<dd>supported; undecided in this build</dd>" in boxes


@pytest.mark.parametrize(("name", "key"), [("one_seed", "rows"), ("robust", "cases")])
def test_archived_tables_are_handed_to_their_page(book, name, key):
    stage_it(book)
    assert staged_data(book, "build.json")[name] is None
    (book.root / "archive").mkdir()
    table = {key: [{"task": "add_one"}], "claims": {}}
    (book.root / "archive" / f"{name}.json").write_text(json.dumps(table))
    stage_it(book)
    assert staged_data(book, "build.json")[name] == table


def test_a_closed_gate_is_handed_to_the_pages_and_an_absent_one_is_not(book):
    stage_it(book)
    assert not (book.staged / "book/_data/gate.json").exists()
    book.close_gate(["wing/line-rises fails"])
    stage_it(book)
    assert staged_data(book, "gate.json") == {"open": False, "problems": ["wing/line-rises fails"]}
    book.gate_file.write_text("{}")
    with pytest.raises(BuildError, match=r"gate.json must hold an object with a list 'problems'"):
        stage_it(book)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda book: book.claims_file.unlink(), "claims.json is missing"),
        (lambda book: book.claims_file.write_text("{"), "is no JSON"),
        (lambda book: book.claims_file.write_text("[]"), "a list 'claims'"),
        (lambda book: book.write_claims([]), "wing/line-rises shown in a notebook, but not listed"),
        (
            lambda book: (book.executed / f"{NAME}.ipynb").unlink(),
            "names wing/chapter, but .* is missing; run: make notebook NOTEBOOK=wing/chapter",
        ),
        (lambda book: (book.executed / f"{NAME}.ipynb").write_text("no"), "is no notebook"),
        (
            lambda book: (book.executed / f"{NAME}.measured.json").unlink(),
            "measured.json is missing",
        ),
        (
            lambda book: (book.executed / f"{NAME}.measured.json").write_text('{"seconds": "a"}'),
            "must give numbers",
        ),
        (
            lambda book: (book.executed / "wing" / "stray.ipynb").write_text("{}"),
            "executed, but not in book/_toc.yml: wing/stray",
        ),
        (
            lambda book: (book.root / "notebooks" / NAME / "chapter.md").unlink(),
            "no notebook 'wing/chapter'",
        ),
        (lambda book: (book.root / "book" / "ledger.md").unlink(), "names ledger, but there is no"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_named_and_the_last_stage_stays(book, harm, message):
    stage_it(book)
    before = (book.staged / "book/_data/ledger.json").read_bytes()
    harm(book)
    with pytest.raises(BuildError, match=message):
        stage_it(book)
    assert (book.staged / "book/_data/ledger.json").read_bytes() == before


def test_a_claim_that_no_notebook_shows_is_a_fault(book):
    book.outputs[2] = []
    record = json.loads(book.claims_file.read_text())["claims"]
    book.execute()
    book.write_claims(record)
    with pytest.raises(BuildError, match="wing/line-rises listed there, but shown in no notebook"):
        stage_it(book)


def test_a_claim_is_shown_once(book):
    book.outputs[2] = [claim_output(a_claim()), claim_output(a_claim())]
    book.execute()
    with pytest.raises(BuildError, match="claim wing/line-rises is shown twice"):
        stage_it(book)


def test_what_is_stale_in_the_archive_is_said_and_not_shown(book):
    book.archive(dataclasses.replace(a_claim(), sentence="The line falls."))
    remarks = stage_it(book)
    assert remarks == ["archive/wing/chapter.json: the sentence of wing/line-rises is another now"]
    assert staged_data(book, "ledger.json")[0]["archived"] is None


def test_a_broken_archive_is_named(book):
    (book.root / "archive" / "wing").mkdir(parents=True)
    (book.root / "archive" / "wing" / "chapter.json").write_text("{")
    with pytest.raises(BuildError, match=r"chapter.json is no JSON"):
        stage_it(book)

"""Staging gathers what the site needs, or says what is missing and leaves everything as it was."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.site import little
from tests.site.little import NAME, a_claim, claim_output
from workflow.sources import BuildError
from workflow.stage import read_archive, stage


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
    source = book.root / "notebooks" / f"{NAME}.md"
    source.write_text(little.SOURCE.replace("It has one theorem.", "Other words."))
    stage_it(book)
    assert "Other words." in (book.staged / "book/wing/chapter.ipynb").read_text()


def test_new_code_needs_a_new_execution(book):
    source = book.root / "notebooks" / f"{NAME}.md"
    source.write_text(little.SOURCE.replace("draw()", "draw(2)"))
    with pytest.raises(BuildError, match="executed with other code"):
        stage_it(book)


def test_the_ledger_has_published_ours_and_archived(book):
    book.archive(a_claim(values=[90.0] * 5))
    stage_it(book)
    (row,) = json.loads((book.staged / "book/_data/ledger.json").read_text())
    assert row["published"] == "91.00 % of sequences"
    assert row["this_build"].startswith("91.00 ±")
    assert row["archived"].endswith("over 5 seeds; weaker")
    assert row["chapter"] == "A chapter about prefixes"
    assert row["tests"] == ["tests/test_thing.py::test_measure"]


def test_the_archived_table_of_one_seed_is_handed_to_the_page(book):
    stage_it(book)
    build = book.staged / "book/_data/build.json"
    assert json.loads(build.read_text())["one_seed"] is None
    (book.root / "archive").mkdir()
    rows = [{"task": "add_one", "percent": 99.9}]
    (book.root / "archive" / "one_seed.json").write_text(json.dumps({"rows": rows}))
    stage_it(book)
    assert json.loads(build.read_text())["one_seed"]["rows"] == rows


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda book: book.claims_file.unlink(), "claims.json is missing"),
        (lambda book: book.claims_file.write_text("{"), "is no JSON"),
        (lambda book: book.claims_file.write_text("[]"), "a list 'claims'"),
        (lambda book: book.write_claims([]), "wing/line-rises shown in a notebook, but not listed"),
        (
            lambda book: (book.executed / f"{NAME}.ipynb").unlink(),
            "names wing/chapter, but .* is missing; execute notebooks/wing/chapter.md first",
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
            lambda book: (book.root / "notebooks" / f"{NAME}.md").unlink(),
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


def test_the_archive_may_be_empty_and_refuses_doubt(book):
    assert read_archive(None) == {}
    assert read_archive(book.root / "archive") == {}
    book.archive(a_claim())
    assert list(read_archive(book.root / "archive")) == ["wing/line-rises"]
    other = dataclasses.replace(a_claim(), id="other/line-falls")
    book.archive(other, "other/chapter")
    assert sorted(read_archive(book.root / "archive")) == ["other/line-falls", "wing/line-rises"]
    book.archive(a_claim(), "other/chapter")
    with pytest.raises(BuildError, match="wing/line-rises is archived twice"):
        read_archive(book.root / "archive")


def test_a_broken_archive_is_named(book):
    folder = book.root / "archive"
    folder.mkdir()
    (folder / "other.json").write_text('{"seconds": 3}')  # no claims: none of our business
    assert read_archive(folder) == {}
    (folder / "chapter.json").write_text('{"claims": [{"id": "wing/line-rises"}]}')
    with pytest.raises(BuildError, match=r"chapter.json: an archived claim lacks 'sentence'"):
        read_archive(folder)

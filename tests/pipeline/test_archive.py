"""The archive: one file for each notebook that ran at full size, with what it was made from."""

import json
import os
import subprocess
import sys

import pytest

from tests.pipeline import small_book
from workflow import archive

ARCHIVED = sorted(archive.ARCHIVE.glob("*/*.json"))


def git(book, *arguments):
    name = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", *name, *arguments], cwd=book.root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A small book under version control, with a full-size profile, not built."""
    book = small_book.make(tmp_path_factory.mktemp("archive") / "book", sketch=True)
    entry = "{{parameters: {{rate: {}}}, runs: 'promptlib.small.training:plan'}}"
    (book.root / "config" / "paper.yml").write_text(
        f"notebooks:\n  small/first: {entry.format(0.25)}\n  small/second: {entry.format(0.75)}\n"
    )
    (book.root / ".gitignore").write_text("__pycache__/\n_build/\nruns/\n*.log\n")
    git(book, "init", "--quiet")
    git(book, "add", ".")
    git(book, "commit", "--quiet", "--message", "All")
    return book


def start(book, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "workflow.archive", *arguments],
        cwd=book.root,
        env={**os.environ, "PYTHONPATH": str(book.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(book, *arguments):
    """Exit status and output of ``make archive``."""
    process = start(book, *arguments)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def files(book):
    return {
        path.relative_to(book.root / "archive").as_posix(): json.loads(path.read_text())
        for path in sorted((book.root / "archive").rglob("*.json"))
    }


@pytest.mark.pipeline
def test_one_notebook_is_trained_executed_and_archived_with_what_was_changed(book):
    status, output = run(book, "small/first", "--set", "rate=0.125")
    assert status == 0, output
    assert book.log == ["first", "train"]
    found = files(book)
    assert list(found) == ["small/first.json"]
    content = found["small/first.json"]
    provenance = content["provenance"]
    assert provenance["notebook"] == "small/first"
    assert provenance["profile"] == "paper"
    assert provenance["commit"] == git(book, "rev-parse", "HEAD")
    assert provenance["parameters"] == {"rate": 0.125}
    assert provenance["changed"] == {"rate": {"archived": 0.125, "profile": 0.25}}
    assert provenance["seconds"] > 0
    assert provenance["peak_memory_mib"] > 1
    assert "torch" in provenance["machine"]
    (trained,) = content["runs"]
    assert trained["config"] == {"rate": 0.125, "seed": 0}
    assert trained["metrics"] == {"sum": 0.375}
    assert trained["needs"] == []
    assert trained["name"] in output
    assert "archived 1 runs and what decides 1 further claims: archive/small/first.json" in output
    assert list(content["measured"]) == ["small/first"]
    assert "verdict" not in json.dumps(content)
    assert (book.root / "_build/archive/executed/small/first.ipynb").is_file()


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small/first", "--profile", "quick"], "archive PROFILE=paper"),
        (["--profile", "quick"], "archive PROFILE=paper"),
        (["small/frist"], "there is no notebook 'small/frist'"),
        (["small/first", "--set", "rat=1"], "no parameter 'rat' (did you mean 'rate'?)"),
        (["--set", "rate=1"], "say whose parameters change: NOTEBOOK="),
        ([], "there is no build to archive; run: make book PROFILE=paper"),
    ],
)
def test_what_cannot_be_archived_is_named(book, arguments, message):
    status, output = run(book, *arguments)
    assert status == 1
    assert message in output
    assert "Traceback" not in output


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "path", ["promptlib/small/training.py", "notebooks/small/second/second.md", "config/paper.yml"]
)
def test_sources_that_are_not_committed_are_refused(book, path):
    file = book.root / path
    before = file.read_bytes()
    file.write_bytes(before + b"\n")
    status, output = run(book, "small/first")
    file.write_bytes(before)
    assert status == 1
    assert "commit first, so that the archive can name its sources" in output
    assert path in output


@pytest.mark.pipeline
def test_a_failed_run_or_code_that_changes_meanwhile_archives_nothing(book):
    before = files(book)
    (book.root / "fail-train").touch()
    status, output = run(book, "small/second")
    (book.root / "fail-train").unlink()
    assert status == 1
    assert "error: small/second is not archived; not trained: train-seed0-" in output
    (book.root / "hold-second").touch()
    process = start(book, "small/second")
    book.wait_for("second")
    book.edit("notebooks/small/second/second.md", 'work("second")', 'work("other")')
    (book.root / "hold-second").unlink()
    output, _ = process.communicate(timeout=120)
    git(book, "checkout", "--quiet", "notebooks")
    assert process.returncode == 1
    assert "changed while it ran; commit, and archive it again" in output
    assert files(book) == before


@pytest.mark.pipeline
def test_a_finished_build_is_archived_notebook_by_notebook(book):
    status, output = book.build("--profile", "paper")
    assert status == 0, output
    status, output = run(book)
    assert status == 0, output
    found = files(book)
    assert list(found) == ["small/first.json", "small/second.json"]
    for content, rate in zip(found.values(), (0.25, 0.75), strict=True):
        assert content["provenance"]["changed"] == {}
        assert content["provenance"]["parameters"] == {"rate": rate}
        assert content["runs"][0]["metrics"] == {"sum": 3 * rate}
        assert len(content["measured"]) == 1


def test_an_archive_is_laid_out_to_be_read_and_compared():
    data = {"a": {"x": 1, "y": "é"}, "b": [[1, 2.5], []], "c": [], "d": [{"e": {"f": None}}]}
    text = archive.laid_out(data)
    assert json.loads(text) == data
    assert text.splitlines() == [
        "{",
        ' "a": {"x": 1, "y": "é"},',
        ' "b": [',
        "  [1, 2.5],",
        "  []",
        " ],",
        ' "c": [],',
        ' "d": [',
        "  {",
        '   "e": {"f": null}',
        "  }",
        " ]",
        "}",
    ]


@pytest.mark.parametrize("path", ARCHIVED, ids=lambda path: path.stem)
def test_every_archived_file_says_where_it_comes_from(path):
    content = json.loads(path.read_text())
    provenance = content["provenance"]
    assert path == archive.ARCHIVE / f"{provenance['notebook']}.json"
    assert provenance["commit"]
    assert provenance["machine"]["torch"]
    assert provenance["changed"].keys() <= provenance["parameters"].keys()
    for name, change in provenance["changed"].items():
        assert change["archived"] == provenance["parameters"][name] != change["profile"]
    assert content["runs"] or content["measured"]

"""``make book`` from cold, again, after edits, with faults, and after kill -9 at any place."""

import contextlib
import os
import shutil
import signal

import pytest
from filelock import FileLock

from tests.pipeline import small_book

pytestmark = pytest.mark.pipeline


@pytest.fixture
def book(sketched, tmp_path):
    """A copy of a built book, with its store, its caches and its site."""
    return sketched.copy(tmp_path / "book")


def descendants(pid):
    """Process ids below a process, from /proc."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == pid:
                found += [int(name), *descendants(int(name))]
    return found


def kill(process, wanted):
    """kill -9 the descendants whose command line holds ``wanted``; everything for None."""
    if wanted == "workflow.build":
        os.kill(process.pid, signal.SIGKILL)
        return
    victims = []
    for pid in descendants(process.pid):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                command = file.read().replace("\0", " ")
        except OSError:
            continue
        if wanted is None or wanted in command:
            victims.append(pid)
    if wanted is None:
        victims.append(process.pid)
    assert victims, f"nothing runs {wanted}"
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_cold_build_trains_executes_and_publishes(published):
    book, output = published
    assert book.log == ["first", "second", "train"]  # one run, though two notebooks want it
    assert "2 claims: 2 holds" in output
    assert str(book.site / "index.html") in output
    for page in ("index.html", "ledger.html", "small/first.html", "claims.json"):
        assert (book.site / page).is_file()
    assert 'id="claim-small-first"' in (book.site / "small" / "first.html").read_text()


def test_nothing_is_redone_when_nothing_changed(book):
    before = book.site.resolve().name
    status, output = book.build()
    assert status == 0, output
    assert book.log == []
    assert book.site.resolve().name == before


def test_prose_is_published_without_executing(book):
    book.edit("notebooks/small/first/first.md", "Some prose.", "Some better prose.")
    status, output = book.build()
    assert status == 0, output
    assert book.log == []
    assert "Some better prose." in (book.site / "small" / "first.html").read_text()


def test_rewording_code_executes_and_never_retrains_and_new_code_does(book):
    book.edit("promptlib/small/training.py", '"""Training of', '"""The training of')
    status, output = book.build()
    assert status == 0, output
    assert "train" not in book.log
    (book.root / "work.log").unlink(missing_ok=True)
    book.edit(
        "promptlib/small/training.py", 'torch.full((3,), config["rate"])', "torch.ones(3) / 2"
    )
    status, output = book.build()
    assert status == 0, output
    assert book.log == ["first", "train"]


def test_a_failing_notebook_keeps_the_site_and_the_other_notebooks(published, tmp_path):
    book = published[0].copy(tmp_path / "book")
    before = book.pages()
    book.edit("notebooks/small/first/first.md", 'work("first")', 'work("first"); 1 / 0')
    book.edit(
        "notebooks/small/second/second.md", 'work("second")', 'work("second");  print("again")'
    )
    status, output = book.build()
    assert status != 0
    assert "ZeroDivisionError" in output
    assert "_build/quick/failed/small/first.ipynb" in output
    assert "still the last good site" in output
    assert (book.root / "_build/quick/failed/small/first.ipynb").is_file()
    assert "again" in (book.root / "_build/quick/executed/small/second.ipynb").read_text()
    assert book.pages() == before


def test_a_claim_that_breaks_closes_the_gate(book):
    before = book.pages()
    book.edit("promptlib/small/training.py", "return Result(", "w = w + 1e-3\n    return Result(")
    status, output = book.build()
    assert status != 0
    assert "gate: small/first fails: worst error 3.0e-03" in output
    assert "make book GATE=warn" in output
    assert book.pages() == before
    status, output = book.build("--gate", "warn")
    assert status == 0, output
    assert "warning: 1 check failed; every page carries a banner" in output
    pages = [page for page in book.site.resolve().rglob("*.html") if "_static" not in page.parts]
    assert len(pages) == 3
    for page in pages:
        assert "small/first fails" in page.read_text(), page
    published = book.site.resolve()
    status, output = book.build()  # a site with a banner is never taken for a finished one
    assert status == 1
    assert book.site.resolve() == published


def test_a_build_says_what_lies_ahead_and_where_it_is(published):
    _, output = published
    assert "To do: 1 training runs, up to 2 notebooks, then the site; about " in output
    assert "[1/1 runs, 2/2 notebooks, about " in output
    assert not {"\x1b", "\r"} & set(output)


@pytest.mark.parametrize(
    ("file", "old", "new", "arguments", "message"),
    [
        ("config/quick.yml", "", "", ["--profile", "quik"], "no profile 'quik' (did you mean"),
        ("config/quick.yml", "", "", ["--gate", "no"], "GATE must be refuse or warn, got 'no'"),
        ("config/quick.yml", "", "", ["--cores", "0"], "CORES must be a positive number, got 0"),
        (
            "config/quick.yml",
            "first: {",
            "first: {parameters: {rat: 1}, ",
            [],
            "(did you mean 'rat",
        ),
        ("config/quick.yml", "first: {", "first: {parameters: {rate: x}, ", [], "must be a number"),
        ("config/quick.yml", "first: {", "first: {run: x, ", [], "unknown key 'run'"),
        ("config/quick.yml", "first: {", "third: {", [], "does not say how to run small/first"),
        ("config/quick.yml", "training:plan", "training:pla", [], "no plan"),
        ("promptlib/small/training.py", "import torch", "import (", [], "is not Python"),
        (
            "notebooks/small/first/first.md",
            "rate = 0.5",
            "rate = = 1",
            [],
            "the parameters cell is not",
        ),
        (
            "notebooks/small/first/first.md",
            "jupytext:",
            "jupytext: [",
            [],
            "is no notebook in MyST",
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_lost(book, file, old, new, arguments, message):
    before = book.site.resolve().name
    if old:
        book.edit(file, old, new)
    status, output = book.build(*arguments)
    assert status == 1
    assert message in output
    assert "Traceback" not in output
    assert book.site.resolve().name == before
    assert book.log == []


@pytest.mark.parametrize(
    ("entry", "victim"),
    [
        ("train", "workflow.train"),
        pytest.param("train", "snakemake", marks=pytest.mark.full),
        pytest.param("train", "workflow.build", marks=pytest.mark.full),
        pytest.param("first", "ipykernel", marks=pytest.mark.full),
        ("first", None),
    ],
)
def test_kill_9_at_any_place_and_the_next_build_recovers(sketched, tmp_path, entry, victim):
    book = small_book.make(tmp_path / "book", ["first"], sketch=True)
    hold = book.root / "hold"
    if entry != "train":  # the runs are there, the notebooks are held
        shutil.copytree(sketched.root / "runs", book.root / "runs")
    hold.touch()
    process = book.start()
    book.wait_for(entry)
    kill(process, victim)
    hold.unlink()
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not book.site.exists()
    status, output = book.build()
    assert status == 0, output
    assert book.pages() == sketched.pages()


def test_a_damaged_run_is_reported_and_redone_to_the_same_bytes(book):
    before = book.pages()
    (run,) = (book.root / "runs").glob("train-*")
    (run / "weights.safetensors").write_bytes(b"damaged")
    status, output = book.build()
    assert status == 0, output
    assert "is damaged" in output
    assert "train" in book.log
    assert book.pages() == before


def test_a_second_build_in_the_same_folder_is_refused(book):
    book.edit("notebooks/small/first/first.md", 'work("first")', 'work("first");  print(1)')
    with FileLock(book.root / "_build" / ".lock"):  # what a build holds
        status, output = book.build()
    assert status == 1
    assert "another build is running" in output
    assert book.log == []

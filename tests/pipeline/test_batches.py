"""Short training runs share processes: which, and what survives failures, kills and changes."""

import json
import shutil
import subprocess
import sys
from itertools import chain

import pytest

from promptlib.runs import Run, RunStore
from tests.pipeline import small_book
from tests.pipeline.test_build import kill
from workflow import profile_config
from workflow.batches import BATCH_SECONDS, batches, divided, priorities
from workflow.sources import BuildError
from workflow.train import train

PLAN = "runs: 'promptlib.small.training:plan'"
FAMILY = "runs: 'promptlib.small.training:family'"


def run(name, *needs):
    return Run("promptlib.runs:machine", {"name": name}, needs)


A = run("a")
B, C, D = run("b", A), run("c", A), run("d", A)
E = run("e", B)
LONE = run("lone")
NAMES = {one.name: one.config["name"] for one in (A, B, C, D, E, LONE)}


def composed(plans, missing=NAMES, limit=8, cores=1, each=1.0):
    seconds = dict.fromkeys(NAMES, each)
    found = batches(plans, missing, limit, cores, seconds)
    return [[NAMES[name] for name in batch] for batch in found]


def test_a_batch_has_runs_of_one_notebook_that_do_not_wait_for_each_other():
    assert composed([[A, B, C, D, E, LONE]]) == [["a", "lone"], ["b", "c", "d"], ["e"]]
    assert composed([[A, B], [A, B, C, D, E], [LONE]]) == [
        ["a"],
        ["b"],
        ["c", "d"],
        ["e"],
        ["lone"],
    ]


def test_runs_that_are_stored_are_in_no_batch_and_nothing_waits_for_them():
    missing = {B.name, E.name, LONE.name}
    assert composed([[A, B, C, D, E, LONE]], missing) == [["b", "lone"], ["e"]]
    assert composed([[A, B, C, D, E, LONE]], {C.name, E.name}) == [["c", "e"]]
    assert composed([[A, B, C, D, E, LONE]], ()) == []


def test_with_one_run_a_process_every_run_is_alone():
    assert all(len(batch) == 1 for batch in composed([[A, B, C, D, E, LONE]], limit=1))


def test_long_runs_are_in_small_batches():
    plan = [A, B, C, D, LONE]
    assert composed([plan], each=BATCH_SECONDS / 2) == [["a", "lone"], ["b"], ["c", "d"]]
    assert composed([plan], each=BATCH_SECONDS) == [["a"], ["lone"], ["b"], ["c"], ["d"]]
    assert composed([plan], each=BATCH_SECONDS * 9) == [["a"], ["lone"], ["b"], ["c"], ["d"]]


def test_what_most_work_waits_for_goes_first():
    plans, divided = [[A, B, E], [C, LONE], [A]], [[A], [LONE], [B], [E], [C]]
    names = [[one.name for one in batch] for batch in divided]
    seconds = {A.name: 1.0, LONE.name: 2.0, B.name: 4.0, E.name: 8.0, C.name: 16.0}
    found = priorities(names, plans, seconds, [100.0, 200.0, 400.0])
    assert found == [401.0, 202.0, 112.0, 108.0, 216.0]
    found = priorities(names, plans, seconds, [100.0, 400.0, 0.0])
    assert found == [417.0, 402.0, 112.0, 108.0, 416.0]
    assert priorities(names[2:], plans, seconds, [0.0, 0.0, 0.0]) == [12.0, 8.0, 16.0]
    assert priorities([], plans, {}, [1.0, 1.0, 1.0]) == []


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 17, 300])
@pytest.mark.parametrize("limit", [1, 3, 8])
@pytest.mark.parametrize("cores", [1, 2, 16])
def test_parts_keep_the_order_and_the_limit_and_give_every_core_work(count, limit, cores):
    names = [str(number) for number in range(count)]
    parts = divided(names, limit, cores)
    assert list(chain.from_iterable(parts)) == names
    assert all(1 <= len(part) <= limit for part in parts)
    assert len(parts) >= min(cores, count)
    assert len(parts) <= max(cores, -(-count // limit))  # no more processes than it takes


@pytest.mark.parametrize("value", [0, -1, 2.5, "8", True, None])
def test_a_number_of_runs_that_is_none_is_refused(value, tmp_path, monkeypatch):
    content = {"runs_per_process": value, "notebooks": dict.fromkeys(profile_config.names())}
    (tmp_path / "quick.yml").write_text(json.dumps(content))
    monkeypatch.setattr(profile_config, "CONFIG", tmp_path)
    with pytest.raises(BuildError, match=f"must be a whole number >= 1, got {value!r}; leave it"):
        profile_config.load_profile("quick")


def test_a_profile_that_does_not_say_trains_one_run_a_process(tmp_path, monkeypatch):
    content = {"notebooks": dict.fromkeys(profile_config.names())}
    (tmp_path / "quick.yml").write_text(json.dumps(content))
    monkeypatch.setattr(profile_config, "CONFIG", tmp_path)
    assert profile_config.load_profile("quick").runs_per_process == 1


def test_what_needs_a_failed_run_is_not_attempted(tmp_path, monkeypatch, capsys):
    asked = []

    def get(store, one):
        asked.append(one.config["name"])
        if one in (B, LONE):
            raise RuntimeError("no")

    def checksum(store, one):
        return "whole" if one.config["name"] in asked and one not in (B, LONE) else None

    monkeypatch.setattr(RunStore, "get", get)
    monkeypatch.setattr(RunStore, "checksum", checksum)
    done = []
    lost = train([A, LONE, B, C, E], RunStore(tmp_path), lambda one, _: done.append(one))
    assert lost == [LONE.name, B.name, E.name]
    assert asked == ["a", "lone", "b", "c"]
    assert done == [A, C]
    printed = capsys.readouterr()
    assert f"error: {B.name} failed" in printed.err
    assert f"{E.name} was not trained: it needs {B.name}" in printed.err
    assert f"trained {C.name}: 0.0 s" in printed.out


def test_as_many_receipts_as_runs():
    command = [sys.executable, "-m", "workflow.train", "a", "b", "--profile", "quick"]
    done = subprocess.run(
        [*command, "--receipts", "a.receipt"],
        cwd=small_book.PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "2 runs and 1 receipts" in done.stderr


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A book with a family of runs, built with several of them in a process."""
    book = small_book.make(tmp_path_factory.mktemp("family") / "book", sketch=True)
    book.edit("config/quick.yml", f"first: {{{PLAN}}}", f"first: {{{FAMILY}}}")
    book.edit("config/quick.yml", "notebooks:", "runs_per_process: 4\nnotebooks:")
    status, output = book.build("--cores", "1")
    assert status == 0, output
    return book, output


@pytest.fixture
def book(pristine, tmp_path):
    """A copy of the built book without its runs."""
    book = pristine[0].copy(tmp_path / "book")
    shutil.rmtree(book.root / "runs")
    return book


def receipts(book):
    return sorted(path.stem for path in (book.root / "_build/quick/runs").glob("*.receipt"))


@pytest.mark.pipeline
def test_runs_share_processes_and_each_has_its_receipt(pristine):
    book, output = pristine
    processes = book.processes
    together = {}
    for name, process in processes.items():
        together.setdefault(process, set()).add(name)
    assert sorted(together.values(), key=min) == [{"a", "f", "train"}, {"b", "c", "d"}, {"e"}]
    assert receipts(book) == book.stored
    assert len(book.stored) == 7
    assert "[7/7 runs, " in output


@pytest.mark.pipeline
def test_a_failing_run_keeps_the_others_and_the_next_build_trains_only_what_is_missing(book):
    (book.root / "fail-b").touch()
    status, output = book.build("--cores", "1")
    assert status != 0
    assert "RuntimeError: b was told to fail" in output
    assert "error: train-" in output
    assert "first" not in book.log  # it shows the failed run
    assert "e" not in book.log  # it needs it
    trained = set(book.log) - {"second"}
    assert trained == {"train", "a", "b", "c", "d", "f"}
    assert len(book.stored) == 5
    (book.root / "fail-b").unlink()
    (book.root / "work.log").unlink()
    status, output = book.build("--cores", "1")
    assert status == 0, output
    assert set(book.log) - {"first", "second"} == {"b", "e"}
    assert receipts(book) == book.stored


@pytest.mark.pipeline
@pytest.mark.parametrize("victim", [pytest.param("workflow.train", marks=pytest.mark.full), None])
def test_a_killed_batch_goes_on_where_it_was(book, victim):
    (book.root / "hold-c").touch()
    process = book.start("--cores", "1")
    book.wait_for("c")
    kill(process, victim)
    (book.root / "hold-c").unlink()
    process.communicate(timeout=120)
    assert process.returncode != 0
    (book.root / "work.log").unlink()
    status, output = book.build("--cores", "1")
    assert status == 0, output
    assert set(book.log) - {"first", "second"} == {"c", "d", "e"}
    assert receipts(book) == book.stored


@pytest.mark.pipeline
def test_another_division_trains_nothing_again(pristine, tmp_path):
    book = pristine[0].copy(tmp_path / "book")
    book.edit("config/quick.yml", "runs_per_process: 4", "runs_per_process: 2")
    (run,) = (
        folder
        for folder in book.stored
        if '"d"' in (book.root / "runs" / folder / "provenance.json").read_text()
    )
    shutil.rmtree(book.root / "runs" / run)
    status, output = book.build("--cores", "2")
    assert status == 0, output
    assert set(book.log) - {"first"} == {"d"}  # the second notebook does not show it
    assert receipts(book) == book.stored

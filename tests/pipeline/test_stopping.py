"""Every command ends in a sentence: after an error, a fault of ours, a full disk, and Ctrl-C."""

import errno
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.pipeline import small_book
from workflow import command
from workflow.command import BuildError, Stopped, cores
from workflow.driver import complaints
from workflow.processes import clear_abandoned, partial_folder, started

STOPPED = "stopped; the next call goes on from what is complete"


def raising(error):
    @command.command
    def main(arguments=None):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BuildError("no notebook 'x'"), 1, "error: no notebook 'x'\n"),
        (KeyboardInterrupt(), 130, f"{STOPPED}\n"),
        (Stopped(signal.SIGTERM), 143, f"{STOPPED}\n"),
        (OSError(errno.ENOSPC, "No space left", "/runs/x"), 1, "error: the disk is full: /runs/x;"),
        (
            OSError(errno.EROFS, "Read-only file system", "/x"),
            1,
            "error: Read-only file system: /x",
        ),
        (
            shutil.Error([("a", "b", "[Errno 28] No space")]),
            1,
            "error: the disk is full; make room",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "no", "/x"),
            1,
            "error: a file is in the way of a folder",
        ),
        (
            SyntaxError("bad", ("<unknown>", 4, 1, "def (\n")),
            1,
            "error: this is not Python, line 4: d",
        ),
        (MemoryError(), 1, "error: the memory is full; fewer processes"),
        (ModuleNotFoundError("no", name="torch"), 1, "error: the package torch is not installed"),
    ],
)
def test_every_end_is_told_in_a_sentence(error, status, said, capsys):
    assert raising(error)() == status
    found = capsys.readouterr().err
    assert found.startswith(said)
    assert found.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback_and_asks_to_report_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "LOG", tmp_path / "deep" / "error.log")
    assert raising(KeyError("claims"))() == 1
    found = capsys.readouterr().err
    assert "please report it with the file" in found
    assert "KeyError: 'claims'" in found
    assert "Traceback" not in found
    assert "Traceback" in (tmp_path / "deep" / "error.log").read_text()


def test_signals_are_as_before_after_a_command():
    before = signal.getsignal(signal.SIGTERM)
    raising(BuildError("x"))()
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_command_ends_so():
    paths = (small_book.PROJECT / "workflow").glob("*.py")
    names = [path.stem for path in paths if "\ndef main(" in path.read_text()]
    assert len(names) >= 9
    for name in names:
        assert hasattr(importlib.import_module(f"workflow.{name}").main, "__wrapped__"), name


@pytest.mark.parametrize("text", ["0", "-1", "", "two", "1.5", "²"])
def test_a_number_of_cores_that_is_none_is_refused(text):
    with pytest.raises(BuildError, match="CORES must be a positive number, got"):
        cores(text)


def test_what_nobody_said_is_taken_from_the_log_of_the_engine():
    ended = (
        "CalledProcessError in file Snakefile:\nCommand '{}' returned non-zero exit status {}.\n"
    )
    failed = ended.format("python -m workflow.execute a/b", 1)
    assert complaints(failed, "error: a/b failed\n") == []
    killed = ended.format("python -m workflow.execute a/b", 137)
    (said,) = complaints(killed, "error: another failed\n")
    assert said.startswith("workflow.execute a/b was killed (status 137); if the memory was full")
    (said,) = complaints("Building DAG\nPermissionError: [Errno 13] no: '/home'\n", "")
    assert said.startswith("the workflow engine stopped: PermissionError: [Errno 13] no: '/home'")
    assert "it did not say why" in complaints("", "")[0]


def test_partial_folders_of_processes_that_are_gone_are_deleted(tmp_path):
    failed = tmp_path / "quick" / "failed" / "wing"
    with partial_folder(failed) as ours, partial_folder(tmp_path / "sites", "x.") as site:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        left = [failed / f".partial-{gone.pid}-abcdefgh", failed / ".partial-abcdefgh"]
        left.append(tmp_path / "sites" / f".x.partial-{gone.pid}-abcdefgh")
        for folder in left:
            folder.mkdir()
        clear_abandoned(tmp_path)
        assert not any(folder.exists() for folder in left)
        assert ours.is_dir()
        assert site.is_dir()
    assert list(failed.iterdir()) == []


def test_leaving_by_an_exception_stops_all_that_was_started(tmp_path):
    ready = tmp_path / "ready"
    call = ["bash", "-c", f"sleep 600 & sleep 600 & touch '{ready}'; wait"]
    below = []

    def leave_when_ready():
        with started(call) as process:
            while not ready.exists():
                time.sleep(0.02)
            # Not all children of this process: a browser of other tests may be one.
            first = psutil.Process(process.pid)
            below.extend([first, *first.children(recursive=True)])
            raise KeyError("left")

    with pytest.raises(KeyError, match="left"):
        leave_when_ready()
    assert len(below) >= 3
    assert not any(gone.is_running() and gone.status() != "zombie" for gone in below)


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("module", "arguments", "entry", "number"),
    [
        ("workflow.build", ["--cores", "2"], "train", signal.SIGTERM),
        ("workflow.build", ["--cores", "2"], "first", signal.SIGINT),
        ("workflow.execute", ["small/first"], "first", signal.SIGINT),
    ],
)
def test_ctrl_c_ends_in_a_sentence_and_leaves_nothing(tmp_path, module, arguments, entry, number):
    book = small_book.make(tmp_path / "book", ["first"], sketch=True)
    hold = book.root / f"hold-{entry}"
    hold.touch()
    process = book.run(module, *arguments)
    book.wait_for(entry)
    below = psutil.Process(process.pid).children(recursive=True)
    assert below
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert output.splitlines()[-1] == STOPPED
    assert output.count(STOPPED) == 1
    for word in ("Traceback", "Broken", "error"):
        assert word not in output
    assert not any(gone.is_running() and gone.status() != "zombie" for gone in below)
    assert list(book.root.glob("_build/**/.*partial-*")) == []

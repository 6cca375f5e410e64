"""Processes that the workflow starts, and the folders that a process works in.

A process is stopped with everything below it when the one that started it stops. A folder is named
after its process, so that what a killed process left behind can be told from what is in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

PATIENCE_SECONDS = 5.0
"""So long processes may take to end when they are told to, before they are killed."""
_PARTIAL = re.compile(r"\..*partial-(?:(?P<pid>\d+)-)?[^-]+")


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process for the duration of a block; leaving it by an exception stops the process.

    It has a session of its own: Ctrl-C reaches only the command at the terminal, which then stops
    what it has started. ``options`` are those of :class:`subprocess.Popen`.
    """
    with subprocess.Popen(
        command, text=True, start_new_session=True, preexec_fn=die_with_parent, **options
    ) as process:
        try:
            yield process
        except BaseException:
            _stop(process.pid)
            raise


def stop_children() -> None:
    """Kill all processes below this one."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


@contextlib.contextmanager
def partial_folder(parent: Path, name: str = "") -> Iterator[Path]:
    """A hidden folder in ``parent`` that is deleted in the end."""
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{name}partial-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as work:
        yield Path(work)


def clear_abandoned(build: Path) -> None:
    """Delete the partial folders below ``build`` whose process is gone."""
    for place in build.glob("**/.*partial-*"):
        found = _PARTIAL.fullmatch(place.name)
        if found is not None and place.is_dir() and not _in_use(found["pid"], place):
            shutil.rmtree(place, ignore_errors=True)


def _in_use(pid: str | None, place: Path) -> bool:
    """Whether the process of this number is the one that made the folder, not a later one."""
    if pid is None:
        return False
    try:
        return psutil.Process(int(pid)).create_time() <= place.stat().st_ctime + 1
    except (psutil.NoSuchProcess, OSError):
        return False


def _stop(pid: int) -> None:
    """End a process and all below it, in an order in which nothing new is started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.suspend()
        below = process.children(recursive=True)
        process.kill()
        for child in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, alive = psutil.wait_procs(below, PATIENCE_SECONDS)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def die_with_parent() -> None:
    """Let the kernel end this process when its parent is killed: no engine outlives its lock."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)

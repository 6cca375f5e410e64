"""How a command ends: in a sentence that says what happened and what helps.

Every ``main`` of the workflow is a :func:`command`. What the person at the keyboard can mend is a
`BuildError`; a full disk, a folder that may not be written to, and a signal are told likewise.
Whatever else is raised is a fault of the project: its traceback goes to a file, and the message
asks to report it. This module loads the standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "_build" / "error.log"
_SIGNALS = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]


class BuildError(Exception):
    """Something the person at the keyboard can mend; shown without a traceback."""


class Stopped(BaseException):
    """A signal asked this process to end; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Parser(argparse.ArgumentParser):
    """Arguments of a command; what is wrong with them is a BuildError."""

    def error(self, message: str) -> NoReturn:
        raise BuildError(message)


def cores(text: str) -> int:
    """The option ``CORES``, as a number >= 1; BuildError for anything else."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BuildError(f"CORES must be a positive number, got {text or 'nothing'}")
    return int(text)


def command(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Let a ``main`` end in a sentence on standard error and an exit status, whatever it raises.

    The status is 1 after an error, and 128 and the signal's number after a signal.
    """

    @functools.wraps(main)
    def guarded(arguments: list[str] | None = None) -> int:
        try:
            with _signals_raise():
                status = main(arguments)
                sys.stdout.flush()
                return status
        except (Exception, KeyboardInterrupt, Stopped) as error:
            return tell(error)

    return guarded


def say(line: str) -> None:
    """Print a line in one piece, between those of others that write to the same place."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def tell(error: BaseException) -> int:
    """Say what ended a command; returns its exit status."""
    match error:
        case Stopped(number=number):
            text, status = "stopped; the next call goes on from what is complete", 128 + number
        case KeyboardInterrupt():
            return tell(Stopped(signal.SIGINT))
        case BrokenPipeError():
            text, status = "", 128 + 13  # nobody reads what we say
        case _:
            text, status = f"error: {explained(error) or _reported(error)}", 1
    try:
        if text:
            print(text, file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:
        _say_no_more()
    if status == 128 + 13:
        _say_no_more()
    return status


def explained(error: BaseException) -> str | None:
    """A sentence for what the person at the keyboard can mend, else None."""
    if isinstance(error, BuildError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and _foreign(error.name):
        return (
            f"the package {error.name} is not installed for {sys.executable}; "
            "make book installs what is needed into .venv"
        )
    if isinstance(error, SyntaxError):
        name = error.filename or ""
        place = "" if name.startswith("<") else _shown(name)
        text = (error.text or "").strip()
        return f"this is not Python{place}, line {error.lineno}: {text} ({error.msg})"
    if isinstance(error, MemoryError):
        return "the memory is full; fewer processes at a time need less: CORES=1"
    if isinstance(error, OSError):
        place, number = _shown(error.filename), error.errno
        if number is None:  # of several files, as shutil tells it
            found = re.search(r"\[Errno (\d+)\]", str(error))
            number = int(found[1]) if found else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full{place}; make room and run it again, what is complete stays"
        if number in (errno.ENOTDIR, errno.EEXIST):
            return f"a file is in the way of a folder{place}; move the file away"
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return (
                f"{os.strerror(number)}{place}; the project needs a folder that you may write to, "
                "such as a copy of it in your home folder"
            )
    return None


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let signals raise `Stopped`, once, so that what is open is closed; then they are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    # Who starts us with a signal ignored, as nohup does, means it.
    before = {
        number: signal.getsignal(number)
        for number in _SIGNALS
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reported(error: BaseException) -> str:
    """Keep the traceback of a fault of ours in a file, and ask to report it."""
    kind = f"{type(error).__name__}: {error}".strip().rstrip(":").splitlines()[0]
    text = "".join(traceback.format_exception(error))
    for place in (LOG, Path(tempfile.gettempdir()) / f"promptbook-error-{os.getpid()}.log"):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        except OSError:
            continue
        return f"this is a fault of the project, please report it with the file {place} ({kind})"
    return f"this is a fault of the project, please report it:\n{text}"


def _foreign(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] not in ("promptlib", "workflow")


def _shown(filename: Any) -> str:
    if not isinstance(filename, str | bytes):
        return ""
    path = Path(os.fsdecode(filename))
    return f": {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}"


def _say_no_more() -> None:
    """Whatever is still written goes nowhere: nobody reads it, and Python would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)

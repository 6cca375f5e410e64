"""Fork for each request of a client, and end the fork when its client has gone."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.processes import PATIENCE_SECONDS, die_with_parent
from workflow.warm.client import PEAK

REQUEST_SECONDS = 10.0
"""So long may a client take to say what it wants."""
_SIGNALS = {signal.SIGTERM, signal.SIGCHLD}


def forked(listener: socket.socket, usable: Callable[[], bool]) -> list[str]:
    """Serve until SIGTERM, then end all forks and exit; it returns in the forks alone.

    Parameters
    ----------
    listener
        Where clients connect.
    usable
        Whether what this process has loaded still holds; else the client is sent away.

    Returns
    -------
    list of str
        What a fork is to run: module and arguments. Directory, environment and standard streams
        are those of the client already.
    """
    return _Server(listener, usable).forked()


@dataclass
class _Fork:
    """A fork: the connection of its client until that has gone, where its peak memory is wanted,
    and when it is killed.
    """

    client: socket.socket | None
    peak: str | None
    deadline: float = math.inf


class _Server:
    """The forks that run, by process."""

    def __init__(self, listener: socket.socket, usable: Callable[[], bool]) -> None:
        self.listener, self.usable = listener, usable
        self.forks: dict[int, _Fork] = {}
        self.stopping = False
        self.woken, self.waker = os.pipe()

    def forked(self) -> list[str]:
        for end in (self.woken, self.waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._signalled)
        while not self.stopping or self.forks:
            clients: dict[Any, int] = {
                one.client: pid for pid, one in self.forks.items() if one.client
            }
            waited: list[Any] = [self.woken, *clients, *([] if self.stopping else [self.listener])]
            late = any(one.deadline < math.inf for one in self.forks.values())
            for ready in select.select(waited, [], [], 1.0 if late else None)[0]:
                if ready is self.listener:
                    request = self._accepted()
                    if request is not None:
                        return request
                elif ready == self.woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self.woken, 4096)
                else:  # clients say nothing more: this one has gone
                    self.forks[clients[ready]].client = None
                    ready.close()
                    self._end(clients[ready])
            if self.stopping:
                self.listener.close()
                for pid in self.forks:
                    self._end(pid)
            self._reap()
        sys.exit(0)

    def _signalled(self, number: int, _: Any) -> None:
        self.stopping |= number == signal.SIGTERM

    def _accepted(self) -> list[str] | None:
        """In a new fork what it is to run; None here."""
        with contextlib.ExitStack() as opened:
            try:
                client = opened.enter_context(self.listener.accept()[0])
                client.settimeout(REQUEST_SECONDS)
                header, streams, _, _ = socket.recv_fds(client, 16, 3)
                for stream in streams:
                    opened.callback(os.close, stream)
                request = _Request.read(_all_of(client, int(header)))
                if not self.usable():
                    return None
                client.sendall(b"started\n")
            except (OSError, ValueError):
                return None  # the client runs it itself, if it is still there
            sys.stdout.flush()
            sys.stderr.flush()
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            pid = os.fork()
            if pid == 0:
                self._leave()
                return request.taken_over(streams)
            self.forks[pid] = _Fork(client.dup(), request.environment.get(PEAK))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return None

    def _leave(self) -> None:
        """In a fork: let go of what belongs to the server."""
        os.setsid()
        die_with_parent()
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for one in (self.listener, *(fork.client for fork in self.forks.values())):
            if one is not None:
                one.close()
        os.close(self.woken)
        os.close(self.waker)

    def _end(self, pid: int) -> None:
        """Tell a fork to end; it is killed if it does not in time."""
        if self.forks[pid].deadline == math.inf:
            self.forks[pid].deadline = time.monotonic() + PATIENCE_SECONDS
            os.kill(pid, signal.SIGTERM)

    def _reap(self) -> None:
        """Say how forks ended that did; kill those that should have."""
        for pid, fork in list(self.forks.items()):
            if fork.deadline < time.monotonic():
                os.kill(pid, signal.SIGKILL)
            done, state, usage = os.wait4(pid, os.WNOHANG)
            if not done:
                continue
            del self.forks[pid]
            if fork.peak is not None:
                write_peak(fork.peak, usage.ru_maxrss)
            if fork.client is not None:
                status = os.waitstatus_to_exitcode(state)
                with fork.client, contextlib.suppress(OSError):
                    fork.client.sendall(b"%d\n" % (status if status >= 0 else 128 - status))


def write_peak(path: str, peak: int) -> None:
    """Keep a peak memory in a file, if its folder is still there."""
    with contextlib.suppress(OSError):
        Path(f"{path}.partial").write_text(str(peak))
        os.replace(f"{path}.partial", path)


@dataclass(frozen=True)
class _Request:
    """What a client wants to be run, and where."""

    folder: str
    arguments: list[str]
    environment: dict[str, str]

    @classmethod
    def read(cls, content: bytes) -> _Request:
        folder, count, *rest = map(os.fsdecode, content.split(b"\0"))
        variables = (variable.partition("=") for variable in rest[int(count) :])
        return cls(folder, rest[: int(count)], {name: value for name, _, value in variables})

    def taken_over(self, streams: Sequence[int]) -> list[str]:
        """Be in the place of the client; returns the arguments."""
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        return self.arguments


def _all_of(client: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        part = client.recv(length - len(received))
        if not part:
            raise OSError("the client has gone")
        received += part
    return received

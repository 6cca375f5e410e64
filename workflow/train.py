"""Bring training runs into the store, one after the other, and leave a receipt for each.

``python -m workflow.train RUN … --profile quick --receipts FILE …``, with as many files as runs. A
receipt holds the checksum of the result: it stays the same, and nothing later is redone, when a run
that was trained again gave the same bytes.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from promptlib.runs import Run, RunStore
from workflow.command import Parser, command, explained, say
from workflow.profile_config import load_profile
from workflow.sources import BuildError, write_if_changed


def train(
    runs: Iterable[Run], store: RunStore, done: Callable[[Run, str], None] = lambda *_: None
) -> list[str]:
    """Train what the store lacks; a run that fails stops only those that need it.

    Parameters
    ----------
    runs
        Each after the runs it needs.
    store
        Where the results go.
    done
        Called with each run that is in the store now, and the checksum of its result.

    Returns
    -------
    list of str
        Names of the runs that failed, or that need one that did. The tracebacks are printed.
    """
    lost: list[str] = []
    for run in runs:
        blocked = [name for name in _all_needs(run) if name in lost]
        if blocked and store.checksum(run) is None:
            print(f"error: {run.name} was not trained: it needs {blocked[0]}", file=sys.stderr)
            lost.append(run.name)
            continue
        started = time.perf_counter()
        try:
            checksum = store.checksum(run)
            if checksum is None:
                store.get(run)
                checksum = store.checksum(run)
        except Exception as error:  # whatever it is, the other runs do not depend on it
            cause = explained(error)
            if cause is None:
                traceback.print_exc()
                cause = "if its code is as published, please report the lines above"
            print(f"error: {run.name} failed: {cause}", file=sys.stderr)
            lost.append(run.name)
            continue
        assert checksum is not None
        done(run, checksum)
        say(f"trained {run.name}: {time.perf_counter() - started:.1f} s")
    return lost


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.train", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--receipts", nargs="+", required=True, type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if len(options.runs) != len(options.receipts):
        parser.error(f"{len(options.runs)} runs and {len(options.receipts)} receipts; give as many")
    runs = load_profile(options.profile).runs
    for name in options.runs:
        if name not in runs:
            raise BuildError(
                f"{name} is not a run of profile {options.profile}: its code or config has "
                "changed since the build was planned; run make book again"
            )
    receipts = dict(zip(options.runs, options.receipts, strict=True))
    lost = train(
        [runs[name] for name in options.runs],
        RunStore.default(),
        lambda run, checksum: write_receipt(receipts[run.name], checksum),
    )
    return int(bool(lost))


def write_receipt(path: Path, checksum: str) -> None:
    """Say in a file which result is in the store; a file that says so keeps its time."""
    write_if_changed(path, f"{checksum}\n".encode())


def _all_needs(run: Run) -> list[str]:
    """Names of the runs that a run needs, those of its needs included."""
    return [name for needed in run.needs for name in (*_all_needs(needed), needed.name)]


if __name__ == "__main__":
    sys.exit(main())

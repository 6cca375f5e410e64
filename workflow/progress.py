"""How far is the build, and how long will it still take?

The scripts of the workflow say on their standard output what they finish: ``trained RUN: 1.2 s``,
``executed NOTEBOOK: 3.4 s …``. This module counts these lines against the plan and prints where the
build stands. On a terminal that is one line that is written over; in a log or a pipe it is a line
for each notebook, and for runs one now and then.

The time left rests on what each job took on the machine of the record (``config/effort.json``,
written by ``make record``), scaled by how fast this build has been so far. No colour is used, so
there is none to switch off.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from workflow.sources import ROOT

EFFORT = ROOT / "config" / "effort.json"
SITE_SECONDS = 40.0
"""Of rendering the site, on the machine of the record."""
UNKNOWN_SECONDS = 4.0
"""Of a job that nothing is known of."""
TRUST_SECONDS = 60.0
"""So much recorded work counts for the record's speed before this build's own speed counts more."""
QUIET_SECONDS = 15.0
"""In a log, runs are reported at most so often."""
_DONE = re.compile(r"(?P<what>trained|executed) (?P<name>\S+): (?P<seconds>[\d.]+) s\b")


class Progress:
    """Counts what is done of a build and says so.

    Parameters
    ----------
    runs, notebooks
        Expected processor seconds of each run that is missing and each notebook that may be
        executed, by name.
    cores
        Processes at a time.
    out
        Where to write.
    now
        Clock, in seconds.
    """

    def __init__(
        self,
        runs: Mapping[str, float],
        notebooks: Mapping[str, float],
        cores: int,
        out: TextIO | None = None,
        now: Any = time.monotonic,
    ) -> None:
        self.expected = {**runs, **notebooks}
        self.total = {"trained": len(runs), "executed": len(notebooks)}
        self.done: dict[str, set[str]] = {"trained": set(), "executed": set()}
        self.cores, self.out, self.now = cores, out or sys.stdout, now
        self.started = self.reported = now()
        dumb = os.environ.get("TERM", "") in ("", "dumb")
        self.rewrites = self.out.isatty() and not dumb

    def start(self) -> None:
        """Say what lies ahead."""
        if any(self.total.values()):
            self._say(
                f"To do: {self.total['trained']} training runs, up to {self.total['executed']} "
                f"notebooks, then the site; {self.left()} on {self.cores} "
                f"core{'s' if self.cores != 1 else ''}."
            )

    def line(self, text: str) -> None:
        """Take in a line that a script printed; pass on what is not about a finished job."""
        text = text.rstrip("\n")
        found = _DONE.match(text)
        if found is None or found["name"] not in self.expected:
            self._say(text)
            return
        self.done[found["what"]].add(found["name"])
        state = f"{self.state()}  {text}"
        if self.rewrites:
            width = shutil.get_terminal_size().columns
            self.out.write(f"\r\x1b[K{state[: width - 1]}")
            self.out.flush()
        elif found["what"] == "executed" or self.now() - self.reported > QUIET_SECONDS:
            self.reported = self.now()
            self._say(state)

    def aside(self, text: str) -> None:
        """Pass on a line about something that went wrong, to standard error."""
        if self.rewrites:
            self.finish()
        sys.stderr.write(text)
        sys.stderr.flush()

    def finish(self) -> None:
        """End the line that was written over."""
        if self.rewrites:
            self.out.write("\r\x1b[K")
            self.out.flush()

    def state(self) -> str:
        """Where the build stands: ``[12/300 runs, 3/16 notebooks, about 9 min left]``."""
        counts = [
            f"{len(self.done[what])}/{self.total[what]} {noun}"
            for what, noun in (("trained", "runs"), ("executed", "notebooks"))
            if self.total[what]
        ]
        return f"[{', '.join([*counts, f'{self.left()} left'])}]"

    def left(self) -> str:
        """The time left, in words."""
        names = set().union(*self.done.values())
        finished = sum(self.expected[name] for name in names)
        ahead = sum(self.expected.values()) - finished
        spent = (self.now() - self.started) * self.cores
        pace = (TRUST_SECONDS + spent) / (TRUST_SECONDS + finished) if finished else 1.0
        seconds = pace * (ahead / self.cores + SITE_SECONDS)
        if seconds >= 7200:
            return f"about {seconds / 3600:.1f} h"
        return f"about {round(seconds)} s" if seconds < 90 else f"about {round(seconds / 60)} min"

    def _say(self, text: str) -> None:
        start = "\r\x1b[K" if self.rewrites else ""
        self.out.write(f"{start}{text}\n")
        self.out.flush()


def expected_seconds(
    missing: Mapping[str, tuple[str, str]], notebooks: Iterable[str], effort: Path = EFFORT
) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds that the runs and notebooks should take, by name.

    Parameters
    ----------
    missing
        Notebook and training function of each run to train, by its name.
    notebooks
        Notebooks that may be executed.
    effort
        What the jobs took on the machine of the record; a missing file means nothing is known.
    """
    try:
        known = json.loads(effort.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    by_run, by_notebook = known.get("runs", {}), known.get("notebooks", {})
    return (
        {
            name: float(by_run.get(notebook, {}).get(function, UNKNOWN_SECONDS))
            for name, (notebook, function) in missing.items()
        },
        {name: float(by_notebook.get(name, UNKNOWN_SECONDS)) for name in notebooks},
    )

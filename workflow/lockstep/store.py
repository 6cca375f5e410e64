"""What is handed to a machine that trains in lockstep, and what comes back from it?

A plan goes there: a file with runs, in the order of their worth. What was measured comes back in
one file for each chapter, with an entry for each run in the format of the archive. Both are plain
data, so that the machine needs neither the notebooks nor what reads them.

A run that was trained in lockstep has another name than one that was trained alone: rounding
depends on the device, and on the runs beside it. Where it stands, nobody can take it for the other.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptlib.checks import check_public
from promptlib.runs import Result, Run, machine

BATCHING = "lockstep"


@dataclass(frozen=True)
class Planned:
    """A run of a plan.

    Attributes
    ----------
    run : Run
    chapter : str
        In whose file it is kept.
    worth : int
        Runs of a lower number come first.
    """

    run: Run
    chapter: str
    worth: int


def write_plan(path: Path, planned: Iterable[Planned], about: Mapping[str, Any]) -> int:
    """Write a plan, and say how many runs it has: each once, each after the runs it needs.

    Parameters
    ----------
    path : Path
    planned : iterable of Planned
        In any order; a run that others need is as worthy as the worthiest of them.
    about : mapping
        What the plan was made from; JSON-able, under ``"about"``.
    """
    ordered: dict[str, Planned] = {}

    def add(one: Planned) -> None:
        for needed in one.run.needs:
            add(Planned(needed, one.chapter, one.worth))
        ordered.setdefault(one.run.key, one)

    for one in sorted(planned, key=lambda one: one.worth):
        add(one)
    places = {key: place for place, key in enumerate(ordered)}
    runs = [
        {
            "chapter": one.chapter,
            "worth": one.worth,
            "train": one.run.train,
            "config": one.run.config,
            "needs": [places[needed.key] for needed in one.run.needs],
        }
        for one in ordered.values()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, json.dumps({"about": dict(about), "runs": runs}).encode())
    return len(runs)


def read_plan(path: Path) -> tuple[list[Planned], dict[str, Any]]:
    """Read what `write_plan` wrote: the runs, and what the plan is about.

    Raises
    ------
    ValueError
        If the file is no plan.
    """
    try:
        content = json.loads(path.read_bytes())
        planned: list[Planned] = []
        for entry in content["runs"]:
            needs = tuple(planned[place].run for place in entry["needs"])
            run = Run(entry["train"], entry["config"], needs)
            planned.append(Planned(run, entry["chapter"], entry["worth"]))
        return planned, content["about"]
    except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no plan of runs ({type(error).__name__}: {error}); "
            "write one with: python -m workflow.lockstep.archive --plan FILE"
        ) from None


def lockstep_name(run: Run, device: str) -> str:
    """The name of a run that was trained in lockstep on a device of this name."""
    return f"{run.name}-{BATCHING}-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}"


class Shards:
    """What was measured in lockstep: a folder with a file for each chapter.

    A file is replaced as a whole each time, so whatever stops the process leaves whole files.

    Parameters
    ----------
    folder : Path
        Created when the first entry is written. What lies there is read.
    device : str
        Name of the card or processor that trains.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self.chapters = {
            path.name.removesuffix(ENDING): read_shard(path)
            for path in sorted(folder.glob(f"*{ENDING}"))
        }
        self.machine = {**machine(), "device": device, "batching": BATCHING}

    def find(self, run: Run) -> dict[str, Any] | None:
        """The entry of a run, if there is one."""
        names = (run.name, lockstep_name(run, self.device))
        for entries in self.chapters.values():
            for entry in entries:
                if entry["name"] in names:
                    return entry
        return None

    def add(self, measured: Sequence[tuple[Planned, Result, float]], alone: bool = False) -> None:
        """Keep what was measured of some runs, each with its seconds.

        Parameters
        ----------
        measured : sequence of Planned, Result and seconds
        alone : bool
            Whether these were trained alone on a processor, beside the others.
        """
        where = self.machine
        if alone:
            where = {name: where[name] for name in where if name not in ("device", "batching")}
        for one, result, seconds in measured:
            run = one.run
            entry = {
                "name": run.name if alone else lockstep_name(run, self.device),
                "train": run.train,
                "config": run.config,
                "needs": [lockstep_name(needed, self.device) for needed in run.needs],
                "seconds": round(seconds, 3),
                "machine": where,
                "metrics": result.metrics,
            }
            self.chapters.setdefault(one.chapter, []).append(entry)
        for chapter in {one.chapter for one, _, _ in measured}:
            self._write(chapter)

    def _write(self, chapter: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(entry, allow_nan=False) for entry in self.chapters[chapter]]
        text = "".join(f"{line}\n" for line in lines)
        _replace(self.folder / f"{chapter}{ENDING}", gzip.compress(text.encode(), mtime=0))


ENDING = ".jsonl.gz"


def read_shard(path: Path) -> list[dict[str, Any]]:
    """The entries of one file.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it, and train its runs again"
        ) from None


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


check_public(__name__)

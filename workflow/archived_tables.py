"""Which tables of the archive does the reproducibility page show?

One seed at the published sizes and the repetitions, as they were archived; and what the full-size
runs of whole chapters cost on the card that trained them, and would cost on a processor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptlib.runs import Run
from workflow.sources import BuildError
from workflow.workload import works

EXPERIMENTS = {
    "prefix_tuning/new_task": ("B3",),
    "prefix_tuning/eliciting": ("B4",),
    "prefix_tuning/combining": ("B5",),
    "prefix_tuning/prefix_or_lora": ("B5", "B6"),
}
"""Whose one seed tells the speed of a processor at the chapter's size; B6 has B5's model."""
KINDS = {"pretrained": "pretrain", "fine-tuned": "fine_tune", "prefix": "tune_prefixes"}
"""Training functions, by what the table of one seed calls their runs; the others are LoRAs."""
Entry = Mapping[str, Any]


def archived_tables(folder: Path | None) -> dict[str, Any]:
    """What ``build.json`` holds of them: each None where the archive has nothing of the kind."""
    one_seed = _table(folder, "one_seed.json", "rows")
    return {
        "one_seed": one_seed,
        "robust": _table(folder, "robust.json", "cases"),
        "published_cost": None if folder is None else published_cost(folder, one_seed),
    }


def published_cost(folder: Path, one_seed: Entry | None) -> list[dict[str, Any]] | None:
    """What the archived runs of each chapter cost that a card trained many at a time.

    Parameters
    ----------
    folder
        The archive.
    one_seed
        Its table of one seed on one core, if there is one.

    Returns
    -------
    list of dict
        By chapter ``name``; ``runs`` that the ``card`` trained and ``card_seconds`` of them; the
        others, ``alone``, that a processor trained meanwhile, and their ``alone_seconds``;
        ``core_hours`` of all on one core, an estimate, or None where nothing tells the speed.
        In the end all chapters together, without a name, each run once.
    """
    chapters: list[dict[str, Any]] = []
    core_seconds: dict[str, float | None] = {}
    runs_of: dict[str, list[Entry]] = {}
    for path in sorted(folder.glob("*/*.json")):
        runs = json.loads(path.read_bytes()).get("runs", [])
        if any(_on_card(entry) for entry in runs):
            runs_of[path.relative_to(folder).with_suffix("").as_posix()] = runs
    if not runs_of:
        return None
    for name, runs in runs_of.items():
        rows = _longest(one_seed["rows"] if one_seed else [], EXPERIMENTS.get(name, ()))
        speed = _seconds_an_operation(rows, runs)
        for entry in runs:
            known = not _on_card(entry)
            took = entry["seconds"] if known else speed and speed * _operations(entry)
            core_seconds.setdefault(entry["name"], took)
        chapters.append({"name": name, **_summed(runs, core_seconds)})
    every = {entry["name"]: entry for runs in runs_of.values() for entry in runs}
    return [*chapters, {"name": None, **_summed(every.values(), core_seconds)}]


def _summed(runs: Iterable[Entry], core_seconds: Mapping[str, float | None]) -> dict[str, Any]:
    every = list(runs)
    on_card = [entry for entry in every if _on_card(entry)]
    alone = [entry for entry in every if not _on_card(entry)]
    known = [core_seconds[entry["name"]] for entry in every]
    return {
        "runs": len(on_card),
        "alone": len(alone),
        "card": ", ".join(sorted({entry["machine"]["device"] for entry in on_card})),
        "card_seconds": sum(entry["seconds"] for entry in on_card),
        "alone_seconds": sum(entry["seconds"] for entry in alone),
        "core_hours": None if None in known else sum(filter(None, known)) / 3600,
    }


def _on_card(entry: Entry) -> bool:
    return "batching" in entry["machine"]


def _longest(rows: Sequence[Entry], experiments: Sequence[str]) -> list[Entry]:
    """Of each kind the row with most steps, in which measuring weighs least."""
    found: dict[str, Entry] = {}
    for row in rows:
        if row["experiment"] in experiments and row["seconds"]:
            known = found.get(row["what"])
            if known is None or row["steps"] > known["steps"]:
                found[row["what"]] = row
    return list(found.values())


def _seconds_an_operation(rows: Sequence[Entry], runs: Sequence[Entry]) -> float | None:
    """On the core that trained these rows, at the size and in the precision of these runs."""
    seconds = operations = 0.0
    for row in rows:
        kind = KINDS.get(row["what"], "tune_lora")
        alike = [entry for entry in runs if entry["train"].endswith(f":{kind}")]
        if alike:
            config = {**alike[0]["config"], "steps": row["steps"], "batch_size": row["batch_size"]}
            if "cells" in config:
                config["cells"] = config["cells"][:1]
            seconds += row["seconds"]
            operations += _operations({"train": alike[0]["train"], "config": config})
    return seconds / operations if operations else None


def _operations(entry: Entry) -> float:
    return sum(work.operations for work in works(Run(entry["train"], entry["config"])))


def _table(folder: Path | None, name: str, key: str) -> dict[str, Any] | None:
    """A table that a page shows as it is, if it is there."""
    path = None if folder is None else folder / name
    return read_json(path, key) if path is not None and path.is_file() else None


def read_json(path: Path, key: str) -> dict[str, Any]:
    """An object with a list under this key; BuildError if the file does not hold one."""
    if not path.is_file():
        raise BuildError(f"{path} is missing; collect the {key} of the executed notebooks first")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BuildError(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get(key), list):
        raise BuildError(f"{path} must hold an object with a list '{key}'")
    return data

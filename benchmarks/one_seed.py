"""Train one seed of B3 to B6 at the published sizes: ``python -m benchmarks.one_seed``.

One run for each published number, with one recipe and no sweep, through the run store. The table
shows every accuracy beside the published one, and the processor seconds of each run on one core;
two cores take half as long, for the runs are independent but for the models that they share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notebooks.prefix_tuning.combining import plan as combining
from notebooks.prefix_tuning.eliciting.plan import pretrain_rate
from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.prefix_or_lora.plan import EVALUATED, LORA_INIT_STD, MODULES
from promptlib.prefix_tuning import planning, published
from promptlib.prefix_tuning.planning import (
    MIXED,
    SMALL_BATCH_SIZE,
    cells,
    model_of,
    pretrain,
    tune_prefixes,
)
from promptlib.runs import Run, RunStore, machine

ROOT = Path(__file__).parent.parent
ARCHIVE = ROOT / "archive" / "one_seed.json"

TEST_SEQUENCES = 3200
WIDTH = 256
HISTOGRAM = "double_histogram"
CHECKPOINTS = 8
"""Times that the accuracy is measured on the way."""


@dataclass(frozen=True)
class Row:
    """A run, and the published percentage that it is compared with."""

    experiment: str
    what: str
    run: Run
    task: str
    published: float | None


def one_prefix(base: Run, task: str, steps: int, rate: float, **options: Any) -> Run:
    """Plan one prefix without a sweep."""
    return tune_prefixes(
        base, task, steps=steps, sweep=cells([rate], [combining.INIT_STD]), **options
    )


def new_task_rows(seed: int) -> Iterator[Row]:
    """Experiment B3."""
    base = pretrain(
        new_task.MODEL,
        "sort_ascending",
        seed=seed,
        steps=3000,
        learning_rate=new_task.WEIGHT_LEARNING_RATE,
        evaluate=new_task.SORTS,
        test_sequences=TEST_SEQUENCES,
    )
    full = planning.fine_tune(
        base, "sort_descending", steps=1000, learning_rate=new_task.WEIGHT_LEARNING_RATE
    )
    prefix = one_prefix(base, "sort_descending", 1000, 1e-2, length=1, parametrisation="shared")
    for what, run, task, name in (
        ("pretrained", base, "sort_ascending", "pretrained_ascending"),
        ("fine-tuned", full, "sort_descending", "finetuned_descending"),
        ("prefix", prefix, "sort_descending", "prefix_descending"),
    ):
        yield Row("B3", what, run, task, published.NEW_TASK[name])


def eliciting_rows(seed: int) -> Iterator[Row]:
    """Experiment B4."""
    base = pretrain(
        model_of(1, 4, WIDTH, first_layer_norm=False),
        "mixture",
        seed=seed,
        steps=3000,
        learning_rate=pretrain_rate(WIDTH, "adamw"),
        evaluate=MIXED,
        test_sequences=TEST_SEQUENCES,
        precision="bfloat16",
    )
    for task in MIXED:
        yield Row("B4", "pretrained", base, task, published.ELICIT["pretrained"][task])
    for task in MIXED:
        run = one_prefix(
            base,
            task,
            1000,
            3e-2,
            length=1,
            parametrisation="shared",
            batch_size=SMALL_BATCH_SIZE,
        )
        yield Row("B4", "prefix", run, task, published.ELICIT["prefix"][task])


def combining_rows(seed: int) -> Iterator[Row]:
    """Experiments B5 and B6, which share a model."""
    base = combining.base_model(seed, 4, WIDTH, "bfloat16", "tanh", 4500, TEST_SEQUENCES)
    for task in MIXED:
        yield Row("B5", "pretrained", base, task, published.COMBINE["pretrained"][task])
    for task, accuracy in published.COMBINE["prefix"].items():
        run = one_prefix(
            base,
            task,
            1000 if task in MIXED else 8000,
            1e-1,
            length=combining.LENGTH,
            parametrisation=combining.PARAMETRISATION,
            batch_size=SMALL_BATCH_SIZE,
            evaluate=list(dict.fromkeys([task, *MIXED])),
        )
        yield Row("B5", "prefix", run, task, accuracy)
    adapt: dict[str, Any] = {
        "steps": 10_000,
        "evaluate": EVALUATED,
        "batch_size": SMALL_BATCH_SIZE,
        "checkpoints": CHECKPOINTS,
    }
    prefix = tune_prefixes(
        base,
        HISTOGRAM,
        length=12,
        parametrisation="shared",
        sweep=cells([3e-2], [combining.INIT_STD]),
        **adapt,
    )
    yield Row("B6", "prefix", prefix, HISTOGRAM, published.LORA_BUDGET["prefix"])
    for name, accuracy in (
        ("MLP and projection", published.LORA_BUDGET["lora"]),
        ("MLP", None),
    ):
        lora = planning.tune_lora(
            base,
            HISTOGRAM,
            rank=1,
            modules=MODULES[name],
            sweep=cells([1e-2], [LORA_INIT_STD]),
            **adapt,
        )
        yield Row("B6", f"LoRA on {name}", lora, HISTOGRAM, accuracy)


def rows(seed: int) -> list[Row]:
    """Return what is trained, every run after the one it needs."""
    return [*new_task_rows(seed), *eliciting_rows(seed), *combining_rows(seed)]


def measure(seed: int, store: RunStore) -> Iterator[dict[str, Any]]:
    """Train what is missing and yield what the table says of each row.

    ``seconds`` are those of the processor, and 0 where the run has been counted in a row above.
    """
    counted: set[str] = set()
    for row in rows(seed):
        metrics = store.get(row.run).metrics
        measured = metrics["cells"][0] if "cells" in metrics else metrics
        again = row.run.key in counted
        counted.add(row.run.key)
        yield {
            "experiment": row.experiment,
            "what": row.what,
            "task": row.task,
            "percent": 100 * measured["accuracy"][row.task],
            "published": row.published,
            "steps": row.run.config["steps"],
            "batch_size": row.run.config["batch_size"],
            "seconds": 0 if again else store.provenance(row.run)["processor_seconds"],
        }


def line(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    published = "" if row["published"] is None else f"{row['published']:.2f}"
    seconds = f"{row['seconds']:.0f}" if row["seconds"] else ""
    return (
        f"{row['experiment']:4} {row['what']:26} {row['task']:20} {row['percent']:7.2f} "
        f"{published:>11} {row['steps']:>7} {seconds:>8}"
    )


def archive(seed: int, measured: Sequence[dict[str, Any]], target: Path) -> None:
    """Keep the table with its provenance, to be shown in the book."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    content = {"seed": seed, "commit": commit, "machine": machine(), "rows": list(measured)}
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, target)


def main() -> None:
    """Read the options, print the table, and archive it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--archive", action="store_true", help=f"also write {ARCHIVE.name}")
    options = parser.parse_args()
    print(
        f"{'':4} {'':26} {'task':20} {'here %':>7} {'published %':>11} {'steps':>7} {'seconds':>8}"
    )
    measured = []
    for row in measure(options.seed, RunStore.default()):
        measured.append(row)
        print(line(row), flush=True)
    print(f"{sum(row['seconds'] for row in measured):.0f} s on one core")
    if options.archive:
        archive(options.seed, measured, ARCHIVE)


if __name__ == "__main__":
    main()

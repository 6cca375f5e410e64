"""In which ways is the sorter of one direction adapted to the other?

Experiment B3: a model of one layer, one head and width 96 learns to sort ascending. Then it is to
sort descending: by training all its weights, or by one learned prefix vector, with as many steps
and a sweep of as many cells. A third adaptation, of everything but the relative attention, tells
what is missing.

Then the same sorters get everything else that might have helped: the two parametrisations that are
missing, longer prefixes, and for some of the seeds many restarts and many times as many steps. Last
come tables, which stand for prefixes of any length (`tables`).

Labels: ``method`` is "pretrained", "prefix", "finetuned", "besides attention" or "table"; prefixes
also have ``parametrisation``, ``length`` and, what the page calls them, ``way``.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from promptlib.checks import check_public
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.trials import Plan, labelled
from promptlib.runs import Run

MODEL: dict[str, Any] = planning.model_of(n_layer=1, n_head=1, n_embd=96)
"""The published size."""

WEIGHT_LEARNING_RATE = 3e-3
"""Highest learning rate of pretraining, and of training with the attention frozen."""

ASCENDING, DESCENDING = SORTS = ("sort_ascending", "sort_descending")
"""The old task and the new one."""

BESIDES_ATTENTION = (
    "attention.value",
    "attention.project",
    "norm_mlp",
    "mlp",
    "norm.weight",
    "norm.bias",
    "head",
)
"""What can change while every position keeps its relative attention over the content."""

TABLES = "notebooks.prefix_tuning.new_task.tables:train"
"""Trains what any prefix of a model of one layer amounts to."""

ALSO_TRIED = ("separate", "unnormalised")
"""Parametrisations that the first sweep leaves out."""

LENGTHENED = "free"
"""Parametrisation of the longer prefixes: the least limited one."""

EFFORT_STD = 1.0
"""Standard deviation of the further parametrisations before training, the published one."""

RESTARTED = "free"
RESTARTED_CELL = {"learning_rate": 0.1, "init_std": 1.0}
"""Of the restarts and of the long training: what came nearest in the first sweep."""

Cells = Sequence[Mapping[str, float]]


def first_sweep(
    seeds: int,
    first_seed: int,
    pretrain_steps: int,
    adapt_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
) -> Plan:
    """Plan the experiment itself: pretraining, the first prefixes, fine-tuning."""
    planning.check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        pretrain_steps=(pretrain_steps, 10),
        adapt_steps=(adapt_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    planning.check_positive(
        learning_rates=learning_rates, init_stds=init_stds, weight_rates=weight_rates
    )
    cells = planning.cells(learning_rates, init_stds)
    bases = [
        planning.pretrain(
            MODEL,
            ASCENDING,
            seed=seed,
            steps=pretrain_steps,
            learning_rate=WEIGHT_LEARNING_RATE,
            evaluate=SORTS,
            test_sequences=test_sequences,
        )
        for seed in range(first_seed, first_seed + seeds)
    ]

    def fine_tune(base: Run, rate: float, learned: Sequence[str]) -> Run:
        return planning.fine_tune(
            base, DESCENDING, steps=adapt_steps, learning_rate=rate, learned=learned
        )

    everything = [fine_tune(base, rate, ("",)) for base in bases for rate in weight_rates]
    readers = [fine_tune(base, WEIGHT_LEARNING_RATE, BESIDES_ATTENTION) for base in bases]
    return (
        labelled(bases, method="pretrained")
        + _prefixes("shared", bases, adapt_steps, cells, "shared")
        + _prefixes("free", bases, adapt_steps, cells, "free")
        + labelled(everything, method="finetuned")
        + labelled(readers, method="besides attention")
    )


def _prefixes(
    way: str, bases: Iterable[Run], steps: int, cells: Cells, parametrisation: str, length: int = 1
) -> Plan:
    return labelled(
        [
            planning.tune_prefixes(
                base,
                DESCENDING,
                steps=steps,
                length=length,
                parametrisation=parametrisation,
                sweep=cells,
            )
            for base in bases
        ],
        method="prefix",
        way=way,
        parametrisation=parametrisation,
        length=length,
    )


def tune_tables(base: Run, task: str, steps: int, sweep: Cells) -> Run:
    """Plan to train a table, which stands for any prefix, for each cell of `sweep`.

    Batches, schedule and everything that is measured are those of the prefixes.
    """
    prefix = planning.tune_prefixes(
        base, task, steps=steps, length=1, parametrisation="free", sweep=sweep
    )
    of_prefixes = ("length", *planning.PARAMETRISATIONS["free"])
    config = {name: value for name, value in prefix.config.items() if name not in of_prefixes}
    return Run(TABLES, config, needs=(base,))


def plan(
    seeds: int,
    first_seed: int,
    pretrain_steps: int,
    adapt_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
    effort_rates: Sequence[float],
    lengths: Sequence[int],
    restarts: int,
    patience: int,
    tried_seeds: int,
    table_rates: Sequence[float],
    table_starts: Sequence[float],
) -> Plan:
    """Plan the chapter: the experiment, what else was tried, and tables for any prefix.

    The page says what the parameters mean; a ValueError names one that is out of its range.
    """
    planning.check_counts(
        restarts=(restarts, 1),
        patience=(patience, 1),
        tried_seeds=(tried_seeds, 1),
        **{f"lengths[{index}]": (length, 2) for index, length in enumerate(lengths)},
    )
    planning.check_positive(effort_rates=effort_rates, table_rates=table_rates)
    if not table_starts or not all(math.isfinite(start) for start in table_starts):
        raise ValueError(f"table_starts must be one or more finite numbers, got {table_starts!r}")
    planned = first_sweep(
        seeds=seeds,
        first_seed=first_seed,
        pretrain_steps=pretrain_steps,
        adapt_steps=adapt_steps,
        learning_rates=learning_rates,
        init_stds=init_stds,
        weight_rates=weight_rates,
        test_sequences=test_sequences,
    )
    bases = planned.where(method="pretrained").runs
    cells = planning.cells(effort_rates, [EFFORT_STD])
    for name in ALSO_TRIED:
        planned += _prefixes(name, bases, adapt_steps, cells, name)
    cells = planning.cells(learning_rates, init_stds)
    for length in lengths:
        way = f"{LENGTHENED}, {length} vectors"
        planned += _prefixes(way, bases, adapt_steps, cells, LENGTHENED, length)
    tried, setting = bases[:tried_seeds], [RESTARTED_CELL]
    for way, steps, cells in (
        (f"{RESTARTED}, {restarts} starts", adapt_steps, setting * restarts),
        (f"{RESTARTED}, {patience} × steps", patience * adapt_steps, setting),
    ):
        planned += _prefixes(way, tried, steps, cells, RESTARTED)
    cells = [
        {"learning_rate": rate, "start_logit": start}
        for rate in table_rates
        for start in table_starts
    ]
    tables = [tune_tables(base, DESCENDING, adapt_steps, cells) for base in bases]
    return planned + labelled(tables, method="table")


check_public(__name__)

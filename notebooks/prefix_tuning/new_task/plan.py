"""Which training runs answer the question of the chapter "A new task"?

Experiment B3: a model of one layer, one head and width 96 learns to sort ascending. Then it is to
sort descending: by training all its weights, or by one learned prefix vector, with as many steps
and a sweep of as many cells. A third adaptation, of everything but the relative attention, tells
what is missing.

Then the same sorters get everything else that might have helped: the two parametrisations that are
missing, longer prefixes, and for some of the seeds many restarts and many times as many steps. Last
come tables, which stand for prefixes of any length (`tables`).

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.checks import check_public
from promptlib.prefix_tuning import planning as experiment_runs
from promptlib.runs import Run

MODEL: dict[str, Any] = experiment_runs.model_of(n_layer=1, n_head=1, n_embd=96)
"""The published size."""

WEIGHT_LEARNING_RATE = 3e-3
"""Highest learning rate of pretraining, and of training with the attention frozen."""

SORTS = ("sort_ascending", "sort_descending")

ALL_WEIGHTS = ("",)
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

TASK = "sort_descending"

TABLES = "notebooks.prefix_tuning.new_task.tables:train"
"""Trains what any prefix of a model of one layer amounts to."""

ALSO_TRIED = ("separate", "unnormalised")
"""Parametrisations that the first sweep leaves out."""

LENGTHENED = "free"
"""Parametrisation of the longer prefixes: the least limited one."""

EFFORT_STD = 1.0
"""Standard deviation of the further parametrisations before training, the published one."""

RESTARTED: dict[str, Any] = {"parametrisation": "free", "learning_rate": 0.1, "init_std": 1.0}
"""Of the restarts and of the long training: what came nearest in the first sweep."""


@dataclass(frozen=True)
class NewTaskPlan:
    """The runs of the chapter for each seed; iterating yields all of them.

    Attributes
    ----------
    pretrained, besides_attention : tuple of Run
        A model each; the second is not tuned, so it can only be better than it is shown.
    finetuned : tuple of tuple of Run
        By seed, then learning rate.
    prefixes : dict of tuple of Run
        By parametrisation; each run is a whole sweep.
    """

    pretrained: tuple[Run, ...]
    finetuned: tuple[tuple[Run, ...], ...]
    besides_attention: tuple[Run, ...]
    prefixes: dict[str, tuple[Run, ...]]

    def __iter__(self) -> Iterator[Run]:
        yield from self.pretrained
        for runs in (*self.prefixes.values(), *self.finetuned, self.besides_attention):
            yield from runs


def first_sweep(
    seeds: int,
    first_seed: int,
    pretrain_steps: int,
    adapt_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
) -> NewTaskPlan:
    """Plan the experiment itself: pretraining, fine-tuning and the first prefixes.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    pretrain_steps, adapt_steps : int
        Training steps of the model, and of each way to adapt it, the same for all; at least 10.
    learning_rates, init_stds : sequences of float
        The sweep of the prefixes is over all pairs.
    weight_rates : sequence of float
        Learning rates of fine-tuning.
    test_sequences : int
        Sequences that each accuracy is measured on, at least 1.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    experiment_runs.check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        pretrain_steps=(pretrain_steps, 10),
        adapt_steps=(adapt_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    experiment_runs.check_positive(
        learning_rates=learning_rates, init_stds=init_stds, weight_rates=weight_rates
    )
    cells = experiment_runs.cells(learning_rates, init_stds)

    def sweep(parametrisation: str, base: Run) -> Run:
        return experiment_runs.tune_prefixes(
            base,
            "sort_descending",
            steps=adapt_steps,
            length=1,
            parametrisation=parametrisation,
            sweep=cells,
        )

    def fine_tune(base: Run, rate: float, learned: Sequence[str]) -> Run:
        return experiment_runs.fine_tune(
            base, "sort_descending", steps=adapt_steps, learning_rate=rate, learned=learned
        )

    pretrained = tuple(
        experiment_runs.pretrain(
            MODEL,
            "sort_ascending",
            seed=seed,
            steps=pretrain_steps,
            learning_rate=WEIGHT_LEARNING_RATE,
            evaluate=SORTS,
            test_sequences=test_sequences,
        )
        for seed in range(first_seed, first_seed + seeds)
    )
    return NewTaskPlan(
        pretrained=pretrained,
        finetuned=tuple(
            tuple(fine_tune(base, rate, ALL_WEIGHTS) for rate in weight_rates)
            for base in pretrained
        ),
        besides_attention=tuple(
            fine_tune(base, WEIGHT_LEARNING_RATE, BESIDES_ATTENTION) for base in pretrained
        ),
        prefixes={
            name: tuple(sweep(name, base) for base in pretrained) for name in ("shared", "free")
        },
    )


@dataclass(frozen=True)
class EffortPlan:
    """The further prefixes, one run of each kind for each seed; iterating yields all of them.

    Attributes
    ----------
    parametrisations : mapping of tuple of Run
        By `ALSO_TRIED`; each run is a whole sweep.
    lengths : mapping of tuple of Run
        By length; each run is a whole sweep.
    restarts : tuple of Run
        A cell for each restart, all with the same learning rate and initial scale; the first seeds
        only.
    longer : tuple of Run
        One prefix with many times the steps; the first seeds only.
    """

    parametrisations: Mapping[str, tuple[Run, ...]]
    lengths: Mapping[int, tuple[Run, ...]]
    restarts: tuple[Run, ...]
    longer: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        for runs in (*self.parametrisations.values(), *self.lengths.values()):
            yield from runs
        yield from self.restarts
        yield from self.longer


def further_prefixes(
    bases: Sequence[Run],
    adapt_steps: int,
    sweep: Sequence[Mapping[str, float]],
    effort_rates: Sequence[float],
    lengths: Sequence[int],
    restarts: int,
    patience: int,
    tried_seeds: int,
) -> EffortPlan:
    """Plan the further prefixes.

    Parameters
    ----------
    bases : sequence of Run
        The sorters, `NewTaskPlan.pretrained`.
    adapt_steps : int
        Training steps, as many as every other way to adapt the sorters has; at least 10.
    sweep : sequence of mapping
        Cells of the longer prefixes: those of the first sweep.
    effort_rates : sequence of float
        Learning rates of the further parametrisations, above 0; they start at scale 1.
    lengths : sequence of int
        Of the longer prefixes, at least 2.
    restarts : int
        Independent starts with one and the same setting, at least 1.
    patience : int
        How many times `adapt_steps` the long training has, at least 1.
    tried_seeds : int
        How many of the seeds get restarts and the long training, at least 1.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    experiment_runs.check_counts(
        adapt_steps=(adapt_steps, 10),
        restarts=(restarts, 1),
        patience=(patience, 1),
        tried_seeds=(tried_seeds, 1),
        **{f"lengths[{index}]": (length, 2) for index, length in enumerate(lengths)},
    )
    experiment_runs.check_positive(effort_rates=effort_rates)
    cells = experiment_runs.cells(effort_rates, [EFFORT_STD])
    restarted = str(RESTARTED["parametrisation"])
    setting = [{name: float(RESTARTED[name]) for name in ("learning_rate", "init_std")}]

    def tune(
        base: Run,
        parametrisation: str,
        cells: Sequence[Mapping[str, float]],
        length: int,
        steps: int,
    ) -> Run:
        return experiment_runs.tune_prefixes(
            base, TASK, steps=steps, length=length, parametrisation=parametrisation, sweep=cells
        )

    tried = bases[:tried_seeds]
    return EffortPlan(
        parametrisations={
            name: tuple(tune(base, name, cells, 1, adapt_steps) for base in bases)
            for name in ALSO_TRIED
        },
        lengths={
            length: tuple(tune(base, LENGTHENED, sweep, length, adapt_steps) for base in bases)
            for length in lengths
        },
        restarts=tuple(tune(base, restarted, setting * restarts, 1, adapt_steps) for base in tried),
        longer=tuple(tune(base, restarted, setting, 1, patience * adapt_steps) for base in tried),
    )


def tune_tables(base: Run, task: str, steps: int, sweep: Sequence[Mapping[str, float]]) -> Run:
    """Plan to train a table, which stands for any prefix, for each cell of `sweep`.

    Batches, schedule and everything that is measured are those of the prefixes.
    """
    prefix = experiment_runs.tune_prefixes(
        base, task, steps=steps, length=1, parametrisation="free", sweep=sweep
    )
    of_prefixes = ("length", *experiment_runs.PARAMETRISATIONS["free"])
    config = {name: value for name, value in prefix.config.items() if name not in of_prefixes}
    return Run(TABLES, config, needs=(base,))


@dataclass(frozen=True)
class ChapterPlan:
    """All runs of the chapter: the experiment, what else was tried, and tables for any prefix.

    Attributes
    ----------
    experiment : NewTaskPlan
    effort : EffortPlan
    tables : tuple of Run
        One for each seed; each run is a whole sweep.
    """

    experiment: NewTaskPlan
    effort: EffortPlan
    tables: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        yield from self.experiment
        yield from self.effort
        yield from self.tables


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
) -> ChapterPlan:
    """Plan the chapter.

    Parameters
    ----------
    seeds, …, test_sequences
        As in `first_sweep`.
    effort_rates, …, tried_seeds
        As in `further_prefixes`.
    table_rates, table_starts : sequences of float
        Learning rates of the tables, above 0, and the logits that they start from; the sweep is
        over all pairs.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    experiment_runs.check_positive(table_rates=table_rates)
    if not table_starts or not all(math.isfinite(start) for start in table_starts):
        raise ValueError(f"table_starts must be one or more finite numbers, got {table_starts!r}")
    experiment = first_sweep(
        seeds,
        first_seed,
        pretrain_steps,
        adapt_steps,
        learning_rates,
        init_stds,
        weight_rates,
        test_sequences,
    )
    effort = further_prefixes(
        experiment.pretrained,
        adapt_steps,
        experiment_runs.cells(learning_rates, init_stds),
        effort_rates,
        lengths,
        restarts,
        patience,
        tried_seeds,
    )
    cells = [
        {"learning_rate": rate, "start_logit": start}
        for rate in table_rates
        for start in table_starts
    ]
    return ChapterPlan(
        experiment,
        effort,
        tables=tuple(tune_tables(base, TASK, adapt_steps, cells) for base in experiment.pretrained),
    )


check_public(__name__)

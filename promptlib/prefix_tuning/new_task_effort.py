"""How hard was the prefix of the chapter "A new task" tried?

The sweep of `promptlib.prefix_tuning.new_task` has two parametrisations and one vector. Here the
same sorters get everything else that might have helped: the two parametrisations that are missing,
longer prefixes, many restarts, and many times as many steps. Last come tables, which stand for
prefixes of any length: `promptlib.prefix_tuning.any_prefix`.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.prefix_tuning import experiment_runs, new_task
from promptlib.prefix_tuning.new_task import NewTaskPlan
from promptlib.runs import Run

TASK = "sort_descending"

TABLES = "promptlib.prefix_tuning.any_prefix:train"
"""Trains what any prefix of a model of one layer amounts to."""

ALSO_TRIED = ("separate", "unnormalised")
"""Parametrisations that the first sweep leaves out."""

LENGTHENED = ("shared", "free")
"""Parametrisations of the longer prefixes."""

RESTARTED: dict[str, Any] = {"parametrisation": "free", "learning_rate": 0.1, "init_std": 1.0}
"""Of the restarts and of the long training: what came nearest in the first sweep."""


@dataclass(frozen=True)
class EffortPlan:
    """The further prefixes, one run of each kind for each seed; iterating yields all of them.

    Attributes
    ----------
    parametrisations : mapping of tuple of Run
        By `ALSO_TRIED`; each run is a whole sweep.
    lengths : mapping of tuple of Run
        By parametrisation (`LENGTHENED`) and length; each run is a whole sweep.
    restarts : tuple of Run
        A cell for each restart, all with the same learning rate and initial scale.
    longer : tuple of Run
        One prefix with many times the steps.
    """

    parametrisations: Mapping[str, tuple[Run, ...]]
    lengths: Mapping[tuple[str, int], tuple[Run, ...]]
    restarts: tuple[Run, ...]
    longer: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        for runs in (*self.parametrisations.values(), *self.lengths.values()):
            yield from runs
        yield from self.restarts
        yield from self.longer


def plan(
    bases: Sequence[Run],
    adapt_steps: int,
    effort_rates: Sequence[float],
    effort_stds: Sequence[float],
    lengths: Sequence[int],
    restarts: int,
    patience: int,
) -> EffortPlan:
    """Plan the further prefixes.

    Parameters
    ----------
    bases : sequence of Run
        The sorters, `NewTaskPlan.pretrained`.
    adapt_steps : int
        Training steps, as many as every other way to adapt the sorters has; at least 10.
    effort_rates, effort_stds : sequences of float
        Learning rates and initial scales; the sweeps are over all pairs.
    lengths : sequence of int
        Of the longer prefixes, at least 2.
    restarts : int
        Independent starts with one and the same setting, at least 1.
    patience : int
        How many times `adapt_steps` the long training has, at least 1.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    experiment_runs.check_counts(
        adapt_steps=(adapt_steps, 10),
        restarts=(restarts, 1),
        patience=(patience, 1),
        **{f"lengths[{index}]": (length, 2) for index, length in enumerate(lengths)},
    )
    experiment_runs.check_positive(effort_rates=effort_rates, effort_stds=effort_stds)
    cells = experiment_runs.cells(effort_rates, effort_stds)
    restarted = str(RESTARTED["parametrisation"])
    setting = [{name: float(RESTARTED[name]) for name in ("learning_rate", "init_std")}]

    def tune(
        base: Run,
        parametrisation: str,
        sweep: Sequence[Mapping[str, float]],
        length: int,
        steps: int,
    ) -> Run:
        return experiment_runs.tune_prefixes(
            base, TASK, steps=steps, length=length, parametrisation=parametrisation, sweep=sweep
        )

    return EffortPlan(
        parametrisations={
            name: tuple(tune(base, name, cells, 1, adapt_steps) for base in bases)
            for name in ALSO_TRIED
        },
        lengths={
            (name, length): tuple(tune(base, name, cells, length, adapt_steps) for base in bases)
            for name in LENGTHENED
            for length in lengths
        },
        restarts=tuple(tune(base, restarted, setting * restarts, 1, adapt_steps) for base in bases),
        longer=tuple(tune(base, restarted, setting, 1, patience * adapt_steps) for base in bases),
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
    control_tables : Run
        The same sweep for the control's model and task.
    """

    experiment: NewTaskPlan
    effort: EffortPlan
    tables: tuple[Run, ...]
    control_tables: Run

    def __iter__(self) -> Iterator[Run]:
        yield from self.experiment
        yield from self.effort
        yield from self.tables
        yield self.control_tables


def chapter_plan(
    seeds: int,
    pretrain_steps: int,
    adapt_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    control_steps: int,
    test_sequences: int,
    effort_rates: Sequence[float],
    effort_stds: Sequence[float],
    lengths: Sequence[int],
    restarts: int,
    patience: int,
    table_rates: Sequence[float],
    table_starts: Sequence[float],
) -> ChapterPlan:
    """Plan the chapter.

    Parameters
    ----------
    seeds, …, test_sequences
        As in `promptlib.prefix_tuning.new_task.plan`.
    effort_rates, …, patience
        As in `plan`.
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
    experiment = new_task.plan(
        seeds, pretrain_steps, adapt_steps, learning_rates, init_stds, control_steps, test_sequences
    )
    effort = plan(
        experiment.pretrained, adapt_steps, effort_rates, effort_stds, lengths, restarts, patience
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
        control_tables=tune_tables(
            experiment.control_pretrained,
            experiment.control_prefixes.config["task"],
            adapt_steps,
            cells,
        ),
    )

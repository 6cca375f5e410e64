"""Which training runs answer "Expressivity or optimisation?"

All runs of the four chapters before it, read as one table of trials, and a few more: prefixes that
are trained to answer as a planted one does (`training`), for which a
solution is known to exist. The planted ones are drawn at random, or were trained in the chapter
"Combining, not inventing?".

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notebooks.prefix_tuning.combining import plan as combine
from notebooks.prefix_tuning.eliciting import plan as elicit
from notebooks.prefix_tuning.new_task import plan as new_task_effort
from notebooks.prefix_tuning.prefix_or_lora import plan as lora_budget
from promptlib.checks import check_public
from promptlib.prefix_tuning import planning as experiment_runs
from promptlib.runs import Run

PLANTED = "notebooks.prefix_tuning.expressivity_or_optimisation.training"

EXPERIMENTS = ("a new task", "eliciting", "combining", "prefix or LoRA")
"""The chapters, by a short name."""

DRAWN = "drawn"
"""Name of the planted prefix that is drawn at random; the others have the name of their task."""


@dataclass(frozen=True)
class SynthesisPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    experiments : mapping of tuple of Run
        By `EXPERIMENTS`: every run of that chapter.
    planted : mapping of tuple of Run
        By teacher, `DRAWN` first; one for each seed. Each run is a sweep of students.
    """

    experiments: Mapping[str, tuple[Run, ...]]
    planted: Mapping[str, tuple[Run, ...]]

    def __iter__(self) -> Iterator[Run]:
        seen = set()
        for runs in (*self.experiments.values(), *self.planted.values()):
            for run in runs:
                if run.key not in seen:
                    seen.add(run.key)
                    yield run


def plan(
    new_task: Mapping[str, Any],
    eliciting: Mapping[str, Any],
    combining: Mapping[str, Any],
    prefix_or_lora: Mapping[str, Any],
    planted_steps: int,
    planted_std: float,
    planted_tasks: Sequence[str],
    planted_rates: Sequence[float],
) -> SynthesisPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    new_task, eliciting, combining, prefix_or_lora : mappings
        The parameters of those chapters, by name.
    planted_steps : int
        Training steps of a student; at least 10.
    planted_std : float
        Standard deviation of the entries of a planted prefix that is drawn, above 0.
    planted_tasks : sequence of str
        Tasks of the chapter on combining whose trained prefixes are planted, too.
    planted_rates : sequence of float
        Learning rates of the students.

    Raises
    ------
    ValueError
        If a number is out of its range, a chapter lacks a parameter or has one too many, or one of
        the tasks has no prefix.
    """
    experiment_runs.check_counts(planted_steps=(planted_steps, 10))
    experiment_runs.check_positive(planted_rates=planted_rates, planted_std=[planted_std])
    plans = (
        ("new_task", new_task_effort.plan, new_task),
        ("eliciting", elicit.plan, eliciting),
        ("combining", combine.plan, combining),
        ("prefix_or_lora", lora_budget.plan, prefix_or_lora),
    )
    experiments = {
        experiment: tuple(_planned(name, make, parameters))
        for experiment, (name, make, parameters) in zip(EXPERIMENTS, plans, strict=True)
    }
    sweep = experiment_runs.cells(planted_rates, [combine.INIT_STD])
    there = combine.plan(**combining)
    kinds = (("published prefix", combine.PUBLISHED), ("free prefix", combine.NEW))
    trained = {
        task: there.where(method=kind, task=task).runs for kind, tasks in kinds for task in tasks
    }
    bases = there.where(method="pretrained")
    planted = {DRAWN: tuple(_plant(base, planted_steps, sweep, planted_std) for base in bases)}
    for task in planted_tasks:
        if task not in trained:
            raise ValueError(
                f"planted_tasks has {task!r}; there are prefixes for {', '.join(trained)}"
            )
        planted[task] = tuple(
            _plant(run.needs[0], planted_steps, sweep, teacher=run) for run in trained[task]
        )
    return SynthesisPlan(experiments=experiments, planted=planted)


def _planned(name: str, make: Any, parameters: Mapping[str, Any]) -> Iterable[Run]:
    try:
        return make(**parameters)
    except TypeError as error:  # a parameter is missing or unknown
        raise ValueError(f"{name} must hold the parameters of its chapter: {error}") from None


def _plant(
    base: Run,
    steps: int,
    sweep: Sequence[Mapping[str, float]],
    planted_std: float | None = None,
    teacher: Run | None = None,
) -> Run:
    """Plan students of a prefix that is drawn, with a standard deviation, or of a trained one."""
    kind = experiment_runs.PARAMETRISATIONS[combine.PARAMETRISATION]
    if teacher is not None:
        kind = {name: teacher.config[name] for name in kind}
    return Run(
        f"{PLANTED}:plant",
        {
            "seed": base.config["seed"],
            "steps": steps,
            "warmup": int(experiment_runs.WARMUP_SHARE * steps),
            "batch_size": experiment_runs.SMALL_BATCH_SIZE,
            "test_sequences": base.config["test_sequences"],
            "model": base.config["model"],
            "length": combine.LENGTH,
            "planted_std": planted_std,
            "cells": [dict(cell) for cell in sweep],
            **kind,
        },
        needs=(base,) if teacher is None else (base, teacher),
    )


check_public(__name__)

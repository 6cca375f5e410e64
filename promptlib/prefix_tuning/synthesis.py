"""Which training runs answer "Expressivity or optimisation?"

All runs of the four chapters before it, read as one table of trials, and a few more: prefixes that
are trained to answer as a planted one does (`promptlib.prefix_tuning.planted`), for which a
solution is known to exist.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.prefix_tuning import combine, elicit, experiment_runs, lora_budget, new_task_effort
from promptlib.runs import Run

PLANTED = "promptlib.prefix_tuning.planted"

EXPERIMENTS = ("a new task", "eliciting", "combining", "prefix or LoRA")
"""The chapters, by a short name."""


@dataclass(frozen=True)
class SynthesisPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    experiments : mapping of tuple of Run
        By `EXPERIMENTS`: every run of that chapter.
    planted : tuple of Run
        One for each seed; each run is a sweep of students.
    """

    experiments: Mapping[str, tuple[Run, ...]]
    planted: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        seen = set()
        for runs in (*self.experiments.values(), self.planted):
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
        Standard deviation of a planted prefix's entries, above 0.
    planted_rates : sequence of float
        Learning rates of the students.

    Raises
    ------
    ValueError
        If a number is out of its range, or a chapter lacks a parameter or has one too many.
    """
    experiment_runs.check_counts(planted_steps=(planted_steps, 10))
    experiment_runs.check_positive(planted_rates=planted_rates, planted_std=[planted_std])
    plans = (
        ("new_task", new_task_effort.chapter_plan, new_task),
        ("eliciting", elicit.plan, eliciting),
        ("combining", combine.plan, combining),
        ("prefix_or_lora", lora_budget.plan, prefix_or_lora),
    )
    experiments = {
        experiment: tuple(_planned(name, make, parameters))
        for experiment, (name, make, parameters) in zip(EXPERIMENTS, plans, strict=True)
    }
    sweep = experiment_runs.cells(planted_rates, [combine.INIT_STD])
    bases = combine.plan(**combining).pretrained[combining["n_layer"]]
    return SynthesisPlan(
        experiments=experiments,
        planted=tuple(_plant(base, planted_steps, planted_std, sweep) for base in bases),
    )


def _planned(name: str, make: Any, parameters: Mapping[str, Any]) -> Iterable[Run]:
    try:
        return make(**parameters)
    except TypeError as error:  # a parameter is missing or unknown
        raise ValueError(f"{name} must hold the parameters of its chapter: {error}") from None


def _plant(base: Run, steps: int, planted_std: float, sweep: Sequence[Mapping[str, float]]) -> Run:
    """Plan students of a planted prefix: of the kind that the chapter on combining trains."""
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
            **experiment_runs.PARAMETRISATIONS[combine.PARAMETRISATION],
        },
        needs=(base,),
    )

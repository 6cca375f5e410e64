"""Which runs of other chapters are read again, and which are new?

All runs of the four chapters before it, read as one table of trials, and a few more: prefixes that
are trained to answer as a planted one does (`training`), for which a solution is known to exist.
The planted ones are drawn at random, or were trained in the chapter "Combining, not inventing?".

Labels of what adapts a model: ``method``, a value of `METHODS`, and ``question``. Students of a
planted prefix have the ``method`` "student" and their ``teacher``.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notebooks.prefix_tuning.combining import plan as combining_plan
from notebooks.prefix_tuning.eliciting import plan as eliciting_plan
from notebooks.prefix_tuning.new_task import plan as new_task_plan
from notebooks.prefix_tuning.prefix_or_lora import plan as prefix_or_lora_plan
from promptlib.checks import check_public
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.trials import Plan, labelled
from promptlib.runs import Run

PLANTED = "notebooks.prefix_tuning.expressivity_or_optimisation.training"

METHODS = {"tune_prefixes": "prefix", "tune_lora": "LoRA", "fine_tune": "fine-tuning"}
"""Method by training function; other functions adapt nothing that the table compares."""

DRAWN = "drawn"
"""Teacher that is drawn at random; the others have the name of their task."""


@dataclass(frozen=True)
class Question:
    """A base model, in words, that is to do a task; asked in a chapter, by its short name."""

    experiment: str
    model: str
    task: str

    @property
    def label(self) -> str:
        """For an axis."""
        return f"{self.task.replace('_', ' ')} ({self.model})"


def plan(
    new_task: Mapping[str, Any],
    eliciting: Mapping[str, Any],
    combining: Mapping[str, Any],
    prefix_or_lora: Mapping[str, Any],
    planted_steps: int,
    planted_std: float,
    planted_tasks: Sequence[str],
    planted_rates: Sequence[float],
) -> Plan:
    """Plan the runs of the chapter.

    The page says what the parameters mean; a ValueError names one that is out of its range, or a
    chapter that lacks a parameter or has one too many.
    """
    planning.check_counts(planted_steps=(planted_steps, 10))
    planning.check_positive(planted_rates=planted_rates, planted_std=[planted_std])
    there = _planned("combining", combining_plan.plan, combining)
    planned = Plan(())
    for experiment, runs in (
        ("a new task", _planned("new_task", new_task_plan.plan, new_task)),
        ("eliciting", _planned("eliciting", eliciting_plan.plan, eliciting)),
        ("combining", there),
        ("prefix or LoRA", _planned("prefix_or_lora", prefix_or_lora_plan.plan, prefix_or_lora)),
    ):
        planned += Plan(tuple((run, _labels(experiment, run)) for run in runs))
    sweep = planning.cells(planted_rates, [combining_plan.INIT_STD])
    students = [_plant(base, planted_steps, sweep, planted_std) for base in there if not base.needs]
    planned += labelled(students, method="student", teacher=DRAWN)
    trained = _prefixes_by_task(there)
    for task in planted_tasks:
        if task not in trained:
            raise ValueError(
                f"planted_tasks has {task!r}; there are prefixes for {', '.join(trained)}"
            )
        students = [
            _plant(run.needs[0], planted_steps, sweep, teacher=run) for run in trained[task]
        ]
        planned += labelled(students, method="student", teacher=task)
    return planned


def _planned(
    name: str, make: Callable[..., Iterable[Run]], parameters: Mapping[str, Any]
) -> tuple[Run, ...]:
    try:
        return tuple(make(**parameters))
    except TypeError as error:  # a parameter is missing or unknown
        raise ValueError(f"{name} must hold the parameters of its chapter: {error}") from None


def _labels(experiment: str, run: Run) -> dict[str, Any]:
    method = METHODS.get(run.train.partition(":")[2])
    partly = run.config.get("learned", [""]) != [""]  # some weights only: another question
    if method is None or partly:
        return {}
    question = Question(experiment, _in_words(run.needs[0]), run.config["task"])
    return {"method": method, "question": question}


def _in_words(base: Run) -> str:
    """What tells the base models of one chapter apart."""
    model = base.config["model"]
    depth = f"{model['n_layer']} layer{'s' if model['n_layer'] > 1 else ''}"
    norm = "" if model["first_layer_norm"] else ", no first LayerNorm"
    knows = "" if base.config["task"] == "mixture" else ", sorts ascending"
    return f"{depth}{norm}{knows}"


def _prefixes_by_task(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The prefixes of each seed; where a task has two parametrisations, the later one."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.train.endswith(":tune_prefixes"):
            found.setdefault(run.config["task"], {})[run.config["seed"]] = run
    return {task: list(by_seed.values()) for task, by_seed in found.items()}


def _plant(
    base: Run,
    steps: int,
    sweep: Sequence[Mapping[str, float]],
    planted_std: float | None = None,
    teacher: Run | None = None,
) -> Run:
    """Plan students of a prefix that is drawn, with a standard deviation, or of a trained one."""
    kind = planning.PARAMETRISATIONS[combining_plan.PARAMETRISATION]
    if teacher is not None:
        kind = {name: teacher.config[name] for name in kind}
    return Run(
        f"{PLANTED}:plant",
        {
            "seed": base.config["seed"],
            "steps": steps,
            "warmup": int(planning.WARMUP_SHARE * steps),
            "batch_size": planning.SMALL_BATCH_SIZE,
            "test_sequences": base.config["test_sequences"],
            "model": base.config["model"],
            "length": combining_plan.LENGTH,
            "planted_std": planted_std,
            "cells": [dict(cell) for cell in sweep],
            **kind,
        },
        needs=(base,) if teacher is None else (base, teacher),
    )


check_public(__name__)

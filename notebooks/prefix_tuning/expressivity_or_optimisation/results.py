"""What do all sweeps together say: was there no prefix, or was it not found?

A *question* is a base model and a task; its trials differ in method and setting. The best are
chosen on the validation split and read on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from notebooks.prefix_tuning.expressivity_or_optimisation import travel
from notebooks.prefix_tuning.expressivity_or_optimisation.plan import DRAWN, METHODS, Question
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import read_and_answer, task_named
from promptlib.prefix_tuning.trials import Get, Plan, Trial, Trials, read, rebuild

DOES = 90.0
"""Percent of sequences from which on a task counts as done."""

MOVES = ("reverse", "rotate")
"""Tasks that copy every digit to another place, which no task of the mixture does."""


def measured(plan: Plan, get: Get) -> Trials:
    """Read all that adapts a model, the students, and each teacher's answers without a prefix."""
    students = plan.where(method="student")
    without = [
        Trial({**labels, "method": "no prefix"}, run, None, get(run).metrics["without"])
        for run, labels in students.entries
    ]
    tried = plan.where(method=set(METHODS.values()))
    return read(tried, get) + read(students, get) + Trials(tuple(without))


def questions(trials: Trials, method: str = "prefix") -> list[Question]:
    """Return every question that the method was tried on, in the order of the chapters."""
    return list(trials.where(method=method).by("question"))


def parametrisation(trial: Trial) -> str:
    """Say how keys and values of a prefix are made."""
    norm = "LayerNorm" if trial.run.config["layer_norm"] else "no LayerNorm"
    return f"{norm}, {'two vectors' if trial.run.config['separate_values'] else 'one vector'}"


def setting(trial: Trial) -> str:
    """Say all that was chosen for a trial; equal for all seeds."""
    config = trial.run.config
    parts = [trial["method"], f"rate {trial.learning_rate:g}", f"{config['steps']} steps"]
    if trial["method"] == "prefix":
        parts += [f"init {trial.init_std:g}", f"length {config['length']}", parametrisation(trial)]
    if trial["method"] == "LoRA":
        parts += [f"rank {config['rank']}", "+".join(config["modules"])]
    return ", ".join(parts)


def by_setting(trials: Trials) -> dict[str, float]:
    """Return the mean accuracy over seeds of each setting, in percent."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        found.setdefault(setting(trial), []).append(trial.percent())
    return {name: float(np.mean(values)) for name, values in found.items()}


def best_first(trial: Trial) -> tuple[float, float]:
    """A key that sorts the best first: highest validation accuracy, of equal ones lowest loss."""
    return -trial.validation["accuracy"], trial.validation["loss"]


def done(trials: Trials) -> list[Question]:
    """Return what the best prefix of every seed does on `DOES` percent of sequences or more."""
    prefixes = trials.where(method="prefix").by("question")
    return [asked for asked, tried in prefixes.items() if min(tried.best().percent()) >= DOES]


def lost_by_tuning(trials: Trials) -> dict[int, float]:
    """Return what the worst setting of a sweep loses against the best, by seed, in points.

    A mean over the questions of `done` with more than one setting.
    """
    lost: dict[int, list[float]] = {}
    for asked in done(trials):
        tried = trials.where(method="prefix", question=asked)
        if len(by_setting(tried)) < 2:
            continue
        for seed, swept in tried.by("seed").items():
            ranked = sorted(swept, key=best_first)
            lost.setdefault(seed, []).append(ranked[0].percent() - ranked[-1].percent())
    return {seed: float(np.mean(values)) for seed, values in lost.items()}


def moving(trials: Trials, method: str) -> Trials:
    """Return the trials of a method on the tasks that move digits."""
    return trials.where(method=method, question=lambda asked: asked.task in MOVES)


def failing(trials: Trials, get: Get, sequences: int = 50) -> tuple[GPT, Prefix, Tensor]:
    """Return the best prefix for the first task that moves digits, of the first seed.

    Returns
    -------
    model : GPT
    prefix : Prefix
    tokens : Tensor, shape (sequences, 19)
        Test inputs and right answers of the task.
    """
    asked = questions(moving(trials, "prefix"))[0]
    best = moving(trials, "prefix").where(question=asked).best()[0]
    model, prefix = rebuild(best, get)
    assert prefix is not None
    generator = torch.Generator().manual_seed(0)
    return (
        model,
        prefix,
        read_and_answer(*task_named(best.task).sample(sequences, "test", generator)),
    )


def trained_teachers(trials: Trials) -> list[str]:
    """Return the teachers that were trained for a task, not drawn: the names of their tasks."""
    found = [teacher for teacher in trials.where(method="student").by("teacher")]
    if found == [DRAWN]:
        raise ValueError("no prefix was planted that was trained for a task; see planted_tasks")
    return [teacher for teacher in found if teacher != DRAWN]


def best_students(trials: Trials, teacher: str) -> list[Trial]:
    """Return the student of each seed that comes nearest to its teacher on validation sequences."""
    by_seed = trials.where(method="student", teacher=teacher).by("seed")
    return [
        min(cells, key=lambda cell: cell.validation["divergence"]) for cells in by_seed.values()
    ]


def closed(trials: Trials, teacher: str) -> list[float]:
    """Return the share of the divergence that the best student takes away, by seed, in percent."""
    without = trials.where(method="no prefix", teacher=teacher)
    pairs = zip(without, best_students(trials, teacher), strict=True)
    return [
        100 * (1 - best.metrics["divergence"] / before.metrics["divergence"])
        for before, best in pairs
    ]


def agreement(trials: Trials, teacher: str) -> list[float]:
    """Return how many inputs the best student answers as its teacher does, by seed, in percent."""
    return [100 * best.metrics["agreement"] for best in best_students(trials, teacher)]


Moves = Callable[[Trial, Get], Tensor]


def budget_shares(trials: Trials, get: Get, moves: Moves = travel.moves) -> list[float]:
    """Return the longest way of an entry of each prefix as a share of its travel budget."""
    return [
        float(moves(trial, get).max()) / travel.budget_of(trial)
        for trial in trials.where(method="prefix")
    ]


@dataclass(frozen=True)
class Distance:
    """How far the best prefix and the best fine-tuned model lie from their starts.

    Root mean squares over entries.
    """

    question: Question
    seed: int
    prefix: float
    weights: float


def distances(trials: Trials, get: Get) -> list[Distance]:
    """Measure them where both methods were tried; the best have the lowest validation loss."""

    def way(trial: Trial) -> float:
        return float(travel.moves(trial, get).square().mean().sqrt())

    found = []
    for asked in questions(trials):
        prefixes, weights = (
            {best.seed: best for best in tried.best(by="loss")} if len(tried) else {}
            for tried in (
                trials.where(method=method, question=asked) for method in ("prefix", "fine-tuning")
            )
        )
        found += [
            Distance(asked, seed, way(prefixes[seed]), way(weights[seed]))
            for seed in sorted(prefixes.keys() & weights.keys())
        ]
    return found


def distance_ratios(found: Sequence[Distance]) -> dict[int, float]:
    """Return how many times farther a prefix moves than weights, by seed: a geometric mean."""
    by_seed: dict[int, list[float]] = {}
    for one in found:
        by_seed.setdefault(one.seed, []).append(one.prefix / one.weights)
    return {seed: float(np.exp(np.mean(np.log(values)))) for seed, values in by_seed.items()}

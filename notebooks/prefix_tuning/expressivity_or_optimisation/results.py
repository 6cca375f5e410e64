"""What do all sweeps together say: was there no prefix, or was it not found?

`collect` reads every run of the chapters into one table of trials. A *question* is a base model and
a task; its trials differ in method and setting. Each claim function takes what was measured and
returns the claim, so that a test can hand in what a wrong implementation measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from notebooks.prefix_tuning.expressivity_or_optimisation import training, travel
from notebooks.prefix_tuning.expressivity_or_optimisation.plan import DRAWN, SynthesisPlan
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import adapting
from promptlib.prefix_tuning.sweeps import HERE, UNIT, Cell, Get, cells_of
from promptlib.runs import Run

METHODS = {"tune_prefixes": "prefix", "tune_lora": "LoRA", "fine_tune": "fine-tuning"}
"""Method by training function; other functions adapt nothing that the table compares."""

DOES = 90.0
"""Percent of sequences from which on a task counts as done."""


@dataclass(frozen=True)
class Question:
    """A base model that is to do a task.

    Attributes
    ----------
    experiment : str
        Chapter, by its short name.
    model : str
        What tells the base models of one chapter apart, in words; may be empty.
    task : str
    """

    experiment: str
    model: str
    task: str

    @property
    def label(self) -> str:
        """For an axis."""
        task = self.task.replace("_", " ")
        return f"{task} ({self.model})" if self.model else task


@dataclass(frozen=True)
class Trial:
    """One prefix, LoRA or fine-tuned model.

    Attributes
    ----------
    method : str
        A value of `METHODS`.
    setting : str
        All that was chosen, in words; equal for all seeds.
    learning_rate : float
    init_std : float or None
        None for fine-tuning.
    parametrisation : str
        Of a prefix: "LayerNorm" or "no LayerNorm", "one vector" or "two"; else empty.
    length : int
        Of a prefix, else 0.
    percent, loss : float
        On test sequences of the task.
    validation_percent, validation_loss : float
        On validation sequences, by which the best is chosen.
    cell : Cell or None
        Where it comes from.
    """

    question: Question
    method: str
    seed: int
    setting: str
    learning_rate: float
    init_std: float | None
    parametrisation: str
    length: int
    percent: float
    loss: float
    validation_percent: float
    validation_loss: float
    cell: Cell | None = None


@dataclass(frozen=True)
class Planted:
    """Students of a planted prefix, one entry for each seed; the best is chosen by validation.

    Attributes
    ----------
    without, best : sequence of float
        Divergence from the planted prefix's answers without a prefix and with the best student,
        nats a symbol.
    agreement : sequence of float
        Share of inputs that the best student answers as the planted prefix does, in percent.
    curves : sequence of sequence of float
        Of the best students.
    """

    without: Sequence[float]
    best: Sequence[float]
    agreement: Sequence[float]
    curves: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Measured:
    """All trials, the students of the planted prefixes by teacher, and the size of the tests.

    Attributes
    ----------
    trials : tuple of Trial
    planted : mapping of Planted
        By teacher: `plan.DRAWN`, or the task it was trained for.
    tested : int
        Test sequences behind each accuracy.
    """

    trials: tuple[Trial, ...]
    planted: Mapping[str, Planted]
    tested: int

    def questions(self, method: str = "prefix") -> list[Question]:
        """Every question that the method was tried on, in the order of the chapters."""
        return list(dict.fromkeys(t.question for t in self.trials if t.method == method))

    def of(self, question: Question, method: str = "prefix") -> list[Trial]:
        """The trials of a question by one method."""
        return [t for t in self.trials if t.question == question and t.method == method]


def collect(plan: SynthesisPlan, get: Get) -> Measured:
    """Read all runs of `plan`; `get` is the ``get`` of a run store."""
    trials = [
        trial for name, runs in plan.experiments.items() for trial in _trials(name, runs, get)
    ]
    return Measured(
        tuple(trials),
        {teacher: _students(runs, get) for teacher, runs in plan.planted.items()},
        tested=min(run.config["test_sequences"] for run in plan),
    )


def _students(runs: Iterable[Run], get: Get) -> Planted:
    students = [get(run).metrics for run in runs]
    best = [
        min(found["cells"], key=lambda cell: cell["validation"]["divergence"]) for found in students
    ]
    return Planted(
        without=[found["without"]["divergence"] for found in students],
        best=[cell["divergence"] for cell in best],
        agreement=[100 * cell["agreement"] for cell in best],
        curves=[cell["curve"] for cell in best],
    )


def _trials(experiment: str, runs: Iterable[Run], get: Get) -> Iterable[Trial]:
    for run in runs:
        method = METHODS.get(run.train.partition(":")[2])
        partly = run.config.get("learned", [""]) != [""]  # some weights only: another question
        if method is None or partly:
            continue
        config = run.config
        for cell in cells_of(run, get):
            prefix = method == "prefix"
            kind = _parametrisation(config) if prefix else ""
            yield Trial(
                question=Question(experiment, _model(run.needs[0]), config["task"]),
                method=method,
                seed=config["seed"],
                setting=_setting(method, config, kind, cell.learning_rate, cell.init_std),
                learning_rate=cell.learning_rate,
                init_std=cell.init_std,
                parametrisation=kind,
                length=config["length"] if prefix else 0,
                percent=cell.percent(config["task"]),
                loss=cell.loss(config["task"]),
                validation_percent=100 * cell.validation_accuracy,
                validation_loss=cell.validation_loss,
                cell=cell,
            )


def _model(base: Run) -> str:
    model = base.config["model"]
    depth = f"{model['n_layer']} layer{'s' if model['n_layer'] > 1 else ''}"
    norm = "" if model["first_layer_norm"] else ", no first LayerNorm"
    knows = "" if base.config["task"] == "mixture" else ", sorts ascending"
    return f"{depth}{norm}{knows}"


def _parametrisation(config: Mapping[str, Any]) -> str:
    norm = "LayerNorm" if config["layer_norm"] else "no LayerNorm"
    return f"{norm}, {'two vectors' if config['separate_values'] else 'one vector'}"


def _setting(
    method: str, config: Mapping[str, Any], kind: str, rate: float, std: float | None
) -> str:
    parts = [method, f"rate {rate:g}", f"{config['steps']} steps"]
    if method == "prefix":
        parts += [f"init {std:g}", f"length {config['length']}", kind]
    if method == "LoRA":
        parts += [f"rank {config['rank']}", "+".join(config["modules"])]
    return ", ".join(parts)


def by_setting(trials: Iterable[Trial]) -> dict[str, float]:
    """Mean accuracy over seeds of each setting, in percent."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        found.setdefault(trial.setting, []).append(trial.percent)
    return {setting: float(np.mean(values)) for setting, values in found.items()}


def best_by_seed(trials: Iterable[Trial]) -> dict[int, float]:
    """Test accuracy of the best trial of each seed, in percent."""
    return {trial.seed: trial.percent for trial in best_trials(trials)}


def best_trials(trials: Iterable[Trial]) -> list[Trial]:
    """The best trial of each seed by validation: highest accuracy, of equal ones lowest loss."""
    found: dict[int, Trial] = {}
    for trial in trials:
        best = found.get(trial.seed)
        if best is None or _best_first(trial) < _best_first(best):
            found[trial.seed] = trial
    return list(found.values())


def _best_first(trial: Trial) -> tuple[float, float]:
    return -trial.validation_percent, trial.validation_loss


def done(measured: Measured, limit: float = DOES) -> list[Question]:
    """Questions that the best prefix of every seed answers right in `limit` percent or more."""
    return [
        question
        for question in measured.questions()
        if min(best_by_seed(measured.of(question)).values()) >= limit
    ]


def lost_by_tuning(measured: Measured, limit: float = DOES) -> dict[int, float]:
    """What the worst setting of a sweep loses against the best, by seed, in points.

    A mean over the questions of `done` that were swept: those with more than one setting. Best and
    worst are chosen on validation sequences, and compared on test sequences.
    """
    lost: dict[int, list[float]] = {}
    for question in done(measured, limit):
        trials = measured.of(question)
        if len({trial.setting for trial in trials}) < 2:
            continue
        for seed in best_by_seed(trials):
            ranked = sorted((trial for trial in trials if trial.seed == seed), key=_best_first)
            lost.setdefault(seed, []).append(ranked[0].percent - ranked[-1].percent)
    return {seed: float(np.mean(values)) for seed, values in lost.items()}


def closed(planted: Planted) -> list[float]:
    """Share of the divergence that the best student takes away, by seed, in percent."""
    pairs = zip(planted.without, planted.best, strict=True)
    return [100 * (1 - best / without) for without, best in pairs]


@dataclass(frozen=True)
class Distance:
    """How far the best prefix and the best fine-tuned model of a question lie from their starts.

    Root mean squares over entries.
    """

    question: Question
    seed: int
    prefix: float
    weights: float


def distances(measured: Measured, get: Get) -> list[Distance]:
    """Measure them for every question that both methods were tried on.

    Best: lowest validation loss.
    """
    found = []
    for question in measured.questions():
        for seed in sorted({trial.seed for trial in measured.of(question, "fine-tuning")}):
            pair = []
            for method in ("prefix", "fine-tuning"):
                trials = [t for t in measured.of(question, method) if t.seed == seed]
                best = min(trials, key=lambda trial: trial.validation_loss, default=None)
                if best is not None and best.cell is not None:
                    pair.append(float(travel.moves(best.cell, get).square().mean().sqrt()))
            if len(pair) == 2:
                found.append(Distance(question, seed, *pair))
    return found


def distance_ratios(found: Sequence[Distance]) -> dict[int, float]:
    """How many times farther a prefix moves than weights do, by seed: a geometric mean."""
    by_seed: dict[int, list[float]] = {}
    for one in found:
        by_seed.setdefault(one.seed, []).append(one.prefix / one.weights)
    return {seed: float(np.exp(np.mean(np.log(values)))) for seed, values in by_seed.items()}


def within_budget(measured: Measured, get: Get) -> claims.Claim:
    """No prefix of any sweep travelled farther than Adam can carry it."""
    moved, allowed = [], []
    for trial in measured.trials:
        if trial.method == "prefix" and trial.cell is not None:
            moved.append(float(travel.moves(trial.cell, get).max()))
            allowed.append(travel.budget_of(trial.cell))
    return claims.bound(
        "prefix-tuning/expressivity-travel-budget",
        "No entry of any prefix of these chapters has moved farther than the travel budget of its "
        "training; the quotient.",
        values=np.array(moved) / np.array(allowed),
        limits=1.0,
        source=HERE,
        checks=travel.budget,
        search=f"all {len(moved)} trained prefixes",
        tolerance=1e-5,
    )


def prefixes_travel_farther(found: Sequence[Distance]) -> claims.Claim:
    """Prefixes have to move farther than weights."""
    return claims.outcome(
        "prefix-tuning/expressivity-distances",
        "The entries of the best prefix have moved more than ten times as far as those of the best "
        "fine-tuned model of the same task; the ratio of root mean squares, geometric mean over "
        "tasks.",
        values=list(distance_ratios(found).values()),
        limit=10.0,
        side="above",
        scale="log",
        unit="times",
        source=HERE,
        checks=travel.moves,
        note="how far an entry moves follows its learning rate, and the sweeps of prefixes lie "
        "above those of weights: this describes the best settings found and proves no need",
    )


def planted_is_near(measured: Measured) -> claims.Claim:
    """By the divergence of the answers, training comes near a planted prefix."""
    return claims.outcome(
        "prefix-tuning/expressivity-planted-found",
        "A prefix that is trained to answer as a planted one, drawn at random, takes away more "
        "than four fifths of the divergence.",
        values=closed(measured.planted[DRAWN]),
        limit=80.0,
        side="above",
        unit="% of the divergence",
        source=HERE,
        checks=training.plant,
    )


def planted_answers_alike(measured: Measured, trained: bool) -> claims.Claim:
    """By whole sequences, the metric of all other prefixes, it may or may not.

    Parameters
    ----------
    trained : bool
        Whether the teachers are those that were trained for tasks, or the one drawn at random.
    """
    teachers = [teacher for teacher in measured.planted if (teacher != DRAWN) == trained]
    if not teachers:
        raise ValueError("no prefix was planted that was trained for a task; see planted_tasks")
    tasks = " or ".join(teacher.replace("_", " ") for teacher in teachers)
    which = f"one that was trained to {tasks}" if trained else "one that is drawn at random"
    agreement = zip(*(measured.planted[teacher].agreement for teacher in teachers), strict=True)
    return claims.outcome(
        f"prefix-tuning/expressivity-{'trained-' if trained else ''}planted-answers",
        f"Judged by whole sequences, as every other prefix is, a planted prefix is found: {which} "
        f"is answered alike on {DOES:g} % of the sequences or more"
        + ("; the lowest of the teachers." if len(teachers) > 1 else "."),
        values=[min(seeds) for seeds in agreement],
        limit=DOES,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=training.measure,
        trials=measured.tested,
        note=f"the accuracy from which on a task counts as done ({DOES:g} %)",
    )


MOVES = ("reverse", "rotate")
"""Tasks that copy every digit to another place, which no task of the mixture does."""


def out_of_reach(measured: Measured, tasks: Sequence[str], name: str) -> claims.Claim:
    """No prefix that was tried does the tasks.

    Parameters
    ----------
    tasks : sequence of str
        At least one, each tried with prefixes and with fine-tuning.
    name : str
        Of the tasks together, for the sentence.
    """
    trials = [
        trial
        for question in measured.questions()
        if question.task in tasks
        for trial in measured.of(question)
    ]
    lengths = ", ".join(str(length) for length in sorted({trial.length for trial in trials}))
    kinds = " and ".join(sorted({trial.parametrisation for trial in trials}))
    return claims.outcome(
        f"prefix-tuning/expressivity-no-prefix-for-{name.replace(' ', '-')}",
        f"Of the {len({trial.setting for trial in trials})} settings of a prefix that were tried "
        f"(length {lengths}; {kinds}), none does the {name} on more than one sequence in ten; the "
        "best, chosen on validation sequences.",
        values=list(best_by_seed(trials).values()),
        limit=10.0,
        side="below",
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=measured.tested,
        requires=[weights_can(measured, tasks)],
    )


def weights_can(measured: Measured, tasks: Sequence[str] = MOVES) -> claims.Claim:
    """Fine-tuning does what no prefix does, in as many steps."""
    seeds: dict[int, float] = {}
    for question in measured.questions("fine-tuning"):
        if question.task in tasks:
            for seed, value in best_by_seed(measured.of(question, "fine-tuning")).items():
                seeds[seed] = min(seeds.get(seed, 100.0), value)
    return claims.outcome(
        "prefix-tuning/expressivity-weights-can-move",
        "Control: fine-tuning the same models, with as many steps on batches of the same size, "
        f"does each of {' and '.join(tasks)} on more than half of the sequences; the lower of "
        "their accuracies.",
        values=list(seeds.values()),
        limit=50.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=measured.tested,
    )


check_public(__name__)

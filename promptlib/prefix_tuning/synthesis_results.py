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

from promptlib import claims
from promptlib.prefix_tuning import travel
from promptlib.prefix_tuning.experiment_results import HERE, UNIT, Cell, Get, cells_of
from promptlib.prefix_tuning.synthesis import SynthesisPlan
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
    """All trials, and the students of the planted prefixes."""

    trials: tuple[Trial, ...]
    planted: Planted

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
    students = [get(run).metrics for run in plan.planted]
    best = [
        min(found["cells"], key=lambda cell: cell["validation"]["divergence"]) for found in students
    ]
    return Measured(
        tuple(trials),
        Planted(
            without=[found["without"]["divergence"] for found in students],
            best=[cell["divergence"] for cell in best],
            agreement=[100 * cell["agreement"] for cell in best],
            curves=[cell["curve"] for cell in best],
        ),
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


def rate_ratios(measured: Measured) -> dict[int, float]:
    """Best learning rate of prefixes over that of fine-tuning, by seed.

    A geometric mean over all questions that both methods were tried on. Best: lowest validation
    loss.
    """
    ratios: dict[int, list[float]] = {}
    for question in measured.questions():
        weights, prefixes = measured.of(question, "fine-tuning"), measured.of(question)
        for seed in {trial.seed for trial in weights}:
            theirs = [trial for trial in weights if trial.seed == seed]
            ours = [trial for trial in prefixes if trial.seed == seed]
            if theirs and ours:
                best = [min(group, key=lambda t: t.validation_loss) for group in (ours, theirs)]
                ratios.setdefault(seed, []).append(best[0].learning_rate / best[1].learning_rate)
    return {seed: float(np.exp(np.mean(np.log(values)))) for seed, values in ratios.items()}


def regret(measured: Measured, experiments: Sequence[str]) -> dict[tuple[float, float], float]:
    """What one and the same learning rate and initial scale loses against the best setting.

    Parameters
    ----------
    experiments : sequence of str
        Chapters whose sweeps share their rates.

    Returns
    -------
    mapping of float
        By rate and initial scale, in points: the mean over questions that some prefix does
        (`done`) and for which several scales were tried, and over seeds, of the accuracy of the
        best trial of the question minus that of the best trial with the pair. Pairs that were not
        tried on every such question are left out.
    """
    questions = [
        one
        for one in done(measured)
        if one.experiment in experiments and len({t.init_std for t in measured.of(one)}) > 1
    ]
    found: dict[tuple[float, float], list[float]] = {}
    for question in questions:
        trials = measured.of(question)
        best = best_by_seed(trials)
        pairs = {(t.learning_rate, t.init_std) for t in trials if t.init_std is not None}
        for pair in pairs:
            with_pair = best_by_seed(t for t in trials if (t.learning_rate, t.init_std) == pair)
            lost = float(np.mean([best[seed] - value for seed, value in with_pair.items()]))
            found.setdefault(pair, []).append(lost)
    return {
        pair: float(np.mean(lost))
        for pair, lost in sorted(found.items())
        if len(lost) == len(questions)
    }


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
        checks="promptlib.prefix_tuning.travel.budget",
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
        source=HERE,
        checks="promptlib.prefix_tuning.travel.moves",
        unit="times",
        refuted_if=("<", 10.0),
    )


def tuning_decides(measured: Measured) -> claims.Claim:
    """A prefix that can do a task fails at it when it is badly tuned."""
    lost = lost_by_tuning(measured)
    return claims.outcome(
        "prefix-tuning/expressivity-tuning-decides",
        f"On tasks that a prefix does ({DOES:g} % of sequences or more, every seed), the worst "
        "setting of the same sweep loses more than a quarter of the sequences; best minus worst, "
        "mean over tasks.",
        values=list(lost.values()) or [0.0],
        source=HERE,
        checks="promptlib.prefix_tuning.synthesis_results.lost_by_tuning",
        unit="points",
        refuted_if=("<", 25.0),
    )


def start_small(measured: Measured, experiment: str = "eliciting") -> claims.Claim:
    """The smallest initial scale is the safest."""
    gains: dict[int, list[float]] = {}
    for question in done(measured):
        trials = [t for t in measured.of(question) if t.init_std is not None]
        stds = sorted({float(t.init_std) for t in trials if t.init_std is not None})
        if question.experiment != experiment or len(stds) < 2:
            continue
        for seed in best_by_seed(trials):
            mean = {
                std: float(
                    np.mean([t.percent for t in trials if t.seed == seed and t.init_std == std])
                )
                for std in (stds[0], stds[-1])
            }
            gains.setdefault(seed, []).append(mean[stds[0]] - mean[stds[-1]])
    return claims.outcome(
        "prefix-tuning/expressivity-start-small",
        "Of the tasks that a prefix can elicit, the smallest initial scale of the sweep gets more "
        "than the largest by over ten points; accuracy averaged over learning rates, mean over "
        "tasks.",
        values=[float(np.mean(values)) for values in gains.values()] or [0.0],
        source=HERE,
        checks="promptlib.prefix_tuning.synthesis_results.start_small",
        unit="points",
        refuted_if=("<", 10.0),
    )


def planted_is_found(measured: Measured) -> claims.Claim:
    """Where a solution exists for certain, training comes near it."""
    return claims.outcome(
        "prefix-tuning/expressivity-planted-found",
        "A prefix that is trained to answer as a planted one takes away more than four fifths of "
        "the divergence.",
        values=closed(measured.planted),
        source=HERE,
        checks="promptlib.prefix_tuning.planted.plant",
        unit="% of the divergence",
        refuted_if=("<", 80.0),
    )


def rates_are_high(measured: Measured) -> claims.Claim:
    """Prefixes want higher learning rates than weights."""
    return claims.outcome(
        "prefix-tuning/expressivity-rates",
        "The best learning rate of a prefix is more than ten times that of fine-tuning the same "
        "model on the same task; the ratio, geometric mean over tasks.",
        values=list(rate_ratios(measured).values()),
        source=HERE,
        checks="promptlib.prefix_tuning.synthesis_results.rate_ratios",
        unit="times",
        refuted_if=("<", 10.0),
    )


MOVES = ("reverse", "rotate")
"""Tasks that copy every digit to another place, which no task of the mixture does."""


def _best_of_all(measured: Measured, tasks: Sequence[str]) -> dict[int, float]:
    """Test accuracy of the best of all prefixes for any of the tasks, by seed."""
    return best_by_seed(
        trial
        for question in measured.questions()
        if question.task in tasks
        for trial in measured.of(question)
    )


def out_of_reach(measured: Measured, tasks: Sequence[str], name: str) -> claims.Claim:
    """No prefix of any chapter does the tasks.

    Parameters
    ----------
    tasks : sequence of str
        At least one, each tried with prefixes.
    name : str
        Of the tasks together, for the sentence.
    """
    return claims.outcome(
        f"prefix-tuning/expressivity-no-prefix-for-{name.replace(' ', '-')}",
        "No prefix of these chapters, whatever its length, parametrisation, rate or model, does "
        f"the {name}; the best of all.",
        values=list(_best_of_all(measured, tasks).values()),
        source=HERE,
        checks="promptlib.prefix_tuning.experiment_training.tune_prefixes",
        unit=UNIT,
        favours="lower",
        refuted_if=(">", 10.0),
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
        f"does each of {' and '.join(tasks)}; the lower of their accuracies.",
        values=list(seeds.values()),
        source=HERE,
        checks="promptlib.prefix_tuning.experiment_training.fine_tune",
        unit=UNIT,
        refuted_if=("<", DOES),
    )

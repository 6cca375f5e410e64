"""What did the runs of the chapter "Eliciting a learned task" measure, and what follows from it?

`collect` reads the runs of a plan. Each claim function takes what was measured and returns the
claim, so that a test can hand in what a wrong implementation measures. Statements about attention
inside the trained models are in `promptlib.prefix_tuning.elicit_statements`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptlib import claims
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.elicit import ARMS, SMALL_INIT_STD, SWEPT, ElicitPlan
from promptlib.prefix_tuning.experiment_results import (
    HERE,
    UNIT,
    Cell,
    Get,
    Metrics,
    accuracy_claim,
    best_cell,
    cells_of,
)
from promptlib.prefix_tuning.experiment_runs import MIXED

PAPER = "Petrov et al. 2024, eliciting a pretrained task"
PUBLISHED_ARM = next(iter(ARMS))
"""No LayerNorm in front of the first attention, one vector for key and value."""
PUBLISHED_OTHER_TASKS = 0.66
"""Highest published accuracy, in percent, of a prefix on a task that is not its own."""
GUESSING_LOSS = math.log(len(MIXED)) / 10
"""Nats a symbol of a model that knows all but the task."""

IN_WORDS = {
    "sort_ascending": "sort ascending",
    "sort_descending": "sort descending",
    "add_one": "add one",
    "add_two": "add two",
}
"""The tasks of the mixture, as the chapter names them."""


@dataclass(frozen=True)
class Measured:
    """The metrics of all runs.

    Attributes
    ----------
    pretrained : mapping of sequences of metrics
        By `promptlib.prefix_tuning.elicit.NORMS`, then seed.
    cells : mapping of mappings of sequences of sequences of cells
        By arm, task, seed; the cells of one sweep last.
    """

    pretrained: Mapping[str, Sequence[Metrics]]
    cells: Mapping[str, Mapping[str, Sequence[Sequence[Cell]]]]

    @property
    def seeds(self) -> range:
        """Numbers of the seeds."""
        return range(len(next(iter(self.pretrained.values()))))

    @property
    def init_stds(self) -> list[float]:
        """Initial scales of the swept tasks, from the smallest."""
        return sorted({_std(cell) for cell in self.cells[PUBLISHED_ARM][SWEPT[0]][0]})

    def best(self, arm: str, task: str, seed: int, init_std: float | None = None) -> Cell:
        """Return the prefix of a seed that does its task best, of all or of one initial scale."""
        cells = self.cells[arm][task][seed]
        return best_cell([c for c in cells if init_std in (None, _std(c))], task)

    def percent(self, arm: str, task: str, init_std: float | None = None) -> list[float]:
        """Return the accuracy of `best` on its own task, in percent, for each seed."""
        return [self.best(arm, task, seed, init_std).percent(task) for seed in self.seeds]

    def matrix(self, arm: str, seed: int) -> list[list[float]]:
        """Return accuracies in percent: a row for the prefix of each task, a column for each."""
        return [[self.best(arm, task, seed).percent(other) for other in MIXED] for task in MIXED]


def _std(cell: Cell) -> float:
    """The initial scale of a prefix, which has one."""
    return float(cell.metrics["init_std"])


def collect(plan: ElicitPlan, get: Get) -> Measured:
    """Read the metrics of all runs of `plan`; `get` is the ``get`` of a run store."""
    return Measured(
        pretrained={
            norm: [get(run).metrics for run in runs] for norm, runs in plan.pretrained.items()
        },
        cells={
            arm: {task: [cells_of(run, get) for run in runs] for task, runs in by_task.items()}
            for arm, by_task in plan.prefixes.items()
        },
    )


def mixture_shares(measured: Measured, norm: str = "without") -> list[list[float]]:
    """Return the accuracies of the pretrained model in percent: by seed, then task."""
    return [
        [100 * metrics["accuracy"][task] for task in MIXED] for metrics in measured.pretrained[norm]
    ]


def mixture_learned(measured: Measured) -> claims.Claim:
    """The pretrained model answers with one of the tasks."""
    return accuracy_claim(
        "eliciting-mixture-learned",
        "Pretrained on the mixture, the model without first LayerNorm does one of the four tasks "
        "on more than half of the inputs; sum of the four accuracies.",
        [sum(shares) for shares in mixture_shares(measured)],
        checks="experiment_training.pretrain",
        refuted_if=("<", 50.0),
        published=sum(published.ELICIT["pretrained"].values()),
        source=PAPER,
    )


def mixture_undecided(measured: Measured) -> claims.Claim:
    """Without a prefix no task prevails."""
    return accuracy_claim(
        "eliciting-mixture-undecided",
        "Without a prefix it does none of them on more than half of the inputs; the highest of "
        "the four accuracies.",
        [max(shares) for shares in mixture_shares(measured)],
        checks="evaluation.sequence_accuracy",
        refuted_if=(">", 50.0),
        favours="lower",
        published=max(published.ELICIT["pretrained"].values()),
        source=PAPER,
    )


def own_task(measured: Measured, task: str) -> claims.Claim:
    """One vector makes the model do a task that it was pretrained on."""
    return accuracy_claim(
        f"eliciting-{task.replace('_', '-')}",
        f"With one prefix vector trained for it, the mixture's model does one task: "
        f"{IN_WORDS[task]}.",
        measured.percent(PUBLISHED_ARM, task),
        checks="experiment_training.tune_prefixes",
        refuted_if=("<", 50.0),
        published=published.ELICIT["prefix"][task],
        source=PAPER,
    )


def steps_until(cell: Cell, steps: int, loss: float = GUESSING_LOSS / 2) -> int | None:
    """Return the first step from which the training loss stays below `loss`, or None.

    The stored curve has a point for each hundredth of the training, the mean over it.

    Parameters
    ----------
    cell : Cell
    steps : int
        Of the whole training.
    loss : float
        Nats a symbol; half of that of guessing the task by default.
    """
    curve = cell.metrics["curve"]
    above = [place for place, value in enumerate(curve) if value >= loss]
    first = above[-1] + 1 if above else 0
    return None if first == len(curve) else round((first + 1) * steps / len(curve))


def leaks(measured: Measured, arm: str) -> list[float]:
    """Return for each seed the highest accuracy of a prefix on a task not its own, in percent."""
    return [
        max(
            share
            for row, shares in enumerate(measured.matrix(arm, seed))
            for column, share in enumerate(shares)
            if row != column
        )
        for seed in measured.seeds
    ]


def other_tasks(measured: Measured) -> claims.Claim:
    """The other tasks vanish."""
    return accuracy_claim(
        "eliciting-other-tasks",
        "With the prefix of one task, the model does no other task on more than one input in ten; "
        "the highest of the twelve accuracies.",
        leaks(measured, PUBLISHED_ARM),
        checks="evaluation.sequence_accuracy",
        refuted_if=(">", 10.0),
        favours="lower",
        published=PUBLISHED_OTHER_TASKS,
        source=PAPER,
    )


def differences(measured: Measured, arm: str, other: str) -> list[float]:
    """Return for each seed by how much one arm exceeds another, mean over tasks, in percent.

    The models of two arms may differ, but the data that they learned from do not.
    """
    return [
        sum(
            measured.best(arm, task, seed).percent(task)
            - measured.best(other, task, seed).percent(task)
            for task in MIXED
        )
        / len(MIXED)
        for seed in measured.seeds
    ]


def layer_norm_costs(measured: Measured) -> claims.Claim:
    """The LayerNorm stands in the way of one shared vector."""
    return claims.outcome(
        "prefix-tuning/eliciting-layer-norm-costs",
        "One vector for key and value elicits more in the model without first LayerNorm than in "
        "the model with it; difference of the accuracies, mean over the four tasks.",
        values=differences(measured, "without LayerNorm", "with LayerNorm"),
        source=HERE,
        checks="promptlib.prefix_tuning.elicit_results.differences",
        unit=UNIT,
        refuted_if=("<", 0.0),
    )


def free_escapes(measured: Measured) -> claims.Claim:
    """A prefix that passes by the LayerNorm does better in the same model."""
    return claims.outcome(
        "prefix-tuning/eliciting-free-escapes",
        "In the model with first LayerNorm, a key and a value that do not pass through it elicit "
        "more than one vector that does; difference of the accuracies, mean over the four tasks.",
        values=differences(measured, "with LayerNorm, free", "with LayerNorm"),
        source=HERE,
        checks="promptlib.prefix_tuning.elicit_results.differences",
        unit=UNIT,
        refuted_if=("<", 0.0),
    )


def losses_of_scale(measured: Measured, arm: str) -> list[float]:
    """Return for each seed what the largest initial scale loses against the smallest, in percent.

    Mean over `SWEPT`; of each scale the best learning rate counts.
    """
    return [
        sum(
            measured.best(arm, task, seed, SMALL_INIT_STD).percent(task)
            - measured.best(arm, task, seed, measured.init_stds[-1]).percent(task)
            for task in SWEPT
        )
        / len(SWEPT)
        for seed in measured.seeds
    ]


def init_scale_decides(measured: Measured) -> claims.Claim:
    """A prefix that starts large learns less, whatever the learning rate."""
    return claims.outcome(
        "prefix-tuning/eliciting-init-scale",
        "Without first LayerNorm, a prefix that starts at the largest initial scale ends more than "
        "50 % of sequences below one that starts at the smallest, each at its best learning rate; "
        "difference of the accuracies, mean over two tasks.",
        values=losses_of_scale(measured, PUBLISHED_ARM),
        source=HERE,
        checks="promptlib.prefix_tuning.elicit_results.losses_of_scale",
        unit=UNIT,
        refuted_if=("<", 50.0),
    )

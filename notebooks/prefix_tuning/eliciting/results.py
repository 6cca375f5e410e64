"""What did the runs of the chapter "Eliciting a learned task" measure, and what follows from it?

`collect` reads the runs of a plan. Each claim function takes what was measured and returns the
claim, so that a test can hand in what a wrong implementation measures. Statements about attention
inside the trained models are in `claims`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from notebooks.prefix_tuning.eliciting.plan import (
    N_HEAD,
    PUBLISHED_ARM,
    PUBLISHED_WIDTH,
    SMALL_INIT_STD,
    SWEPT,
    ElicitPlan,
)
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import adapting, evaluation, published
from promptlib.prefix_tuning.planning import MIXED, model_of
from promptlib.prefix_tuning.sweeps import (
    HERE,
    UNIT,
    Cell,
    Get,
    Metrics,
    best_cell,
    cells_of,
    differs,
)

PAPER = "Petrov et al. 2024, eliciting a pretrained task"
LIBRARY = "promptlib.prefix_tuning"
PUBLISHED_MODEL = model_of(1, N_HEAD, PUBLISHED_WIDTH, first_layer_norm=False)
PUBLISHED_OTHER_TASKS = 0.66
"""Highest published accuracy, in percent, of a prefix on a task that is not its own."""
GUESSING = 100 / len(MIXED)
"""Accuracy, in percent, on each task of a model that picks one of them at random and does it."""
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
        By `plan.NORMS`, then seed.
    cells : mapping of mappings of sequences of sequences of cells
        By arm, task, seed; the cells of one sweep last.
    trials : int
        Test sequences behind each accuracy.
    differs : tuple of str
        How size and setting of the published arm differ from the published ones.
    """

    pretrained: Mapping[str, Sequence[Metrics]]
    cells: Mapping[str, Mapping[str, Sequence[Sequence[Cell]]]]
    trials: int
    differs: tuple[str, ...]

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
    base = plan.pretrained["without"][0].config
    return Measured(
        pretrained={
            norm: [get(run).metrics for run in runs] for norm, runs in plan.pretrained.items()
        },
        cells={
            arm: {task: [cells_of(run, get) for run in runs] for task, runs in by_task.items()}
            for arm, by_task in plan.prefixes.items()
        },
        trials=base["test_sequences"],
        differs=differs(base["model"], PUBLISHED_MODEL),
    )


def rates_chosen(chosen: Iterable[Cell], rates: Iterable[float]) -> str:
    """Say how often each rate of a sweep was chosen, and that a sweep ends where it was."""
    counts = Counter(cell.learning_rate for cell in chosen)
    listed = sorted({*counts, *rates})
    told = ", ".join(f"{rate:g}: {counts[rate]}" for rate in listed)
    ended = [f"{rate:g}" for rate in dict.fromkeys([listed[0], listed[-1]]) if counts[rate]]
    if ended:
        told += f" (the sweep ends at {' and '.join(ended)}: beyond may be better)"
    return told


def mixture_shares(measured: Measured, norm: str = "without") -> list[list[float]]:
    """Return the accuracies of the pretrained model in percent: by seed, then task."""
    return [
        [100 * metrics["accuracy"][task] for task in MIXED] for metrics in measured.pretrained[norm]
    ]


def mixture_learned(measured: Measured) -> claims.Claim:
    """The pretrained model answers with one of the tasks."""
    return claims.outcome(
        "prefix-tuning/eliciting-mixture-learned",
        "Pretrained on the mixture, the model without first LayerNorm does one of the four tasks "
        "on more than half of the inputs: the sum of the four accuracies is above 50 %.",
        values=[sum(shares) for shares in mixture_shares(measured)],
        limit=50.0,
        side="above",
        unit=UNIT,
        source=PAPER,
        checks=adapting.pretrain,
        resolution=100 / measured.trials,
        published=claims.Published(
            sum(published.ELICIT["pretrained"].values()), "higher", differs=measured.differs
        ),
    )


def mixture_undecided(measured: Measured) -> claims.Claim:
    """Without a prefix no task prevails."""
    return claims.outcome(
        "prefix-tuning/eliciting-mixture-undecided",
        "Without a prefix that model does none of the tasks on more than half of the inputs: the "
        "highest of the four accuracies is below 50 %.",
        values=[max(shares) for shares in mixture_shares(measured)],
        limit=50.0,
        side="below",
        unit=UNIT,
        source=PAPER,
        checks=evaluation.sequence_accuracy,
        trials=measured.trials,
        published=claims.Published(
            max(published.ELICIT["pretrained"].values()), "lower", differs=measured.differs
        ),
        requires=[mixture_learned(measured)],
    )


def own_task(measured: Measured, task: str) -> claims.Claim:
    """One vector makes the model do a task that it was pretrained on."""
    return claims.outcome(
        f"prefix-tuning/eliciting-{task.replace('_', '-')}",
        f"With one prefix vector trained for it, the mixture's model does {IN_WORDS[task]} more "
        "often than one that picks among the four tasks at random could: on more than 25 % of the "
        "sequences.",
        values=measured.percent(PUBLISHED_ARM, task),
        limit=GUESSING,
        side="above",
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=measured.trials,
        published=claims.Published(
            published.ELICIT["prefix"][task], "higher", differs=measured.differs
        ),
        requires=[mixture_learned(measured)],
        note="The limit was 50 % until results of small models had been seen.",
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
    return claims.outcome(
        "prefix-tuning/eliciting-other-tasks",
        "With the prefix of one task, the model does every other one less often than by picking "
        "among the four at random: the highest of the twelve accuracies is below 25 %.",
        values=leaks(measured, PUBLISHED_ARM),
        limit=GUESSING,
        side="below",
        unit=UNIT,
        source=PAPER,
        checks=evaluation.sequence_accuracy,
        trials=measured.trials,
        published=claims.Published(PUBLISHED_OTHER_TASKS, "lower", differs=measured.differs),
        requires=[mixture_learned(measured)],
        note="The limit was 5 %, then 10 %, until results of small models had been seen.",
    )


def differences(measured: Measured, arm: str, other: str) -> list[float]:
    """Return for each seed by how much one arm exceeds another, mean over tasks, in points.

    Only prefixes that start at `SMALL_INIT_STD` count: at that scale the sweeps of all arms are
    equal. The models of two arms may differ, but the data that they learned from do not.
    """
    ours, theirs = (
        [measured.percent(name, task, SMALL_INIT_STD) for task in MIXED] for name in (arm, other)
    )
    return [
        sum(here[seed] - there[seed] for here, there in zip(ours, theirs, strict=True)) / len(MIXED)
        for seed in measured.seeds
    ]


def free_escapes(measured: Measured) -> claims.Claim:
    """A prefix that passes by the LayerNorm does better in the same model."""
    return claims.outcome(
        "prefix-tuning/eliciting-free-escapes",
        "In the model with first LayerNorm, a key and a value that do not pass through it elicit "
        "more than one vector that does: the difference of the accuracies, mean over the four "
        "tasks, is above 0.",
        values=differences(measured, "with LayerNorm, free", "with LayerNorm"),
        limit=0.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=differences,
        resolution=100 / measured.trials / len(MIXED),
    )


def free_elicits(measured: Measured) -> claims.Claim:
    """Control: free prefixes do what they are trained for."""
    by_task = [measured.percent("with LayerNorm, free", task) for task in MIXED]
    return claims.outcome(
        "prefix-tuning/eliciting-free-elicits",
        "Control: in the model with first LayerNorm, a free key and value make the model do their "
        "task on more than half of the sequences, mean over the four tasks.",
        values=[sum(values) / len(MIXED) for values in zip(*by_task, strict=True)],
        limit=50.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=measured.trials,
    )


def losses_of_scale(measured: Measured, arm: str) -> list[float]:
    """Return for each seed what the largest initial scale loses against the smallest, in points.

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
        "Without first LayerNorm, a prefix that starts at the largest initial scale ends below one "
        "that starts at the smallest, each at its best learning rate: the difference of the "
        "accuracies, mean over two tasks, is above 0.",
        values=losses_of_scale(measured, PUBLISHED_ARM),
        limit=0.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=losses_of_scale,
        resolution=100 / measured.trials / len(SWEPT),
        note="The limit was 50 points until a third learning rate, which rescues some large "
        "starts, had been tried.",
    )


def claims_of(measured: Measured) -> dict[str, claims.Claim]:
    """Judge all accuracies; by the end of the claim's name.

    Claims on the inside of the models need their weights: see
    `claims`.
    """
    found = [
        mixture_learned(measured),
        mixture_undecided(measured),
        *(own_task(measured, task) for task in MIXED),
        other_tasks(measured),
        free_elicits(measured),
        free_escapes(measured),
        init_scale_decides(measured),
    ]
    return {claim.id.removeprefix("prefix-tuning/eliciting-"): claim for claim in found}


def claims_at_published_size(plan: ElicitPlan, get: Get) -> list[claims.Claim]:
    """Judge what an archive of metrics holds, as the page judges its own runs.

    Parameters
    ----------
    plan : ElicitPlan
        Of the profile that the archive was made with.
    get : callable
        Returns the result of a run, perhaps without tensors.
    """
    return list(claims_of(collect(plan, get)).values())


check_public(__name__)

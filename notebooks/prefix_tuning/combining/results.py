"""What did the runs of the chapter "Combining, not inventing?" measure, and what follows from it?

`collect` reads the runs of a plan. Each claim function takes what was measured and returns the
claim, so that a test can hand in what a wrong implementation measures. Claims about what models
carry inside are in `claims`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from notebooks.prefix_tuning.combining import yardsticks as combine_easy
from notebooks.prefix_tuning.combining.plan import (
    COMPOSITIONS,
    INVENTIONS,
    N_HEAD,
    NEW,
    CombinePlan,
    Sweep,
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
    percent,
)
from promptlib.runs import Run

PAPER = "Petrov et al. 2024, combining"
LIBRARY = "promptlib.prefix_tuning"
PUBLISHED_MODEL = model_of(4, N_HEAD, 256)
PUBLISHED_COMPOSITION, PUBLISHED_INVENTION = COMPOSITIONS[0], INVENTIONS[0]
AFTER_LOOKING = (
    "The gain took the place of the accuracy, and 0 that of a higher limit, after results of small "
    "models had been seen; what other seeds say is on the page on reproducibility."
)
"""Note of the claims whose form the first results of this book suggested."""
MOVING = ("reverse", "rotate")
"""Tasks that bring each digit to another place, whatever the digits are."""

NAMES = {
    "sort_ascending": "ascending",
    "sort_descending": "descending",
    "add_one": "add 1",
    "add_two": "add 2",
    "ascending_add_one": "ascending, add 1",
    "descending_add_one": "descending, add 1",
    "add_three": "add 3",
    "double_histogram": "double histogram",
    "ascending_histogram": "ascending histogram",
    "reverse": "reverse",
    "rotate": "rotate",
    "running_maximum": "running maximum",
}
"""How the tasks are called in figures and sentences."""


@dataclass(frozen=True)
class Measured:
    """The metrics of all runs, of each sweep the best cell; sequences have an entry for each seed.

    Attributes
    ----------
    pretrained : sequence of metrics
        Of the model.
    published : mapping of sequences of Cell
        By task that was published; prefixes in the published parametrisation.
    prefixes : mapping of sequences of Cell
        By new task; free prefixes.
    finetuned : mapping of sequences of Cell
        By new task that has this control.
    standing_loss : mapping of float
        By new task: loss of the best table without attention, nats a symbol.
    trials : int
        Test sequences behind each accuracy.
    differs : tuple of str
        How size and setting of `published` differ from the published ones.
    """

    pretrained: Sequence[Metrics]
    published: Mapping[str, Sequence[Cell]]
    prefixes: Mapping[str, Sequence[Cell]]
    finetuned: Mapping[str, Sequence[Cell]]
    standing_loss: Mapping[str, float]
    trials: int
    differs: tuple[str, ...]


def collect(plan: CombinePlan, get: Get) -> Measured:
    """Read the metrics of all runs of `plan`; `get` is the ``get`` of a run store."""

    def best(by_task: Mapping[str, Sequence[Run | Sweep]]) -> dict[str, list[Cell]]:
        return {
            task: [best_cell(cells_of(sweep, get), task) for sweep in seeds]
            for task, seeds in by_task.items()
        }

    base = plan.pretrained[0].config
    return Measured(
        pretrained=[get(run).metrics for run in plan.pretrained],
        published=best(plan.published),
        prefixes=best(plan.prefixes),
        finetuned=best(plan.finetuned),
        standing_loss={task: combine_easy.standing_loss(task) for task in NEW},
        trials=base["test_sequences"],
        differs=differs(base["model"], PUBLISHED_MODEL),
    )


def accuracies(cells: Mapping[str, Sequence[Cell]], task: str) -> list[float]:
    """Return the accuracy of each seed on a task, in percent."""
    return [cell.percent(task) for cell in cells[task]]


def gain(loss: float, standing: float) -> float:
    """Return the part of the loss without attention that is removed, at most 1."""
    return 1 - loss / standing


def prefix_gains(measured: Measured) -> dict[str, list[float]]:
    """Return the gain of the best prefix by new task and seed."""
    return {
        task: [gain(cell.loss(task), measured.standing_loss[task]) for cell in cells]
        for task, cells in measured.prefixes.items()
    }


def mixture_learned(measured: Measured) -> claims.Claim:
    """Control: the pretrained model answers with one of the tasks."""
    return claims.outcome(
        "prefix-tuning/combining-mixture-learned",
        "Control: pretrained on the mixture, the model does one of the four tasks on more than "
        "half of the inputs: the sum of the four accuracies is above 50 %.",
        values=[
            sum(100 * metrics["accuracy"][task] for task in MIXED)
            for metrics in measured.pretrained
        ],
        limit=50.0,
        side="above",
        unit=UNIT,
        source=PAPER,
        checks=adapting.pretrain,
        resolution=100 / measured.trials,
        published=claims.Published(
            sum(published.COMBINE["pretrained"][task] for task in MIXED),
            "higher",
            differs=measured.differs,
        ),
    )


def known_task(measured: Measured, task: str) -> claims.Claim:
    """Prefixes elicit a task of the mixture."""
    return claims.outcome(
        f"prefix-tuning/combining-known-{task.replace('_', '-')}",
        f"A prefix makes the model do {NAMES[task]}, one of the four tasks of its mixture, on more "
        "than half of the sequences.",
        values=accuracies(measured.published, task),
        limit=50.0,
        side="above",
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=measured.trials,
        published=claims.Published(
            published.COMBINE["prefix"][task], "higher", differs=measured.differs
        ),
        requires=[mixture_learned(measured)],
    )


def pretrained_composition(measured: Measured) -> claims.Claim:
    """The composition is new."""
    return claims.outcome(
        "prefix-tuning/combining-pretrained-composition",
        "Pretrained on the mixture, the model by itself sorts upwards and adds one on less than "
        "1 % of the sequences.",
        values=percent(measured.pretrained, PUBLISHED_COMPOSITION),
        limit=1.0,
        side="below",
        unit=UNIT,
        source=PAPER,
        checks=evaluation.sequence_accuracy,
        trials=measured.trials,
        published=claims.Published(
            published.COMBINE["pretrained"][PUBLISHED_COMPOSITION],
            "lower",
            differs=measured.differs,
        ),
        requires=[mixture_learned(measured)],
    )


def published_composition(measured: Measured) -> claims.Claim:
    """The published composition."""
    return claims.outcome(
        "prefix-tuning/combining-ascending-add-one",
        "With a prefix in the published parametrisation the model sorts upwards and adds one on "
        "more than 1 % of the sequences.",
        values=accuracies(measured.published, PUBLISHED_COMPOSITION),
        limit=1.0,
        side="above",
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=measured.trials,
        published=claims.Published(
            published.COMBINE["prefix"][PUBLISHED_COMPOSITION], "higher", differs=measured.differs
        ),
        requires=[pretrained_composition(measured)],
        note="The limit is the one that the model without a prefix is to stay below. It asks "
        "whether the prefix does anything, not whether it does the task well.",
    )


def finetuning_counts(measured: Measured) -> claims.Claim:
    """Control: the same model can learn to count in the same time."""
    return claims.outcome(
        "prefix-tuning/combining-fine-tuning-counts",
        "Control: with as many steps, fine-tuning the same model learns the double histogram on "
        "more than half of the sequences.",
        values=accuracies(measured.finetuned, PUBLISHED_INVENTION),
        limit=50.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=measured.trials,
    )


def published_invention(measured: Measured) -> claims.Claim:
    """The published failure."""
    return claims.outcome(
        "prefix-tuning/combining-double-histogram",
        "With a prefix in the published parametrisation the model counts how often each digit "
        "occurs on less than 5 % of the sequences.",
        values=accuracies(measured.published, PUBLISHED_INVENTION),
        limit=5.0,
        side="below",
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=measured.trials,
        published=claims.Published(
            published.COMBINE["prefix"][PUBLISHED_INVENTION], "lower", differs=measured.differs
        ),
        requires=[finetuning_counts(measured)],
    )


def running_maximum(measured: Measured) -> claims.Claim:
    """A prefix does a task of the second list."""
    return claims.outcome(
        "prefix-tuning/combining-running-maximum",
        "With a free prefix the model writes the running maximum, which no chain of its four tasks "
        "makes, better than any model without attention could: the gain is above 0.",
        values=prefix_gains(measured)["running_maximum"],
        limit=0.0,
        side="above",
        unit="dimensionless",
        source=HERE,
        checks=adapting.tune_prefixes,
        note=AFTER_LOOKING,
    )


def lists_overlap(measured: Measured) -> claims.Claim:
    """The two lists do not say what a prefix can do."""
    gains = prefix_gains(measured)
    pairs = zip(gains["running_maximum"], gains["descending_add_one"], strict=True)
    return claims.outcome(
        "prefix-tuning/combining-lists-overlap",
        "With as many steps a free prefix gets further with the running maximum, no composition, "
        "than with sorting downwards and adding one, a composition of two of the four tasks: the "
        "difference of the gains is above 0.",
        values=[one - other for one, other in pairs],
        limit=0.0,
        side="above",
        unit="dimensionless",
        source=HERE,
        checks=adapting.tune_prefixes,
        note=AFTER_LOOKING,
    )


def moving_fails(measured: Measured) -> claims.Claim:
    """Prefixes cannot move digits to other places."""
    best = zip(*(accuracies(measured.prefixes, task) for task in MOVING), strict=True)
    return claims.outcome(
        "prefix-tuning/combining-moving-fails",
        "With a free prefix the model reverses its input, or rotates it by one, on less than 1 % "
        "of the sequences; the better of the two.",
        values=[max(pair) for pair in best],
        limit=1.0,
        side="below",
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=measured.trials,
        requires=[finetuning_moves(measured)],
    )


def finetuning_moves(measured: Measured) -> claims.Claim:
    """The same model can learn them in the same time."""
    worst = zip(*(accuracies(measured.finetuned, task) for task in MOVING), strict=True)
    return claims.outcome(
        "prefix-tuning/combining-fine-tuning-moves",
        "Control: with as many steps, fine-tuning the same model learns to reverse and to rotate "
        "on more than half of the sequences; the worse of the two.",
        values=[min(pair) for pair in worst],
        limit=50.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=measured.trials,
    )


def add_three(measured: Measured) -> claims.Claim:
    """A composition that a prefix makes the model do."""
    return claims.outcome(
        "prefix-tuning/combining-add-three",
        "With a free prefix the model adds three, which is add one after add two, better than any "
        "model without attention could: the gain is above 0.",
        values=prefix_gains(measured)["add_three"],
        limit=0.0,
        side="above",
        unit="dimensionless",
        source=HERE,
        checks=adapting.tune_prefixes,
        note=AFTER_LOOKING,
    )


def claims_of(measured: Measured) -> dict[str, claims.Claim]:
    """Judge everything that needs no weights; by the end of the claim's name.

    Claims on what models carry inside are in `claims`.
    """
    found = [
        mixture_learned(measured),
        *(known_task(measured, task) for task in MIXED),
        pretrained_composition(measured),
        published_composition(measured),
        finetuning_counts(measured),
        published_invention(measured),
        running_maximum(measured),
        lists_overlap(measured),
        finetuning_moves(measured),
        moving_fails(measured),
        add_three(measured),
    ]
    return {claim.id.removeprefix("prefix-tuning/combining-"): claim for claim in found}


def claims_at_published_size(plan: CombinePlan, get: Get) -> list[claims.Claim]:
    """Judge what an archive of metrics holds, as the page judges its own runs.

    Parameters
    ----------
    plan : CombinePlan
        Of the profile that the archive was made with.
    get : callable
        Returns the result of a run, perhaps without tensors.
    """
    return list(claims_of(collect(plan, get)).values())


check_public(__name__)

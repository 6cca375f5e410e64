"""What did the runs of the chapter "Combining, not inventing?" measure, and what follows from it?

`collect` reads the runs of a plan. Each claim function takes what was measured and returns the
claim, so that a test can hand in what a wrong implementation measures. Claims about what models
carry inside are in `promptlib.prefix_tuning.combine_reading`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptlib import claims
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.combine import COMPOSITIONS, INVENTIONS, CombinePlan, Sweep
from promptlib.prefix_tuning.experiment_results import (
    HERE,
    Cell,
    Get,
    Metrics,
    accuracy_claim,
    best_cell,
    cells_of,
    percent,
)

PAPER = "Petrov et al. 2024, combining"
PUBLISHED_COMPOSITION, PUBLISHED_INVENTION = COMPOSITIONS[0], INVENTIONS[0]
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
        Of the model of the experiment.
    prefixes, finetuned : mappings of sequences of Cell
        By task.
    lengths, depths : mappings of mappings of sequences of Cell
        By length or depth, then task.
    """

    pretrained: Sequence[Metrics]
    prefixes: Mapping[str, Sequence[Cell]]
    finetuned: Mapping[str, Sequence[Cell]]
    lengths: Mapping[int, Mapping[str, Sequence[Cell]]]
    depths: Mapping[int, Mapping[str, Sequence[Cell]]]


def collect(plan: CombinePlan, get: Get) -> Measured:
    """Read the metrics of all runs of `plan`; `get` is the ``get`` of a run store."""

    def best(by_task: Mapping[str, Sequence[Sweep]]) -> dict[str, list[Cell]]:
        return {
            task: [best_cell(cells_of(sweep, get), task) for sweep in seeds]
            for task, seeds in by_task.items()
        }

    return Measured(
        pretrained=[get(run).metrics for run in plan.pretrained[plan.depth]],
        prefixes=best(plan.prefixes),
        finetuned=best(plan.finetuned),
        lengths={length: best(by_task) for length, by_task in sorted(plan.lengths.items())},
        depths={depth: best(by_task) for depth, by_task in sorted(plan.depths.items())},
    )


def accuracies(cells: Mapping[str, Sequence[Cell]], task: str) -> list[float]:
    """Return the accuracy of each seed on a task, in percent."""
    return [cell.percent(task) for cell in cells[task]]


def pretrained_composition(measured: Measured) -> claims.Claim:
    """The composition is new."""
    return accuracy_claim(
        "combining-pretrained-composition",
        "Pretrained on the mixture, the model by itself never sorts and adds one.",
        percent(measured.pretrained, PUBLISHED_COMPOSITION),
        checks="evaluation.sequence_accuracy",
        refuted_if=(">", 1.0),
        favours="lower",
        published=published.COMBINE["pretrained"][PUBLISHED_COMPOSITION],
        source=PAPER,
    )


def known_task(measured: Measured, task: str) -> claims.Claim:
    """Prefixes elicit a task of the mixture."""
    return accuracy_claim(
        f"combining-known-{task.replace('_', '-')}",
        f"A prefix makes the model do {NAMES[task]}, one of the four tasks of its mixture.",
        accuracies(measured.prefixes, task),
        checks="experiment_training.tune_prefixes",
        refuted_if=("<", 50.0),
        published=published.COMBINE["prefix"][task],
        source=PAPER,
    )


def published_composition(measured: Measured) -> claims.Claim:
    """The published composition."""
    return accuracy_claim(
        "combining-ascending-add-one",
        "With a prefix the model sorts and adds one in more than one sequence of a hundred.",
        accuracies(measured.prefixes, PUBLISHED_COMPOSITION),
        checks="experiment_training.tune_prefixes",
        refuted_if=("<", 1.0),
        published=published.COMBINE["prefix"][PUBLISHED_COMPOSITION],
        source=PAPER,
    )


def published_invention(measured: Measured) -> claims.Claim:
    """The published failure."""
    return accuracy_claim(
        "combining-double-histogram",
        "No prefix of the sweep makes the model count how often each digit occurs.",
        accuracies(measured.prefixes, PUBLISHED_INVENTION),
        checks="experiment_training.tune_prefixes",
        refuted_if=(">", 5.0),
        favours="lower",
        published=published.COMBINE["prefix"][PUBLISHED_INVENTION],
        source=PAPER,
    )


def running_maximum(measured: Measured) -> claims.Claim:
    """A prefix does a task of the second list."""
    return accuracy_claim(
        "combining-running-maximum",
        "A prefix makes the model write the running maximum, which no chain of its four tasks "
        "makes.",
        accuracies(measured.prefixes, "running_maximum"),
        checks="experiment_training.tune_prefixes",
        refuted_if=("<", 50.0),
    )


def lists_overlap(measured: Measured) -> claims.Claim:
    """The two lists do not say what a prefix can do."""
    pairs = zip(
        accuracies(measured.prefixes, "running_maximum"),
        accuracies(measured.prefixes, PUBLISHED_COMPOSITION),
        strict=True,
    )
    return accuracy_claim(
        "combining-lists-overlap",
        "With as many steps a prefix gets further with the running maximum, no composition, than "
        "with sorting and adding one, the published composition; the difference.",
        [one - other for one, other in pairs],
        checks="experiment_training.tune_prefixes",
        refuted_if=("<", 0.0),
    )


def moving_fails(measured: Measured) -> claims.Claim:
    """Prefixes cannot move digits to other places."""
    best = zip(*(accuracies(measured.prefixes, task) for task in MOVING), strict=True)
    return accuracy_claim(
        "combining-moving-fails",
        "No prefix of the sweep makes the model reverse its input or rotate it by one; the better "
        "of the two.",
        [max(pair) for pair in best],
        checks="experiment_training.tune_prefixes",
        refuted_if=(">", 1.0),
        favours="lower",
    )


def finetuning_moves(measured: Measured) -> claims.Claim:
    """The same model can learn them in the same time."""
    worst = zip(*(accuracies(measured.finetuned, task) for task in MOVING), strict=True)
    return accuracy_claim(
        "combining-fine-tuning-moves",
        "Control: with as many steps, fine-tuning the same model learns to reverse and to rotate; "
        "the worse of the two.",
        [min(pair) for pair in worst],
        checks="experiment_training.fine_tune",
        refuted_if=("<", 50.0),
    )


def length_does_not_count(measured: Measured) -> claims.Claim:
    """Longer prefixes do not count either."""
    tried = [measured.prefixes, *measured.lengths.values()]
    swept = zip(*(by_task[PUBLISHED_INVENTION] for by_task in tried), strict=True)
    return accuracy_claim(
        "combining-length",
        "Of all lengths tried, no prefix makes the model count; the best of all.",
        [best_cell(cells, PUBLISHED_INVENTION).percent(PUBLISHED_INVENTION) for cells in swept],
        checks="experiment_training.tune_prefixes",
        refuted_if=(">", 5.0),
        favours="lower",
        source=HERE,
    )

"""What does a prefix gain on a new task, and what did the model carry before it was trained?

The *gain* of a predictor on a task is the part of the loss without attention that it removes: 0 for
what a table of place and token could say (`yardsticks`), 1 for a perfect answer, below 0 for
something worse than the table. The gain of a probe of the pretrained model says what could be read
there before any training; the gain of a prefix, what training got.
"""

from __future__ import annotations

from collections.abc import Sequence

from notebooks.prefix_tuning.combining.inside import Evidence
from notebooks.prefix_tuning.combining.plan import NEW
from notebooks.prefix_tuning.combining.probes import Probed, rank_correlation
from notebooks.prefix_tuning.combining.yardsticks import standing_loss
from promptlib.prefix_tuning.trials import Trials

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


def gain(loss: float, task: str) -> float:
    """The part of the loss without attention that is removed, at most 1."""
    return 1 - loss / standing_loss(task)


def prefix_gains(trials: Trials) -> dict[str, list[float]]:
    """The gain of the best free prefix by new task and seed."""
    return {
        task: [gain(best.loss(), task) for best in prefixes.best()]
        for task, prefixes in trials.where(method="free prefix").by("task").items()
    }


def best_probe(levels: Sequence[Probed]) -> Probed:
    """The probe with the lowest loss on the sequences that are for choosing."""
    return min(levels, key=lambda probed: probed.choice_loss)


def probe_gains(evidence: Evidence) -> dict[str, list[float]]:
    """The gain of the best probe by new task and seed."""
    return {
        task: [gain(best_probe(levels).loss, task) for levels in seeds]
        for task, seeds in evidence.probes.items()
    }


def correlations(evidence: Evidence) -> list[float]:
    """Rank correlation over tasks of what probes and prefixes gain, for each seed."""
    probes, prefixes = probe_gains(evidence), prefix_gains(evidence.trials)
    return [
        rank_correlation(
            [probes[task][seed] for task in NEW], [prefixes[task][seed] for task in NEW]
        )
        for seed in range(len(probes[NEW[0]]))
    ]

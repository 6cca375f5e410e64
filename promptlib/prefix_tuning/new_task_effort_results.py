"""What did all the ways to train a prefix for the new task come to?

`collect` lists the ways of the chapter "A new task", the first sweep included; the best of each way
and the best of all are chosen after the fact, by `experiment_results.best_cell`. Each claim
function takes what was measured and returns the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from promptlib import claims
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.blind import blind_sorting_loss
from promptlib.prefix_tuning.experiment_results import (
    HERE,
    Cell,
    Get,
    accuracy_claim,
    best_cell,
    cells_of,
)
from promptlib.prefix_tuning.experiment_training import load_prefix
from promptlib.prefix_tuning.new_task_effort import ChapterPlan, EffortPlan
from promptlib.prefix_tuning.new_task_results import DESCENDING, PAPER
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.runs import Run


@dataclass(frozen=True)
class Way:
    """One way to try: its prefixes, by seed.

    Attributes
    ----------
    name : str
    length : int
        Vectors of each prefix.
    sweeps : sequence of sequences of Cell
        By seed, then cell.
    """

    name: str
    length: int
    sweeps: Sequence[Sequence[Cell]]

    @property
    def best(self) -> list[Cell]:
        """The cell of each seed that does best at the new task."""
        return [best_cell(cells, DESCENDING) for cells in self.sweeps]

    @property
    def lowest_losses(self) -> list[float]:
        """The lowest test loss of each seed, in nats a symbol."""
        return [min(cell.loss(DESCENDING) for cell in cells) for cells in self.sweeps]

    @property
    def highest_accuracies(self) -> list[float]:
        """The highest accuracy of each seed, in percent of sequences."""
        return [max(cell.percent(DESCENDING) for cell in cells) for cells in self.sweeps]


def collect(plan: ChapterPlan, get: Get) -> list[Way]:
    """Read all trained prefixes of the chapter; `get` is the ``get`` of a run store."""

    def way(name: str, runs: Sequence[Run]) -> Way:
        return Way(name, runs[0].config["length"], [cells_of(run, get) for run in runs])

    effort: EffortPlan = plan.effort
    one_vector = {**plan.experiment.prefixes, **effort.parametrisations}
    restarts = len(effort.restarts[0].config["cells"])
    patience = effort.longer[0].config["steps"] // effort.restarts[0].config["steps"]
    return [
        *(way(name, runs) for name, runs in one_vector.items()),
        way(f"free, {restarts} starts", effort.restarts),
        way(f"free, {patience} × steps", effort.longer),
        *(
            way(f"{name}, {length} vectors", runs)
            for (name, length), runs in effort.lengths.items()
        ),
    ]


def best_of_all(ways: Sequence[Way]) -> list[tuple[str, Cell]]:
    """Return the best prefix of each seed by any way, with the name of the way."""
    best = []
    for seed in range(len(ways[0].sweeps)):
        names = {id(cell): way.name for way in ways for cell in way.sweeps[seed]}
        cell = best_cell([cell for way in ways for cell in way.sweeps[seed]], DESCENDING)
        best.append((names[id(cell)], cell))
    return best


def prefix_of(cell: Cell, get: Get) -> Prefix:
    """Return the trained prefix of a cell."""
    return load_prefix(cell.run.config, get(cell.run), cell.index)


def counts(ways: Sequence[Way]) -> list[tuple[str, int, int, int, int]]:
    """Return name, length, numbers learned, steps and prefixes trained of each way."""
    rows = []
    for way in ways:
        first = way.sweeps[0][0]
        numbers = int(first.metrics["parameters"])
        trained = sum(len(cells) for cells in way.sweeps)
        rows.append((way.name, way.length, numbers, int(first.run.config["steps"]), trained))
    return rows


def prefix_descending(ways: Sequence[Way]) -> claims.Claim:
    """One vector does not learn the new task, however it is trained."""
    single = _one_vector(ways)
    trained = sum(row[-1] for row in counts(single))
    return accuracy_claim(
        "new-task-prefix-descending",
        f"None of the {trained} prefixes of one vector makes the pretrained model sort descending, "
        "whichever parametrisation, learning rate, initial scale and start, with as many steps as "
        "fine-tuning had or several times as many; for each seed the best is counted.",
        [cell.percent(DESCENDING) for _, cell in best_of_all(single)],
        checks="experiment_training.tune_prefixes",
        refuted_if=(">", 1.0),
        favours="lower",
        published=published.NEW_TASK["prefix_descending"],
        source=PAPER,
    )


def longer_descending(ways: Sequence[Way]) -> claims.Claim:
    """Several vectors do not learn it as fine-tuning does."""
    return accuracy_claim(
        "new-task-longer-descending",
        "The best of the longer prefixes, too, leaves most sequences wrong, which fine-tuning with "
        "as many steps does not.",
        [cell.percent(DESCENDING) for _, cell in best_of_all(_longer(ways))],
        checks="experiment_training.tune_prefixes",
        refuted_if=(">", 50.0),
        favours="lower",
    )


def worse_than_blind(
    ways: Sequence[Way], blind: Callable[[], float] = blind_sorting_loss
) -> claims.Claim:
    """However one vector was trained, it does worse than not to look at the input."""
    limit = blind()
    return claims.outcome(
        "prefix-tuning/new-task-worse-than-blind",
        "With the best prefix of one vector, by any way of training it, the loss on descending "
        "stays above that of a predictor that does not look at the input "
        f"({limit:.3f} nats a symbol); the excess.",
        values=[loss - limit for loss in _lowest(_one_vector(ways))],
        source=HERE,
        checks="promptlib.prefix_tuning.blind.blind_sorting_loss",
        unit="nats a symbol",
        refuted_if=("<", 0.0),
    )


def longer_than_blind(
    ways: Sequence[Way], blind: Callable[[], float] = blind_sorting_loss
) -> claims.Claim:
    """Several vectors get below the loss without looking."""
    limit = blind()
    return claims.outcome(
        "prefix-tuning/new-task-longer-than-blind",
        "The best of the longer prefixes gets below the loss of a predictor that does not look at "
        f"the input ({limit:.3f} nats a symbol); the excess, negative if so.",
        values=[loss - limit for loss in _lowest(_longer(ways))],
        source=HERE,
        checks="promptlib.prefix_tuning.blind.blind_sorting_loss",
        unit="nats a symbol",
        favours="lower",
        refuted_if=(">", 0.0),
    )


def _one_vector(ways: Sequence[Way]) -> list[Way]:
    return [way for way in ways if way.length == 1]


def _longer(ways: Sequence[Way]) -> list[Way]:
    return [way for way in ways if way.length > 1]


def _lowest(ways: Sequence[Way]) -> list[float]:
    """Return the lowest loss of each seed by any of the ways."""
    return [min(losses) for losses in zip(*(way.lowest_losses for way in ways), strict=True)]


def table_of_counts(ways: Sequence[Way]) -> str:
    """Return the counts as the lines of a table, for print."""
    rows = counts(ways)
    lines = [f"{'way':24}{'vectors':>8}{'numbers':>9}{'steps':>7}{'trained':>9}"]
    lines += [
        f"{name:24}{length:8}{n:9,}{steps:7,}{many:9}" for name, length, n, steps, many in rows
    ]
    lines.append(f"{'all':24}{'':24}{sum(row[-1] for row in rows):9}")
    return "\n".join(lines)

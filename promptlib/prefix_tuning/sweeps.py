"""What did the runs of the experiments B3 to B6 measure, and which of a sweep counts?

The chapters share this: cells of sweeps, the choice of the best, and claims about accuracies. Each
claim function of a chapter takes what was measured and returns the claim, so that a test can hand
in what a wrong implementation measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.checks import check_public
from promptlib.runs import Result, Run

HERE = "this book"
"""Source of a claim that no paper makes."""
UNIT = "% of sequences"

Metrics = Mapping[str, Any]
"""``accuracy`` (in [0, 1]) and ``loss`` (nats a symbol) by task on the test split, ``curve``, of
what adapts a model ``validation`` with both for its own task, and for cells of a sweep
``learning_rate`` and ``init_std``."""
Get = Callable[[Run], Result]
"""The ``get`` of a run store."""


@dataclass(frozen=True)
class Cell:
    """One setting of a sweep: the run that holds it, its place there, and what it measured."""

    run: Run
    index: int
    metrics: Metrics

    @property
    def learning_rate(self) -> float:
        """The highest of its schedule."""
        return float({**self.run.config, **self.metrics}["learning_rate"])

    @property
    def init_std(self) -> float | None:
        """Standard deviation of what was learned before training; None for fine-tuning."""
        return self.metrics.get("init_std")

    def percent(self, task: str) -> float:
        """Accuracy on a task, in percent of test sequences."""
        return 100 * float(self.metrics["accuracy"][task])

    def loss(self, task: str) -> float:
        """Test loss on a task, in nats a symbol."""
        return float(self.metrics["loss"][task])

    @property
    def validation_accuracy(self) -> float:
        """Accuracy on the validation split of the task that it was trained for, in [0, 1]."""
        return validation_of(self.metrics)["accuracy"]

    @property
    def validation_loss(self) -> float:
        """Loss on the validation split of the task that it was trained for, nats a symbol."""
        return validation_of(self.metrics)["loss"]


def validation_of(metrics: Metrics) -> Mapping[str, float]:
    """Return what was measured on the validation split: ``accuracy`` and ``loss``.

    Raises
    ------
    ValueError
        If nothing was, as for pretraining, which chooses nothing.
    """
    if "validation" not in metrics:
        raise ValueError(
            "nothing was measured on the validation split, so nothing can be chosen; the metrics "
            f"hold {', '.join(metrics)}"
        )
    return metrics["validation"]


def best_first(metrics: Metrics) -> tuple[float, float]:
    """Return a key that sorts the best first: by validation accuracy, then by validation loss."""
    validation = validation_of(metrics)
    return -validation["accuracy"], validation["loss"]


def cells_of(runs: Run | Iterable[Run], get: Get) -> list[Cell]:
    """Return all cells of some runs; a run that is no sweep is one cell."""
    listed = [runs] if isinstance(runs, Run) else list(runs)
    return [
        Cell(run, index, cell)
        for run in listed
        for metrics in [get(run).metrics]
        for index, cell in enumerate(metrics.get("cells", [metrics]))
    ]


def best_cell(cells: Sequence[Cell], task: str) -> Cell:
    """Return the cell with the highest validation accuracy, and of equal ones the lowest loss.

    Settings are chosen on the validation split, results are read on the test split, so the larger
    of two sweeps gains nothing by its size alone.

    Parameters
    ----------
    cells : sequence of Cell
    task : str
        That they were trained for.

    Raises
    ------
    ValueError
        If there are no cells, one was trained for another task, or one has no validation numbers.
    """
    _check_cells(cells)
    for cell in cells:
        trained = cell.run.config.get("task", task)
        if trained != task:
            raise ValueError(f"expected cells trained for {task}, got one for {trained}")
    return min(cells, key=lambda cell: best_first(cell.metrics))


def lowest_loss_cell(cells: Sequence[Cell]) -> Cell:
    """Return the cell with the lowest validation loss, where losses are compared.

    Raises
    ------
    ValueError
        If there are no cells, or one has no validation numbers.
    """
    _check_cells(cells)
    return min(cells, key=lambda cell: cell.validation_loss)


def _check_cells(cells: Sequence[Cell]) -> None:
    if not cells:
        raise ValueError("there is no cell to choose from")


def percent(metrics: Iterable[Metrics], task: str) -> list[float]:
    """Return the accuracy on `task`, in percent, of each entry."""
    return [100 * entry["accuracy"][task] for entry in metrics]


def differs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how a model differs from the published one, such as ``"width 96, not 256"``.

    Length and parametrisation of the prefixes of a published arm are the published ones; numbers of
    steps and learning rates are ours at every size.

    Parameters
    ----------
    ours, theirs : mappings
        Configs of the two models, of `promptlib.prefix_tuning.planning.model_of`.
    """
    words = {"n_layer": "layers", "n_head": "heads", "n_embd": "width"}
    found = [
        f"{word} {ours[name]}, not {theirs[name]}"
        for name, word in words.items()
        if ours[name] != theirs[name]
    ]
    if ours["first_layer_norm"] != theirs["first_layer_norm"]:
        found.append(f"with{'' if ours['first_layer_norm'] else 'out'} the first LayerNorm")
    return tuple(found)


check_public(__name__)

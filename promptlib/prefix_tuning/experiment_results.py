"""What did the runs of the experiments B3 to B6 measure, and which of a sweep counts?

The chapters share this: cells of sweeps, the choice of the best, and claims about accuracies. Each
claim function of a chapter takes what was measured and returns the claim, so that a test can hand
in what a wrong implementation measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from promptlib import claims
from promptlib.runs import Result, Run

HERE = "this book"
"""Source of a claim that no paper makes."""
UNIT = "% of sequences"

Metrics = Mapping[str, Any]
"""``accuracy`` (in [0, 1]) and ``loss`` (nats a symbol) by task, ``curve``, and for cells of a
sweep ``learning_rate`` and ``init_std``."""
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
    """Return the cell with the highest test accuracy on `task`, and of equal ones the lowest loss.

    Chosen after the fact, on the test sequences themselves, for every method alike: no rule of
    choice could have done better. That favours the method with the larger sweep.

    Raises
    ------
    ValueError
        If there are no cells.
    """
    if not cells:
        raise ValueError(f"there is no cell to choose from for {task}")
    return min(cells, key=lambda cell: (-cell.percent(task), cell.loss(task)))


def percent(metrics: Iterable[Metrics], task: str) -> list[float]:
    """Return the accuracy on `task`, in percent, of each entry."""
    return [100 * entry["accuracy"][task] for entry in metrics]


def accuracy_claim(
    id: str,
    sentence: str,
    values: Sequence[float],
    *,
    checks: str,
    refuted_if: tuple[Literal["<", ">"], float],
    favours: Literal["higher", "lower"] = "higher",
    published: float | None = None,
    source: str = HERE,
    tolerance: float = 0.5,
) -> claims.Claim:
    """Return an outcome in percent of sequences, one value for each seed.

    Parameters
    ----------
    id
        Without the wing.
    checks
        Dotted name below ``promptlib.prefix_tuning``.
    tolerance
        Difference from the published value that does not matter, in percent of sequences.
    """
    return claims.outcome(
        f"prefix-tuning/{id}",
        sentence,
        values=values,
        source=source,
        checks=f"promptlib.prefix_tuning.{checks}",
        unit=UNIT,
        published=published,
        tolerance=tolerance,
        favours=favours,
        refuted_if=refuted_if,
    )

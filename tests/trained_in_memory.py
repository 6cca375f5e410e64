"""Training runs without a store: for tests that need the results of a small plan."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from promptlib.runs import Result, Run


def silent(items: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Stand in for the progress bar."""
    return items


class TrainedInMemory:
    """Train runs when they are asked for, each once.

    Attributes
    ----------
    results : dict of Result
        By key, for tests that change what was measured.
    """

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}

    def get(self, run: Run) -> Result:
        """The result of a run and of all that it needs."""
        if run.key not in self.results:
            self.results[run.key] = self.again(run)
        return self.results[run.key]

    def again(self, run: Run) -> Result:
        """Train a run again, under whatever a test has broken; not what it needs."""
        module, _, name = run.train.partition(":")
        needs = [self.get(needed) for needed in run.needs]
        return getattr(importlib.import_module(module), name)(run.config, needs, silent)


def train_nothing(
    learners: Sequence[Any], loss: object, batches: object, recipe: Any, **options: object
) -> torch.Tensor:
    """Stand in for the training loop of `promptlib.prefix_tuning.adapting`; forgets to train."""
    return torch.zeros(recipe.steps, len(learners))

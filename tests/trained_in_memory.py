"""Training runs without a store: for tests that need the results of a small plan."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

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
            module, _, name = run.train.partition(":")
            needs = [self.get(needed) for needed in run.needs]
            function = getattr(importlib.import_module(module), name)
            self.results[run.key] = function(run.config, needs, silent)
        return self.results[run.key]

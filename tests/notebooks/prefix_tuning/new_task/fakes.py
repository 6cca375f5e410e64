"""What the runs of the chapter "A new task" might have measured, for tests of its claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from notebooks.prefix_tuning.new_task.claims import CHAPTER, ROWS
from notebooks.prefix_tuning.new_task.plan import MODEL
from promptlib import claims
from promptlib.prefix_tuning.trials import Metrics, Trial, Trials
from promptlib.runs import Run


def metrics(ascending: float, descending: float, loss: float = 1.0) -> dict[str, Any]:
    """Accuracies in [0, 1]; the loss is that of either task and split."""
    accuracy = {"sort_ascending": ascending, "sort_descending": descending}
    return {
        "accuracy": accuracy,
        "loss": dict.fromkeys(accuracy, loss),
        "validation": {"accuracy": descending, "loss": loss},
        "curve": [3.0, loss],
        "parameters": 96,
    }


EXPECTED: dict[str, tuple[float, float, float]] = {
    "pretrained": (0.9, 0.0, 12.0),
    "finetuned": (0.0, 0.8, 0.1),
    "besides attention": (0.0, 0.6, 0.2),
    "shared": (0.1, 0.0, 4.0),
    "longer": (0.0, 0.03, 0.7),
    "best table": (0.0, 0.2, 0.4),
}
"""With these every claim of the chapter is supported."""


def fake(
    groups: Mapping[str, Sequence[Metrics | Sequence[Metrics]]] | None = None,
) -> Trials:
    """What is `EXPECTED` of each seed, except for some groups, given by seed or seed and cell.

    Names that are no method are ways to train prefixes: of eight vectors if they say "longer".
    """
    given = groups or {}
    seeds = max([len(of_seeds) for of_seeds in given.values()], default=2)
    rows = []
    for name in {**EXPECTED, **given}:
        labels: dict[str, Any] = {"method": name}
        if name not in EXPECTED or name in ("shared", "longer"):
            length = 8 if "longer" in name else 1
            labels = {"method": "prefix", "way": name, "length": length}
        for seed in range(seeds if name not in given else len(given[name])):
            cells: Any = given[name][seed] if name in given else _near(EXPECTED[name], seed)
            run = Run("a:b", {"seed": seed, "task": "sort_descending", **CONFIG})
            for index, cell in enumerate([cells] if isinstance(cells, Mapping) else cells):
                rows.append(Trial(labels, run, index, cell))
    return Trials(tuple(rows))


CONFIG: dict[str, Any] = {
    "model": MODEL,
    "test_sequences": 400,
    "steps": 10,
    "learning_rate": 0.1,
}


def _near(expected: tuple[float, float, float], seed: int) -> dict[str, Any]:
    """Seeds differ by little."""
    ascending, descending, loss = expected
    return metrics(ascending, descending, (1 + 0.01 * seed) * loss)


def judged(
    groups: Mapping[str, Sequence[Metrics | Sequence[Metrics]]] | None = None,
) -> dict[str, claims.Claim]:
    """The claims about what is expected, except for some groups."""
    return claims.check(CHAPTER, ROWS, fake(groups))


def verdicts(**groups: Sequence[Metrics | Sequence[Metrics]]) -> dict[str, str]:
    """As of `judged`; underscores in names stand for spaces."""
    found = judged({name.replace("_", " "): group for name, group in groups.items()})
    return {name: claim.verdict for name, claim in found.items()}

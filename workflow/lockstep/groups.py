"""Which runs of the experiments B3 to B6 can be trained at once, and how much work are they?

Runs with models of one size, as many steps, batches of one size and one kind of learner.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence

from promptlib.checks import check_public
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH
from promptlib.runs import Run
from workflow.lockstep.learners import KINDS, N_TOKENS


def kind_of(run: Run) -> str:
    """The name of the training function."""
    return run.train.partition(":")[2]


def fits(run: Run) -> bool:
    """Whether there is a lockstep for this kind of run: what was published, no other variant."""
    optimiser, gelu = run.config.get("optimiser"), run.config.get("model", {}).get("gelu")
    return kind_of(run) in KINDS and optimiser in (None, "adamw") and gelu in (None, "tanh")


def group_of(run: Run) -> Hashable:
    """What runs of one group have in common; runs with equal values can be trained together."""
    config = run.config
    shared = ("model", "steps", "warmup", "batch_size", "test_sequences")
    return (
        kind_of(run),
        json.dumps([config[name] for name in shared], sort_keys=True),
        config.get("precision", "float32"),
        config.get("checkpoints", 0),
        tuple(config.get("learned", ())),
    )


def groups(runs: Iterable[Run]) -> list[list[Run]]:
    """Sort runs into groups, in the order of the first run of each.

    Raises
    ------
    ValueError
        If there is no lockstep for one of them.
    """
    found: dict[Hashable, list[Run]] = {}
    for run in runs:
        if not fits(run):
            raise ValueError(
                f"no lockstep for {run.name}; there is one for {', '.join(KINDS)}, with optimiser "
                "'adamw' and gelu 'tanh'"
            )
        found.setdefault(group_of(run), []).append(run)
    return list(found.values())


def work_of(runs: Sequence[Run]) -> float:
    """Roughly how many floating-point operations the training of runs takes."""
    total = 0.0
    for run in runs:
        config, model = run.config, run.config["model"]
        weights = 12 * model["n_embd"] ** 2  # of a block
        positions = (model["n_layer"] - 1) * N_TOKENS + SEQUENCE_LENGTH  # the last block needs less
        passes = 3 if "cells" not in config else 2  # frozen weights get no gradient
        sequences = config["steps"] * config["batch_size"] * len(config.get("cells", [0]))
        total += 2.0 * weights * positions * passes * sequences
    return total


check_public(__name__)

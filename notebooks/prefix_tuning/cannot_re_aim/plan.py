"""Which deeper sorter is trained, beside those of one layer that another chapter trains?

A sorter with several layers and heads, and prefixes of several vectors in every layer that were
trained to make it sort downwards. It is small and shortly trained: the theorem does not ask how
good a model is, only that its attention has become uneven.

The plan of the chapter is that of "A new task", whose one-layer sorters it also looks into, and
these runs. This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from notebooks.prefix_tuning.new_task import plan as new_task
from promptlib.checks import check_public
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.trials import Plan, labelled

__all__ = ["chapter_plan", "deep_plan"]

MODEL: dict[str, Any] = {
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 48,
    "vocab_size": 11,
    "block_size": 19,
    "first_layer_norm": True,
}

PREFIX_LENGTH = 5
PREFIX_CELLS = [
    {"learning_rate": 0.03, "init_std": 0.1},
    {"learning_rate": 0.03, "init_std": 1.0},
]
"""Learning rates and initial scales of the prefixes, trained together."""


def deep_plan(deep_steps: int, first_seed: int) -> Plan:
    """Plan the deeper sorter and its prefixes, which get a third as many steps."""
    planning.check_counts(deep_steps=(deep_steps, 10), first_seed=(first_seed, 0))

    pretrained = planning.pretrain(
        MODEL,
        "sort_ascending",
        seed=first_seed,
        steps=deep_steps,
        learning_rate=new_task.WEIGHT_LEARNING_RATE,
        evaluate=new_task.SORTS,
        test_sequences=400,
    )
    prefixes = planning.tune_prefixes(
        pretrained,
        "sort_descending",
        steps=deep_steps // 3,
        length=PREFIX_LENGTH,
        parametrisation="free",
        sweep=PREFIX_CELLS,
    )
    return labelled(pretrained, method="deep pretrained") + labelled(prefixes, method="deep prefix")


def chapter_plan(
    seeds: int,
    first_seed: int,
    pretrain_steps: int,
    adapt_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
    deep_steps: int,
) -> Plan:
    """All runs that the chapter shows; parameters as in `deep_plan` and `new_task.first_sweep`."""
    of_new_task = new_task.first_sweep(
        seeds,
        first_seed,
        pretrain_steps,
        adapt_steps,
        learning_rates,
        init_stds,
        weight_rates,
        test_sequences,
    )
    return of_new_task + deep_plan(deep_steps, first_seed)


check_public(__name__)

"""Which training runs answer the question of the chapter "A new task"?

Experiment B3: a model of one layer, one head and width 96 learns to sort ascending. Then it is to
sort descending: by training all its weights, or by one learned prefix vector, with as many steps.
A third adaptation, of everything but the relative attention, tells what is missing. A control, with
the same code and the same sweep, gives the prefix a task that it can do.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.runs import Run

TRAINING = "promptlib.prefix_tuning.new_task_training"

MODEL: dict[str, Any] = {
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 96,
    "vocab_size": 11,
    "block_size": 19,
    "first_layer_norm": True,
}
"""The published size."""

CONTROL_MODEL: dict[str, Any] = {**MODEL, "n_head": 4, "first_layer_norm": False}
"""The published model of the eliciting experiment, but narrow: width 96 in place of 256."""

WEIGHT_LEARNING_RATE = 3e-3
"""Highest learning rate of everything that trains weights."""

BATCH_SIZE = 64
WARMUP_SHARE = 0.1
"""Part of the steps over which the learning rate rises."""

SORTS = ("sort_ascending", "sort_descending")
MIXED = ("sort_ascending", "sort_descending", "add_one", "add_two")

ALL_WEIGHTS = ("",)
BESIDES_ATTENTION = (
    "attention.value",
    "attention.project",
    "norm_mlp",
    "mlp",
    "norm.weight",
    "norm.bias",
    "head",
)
"""What can change while every position keeps its relative attention over the content."""

PARAMETRISATIONS: dict[str, dict[str, bool]] = {
    "shared": {"layer_norm": True, "separate_values": False},
    "free": {"layer_norm": False, "separate_values": True},
}
"""Two ways to make keys and values of a prefix.

shared: one vector passes through LayerNorm and serves as key and value, as content does.
free: two vectors without LayerNorm, the ``past_key_values`` of common implementations.
"""


@dataclass(frozen=True)
class NewTaskPlan:
    """The runs of the chapter, one of each kind for each seed; iterating yields all of them.

    Attributes
    ----------
    pretrained, finetuned, besides_attention : tuple of Run
        A model each.
    prefixes : dict of tuple of Run
        By parametrisation; each run is a whole sweep.
    control_pretrained, control_prefixes : Run
        One seed.
    """

    pretrained: tuple[Run, ...]
    finetuned: tuple[Run, ...]
    besides_attention: tuple[Run, ...]
    prefixes: dict[str, tuple[Run, ...]]
    control_pretrained: Run
    control_prefixes: Run

    def __iter__(self) -> Iterator[Run]:
        yield from self.pretrained
        yield self.control_pretrained
        for runs in self.prefixes.values():
            yield from runs
        yield self.control_prefixes
        yield from self.finetuned
        yield from self.besides_attention


def plan(
    seeds: int,
    pretrain_steps: int,
    adapt_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    control_steps: int,
    test_sequences: int,
) -> NewTaskPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    pretrain_steps, adapt_steps, control_steps : int
        Training steps of the model, of each way to adapt it (the same for all), and of the
        control's model; at least 10.
    learning_rates, init_stds : sequences of float
        The sweep of the prefixes is over all pairs.
    test_sequences : int
        Sequences that each accuracy is measured on, at least 1.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    for name, count, least in (
        ("seeds", seeds, 1),
        ("pretrain_steps", pretrain_steps, 10),
        ("adapt_steps", adapt_steps, 10),
        ("control_steps", control_steps, 10),
        ("test_sequences", test_sequences, 1),
    ):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")
    for name, numbers in (("learning_rates", learning_rates), ("init_stds", init_stds)):
        if not numbers or not all(number > 0 for number in numbers):
            raise ValueError(f"{name} must be one or more numbers above 0, got {numbers!r}")

    def config(seed: int, steps: int, **more: Any) -> dict[str, Any]:
        return {
            "seed": seed,
            "steps": steps,
            "warmup": int(WARMUP_SHARE * steps),
            "batch_size": BATCH_SIZE,
            "test_sequences": test_sequences,
            **more,
        }

    def sweep(task: str, parametrisation: str, base: Run) -> Run:
        cells = [
            {"learning_rate": rate, "init_std": std} for rate in learning_rates for std in init_stds
        ]
        return Run(
            f"{TRAINING}:tune_prefixes",
            config(
                base.config["seed"],
                adapt_steps,
                model=base.config["model"],
                task=task,
                evaluate=base.config["evaluate"],
                length=1,
                cells=cells,
                **PARAMETRISATIONS[parametrisation],
            ),
            needs=(base,),
        )

    def fine_tune(base: Run, learned: Sequence[str]) -> Run:
        return Run(
            f"{TRAINING}:fine_tune",
            config(
                base.config["seed"],
                adapt_steps,
                model=MODEL,
                task="sort_descending",
                evaluate=list(SORTS),
                learning_rate=WEIGHT_LEARNING_RATE,
                learned=list(learned),
            ),
            needs=(base,),
        )

    def pretrain(seed: int, task: str, model: dict[str, Any], evaluate: Sequence[str]) -> Run:
        return Run(
            f"{TRAINING}:pretrain",
            config(
                seed,
                control_steps if model is CONTROL_MODEL else pretrain_steps,
                model=model,
                task=task,
                evaluate=list(evaluate),
                learning_rate=WEIGHT_LEARNING_RATE,
            ),
        )

    pretrained = tuple(pretrain(seed, "sort_ascending", MODEL, SORTS) for seed in range(seeds))
    control = pretrain(0, "mixture", CONTROL_MODEL, MIXED)
    return NewTaskPlan(
        pretrained=pretrained,
        finetuned=tuple(fine_tune(base, ALL_WEIGHTS) for base in pretrained),
        besides_attention=tuple(fine_tune(base, BESIDES_ATTENTION) for base in pretrained),
        prefixes={
            name: tuple(sweep("sort_descending", name, base) for base in pretrained)
            for name in PARAMETRISATIONS
        },
        control_pretrained=control,
        control_prefixes=sweep("add_one", "shared", control),
    )

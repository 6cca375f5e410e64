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

from promptlib.prefix_tuning import experiment_runs
from promptlib.prefix_tuning.experiment_runs import MIXED
from promptlib.runs import Run

MODEL: dict[str, Any] = experiment_runs.model_of(n_layer=1, n_head=1, n_embd=96)
"""The published size."""

CONTROL_MODEL: dict[str, Any] = {**MODEL, "n_head": 4, "first_layer_norm": False}
"""The published model of the eliciting experiment, but narrow: width 96 in place of 256."""

WEIGHT_LEARNING_RATE = 3e-3
"""Highest learning rate of everything that trains weights."""

SORTS = ("sort_ascending", "sort_descending")

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
    experiment_runs.check_counts(
        seeds=(seeds, 1),
        pretrain_steps=(pretrain_steps, 10),
        adapt_steps=(adapt_steps, 10),
        control_steps=(control_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    experiment_runs.check_positive(learning_rates=learning_rates, init_stds=init_stds)
    cells = experiment_runs.cells(learning_rates, init_stds)

    def sweep(task: str, parametrisation: str, base: Run) -> Run:
        return experiment_runs.tune_prefixes(
            base,
            task,
            steps=adapt_steps,
            length=1,
            parametrisation=parametrisation,
            sweep=cells,
        )

    def fine_tune(base: Run, learned: Sequence[str]) -> Run:
        return experiment_runs.fine_tune(
            base,
            "sort_descending",
            steps=adapt_steps,
            learning_rate=WEIGHT_LEARNING_RATE,
            learned=learned,
        )

    def pretrain(seed: int, task: str, model: dict[str, Any], evaluate: Sequence[str]) -> Run:
        return experiment_runs.pretrain(
            model,
            task,
            seed=seed,
            steps=control_steps if model is CONTROL_MODEL else pretrain_steps,
            learning_rate=WEIGHT_LEARNING_RATE,
            evaluate=evaluate,
            test_sequences=test_sequences,
        )

    pretrained = tuple(pretrain(seed, "sort_ascending", MODEL, SORTS) for seed in range(seeds))
    control = pretrain(0, "mixture", CONTROL_MODEL, MIXED)
    return NewTaskPlan(
        pretrained=pretrained,
        finetuned=tuple(fine_tune(base, ALL_WEIGHTS) for base in pretrained),
        besides_attention=tuple(fine_tune(base, BESIDES_ATTENTION) for base in pretrained),
        prefixes={
            name: tuple(sweep("sort_descending", name, base) for base in pretrained)
            for name in ("shared", "free")
        },
        control_pretrained=control,
        control_prefixes=sweep("add_one", "shared", control),
    )

"""Which training runs answer the question of the chapter "A new task"?

Experiment B3: a model of one layer, one head and width 96 learns to sort ascending. Then it is to
sort descending: by training all its weights, or by one learned prefix vector, with as many steps
and a sweep of as many cells. A third adaptation, of everything but the relative attention, tells
what is missing.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.checks import check_public
from promptlib.prefix_tuning import experiment_runs
from promptlib.runs import Run

MODEL: dict[str, Any] = experiment_runs.model_of(n_layer=1, n_head=1, n_embd=96)
"""The published size."""

WEIGHT_LEARNING_RATE = 3e-3
"""Highest learning rate of pretraining, and of training with the attention frozen."""

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
    """The runs of the chapter for each seed; iterating yields all of them.

    Attributes
    ----------
    pretrained, besides_attention : tuple of Run
        A model each; the second is not tuned, so it can only be better than it is shown.
    finetuned : tuple of tuple of Run
        By seed, then learning rate.
    prefixes : dict of tuple of Run
        By parametrisation; each run is a whole sweep.
    """

    pretrained: tuple[Run, ...]
    finetuned: tuple[tuple[Run, ...], ...]
    besides_attention: tuple[Run, ...]
    prefixes: dict[str, tuple[Run, ...]]

    def __iter__(self) -> Iterator[Run]:
        yield from self.pretrained
        for runs in (*self.prefixes.values(), *self.finetuned, self.besides_attention):
            yield from runs


def plan(
    seeds: int,
    first_seed: int,
    pretrain_steps: int,
    adapt_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
) -> NewTaskPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    pretrain_steps, adapt_steps : int
        Training steps of the model, and of each way to adapt it, the same for all; at least 10.
    learning_rates, init_stds : sequences of float
        The sweep of the prefixes is over all pairs.
    weight_rates : sequence of float
        Learning rates of fine-tuning.
    test_sequences : int
        Sequences that each accuracy is measured on, at least 1.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    experiment_runs.check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        pretrain_steps=(pretrain_steps, 10),
        adapt_steps=(adapt_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    experiment_runs.check_positive(
        learning_rates=learning_rates, init_stds=init_stds, weight_rates=weight_rates
    )
    cells = experiment_runs.cells(learning_rates, init_stds)

    def sweep(parametrisation: str, base: Run) -> Run:
        return experiment_runs.tune_prefixes(
            base,
            "sort_descending",
            steps=adapt_steps,
            length=1,
            parametrisation=parametrisation,
            sweep=cells,
        )

    def fine_tune(base: Run, rate: float, learned: Sequence[str]) -> Run:
        return experiment_runs.fine_tune(
            base, "sort_descending", steps=adapt_steps, learning_rate=rate, learned=learned
        )

    pretrained = tuple(
        experiment_runs.pretrain(
            MODEL,
            "sort_ascending",
            seed=seed,
            steps=pretrain_steps,
            learning_rate=WEIGHT_LEARNING_RATE,
            evaluate=SORTS,
            test_sequences=test_sequences,
        )
        for seed in range(first_seed, first_seed + seeds)
    )
    return NewTaskPlan(
        pretrained=pretrained,
        finetuned=tuple(
            tuple(fine_tune(base, rate, ALL_WEIGHTS) for rate in weight_rates)
            for base in pretrained
        ),
        besides_attention=tuple(
            fine_tune(base, WEIGHT_LEARNING_RATE, BESIDES_ATTENTION) for base in pretrained
        ),
        prefixes={
            name: tuple(sweep(name, base) for base in pretrained) for name in ("shared", "free")
        },
    )


check_public(__name__)

"""Which training runs answer the question of the chapter "Eliciting a learned task"?

Experiment B4: a model of one layer learns a mixture of four tasks that nothing in the input tells
apart. Then one prefix vector for each task is to make it do that task only. Two models are
compared, with and without the LayerNorm in front of the first attention, and the sweep of their
prefixes goes over learning rates, and in the published arm over initial scales.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from promptlib.checks import check_public
from promptlib.prefix_tuning import planning as experiment_runs
from promptlib.prefix_tuning.planning import MIXED, SMALL_BATCH_SIZE
from promptlib.runs import Run

N_HEAD = 4
LENGTH = 1
"""Vectors of a prefix, as published."""

PRETRAIN_LEARNING_RATE = 1e-3
"""Highest learning rate of pretraining at the published width; see `pretrain_rate`."""

PUBLISHED_WIDTH = 256

NORMS = {"without": False, "with": True}
"""Models by the LayerNorm in front of their first attention; the published one is without."""

ARMS = {
    "without LayerNorm": ("without", "shared"),
    "with LayerNorm": ("with", "shared"),
    "with LayerNorm, free": ("with", "free"),
}
"""What is compared: a model (`NORMS`) and a parametrisation of its prefix; the first is published.

A shared vector passes through the model's first LayerNorm if there is one, a free one never does.
"""

PUBLISHED_ARM = next(iter(ARMS))
"""Its prefixes are measured on the other tasks of the mixture, and start at larger scales, too."""

SMALL_INIT_STD = 0.1
"""Of the untrained prefixes of all tasks."""

SWEPT = ("sort_ascending", "add_one")
"""Tasks on which further initial scales are tried, in the published arm."""


@dataclass(frozen=True)
class ElicitPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    pretrained : mapping of tuple of Run
        By `NORMS`; one for each seed.
    prefixes : mapping of mapping of tuple of Run
        By `ARMS` and task, one for each seed. Each run has a cell for each learning rate at
        `SMALL_INIT_STD`, and in the published arm, on the tasks of `SWEPT`, for each further
        initial scale too.
    """

    pretrained: Mapping[str, tuple[Run, ...]]
    prefixes: Mapping[str, Mapping[str, tuple[Run, ...]]]

    def __iter__(self) -> Iterator[Run]:
        for models in self.pretrained.values():
            yield from models
        for by_task in self.prefixes.values():
            for runs in by_task.values():
                yield from runs


def pretrain_rate(width: int) -> float:
    """Return the highest learning rate of pretraining.

    Narrow models learn at higher ones, and on few steps they need them: width 64 learns the mixture
    in 1,500 steps at 8e-3 and only the sorts at 4e-3.
    """
    return PRETRAIN_LEARNING_RATE * (PUBLISHED_WIDTH / width) ** 1.5


def plan(
    seeds: int,
    first_seed: int,
    width: int,
    precision: str,
    pretrain_steps: int,
    prefix_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    test_sequences: int,
) -> ElicitPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    width : int
        Of the models, a multiple of 4; 256 is published.
    precision : str
        Of the matrix products in training: "float32" or "bfloat16".
    pretrain_steps, prefix_steps : int
        Training steps of a model and of a prefix; at least 10.
    learning_rates : sequence of float
        Each prefix is trained with each.
    init_stds : sequence of float
        Further initial scales, beside `SMALL_INIT_STD`, for the tasks of `SWEPT` in the published
        arm.
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
        prefix_steps=(prefix_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    experiment_runs.check_positive(learning_rates=learning_rates, init_stds=init_stds)
    experiment_runs.check_precision(precision)
    experiment_runs.check_model(1, width, N_HEAD)
    pretrained = {
        norm: tuple(
            experiment_runs.pretrain(
                experiment_runs.model_of(1, N_HEAD, width, first_layer_norm),
                "mixture",
                seed=seed,
                steps=pretrain_steps,
                learning_rate=pretrain_rate(width),
                evaluate=MIXED,
                test_sequences=test_sequences,
                precision=precision,
            )
            for seed in range(first_seed, first_seed + seeds)
        )
        for norm, first_layer_norm in NORMS.items()
    }

    def tune(base: Run, task: str, arm: str) -> Run:
        stds = [SMALL_INIT_STD]
        if arm == PUBLISHED_ARM and task in SWEPT:
            stds += [std for std in init_stds if std != SMALL_INIT_STD]
        return experiment_runs.tune_prefixes(
            base,
            task,
            steps=prefix_steps,
            length=LENGTH,
            parametrisation=ARMS[arm][1],
            sweep=experiment_runs.cells(learning_rates, stds),
            batch_size=SMALL_BATCH_SIZE,
            evaluate=list(MIXED) if arm == PUBLISHED_ARM else [task],
        )

    return ElicitPlan(
        pretrained=pretrained,
        prefixes={
            arm: {task: tuple(tune(base, task, arm) for base in pretrained[norm]) for task in MIXED}
            for arm, (norm, _) in ARMS.items()
        },
    )


check_public(__name__)

"""Which training runs answer the question of the chapter "Combining, not inventing?"

Experiment B5: a deeper model learns the mixture of four tasks. Prefixes are then to make it do each
of the four, compositions of them, and tasks that no chain of the four makes. All get the same sweep
of learning rates, and so does fine-tuning on the tasks that need a control. What was published is
trained in the published parametrisation, and all new tasks in the one that can do most.

The chapter "Prefix against LoRA at an equal budget" starts from the same models.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from notebooks.prefix_tuning.eliciting.plan import pretrain_rate
from promptlib.checks import check_public
from promptlib.prefix_tuning import planning as experiment_runs
from promptlib.prefix_tuning.planning import MIXED
from promptlib.runs import Run

N_HEAD = 4
LENGTH = 10
"""Vectors of a prefix in each layer, as published."""

COMPOSITIONS = ("ascending_add_one", "descending_add_one", "add_three")
"""Chains of tasks of the mixture; the first is the published one.

Both lists were fixed before a prefix for any of these tasks had been trained.
"""

INVENTIONS = (
    "double_histogram",
    "ascending_histogram",
    "reverse",
    "rotate",
    "running_maximum",
)
"""Tasks that no chain of tasks of the mixture makes; the first is the published one.

Sorting first helps with the second: equal digits are then neighbours.
"""

NEW = (*COMPOSITIONS, *INVENTIONS)

TOLD_APART = (COMPOSITIONS[0], INVENTIONS[0])
"""The published task of either kind."""

PUBLISHED = (*MIXED, *TOLD_APART)
"""Tasks that prefixes were published for."""

CONTROLLED = ("double_histogram", "reverse", "rotate")
"""New tasks at which fine-tuning is a control: prefixes are expected to fail at them."""

INIT_STD = 0.1
"""Of the untrained prefixes."""

PARAMETRISATION = "free"
"""Of the prefixes for new tasks: the one that can do most."""

PUBLISHED_PARAMETRISATION = "shared"
"""Of the prefixes for the published tasks."""

Sweep = tuple[Run, ...]
"""Runs of one task and seed, one for each learning rate."""


@dataclass(frozen=True)
class CombinePlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    pretrained : tuple of Run
        One for each seed.
    published : mapping of tuple of Run
        By task of `PUBLISHED`, in the published parametrisation; one for each seed. Each run has a
        cell for each learning rate.
    prefixes : mapping of tuple of Run
        By task of `NEW`, free; otherwise the same.
    finetuned : mapping of tuple of Sweep
        By task of `CONTROLLED`; one for each seed. All weights of the same model learn.
    """

    pretrained: tuple[Run, ...]
    published: Mapping[str, tuple[Run, ...]]
    prefixes: Mapping[str, tuple[Run, ...]]
    finetuned: Mapping[str, tuple[Sweep, ...]]

    def __iter__(self) -> Iterator[Run]:
        yield from self.pretrained
        for by_task in (self.published, self.prefixes):
            for runs in by_task.values():
                yield from runs
        for sweeps in self.finetuned.values():
            for sweep in sweeps:
                yield from sweep


def base_model(
    seed: int,
    n_layer: int,
    width: int,
    precision: str,
    pretrain_steps: int,
    test_sequences: int,
) -> Run:
    """Plan a model of the mixture, which other chapters start from too."""
    return experiment_runs.pretrain(
        experiment_runs.model_of(n_layer, N_HEAD, width),
        "mixture",
        seed=seed,
        steps=pretrain_steps,
        learning_rate=pretrain_rate(width),
        evaluate=(*MIXED, *TOLD_APART),
        test_sequences=test_sequences,
        precision=precision,
    )


def plan(
    seeds: int,
    first_seed: int,
    n_layer: int,
    width: int,
    precision: str,
    pretrain_steps: int,
    known_steps: int,
    new_steps: int,
    learning_rates: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
) -> CombinePlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    n_layer, width : int
        Of the model; 4 and 256 are published. The width is a multiple of 4.
    precision : str
        Of the matrix products in training: "float32" or "bfloat16".
    pretrain_steps : int
        Training steps of a model; at least 10.
    known_steps, new_steps : int
        Training steps of a prefix for a task of the mixture and for any other; at least 10.
        Fine-tuning has the latter.
    learning_rates : sequence of float
        Each prefix is trained with each.
    weight_rates : sequence of float
        Fine-tuning is done with each.
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
        known_steps=(known_steps, 10),
        new_steps=(new_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    experiment_runs.check_positive(learning_rates=learning_rates, weight_rates=weight_rates)
    experiment_runs.check_precision(precision)
    experiment_runs.check_model(n_layer, width, N_HEAD)

    pretrained = tuple(
        base_model(seed, n_layer, width, precision, pretrain_steps, test_sequences)
        for seed in range(first_seed, first_seed + seeds)
    )

    def tune(task: str, parametrisation: str) -> tuple[Run, ...]:
        return tuple(
            experiment_runs.tune_prefixes(
                base,
                task,
                steps=known_steps if task in MIXED else new_steps,
                length=LENGTH,
                parametrisation=parametrisation,
                sweep=experiment_runs.cells(learning_rates, [INIT_STD]),
                batch_size=experiment_runs.SMALL_BATCH_SIZE,
                evaluate=[task],
            )
            for base in pretrained
        )

    def fine_tune(task: str) -> tuple[Sweep, ...]:
        return tuple(
            tuple(
                experiment_runs.fine_tune(
                    base,
                    task,
                    steps=new_steps,
                    learning_rate=rate,
                    batch_size=experiment_runs.SMALL_BATCH_SIZE,
                    evaluate=[task],
                )
                for rate in weight_rates
            )
            for base in pretrained
        )

    return CombinePlan(
        pretrained=pretrained,
        published={task: tune(task, PUBLISHED_PARAMETRISATION) for task in PUBLISHED},
        prefixes={task: tune(task, PARAMETRISATION) for task in NEW},
        finetuned={task: fine_tune(task) for task in CONTROLLED},
    )


check_public(__name__)

"""Which training runs answer the question of the chapter "Combining, not inventing"?

Experiment B5: a deeper model learns the mixture of four tasks. Prefixes are then to make it do each
of the four, compositions of them, and tasks that no chain of the four makes. All get the same sweep
of learning rates. Two further questions have sweeps of their own, on one task of either kind: how
long the prefix is, and how deep the model.

The chapter "Prefix against LoRA at an equal budget" starts from the same models.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.prefix_tuning import experiment_runs
from promptlib.prefix_tuning.elicit import pretrain_rate
from promptlib.prefix_tuning.experiment_runs import MIXED
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
"""One task of either kind, for the sweeps over length and depth."""

INIT_STD = 0.1
"""Of the untrained prefixes."""

PARAMETRISATION = "free"
"""Of all prefixes: the one that can do most."""

Sweep = tuple[Run, ...]
"""Runs of one prefix task and seed, one for each learning rate."""


@dataclass(frozen=True)
class CombinePlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    pretrained : mapping of tuple of Run
        By depth; one for each seed.
    prefixes : mapping of tuple of Sweep
        By task, for the model and the length of the experiment; one for each seed.
    finetuned : mapping of tuple of Sweep
        By new task; one for each of the first seeds. All weights of the same model learn.
    lengths, depths : mapping of mapping of tuple of Sweep
        By length or depth, then task; the experiment's own length or depth included.
    depth : int
        Of the model of the experiment.
    """

    pretrained: Mapping[int, tuple[Run, ...]]
    prefixes: Mapping[str, tuple[Sweep, ...]]
    finetuned: Mapping[str, tuple[Sweep, ...]]
    lengths: Mapping[int, Mapping[str, tuple[Sweep, ...]]]
    depths: Mapping[int, Mapping[str, tuple[Sweep, ...]]]
    depth: int

    def __iter__(self) -> Iterator[Run]:
        seen = set()
        by_task = [self.prefixes, self.finetuned, *self.lengths.values(), *self.depths.values()]
        groups = [*self.pretrained.values()]
        groups += [sweep for sweeps in by_task for seeds in sweeps.values() for sweep in seeds]
        for runs in groups:
            for run in runs:
                if run.key not in seen:
                    seen.add(run.key)
                    yield run


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
    n_layer: int,
    width: int,
    precision: str,
    pretrain_steps: int,
    known_steps: int,
    new_steps: int,
    learning_rates: Sequence[float],
    lengths: Sequence[int],
    depths: Sequence[int],
    test_sequences: int,
    weight_rates: Sequence[float],
    control_seeds: int,
    evaluate_known: bool = True,
) -> CombinePlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    n_layer, width : int
        Of the model; 4 and 256 are published. The width is a multiple of 4.
    precision : str
        Of the matrix products in training: "float32" or "bfloat16".
    pretrain_steps : int
        Training steps of a model; at least 10.
    known_steps, new_steps : int
        Training steps of a prefix for a task of the mixture and for any other; at least 10.
    learning_rates : sequence of float
        Each prefix is trained with each.
    lengths, depths : sequences of int
        The two sweeps, at least 1; may be empty.
    test_sequences : int
        Sequences that each accuracy is measured on, at least 1.
    weight_rates : sequence of float
        Each model is fine-tuned to each new task with each.
    control_seeds : int
        Fine-tuning is repeated over the first seeds, at most this many; at least 1.
    evaluate_known : bool
        Whether prefixes are measured on the tasks of the mixture too, and not only on their own.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    experiment_runs.check_counts(
        control_seeds=(control_seeds, 1),
        seeds=(seeds, 1),
        pretrain_steps=(pretrain_steps, 10),
        known_steps=(known_steps, 10),
        new_steps=(new_steps, 10),
        test_sequences=(test_sequences, 1),
        **{f"lengths[{index}]": (length, 1) for index, length in enumerate(lengths)},
        **{f"depths[{index}]": (depth, 1) for index, depth in enumerate(depths)},
    )
    experiment_runs.check_positive(learning_rates=learning_rates, weight_rates=weight_rates)
    experiment_runs.check_precision(precision)
    experiment_runs.check_model(n_layer, width, N_HEAD)

    pretrained = {
        depth: tuple(
            base_model(seed, depth, width, precision, pretrain_steps, test_sequences)
            for seed in range(seeds)
        )
        for depth in dict.fromkeys([n_layer, *depths])
    }

    def sweeps(task: str, depth: int = n_layer, length: int = LENGTH) -> tuple[Sweep, ...]:
        options: dict[str, Any] = {
            "steps": known_steps if task in MIXED else new_steps,
            "length": length,
            "parametrisation": PARAMETRISATION,
            "batch_size": experiment_runs.SMALL_BATCH_SIZE,
            "evaluate": list(dict.fromkeys([task, *(MIXED if evaluate_known else ())])),
        }
        return tuple(
            tuple(
                experiment_runs.tune_prefixes(
                    base, task, sweep=experiment_runs.cells([rate], [INIT_STD]), **options
                )
                for rate in learning_rates
            )
            for base in pretrained[depth]
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
            for base in pretrained[n_layer][:control_seeds]
        )

    return CombinePlan(
        pretrained=pretrained,
        prefixes={task: sweeps(task) for task in (*MIXED, *NEW)},
        finetuned={task: fine_tune(task) for task in NEW},
        lengths={
            length: {task: sweeps(task, length=length) for task in TOLD_APART} for length in lengths
        },
        depths={
            depth: {task: sweeps(task, depth=depth) for task in TOLD_APART} for depth in depths
        },
        depth=n_layer,
    )

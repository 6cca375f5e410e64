"""Which prefixes are trained, for known tasks, for chains of them, and for tasks beyond?

Experiment B5: a deeper model learns the mixture of four tasks. Prefixes are then to make it do each
of the four, compositions of them, and tasks that no chain of the four makes. All get the same sweep
of learning rates, and so does fine-tuning on the tasks that need a control. What was published is
trained in the published parametrisation, and all new tasks in the one that can do most.

The chapter "Prefix against LoRA at an equal budget" starts from the same models.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Sequence

from notebooks.prefix_tuning.eliciting.plan import pretrain_rate
from promptlib.checks import check_public
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.trials import Plan, labelled
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


def base_model(
    seed: int,
    n_layer: int,
    width: int,
    precision: str,
    gelu: str,
    pretrain_steps: int,
    test_sequences: int,
) -> Run:
    """A model of the mixture, which other chapters start from too."""
    return planning.pretrain(
        planning.model_of(n_layer, N_HEAD, width, gelu=gelu),
        "mixture",
        seed=seed,
        steps=pretrain_steps,
        learning_rate=pretrain_rate(width, "adamw"),
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
    gelu: str,
    pretrain_steps: int,
    known_steps: int,
    new_steps: int,
    learning_rates: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
) -> Plan:
    """Label all runs by method and task; a run of prefixes holds its whole sweep.

    Prefixes for the mixture get `known_steps`; those for new tasks, and fine-tuning, `new_steps`.
    """
    planning.check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        pretrain_steps=(pretrain_steps, 10),
        known_steps=(known_steps, 10),
        new_steps=(new_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    planning.check_positive(learning_rates=learning_rates, weight_rates=weight_rates)
    planning.check_precision(precision)
    planning.check_pretraining(gelu)
    planning.check_model(n_layer, width, N_HEAD)

    bases = [
        base_model(seed, n_layer, width, precision, gelu, pretrain_steps, test_sequences)
        for seed in range(first_seed, first_seed + seeds)
    ]

    def tune(method: str, task: str, parametrisation: str) -> Plan:
        runs = [
            planning.tune_prefixes(
                base,
                task,
                steps=known_steps if task in MIXED else new_steps,
                length=LENGTH,
                parametrisation=parametrisation,
                sweep=planning.cells(learning_rates, [INIT_STD]),
                batch_size=planning.SMALL_BATCH_SIZE,
                evaluate=[task],
            )
            for base in bases
        ]
        return labelled(runs, method=method, task=task)

    def fine_tune(task: str) -> Plan:
        runs = [
            planning.fine_tune(
                base,
                task,
                steps=new_steps,
                learning_rate=rate,
                batch_size=planning.SMALL_BATCH_SIZE,
                evaluate=[task],
            )
            for base in bases
            for rate in weight_rates
        ]
        return labelled(runs, method="fine-tuned", task=task)

    return sum(
        [
            *(tune("published prefix", task, PUBLISHED_PARAMETRISATION) for task in PUBLISHED),
            *(tune("free prefix", task, PARAMETRISATION) for task in NEW),
            *(fine_tune(task) for task in CONTROLLED),
        ],
        labelled(bases, method="pretrained"),
    )


check_public(__name__)

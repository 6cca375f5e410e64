"""Which prefixes are trained to call for one task of four, and on which models?

Experiment B4: a model of one layer learns a mixture of four tasks that nothing in the input tells
apart. Then one prefix vector for each task is to make it do that task only.

Plain data without torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptlib.checks import check_public
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.planning import MIXED, SMALL_BATCH_SIZE
from promptlib.prefix_tuning.trials import Plan, labelled
from promptlib.runs import Run

N_HEAD = 4
LENGTH = 1
"""Vectors of a prefix, as published."""

PRETRAIN_LEARNING_RATE = 1e-3
"""Highest learning rate of pretraining at the published width; see `pretrain_rate`."""

MUON_LEARNING_RATE = 0.05
"""The same with Muon, at any width."""

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


def pretrain_rate(width: int, optimiser: str) -> float:
    """Return the highest learning rate of pretraining.

    With AdamW narrow models learn at higher ones, and on few steps they need them: width 64 learns
    the mixture in 1,500 steps at 8e-3 and only the sorts at 4e-3.
    """
    if optimiser == "muon":
        return MUON_LEARNING_RATE
    return PRETRAIN_LEARNING_RATE * (PUBLISHED_WIDTH / width) ** 1.5


def plan(
    seeds: int,
    first_seed: int,
    width: int,
    precision: str,
    optimiser: str,
    gelu: str,
    pretrain_steps: int,
    prefix_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    test_sequences: int,
) -> Plan:
    """Plan the models, by ``norm``, and the sweeps of their prefixes, by ``arm`` and ``task``.

    Every prefix is trained at each rate from `SMALL_INIT_STD`; in the published arm, on the tasks
    of `SWEPT`, from each of `init_stds`, too.
    """
    planning.check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        pretrain_steps=(pretrain_steps, 10),
        prefix_steps=(prefix_steps, 10),
        test_sequences=(test_sequences, 1),
    )
    planning.check_positive(learning_rates=learning_rates, init_stds=init_stds)
    planning.check_precision(precision)
    planning.check_pretraining(gelu, optimiser)
    planning.check_model(1, width, N_HEAD)

    def pretrain(seed: int, first_layer_norm: bool) -> Run:
        return planning.pretrain(
            planning.model_of(1, N_HEAD, width, first_layer_norm, gelu),
            "mixture",
            seed=seed,
            steps=pretrain_steps,
            learning_rate=pretrain_rate(width, optimiser),
            evaluate=MIXED,
            test_sequences=test_sequences,
            precision=precision,
            optimiser=optimiser,
        )

    def tune(base: Run, task: str, arm: str) -> Run:
        stds = [SMALL_INIT_STD]
        if arm == PUBLISHED_ARM and task in SWEPT:
            stds += [std for std in init_stds if std != SMALL_INIT_STD]
        return planning.tune_prefixes(
            base,
            task,
            steps=prefix_steps,
            length=LENGTH,
            parametrisation=ARMS[arm][1],
            sweep=planning.cells(learning_rates, stds),
            batch_size=SMALL_BATCH_SIZE,
            evaluate=list(MIXED) if arm == PUBLISHED_ARM else [task],
        )

    numbers = range(first_seed, first_seed + seeds)
    models, prefixes = Plan(()), Plan(())
    for norm, first_layer_norm in NORMS.items():
        models += labelled([pretrain(seed, first_layer_norm) for seed in numbers], norm=norm)
    for arm, (norm, _) in ARMS.items():
        for task in MIXED:
            tuned = [tune(base, task, arm) for base in models.where(norm=norm)]
            prefixes += labelled(tuned, arm=arm, task=task)
    return models + prefixes


check_public(__name__)

"""Which prefixes of which lengths are trained, for a known task and for a new one?

The base models are those of the chapter "Beyond one layer", at one depth: one that sorts upwards,
for which sorting downwards is new, and one that has learned both directions. Prefixes of several
lengths are to make each sort downwards. The control is fine-tuning with as many steps. For the
known task there are a few prefixes of length one from different starting points, too.

Plain data without torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Sequence

from notebooks.prefix_tuning.beyond_one_layer.plan import base_runs, fine_tune_runs, prefix_run
from promptlib.checks import check_public
from promptlib.prefix_tuning.planning import cells, check_counts, check_positive
from promptlib.prefix_tuning.trials import Plan, labelled

QUESTIONS = ("new task", "known task")
"""Sorting downwards, asked of a model that has learned upwards, and of one that knows both."""
NEW, KNOWN = QUESTIONS


def plan(
    seeds: int,
    first_seed: int,
    n_layer: int,
    width: int,
    n_head: int,
    pretrain_steps: int,
    pretrain_rate: float,
    lengths: Sequence[int],
    tune_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    weight_rates: Sequence[float],
    short_prefixes: int,
    short_rate: float,
    test_sequences: int,
) -> Plan:
    """Plan the runs, by ``method`` and ``question``, those of prefixes by ``length``, too.

    Each length has all pairs of `learning_rates` and `init_stds`, fine-tuning has no more settings
    than that. Short prefixes start from the largest of `init_stds`.
    """
    check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        n_layer=(n_layer, 1),
        width=(width, 1),
        n_head=(n_head, 1),
        pretrain_steps=(pretrain_steps, 10),
        tune_steps=(tune_steps, 10),
        short_prefixes=(short_prefixes, 2),
        test_sequences=(test_sequences, 1),
    )
    check_positive(
        pretrain_rate=[pretrain_rate],
        learning_rates=learning_rates,
        init_stds=init_stds,
        weight_rates=weight_rates,
        short_rate=[short_rate],
    )
    if width % n_head:
        raise ValueError(f"n_head={n_head} does not divide width={width}")
    if not lengths or min(lengths) < 1 or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"lengths must increase from at least 1, got {list(lengths)!r}")

    grid = cells(learning_rates, init_stds)
    if len(weight_rates) > len(grid):
        raise ValueError(
            f"fine-tuning has {len(weight_rates)} settings and each length only {len(grid)}; what "
            "is to fail must not have the smaller sweep"
        )

    pairs = [
        base_runs(seed, n_layer, width, n_head, pretrain_steps, pretrain_rate, test_sequences)
        for seed in range(first_seed, first_seed + seeds)
    ]
    bases = {name: [pair[place] for pair in pairs] for place, name in enumerate(QUESTIONS)}
    alike = cells([short_rate], [max(init_stds)]) * short_prefixes
    planned = Plan(())
    for name, runs in bases.items():
        planned += labelled(runs, method="pretraining", question=name)
    for name, runs in bases.items():
        for length in lengths:
            tuned = [prefix_run(base, tune_steps, length, grid) for base in runs]
            planned += labelled(tuned, method="prefix", question=name, length=length)
    for base in bases[NEW]:
        control = fine_tune_runs(base, tune_steps, weight_rates)
        planned += labelled(control, method="fine-tuning", question=NEW)
    short = [prefix_run(base, tune_steps, 1, alike) for base in bases[KNOWN]]
    return planned + labelled(short, method="short prefixes", question=KNOWN)


check_public(__name__)

"""Which prefixes and which LoRAs are trained, for one new task and with one effort?

Experiment B6: the model of the chapter "Combining, not inventing" is to learn the double histogram.
Prefixes of two parametrisations and several lengths and LoRA of several ranks on several sets of
layers each have a sweep of their own, of equal size and with as many steps for all. Full
fine-tuning, also swept, is the ceiling.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from notebooks.prefix_tuning.combining import plan as combining
from notebooks.prefix_tuning.combining.plan import N_HEAD
from promptlib.checks import check_public
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.planning import PARAMETRISATIONS
from promptlib.prefix_tuning.trials import Plan, labelled

TASK = "double_histogram"
EVALUATED = (TASK,)

MLP = ("mlp.expand", "mlp.contract")
ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.project")

MODULES: dict[str, tuple[str, ...]] = {
    "MLP and projection": (*MLP, "attention.project"),
    "MLP": MLP,
    "attention": ATTENTION,
    "MLP and attention": (*MLP, *ATTENTION),
}
"""Sets of layers that LoRA corrects. The published experiment says MLP and used the first."""

LORA_INIT_STD = 0.02
"""Of the factor that does not start at zero."""


def prefix_parameters(parametrisation: str, length: int, n_layer: int, width: int) -> int:
    """Count what a prefix learns."""
    vectors = 2 if PARAMETRISATIONS[parametrisation]["separate_values"] else 1
    return vectors * n_layer * length * width


def lora_parameters(modules: str, rank: int, n_layer: int, width: int) -> int:
    """Count what LoRA learns: rank x (inputs + outputs) for each layer that it corrects.

    The attention's maps go from the width to the width, the MLP's to four times the width and back.
    """
    sides = [5 if name in MLP else 2 for name in MODULES[modules]]
    return rank * n_layer * width * sum(sides)


def plan(
    seeds: int,
    first_seed: int,
    n_layer: int,
    width: int,
    precision: str,
    gelu: str,
    pretrain_steps: int,
    adapt_steps: int,
    lengths: Mapping[str, Sequence[int]],
    ranks: Mapping[str, Sequence[int]],
    prefix_rates: Sequence[float],
    init_stds: Sequence[float],
    lora_rates: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
    checkpoints: int,
) -> Plan:
    """Label all runs by method, what they train, its size, and the name of this way to adapt.

    Prefixes are swept over all pairs of `prefix_rates` and `init_stds`; the sweeps of LoRA and of
    fine-tuning are no longer. Models of equal numbers are shared with the chapter on combining.
    """
    planning.check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        pretrain_steps=(pretrain_steps, 10),
        adapt_steps=(adapt_steps, 10),
        test_sequences=(test_sequences, 1),
        checkpoints=(checkpoints, 0),
        **{f"length of {name}": (n, 1) for name, numbers in lengths.items() for n in numbers},
        **{f"rank on {name}": (n, 1) for name, numbers in ranks.items() for n in numbers},
    )
    planning.check_positive(
        prefix_rates=prefix_rates,
        init_stds=init_stds,
        lora_rates=lora_rates,
        weight_rates=weight_rates,
    )
    cells = len(prefix_rates) * len(init_stds)
    if max(len(lora_rates), len(weight_rates)) > cells:
        raise ValueError(
            f"the sweep of the prefixes has {cells} cells, fewer than that of LoRA "
            f"({len(lora_rates)}) or fine-tuning ({len(weight_rates)}), so a prefix that fails "
            "would prove nothing"
        )
    planning.check_precision(precision)
    planning.check_pretraining(gelu)
    planning.check_model(n_layer, width, N_HEAD)
    for what, given, known in (
        ("lengths", lengths, PARAMETRISATIONS),
        ("ranks", ranks, MODULES),
    ):
        for name in given:
            if name not in known:
                raise ValueError(f"{what} has {name!r}; there are {', '.join(known)}")

    bases = [
        combining.base_model(seed, n_layer, width, precision, gelu, pretrain_steps, test_sequences)
        for seed in range(first_seed, first_seed + seeds)
    ]
    same: dict[str, Any] = {
        "steps": adapt_steps,
        "evaluate": EVALUATED,
        "batch_size": planning.SMALL_BATCH_SIZE,
        "checkpoints": checkpoints,
    }

    def prefixes(what: str, length: int) -> Plan:
        sweep = planning.cells(prefix_rates, init_stds)
        runs = [
            planning.tune_prefixes(
                base, TASK, length=length, parametrisation=what, sweep=sweep, **same
            )
            for base in bases
        ]
        way = f"prefix, {what}, length {length}"
        return labelled(runs, method="prefix", what=what, size=length, way=way)

    def lora(what: str, rank: int) -> Plan:
        runs = [
            planning.tune_lora(
                base,
                TASK,
                rank=rank,
                modules=MODULES[what],
                sweep=planning.cells(lora_rates, [LORA_INIT_STD]),
                **same,
            )
            for base in bases
        ]
        way = f"LoRA, {what}, rank {rank}"
        return labelled(runs, method="LoRA", what=what, size=rank, way=way)

    tuned = [
        planning.fine_tune(base, TASK, learning_rate=rate, **same)
        for base in bases
        for rate in weight_rates
    ]
    return sum(
        [
            *(prefixes(what, length) for what, numbers in lengths.items() for length in numbers),
            *(lora(what, rank) for what, numbers in ranks.items() for rank in numbers),
            labelled(tuned, method="fine-tuning", what="all weights", size=0, way="fine-tuning"),
        ],
        labelled(bases, method="pretrained"),
    )


check_public(__name__)

"""Which deeper models are trained and adapted, to see whose attention moves and who learns?

A model learns to sort upwards. Then it is to sort downwards: by all its weights, by LoRA on the
attention, or by a prefix, with as many steps each and sweeps of learning rates of one size. A
second base model has learned both directions, with nothing in the input that tells which; its
prefix only has to say "downwards". That is asked at smaller depths, too, down to one layer, where
no prefix moves any relative attention.

The chapter "Long prefixes" starts from the same base models.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptlib.checks import check_public
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.planning import check_counts, check_positive
from promptlib.prefix_tuning.trials import Plan, labelled
from promptlib.runs import Run

SORTS = ("sort_ascending", "sort_descending")
TASK = "sort_descending"
"""What every way is to teach or to ask for."""

ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.project")

BATCH_SIZE = 32
"""Sequences of a step of whatever adapts a model; pretraining has more."""

PARAMETRISATION = "free"
"""Keys and values of their own and no LayerNorm: the parametrisation that can do most."""
INIT_STD = 1.0
"""Of the untrained prefixes; the rate of a free prefix matters more (chapter "A new task")."""

LORA_INIT_STD = 0.02
"""Of the factor of a LoRA that does not start at zero: that of the weights."""

METHODS = ("prefix", "LoRA on attention", "fine-tuning", "prefix, elicits")
"""Three ways to learn the new task, and the prefix that asks for a known one."""
PREFIX, LORA, FINE_TUNING, ELICITS = METHODS


def base_runs(
    seed: int,
    n_layer: int,
    width: int,
    n_head: int,
    pretrain_steps: int,
    pretrain_rate: float,
    test_sequences: int,
) -> tuple[Run, Run]:
    """The two pretraining runs of one depth and seed: upwards only, and either direction.

    The second sees twice as many steps, for it has two tasks.
    """
    ascending, either = (
        planning.pretrain(
            planning.model_of(n_layer, n_head, width, gelu="erf"),
            task,
            seed=seed,
            steps=steps,
            learning_rate=pretrain_rate,
            evaluate=SORTS,
            test_sequences=test_sequences,
        )
        for task, steps in (
            ("sort_ascending", pretrain_steps),
            ("either_sort", 2 * pretrain_steps),
        )
    )
    return ascending, either


def prefix_run(base: Run, steps: int, length: int, sweep: Sequence[Mapping[str, float]]) -> Run:
    """A sweep of free prefixes that are to make `base` sort downwards."""
    return planning.tune_prefixes(
        base,
        TASK,
        steps=steps,
        length=length,
        parametrisation=PARAMETRISATION,
        sweep=sweep,
        batch_size=BATCH_SIZE,
    )


def fine_tune_runs(base: Run, steps: int, rates: Sequence[float]) -> tuple[Run, ...]:
    """A sweep of fine-tuning all weights of `base` so that it sorts downwards."""
    return tuple(
        planning.fine_tune(base, TASK, steps=steps, learning_rate=rate, batch_size=BATCH_SIZE)
        for rate in rates
    )


def plan(
    seeds: int,
    first_seed: int,
    depths: Sequence[int],
    width: int,
    n_head: int,
    pretrain_steps: int,
    pretrain_rate: float,
    adapt_steps: int,
    weight_rates: Sequence[float],
    lora_rates: Sequence[float],
    prefix_rates: Sequence[float],
    lora_rank: int,
    prefix_length: int,
    test_sequences: int,
) -> Plan:
    """Plan the runs: base models by ``knows`` and ``depth``, the rest by ``method`` and ``depth``.

    All methods at the largest depth; at the others only the prefix that elicits. In a layer, LoRA
    on the four matrices of the attention has ``8 rank width`` parameters and a free prefix
    ``2 length width``: equal for ``length = 4 rank``.
    """
    check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        width=(width, 1),
        n_head=(n_head, 1),
        pretrain_steps=(pretrain_steps, 10),
        adapt_steps=(adapt_steps, 10),
        lora_rank=(lora_rank, 1),
        prefix_length=(prefix_length, 1),
        test_sequences=(test_sequences, 1),
    )
    if width % n_head:
        raise ValueError(f"n_head={n_head} does not divide width={width}")
    if not depths or min(depths) < 1 or len(set(depths)) < len(depths):
        raise ValueError(f"depths must be different numbers of at least 1, got {depths!r}")
    check_positive(
        pretrain_rate=[pretrain_rate],
        weight_rates=weight_rates,
        lora_rates=lora_rates,
        prefix_rates=prefix_rates,
    )
    sizes = [len(rates) for rates in (weight_rates, lora_rates, prefix_rates)]
    if len(set(sizes)) > 1:
        raise ValueError(
            "fine-tuning, LoRA and prefixes must have sweeps of one size, got "
            f"{sizes[0]}, {sizes[1]} and {sizes[2]} learning rates"
        )

    def prefixes(base: Run) -> Run:
        sweep = planning.cells(prefix_rates, [INIT_STD])
        return prefix_run(base, adapt_steps, prefix_length, sweep)

    def lora(base: Run) -> Run:
        return planning.tune_lora(
            base,
            TASK,
            steps=adapt_steps,
            rank=lora_rank,
            modules=ATTENTION,
            sweep=planning.cells(lora_rates, [LORA_INIT_STD]),
            batch_size=BATCH_SIZE,
        )

    pairs = {
        depth: [
            base_runs(seed, depth, width, n_head, pretrain_steps, pretrain_rate, test_sequences)
            for seed in range(first_seed, first_seed + seeds)
        ]
        for depth in depths
    }
    deepest = max(depths)
    upwards = [one for one, _ in pairs[deepest]]
    either = {depth: [both for _, both in of_depth] for depth, of_depth in pairs.items()}
    tuned = [run for base in upwards for run in fine_tune_runs(base, adapt_steps, weight_rates)]

    runs = labelled(upwards, knows="upwards", depth=deepest)
    for depth, bases in either.items():
        runs += labelled(bases, knows="either way", depth=depth)
    runs += labelled(map(prefixes, upwards), method=PREFIX, depth=deepest)
    runs += labelled(map(lora, upwards), method=LORA, depth=deepest)
    runs += labelled(tuned, method=FINE_TUNING, depth=deepest)
    for depth, bases in either.items():
        runs += labelled(map(prefixes, bases), method=ELICITS, depth=depth)
    return runs


check_public(__name__)

"""Which training runs answer the measured part of the chapter "Beyond one layer"?

A model learns to sort upwards. Then it is to sort downwards: by all its weights, by LoRA on the
attention, or by a prefix, with as many steps each and sweeps of learning rates of one size. A
second base model has learned both directions, with nothing in the input that tells which; its
prefix only has to say "downwards". That is asked at smaller depths, too, down to one layer, where
no prefix moves any relative attention.

The chapter "Long prefixes" starts from the same base models.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from promptlib.checks import check_public
from promptlib.prefix_tuning import planning as experiment_runs
from promptlib.prefix_tuning.planning import check_counts, check_positive
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

WAYS = ("prefix", "LoRA on attention", "fine-tuning", "prefix, elicits")
"""Three ways to learn the new task, and the prefix that asks for a known one."""
ELICITS = WAYS[-1]


@dataclass(frozen=True)
class DepthPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    ascending, either : mapping of tuple of Run
        Base models by depth, one for each seed; the first at the largest depth only.
    ways : mapping of mapping of tuple of tuple of Run
        By way (`WAYS`) and depth, for each seed: the runs of its sweep. Only `ELICITS` has smaller
        depths than the largest.
    """

    ascending: Mapping[int, tuple[Run, ...]]
    either: Mapping[int, tuple[Run, ...]]
    ways: Mapping[str, Mapping[int, tuple[tuple[Run, ...], ...]]]

    def __iter__(self) -> Iterator[Run]:
        for base in (self.ascending, self.either):
            for runs in base.values():
                yield from runs
        for by_depth in self.ways.values():
            for seeds in by_depth.values():
                for runs in seeds:
                    yield from runs


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
        experiment_runs.pretrain(
            experiment_runs.model_of(n_layer, n_head, width),
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
    return experiment_runs.tune_prefixes(
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
        experiment_runs.fine_tune(
            base, TASK, steps=steps, learning_rate=rate, batch_size=BATCH_SIZE
        )
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
) -> DepthPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    depths : sequence of int
        Layers of the models, each at least 1. All ways at the largest; at the others only the
        prefix that elicits.
    width, n_head : int
        Of every model; `n_head` divides `width`.
    pretrain_steps, adapt_steps : int
        Of the sorter (the one that sorts either way has twice as many), and of every way to adapt
        it; at least 10.
    pretrain_rate : float
        Highest learning rate of pretraining, > 0.
    weight_rates, lora_rates, prefix_rates : sequences of float
        The sweeps of fine-tuning, LoRA and prefixes, > 0; of one length.
    lora_rank, prefix_length : int
        At least 1. In a layer, LoRA on the four matrices of the attention has
        ``8 rank width`` parameters and a free prefix ``2 length width``: equal for
        ``length = 4 rank``.
    test_sequences : int
        That each accuracy is measured on, at least 1.

    Raises
    ------
    ValueError
        If a number is out of its range.
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

    def fine_tune(base: Run) -> tuple[Run, ...]:
        return fine_tune_runs(base, adapt_steps, weight_rates)

    def lora(base: Run) -> tuple[Run, ...]:
        run = experiment_runs.tune_lora(
            base,
            TASK,
            steps=adapt_steps,
            rank=lora_rank,
            modules=ATTENTION,
            sweep=experiment_runs.cells(lora_rates, [LORA_INIT_STD]),
            batch_size=BATCH_SIZE,
        )
        return (run,)

    def prefixes(base: Run) -> tuple[Run, ...]:
        sweep = experiment_runs.cells(prefix_rates, [INIT_STD])
        return (prefix_run(base, adapt_steps, prefix_length, sweep),)

    bases = {
        depth: [
            base_runs(seed, depth, width, n_head, pretrain_steps, pretrain_rate, test_sequences)
            for seed in range(first_seed, first_seed + seeds)
        ]
        for depth in depths
    }
    deepest = max(depths)
    ascending = {deepest: tuple(one for one, _ in bases[deepest])}
    either = {depth: tuple(both for _, both in pairs) for depth, pairs in bases.items()}
    makers = {
        "prefix": (ascending, prefixes),
        "LoRA on attention": (ascending, lora),
        "fine-tuning": (ascending, fine_tune),
        ELICITS: (either, prefixes),
    }
    return DepthPlan(
        ascending=ascending,
        either=either,
        ways={
            way: {depth: tuple(map(make, runs)) for depth, runs in from_bases.items()}
            for way, (from_bases, make) in makers.items()
        },
    )


check_public(__name__)

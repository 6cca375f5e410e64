"""Which training runs answer the measured part of the chapter "Beyond one layer"?

Models of several depths learn to sort upwards. Then they are to sort downwards: by all their
weights, by LoRA on the attention or on the MLPs, or by a prefix, with as many steps each and a
sweep of learning rates each. A second base model of every depth has learned both directions, with
nothing in the input that tells which; its prefix only has to say "downwards".

The chapter "Long prefixes" starts from the same base models.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptlib.prefix_tuning.experiment_runs import check_counts, check_positive
from promptlib.runs import Run

HERE = "promptlib.prefix_tuning.depth.training"
SHARED = "promptlib.prefix_tuning.experiment_training"

SORTS = ("sort_ascending", "sort_descending")
BATCH_SIZE = 64
WARMUP_SHARE = 0.1
"""Part of the steps over which the learning rate rises."""

ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.project")
MLP = ("mlp.expand", "mlp.contract")

FREE_PREFIX: dict[str, Any] = {"layer_norm": False, "separate_values": True}
"""Keys and values of their own and no LayerNorm: the parametrisation that can do most."""
INIT_STD = 1.0
"""Of the untrained prefixes; the rate of a free prefix matters more (chapter "A new task")."""

LORA_INIT_STD = 0.02
"""Of the factor of a LoRA that does not start at zero: that of the weights."""

WAYS = ("prefix", "LoRA on MLPs", "LoRA on attention", "fine-tuning", "prefix, elicits")
"""The four ways to learn the new task, and the prefix that asks for a known one."""


@dataclass(frozen=True)
class DepthPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    ascending, either : mapping of tuple of Run
        Base models by depth, one for each seed.
    ways : mapping of mapping of tuple of tuple of Run
        By way (`WAYS`) and depth, for each seed: the runs of its sweep.
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
    model = {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_embd": width,
        "vocab_size": 11,
        "block_size": 19,
        "first_layer_norm": True,
    }
    more = {"model": model, "learning_rate": pretrain_rate, "evaluate": list(SORTS)}
    return (
        Run(
            f"{SHARED}:pretrain",
            _config(seed, pretrain_steps, test_sequences, task="sort_ascending", **more),
        ),
        Run(
            f"{HERE}:pretrain_either",
            _config(seed, 2 * pretrain_steps, test_sequences, **more),
        ),
    )


def prefix_run(
    base: Run,
    steps: int,
    length: int,
    rates: Sequence[float],
    test_sequences: int,
    batch_size: int = BATCH_SIZE,
) -> Run:
    """A sweep of free prefixes that are to make `base` sort downwards."""
    return Run(
        f"{SHARED}:tune_prefixes",
        {
            **_config(base.config["seed"], steps, test_sequences, model=base.config["model"]),
            "batch_size": batch_size,
            "task": "sort_descending",
            "evaluate": list(SORTS),
            "length": length,
            "cells": [{"learning_rate": rate, "init_std": INIT_STD} for rate in rates],
            **FREE_PREFIX,
        },
        needs=(base,),
    )


def plan(
    seeds: int,
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
    depths : sequence of int
        Layers of the models, each at least 1.
    width, n_head : int
        Of every model; `n_head` divides `width`.
    pretrain_steps, adapt_steps : int
        Of the sorter (the one that sorts either way has twice as many), and of every way to adapt
        it; at least 10.
    pretrain_rate : float
        Highest learning rate of pretraining, > 0.
    weight_rates, lora_rates, prefix_rates : sequences of float
        The sweeps of fine-tuning, LoRA and prefixes, > 0.
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

    def fine_tune(base: Run) -> tuple[Run, ...]:
        return tuple(
            Run(
                f"{SHARED}:fine_tune",
                _adapting(base, learning_rate=rate, learned=[""]),
                needs=(base,),
            )
            for rate in weight_rates
        )

    def lora(base: Run, modules: Sequence[str]) -> tuple[Run, ...]:
        cells = [{"learning_rate": rate, "init_std": LORA_INIT_STD} for rate in lora_rates]
        config = _adapting(base, rank=lora_rank, modules=list(modules), cells=cells)
        return (Run(f"{SHARED}:tune_lora", config, needs=(base,)),)

    def _adapting(base: Run, **more: Any) -> dict[str, Any]:
        return _config(
            base.config["seed"],
            adapt_steps,
            test_sequences,
            model=base.config["model"],
            task="sort_descending",
            evaluate=list(SORTS),
            **more,
        )

    def prefixes(base: Run) -> tuple[Run, ...]:
        return (prefix_run(base, adapt_steps, prefix_length, prefix_rates, test_sequences),)

    bases = {
        depth: [
            base_runs(seed, depth, width, n_head, pretrain_steps, pretrain_rate, test_sequences)
            for seed in range(seeds)
        ]
        for depth in depths
    }
    ascending = {depth: tuple(one for one, _ in pairs) for depth, pairs in bases.items()}
    either = {depth: tuple(both for _, both in pairs) for depth, pairs in bases.items()}
    makers = {
        "prefix": (ascending, prefixes),
        "LoRA on MLPs": (ascending, lambda base: lora(base, MLP)),
        "LoRA on attention": (ascending, lambda base: lora(base, ATTENTION)),
        "fine-tuning": (ascending, fine_tune),
        "prefix, elicits": (either, prefixes),
    }
    return DepthPlan(
        ascending=ascending,
        either=either,
        ways={
            way: {depth: tuple(map(make, runs)) for depth, runs in from_bases.items()}
            for way, (from_bases, make) in makers.items()
        },
    )


def _config(seed: int, steps: int, test_sequences: int, **more: Any) -> dict[str, Any]:
    return {
        "seed": seed,
        "steps": steps,
        "warmup": int(WARMUP_SHARE * steps),
        "batch_size": BATCH_SIZE,
        "test_sequences": test_sequences,
        **more,
    }

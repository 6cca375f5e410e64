"""Which training runs answer the question of the chapter "Long prefixes"?

The base models are those of the chapter "Beyond one layer", at one depth: one that sorts upwards,
for which sorting downwards is new, and one that has learned both directions. Prefixes of several
lengths are to make each sort downwards, every length with the same steps and the same sweep of
learning rates and init scales. Beside them, a few prefixes of length one from different starting
points, to be combined.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from promptlib.prefix_tuning.depth.plan import base_runs, prefix_run
from promptlib.prefix_tuning.experiment_runs import check_counts, check_positive
from promptlib.runs import Run

BATCH_SIZE = 32

QUESTIONS = ("new task", "known task")
"""Sorting downwards, asked of a model that has learned upwards, and of one that knows both."""


@dataclass(frozen=True)
class LongPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    bases : mapping of tuple of Run
        By question, one for each seed.
    sweeps : mapping of mapping of tuple of Run
        By question and length, one for each seed.
    short : mapping of tuple of Run
        By question: several prefixes of length one in a run, one run for each seed.
    """

    bases: Mapping[str, tuple[Run, ...]]
    sweeps: Mapping[str, Mapping[int, tuple[Run, ...]]]
    short: Mapping[str, tuple[Run, ...]]

    def __iter__(self) -> Iterator[Run]:
        for runs in self.bases.values():
            yield from runs
        for by_length in self.sweeps.values():
            for runs in by_length.values():
                yield from runs
        for runs in self.short.values():
            yield from runs


def plan(
    seeds: int,
    n_layer: int,
    width: int,
    n_head: int,
    pretrain_steps: int,
    pretrain_rate: float,
    lengths: Sequence[int],
    tune_steps: int,
    learning_rates: Sequence[float],
    init_stds: Sequence[float],
    short_prefixes: int,
    short_rate: float,
    test_sequences: int,
) -> LongPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    n_layer, width, n_head, pretrain_steps, pretrain_rate, test_sequences
        Of the base models; see `promptlib.prefix_tuning.depth.plan.plan`.
    lengths : sequence of int
        Increasing, each at least 1.
    tune_steps : int
        Of every prefix, at least 10.
    learning_rates, init_stds : sequences of float
        The sweep of each length is over all pairs.
    short_prefixes : int
        Prefixes of length one to be combined, at least 2.
    short_rate : float
        Their learning rate, > 0; they start from the largest of `init_stds`.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    check_counts(
        seeds=(seeds, 1),
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
        short_rate=[short_rate],
    )
    if width % n_head:
        raise ValueError(f"n_head={n_head} does not divide width={width}")
    if not lengths or min(lengths) < 1 or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"lengths must increase from at least 1, got {list(lengths)!r}")

    def tune(base: Run, length: int, cells: Sequence[tuple[float, float]]) -> Run:
        run = prefix_run(base, tune_steps, length, [0.1], test_sequences, BATCH_SIZE)
        sweep = [{"learning_rate": rate, "init_std": std} for rate, std in cells]
        return Run(run.train, {**run.config, "cells": sweep}, run.needs)

    pairs = [
        base_runs(seed, n_layer, width, n_head, pretrain_steps, pretrain_rate, test_sequences)
        for seed in range(seeds)
    ]
    bases = {name: tuple(pair[place] for pair in pairs) for place, name in enumerate(QUESTIONS)}
    grid = [(rate, std) for rate in learning_rates for std in init_stds]
    alike = [(short_rate, max(init_stds))] * short_prefixes
    return LongPlan(
        bases=bases,
        sweeps={
            name: {length: tuple(tune(base, length, grid) for base in runs) for length in lengths}
            for name, runs in bases.items()
        },
        short={name: tuple(tune(base, 1, alike) for base in runs) for name, runs in bases.items()},
    )

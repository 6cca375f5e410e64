"""Which training runs answer the question of the chapter "Long prefixes"?

The base models are those of the chapter "Beyond one layer", at one depth: one that sorts upwards,
for which sorting downwards is new, and one that has learned both directions. Prefixes of several
lengths are to make each sort downwards, every length with the same steps and the same sweep of
learning rates and init scales. The control is fine-tuning with as many steps. For the known task
there are a few prefixes of length one from different starting points, too, to be combined.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from notebooks.prefix_tuning.beyond_one_layer.plan import base_runs, fine_tune_runs, prefix_run
from promptlib.checks import check_public
from promptlib.prefix_tuning.planning import cells, check_counts, check_positive
from promptlib.runs import Run

QUESTIONS = ("new task", "known task")
"""Sorting downwards, asked of a model that has learned upwards, and of one that knows both."""
NEW, KNOWN = QUESTIONS


@dataclass(frozen=True)
class LongPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    bases : mapping of tuple of Run
        By question, one for each seed.
    sweeps : mapping of mapping of tuple of Run
        By question and length, one for each seed.
    control : tuple of tuple of Run
        For each seed: fine-tuning on the new task, a run for each learning rate.
    short : tuple of Run
        For each seed: several prefixes of length one for the known task in a run.
    """

    bases: Mapping[str, tuple[Run, ...]]
    sweeps: Mapping[str, Mapping[int, tuple[Run, ...]]]
    control: tuple[tuple[Run, ...], ...]
    short: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        for runs in self.bases.values():
            yield from runs
        for by_length in self.sweeps.values():
            for runs in by_length.values():
                yield from runs
        for runs in self.control:
            yield from runs
        yield from self.short


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
) -> LongPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    n_layer, width, n_head, pretrain_steps, pretrain_rate, test_sequences
        Of the base models; see `notebooks.prefix_tuning.beyond_one_layer.plan.plan`.
    lengths : sequence of int
        Increasing, each at least 1.
    tune_steps : int
        Of every prefix, at least 10.
    learning_rates, init_stds : sequences of float
        The sweep of each length is over all pairs.
    weight_rates : sequence of float
        The sweep of fine-tuning, > 0; no longer than that of a length.
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
    bases = {name: tuple(pair[place] for pair in pairs) for place, name in enumerate(QUESTIONS)}
    alike = cells([short_rate], [max(init_stds)]) * short_prefixes
    return LongPlan(
        bases=bases,
        sweeps={
            name: {
                length: tuple(prefix_run(base, tune_steps, length, grid) for base in runs)
                for length in lengths
            }
            for name, runs in bases.items()
        },
        control=tuple(fine_tune_runs(base, tune_steps, weight_rates) for base in bases[NEW]),
        short=tuple(prefix_run(base, tune_steps, 1, alike) for base in bases[KNOWN]),
    )


check_public(__name__)

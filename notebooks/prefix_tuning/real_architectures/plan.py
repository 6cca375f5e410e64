"""Which training runs ask how far a prefix can move the meaning of sentences?

A prefix inside the frozen sentence encoder is trained to move embeddings, either all to *one place*
(the embedding of one further sentence), or each to *its own*: to where the next sentence of the
list is without a prefix. The theorems make the first easy, a bias towards fixed points, and the
second hard, and the more so the more sentences there are.

Plain data; imports neither torch nor the extra, so that the workflow can read it. Without the extra
there is nothing to train and the plan is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

from notebooks.prefix_tuning.real_architectures import extra
from notebooks.prefix_tuning.real_architectures.sentences import SENTENCES
from promptlib.prefix_tuning.trials import Plan, labelled
from promptlib.runs import Run

AIMS = ("one place", "its own place")
TRAINING = "notebooks.prefix_tuning.real_architectures.training:steer"
LEARNING_RATE = 0.1
INIT_SCALE = 0.1
"""Of the prefix, against keys and values of real tokens."""


def plan(
    steer_seeds: int,
    first_seed: int,
    steer_steps: int,
    steer_lengths: Sequence[int],
    crowds: Sequence[int],
) -> Plan:
    """A run for every seed and ``length`` of prefix; each trains one for every aim and crowd."""
    for name, counts, low, high in (
        ("steer_seeds", [steer_seeds], 1, 10**6),
        ("first_seed", [first_seed], 0, 10**6),
        ("steer_steps", [steer_steps], 2, 10**6),
        ("steer_lengths", steer_lengths, 1, 512),
        ("crowds", crowds, 1, len(SENTENCES)),
    ):
        if not counts or not all(isinstance(n, int) and low <= n <= high for n in counts):
            raise ValueError(f"{name} must lie in [{low}, {high}], got {list(counts)}")
    if not extra.installed():
        return Plan(())
    runs = [
        labelled(_steer(seed, length, steer_steps, crowds), length=length)
        for length in steer_lengths
        for seed in range(first_seed, first_seed + steer_seeds)
    ]
    return sum(runs, start=Plan(()))


def _steer(seed: int, length: int, steps: int, crowds: Sequence[int]) -> Run:
    return Run(
        TRAINING,
        {
            "seed": seed,
            "length": length,
            "crowds": list(crowds),
            "aims": list(AIMS),
            "steps": steps,
            "warmup": max(1, steps // 10),
            "learning_rate": LEARNING_RATE,
            "init_scale": INIT_SCALE,
            "packages": extra.versions(),
        },
    )

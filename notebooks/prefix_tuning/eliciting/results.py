"""What do prefixes do to known tasks, and which of a sweep counts?

Accuracies are in percent; the last dimension of an array is seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from notebooks.prefix_tuning.eliciting.plan import (
    N_HEAD,
    PUBLISHED_ARM,
    PUBLISHED_WIDTH,
    SMALL_INIT_STD,
    SWEPT,
)
from promptlib.prefix_tuning import published as published_figures
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.planning import MIXED, model_of
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trials import Get, Trial, Trials, rebuild

GUESSING_LOSS = math.log(len(MIXED)) / 10
"""Nats a symbol of a model that knows all but the task."""

IN_WORDS = {
    "sort_ascending": "sort ascending",
    "sort_descending": "sort descending",
    "add_one": "add one",
    "add_two": "add two",
}
"""The tasks of the mixture, as the chapter names them."""


def differs(trials: Trials) -> tuple[str, ...]:
    """How the model of the published arm differs from the published one, in words."""
    ours = trials.where(norm="without")[0].run.config["model"]
    published = model_of(1, N_HEAD, PUBLISHED_WIDTH, first_layer_norm=False)
    return published_figures.differs(ours, published)


def without_prefix(trials: Trials) -> np.ndarray:
    """Accuracies of the pretrained model without first LayerNorm, (tasks, seeds)."""
    return np.array([trials.where(norm="without").percent(task) for task in MIXED])


def init_stds(trials: Trials) -> list[float]:
    """Initial scales of the swept tasks, from the smallest."""
    swept = trials.where(arm=PUBLISHED_ARM, task=SWEPT)
    return sorted({one.init_std for one in swept if one.init_std is not None})


def best(trials: Trials, arm: str, task: str, init_std: float | None = None) -> Trials:
    """The best prefix of each seed for its task, of all or of one initial scale."""
    tried = trials.where(arm=arm, task=task)
    return Trials(tuple(one for one in tried if init_std in (None, one.init_std))).best()


def own_task(
    trials: Trials, arm: str, init_std: float | None = None, tasks: Sequence[str] = MIXED
) -> np.ndarray:
    """Accuracy of the best prefix for each task on its own one, (tasks, seeds)."""
    return np.array([best(trials, arm, task, init_std).percent() for task in tasks])


def every_task(trials: Trials) -> np.ndarray:
    """Accuracy of each task's prefix, published arm, on each task, (prefixes, tasks, seeds)."""
    prefixes = [best(trials, PUBLISHED_ARM, task) for task in MIXED]
    return np.array([[ones.percent(other) for other in MIXED] for ones in prefixes])


def leaks(trials: Trials) -> np.ndarray:
    """For each seed the highest accuracy of a prefix, published arm, on a task not its own."""
    others = ~np.eye(len(MIXED), dtype=bool)
    return every_task(trials)[others].max(axis=0)


def differences(trials: Trials, arm: str, other: str) -> np.ndarray:
    """For each seed by how much one arm exceeds another, mean over tasks, in points.

    Only the initial scale that all arms have counts, so that their sweeps are equal. The models of
    two arms may differ, but the data that they learned from do not.
    """
    ours, theirs = (own_task(trials, name, SMALL_INIT_STD) for name in (arm, other))
    return (ours - theirs).mean(axis=0)


def losses_of_scale(trials: Trials) -> np.ndarray:
    """For each seed what the largest initial scale loses against the smallest, in points.

    Published arm, mean over `SWEPT`; of each scale the best learning rate counts.
    """
    small, large = (
        own_task(trials, PUBLISHED_ARM, std, SWEPT)
        for std in (SMALL_INIT_STD, init_stds(trials)[-1])
    )
    return (small - large).mean(axis=0)


def steps_until(trial: Trial, loss: float = GUESSING_LOSS / 2) -> int | None:
    """The first step from which the training loss stays below `loss`, or None.

    The stored curve has a point for each hundredth of the training, the mean over it.
    """
    curve = trial.metrics["curve"]
    above = [place for place, value in enumerate(curve) if value >= loss]
    first = above[-1] + 1 if above else 0
    steps = trial.run.config["steps"]
    return None if first == len(curve) else round((first + 1) * steps / len(curve))


class Pair(NamedTuple):
    """A model with a prefix that was trained for it, both in float64."""

    model: GPT
    prefix: Prefix


def trained(trial: Trial, get: Get) -> Pair:
    """Load a prefix and its model."""
    model, prefix = rebuild(trial, get)
    assert prefix is not None
    return Pair(in_float64(model), in_float64(prefix))


def best_pairs(trials: Trials, get: Get, arm: str) -> list[dict[str, Pair]]:
    """Load the best prefixes of an arm: for each seed, by task."""
    prefixes = {task: best(trials, arm, task) for task in MIXED}
    seeds = zip(*prefixes.values(), strict=True)
    return [
        {task: trained(one, get) for task, one in zip(prefixes, ones, strict=True)}
        for ones in seeds
    ]

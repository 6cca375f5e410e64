"""How does a model learn to sort either way, with nothing in the input that tells which?

One function for the run store. Whatever else the chapter "Beyond one layer" trains, it trains as
the other experiments of this part do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.experiment_training import CURVE_POINTS, measure
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.tasks import (
    SORT_ASCENDING,
    SORT_DESCENDING,
    Mixture,
    batches,
)
from promptlib.runs import Result
from promptlib.training import Progress, Recipe, train, weights_of

EITHER_SORT = Mixture("either_sort", (SORT_ASCENDING, SORT_DESCENDING))
"""Upwards or downwards, by a fair coin that the input does not show."""


def pretrain_either(
    config: Mapping[str, Any], needs: Sequence[Result], progress: Progress
) -> Result:
    """Train a model from nothing to sort either way."""
    model = GPT(GPTConfig(**config["model"]), _generator(config, "weights"))
    data = batches(EITHER_SORT, config["steps"], config["batch_size"], _generator(config, "data"))
    curve = train(
        [weights_of(model, config["learning_rate"])],
        lambda batch: sequence_loss(model, *batch),
        data,
        Recipe(config["steps"], config["warmup"]),
        label=f"pretraining both ways, seed {config['seed']}",
        progress=progress,
    )
    pieces = curve[:, 0].tensor_split(min(CURVE_POINTS, len(curve)))
    metrics = {**measure(model, config), "curve": [float(piece.mean()) for piece in pieces]}
    return Result(metrics, dict(model.state_dict()))


def _generator(config: Mapping[str, Any], purpose: str) -> torch.Generator:
    """Return the stream of random numbers of a seed for one purpose; streams do not overlap."""
    purposes = ("weights", "data")
    return torch.Generator().manual_seed(len(purposes) * config["seed"] + purposes.index(purpose))

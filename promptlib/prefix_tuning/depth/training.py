"""How are the runs of the chapter "Beyond one layer" trained, as far as no other chapter does it?

Two functions for the run store: pretraining on both directions of sorting, and LoRA. Fine-tuning
and prefixes are trained as in the chapter "A new task".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.experiment_training import CURVE_POINTS, load_model, measure
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.tasks import (
    SORT_ASCENDING,
    SORT_DESCENDING,
    Mixture,
    Task,
    batches,
    task_named,
)
from promptlib.runs import Result
from promptlib.training import Learner, Progress, Recipe, train, weights_of

EITHER_SORT = Mixture("either_sort", (SORT_ASCENDING, SORT_DESCENDING))
"""Upwards or downwards, by a fair coin that the input does not show."""


def pretrain_either(
    config: Mapping[str, Any], needs: Sequence[Result], progress: Progress
) -> Result:
    """Train a model from nothing to sort either way."""
    model = GPT(GPTConfig(**config["model"]), _generator(config, "weights"))
    learner = weights_of(model, config["learning_rate"])
    label = f"pretraining both ways, seed {config['seed']}"
    curve = _train(model, learner, EITHER_SORT, config, progress, label)
    return Result({**measure(model, config), "curve": curve}, dict(model.state_dict()))


def tune_lora(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a LoRA of ``config["rank"]`` on ``config["modules"]`` of the model of ``needs[0]``."""
    model = load_model(config, needs[0])
    learned = add_lora(model, config["rank"], config["modules"], _generator(config, "lora"))
    learner = Learner("the LoRA", [], learned, config["learning_rate"])
    label = f"LoRA on {len(config['modules'])} modules, seed {config['seed']}"
    curve = _train(model, learner, task_named(config["task"]), config, progress, label)
    metrics = {
        **measure(model, config),
        "curve": curve,
        "parameters": sum(parameter.numel() for parameter in learned),
    }
    tensors = {name: value for name, value in model.state_dict().items() if _corrects(name)}
    return Result(metrics, tensors)


def load_lora(config: Mapping[str, Any], base: Result, result: Result) -> GPT:
    """Rebuild the model of a `tune_lora` run, corrections in place."""
    model = load_model(config, base)
    add_lora(model, config["rank"], config["modules"])
    model.load_state_dict(dict(result.tensors), strict=False)
    return model


def _corrects(name: str) -> bool:
    return name.endswith((".down", ".up"))


def _train(
    model: GPT,
    learner: Learner,
    task: Task | Mixture,
    config: Mapping[str, Any],
    progress: Progress,
    label: str,
) -> list[float]:
    data = batches(task, config["steps"], config["batch_size"], _generator(config, "data"))
    curve: Tensor = train(
        [learner],
        lambda batch: sequence_loss(model, *batch),
        data,
        Recipe(config["steps"], config["warmup"]),
        label=label,
        progress=progress,
    )
    return [float(part.mean()) for part in curve.tensor_split(min(CURVE_POINTS, len(curve)))]


def _generator(config: Mapping[str, Any], purpose: str) -> torch.Generator:
    """Return the stream of random numbers of a seed for one purpose; streams do not overlap."""
    purposes = ("weights", "data", "lora")
    return torch.Generator().manual_seed(len(purposes) * config["seed"] + purposes.index(purpose))

"""How is each run of the chapter "A new task" trained and measured?

Three functions for the run store. All call the same loop; they differ in the parameters that they
hand to it. Which runs there are, and with which numbers, stands in
`promptlib.prefix_tuning.new_task`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptlib.prefix_tuning.evaluation import sequence_accuracy, sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import batches, check_vocabulary, read_and_answer, task_named
from promptlib.runs import Result
from promptlib.training import (
    Learner,
    Progress,
    Recipe,
    flushed_denormals,
    freeze,
    train,
    weights_of,
)

CURVE_POINTS = 100
"""Points of a stored learning curve; each is the mean of the steps since the last."""

TEST_SEED = 2024
"""Every accuracy and test loss is measured on the same sequences."""


def pretrain(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a model from nothing on ``config["task"]``."""
    model = GPT(GPTConfig(**config["model"]), _generator(config, "weights"))
    return _train_weights(model, [""], config, progress, f"pretraining, seed {config['seed']}")


def fine_tune(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Go on training weights of the model of ``needs[0]``.

    ``config["learned"]`` lists parts of the names of the parameters that change; the empty string
    is part of every name.
    """
    model = load_model(config, needs[0])
    label = f"fine-tuning, seed {config['seed']}"
    return _train_weights(model, config["learned"], config, progress, label)


def tune_prefixes(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a prefix for each of ``config["cells"]``, with the model of ``needs[0]`` frozen.

    All prefixes see the same batches. Each cell has its own learning rate and init scale.
    """
    model = load_model(config, needs[0])
    freeze(model)
    generator = _generator(config, "prefix")
    prefixes = [_new_prefix(config, cell["init_std"], generator) for cell in config["cells"]]
    learners = [
        Learner(
            f"the prefix with init scale {cell['init_std']:g}",
            decayed=[],
            undecayed=list(prefix.parameters()),
            learning_rate=cell["learning_rate"],
        )
        for cell, prefix in zip(config["cells"], prefixes, strict=True)
    ]
    together = PrefixBatch(prefixes)
    curve = train(
        learners,
        lambda batch: sequence_loss(model, batch[0], batch[1], together),
        _training_batches(model, config),
        _recipe(config),
        label=f"{len(prefixes)} prefixes, seed {config['seed']}",
        progress=progress,
    )
    cells = [
        {**cell, **measure(model, config, prefix), "curve": _thin(curve[:, index])}
        for index, (cell, prefix) in enumerate(zip(config["cells"], prefixes, strict=True))
    ]
    tensors = {
        f"{index}.{name}": tensor
        for index, prefix in enumerate(prefixes)
        for name, tensor in prefix.state_dict().items()
    }
    return Result({"cells": cells}, tensors)


def load_model(config: Mapping[str, Any], result: Result) -> GPT:
    """Rebuild the model of a run from its config and result."""
    model = GPT(GPTConfig(**config["model"]))
    model.load_state_dict(result.tensors)
    return model


def load_prefix(config: Mapping[str, Any], result: Result, cell: int) -> Prefix:
    """Rebuild the prefix of one cell of a `tune_prefixes` run."""
    prefix = _new_prefix(config, 1.0, None)
    names = prefix.state_dict()
    prefix.load_state_dict({name: result.tensors[f"{cell}.{name}"] for name in names})
    return prefix


@torch.no_grad()
@flushed_denormals()
def measure(
    model: GPT, config: Mapping[str, Any], prefix: Prefix | None = None
) -> dict[str, dict[str, float]]:
    """Measure accuracy, in [0, 1], and loss, in nats a symbol, on each task to evaluate."""
    accuracy, loss = {}, {}
    for name in config["evaluate"]:
        task, n = task_named(name), config["test_sequences"]
        accuracy[name] = sequence_accuracy(model, task, n, prefix, _test_generator())
        inputs, targets = task.sample(n, "test", _test_generator())
        tokens = read_and_answer(inputs, targets)
        loss[name] = float(sequence_loss(model, tokens, targets, prefix))
    return {"accuracy": accuracy, "loss": loss}


def _train_weights(
    model: GPT, learned: Sequence[str], config: Mapping[str, Any], progress: Progress, label: str
) -> Result:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in learned))
    learner = weights_of(model, config["learning_rate"])
    curve = train(
        [learner],
        lambda batch: sequence_loss(model, *batch),
        _training_batches(model, config),
        _recipe(config),
        label=label,
        progress=progress,
    )
    metrics = {**measure(model, config), "curve": _thin(curve[:, 0])}
    return Result(metrics, dict(model.state_dict()))


def _training_batches(model: GPT, config: Mapping[str, Any]) -> Any:
    task = task_named(config["task"])
    check_vocabulary(task, model.config.vocab_size)
    return batches(task, config["steps"], config["batch_size"], _generator(config, "data"))


def _recipe(config: Mapping[str, Any]) -> Recipe:
    return Recipe(config["steps"], config["warmup"])


def _new_prefix(
    config: Mapping[str, Any], init_std: float, generator: torch.Generator | None
) -> Prefix:
    return Prefix(
        config["model"]["n_layer"],
        config["length"],
        config["model"]["n_embd"],
        init_std,
        generator,
        separate_values=config["separate_values"],
        layer_norm=config["layer_norm"],
    )


def _generator(config: Mapping[str, Any], purpose: str) -> torch.Generator:
    """Return the stream of random numbers of a seed for one purpose; streams do not overlap."""
    purposes = ("weights", "data", "prefix")
    return torch.Generator().manual_seed(len(purposes) * config["seed"] + purposes.index(purpose))


def _test_generator() -> torch.Generator:
    return torch.Generator().manual_seed(TEST_SEED)


def _thin(curve: Tensor) -> list[float]:
    pieces = min(CURVE_POINTS, len(curve))
    return [float(piece.mean()) for piece in curve.tensor_split(pieces)]

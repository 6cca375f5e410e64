"""How is a model pretrained, fine-tuned, or adapted by prefixes and LoRA, and then measured?

Four functions for the run store. All call the same loop; they differ in the parameters that they
hand to it. What a run's config holds stands in `promptlib.prefix_tuning.planning`.

Training runs on a GPU if there is one. Random numbers are drawn on the CPU, so that the data are
the same either way. Everything is measured in float32, whatever the precision of training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.evaluation import Answering, score, sequence_accuracy, sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora, share_pass
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import Split, batches, check_vocabulary, task_named
from promptlib.runs import Result
from promptlib.training import (
    Learner,
    Progress,
    Recipe,
    flushed_denormals,
    freeze,
    products_in,
    train,
    weights_of,
)

CURVE_POINTS = 100
"""Points of a stored learning curve; each is the mean of the steps since the last."""

PURPOSES = ("weights", "data", "prefix", "lora", "test", "validation", "compare", "planted")
"""What a seed draws random numbers for; see `generator_for`."""

STREAMS = 16
"""Streams of a seed, more than there are purposes, so that a further purpose moves no other."""

CHECKPOINT_SEQUENCES = 1000
"""Most test sequences for an accuracy on the way."""

Batch = tuple[Tensor, Tensor]


def pretrain(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a model from nothing on ``config["task"]``, with AdamW or ``config["optimiser"]``."""
    model = GPT(GPTConfig(**config["model"]), generator_for(config, "weights")).to(_device())
    return _train_weights(model, [""], config, progress, f"pretraining, seed {config['seed']}")


def fine_tune(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Go on training weights of the model of ``needs[0]``.

    ``config["learned"]`` lists parts of the names of the parameters that change; the empty string
    is part of every name.
    """
    model = load_model(config, needs[0]).to(_device())
    label = f"fine-tuning, seed {config['seed']}"
    return _train_weights(model, config["learned"], config, progress, label)


def tune_prefixes(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a prefix for each of ``config["cells"]``, with the model of ``needs[0]`` frozen.

    All prefixes see the same batches. Each cell has its own learning rate and init scale.
    """
    model = load_model(config, needs[0]).to(_device())
    freeze(model)
    generator = generator_for(config, "prefix")
    prefixes = [
        new_prefix(config, cell["init_std"], generator).to(_device()) for cell in config["cells"]
    ]
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

    def loss(batch: Batch) -> Tensor:
        with _precision(config):
            return sequence_loss(model, *batch, together)

    checkpoints = _Checkpoints(config, [(model, prefix) for prefix in prefixes])
    curve = train(
        learners,
        loss,
        checkpoints.between(_training_batches(model, config)),
        _recipe(config),
        label=f"{len(prefixes)} prefixes, seed {config['seed']}",
        progress=progress,
    )
    measured = [
        {
            **cell,
            **measure(model, config, prefix),
            "parameters": sum(parameter.numel() for parameter in prefix.parameters()),
            "curve": thinned(curve[:, index]),
            **checkpoints.of(index),
        }
        for index, (cell, prefix) in enumerate(zip(config["cells"], prefixes, strict=True))
    ]
    tensors = {
        f"{index}.{name}": tensor.cpu()
        for index, prefix in enumerate(prefixes)
        for name, tensor in prefix.state_dict().items()
    }
    return Result({"cells": measured}, tensors)


def tune_lora(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a LoRA for each of ``config["cells"]``, with the model of ``needs[0]`` frozen.

    All see the same batches, and share the passes through the frozen layers. Each cell has its own
    learning rate, and its own init scale for the factor that does not start at zero; the noise that
    it scales is the same. So a cell gets what a run of it alone would get, but for rounding.
    """
    models, learners = [], []
    for cell in config["cells"]:
        model = load_model(config, needs[0]).to(_device())
        generator = generator_for(config, "lora")
        learned = add_lora(
            model, config["rank"], config["modules"], generator, init_std=cell["init_std"]
        )
        name = f"the LoRA with init scale {cell['init_std']:g}"
        learners.append(
            Learner(name, decayed=[], undecayed=learned, learning_rate=cell["learning_rate"])
        )
        models.append(model)
    together = share_pass(models) if len(models) > 1 else models[0]
    label = f"{len(models)} LoRA of rank {config['rank']}, seed {config['seed']}"
    trained = _train_learners(together, models, learners, config, progress, label)
    measured = [
        {**cell, **of_cell, "parameters": sum(part.numel() for part in learner.parameters)}
        for cell, of_cell, learner in zip(config["cells"], trained, learners, strict=True)
    ]
    tensors = {
        f"{index}.{name}": tensor.cpu()
        for index, model in enumerate(models)
        for name, tensor in model.state_dict().items()
        if name.endswith((".down", ".up"))
    }
    return Result({"cells": measured}, tensors)


def load_model(config: Mapping[str, Any], result: Result) -> GPT:
    """Rebuild the model of a run from its config and result."""
    model = GPT(GPTConfig(**config["model"]))
    model.load_state_dict(result.tensors)
    return model


def load_prefix(config: Mapping[str, Any], result: Result, cell: int) -> Prefix:
    """Rebuild the prefix of one cell of a `tune_prefixes` run."""
    prefix = new_prefix(config, 1.0, None)
    names = prefix.state_dict()
    prefix.load_state_dict({name: result.tensors[f"{cell}.{name}"] for name in names})
    return prefix


def load_lora(config: Mapping[str, Any], base: Result, result: Result, cell: int) -> GPT:
    """Rebuild the model of one cell of a `tune_lora` run, corrections in place."""
    model = load_model(config, base)
    add_lora(model, config["rank"], config["modules"])
    beginning = f"{cell}."
    corrections = {
        name.removeprefix(beginning): tensor
        for name, tensor in result.tensors.items()
        if name.startswith(beginning)
    }
    missing = model.load_state_dict(corrections, strict=False).missing_keys
    if any(name.endswith((".down", ".up")) for name in missing):
        raise ValueError(f"the run has no cell {cell}; it has {len(config['cells'])}")
    return model


@torch.no_grad()
@flushed_denormals()
def measure(
    model: Answering, config: Mapping[str, Any], prefix: Prefix | None = None
) -> dict[str, dict[str, float]]:
    """Measure accuracy, in [0, 1], and loss, in nats a symbol.

    Each seed draws its own sequences, and whatever is trained from it meets the same ones.

    Returns
    -------
    dict
        ``accuracy`` and ``loss`` on the test split, by task of ``config["evaluate"]``. If the run
        adapts a model, and so has a setting to choose, ``validation`` holds both for its own task
        on the validation split.
    """

    def of(name: str, split: Split) -> tuple[float, float]:
        generator = generator_for(config, split)
        return score(model, task_named(name), config["test_sequences"], split, prefix, generator)

    tested = {name: of(name, "test") for name in config["evaluate"]}
    measured = {
        "accuracy": {name: accuracy for name, (accuracy, _) in tested.items()},
        "loss": {name: loss for name, (_, loss) in tested.items()},
    }
    if "learned" in config or "cells" in config:  # pretraining has neither
        accuracy, loss = of(config["task"], "validation")
        measured["validation"] = {"accuracy": accuracy, "loss": loss}
    return measured


def _train_weights(
    model: GPT, learned: Sequence[str], config: Mapping[str, Any], progress: Progress, label: str
) -> Result:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in learned))
    learner = weights_of(model, config["learning_rate"], config.get("optimiser", "adamw"))
    (metrics,) = _train_learners(model, [model], [learner], config, progress, label)
    return Result(metrics, {name: value.cpu() for name, value in model.state_dict().items()})


def _train_learners(
    together: GPT,
    models: Sequence[GPT],
    learners: Sequence[Learner],
    config: Mapping[str, Any],
    progress: Progress,
    label: str,
) -> list[dict[str, Any]]:
    """Train a learner in each model, in place, and return what was measured of each.

    `together` answers for all models in one pass; a single model can do so itself.
    """

    def loss(batch: Batch) -> Tensor:
        with _precision(config):
            return sequence_loss(together, *batch)

    checkpoints = _Checkpoints(config, [(model, None) for model in models])
    curve = train(
        learners,
        loss,
        checkpoints.between(_training_batches(together, config)),
        _recipe(config),
        label=label,
        progress=progress,
    )
    return [
        {**measure(model, config), "curve": thinned(curve[:, index]), **checkpoints.of(index)}
        for index, model in enumerate(models)
    ]


class _Checkpoints:
    """Measures the accuracy on the task at evenly spaced steps, ``config["checkpoints"]`` times."""

    def __init__(
        self, config: Mapping[str, Any], measured: Sequence[tuple[GPT, Prefix | None]]
    ) -> None:
        count, steps = config.get("checkpoints", 0), config["steps"]
        self.steps = [steps * number // count for number in range(1, count + 1)]
        self.task = task_named(config["task"])
        self.n = min(CHECKPOINT_SEQUENCES, config["test_sequences"])
        self.measured = measured
        self.test = lambda: generator_for(config, "test")
        self.accuracy: list[list[float]] = [[] for _ in measured]

    def between(self, items: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the same batches, and measure before the step after each checkpoint."""
        for step, batch in enumerate(items):
            if step in self.steps:
                self.look()
            yield batch

    @torch.no_grad()
    def look(self) -> None:
        for series, (model, prefix) in zip(self.accuracy, self.measured, strict=True):
            series.append(sequence_accuracy(model, self.task, self.n, prefix, self.test()))

    def of(self, index: int) -> dict[str, Any]:
        """What was seen of one learner, its end included; nothing if nobody asked."""
        if not self.steps:
            return {}
        if len(self.accuracy[0]) < len(self.steps):
            self.look()
        return {"checkpoints": {"step": self.steps, "accuracy": self.accuracy[index]}}


def _training_batches(model: GPT, config: Mapping[str, Any]) -> Iterator[Batch]:
    task, device = task_named(config["task"]), _device()
    check_vocabulary(task, model.config.vocab_size)
    generator = generator_for(config, "data")
    for tokens, targets in batches(task, config["steps"], config["batch_size"], generator):
        yield tokens.to(device), targets.to(device)


def _precision(config: Mapping[str, Any]) -> AbstractContextManager[None]:
    return products_in(config.get("precision", "float32"), _device().type)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _recipe(config: Mapping[str, Any]) -> Recipe:
    return Recipe(config["steps"], config["warmup"])


def new_prefix(
    config: Mapping[str, Any], init_std: float, generator: torch.Generator | None
) -> Prefix:
    """Draw the untrained prefix of a run."""
    return Prefix(
        config["model"]["n_layer"],
        config["length"],
        config["model"]["n_embd"],
        init_std,
        generator,
        separate_values=config["separate_values"],
        layer_norm=config["layer_norm"],
    )


def generator_for(config: Mapping[str, Any] | int, purpose: str) -> torch.Generator:
    """Return the stream of random numbers of a seed for one purpose.

    Parameters
    ----------
    config : mapping or int
        Of a run, with its ``"seed"``, or the seed itself: a whole number of at least 0.
    purpose : str
        One of `PURPOSES`. No two pairs of seed and purpose share a stream.

    Raises
    ------
    ValueError
        If the seed is below 0 or the purpose is unknown.
    """
    seed = config if isinstance(config, int) else config["seed"]
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    if purpose not in PURPOSES:
        raise ValueError(f"no stream is for {purpose!r}; there are {', '.join(PURPOSES)}")
    return torch.Generator().manual_seed(STREAMS * seed + PURPOSES.index(purpose))


def thinned(curve: Tensor) -> list[float]:
    """Return the `CURVE_POINTS` points of a stored curve: means of the steps since the last."""
    pieces = min(CURVE_POINTS, len(curve))
    return [float(piece.mean()) for piece in curve.tensor_split(pieces)]


check_public(__name__)

"""How much attention do the trained models move, by which path, and which of a sweep counts?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer import paths
from notebooks.prefix_tuning.beyond_one_layer.plan import METHODS
from promptlib.prefix_tuning import movement
from promptlib.prefix_tuning.adapting import load_model
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.movement import Effect
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trials import Get, Trial, Trials, rebuild

OLD, NEW = "sort_ascending", "sort_descending"


def chosen(trials: Trials, get: Get, tokens: Tensor) -> Trials:
    """The best trial of every sweep, with ``moved``: how far relative attention moved on `tokens`.

    The lowest validation loss counts, for every method alike. Accuracy would not do: where all
    cells are near zero, it picks one by chance.
    """
    best = [
        trial
        for method in METHODS
        for sweep in trials.where(method=method).by("depth").values()
        for trial in sweep.best(by="loss")
    ]
    return Trials(tuple(_with_movement(trial, get, tokens) for trial in best))


def _with_movement(trial: Trial, get: Get, tokens: Tensor) -> Trial:
    before, after, prefix = models(trial, get)
    moved = movement.movement(before, after, tokens, prefix)  # (layers, heads)
    return replace(trial, metrics={**trial.metrics, "moved": moved})


def models(trial: Trial, get: Get) -> tuple[GPT, GPT, Prefix | None]:
    """The model before and after, in float64 (one and the same with a prefix), and the prefix."""
    model, prefix = rebuild(trial, get)
    after = in_float64(model)
    if prefix is not None:
        return after, after, in_float64(prefix)
    base = trial.run.needs[0]
    return in_float64(load_model(base.config, get(base))), after, None


def prefixed(trial: Trial, get: Get) -> tuple[GPT, Prefix]:
    """The model and its prefix, in float64."""
    model, _, prefix = models(trial, get)
    if prefix is None:
        raise ValueError("this model was adapted otherwise: it has no prefix")
    return model, prefix


def parameters(trial: Trial, get: Get) -> int:
    """How many numbers were trained."""
    if "parameters" in trial.metrics:  # of a LoRA, which is part of the rebuilt model's weights
        return int(trial.metrics["parameters"])
    _, after, prefix = models(trial, get)
    return sum(parameter.numel() for parameter in (prefix or after).parameters())


def deeper_movement(trial: Trial) -> float:
    """Movement above the first layer, mean over layers and heads, in percent of the attention."""
    moved = trial.metrics["moved"]
    if len(moved) < 2:
        raise ValueError("a model of one layer has no deeper layer; choose a depth of at least 2")
    return 100 * float(moved[1:].mean())


def path_shares(trial: Trial, get: Get, tokens: Tensor) -> dict[Effect, float]:
    """Deeper movement by the prefix, by its bias alone and by its fading alone, in percent."""
    model, prefix = prefixed(trial, get)
    by_path = paths.by_path(model, tokens, prefix)
    return {effect: 100 * float(moved[1:].mean()) for effect, moved in by_path.items()}


def way_left(model: GPT, prefix: Prefix, tokens: Tensor) -> dict[Effect, float]:
    """How far from where the whole prefix brings deeper attention each path alone leaves it.

    In percent of the whole movement: 0 has arrived, 100 is as far away as without a prefix.
    """
    whole = movement.movement(model, model, tokens, prefix)[1:].mean()
    apart = paths.from_whole(model, tokens, prefix)
    return {effect: 100 * float(rest[1:].mean() / whole) for effect, rest in apart.items()}


def best_rates(trials: Trials, best: Trials) -> list[str]:
    """Best learning rates by method and depth, a line each; a star marks an end of the sweep."""
    lines = []
    for method, of_method in best.by("method").items():
        for depth, seeds in of_method.by("depth").items():
            swept = [row.learning_rate for row in trials.where(method=method, depth=depth)]
            ends = {min(swept), max(swept)}
            rates = "  ".join(
                f"{one.learning_rate:g}{'*' * (one.learning_rate in ends)}" for one in seeds
            )
            lines.append(f"  {method}, depth {depth}:  {rates}")
    return lines


def test_tokens(n: int, seed: int) -> Tensor:
    """Test sequences of the new task as models read them, shape (n, 19)."""
    from promptlib.prefix_tuning.tasks import SORT_DESCENDING, read_and_answer

    inputs, targets = SORT_DESCENDING.sample(n, "test", torch.Generator().manual_seed(seed))
    return read_and_answer(inputs, targets)

"""Which numbers make a run: of pretraining, fine-tuning, prefixes, LoRA?

The chapters' plans say which runs there are; this module says what one run is: a training
function and a config with every number. Plain data, no torch, so that the workflow can read it.

The functions themselves are in `promptlib.prefix_tuning.adapting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptlib.checks import check_public
from promptlib.runs import Run

TRAINING = "promptlib.prefix_tuning.adapting"

VOCABULARY = 11
"""Symbols 0 to 10."""
BLOCK_SIZE = 19
"""Ten inputs and nine outputs."""

BATCH_SIZE = 64
"""Sequences of a training step, unless a plan asks for another number."""
SMALL_BATCH_SIZE = 16
"""Of whatever adapts the wide models: for the same time, four times as many steps help more."""
WARMUP_SHARE = 0.1
"""Part of the steps over which the learning rate rises."""

MIXED = ("sort_ascending", "sort_descending", "add_one", "add_two")
"""The tasks of the mixture."""

PARAMETRISATIONS: dict[str, dict[str, bool]] = {
    "shared": {"layer_norm": True, "separate_values": False},
    "free": {"layer_norm": False, "separate_values": True},
    "separate": {"layer_norm": True, "separate_values": True},
    "unnormalised": {"layer_norm": False, "separate_values": False},
}
"""Four ways to make keys and values of a prefix.

shared: one vector passes through LayerNorm and serves as key and value, as content does.
free: two vectors without LayerNorm, the ``past_key_values`` of common implementations.
separate: two vectors, both through LayerNorm. unnormalised: one vector, not through LayerNorm.
Two vectors are twice as many parameters as one.
"""


def model_of(
    n_layer: int, n_head: int, n_embd: int, first_layer_norm: bool = True, gelu: str = "tanh"
) -> dict[str, Any]:
    """Return the config of a model that reads and answers the tasks."""
    model: dict[str, Any] = {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_embd": n_embd,
        "vocab_size": VOCABULARY,
        "block_size": BLOCK_SIZE,
        "first_layer_norm": first_layer_norm,
    }
    if gelu != "tanh":  # as published; the names of such runs are as they were
        model["gelu"] = gelu
    return model


def cells(learning_rates: Sequence[float], init_stds: Sequence[float]) -> list[dict[str, float]]:
    """Return all pairs of a sweep."""
    return [
        {"learning_rate": rate, "init_std": std} for rate in learning_rates for std in init_stds
    ]


def pretrain(
    model: Mapping[str, Any],
    task: str,
    *,
    seed: int,
    steps: int,
    learning_rate: float,
    evaluate: Sequence[str],
    test_sequences: int,
    precision: str = "float32",
    optimiser: str = "adamw",
) -> Run:
    """Train all weights of a new model on one task or mixture."""
    config = {
        **_config(seed, steps, evaluate, test_sequences, precision),
        "model": dict(model),
        "task": task,
        "learning_rate": learning_rate,
    }
    if optimiser != "adamw":  # as published; the names of such runs are as they were
        config["optimiser"] = optimiser
    return Run(f"{TRAINING}:pretrain", config)


def fine_tune(
    base: Run,
    task: str,
    *,
    steps: int,
    learning_rate: float,
    learned: Sequence[str] = ("",),
    **options: Any,
) -> Run:
    """Train on the weights of `base` whose names have a part in `learned`; all by default."""
    more = {"task": task, "learning_rate": learning_rate, "learned": list(learned)}
    return _adapt("fine_tune", base, steps, more, options)


def tune_prefixes(
    base: Run,
    task: str,
    *,
    steps: int,
    length: int,
    parametrisation: str,
    sweep: Sequence[Mapping[str, float]],
    **options: Any,
) -> Run:
    """Train a prefix for each cell of `sweep`, all in one pass through the frozen `base`."""
    more = {
        "task": task,
        "length": length,
        "cells": [dict(cell) for cell in sweep],
        **PARAMETRISATIONS[parametrisation],
    }
    return _adapt("tune_prefixes", base, steps, more, options)


def tune_lora(
    base: Run,
    task: str,
    *,
    steps: int,
    rank: int,
    modules: Sequence[str],
    sweep: Sequence[Mapping[str, float]],
    **options: Any,
) -> Run:
    """Train a LoRA for each cell of `sweep`, all in one pass through the frozen `base`."""
    more = {
        "task": task,
        "rank": rank,
        "modules": list(modules),
        "cells": [dict(cell) for cell in sweep],
    }
    return _adapt("tune_lora", base, steps, more, options)


def _adapt(
    function: str, base: Run, steps: int, more: Mapping[str, Any], options: Mapping[str, Any]
) -> Run:
    """Plan to adapt `base`; `options` replace what it would take over from the config of `base`.

    They are ``evaluate``, ``batch_size`` (else `BATCH_SIZE`) and ``checkpoints``, the number of
    times that the accuracy on the task is measured on the way.
    """
    taken = base.config
    config = _config(
        taken["seed"],
        steps,
        options.get("evaluate", taken["evaluate"]),
        taken["test_sequences"],
        taken.get("precision", "float32"),
    )
    for name in ("batch_size", "checkpoints"):
        if name in options:
            config[name] = options[name]
    return Run(f"{TRAINING}:{function}", {**config, "model": taken["model"], **more}, needs=(base,))


def _config(
    seed: int, steps: int, evaluate: Sequence[str], test_sequences: int, precision: str
) -> dict[str, Any]:
    return {
        "seed": seed,
        "steps": steps,
        "warmup": int(WARMUP_SHARE * steps),
        "batch_size": BATCH_SIZE,
        "evaluate": list(evaluate),
        "test_sequences": test_sequences,
        "precision": precision,
    }


def check_counts(**counts: tuple[Any, int]) -> None:
    """Raise a ValueError unless each is a whole number of at least what stands beside it."""
    for name, (count, least) in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")


def check_positive(**sweeps: Sequence[float]) -> None:
    """Raise a ValueError unless each is one or more numbers above 0."""
    for name, numbers in sweeps.items():
        if not numbers or not all(number > 0 for number in numbers):
            raise ValueError(f"{name} must be one or more numbers above 0, got {numbers!r}")


def check_precision(precision: str) -> None:
    """Raise a ValueError unless the matrix products of training can have this precision."""
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be 'float32' or 'bfloat16', got {precision!r}")


def check_pretraining(gelu: str, optimiser: str = "adamw") -> None:
    """Raise a ValueError unless models can have this GELU, and be pretrained by this optimiser."""
    if gelu not in ("tanh", "erf"):
        raise ValueError(f"gelu must be 'tanh' or 'erf', got {gelu!r}")
    if optimiser not in ("adamw", "muon"):
        raise ValueError(f"optimiser must be 'adamw' or 'muon', got {optimiser!r}")


def check_model(n_layer: int, width: int, n_head: int) -> None:
    """Raise a ValueError unless there can be a model of this size."""
    check_counts(n_layer=(n_layer, 1), width=(width, 1))
    if width % n_head:
        raise ValueError(f"width must be a multiple of the {n_head} heads, got {width}")


check_public(__name__)

"""What did each way to adapt the model measure, and what moved inside?

A *way* is a method with its size, such as LoRA of rank 1 on the MLPs. The best of its sweep, or of
several ways, is chosen on the validation split, seed by seed and for all ways alike: by accuracy
where a claim is about accuracies, by loss where it is about losses or about what happened inside.
What is reported of it was measured on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.prefix_or_lora import counting
from notebooks.prefix_tuning.prefix_or_lora.plan import (
    ATTENTION,
    MODULES,
    lora_parameters,
    prefix_parameters,
)
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.movement import apart, relative_rows
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trials import Get, Trial, Trials, rebuild

BUDGET_VECTORS = 12
"""The published budget: twelve numbers for each layer and coordinate of the width."""
PUBLISHED_SIZE = (4, 256)
"""Layers and width of the published model."""
AT_BUDGET = (("shared", BUDGET_VECTORS), ("free", BUDGET_VECTORS // 2))
"""Prefixes of the published budget, and their lengths."""
CASES = (
    ("prefix", 3, 2, 8),
    ("prefix", 2, 1, 10),
    ("MLP", 1, 2, 8),
    ("MLP", 2, 1, 10),
    ("MLP and projection", 1, 2, 8),
)
"""What, length or rank, layers and width of the models whose Jacobians are computed."""
SCALES = (0.1, 0.5, 2.0, 10.0, 1000.0)

Counted = tuple[str, int, int, int]
"""Name, numbers trained, formula and rank."""
Count = Callable[[str, int, int, int], int]


# Ways to adapt a model.


def ways(trials: Trials, **labels: Any) -> dict[str, Trials]:
    """The sweeps of all ways with these labels, by their names; pretraining is none."""
    return trials.where(way=bool, **labels).by("way")


def way(trials: Trials, method: str, what: str, size: int) -> Trials:
    """The sweep of one way; an error says which is missing."""
    found = trials.where(method=method, what=what, size=size)
    if not found:
        raise ValueError(
            f"the plan has no {method} of {what} with size {size}, which a claim compares; "
            "add it to `lengths` or `ranks`"
        )
    return found


def published_lora(trials: Trials) -> Trials:
    """LoRA as published: rank 1 on the MLPs and the output projections."""
    return way(trials, "LoRA", "MLP and projection", 1)


def size_of(trial: Trial) -> tuple[int, int]:
    """Layers and width of the model."""
    model = trial.run.config["model"]
    return model["n_layer"], model["n_embd"]


def parameters(trial: Trial) -> int:
    """Numbers that learn: counted in training, or all weights."""
    if "parameters" in trial.metrics:
        return int(trial.metrics["parameters"])
    return sum(one.numel() for one in GPT(GPTConfig(**trial.run.config["model"])).parameters())


def budget(trials: Trials) -> int:
    """The published budget at this size."""
    n_layer, width = size_of(trials[0])
    return BUDGET_VECTORS * n_layer * width


def at_budget(trials: Trials, method: str) -> Trials:
    """The sweeps of all ways of a method that train exactly as many numbers as published."""
    wanted = budget(trials)
    found = Trials(tuple(one for one in trials.where(method=method) if parameters(one) == wanted))
    if not found:
        raise ValueError(
            f"no {method} has {wanted} parameters, which a claim compares; a shared prefix of "
            f"length {BUDGET_VECTORS}, or rank 1 on MLP and projection, would"
        )
    return found


def by_rate(sweep: Trials) -> dict[float, Trials]:
    """The best init scale of each seed by learning rate, from the lowest, chosen by loss."""
    return {
        rate: Trials(tuple(one for one in sweep if one.learning_rate == rate)).best(by="loss")
        for rate in sorted({one.learning_rate for one in sweep})
    }


def best_rate(sweep: Trials) -> float:
    """The learning rate with the lowest mean validation loss over seeds."""
    means = {
        rate: float(np.mean([one.validation["loss"] for one in found]))
        for rate, found in by_rate(sweep).items()
    }
    return min(means, key=lambda rate: means[rate])


def brackets(sweep: Trials) -> str:
    """Where `best_rate` lies: ``"inside"``, ``"lowest"``, ``"highest"`` or ``"only"``."""
    rates = list(by_rate(sweep))
    if len(rates) == 1:
        return "only"
    return {rates[0]: "lowest", rates[-1]: "highest"}.get(best_rate(sweep), "inside")


# Inside the models.


def adapted(trial: Trial, get: Get) -> tuple[GPT, Prefix | None]:
    """The model that a trial ended with and its prefix, in float64."""
    model, prefix = rebuild(trial, get)
    return in_float64(model), None if prefix is None else in_float64(prefix)


def look_inside(trials: Trials, get: Get, tokens: Tensor) -> Trials:
    """The trial of the lowest loss of each way and seed, and how far it moved relative attention.

    The metric ``moved``, ``(layers, heads)`` in [0, 1], is measured on `tokens`, ``(B, 19)``.
    """
    before = {
        one.seed: relative_rows(adapted(one, get)[0], tokens)[0]
        for one in trials.where(method="pretrained")
    }

    def seen(trial: Trial) -> Trial:
        after, prefix = adapted(trial, get)
        moved = apart(before[trial.seed], relative_rows(after, tokens, prefix)[0])
        return replace(trial, metrics={**trial.metrics, "moved": moved})

    return Trials(
        tuple(seen(trial) for sweep in ways(trials).values() for trial in sweep.best(by="loss"))
    )


def above_first(trial: Trial) -> float:
    """Mean movement over the layers above the first, in percent; of all if there is one."""
    moved = trial.metrics["moved"]
    return 100 * float((moved[1:] if len(moved) > 1 else moved).mean())


def leaves_first_alone(trial: Trial) -> bool:
    """Whether a theorem says that the first layer's relative attention stays."""
    if trial["method"] == "LoRA":
        return not set(MODULES[trial["what"]]) & set(ATTENTION[:2])
    return bool(trial["method"] == "prefix")


# What is exact, measured.


def table_of_budgets(n_layer: int, width: int) -> list[tuple[str, int, int]]:
    """What each way trains, at the published size and at another."""

    def counted(name: str, count: Count, what: str, size: int) -> tuple[str, int, int]:
        return name, count(what, size, *PUBLISHED_SIZE), count(what, size, n_layer, width)

    return [
        *(
            counted(f"{name} prefix of length {n}", prefix_parameters, name, n)
            for name, n in AT_BUDGET
        ),
        *(counted(f"LoRA of rank 1, {name}", lora_parameters, name, 1) for name in MODULES),
    ]


def counting_errors(
    trials: Trials, prefix_count: Count = prefix_parameters, lora_count: Count = lora_parameters
) -> list[int]:
    """Counts minus the parameters that exist, trained here and at the published size."""
    counts = {"prefix": prefix_count, "LoRA": lora_count}
    firsts = [sweep[0] for sweep in ways(trials, method=tuple(counts)).values()]
    errors = [
        counts[one["method"]](one["what"], one["size"], *size_of(one)) - parameters(one)
        for one in firsts
    ]
    n_layer, width = PUBLISHED_SIZE
    for name, length in AT_BUDGET:
        prefix = Prefix(n_layer, length, width, separate_values=name == "free")
        there = sum(parameter.numel() for parameter in prefix.parameters())
        errors.append(prefix_count(name, length, n_layer, width) - there)
    for name, modules in MODULES.items():
        model = GPT(GPTConfig(n_layer, 4, width, 11, 19))
        there = sum(parameter.numel() for parameter in add_lora(model, 1, modules))
        errors.append(lora_count(name, 1, n_layer, width) - there)
    return errors


def count_numbers(
    generator: torch.Generator, cases: Sequence[tuple[str, int, int, int]] = CASES
) -> list[Counted]:
    """How many numbers count, by the theorem and by ranks of Jacobians of random models."""
    counted = []
    for what, size, n_layer, width in cases:
        formula, rank = counting.numbers_seen(what, size, n_layer, width, generator)
        if what == "prefix":
            name, trained = f"prefix of length {size}", size * n_layer * width
        else:
            name = f"LoRA of rank {size}, {what}"
            trained = lora_parameters(what, size, n_layer, width)
        counted.append((name, trained, formula, rank))
    return counted


def invariance_errors(
    trials: Trials, get: Get, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """Changes of logits when trained shared prefixes are shifted and trained LoRA is regauged."""
    errors = []
    for sweep in ways(trials).values():
        for trial in sweep.best(by="loss"):
            if trial["what"] == "shared":
                model, prefix = adapted(trial, get)
                assert prefix is not None
                errors.append(counting.shift_errors(model, prefix, tokens, generator))
            elif trial["what"] in counting.COUNTED:
                model, _ = adapted(trial, get)
                errors.append(counting.gauge_errors(model, tokens, generator))
    return torch.cat(errors)


def scale_moves(trials: Trials, get: Get) -> tuple[Tensor, Tensor]:
    """How far scaled vectors of trained shared prefixes move behind the LayerNorm, and limits."""
    found = []
    for sweep in ways(trials, what="shared").values():
        for trial in sweep.best(by="loss"):
            model, prefix = adapted(trial, get)
            assert prefix is not None
            for vectors, block in zip(prefix.vectors, model.blocks, strict=True):
                norm = block.norm_attention
                assert isinstance(norm, nn.LayerNorm)
                for scale in SCALES:
                    scales = torch.full((len(vectors),), scale, dtype=vectors.dtype)
                    found.append(counting.scale_moves(norm, vectors, scales))
    moves, limits = zip(*found, strict=True)
    return torch.cat(moves), torch.cat(limits)

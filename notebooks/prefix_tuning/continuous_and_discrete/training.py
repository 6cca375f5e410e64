"""How are vectors sought? A sweep, then strings to force, to tell apart, to count and to settle.

All call `force`; which runs there are, and with which numbers, stands in `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.decoding import (
    complete,
    count_distinct,
    one_token_prompts,
    target_logits,
)
from notebooks.prefix_tuning.continuous_and_discrete.forcing import Forced, force, pad
from notebooks.prefix_tuning.continuous_and_discrete.pretraining import load_model, text_of
from notebooks.prefix_tuning.continuous_and_discrete.strings import different, draw, surprisals
from notebooks.prefix_tuning.continuous_and_discrete.vectors import random_vectors
from promptlib.prefix_tuning.gpt import GPT
from promptlib.runs import Result
from promptlib.training import Progress, Recipe

Cell = Mapping[str, Any]


def sweep(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Force the same validation strings with each of ``config["cells"]``, all in one batch."""
    model, corpus = load_model(config, needs[0]), text_of(config)
    generator = _generator(config, "sweep")
    cells, each = config["cells"], config["strings"] * len(config["kinds"])
    strings = torch.cat(
        [
            draw(kind, config["strings"], config["length"], model, corpus, generator, "validation")
            for kind in config["kinds"]
        ]
    )
    forced = seek(
        model,
        strings.repeat(len(cells), 1),
        [cell for cell in cells for _ in range(each)],
        config,
        generator,
        progress,
        f"sweep of {len(cells)} settings",
    )
    success = forced.success.view(len(cells), len(config["kinds"]), -1)
    right = forced.right.view(len(cells), -1)
    measured = [
        {
            **cell,
            "success": success[index].float().mean(dim=1).tolist(),
            "right": float(right[index].mean()),
        }
        for index, cell in enumerate(cells)
    ]
    return Result({"cells": measured})


def force_strings(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Force strings of every kind and length with prompts of ``config["prompt_length"]``."""
    model, corpus = load_model(config, needs[0]), text_of(config)
    generator = _generator(config, "force")
    strings = pad(
        [
            draw(kind, config["strings"], length, model, corpus, generator)
            for kind in config["kinds"]
            for length in config["lengths"]
        ]
    )
    forced = try_settings(model, strings, best_cells(needs[1], config), config, generator, progress)
    shape = (len(config["kinds"]), len(config["lengths"]), config["strings"])
    metrics = {
        "steps": forced.steps.view(shape).tolist(),
        "right": forced.right.view(shape).tolist(),
    }
    return Result(metrics, {"vectors": forced.vectors, "strings": strings})


def say_different(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Optimise as many single vectors as there are tokens, for each kind of target.

    Each has a target of its own. Reached or not, what the model says after the vector is counted.
    """
    model, corpus = load_model(config, needs[0]), text_of(config)
    generator = _generator(config, "different")
    n, length = model.config.vocab_size, config["length"]
    strings = torch.cat(
        [
            different(draw(kind, 4 * n, length, model, corpus, generator), n)
            for kind in config["kinds"]
        ]
    )
    # One setting only: a vector that misses its target still says something.
    forced = try_settings(
        model,
        strings,
        best_cells(needs[1], config)[:1],
        {**config, "prompt_length": 1},
        generator,
        progress,
    )
    said = complete(model, forced.vectors, length)
    by_kind = {
        kind: {
            "distinct": count_distinct(part),
            "success": float(success.float().mean()),
        }
        for kind, part, success in zip(
            config["kinds"], said.split(n), forced.success.split(n), strict=True
        )
    }
    metrics = {"all": count_distinct(said), "vectors": len(said), "kinds": by_kind}
    return Result(metrics, {"vectors": forced.vectors, "said": said, "strings": strings})


def count_strings(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Force strings that the model wrote itself, so that their probabilities are known."""
    model, corpus = load_model(config, needs[0]), text_of(config)
    generator = _generator(config, "count")
    strings = draw("model", config["strings"], config["length"], model, corpus, generator)
    bits = surprisals("model", strings, model, corpus)
    forced = try_settings(model, strings, best_cells(needs[1], config), config, generator, progress)
    metrics = {"bits": bits.tolist(), "success": forced.success.tolist()}
    return Result(metrics, {"vectors": forced.vectors, "strings": strings})


def settle(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Force strings with one vector and a margin to spare, from tokens and from random vectors.

    The token is the one that makes the string likeliest, the best that one token can offer. The
    margin keeps the vectors off the border at which they would otherwise stop.
    """
    model, corpus = load_model(config, needs[0]), text_of(config)
    generator = _generator(config, "settle")
    strings = draw("model", config["strings"], config["length"], model, corpus, generator)
    cell = best_cells(needs[1], {**config, "attempts": 1})[0]
    token = best_tokens(model, strings)
    starts = {
        "token": model.token(token).unsqueeze(1),
        "random": random_vectors(model, len(strings), 1, cell["init_scale"], generator),
    }
    together = len(starts) * len(strings)
    forced = force(
        model,
        strings.repeat(len(starts), 1),
        torch.cat(list(starts.values())),
        torch.full((together,), cell["learning_rate"]),
        torch.full((together,), True),
        Recipe(config["steps"], 0),
        stop_margin=config["stop_margin"],
        label="one vector, with a margin",
        progress=progress,
    )
    steps = forced.steps.view(len(starts), -1)
    tensors = {"strings": strings, "best_token": token}
    for name, vectors in zip(starts, forced.vectors.split(len(strings)), strict=True):
        tensors[f"vectors.{name}"] = vectors
        tensors[f"start.{name}"] = starts[name]
    return Result({"steps": dict(zip(starts, steps.tolist(), strict=True))}, tensors)


def best_tokens(model: GPT, strings: Tensor) -> Tensor:
    """The token after which each string is likeliest: ``(P,)``."""
    tokens = one_token_prompts(model)
    best = []
    for string in strings:
        repeated = string.expand(len(tokens), -1)
        logits = target_logits(model, tokens, repeated)
        losses = F.cross_entropy(logits.flatten(0, 1), repeated.flatten(), reduction="none")
        best.append(losses.view(repeated.shape).sum(dim=1).argmin())
    return torch.stack(best)


def best_cells(swept: Result, config: Mapping[str, Any]) -> list[Cell]:
    """The ``attempts`` best settings of a sweep."""
    return best_first(swept.metrics["cells"])[: config["attempts"]]


def best_first(cells: Sequence[Cell]) -> list[Cell]:
    """Order settings by the success on all kinds, then by the share of right symbols."""
    return sorted(cells, key=lambda cell: (-sum(cell["success"]), -cell["right"]))


def try_settings(
    model: GPT,
    strings: Tensor,
    cells: Sequence[Cell],
    config: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress,
) -> Forced:
    """Seek vectors with one setting after the other, until a string is said.

    ``steps`` counts the updates of all attempts; a string never said keeps its last attempt.
    """
    vectors = random_vectors(model, len(strings), config["prompt_length"], 1.0, generator)
    steps = torch.full((len(strings),), -1)
    right = torch.zeros(len(strings))
    waiting = torch.arange(len(strings))
    for attempt, cell in enumerate(cells):
        label = f"{config['prompt_length']} vector(s), attempt {attempt + 1} of {len(cells)}"
        found = seek(
            model, strings[waiting], [cell] * len(waiting), config, generator, progress, label
        )
        vectors[waiting], right[waiting] = found.vectors, found.right
        steps[waiting[found.success]] = found.steps[found.success] + attempt * config["steps"]
        waiting = waiting[~found.success]
        if len(waiting) == 0:
            break
    return Forced(vectors, steps, right)


def seek(
    model: GPT,
    strings: Tensor,
    cells: Sequence[Cell],
    config: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress,
    label: str,
) -> Forced:
    """Seek vectors for each string with the setting of its own; see `force`."""
    start = random_vectors(model, len(strings), config["prompt_length"], 1.0, generator)
    scales = torch.tensor([cell["init_scale"] for cell in cells])
    return force(
        model,
        strings,
        start * scales.view(-1, 1, 1),
        torch.tensor([cell["learning_rate"] for cell in cells]),
        torch.tensor([cell["objective"] == "margin" for cell in cells]),
        Recipe(config["steps"], 0),
        label=label,
        progress=progress,
    )


def _generator(config: Mapping[str, Any], purpose: str) -> torch.Generator:
    """A stream of random numbers; no two of a seed, a purpose and a length coincide."""
    purposes = ("sweep", "force", "different", "count", "settle")
    number = purposes.index(purpose) + len(purposes) * config.get("prompt_length", 0)
    return torch.Generator().manual_seed(1000 * config["seed"] + number)

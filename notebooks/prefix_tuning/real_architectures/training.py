"""How is a prefix inside the sentence encoder trained, and how far did the sentences move?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.real_architectures.encoder import (
    SentenceEncoder,
    gaussian_prefix,
    load_encoder,
)
from notebooks.prefix_tuning.real_architectures.recording import PastKeyValues
from notebooks.prefix_tuning.real_architectures.sentences import ANCHOR, SENTENCES
from promptlib.runs import Result
from promptlib.training import Learner, Progress, Recipe, train

__all__ = ["steer"]


def steer(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a prefix for every number of sentences in ``crowds`` and every one of ``aims``.

    The loss is one minus the mean cosine between embeddings and their targets.
    """
    encoder = load_encoder(torch.float32)
    cells = [
        {"crowd": crowd, "aim": aim, **_steer_crowd(encoder, config, crowd, aim, progress)}
        for crowd in config["crowds"]
        for aim in config["aims"]
    ]
    return Result({"cells": cells})


def _steer_crowd(
    encoder: SentenceEncoder,
    config: Mapping[str, Any],
    crowd: int,
    aim: str,
    progress: Progress,
) -> dict[str, list[float]]:
    chosen = SENTENCES[:crowd]
    if aim == "one place":
        targets = encoder.embed([ANCHOR]).expand(crowd, -1)
    else:
        targets = encoder.embed([SENTENCES[(n + 1) % len(SENTENCES)] for n in range(crowd)])
    generator = torch.Generator().manual_seed(config["seed"])
    drawn = gaussian_prefix(encoder, config["length"], generator, config["init_scale"])
    keys = [nn.Parameter(part) for part in drawn.keys]
    values = [nn.Parameter(part) for part in drawn.values]
    prefix = PastKeyValues(keys, values)

    def cosines(prefix: PastKeyValues | None) -> Tensor:
        return (encoder.embed(chosen, prefix) * targets).sum(-1)

    label = f"prefix to {aim}, sentences: {crowd}, seed {config['seed']}"
    curve = train(
        [Learner(label, [], [*keys, *values], config["learning_rate"])],
        lambda _: 1 - cosines(prefix).mean(),
        range(config["steps"]),
        Recipe(config["steps"], config["warmup"]),
        label=label,
        progress=progress,
    )
    with torch.no_grad():
        before, after = cosines(None), cosines(prefix)
    return {
        "before": [float(one) for one in before],
        "after": [float(one) for one in after],
        "loss": [float(one) for one in curve[:, 0]],
    }

"""A small GPT in float64 with weights far from their start; prefixes and inputs for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.prefix import Prefix

BATCH, TOKENS, HEADS, WIDTH, LENGTH, LAYERS = 5, 17, 3, 33, 2, 2


def a_model(first_layer_norm: bool = True) -> GPT:
    """The model, the same each time."""
    generator = torch.Generator().manual_seed(0)
    config = GPTConfig(LAYERS, HEADS, WIDTH, 11, 19, first_layer_norm)
    model = GPT(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return in_float64(model)


def a_prefix(**options: Any) -> Prefix:
    """A prefix for it, the same each time; ``options`` are those of `Prefix`."""
    generator = torch.Generator().manual_seed(1)
    return in_float64(Prefix(LAYERS, LENGTH, WIDTH, 1.0, generator, **options))


def some_tokens() -> Tensor:
    """Inputs, (BATCH, TOKENS)."""
    return torch.randint(0, 8, (BATCH, TOKENS), generator=torch.Generator().manual_seed(2))

"""What does the model say after vectors that nobody optimised?

After every token, every pair of tokens, random vectors of several scales, and points between two
tokens. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.decoding import (
    complete,
    count_distinct,
    one_token_prompts,
    two_token_prompts,
)
from notebooks.prefix_tuning.continuous_and_discrete.pretraining import load_model
from promptlib.prefix_tuning.gpt import GPT
from promptlib.runs import Result
from promptlib.training import Progress


def survey(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Count distinct completions; of random vectors and points between as many as tokens."""
    model, length = load_model(config, needs[0]), config["length"]
    n_tokens = model.config.vocab_size
    generator = torch.Generator().manual_seed(100 + config["seed"])
    one = complete(model, one_token_prompts(model), length)
    two = complete(model, two_token_prompts(model), length).unique(dim=0)

    def distinct(prompts: Tensor) -> int:
        return count_distinct(complete(model, prompts, length))

    random = [
        {
            "scale": scale,
            "distinct": distinct(random_vectors(model, n_tokens, 1, scale, generator)),
        }
        for scale in progress(config["scales"], "random vectors", total=len(config["scales"]))
    ]
    metrics = {
        "tokens": count_distinct(one),
        "pairs": len(two),
        "random": random,
        "between": distinct(between_tokens(model, n_tokens, generator)),
    }
    return Result(metrics, {"one": one, "two": two})


def random_vectors(
    model: GPT, n_prompts: int, n_vectors: int, scale: float, generator: torch.Generator
) -> Tensor:
    """Draw vectors from N(0, (scale r)²), ``(P, n, D)``; r is the root mean square token entry."""
    shape = (n_prompts, n_vectors, model.config.n_embd)
    return scale * token_scale(model) * torch.randn(shape, generator=generator)


def token_scale(model: GPT) -> float:
    """Root mean square entry of the token embeddings."""
    return float(model.token.weight.detach().square().mean().sqrt())


def between_tokens(model: GPT, n_prompts: int, generator: torch.Generator) -> Tensor:
    """Draw points evenly from the segments between two different random tokens: ``(P, 1, D)``."""
    tokens = model.token.weight.detach()
    first = torch.randint(len(tokens), (n_prompts,), generator=generator)
    other = torch.randint(len(tokens) - 1, (n_prompts,), generator=generator)
    second = torch.where(other >= first, other + 1, other)
    share = torch.rand(n_prompts, 1, generator=generator)
    return torch.lerp(tokens[first], tokens[second], share).unsqueeze(1)

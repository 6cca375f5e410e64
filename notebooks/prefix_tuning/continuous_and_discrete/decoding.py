"""What does the model write after some vectors, and by what margin?

Shapes: ``P`` prompts of ``n`` vectors, ``D`` the width of the model, ``L`` symbols of a completion,
``V`` symbols of the alphabet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.writing import write_greedily

PAD = -1
"""Fills the end of target strings that are shorter than others of their batch."""


def complete(model: GPT, prompts: Tensor, length: int) -> Tensor:
    """Write `length` symbols greedily after each prompt: ``(P, n, D)`` to ``(P, length)``."""
    check_fits(model, prompts, length)
    return write_greedily(model, prompts, length)


def check_fits(model: GPT, prompts: Tensor, length: int) -> None:
    """Raise a ValueError unless the model can read `prompts` and write `length` symbols."""
    width, block = model.config.n_embd, model.config.block_size
    if prompts.ndim != 3 or prompts.shape[1] < 1 or prompts.shape[2] != width:
        raise ValueError(
            f"expected prompts (P, n, {width}) with n >= 1, got {tuple(prompts.shape)}"
        )
    if length < 1:
        raise ValueError(f"a completion has at least 1 symbol, got length {length}")
    if prompts.shape[1] + length - 1 > block:
        raise ValueError(
            f"{prompts.shape[1]} vectors and a string of {length} symbols need "
            f"{prompts.shape[1] + length - 1} positions, but the model reads block_size={block}; "
            f"shorten the string to {max(block - prompts.shape[1] + 1, 0)} symbols"
        )


def one_token_prompts(model: GPT) -> Tensor:
    """The embedding of every token as a prompt of its own: ``(V, 1, D)``."""
    return model.token.weight.detach().unsqueeze(1)


def two_token_prompts(model: GPT) -> Tensor:
    """Every prompt of two tokens: ``(V², 2, D)``."""
    tokens = torch.arange(model.config.vocab_size)
    return model.token(torch.cartesian_prod(tokens, tokens)).detach()


def target_logits(model: GPT, prompts: Tensor, targets: Tensor) -> Tensor:
    """Logits at each symbol of `targets` ``(P, L)`` when those before it are read: ``(P, L, V)``.

    `PAD` stands at the end of shorter strings, where it changes nothing before it.
    """
    read = model.token(targets[:, :-1].clamp_min(0))
    return model(torch.cat([prompts, read], dim=1), last=targets.shape[1])


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """By how much the logit of each target symbol exceeds the highest other one: ``(P, L)``.

    Infinite at `PAD`. If all are positive, greedy decoding writes the string: by induction it has
    read the right symbols each time, see `complete`.
    """
    index = targets.clamp_min(0).unsqueeze(-1)
    own = logits.gather(-1, index).squeeze(-1)
    others = logits.scatter(-1, index, float("-inf")).amax(dim=-1)
    return (own - others).masked_fill(targets == PAD, float("inf"))


def count_distinct(completions: Tensor) -> int:
    """How many different rows there are."""
    return len(completions.unique(dim=0))

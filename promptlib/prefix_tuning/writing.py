"""What does a model write by itself? Greedy decoding that reads every symbol once.

Keys and values of a position depend on nothing after it, so they are kept: each new symbol passes
through the model alone, and only attention looks back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public, whole_number
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix

__all__ = ["write_greedily"]

CHUNK = 4096
"""Positions that are read in one pass: few enough for the processor's cache."""


@torch.no_grad()
def write_greedily(model: GPT, read: Tensor, length: int, prefix: Prefix | None = None) -> Tensor:
    """Let the model go on, each time with the symbol that it finds likeliest.

    Parameters
    ----------
    model : GPT
    read : Tensor, int64, ``(B, T)``
        What it reads first; or floating, ``(B, T, D)``: embeddings in the place of tokens.
    length : int
        Symbols to write, at least 1.
    prefix : Prefix, optional

    Returns
    -------
    Tensor, int64, ``(B, length)``

    Raises
    ------
    ValueError
        If `read` is neither, or its tokens and all but the last of the symbols written are more
        than the model reads at once, or the prefix was made for another model.
    """
    model.check_tokens(read)
    block_size = model.config.block_size
    whole_number("length", length, at_least=1, at_most=block_size - read.shape[1] + 1)
    if prefix is not None:
        model.check_prefix(prefix)
    together = max(1, CHUNK // read.shape[1])
    return torch.cat([_write(model, some, length, prefix) for some in read.split(together)])


def _write(model: GPT, read: Tensor, length: int, prefix: Prefix | None) -> Tensor:
    last = model.config.n_layer - 1
    kept: list[tuple[Tensor, Tensor]] = []  # what each layer shows to the symbols to come
    x = read if read.is_floating_point() else model.token(read)
    x = x + model.position.weight[: read.shape[1]]
    for layer, block in enumerate(model.blocks):
        wanted = 1 if layer == last else read.shape[1]
        queries, keys, values = block.read(x, wanted)
        shown = model.read_prefix(prefix, layer)
        x, _ = block(x[:, -wanted:], queries, keys, values, shown)
        if shown is not None:  # one symbol sees all of it, as it sees what came before
            every = (len(read), -1, -1)
            keys = torch.cat([block.attention.key(shown[0]).expand(every), keys], dim=1)
            values = torch.cat([block.attention.value(shown[1]).expand(every), values], dim=1)
        kept.append((keys, values))
    written = [_likeliest(model, x)]
    for place in range(read.shape[1], read.shape[1] + length - 1):
        x = model.token(written[-1]) + model.position.weight[place]
        for layer, block in enumerate(model.blocks):
            query, key, value = block.read(x, 1)
            keys, values = kept[layer]
            keys, values = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
            kept[layer] = keys, values
            x, _ = block(x, query, keys, values, None)
        written.append(_likeliest(model, x))
    return torch.cat(written, dim=1)


def _likeliest(model: GPT, x: Tensor) -> Tensor:
    """The symbol after the last position: ``(B, 1)``."""
    return model.head(model.norm(x)).argmax(dim=-1)


check_public(__name__)

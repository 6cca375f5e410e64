r"""Does the theorem hold inside a trained GPT?

The first layer of the model itself runs, in float64, with and without its prefix; its attention
and the outputs of its heads are taken and compared. Only the first layer is compared with itself:
its content does not depend on the prefix.

Shape comments: ``B`` sequences of ``T`` tokens, ``H`` heads of width ``d``, ``p`` prefix vectors.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from promptlib.checks import check_public
from promptlib.prefix_tuning.gpt import GPT, Block
from promptlib.prefix_tuning.identities import row_errors, split
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.reach import largest_share, log_normalisers

__all__ = [
    "first_layer",
    "in_float64",
    "largest_shares",
    "model_ratio_errors",
    "prefix_head_values",
    "share_limits",
    "shares_taken",
]


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def in_float64(module: AnyModule) -> AnyModule:
    """A copy of a model or prefix with float64 weights that take no gradients."""
    return copy.deepcopy(module).double().requires_grad_(False)


def first_layer(model: GPT, tokens: Tensor, prefix: Prefix | None = None) -> tuple[Tensor, Tensor]:
    """What the heads of the first layer read in a forward pass of the model, which ends there.

    Parameters
    ----------
    model : GPT
    tokens : Tensor of int64, shape (B, T)
    prefix : Prefix, optional

    Returns
    -------
    outputs : Tensor, shape (B, H, T, d)
        Of every head, before the output projection.
    attention : Tensor, shape (B, H, T, p + T)
    """
    model.check_tokens(tokens)
    if prefix is not None:
        model.check_prefix(prefix)
    seen: list[Tensor] = []
    layer = _first_block(model).attention
    hook = layer.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            _, *read = model.embed_and_read(tokens, tokens.shape[1])
            _, attention = layer(*read, model.read_prefix(prefix, 0))
    finally:
        hook.remove()
    return layer.heads(seen[0]), attention


def prefix_head_values(model: GPT, prefix: Prefix) -> Tensor:
    """The values that the prefix offers to the heads of the first layer, shape (H, p, d)."""
    block = _first_block(model)
    _, for_values = prefix.layer(0)
    if prefix.layer_norm:
        for_values = block.norm_attention(for_values)
    return block.attention.heads(block.attention.value(for_values)).detach()


def model_ratio_errors(model: GPT, prefix: Prefix, tokens: Tensor) -> Tensor:
    r"""Errors of :math:`A'_{ij} = (1-\alpha_i) A_{ij}` in the first layer, both ways.

    See :func:`promptlib.prefix_tuning.identities.row_errors`.

    Returns
    -------
    Tensor, shape (B * H * T,)
    """
    _, plain = first_layer(model, tokens)
    _, attention = first_layer(model, tokens, prefix)
    return row_errors(plain, attention, prefix.length).flatten()


def shares_taken(model: GPT, prefix: Prefix, tokens: Tensor) -> Tensor:
    r"""The shares :math:`\alpha_i` of the first layer, shape (B, H, T)."""
    _, attention = first_layer(model, tokens, prefix)
    return split(attention, prefix.length)[0]


def largest_shares(model: GPT, tokens: Tensor, prefix_length: int = 1) -> Tensor:
    """The most that any LayerNormed prefix of that length can take in the first layer.

    Returns
    -------
    Tensor, shape (B, H, T)

    Raises
    ------
    ValueError
        If the model's first block has no LayerNorm, and so no such limit.

    See Also
    --------
    promptlib.prefix_tuning.reach.largest_share
    """
    if not model.config.first_layer_norm:
        raise ValueError("the model has no first LayerNorm, so a prefix can take any share")
    block = _first_block(model)
    with torch.no_grad():
        content = block.norm_attention(
            model.token(tokens) + model.position.weight[: tokens.shape[-1]]
        )
        layer = block.attention
        return share_limits(block, layer.query(content), layer.key(content), prefix_length)


def share_limits(block: Block, queries: Tensor, keys: Tensor, prefix_length: int) -> Tensor:
    """The most that any prefix through a block's LayerNorm can take from what the block reads.

    Parameters
    ----------
    block : Block
        With a LayerNorm in front of its attention.
    queries, keys : Tensor, shape (B, T, D)
        Of the content, all heads beside each other.
    prefix_length : int

    Returns
    -------
    Tensor, shape (B, H, T)
    """
    layer, norm = block.attention, block.norm_attention
    assert isinstance(norm, nn.LayerNorm)
    by_head, keys = layer.heads(queries), layer.heads(keys)
    normalisers = log_normalisers(by_head, keys, causal=True)  # (B, H, T)
    weights = layer.key.weight.unflatten(0, (layer.n_head, -1))  # (H, d, D)
    biases = layer.key.bias.unflatten(0, (layer.n_head, -1))  # (H, d)
    shares = [
        largest_share(
            by_head[:, head].flatten(0, 1),
            normalisers[:, head].flatten(),
            weights[head],
            norm.weight,
            norm.bias,
            biases[head],
            prefix_length,
        ).view(queries.shape[:2])
        for head in range(layer.n_head)
    ]
    return torch.stack(shares, dim=1)


def _first_block(model: GPT) -> Block:
    block = model.blocks[0]
    assert isinstance(block, Block)
    return block


check_public(__name__)

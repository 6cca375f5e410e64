r"""Where in a trained model does relative attention move, and by which path?

The forward pass of the GPT once more, layer by layer, in a form that can be interfered with. At
each layer a prefix does two things to what a head writes: it *fades* what the content gave, by
:math:`1 - \alpha_i`, and adds the *bias* :math:`\sum_m A'_{im} \bar v_m`. Either can be left out,
and the prefix can be absent from single layers. What changes in the relative attention of the
layers above tells what came through which path.

Shapes: ``B`` sequences of ``T`` tokens, ``H`` heads, ``L`` layers, ``p`` prefix vectors.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.gpt import GPT, Block
from promptlib.prefix_tuning.identities import (
    AttendFunction,
    relative_attention,
    split,
    total_variation,
)
from promptlib.prefix_tuning.prefix import Prefix

__all__ = [
    "Effect",
    "apart",
    "movement",
    "relative_rows",
]

Effect = Literal["both", "bias", "fade"]
EFFECTS: tuple[Effect, ...] = ("both", "bias", "fade")

WRITING = 10
"""Rows of the last positions are compared: those that write the answer."""


@torch.no_grad()
def relative_rows(
    model: GPT,
    tokens: Tensor,
    prefix: Prefix | None = None,
    *,
    effect: Effect = "both",
    absent: Collection[int] = (),
    attend: AttendFunction = library_attend,
) -> tuple[Tensor, Tensor]:
    """Relative attention over content in every layer.

    Parameters
    ----------
    model : GPT
    tokens : Tensor of int64, shape (B, T)
    prefix : Prefix, optional
    effect : str
        ``"both"`` is the model as it is; ``"bias"`` adds the bias and fades nothing, ``"fade"``
        the other way round.
    absent : collection of int
        Layers, counted from 0, at which the prefix is left out.

    Returns
    -------
    rows : Tensor, shape (L, B, H, T, T)
    shares : Tensor, shape (L, B, H, T)
        What the prefix takes; zero where there is none.

    Raises
    ------
    ValueError
        If the effect is unknown.
    """
    if effect not in EFFECTS:
        raise ValueError(f"effect must be one of {EFFECTS}, got {effect!r}")
    if prefix is not None:
        model.check_prefix(prefix)
    x = model.token(tokens) + model.position.weight[: tokens.shape[1]]
    rows, shares = [], []
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        layer = block.attention
        queries, keys, values = map(layer.heads, block.read(x, tokens.shape[1]))
        shown = None if index in absent else model.read_prefix(prefix, index)
        if shown is None or effect == "bias":
            read, attention = attend(queries, keys, values, causal=True)
        if shown is None:
            taken = torch.zeros_like(attention[..., 0])
        else:
            prefix_keys = layer.heads(layer.key(shown[0]))
            prefix_values = layer.heads(layer.value(shown[1]))
            own, attention = attend(queries, keys, values, prefix_keys, prefix_values, causal=True)
            taken, to_prefix, attention = split(attention, prefix_keys.shape[-2])
            if effect == "both":
                read = own
            elif effect == "bias":
                read = read + to_prefix @ prefix_values
            else:
                read = own - to_prefix @ prefix_values
        rows.append(relative_attention(attention))
        shares.append(taken)
        if index == model.config.n_layer - 1:
            break  # no layer reads what the last one writes
        x = x + layer.project(read.transpose(-2, -3).flatten(-2))
        x = x + block.mlp(block.norm_mlp(x))
    return torch.stack(rows), torch.stack(shares)


def movement(
    before: GPT,
    after: GPT,
    tokens: Tensor,
    prefix: Prefix | None = None,
    *,
    effect: Effect = "both",
    attend: AttendFunction = library_attend,
) -> Tensor:
    """How far relative attention moves: total variation, mean over sequences and writing rows.

    Parameters
    ----------
    before : GPT
        Runs without a prefix.
    after : GPT
        The same model or one with other weights; runs with `prefix` if there is one.

    Returns
    -------
    Tensor, shape (L, H)
        In [0, 1].
    """
    plain, _ = relative_rows(before, tokens, attend=attend)
    moved, _ = relative_rows(after, tokens, prefix, effect=effect, attend=attend)
    return apart(plain, moved)


def apart(rows: Tensor, others: Tensor) -> Tensor:
    """How far relative attention of the writing rows differs, ``(L, B, H, T, T)`` each.

    Returns
    -------
    Tensor, shape (L, H)
        Total variation, mean over sequences and writing rows, in [0, 1].
    """
    writing = slice(-WRITING, None)
    return total_variation(rows[..., writing, :], others[..., writing, :]).mean(dim=(1, 3))


check_public(__name__)

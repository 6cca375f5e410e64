r"""Do all heads and layers of a deep model obey the theorem, each on the input that it gets?

A prefix in a lower layer changes what a deeper layer reads, so the layers of a model with and
without its prefix cannot be compared with each other. A layer can be compared with itself: run the
model with its prefix, keep the queries, keys and values that every attention layer computes from
its content, and hand the same ones to the same layer without the prefix.

Shape comments: ``B`` sequences of ``T`` tokens, ``H`` heads of width ``d``, ``p`` prefix vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import bias_errors, row_errors
from promptlib.prefix_tuning.prefix import Prefix

__all__ = ["LayerRecord", "every_layer_errors", "record_layers"]


@dataclass(frozen=True)
class LayerRecord:
    """One attention layer, with its prefix and without it, on the same content."""

    attention: Tensor  # (B, H, T, p + T) in the running model, prefix first
    outputs: Tensor  # (B, H, T, d) of every head in the running model
    plain_attention: Tensor  # (B, H, T, T) of the same content without the prefix
    plain_outputs: Tensor  # (B, H, T, d)
    prefix_values: Tensor  # (H, p, d)


def record_layers(model: GPT, prefix: Prefix, tokens: Tensor) -> list[LayerRecord]:
    """Run the model with its prefix, then every attention layer on what it read there, without."""
    calls: list[tuple[Any, ...]] = []
    heads: list[Tensor] = []
    hooks = []
    for block in model.blocks:
        layer = block.attention
        hooks.append(layer.register_forward_pre_hook(lambda _, inputs: calls.append(inputs)))
        hooks.append(
            layer.project.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0]))
        )
    try:
        with torch.no_grad():
            _, attention = model(tokens, prefix, return_attention=True)
            # calls and heads grow by one for each layer in this second pass.
            plain_attention = [
                block.attention(*calls[layer][:3])[1] for layer, block in enumerate(model.blocks)
            ]
    finally:
        for hook in hooks:
            hook.remove()
    records = []
    n_layer = len(plain_attention)
    for index, block in enumerate(model.blocks):
        layer = block.attention
        shown = model.read_prefix(prefix, index)
        assert shown is not None
        records.append(
            LayerRecord(
                attention=attention[index],
                outputs=layer.heads(heads[index]),
                plain_attention=plain_attention[index],
                plain_outputs=layer.heads(heads[n_layer + index]),
                prefix_values=layer.heads(layer.value(shown[1])).detach(),
            )
        )
    return records


def every_layer_errors(model: GPT, prefix: Prefix, tokens: Tensor) -> Tensor:
    r"""Errors of both theorems in every row of every head of every layer, (L * B * H * T,).

    The larger of the error of the row, :math:`A'_i = (1-\alpha_i)A_i`, and of the output,
    :math:`t'_i = (1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m` (relative to the largest value).
    """
    errors = []
    for record in record_layers(model, prefix, tokens):
        length = record.prefix_values.shape[-2]
        largest = torch.maximum(record.plain_outputs.abs().max(), record.prefix_values.abs().max())
        rows = row_errors(record.plain_attention, record.attention, length)
        biases = bias_errors(
            record.plain_outputs, record.outputs, record.attention, record.prefix_values
        )
        errors.append(torch.maximum(rows, biases / largest).flatten())
    return torch.cat(errors)


check_public(__name__)

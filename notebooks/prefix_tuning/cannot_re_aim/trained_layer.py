"""Does the theorem hold in the first layer of a trained GPT, and what does fine-tuning do there?"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.prefix_tuning.cases import AttentionCase
from promptlib.prefix_tuning.gpt import GPT, Block
from promptlib.prefix_tuning.identities import (
    bias_errors,
    relative_attention,
    split,
    total_variation,
)
from promptlib.prefix_tuning.inside import first_layer, prefix_head_values
from promptlib.prefix_tuning.prefix import Prefix


def case_of(model: GPT, prefix: Prefix, tokens: Tensor) -> AttentionCase:
    """The first layer on one sequence, as the arguments of the attention function."""
    block, shown = model.blocks[0], model.read_prefix(prefix, 0)
    assert isinstance(block, Block)
    assert shown is not None
    layer = block.attention
    with torch.no_grad():
        content = block.norm_attention(model.token(tokens) + model.position.weight[: len(tokens)])
        queries, keys, values = (
            layer.heads(project(content)) for project in (layer.query, layer.key, layer.value)
        )
    logits = queries @ keys.mT * queries.shape[-1] ** -0.5
    return AttentionCase(
        queries=queries,
        keys=keys,
        values=values,
        prefix_keys=layer.heads(layer.key(shown[0])).detach(),
        prefix_values=prefix_head_values(model, prefix),
        causal=True,
        prefix_kind="LayerNormed vector" if prefix.layer_norm else "vector",
        logit_scale=float(logits.std()),
    )


def model_output_errors(model: GPT, prefix: Prefix, tokens: Tensor) -> Tensor:
    r"""Errors of :math:`t'_i = (1-\alpha_i) t_i + \sum_m A'_{im} \bar v_m` in the first layer."""
    plain_outputs, _ = first_layer(model, tokens)
    outputs, attention = first_layer(model, tokens, prefix)
    values = prefix_head_values(model, prefix)
    largest = torch.maximum(plain_outputs.abs().max(), values.abs().max())
    return bias_errors(plain_outputs, outputs, attention, values).flatten() / largest


def model_movement(
    before: GPT, after: GPT, tokens: Tensor, prefix: Prefix | None = None, last: int = 10
) -> Tensor:
    """How far the rows of the `last` positions move in the first layer, shape (B, H, last).

    Total variation of relative attention over content; `after` runs with `prefix` if there is one.
    """
    _, plain = first_layer(before, tokens)
    _, changed = first_layer(after, tokens, prefix)
    if prefix is not None:
        changed = relative_attention(split(changed, prefix.length)[2])
    return total_variation(plain, changed)[..., -last:]

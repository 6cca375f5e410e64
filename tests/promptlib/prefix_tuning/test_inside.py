"""What is read from the inside of a GPT is what the GPT computes."""

from __future__ import annotations

import pytest
import torch

from promptlib.prefix_tuning.inside import (
    first_layer,
    in_float64,
    largest_shares,
    model_ratio_errors,
    prefix_head_values,
    shares_taken,
)
from promptlib.prefix_tuning.prefix import Prefix
from tests.small_gpt import BATCH, HEADS, LENGTH, TOKENS, WIDTH, a_model, a_prefix, some_tokens


@pytest.fixture(scope="module")
def tokens():
    return some_tokens()


def test_head_outputs_are_attention_times_values(tokens):
    model = a_model()
    block = model.blocks[0]
    outputs, attention = first_layer(model, tokens)
    content = block.norm_attention(model.token(tokens) + model.position.weight[:TOKENS])
    values = block.attention.heads(block.attention.value(content))
    assert outputs.shape == (BATCH, HEADS, TOKENS, WIDTH // HEADS)
    torch.testing.assert_close(outputs, attention @ values)
    for prefix in (None, a_prefix()):
        _, of_all_layers = model(tokens, prefix, return_attention=True)
        torch.testing.assert_close(first_layer(model, tokens, prefix)[1], of_all_layers[0])


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("separate_values", [True, False])
def test_prefix_values_are_those_that_the_model_uses(tokens, layer_norm, separate_values):
    model, prefix = a_model(), a_prefix(layer_norm=layer_norm, separate_values=separate_values)
    assert prefix_head_values(model, prefix).shape == (HEADS, LENGTH, WIDTH // HEADS)
    assert float(model_ratio_errors(model, prefix, tokens).max()) < 1e-10
    assert shares_taken(model, prefix, tokens).shape == (BATCH, HEADS, TOKENS)


def test_the_hook_is_removed(tokens):
    model = a_model()
    first_layer(model, tokens)
    assert not model.blocks[0].attention.project._forward_pre_hooks


def test_shares_stay_below_the_limit_only_with_the_layer_norm(tokens):
    model = a_model()
    limit = largest_shares(model, tokens, LENGTH)
    assert (shares_taken(model, a_prefix(), tokens) <= limit).all()
    loud = a_prefix(layer_norm=False)
    loud.vectors.mul_(100)
    assert (shares_taken(model, loud, tokens) > limit).any()
    with pytest.raises(ValueError, match="no first LayerNorm"):
        largest_shares(a_model(first_layer_norm=False), tokens)


def test_float64_copies_leave_the_original_alone():
    prefix = Prefix(1, LENGTH, WIDTH)
    assert in_float64(prefix).vectors.dtype == torch.float64
    assert prefix.vectors.dtype == torch.float32
    assert prefix.vectors.requires_grad

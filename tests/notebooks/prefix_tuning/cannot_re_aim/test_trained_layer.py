"""What the chapter reads from the first layer of a GPT is what the GPT computes."""

from __future__ import annotations

import pytest
import torch

from notebooks.prefix_tuning.cannot_re_aim.trained_layer import (
    case_of,
    model_movement,
    model_output_errors,
)
from promptlib.attention import attend
from promptlib.prefix_tuning.inside import first_layer
from tests.small_gpt import BATCH, HEADS, a_model, a_prefix, some_tokens


@pytest.fixture(scope="module")
def tokens():
    return some_tokens()


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("separate_values", [True, False])
def test_outputs_are_biased_by_the_values_that_the_model_uses(tokens, layer_norm, separate_values):
    prefix = a_prefix(layer_norm=layer_norm, separate_values=separate_values)
    assert float(model_output_errors(a_model(), prefix, tokens).max()) < 1e-12


@pytest.mark.parametrize("options", [{}, {"layer_norm": False, "separate_values": True}])
def test_a_case_repeats_what_the_model_does(tokens, options):
    model, prefix = a_model(), a_prefix(**options)
    case = case_of(model, prefix, tokens[3])
    outputs, attention = attend(
        case.queries,
        case.keys,
        case.values,
        case.prefix_keys,
        case.prefix_values,
        causal=case.causal,
    )
    inside_outputs, inside = first_layer(model, tokens, prefix)
    torch.testing.assert_close(outputs, inside_outputs[3])
    torch.testing.assert_close(attention, inside[3])


def test_movement_is_zero_for_a_prefix_and_not_for_other_weights(tokens):
    model, other = a_model(), a_model()
    other.blocks[0].attention.key.weight.mul_(-1)
    assert float(model_movement(model, model, tokens, a_prefix()).max()) < 1e-12
    moved = model_movement(model, other, tokens, last=7)
    assert moved.shape == (BATCH, HEADS, 7)
    assert float(moved.mean()) > 0.1

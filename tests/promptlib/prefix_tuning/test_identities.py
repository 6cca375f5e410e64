"""Attention with a prefix, taken apart, and the random layers it is checked on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptlib.attention import attend
from promptlib.prefix_tuning.cases import random_case
from promptlib.prefix_tuning.identities import relative_attention, split, total_variation


def test_the_share_and_the_rescaled_row_by_hand():
    """Two tokens with logits 0 and log 3, one prefix vector with logit log 4."""
    query, keys = torch.tensor([[1.0]]), torch.tensor([[0.0], [np.log(3.0)]])
    values = torch.tensor([[8.0], [16.0]])
    prefix_key, prefix_value = torch.tensor([[np.log(4.0)]]), torch.tensor([[100.0]])
    outputs, plain = attend(query, keys.float(), values)
    prefixed_outputs, attention = attend(
        query, keys.float(), values, prefix_key.float(), prefix_value
    )
    taken, to_prefix, to_content = split(attention, 1)
    torch.testing.assert_close(plain, torch.tensor([[1 / 4, 3 / 4]]))
    torch.testing.assert_close(attention, torch.tensor([[4 / 8, 1 / 8, 3 / 8]]))
    torch.testing.assert_close(taken, torch.tensor([0.5]))
    torch.testing.assert_close(to_prefix, torch.tensor([[0.5]]))
    torch.testing.assert_close(relative_attention(to_content), plain)
    assert outputs.item() == pytest.approx(14.0)
    assert prefixed_outputs.item() == pytest.approx(0.5 * 14.0 + 0.5 * 100.0)


def test_one_vector_gives_dependent_keys_and_values_and_two_do_not():
    """In a head as wide as its layer one vector makes both, and they determine each other."""
    generator = torch.Generator().manual_seed(0)
    tied = random_case(generator, n_tokens=7, head_width=5, prefix_length=11)
    free = random_case(
        generator,
        n_tokens=7,
        head_width=5,
        prefix_length=11,
        prefix_kind="independent key and value",
    )

    def joint_rank(case):
        both = torch.cat((case.prefix_keys[0], case.prefix_values[0]), -1)
        return int(torch.linalg.matrix_rank(both, rtol=1e-9))

    assert joint_rank(tied) == 5
    assert joint_rank(free) == 10


def test_total_variation():
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    other = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    assert total_variation(rows, other).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("length", [0, 7, 8])
def test_split_refuses_a_prefix_that_leaves_no_content(length):
    with pytest.raises(ValueError, match=rf"prefix length {length} .*\(5, 7\)"):
        split(torch.zeros(5, 7), length)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_head": 0}, "n_head must be at least 1, got 0"),
        ({"prefix_length": -1}, "prefix_length must be a whole number of at least 0, got -1"),
        ({"logit_scale": 0.0}, "logit_scale must be > 0, got 0.0"),
        ({"prefix_kind": "suffix"}, "got 'suffix'"),
    ],
)
def test_random_case_names_what_it_refuses(change, named):
    with pytest.raises(ValueError, match=named):
        random_case(torch.Generator(), **change)

"""How much attention a prefix takes: closed forms against attention itself."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from promptlib.attention import attend
from promptlib.prefix_tuning.cases import random_case
from promptlib.prefix_tuning.identities import split
from promptlib.prefix_tuning.reach import (
    best_normalised_vector,
    climb,
    keys_that_take,
    largest_share,
    log_normalisers,
    normalise,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("causal", [False, True])
def test_the_share_is_the_logistic_function_of_the_log_normalisers(causal):
    case = random_case(
        torch.Generator().manual_seed(1), n_head=3, prefix_length=5, causal=causal, logit_scale=4.0
    )
    _, attention = attend(
        case.queries, case.keys, case.values, case.prefix_keys, case.prefix_values, causal
    )
    normaliser = log_normalisers(case.queries, case.keys, causal)
    prefix_logits = case.queries @ case.prefix_keys.mT * case.queries.shape[-1] ** -0.5
    torch.testing.assert_close(
        torch.sigmoid(prefix_logits.logsumexp(-1) - normaliser),
        split(attention, 5)[0],
        atol=1e-12,
        rtol=1e-10,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_any_attention_can_be_had_from_independent_queries(n_queries, spare, length, seed):
    queries = draw(n_queries, n_queries + 2 + spare, seed=seed)
    keys = draw(n_queries, n_queries + 2 + spare, seed=seed + 1)
    wanted = draw(n_queries, length + 1, seed=seed + 2).mul(2).softmax(-1)[:, :length]
    prefix_keys = keys_that_take(queries, log_normalisers(queries, keys), wanted)
    assert prefix_keys.shape == (length, n_queries + 2 + spare)
    _, attention = attend(queries, keys, keys, prefix_keys, prefix_keys)
    torch.testing.assert_close(attention[:, :length], wanted, atol=1e-9, rtol=1e-6)


def test_keys_that_take_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="7 queries of width 5"):
        keys_that_take(draw(7, 5), draw(7), torch.full((7, 1), 0.5, dtype=torch.float64))
    for wanted in (0.0, 1.0):
        with pytest.raises(ValueError, match="less than one"):
            keys_that_take(draw(3, 5), draw(3), torch.full((3, 1), wanted, dtype=torch.float64))


def test_normalise_is_the_limit_of_layer_norm():
    vectors = draw(3, 11)
    torch.testing.assert_close(normalise(vectors), F.layer_norm(1e6 * vectors, (11,)))


@pytest.mark.parametrize("length", [1, 3])
def test_no_prefix_takes_more_than_the_largest_share_and_one_takes_it(length):
    width, head_width, n_tokens = 13, 5, 7
    queries, keys = draw(n_tokens, head_width, seed=1), draw(n_tokens, head_width, seed=2)
    weight, bias = draw(head_width, width, seed=3), draw(head_width, seed=4)
    gain, shift = 1 + 0.5 * draw(width, seed=5), draw(width, seed=6)
    normaliser = log_normalisers(queries, keys)
    limit = largest_share(queries, normaliser, weight, gain, shift, bias, length)

    def shares(vectors):  # (k, d), the same for all prefix positions
        prefix_keys = F.layer_norm(vectors, (width,), gain, shift) @ weight.mT + bias
        logits = queries @ prefix_keys.mT * head_width**-0.5  # (n, k)
        return torch.stack(
            [torch.sigmoid(math.log(length) + column - normaliser) for column in logits.mT], dim=-1
        )

    assert (shares(10 * draw(500, width, seed=7)) <= limit[:, None]).all()
    best = shares(1e6 * best_normalised_vector(queries, weight, gain)).diagonal()
    torch.testing.assert_close(best, limit)


def test_climbing_finds_the_vector_of_the_proof():
    queries, weight = draw(7, 5, seed=1), draw(5, 13, seed=3)
    gain, shift = 1 + 0.5 * draw(13, seed=5), draw(13, seed=6)
    generator = torch.Generator().manual_seed(0)
    found = climb(queries, weight, gain, shift, generator, restarts=5, steps=200)
    torch.testing.assert_close(
        found, best_normalised_vector(queries, weight, gain), atol=1e-2, rtol=1e-2
    )


def test_largest_share_names_what_does_not_fit():
    weight, gain = draw(5, 13), draw(13)
    with pytest.raises(ValueError, match="prefix_length must be at least 1, got 0"):
        largest_share(draw(7, 5), draw(7), weight, gain, gain, prefix_length=0)
    with pytest.raises(ValueError, match=r"queries \(7, 3\).*gain \(13,\)"):
        largest_share(draw(7, 3), draw(7), weight, gain, gain)

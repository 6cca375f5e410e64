"""Vectors at other places, moved content, deep models: claims hold, and fail when code is wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notebooks.prefix_tuning.cannot_re_aim import (
    every_layer,
    kernels,
    measuring,
    placement,
    plan,
    positions,
)
from notebooks.prefix_tuning.cannot_re_aim.claims import ROWS
from notebooks.prefix_tuning.cannot_re_aim.one_layer import random_cases
from promptlib import claims
from promptlib.attention import attend
from promptlib.prefix_tuning import gpt
from promptlib.prefix_tuning.cases import random_case
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.prefix import Prefix


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def cases():
    return list(random_cases(seeded(), 1))


def judge(name, measured):
    return claims.check_each("prefix-tuning/", ROWS, {name: measured})[name]


# Vectors at any place.


def without_mask(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The causal mask is forgotten, so that content sees what stands behind it."""
    return attend(q, k, v, prefix_keys, prefix_values)


def window(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """A query sees the eight positions around it only; inserted vectors push tokens out."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    place = torch.arange(k.shape[-2])
    hidden = (place[:, None] - place).abs() > 4
    if causal:
        hidden = hidden | (place > place[:, None])
    attention = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return attention @ v, attention


def by_rank(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The logits grow with the number of tokens that are read."""
    return attend(q * k.shape[-2] ** 0.5, k, v, prefix_keys, prefix_values, causal)


def test_vectors_anywhere_hold(cases):
    assert judge("vectors-anywhere", measuring.insertion_errors(cases, seeded())).verdict == "holds"


@pytest.mark.claim("prefix-tuning/vectors-anywhere")
@pytest.mark.parametrize("wrong", [without_mask, window, by_rank, kernels.sparsemax()])
def test_vectors_anywhere_fails(cases, wrong):
    claim = judge("vectors-anywhere", measuring.insertion_errors(cases, seeded(), wrong))
    assert claim.verdict == "fails"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 11), st.integers(1, 7), st.booleans(), st.floats(0, 1), st.integers(0, 2**31))
def test_no_place_re_aims_content(n_tokens, length, causal, where, seed):
    generator = seeded(seed)
    case = random_case(
        generator, n_head=3, n_tokens=n_tokens, head_width=5, prefix_length=length, causal=causal
    )
    queries = torch.randn(case.prefix_keys.shape, generator=generator, dtype=torch.float64)
    assert (placement.insertion_errors(case, round(where * n_tokens), queries) < 1e-10).all()


def test_a_suffix_without_a_mask_is_a_prefix():
    case = random_case(seeded(), n_head=3, n_tokens=7, head_width=5, prefix_length=2)
    content = case.queries, case.keys, case.values
    before, _ = attend(*content, case.prefix_keys, case.prefix_values)
    behind, _ = attend(
        case.queries,
        torch.cat((case.keys, case.prefix_keys), -2),
        torch.cat((case.values, case.prefix_values), -2),
    )
    torch.testing.assert_close(before, behind, rtol=0, atol=1e-14)


@pytest.mark.parametrize("place", [-1, 8])
def test_a_place_outside_the_content_is_refused(place):
    case = random_case(seeded(), n_tokens=7)
    with pytest.raises(ValueError, match=rf"place must .*, got {place}"):
        placement.insertion_errors(case, place, case.prefix_keys)


# A suffix's own row.


def test_suffix_aims_itself_holds():
    assert judge("suffix-aims-itself", measuring.suffix_errors(60, seeded())).verdict == "holds"


@pytest.mark.claim("prefix-tuning/suffix-aims-itself")
def test_suffix_aims_itself_fails_for_logits_of_another_scale():
    def without_square_root(q, k, v, causal=False):
        return attend(q, k, v, causal=causal, scale=1.0)

    claim = judge("suffix-aims-itself", measuring.suffix_errors(3, seeded(), without_square_root))
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/suffix-aims-itself")
def test_suffix_aims_itself_fails_without_the_mask():
    claim = judge("suffix-aims-itself", measuring.suffix_errors(3, seeded(), without_mask))
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/suffix-aims-itself")
def test_suffix_aims_itself_fails_for_a_vector_that_does_not_aim(monkeypatch):
    def any_vector(wanted, keys, query_weight):
        return torch.ones(query_weight.shape[-1], dtype=torch.float64)

    monkeypatch.setattr(placement, "suffix_that_reads", any_vector)
    assert judge("suffix-aims-itself", measuring.suffix_errors(3, seeded())).verdict == "fails"


def test_what_a_suffix_cannot_read_is_refused():
    keys, weight = torch.eye(5, 7), torch.eye(7, 11)
    with pytest.raises(ValueError, match=r"positive and sum to one, got \[1.0, 0.0"):
        placement.suffix_that_reads(torch.eye(5)[0], keys, weight)
    with pytest.raises(ValueError, match="5 keys of width 3 are not linearly independent"):
        placement.suffix_that_reads(torch.full((5,), 0.2), torch.ones(5, 3), weight)
    with pytest.raises(ValueError, match=r"W_Q of shape \(7, 3\) cannot give every query"):
        placement.suffix_that_reads(torch.full((5,), 0.2), keys, torch.ones(7, 3))


# Positions.


def test_relative_positions_hold():
    assert judge("relative-positions", measuring.shift_errors(4, seeded())).verdict == "holds"


def rotated_keys_only(queries, keys, query_positions, key_positions):
    """The query is left where it is."""
    return queries, positions.rotate(keys, key_positions)


def turned_both_ways(queries, keys, query_positions, key_positions):
    """Keys are turned backwards, so that the logit sees the sum of the positions."""
    return positions.rotate(queries, query_positions), positions.rotate(keys, -key_positions)


def stretched(queries, keys, query_positions, key_positions):
    """The slope is that of the logarithm of a position."""
    logs = (1 + query_positions.double()).log(), (1 + key_positions.double()).log()
    return positions.biased(queries, keys, -(logs[0][:, None] - logs[1]).abs())


@pytest.mark.claim("prefix-tuning/relative-positions")
@pytest.mark.parametrize("wrong", [rotated_keys_only, turned_both_ways, stretched])
def test_relative_positions_fails_for_wrong_schemes(wrong):
    claim = judge("relative-positions", measuring.shift_errors(2, seeded(), {"wrong": wrong}))
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/relative-positions")
def test_relative_positions_fails_for_absolute_positions():
    case = random_case(seeded(), n_tokens=7, head_width=6, prefix_length=2)
    for_queries, for_keys = torch.randn(2, 64, 6, generator=seeded(1), dtype=torch.float64)

    def scheme(queries, keys, query_positions, key_positions):
        return queries + for_queries[query_positions], keys + for_keys[key_positions]

    assert float(positions.shift_errors(case, scheme, 0).max()) > 0.01


def test_rotary_logits_see_differences_only_and_keep_lengths():
    query, key = torch.randn(2, 1, 6, generator=seeded(), dtype=torch.float64)
    near = positions.rotate(query, torch.tensor([5])) @ positions.rotate(key, torch.tensor([2])).mT
    far = (
        positions.rotate(query, torch.tensor([105])) @ positions.rotate(key, torch.tensor([102])).mT
    )
    other = positions.rotate(query, torch.tensor([5])) @ positions.rotate(key, torch.tensor([3])).mT
    torch.testing.assert_close(near, far, rtol=0, atol=1e-12)
    assert abs(float(near - other)) > 1e-3
    turned = positions.rotate(query, torch.tensor([7]))
    torch.testing.assert_close(turned.norm(), query.norm())


def test_biased_adds_the_bias_to_the_logits():
    queries, keys = torch.randn(2, 2, 5, 3, generator=seeded(), dtype=torch.float64)
    bias = torch.randn(2, 5, 5, generator=seeded(1), dtype=torch.float64)
    _, attention = attend(*positions.biased(queries, keys, bias), keys)
    expected = (queries @ keys.mT / 3**0.5 + bias).softmax(-1)
    torch.testing.assert_close(attention, expected)


def test_positions_refuse_what_they_cannot_use():
    with pytest.raises(ValueError, match="width 5 is odd"):
        positions.rotate(torch.zeros(3, 5), torch.arange(3))
    with pytest.raises(ValueError, match="start must be a whole number of at least 0, got -1"):
        positions.shift_errors(random_case(seeded(), head_width=6), positions.RELATIVE["ALiBi"], -1)


# Every layer of a deep model.


@pytest.fixture(scope="module")
def deep():
    """An untrained model whose attention differs between positions, with a prefix."""
    generator = seeded()
    model = GPT(GPTConfig(n_layer=3, n_head=5, n_embd=35, vocab_size=11, block_size=19), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    prefixes = [
        Prefix(3, 2, 35, 1.0, generator),
        Prefix(3, 2, 35, 1.0, generator, separate_values=True, layer_norm=False),
    ]
    return [(in_float64(model), in_float64(prefix)) for prefix in prefixes]


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 8, (13, 17), generator=seeded())


def every_head_and_layer(deep, tokens, errors=every_layer.every_layer_errors):
    found = [errors(model, prefix, tokens) for model, prefix in deep]
    return judge("every-head-and-layer", torch.cat(found))


def test_every_head_and_layer_holds(deep, tokens):
    claim = every_head_and_layer(deep, tokens)
    assert claim.verdict == "holds"
    assert claim.details["instances"] == 2 * 3 * 13 * 5 * 17


def prefix_in_the_keys(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    """The prefix is added to every content key besides being attended to."""
    if prefix_keys is not None:
        k = k * (1 + prefix_keys.mean(-2, keepdim=True))
    return attend(q, k, v, prefix_keys, prefix_values, causal)


def bias_too_long(q, k, v, prefix_keys=None, prefix_values=None, causal=False):
    outputs, attention = attend(q, k, v, prefix_keys, prefix_values, causal)
    if prefix_keys is None:
        return outputs, attention
    return outputs + 0.5 * attention[..., : prefix_keys.shape[-2]] @ prefix_values, attention


@pytest.mark.claim("prefix-tuning/every-head-and-layer")
@pytest.mark.parametrize("wrong", [prefix_in_the_keys, bias_too_long])
def test_every_head_and_layer_fails(deep, tokens, wrong, monkeypatch):
    monkeypatch.setattr(gpt, "attend", wrong)
    assert every_head_and_layer(deep, tokens).verdict == "fails"


@pytest.mark.claim("prefix-tuning/every-head-and-layer")
def test_deep_layers_compared_with_a_run_without_prefix_do_not_agree(deep, tokens):
    """The inputs must be held fixed: against the plain model the deeper layers differ."""
    (model, prefix), _ = deep

    def against_the_plain_model(model, prefix, tokens):
        _, plain = model(tokens, return_attention=True)
        _, prefixed = model(tokens, prefix, return_attention=True)
        return every_layer.row_errors(plain, prefixed, prefix.length).flatten(1).amax(1)

    errors = against_the_plain_model(model, prefix, tokens)
    assert float(errors[0]) < 1e-10 < 1e-2 < float(errors[1])
    claim = every_head_and_layer([(model, prefix)], tokens, against_the_plain_model)
    assert claim.verdict == "fails"


def test_the_deep_plan_refuses_too_few_steps_and_needs_no_torch():
    with pytest.raises(ValueError, match=r"deep_steps must be .* at least 10, got 9"):
        plan.deep_plan(9, 0)
    runs = list(plan.chapter_plan(1, 3, 10, 10, [0.1], [1.0], [0.003], 1, deep_steps=10))
    assert {run.config["seed"] for run in runs} == {3}
    assert len({run.name for run in runs}) == len(runs)
    assert runs[-1].needs == (runs[-2],)

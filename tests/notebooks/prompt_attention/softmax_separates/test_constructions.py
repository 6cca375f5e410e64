"""Explicit weights: they reach what the theorems say, on any mixture, and no further."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from notebooks.prompt_attention.softmax_separates.constructions import (
    best_gain_argument,
    linear_attention_weights,
    mean_pooling_head,
    prompt_weights,
    self_attention_weights,
)
from promptlib.prompt_attention import (
    ContextualMixture,
    aligned,
    aligned_gain,
    linear_attention,
    linear_attention_threshold,
    mean_pooling,
    mirrored,
    prompt_attention,
    prompt_scale_bound,
    self_attention,
    self_attention_threshold,
)

DEVIATIONS = st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(-1e3, 1e3)), min_size=1, max_size=5)


def accuracy(model, mixture, *weights, n=64):
    bags = mixture.sample(n, torch.Generator().manual_seed(0))
    return (model(bags.tokens, *weights) * bags.labels > 0).double().mean().item()


@given(DEVIATIONS, st.integers(1, 6), st.floats(-0.95, 0.95))
def test_one_prompt_is_perfect_on_any_deviations(deviations, relevant, cosine):
    mixture = ContextualMixture(3, 7, relevant / 7, cosine=cosine, deviations=tuple(deviations))
    assert accuracy(prompt_attention, mixture, *prompt_weights(mixture)) == 1.0


def test_the_default_prompt_stays_within_reach_of_the_bound():
    mixture = ContextualMixture(3, 7, 2 / 7, deviations=((0.0, 3.0),))
    _, q = prompt_weights(mixture)
    scale = (q @ mixture.context_only / (mixture.context_only @ mixture.context_only)).item()
    assert prompt_scale_bound(mixture) < scale < prompt_scale_bound(mixture) + 3


@given(st.integers(1, 6), st.floats(-3.0, 3.0), st.floats(-0.9, 0.9))
def test_mean_pooling_is_perfect_on_one_deviation(relevant, delta_w, cosine):
    share = relevant / 7
    if abs(share - (1 - share) * delta_w) < 1e-6:
        return
    mixture = ContextualMixture(3, 7, share, cosine=cosine, deviations=((1.0, delta_w),))
    assert accuracy(mean_pooling, mixture, mean_pooling_head(mixture)) == 1.0


def test_mean_pooling_is_blind_at_the_one_exception():
    share = 0.25  # exact in binary, as is ζ/(1-ζ) · (1-ζ)
    mixture = ContextualMixture(3, 4, share, deviations=((1.0, share / (1 - share)),))
    bags = mixture.sample(32, torch.Generator().manual_seed(0))
    head = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = mean_pooling(bags.tokens, head)
    assert (scores - scores[0]).abs().max() < 1e-12
    with pytest.raises(ValueError, match="one side of ζ/"):
        mean_pooling_head(mixture)


@given(st.integers(1, 19), st.floats(0.05, 0.995), st.floats(-0.9, 0.9))
def test_self_attention_is_perfect_below_its_threshold(relevant, factor, cosine):
    share = relevant / 20
    size = factor * self_attention_threshold(share)
    c = best_gain_argument(size, share)
    assert aligned_gain(torch.tensor(c, dtype=torch.float64), size, share) > 0
    mixture = ContextualMixture(3, 20, share, cosine=cosine, deviations=aligned(size))
    assert accuracy(self_attention, mixture, *self_attention_weights(mixture, c)) == 1.0


@given(
    st.floats(1.0001, 30.0),
    st.lists(st.floats(-5.0, 5.0), min_size=6, max_size=6),
    st.sampled_from([2, 8, 10, 15]),
)
def test_no_self_attention_is_right_on_both_deviations_above_it(factor, numbers, relevant):
    share = relevant / 20
    size = factor * self_attention_threshold(share)
    mixture = ContextualMixture(2, 20, share, cosine=0.3, deviations=aligned(size))
    u = torch.tensor(numbers[:2], dtype=torch.float64)
    A = torch.tensor(numbers[2:], dtype=torch.float64).reshape(2, 2) / size
    relevant_set = (torch.arange(20) < relevant).expand(4, 20)
    labels = torch.tensor([1.0, 1.0, -1.0, -1.0])
    tokens = mixture.compose(labels, relevant_set, mixture.deviation_table.repeat(2, 1))
    right = (self_attention(tokens, u, A) * labels > 1e-9 * size * u.norm()).reshape(2, 2)
    assert not right.all(dim=1).any()


@given(
    st.floats(1.0001, 30.0),
    st.lists(st.floats(-5.0, 5.0), min_size=4, max_size=4),
    st.sampled_from([2, 8, 10, 15]),
)
def test_no_linear_attention_is_right_on_all_four_cases_above_its_threshold(
    factor, numbers, relevant
):
    share = relevant / 20
    size = factor * linear_attention_threshold(share)
    mixture = ContextualMixture(2, 20, share, cosine=-0.4, deviations=mirrored(size))
    w, q = torch.tensor(numbers, dtype=torch.float64).reshape(2, 2)
    relevant_set = (torch.arange(20) < relevant).expand(4, 20)
    labels = torch.tensor([1.0, 1.0, -1.0, -1.0])
    tokens = mixture.compose(labels, relevant_set, mixture.deviation_table.repeat(2, 1))
    scores = linear_attention(tokens, w, q) * labels
    assert scores.min() <= 1e-12 * (1 + size**2) * w.norm() * q.norm()


@given(st.floats(0.05, 40.0), st.integers(1, 19))
def test_linear_attention_weights_read_what_they_promise(ratio, relevant):
    mixture = ContextualMixture(5, 20, relevant / 20, cosine=0.7, context_norm=2.0)
    w, q = linear_attention_weights(mixture, ratio)
    plus, minus = mixture.context + mixture.signal, mixture.context - mixture.signal
    assert ((w @ plus) * (q @ plus)).item() == pytest.approx(1.0, abs=1e-10)
    assert ((w @ minus) * (q @ minus)).item() == pytest.approx(-ratio, rel=1e-10)


def test_refusals():
    mixture = ContextualMixture(3, 5, 0.2, deviations=aligned(5.0))
    with pytest.raises(ValueError, match="one side of ζ/"):
        mean_pooling_head(mixture)
    with pytest.raises(ValueError, match="scale must be finite, got inf"):
        prompt_weights(mixture, float("inf"))
    with pytest.raises(ValueError, match="c must be a number, got nan"):
        self_attention_weights(mixture, float("nan"))
    with pytest.raises(ValueError, match=r"positive and finite, got 0\.0"):
        linear_attention_weights(mixture, 0.0)
    with pytest.raises(ValueError, match=r"noise_std=0, got 1\.0"):
        prompt_weights(ContextualMixture(3, 5, 0.2, noise_std=1.0))

"""The thresholds: known values, definitions, the steps of their proofs, and refusals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from notebooks.prompt_attention.softmax_separates.impossible import aligned_gain_supremum
from promptlib.prompt_attention import (
    ContextualMixture,
    aligned_gain,
    linear_attention_threshold,
    mean_pooling_threshold,
    prompt_scale_bound,
    self_attention_bracket,
    self_attention_threshold,
    sign_function,
)

SHARES = st.floats(0.02, 0.98)


def odds(share):
    return share / (1 - share)


@pytest.mark.parametrize(
    ("share", "threshold"),
    [(0.1, 9.341), (0.2, 4.159), (0.3, 2.404), (0.5, 1.0), (0.7, 2.333), (0.9, 9.0)],
)
def test_self_attention_threshold_has_the_known_values(share, threshold):
    assert self_attention_threshold(share) == pytest.approx(threshold, abs=5e-4)


@given(SHARES)
def test_the_supremum_of_the_gain_changes_sign_at_the_threshold(share):
    threshold = self_attention_threshold(share)
    assert aligned_gain_supremum(threshold * (1 - 1e-4), share, points=801) > 0
    assert aligned_gain_supremum(threshold * (1 + 1e-4), share, points=801) < 0


@given(SHARES)
def test_the_threshold_lies_in_its_bracket(share):
    lower, upper = self_attention_bracket(share)
    assert lower <= self_attention_threshold(share) < upper
    assert upper == pytest.approx(1 / min(share, 1 - share), rel=1e-12)


def test_the_threshold_is_continuous_and_accurate_where_digits_are_scarce():
    for gap in (1e-3, 1e-6, 1e-9):
        assert self_attention_threshold(0.5 - gap) == pytest.approx(1.0, abs=5 * gap)
    # The excess over (1-ζ)/ζ tends to 1 as tokens become rare.
    excess = [self_attention_threshold(s) - (1 - s) / s for s in (1e-2, 1e-3, 1e-4, 1e-6)]
    assert excess == sorted(excess)
    assert 0.999 < excess[-1] < 1


@given(SHARES)
def test_linear_and_mean_thresholds_are_their_closed_forms(share):
    assert mean_pooling_threshold(share) == pytest.approx(share / (1 - share), rel=1e-12)
    assert linear_attention_threshold(share) ** 2 == pytest.approx(share / (1 - share), rel=1e-12)


@given(SHARES, st.floats(0.0, 30.0), st.floats(-3.0, 3.0))
def test_the_gain_is_a_mean_over_explicit_softmaxes(share, size, c):
    total = 0.0
    for query, weight in ((1.0, share), (-size, 1 - share)):
        logits = (c * query, -size * c * query)
        top = max(logits)
        first = share * math.exp(logits[0] - top)
        second = (1 - share) * math.exp(logits[1] - top)
        total += weight * (first - size * second) / (first + second)
    value = aligned_gain(torch.tensor([c], dtype=torch.float64), size, share)
    assert value.item() == pytest.approx(total, abs=1e-10 * (1 + size))


@given(SHARES, st.floats(-50.0, 50.0))
def test_the_core_gain_is_positive_for_every_logit(share, c):
    assert aligned_gain(torch.tensor(c, dtype=torch.float64), 0.0, share) > 0


def test_the_gain_has_the_limits_of_the_proof():
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    low, high = aligned_gain(ends, 3.0, 0.2)
    assert low.item() == pytest.approx(0.8 - 0.2 * 3, abs=1e-12)
    assert high.item() == pytest.approx(0.2 - 0.8 * 3, abs=1e-12)


@given(SHARES, st.floats(0.0, 20.0), st.floats(-6.0, 6.0))
def test_the_sign_function_is_the_gain_over_a_positive_number(share, size, exponent):
    x = torch.tensor(math.exp(exponent), dtype=torch.float64)
    c = exponent / (1 + size)
    denominator = (1 + odds(share)) * (1 + odds(share) * x) * (odds(share) + x**size)
    quotient = -sign_function(x, size, share) / denominator
    gain = aligned_gain(torch.tensor(c, dtype=torch.float64), size, share)
    assert quotient.item() == pytest.approx(gain.item(), abs=1e-10 * (1 + size))


@given(SHARES, st.floats(-6.0, 6.0))
def test_at_the_closed_form_of_large_sparsity_the_sign_is_bernoullis(share, exponent):
    d, x = odds(share), math.exp(exponent)
    value = sign_function(torch.tensor(x, dtype=torch.float64), d, share).item()
    expected = d * (1 + d) * (x**d - 1 - d * (x - 1))
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-9 * (1 + d**3) * (1 + x ** max(d, 1)))


@given(SHARES, st.floats(0.0, 10.0), st.floats(1e-3, 5.0), st.floats(1e-6, 1 - 1e-6))
def test_the_sign_function_grows_with_the_deviation(share, excess, step, z):
    """Both halves of the lemma: at fixed x >= 1, and at fixed z = x^Δ < 1."""
    low = max(odds(share), 1.0) + excess
    high = low + step

    def sign(x, size):
        return sign_function(torch.tensor(x, dtype=torch.float64), size, share).item()

    scale = 1 + odds(share) ** 3
    assert sign(z ** (1 / high), high) > sign(z ** (1 / low), low) - 1e-12 * scale
    x = 1 / z if z > 0.5 else 1 + z
    assert sign(x, high) > sign(x, low)


def test_the_scale_bound_is_the_worst_of_the_deviations():
    mixture = ContextualMixture(
        3, 5, 0.2, context_norm=2.0, cosine=0.6, deviations=((0.0, 1.0), (1.0, 9.0), (5.0, -50.0))
    )
    power = 4 * 0.64
    expected = max(math.log(4.0) / power, math.log(36.0) / (2 * power))
    assert prompt_scale_bound(mixture) == pytest.approx(expected, rel=1e-12)
    harmless = ContextualMixture(3, 5, 0.2, deviations=((0.0, 0.0), (1.0, -9.0)))
    assert prompt_scale_bound(harmless) == -math.inf


@pytest.mark.parametrize(
    "threshold",
    [
        self_attention_threshold,
        linear_attention_threshold,
        mean_pooling_threshold,
        self_attention_bracket,
    ],
)
@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, math.nan, "0.3", None, True])
def test_a_sparsity_outside_its_range_is_named(threshold, share):
    with pytest.raises(ValueError, match=r"sparsity must (lie in \(0, 1\)|be a number), got"):
        threshold(share)


def test_other_refusals():
    c = torch.zeros(1)
    with pytest.raises(ValueError, match=r"finite and >= 0, got -1\.0"):
        aligned_gain(c, -1.0, 0.3)
    with pytest.raises(ValueError, match="finite and >= 0, got inf"):
        sign_function(c, math.inf, 0.3)
    with pytest.raises(ValueError, match=r"noise_std=0, got 0\.5"):
        prompt_scale_bound(ContextualMixture(3, 5, 0.2, noise_std=0.5))


def test_the_scale_bound_of_a_deviation_next_to_nothing_is_finite():
    tiny = ContextualMixture(3, 7, 5 / 7, deviations=((0.0, 5e-324),))
    assert -800 < prompt_scale_bound(tiny) < -700

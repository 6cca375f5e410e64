"""The equalities of one attention layer, for any layer that hypothesis can think of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notebooks.prefix_tuning.cannot_re_aim.one_layer import (
    LOGIT_SCALES,
    hull_distances,
    output_errors,
    random_cases,
    ratio_errors,
    rescaling_errors,
    statistics_errors,
    unreachable_errors,
)
from promptlib.prefix_tuning.cases import PREFIX_KINDS, random_case

layers = st.fixed_dictionaries(
    {
        "n_head": st.integers(1, 4),
        "n_tokens": st.integers(1, 19),
        "head_width": st.integers(1, 13),
        "prefix_length": st.integers(1, 11),
        "causal": st.booleans(),
        "prefix_kind": st.sampled_from(PREFIX_KINDS),
        "logit_scale": st.floats(1e-3, 1e3),
    }
)


@settings(max_examples=150, deadline=None)
@given(layers, st.integers(0, 2**31))
def test_identities_hold_for_any_layer(arguments, seed):
    generator = torch.Generator().manual_seed(seed)
    case = random_case(generator, **arguments)
    for check in (rescaling_errors, ratio_errors, output_errors, hull_distances):
        errors = check(case)
        assert torch.isfinite(errors).all()
        assert (errors < 1e-10).all(), check.__name__
    assert (statistics_errors(case, generator) < 1e-8).all()


def test_cases_cover_every_variant_and_repeat_with_the_generator():
    def draw():
        return list(random_cases(torch.Generator().manual_seed(3), 1))

    cases, again = draw(), draw()
    assert len(cases) == 144
    assert {case.prefix_kind for case in cases} == set(PREFIX_KINDS)
    assert {case.logit_scale for case in cases} == set(LOGIT_SCALES)
    assert {(case.causal, len(case.queries), case.prefix_length) for case in cases} == {
        (causal, heads, length)
        for causal in (False, True)
        for heads in (1, 3)
        for length in (1, 2, 7)
    }
    assert all(
        torch.equal(one.prefix_keys, other.prefix_keys)
        for one, other in zip(cases, again, strict=True)
    )


def test_logits_have_the_scale_asked_for():
    generator = torch.Generator().manual_seed(0)
    for scale in LOGIT_SCALES:
        case = random_case(generator, n_tokens=200, head_width=64, logit_scale=scale)
        logits = case.queries @ case.keys.mT / 8
        assert float(logits.std()) == pytest.approx(scale, rel=0.2)


def test_random_cases_needs_a_case():
    with pytest.raises(ValueError, match="n_each must be at least 1, got 0"):
        next(random_cases(torch.Generator(), 0))


def test_unreachable_errors_needs_a_case_that_says_something():
    generator = torch.Generator().manual_seed(0)
    assert (unreachable_errors(random_case(generator, n_tokens=11, head_width=5)) < 1e-12).all()
    for change in ({"prefix_length": 2}, {"n_tokens": 5}):
        sizes = {"n_tokens": 11, "head_width": 5, **change}
        with pytest.raises(ValueError, match="more tokens than head width"):
            unreachable_errors(random_case(generator, **sizes))

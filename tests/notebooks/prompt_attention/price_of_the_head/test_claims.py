"""Every claim of the chapter holds, and fails when the implementation behind it is wrong."""

import math

import pytest
import torch

from notebooks.prompt_attention.price_of_the_head import head_limits
from notebooks.prompt_attention.price_of_the_head import results as evidence
from notebooks.prompt_attention.price_of_the_head.claims import ROWS
from notebooks.prompt_attention.price_of_the_head.concentrated_head import signal_to_noise
from notebooks.prompt_attention.price_of_the_head.head_simulation import (
    learned_heads,
    simulate_on_features,
)
from notebooks.prompt_attention.price_of_the_head.results import Setting
from promptlib import claims
from promptlib.prompt_attention import ridge_head
from promptlib.prompt_attention.feature_law import FeatureLaw, feature_law, feature_laws
from promptlib.prompt_attention.head_price import head_error
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.ridge_head import aligned_error, ridge_error


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def verdict(name, measured):
    return claims.check_each("prompt-attention/", ROWS, {name: measured})[name].verdict


SMALL = ContextualMixture(12, 10, 0.3, context_norm=1.3, signal_norm=0.6, noise_std=0.8)


@pytest.mark.claim("prompt-attention/features-are-two-numbers")
def test_the_law_of_a_feature():
    def without_normaliser(normals, tokens, **numbers):
        law = feature_laws(normals, tokens, **numbers)
        return FeatureLaw(law.signal, 1.001 * law.noise)

    def other_scale(normals, tokens, **numbers):
        return feature_laws(normals, tokens, **{**numbers, "scale": numbers["scale"] * 1.001})

    def errors(**options):
        return evidence.attention_weight_errors(SMALL, 0.7, 50, generator(), **options)

    assert verdict("features-are-two-numbers", errors()) == "holds"
    assert verdict("features-are-two-numbers", errors(laws=without_normaliser)) == "fails"
    assert verdict("features-are-two-numbers", errors(laws=other_scale)) == "fails"


BAG_SETTINGS = [
    Setting(ContextualMixture(60, 30, 0.2, 1.5, 0.5, 1.0, dtype=torch.float32), 0.5, 118),
    Setting(ContextualMixture(60, 30, 0.2, 1.5, 0.8, 1.0, dtype=torch.float32), 0.0, 177),
]


def averaging_without_the_price(mixture, scale, ratio, ridge):
    return head_error(mixture, scale, math.inf, ridge)


def concentrated(mixture, scale, ratio, ridge):
    return float(ridge_error(feature_law(mixture, scale).concentrated(), ratio, ridge))


def half_the_ridge(mixture, scale, ratio, ridge):
    return head_error(mixture, scale, ratio, 0.5 * ridge)


def with_formula(met, settings, ridges, formula):
    """The same simulation beside another formula."""
    predicted = [
        [formula(one.mixture, one.scale, one.samples_per_dim, ridge) for ridge in ridges]
        for one in settings
    ]
    return met._replace(formula=torch.tensor(predicted, dtype=torch.float64))


@pytest.mark.claim("prompt-attention/price-of-averaging")
@pytest.mark.claim("prompt-attention/price-of-ridge-on-bags")
def test_prices_on_bags():
    ridges = [math.inf, 0.0, 0.02]
    met = evidence.against_bags(BAG_SETTINGS, ridges, 24, generator(), test_bags=300)
    for name, columns, wrong in (
        ("price-of-averaging", [0], averaging_without_the_price),
        ("price-of-ridge-on-bags", [1, 2], lambda m, k, a, r: head_error(m, k, a, math.inf)),
    ):
        assert verdict(name, met.at(slice(None), columns)) == "holds"
        refuted = with_formula(met, BAG_SETTINGS, ridges, wrong)
        assert verdict(name, refuted.at(slice(None), columns)) == "fails"


HARD = Setting(ContextualMixture(120, 100, 0.1, 2.0, 0.5, 1.0), 1.0, 238)


@pytest.mark.claim("prompt-attention/price-of-ridge")
def test_ridge_on_features():
    ridges = [0.0, 0.02, 0.2, math.inf]
    met = evidence.against_features([HARD], ridges, 120, generator(), test_draws=1000)
    assert verdict("price-of-ridge", met) == "holds"
    for wrong in (concentrated, half_the_ridge):
        assert verdict("price-of-ridge", with_formula(met, [HARD], ridges, wrong)) == "fails"


LAWS = evidence.random_laws(20, 32, generator())


@pytest.mark.claim("prompt-attention/ridge-limits")
@pytest.mark.parametrize(
    ("limit", "wrong"),
    [
        ("no ridge", lambda law, a, r: ridge_error(law, a, 1.0 if r == 0 else r)),
        ("heavy ridge", lambda law, a, r: ridge_error(law, a, min(r, 1.0))),
        ("endless data", lambda law, a, r: ridge_error(law, torch.as_tensor(a).clamp(max=9.0), r)),
        ("ordinary ridge at infinity", lambda law, a, r: ridge_error(law, a, min(r, 1e3))),
    ],
)
def test_ridge_limits(limit, wrong):
    assert verdict("ridge-limits", evidence.ridge_limit_errors(LAWS)) == "holds"
    errors = {limit: evidence.ridge_limit_errors(LAWS, error=wrong)[limit]}
    assert verdict("ridge-limits", errors) == "fails"


@pytest.mark.claim("prompt-attention/concentrated-closed-forms")
def test_closed_forms():
    assert (
        verdict("concentrated-closed-forms", evidence.closed_form_errors(200, generator()))
        == "holds"
    )

    def inexact(law, alpha, ridge):
        return ridge_error(law, alpha, max(ridge, 1e-6))

    assert (
        verdict(
            "concentrated-closed-forms",
            evidence.closed_form_errors(200, generator(), error=inexact),
        )
        == "fails"
    )


@pytest.mark.claim("prompt-attention/concentrated-closed-forms")
def test_closed_forms_notice_a_wrong_fixed_point(monkeypatch):
    right = ridge_head.effective_ridge
    monkeypatch.setattr(
        ridge_head, "effective_ridge", lambda noise, gamma, lam: right(noise, gamma, lam + 1e-3)
    )
    assert (
        verdict("concentrated-closed-forms", evidence.closed_form_errors(200, generator()))
        == "fails"
    )


@pytest.mark.claim("prompt-attention/informed-bound")
def test_informed_bound():
    bounds, reached = evidence.informed_bound(LAWS)
    assert verdict("informed-bound", (bounds, reached)) == "holds"

    def averaging_as_bound(law, alpha):
        return ridge_error(law, alpha, math.inf)

    assert (
        verdict("informed-bound", evidence.informed_bound(LAWS, bound=averaging_as_bound))
        == "fails"
    )

    def without_square_root(law, alpha):
        squared = (law.signal / law.noise).square().mean(-1)
        return aligned_error(law, squared / (squared + 1 / torch.as_tensor(alpha)))

    assert (
        verdict("informed-bound", evidence.informed_bound(LAWS, bound=without_square_root))
        == "fails"
    )


@pytest.mark.claim("prompt-attention/informed-bound-is-sharp")
def test_informed_bound_is_sharp():
    assert verdict("informed-bound-is-sharp", evidence.informed_gaps(200, generator())) == "holds"

    def no_mistakes(law, alpha):
        return torch.zeros_like(torch.as_tensor(alpha))

    # As a bound zero would do.
    assert verdict("informed-bound", evidence.informed_bound(LAWS, bound=no_mistakes)) == "holds"
    assert (
        verdict(
            "informed-bound-is-sharp", evidence.informed_gaps(200, generator(), bound=no_mistakes)
        )
        == "fails"
    )


def peak_and_sides(heads):
    base = ContextualMixture(60, 50, 0.2, 1.5, 0.5, 1.0)
    import notebooks.prompt_attention.price_of_the_head.head_simulation as simulation

    original, simulation.learned_heads = simulation.learned_heads, heads
    try:
        runs = [
            simulate_on_features(base, 0.5, round(a * 59), [0.0], 30, generator())
            for a in (1.0, 0.5, 2.2)
        ]
    finally:
        simulation.learned_heads = original
    return runs


@pytest.mark.claim("prompt-attention/double-descent")
def test_double_descent():
    assert verdict("double-descent", peak_and_sides(learned_heads)) == "holds"
    regularised = peak_and_sides(lambda features, ridges: learned_heads(features, [0.1]))
    assert verdict("double-descent", regularised) == "fails"


@pytest.mark.claim("prompt-attention/best-prompt-scale")
def test_best_prompt_scale():
    def other_exponent(tokens, *, scale, **numbers):
        return signal_to_noise(tokens, scale=0.99 * scale, **numbers)

    def other_gain(tokens, *, scale, **numbers):
        return signal_to_noise(tokens, scale=scale, **numbers) + 1e-6

    assert verdict("best-prompt-scale", evidence.best_prompt_errors()) == "holds"
    assert (
        verdict("best-prompt-scale", evidence.best_prompt_errors(ratio=other_exponent)) == "fails"
    )
    assert verdict("best-prompt-scale", evidence.best_prompt_errors(ratio=other_gain)) == "fails"


@pytest.mark.claim("prompt-attention/hard-attention-limit")
def test_hard_attention():
    mixtures = [ContextualMixture(3, 10, 0.3, context_norm=2.0, noise_std=1.0)]

    def meet(formula):
        return evidence.hard_attention_comparison(
            mixtures, 1e6, 20_000, generator(), formula=formula
        )

    def all_tokens(tokens, **numbers):
        return head_limits.hard_attention_error(tokens + 10, **{**numbers, "sparsity": 0.15})

    assert verdict("hard-attention-limit", meet(head_limits.hard_attention_error)) == "holds"
    assert verdict("hard-attention-limit", meet(all_tokens)) == "fails"
    # At a moderate scale attention is not hard.
    soft = evidence.hard_attention_comparison(mixtures, 1.0, 20_000, generator())
    assert verdict("hard-attention-limit", soft) == "fails"


@pytest.mark.claim("prompt-attention/best-ridge-is-finite")
def test_best_ridge():
    def gained(mixture, scale):
        errors = simulate_on_features(
            mixture, scale, 2 * (mixture.dim - 1), [0.15, math.inf], 60, generator()
        ).errors
        return verdict("best-ridge-is-finite", errors)

    assert gained(ContextualMixture(100, 200, 0.1, 2.0, 0.3, 1.0), 1.0) == "supported"
    # Without a prompt all bags are read alike, and averaging is best.
    assert gained(ContextualMixture(100, 50, 0.2, 2.0, 0.6, 1.0), 0.0) == "contradicted"


@pytest.mark.claim("prompt-attention/finite-width")
def test_finite_width():
    def widths(shift):
        settings = [
            Setting(ContextualMixture(dim, 50, 0.2, 1.5, 0.5, 1.0), 0.5, 2 * (dim - 1))
            for dim in (9, 33)
        ]

        def formula(*arguments):
            return head_error(*arguments) + shift

        return evidence.against_features(
            settings, [0.0, 0.1, math.inf], 150, generator(), formula=formula
        )

    assert verdict("finite-width", widths(0.0)) == "holds"
    assert verdict("finite-width", widths(0.02)) == "fails"

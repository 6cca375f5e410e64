"""Finite samples: alignment formulas, growth with the width, what bag means can tell."""

import math

import pytest
import torch

from notebooks.prompt_attention.first_gradient import alignment, imbalance, measured_bags
from notebooks.prompt_attention.first_gradient import claims as chapter
from notebooks.prompt_attention.first_gradient.alignment_law import alignment_by_law
from notebooks.prompt_attention.first_gradient.measured_bags import (
    CONTEXT_NORM,
    SETTING,
    STEP,
    Exponents,
    world,
)
from promptlib import claims
from promptlib.prompt_attention.mixture import Bags, ContextualMixture
from promptlib.prompt_attention.sampled_descent import gradients


def verdict(name, measured):
    return claims.check_each("prompt-attention/", chapter.ROWS, {name: measured})[name].verdict


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_alignment_limits():
    many = torch.tensor([1e3, 1e6, 1e12])
    for values in (
        alignment.head_alignment(many, **SETTING),
        alignment.prompt_alignment(many, eta=1.0, **SETTING),
    ):
        assert (values.diff() > 0).all()
        assert float(values[-1]) == pytest.approx(1.0, abs=1e-9)
    quiet = {**SETTING, "noise_std": 0.0}
    assert float(alignment.head_alignment(0.5, **quiet)) == 1.0
    assert float(alignment.prompt_alignment(0.5, eta=1.0, **quiet)) == 1.0


def test_variance_of_one_gradient_in_a_direction_that_means_nothing():
    """The symbol v at a noiseless head, from the gradients of single bags."""
    share, norm, std, tokens = 0.3, 1.1, 0.9, 10
    mixture = ContextualMixture(5, tokens, share, 1.0, norm, std)
    c = 0.4
    head = c * mixture.signal
    bags = mixture.sample(100_000, generator(1))
    mean = bags.tokens.mean(1)
    centred = bags.tokens - mean[:, None]
    pull = (centred * (centred @ head)[..., None]).mean(1)
    values = ((bags.labels - mean @ head)[:, None] * pull)[:, 2:]
    measured = values.square().mean()
    error = values.square().std() / math.sqrt(values.numel())
    # Enough bags that the head's own noise vanishes, few enough that v/α is not lost in rounding.
    alpha = 1e6
    cosine = float(
        alignment.prompt_alignment(
            alpha, eta=c / share, sparsity=share, signal_norm=norm, noise_std=std, tokens=tokens
        )
    )
    pulled = c * norm**2
    mean_along = (
        share * (1 - share) * (pulled - share * pulled**2 + std**2 / tokens * c**2 * norm**2)
    )
    predicted = alpha * mean_along**2 * (1 / cosine**2 - 1)
    assert abs(float(measured) - predicted) < 4 * float(error) + 1e-4 * predicted


def test_the_prompt_lies_about_two_over_d_below_its_limit():
    dim, runs, alpha = 100, 200, 2.0
    cosines = alignment.measured_alignment(world(dim), round(alpha * dim), STEP, runs, generator(6))
    gaps = cosines.mean(0) - torch.stack(
        (
            alignment.head_alignment(alpha, **SETTING),
            alignment.prompt_alignment(alpha, eta=STEP, context_norm=CONTEXT_NORM, **SETTING),
        )
    )
    errors = cosines.std(0) / math.sqrt(runs)
    assert abs(float(gaps[0])) < 4 * float(errors[0])
    assert abs(float(gaps[1]) + 2 / dim) < 4 * float(errors[1])


def test_centred_labels_close_most_of_that_gap():
    dim, runs, n = 100, 200, 200
    mixture, source = world(dim), generator(6)
    zero = torch.zeros(dim, dtype=mixture.dtype)
    cosines = []
    for _ in range(runs):
        first, second = mixture.sample(n, source), mixture.sample(n, source)
        w1 = (first.labels - first.labels.mean()) @ first.tokens.mean(1) / n
        q1 = -gradients(second.tokens, second.labels - second.labels.mean(), w1, zero)[1]
        cosines.append(torch.cosine_similarity(q1, mixture.context, dim=0))
    gap = float(torch.stack(cosines).mean()) - float(
        alignment.prompt_alignment(n / dim, eta=STEP, context_norm=CONTEXT_NORM, **SETTING)
    )
    assert -1 / dim < gap < 0.5 / dim


def test_measured_alignment_agrees_with_the_three_steps():
    mixture = ContextualMixture(6, 10, 0.3, 1.2, 0.9, 0.8)
    cosines = alignment.measured_alignment(mixture, 12, 0.7, 1, generator(5))
    source = generator(5)
    zero = torch.zeros(6, dtype=torch.float64)
    first, second = mixture.sample(12, source), mixture.sample(12, source)
    w1 = -0.7 * gradients(first.tokens, first.labels, zero, zero)[0]
    q1 = -gradients(second.tokens, second.labels, w1, zero)[1]
    expected = torch.stack(
        (
            torch.cosine_similarity(w1, mixture.signal, dim=0),
            torch.cosine_similarity(q1, mixture.context, dim=0),
        )
    )
    torch.testing.assert_close(cosines[0], expected)


def test_samples_for_alignment_inverts_the_formula():
    def formula(alpha):
        return alignment.head_alignment(alpha, **SETTING)

    alpha = alignment.samples_for_alignment(0.9, formula)
    noise = (1 - 0.3) / (10 * 0.3**2)
    assert alpha == pytest.approx(noise * 0.81 / 0.19, rel=1e-9)
    with pytest.raises(ValueError, match=r"does not cross 0\.9"):
        alignment.samples_for_alignment(0.9, formula, high=1e-2)


def test_growth_recovers_a_known_exponent():
    dims = torch.tensor([10.0, 20.0, 40.0])
    samples = torch.logspace(0, 4, 400)[None].expand(3, -1)
    curves = samples / (samples + dims[:, None] ** 1.5)  # one half at n = d^1.5
    growth = alignment.Growth(dims, samples, curves[..., None].expand(-1, -1, 4).double())
    needed = growth.needed(0.5, 2)
    assert needed.shape == (2, 3)
    exponents = alignment.growth_exponent(dims, needed)
    assert exponents.tolist() == pytest.approx([1.5, 1.5], abs=1e-3)
    with pytest.raises(ValueError, match="blocks must divide the 4 runs, got 3"):
        growth.needed(0.5, 3)
    with pytest.raises(ValueError, match="widen the grid"):
        growth.needed(0.9999, 1)


def test_best_alignment_tends_to_the_first_heads():
    for dim in (200, 2000):
        best = alignment.best_alignment_from_means(dim, 2 * dim, **SETTING)
        limit = float(alignment.head_alignment(2.0, **SETTING))
        assert abs(best - limit) < 2 / dim
    with pytest.raises(ValueError, match="noise_std must be > 0"):
        alignment.best_alignment_from_means(5, 5, **{**SETTING, "noise_std": 0.0})


def test_the_average_reaches_the_best():
    cosines = alignment.mean_estimator_alignments(
        {"average": alignment.MEAN_ESTIMATORS["average (the first gradient)"]},
        8, 16, 3000, generator(), **SETTING,
    )  # fmt: skip
    best = alignment.best_alignment_from_means(8, 16, **SETTING)
    assert abs(float(cosines.mean()) - best) < 4 * float(cosines.std()) / 3000**0.5


def test_repeats_are_refused_when_there_are_none():
    noisy = ContextualMixture(5, 10, 0.1, noise_std=1.0).sample(20, generator())
    with pytest.raises(ValueError, match="no token repeats"):
        alignment.context_and_signal_from_repeats(noisy)
    bags = ContextualMixture(5, 10, 0.2, noise_std=1.0).sample(20, generator())
    positive = Bags(*(part[bags.labels > 0] for part in bags))
    with pytest.raises(ValueError, match="no bag with label -1"):
        alignment.context_and_signal_from_repeats(positive)


def test_imbalance_limits():
    assert float(imbalance.imbalance_failure(10, 1.0, 2.0)) == 0.0  # the signal is longer
    assert float(imbalance.imbalance_failure(1, 2.0, 1.0)) == 1.0
    # A large sample: the normal approximation.
    n, ratio = 100_001, 0.004
    normal = math.erfc(ratio * math.sqrt(n / 2))
    assert float(imbalance.imbalance_failure(n, ratio**-0.5, 1.0)) == pytest.approx(
        normal, rel=0.02
    )
    with pytest.raises(ValueError, match="signal_norm must be positive"):
        imbalance.imbalance_failure(3, 1.0, 0.0)


def test_the_law_refuses_what_it_does_not_describe():
    with pytest.raises(ValueError, match="dim >= 4, got 3"):
        alignment_by_law(ContextualMixture(3, 10, 0.3, noise_std=1.0), 5, STEP, 1, generator())
    with pytest.raises(ValueError, match="n and runs must be at least 1, got 0 and 1"):
        alignment_by_law(world(5), 0, STEP, 1, generator())
    oblique = ContextualMixture(5, 10, 0.3, noise_std=1.0, cosine=0.2)
    with pytest.raises(ValueError, match="orthogonal"):
        alignment_by_law(oblique, 5, STEP, 1, generator())


@pytest.mark.claim("prompt-attention/alignment-law")
def test_law_claim():
    assert verdict("alignment-law", measured_bags.law_beside_bags(0, 100)) == "holds"

    def half_of_the_directions(mixture, n, eta, runs, source):
        return alignment_by_law(world(max(4, mixture.dim // 2)), n, eta, runs, source)

    measured = measured_bags.law_beside_bags(0, 100, law=half_of_the_directions)
    assert verdict("alignment-law", measured) == "fails"


@pytest.mark.claim("prompt-attention/alignment-formula")
def test_alignment_claim():
    assert verdict("alignment-formula", measured_bags.formula_beside_law(0, 300, 50)) == "holds"
    # More runs do not refute a limit for being one: at this width it is off by about 2/d.
    assert verdict("alignment-formula", measured_bags.formula_beside_law(0, 64, 600)) == "holds"

    def one_percent_off(alphas, **parameters):
        return 0.99 * alignment.prompt_alignment(alphas, **parameters)

    measured = measured_bags.formula_beside_law(0, 1600, 100, prompt=one_percent_off)
    assert verdict("alignment-formula", measured) == "fails"

    def noiseless_head(alphas, **parameters):
        # The head's own noise forgotten: as if the first step had seen every bag of the world.
        many = alignment.prompt_alignment(1e12, **parameters)
        v = 1e12 * (1 / many**2 - 1)
        return 1 / (1 + v / alphas).sqrt()

    measured = measured_bags.formula_beside_law(0, 300, 50, prompt=noiseless_head)
    assert verdict("alignment-formula", measured) == "fails"


@pytest.mark.claim("prompt-attention/samples-grow-linearly")
@pytest.mark.claim("prompt-attention/samples-grow-at-least-linearly")
def test_growth_claims():
    dims = torch.tensor([10.0, 20.0, 40.0])
    samples = torch.logspace(0, 5, 500)[None].expand(3, -1)

    def grown(exponent):
        curve = (samples / (samples + dims[:, None] ** exponent))[..., None].expand(-1, -1, 4)
        jitter = 1 + 1e-3 * torch.rand(curve.shape, generator=generator())
        return alignment.Growth(dims, samples, curve.double() * jitter)

    def judged(growth, target, blocks):
        measured = Exponents.of(growth, target, blocks)
        return claims.check("prompt-attention/", chapter.GROWTH, measured).values()

    def verdicts(growth):
        upper, lower = judged(growth, 0.5, 4)
        return upper.verdict, lower.verdict, upper.replication

    assert verdicts(grown(1.0)) == ("supported", "supported", "reproduced")
    assert verdicts(grown(1.5)) == ("contradicted", "supported", "weaker")
    assert verdicts(grown(0.3)) == ("supported", "contradicted", "stronger")
    assert verdicts(grown(1.1))[0] == "undecided"

    def wasteful(mixture, n, eta, runs, source):
        # Wide tokens make it drop bags: it needs of the order of d² of them.
        used = max(2, 10 * n // mixture.dim)
        return alignment_by_law(mixture, used, eta, runs, source)

    broken = alignment.sample_growth(
        world, (20, 80), (0.5, 2.0, 8.0, 32.0, 128.0), STEP, 16, generator(), measure=wasteful
    )
    with pytest.raises(ValueError, match="must be crossed"):
        Exponents.of(broken, 0.9999, 2)
    assert next(iter(judged(broken, 0.8, 4))).verdict == "contradicted"


@pytest.mark.claim("prompt-attention/best-from-bag-means")
def test_best_from_means_claim():
    assert verdict("best-from-bag-means", measured_bags.estimators_beside_limit(0, 100)) == "holds"

    def too_low(dim, n, **parameters):
        return alignment.best_alignment_from_means(dim, max(1, n // 3), **parameters)

    measured = measured_bags.estimators_beside_limit(0, 100, limit=too_low)
    assert verdict("best-from-bag-means", measured) == "fails"


@pytest.mark.claim("prompt-attention/signed-average-is-best")
def test_average_is_best_claim():
    assert verdict("signed-average-is-best", measured_bags.average_beside_limit(0, 1000)) == "holds"
    # The bound holds with a limit that says nothing; its sharpness does not.
    measured = measured_bags.estimators_beside_limit(0, 100, limit=lambda *_, **__: 1.0)
    assert verdict("best-from-bag-means", measured) == "holds"
    measured = measured_bags.average_beside_limit(0, 1000, limit=lambda *_, **__: 1.0)
    assert verdict("signed-average-is-best", measured) == "fails"


@pytest.mark.claim("prompt-attention/two-bags-suffice")
def test_two_bags_claim():
    assert verdict("two-bags-suffice", measured_bags.errors_from_two_bags(0)) == "holds"

    def averages(bags):
        positive, negative = bags.tokens.mean(1)
        return (positive + negative) / 2, (positive - negative) / 2

    measured = measured_bags.errors_from_two_bags(0, estimate=averages)
    assert verdict("two-bags-suffice", measured) == "fails"


@pytest.mark.claim("prompt-attention/labels-out-of-balance")
def test_imbalance_claim():
    assert verdict("labels-out-of-balance", measured_bags.shares_failed(0, 400)) == "holds"

    def wrong_power(n, norm_q, norm_w):
        return imbalance.imbalance_failure(n, norm_q**0.5, norm_w)

    measured = measured_bags.shares_failed(0, 400, formula=wrong_power)
    assert verdict("labels-out-of-balance", measured) == "fails"


def test_setting_and_world_agree():
    mixture = world(4)
    assert mixture.sparsity == SETTING["sparsity"]
    assert mixture.tokens == SETTING["tokens"]
    assert (mixture.signal_norm, mixture.noise_std) == (1.0, 1.0)
    assert mixture.context_norm == CONTEXT_NORM

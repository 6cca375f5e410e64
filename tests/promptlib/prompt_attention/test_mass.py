"""Attention on the relevant tokens: quadrature, limits, Monte Carlo, refusals."""

import math

import pytest
import torch

from notebooks.prompt_attention.first_gradient import claims as chapter
from notebooks.prompt_attention.first_gradient import measured_mass
from promptlib import claims
from promptlib.prompt_attention import mass
from promptlib.prompt_attention.mixture import ContextualMixture


def verdict(name, measured):
    return claims.check_each("prompt-attention/", chapter.ROWS, {name: measured})[name].verdict


def test_no_prompt_spreads_attention_evenly():
    mean, squares = mass.attention_moments(20, 0.3, 0.0, 0.0)
    assert float(mean) == pytest.approx(0.3, rel=1e-9)
    assert float(squares) == pytest.approx(14 / 400, rel=1e-9)
    mixture = ContextualMixture(3, 20, 0.3, noise_std=1.0)
    assert float(mass.attention_mass(mixture, 0.0)) == pytest.approx(0.3)


def test_without_noise_the_limit_is_exact_at_every_size():
    for tokens in (2, 10, 1000):
        mean, _ = mass.attention_moments(tokens, 0.5, 1.7, 0.0)
        assert float(mean) == pytest.approx(float(mass.limiting_mass(0.5, 1.0, 0.0, 1.7)), rel=1e-9)


@pytest.mark.parametrize("spread", [0.5, 2.0, 5.0, 8.0])
def test_moments_against_a_finer_quadrature(spread):
    """One irrelevant token: the mean is an integral over one normal variable."""
    from scipy.integrate import quad

    def density(g):
        return math.exp(-g * g / 2) / math.sqrt(2 * math.pi)

    def share(g):
        return 1 / (1 + math.exp(min(700.0, spread * g - 1.3)))

    points = [1.3 / spread]
    options = {"points": points, "limit": 400, "epsabs": 1e-13, "epsrel": 1e-12}
    expected = quad(lambda g: density(g) * share(g), -12, 12, **options)[0]
    squares = quad(lambda g: density(g) * (1 - share(g)) ** 2, -12, 12, **options)[0]
    mean, second = mass.attention_moments(2, 0.5, 1.3, spread)
    assert float(mean) == pytest.approx(expected, rel=1e-9)
    assert float(second) == pytest.approx(squares, rel=1e-9)


def test_many_tokens_tend_to_the_limit():
    mean, squares = mass.attention_moments(10**6, 0.1, 2.0, 1.2)
    limit = 1 / (1 + 9 * math.exp(1.2**2 / 2 - 2.0))
    assert float(mean) == pytest.approx(limit, rel=1e-4)
    assert float(squares) < 1e-4


def test_long_prompts_tend_to_hard_attention():
    tokens, share, ratio = 10, 0.1, 1.6
    hard = float(mass.hard_attention_mass(tokens, share, ratio))
    gaps = []
    for spread in (2.0, 4.0, 8.0):
        mean, _ = mass.attention_moments(tokens, share, ratio * spread, spread)
        gaps.append(abs(float(mean) - hard))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02


def test_cells_of_a_tensor_do_not_depend_on_each_other():
    tokens = torch.tensor([[5.0], [50.0]])
    gaps, spreads = torch.linspace(0.0, 4.0, 300), torch.linspace(0.0, 3.0, 300)
    together, _ = mass.attention_moments(tokens, 0.2, gaps, spreads)
    assert together.shape == (2, 300)
    alone, _ = mass.attention_moments(50, 0.2, gaps[290], spreads[290])
    assert float(together[1, 290]) == pytest.approx(float(alone), rel=1e-9)


def test_mixture_and_parameters_agree():
    mixture = ContextualMixture(3, 10, 0.2, 1.4, 1.0, 0.9, deviations=((0.7, -1.0),))
    scales = torch.linspace(-1.0, 3.0, 7, dtype=torch.float64)
    torch.testing.assert_close(
        mass.attention_mass(mixture, scales),
        mass.limiting_mass(0.2, 1.4, 0.9, scales, deviation=0.7),
    )


def test_an_oblique_context_favours_one_label():
    mixture = ContextualMixture(3, 10, 0.2, 1.0, 2.0, 0.5, 0.7)
    positive, negative = mass.limiting_masses(mixture, 1.5 * mixture.context)
    assert float(positive) > 0.2 > float(negative)
    mean, error = measured_mass.measured_mass(
        ContextualMixture(3, 1000, 0.2, 1.0, 2.0, 0.5, 0.7),
        1.5 * mixture.context,
        4000,
        torch.Generator().manual_seed(0),
    )
    assert abs(float(mean - mass.attention_mass(mixture, 1.5))) < 5 * float(error) + 1e-3


def test_misaligned_prompts_act_like_a_shorter_context():
    cosine, scale = 0.6, 1.3
    crooked = mass.limiting_mass(0.1, 2.0, 1.0, cosine**2 * scale, alignment=cosine)
    shorter = mass.limiting_mass(0.1, 2.0 * cosine, 1.0, scale)
    assert float(crooked) == pytest.approx(float(shorter), rel=1e-12)
    mixture = ContextualMixture(4, 10, 0.1, 2.0, 1.0, 1.0)
    prompt = 0.7 * mixture.context
    prompt[3] = 0.7 * 2.0 * math.sqrt(1 / cosine**2 - 1)
    expected = mass.limiting_mass(0.1, 2.0, 1.0, 0.7, alignment=cosine)
    torch.testing.assert_close(mass.limiting_masses(mixture, prompt), expected.expand(2))


def test_context_for_mass_is_zero_when_mean_pooling_suffices():
    assert float(measured_mass.context_for_mass(0.7, 1.0, 0.5)) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mass.limiting_mass(0.0, 1.0, 1.0, 1.0), "sparsity must be > 0"),
        (lambda: mass.limiting_mass(0.1, 1.0, 1.0, 1.0, alignment=1.2), "alignment must be <= 1"),
        (lambda: mass.sharpest_scale(1.0, 0.0), "noise_std must be > 0"),
        (lambda: measured_mass.context_for_mass(0.1, 1.0, 1.0), "wanted must be < 1"),
        (lambda: mass.attention_moments(1, 0.5, 0.0, 0.0), "tokens must be >= 2"),
        (lambda: mass.attention_moments(4, 0.5, 0.0, 9.0), "spread must be <= 8"),
        (
            lambda: mass.hard_attention_mass(4, 0.5, math.nan),
            "gap_in_spreads must be a number, got nan",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.claim("prompt-attention/attention-mass-finite-tokens")
def test_finite_tokens_claim():
    measured = measured_mass.moments_beside_bags(0, 5000)
    assert verdict("attention-mass-finite-tokens", measured) == "holds"

    def limit_only(tokens, share, gap, spread):
        limit = torch.sigmoid(torch.logit(torch.tensor(share)) + gap - spread**2 / 2)
        return limit, mass.attention_moments(tokens, share, gap, spread)[1]

    measured = measured_mass.moments_beside_bags(0, 5000, moments=limit_only)
    assert verdict("attention-mass-finite-tokens", measured) == "fails"


@pytest.mark.claim("prompt-attention/attention-mass-floor")
def test_floor_claim():
    assert verdict("attention-mass-floor", measured_mass.floors(0, 20)) == "holds"

    def without_the_noise(share, norm, std, scale):
        return mass.limiting_mass(share, norm, 0.0, scale)

    measured = measured_mass.floors(0, 20, limit=without_the_noise)
    assert verdict("attention-mass-floor", measured) == "fails"


@pytest.mark.claim("prompt-attention/attention-mass-excess")
def test_excess_claim():
    assert verdict("attention-mass-excess", measured_mass.excesses(0)) == "holds"

    def nothing(share, norm, std, scale):
        return torch.zeros_like(scale)

    # As a floor zero would do; the mass must come down to it, too.
    assert verdict("attention-mass-floor", measured_mass.floors(0, 20, limit=nothing)) == "holds"
    assert verdict("attention-mass-excess", measured_mass.excesses(0, limit=nothing)) == "fails"

    def a_little_low(*parameters):
        return 0.99 * mass.limiting_mass(*parameters)

    measured = measured_mass.excesses(0, limit=a_little_low)
    assert verdict("attention-mass-excess", measured) == "fails"


@pytest.mark.claim("prompt-attention/attention-mass-best-scale")
def test_best_scale_claim():
    assert verdict("attention-mass-best-scale", measured_mass.masses_by_scale(0)) == "holds"

    def half(norm, std, away):
        scale, gain = mass.sharpest_scale(norm, std, away)
        return scale / 2, gain

    measured = measured_mass.masses_by_scale(0, best=half)
    assert verdict("attention-mass-best-scale", measured) == "fails"


@pytest.mark.claim("prompt-attention/attention-mass-log-rule")
def test_log_rule_claim():
    assert verdict("attention-mass-log-rule", measured_mass.masses_by_context(0)) == "holds"

    def without_the_two(share, std, wanted):
        return measured_mass.context_for_mass(share, std, wanted) / math.sqrt(2)

    measured = measured_mass.masses_by_context(0, needed=without_the_two)
    assert verdict("attention-mass-log-rule", measured) == "fails"

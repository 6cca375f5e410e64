"""Mean and covariance of a bag: against drawn bags, and against what they reduce to."""

import pytest
import torch

from notebooks.prompt_attention.contextual_mixture.claims import ROWS, signed_moments
from notebooks.prompt_attention.first_gradient import measured_steps
from promptlib import claims
from promptlib.prompt_attention import bag_moments
from promptlib.prompt_attention.instances import POINTS
from promptlib.prompt_attention.mixture import ContextualMixture


@pytest.mark.parametrize("mixture", POINTS, ids=lambda m: f"cosine {m.cosine}")
def test_covariance_of_each_case_against_drawn_bags(mixture):
    generator = torch.Generator().manual_seed(5)
    kinds = bag_moments.cases(mixture)
    for case in range(len(kinds.labels)):
        n = 4000
        relevant = torch.zeros(n, mixture.tokens, dtype=torch.bool)
        relevant[:, : mixture.relevant_tokens] = True
        noise = mixture.noise_std * torch.randn(
            n, mixture.tokens, mixture.dim, generator=generator, dtype=torch.float64
        )
        tokens = mixture.compose(
            kinds.labels[case].expand(n), relevant, kinds.deviations[case].expand(n, 2), noise
        )
        mean = tokens.mean(1)
        centred = tokens - mean[:, None]
        spread = centred.mT @ centred / mixture.tokens
        for values, expected in (
            (mean, bag_moments.bag_mean(mixture)[case]),
            (spread, bag_moments.bag_covariance(mixture)[case]),
        ):
            errors = (values.mean(0) - expected) / (values.std(0) / n**0.5)
            assert float(errors.abs().max()) < 4.5


def test_signed_moments_are_the_stated_multiples():
    mixture = POINTS[3]
    away = mixture.deviation_table
    weights = mixture.deviation_probabilities
    share = mixture.sparsity
    gain = share - (1 - share) * (weights @ away[:, 1])
    torch.testing.assert_close(bag_moments.signed_mean(mixture), gain * mixture.signal)
    factor = share * (1 - share) * (weights @ ((1 + away[:, 0]) * (1 + away[:, 1])))
    outer = torch.outer(mixture.context, mixture.signal)
    torch.testing.assert_close(bag_moments.signed_covariance(mixture), factor * (outer + outer.T))


def test_mean_prompt_gradient_for_an_arbitrary_head():
    mixture = POINTS[3]
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(mixture.dim, generator=generator, dtype=torch.float64)
    bags = mixture.sample(200_000, generator)
    mean = bags.tokens.mean(1)
    centred = bags.tokens - mean[:, None]
    pull = (centred * (centred @ w)[..., None]).mean(1)
    values = (bags.labels - mean @ w)[:, None] * pull
    errors = values.std(0) / len(values) ** 0.5
    deviation = (values.mean(0) - measured_steps.mean_prompt_gradient(mixture, w)) / errors
    assert float(deviation.abs().max()) < 4.5


def test_many_heads_at_once():
    mixture = POINTS[2]
    heads = torch.randn(
        3, 2, mixture.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    together = measured_steps.mean_prompt_gradient(mixture, heads)
    alone = measured_steps.mean_prompt_gradient(mixture, heads[2, 1])
    torch.testing.assert_close(together[2, 1], alone)


def test_head_of_another_width_is_refused():
    mixture = ContextualMixture(3, 4, 0.5)
    with pytest.raises(ValueError, match=r"must have shape \(..., 3\), got \(4,\)"):
        measured_steps.mean_prompt_gradient(mixture, torch.zeros(4))


@pytest.mark.claim("prompt-attention/bag-statistics")
def test_claim_holds_and_fails_when_the_irrelevant_share_is_forgotten():
    def verdict(*arguments, **options):
        measured = {"bag-statistics": signed_moments(*arguments, **options)}
        return claims.check_each("prompt-attention/", ROWS, measured)["bag-statistics"].verdict

    assert verdict(0, 4000) == "holds"

    def without_deviations(mixture):
        return mixture.sparsity * mixture.signal

    assert verdict(0, 4000, mean=without_deviations) == "fails"

    def one_sided(mixture):
        return 2 * torch.tril(bag_moments.signed_covariance(mixture))

    assert verdict(0, 4000, covariance=one_sided) == "fails"

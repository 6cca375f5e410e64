"""The reference itself: heads against direct solves, tokens against features, memory, refusals."""

import math

import pytest
import torch

from notebooks.prompt_attention.price_of_the_head.head_simulation import (
    SimulatedErrors,
    learned_heads,
    pooled_features,
    simulate_on_features,
    simulate_on_tokens,
)
from promptlib.prompt_attention.mixture import ContextualMixture

MIXTURE = ContextualMixture(23, 10, 0.2, context_norm=1.5, signal_norm=0.7, noise_std=0.9)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "p"), [(7, 3), (3, 7), (5, 5)])
def test_heads_solve_their_equations(n, p):
    features = torch.randn(n, p, generator=generator(), dtype=torch.float64)
    heads = learned_heads(features, [0.0, 0.3, math.inf])
    pseudo = torch.linalg.pinv(features) @ torch.ones(n).double()
    torch.testing.assert_close(heads[0], pseudo, rtol=1e-8, atol=1e-10)
    system = features.T @ features + n * 0.3 * torch.eye(p).double()
    torch.testing.assert_close(heads[1], torch.linalg.solve(system, features.sum(0)))
    torch.testing.assert_close(heads[2], features.mean(0))


def test_a_direction_without_features_gets_no_weight():
    features = torch.randn(9, 4, generator=generator(), dtype=torch.float64)
    features[:, 2] = 0
    heads = learned_heads(features, [0.0, 0.1, math.inf])
    assert heads.isfinite().all()
    assert heads[:, 2].abs().max() < 1e-12


def test_a_negative_ridge_is_refused():
    with pytest.raises(ValueError, match="ridge must be a number >= 0, got -1"):
        learned_heads(torch.eye(2).double(), [-1.0])


def test_pooled_features_lose_the_direction():
    bags = MIXTURE.sample(5, generator())
    kept = pooled_features(bags.tokens, 0.5 * MIXTURE.context)
    lost = pooled_features(bags.tokens, 0.5 * MIXTURE.context, MIXTURE.context)
    assert (lost @ MIXTURE.context).abs().max() < 1e-12
    torch.testing.assert_close(lost[:, 1:], kept[:, 1:])


def test_tokens_and_features_give_the_same_errors():
    ridges = [0.0, 0.1, math.inf]
    tokens = simulate_on_tokens(MIXTURE, 0.6, 40, ridges, 150, generator(), test_bags=200)
    features = simulate_on_features(MIXTURE, 0.6, 40, ridges, 300, generator(1))
    spread = (tokens.standard_error.square() + features.standard_error.square()).sqrt()
    assert ((tokens.mean - features.mean).abs() < 4 * spread).all()


def test_standard_errors():
    errors = torch.tensor([[0.1, 0.4], [0.3, 0.4]]).double()
    torch.testing.assert_close(SimulatedErrors(errors).mean, torch.tensor([0.2, 0.4]).double())
    torch.testing.assert_close(
        SimulatedErrors(errors).standard_error, torch.tensor([0.1, 0.0]).double()
    )


def test_batches_stay_below_the_memory_limit(monkeypatch):
    seen = []
    original = ContextualMixture.sample

    def watched(self, n, generator):
        bags = original(self, n, generator)
        seen.append(bags.tokens.nbytes)
        return bags

    monkeypatch.setattr(ContextualMixture, "sample", watched)
    simulate_on_tokens(MIXTURE, 0.6, 40, [0.1], 2, generator(), test_bags=30, memory_mib=0.02)
    assert max(seen) <= 0.02 * 2**20
    assert sum(seen) == 2 * 70 * 10 * 23 * 8


@pytest.mark.parametrize("simulate", [simulate_on_tokens, simulate_on_features])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"repetitions": 1}, "repetitions must be at least 2.*got 1"),
        ({"memory_mib": 1e-4}, "memory_mib=0.0001"),
    ],
)
def test_refusals(simulate, changed, message):
    arguments = {"samples": 30, "ridges": [0.1], "repetitions": 3, "generator": generator()}
    with pytest.raises(ValueError, match=message):
        simulate(MIXTURE, 0.5, **{**arguments, **changed})


def test_other_mixtures_are_refused():
    noiseless = ContextualMixture(5, 10, 0.2)
    with pytest.raises(ValueError, match="noise_std > 0"):
        simulate_on_tokens(noiseless, 0.5, 10, [0.1], 3, generator())

"""The contextual mixture: its geometry, what a sample holds, and what it refuses."""

import math

import pytest
import torch

from promptlib.prompt_attention import Bags, ContextualMixture


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MIXTURE = ContextualMixture(
    dim=5,
    tokens=7,
    sparsity=3 / 7,
    context_norm=1.3,
    signal_norm=0.7,
    cosine=-0.6,
    deviations=((0.0, 0.0), (2.0, -1.0)),
    probabilities=(0.25, 0.75),
)


def test_vectors_have_the_norms_and_the_angle_asked_for():
    q, w = MIXTURE.context, MIXTURE.signal
    assert q.norm().item() == pytest.approx(1.3, abs=1e-12)
    assert w.norm().item() == pytest.approx(0.7, abs=1e-12)
    assert (q @ w).item() == pytest.approx(-0.6 * 1.3 * 0.7, abs=1e-12)


def test_the_parts_are_orthogonal_and_have_the_norms_of_the_docstring():
    q, w = MIXTURE.context_only, MIXTURE.signal_only
    assert abs(q @ MIXTURE.signal) < 1e-12
    assert abs(w @ MIXTURE.context) < 1e-12
    assert (q @ q).item() == pytest.approx(1.3**2 * (1 - 0.36), abs=1e-12)
    assert (w @ w).item() == pytest.approx(0.7**2 * (1 - 0.36), abs=1e-12)


def test_every_bag_obeys_the_definition_token_by_token():
    bags = MIXTURE.sample(11, generator())
    assert isinstance(bags, Bags)
    assert bags.tokens.shape == (11, 7, 5)
    assert bags.labels.shape == (11,)
    assert bags.relevant.shape == (11, 7)
    assert bags.relevant.dtype == torch.bool
    assert set(bags.labels.tolist()) <= {-1.0, 1.0}
    assert bags.relevant.sum(dim=1).tolist() == [3] * 11
    q, w = MIXTURE.context, MIXTURE.signal
    for tokens, label, relevant in zip(*bags, strict=True):
        candidates = [-dq * q - dw * label * w for dq, dw in MIXTURE.deviations]
        strayed = tokens[~relevant]
        # One deviation for the whole bag.
        assert any((strayed - candidate).abs().max() < 1e-12 for candidate in candidates)
        assert (tokens[relevant] - (q + label * w)).abs().max() < 1e-12


def test_noise_falls_on_irrelevant_tokens_only():
    noisy = ContextualMixture(dim=3, tokens=5, sparsity=0.4, noise_std=2.0)
    bags = noisy.sample(13, generator())
    clean = noisy.context + bags.labels[:, None] * noisy.signal
    deviation = (bags.tokens - clean[:, None, :]).abs()
    assert deviation[bags.relevant].max() == 0
    spread = bags.tokens[~bags.relevant].std().item()
    assert spread == pytest.approx(2.0, rel=0.25)


def test_labels_sets_and_deviations_are_drawn_at_their_rates():
    n = 20_000
    bags = MIXTURE.sample(n, generator(1))
    assert abs(bags.labels.mean().item()) < 4 / math.sqrt(n)
    share = 3 / 7
    rates = bags.relevant.double().mean(dim=0)
    assert (rates - share).abs().max() < 4.5 * math.sqrt(share * (1 - share) / n)
    # No two positions prefer each other's company.
    together = (bags.relevant[:, 0] & bags.relevant[:, 1]).double().mean().item()
    expected = share * (2 / 6)
    assert abs(together - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    strayed = (bags.tokens[~bags.relevant].reshape(n, 4, 5)[:, 0].abs().sum(dim=1) > 1e-9).double()
    assert abs(strayed.mean().item() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / n)


def test_a_sample_is_a_function_of_the_generator():
    first, again = MIXTURE.sample(3, generator(5)), MIXTURE.sample(3, generator(5))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    other = MIXTURE.sample(3, generator(6))
    assert not torch.equal(first.tokens, other.tokens)


def test_sampling_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    MIXTURE.sample(3, generator())
    assert torch.equal(before, torch.random.get_rng_state())


def test_dtype_is_that_of_everything_returned():
    single = ContextualMixture(3, 5, 0.2, noise_std=1.0, dtype=torch.float32)
    bags = single.sample(2, generator())
    assert bags.tokens.dtype == bags.labels.dtype == single.context.dtype == torch.float32


def test_an_adversary_may_place_the_relevant_tokens():
    labels = torch.tensor([1.0, -1.0])
    relevant = torch.zeros(2, 7, dtype=torch.bool)
    relevant[0, :3] = relevant[1, 4:] = True
    tokens = MIXTURE.compose(labels, relevant, torch.tensor([[0.0, 0.0], [2.0, -1.0]]))
    q, w = MIXTURE.context, MIXTURE.signal
    assert torch.equal(tokens[0, 3:], torch.zeros(4, 5, dtype=torch.float64))
    assert torch.allclose(tokens[1, :4], (-2 * q - w).expand(4, 5), atol=1e-12)
    assert torch.allclose(tokens[1, 4:], (q - w).expand(3, 5), atol=1e-12)


def test_mixtures_are_values():
    twin = ContextualMixture(3, 5, 0.2, deviations=[[1, 2]], probabilities=[1])
    assert twin == ContextualMixture(3, 5, 0.2, deviations=((1.0, 2.0),), probabilities=(1.0,))
    assert hash(twin) == hash(ContextualMixture(3, 5, 0.2, deviations=((1, 2),), probabilities=[1]))


GOOD = {"dim": 3, "tokens": 10, "sparsity": 0.3}
REFUSED = [
    ({"dim": 1}, "dim must be an integer of at least 2.*got 1"),
    ({"dim": 2.5}, r"dim must be a whole number.*got 2\.5"),
    ({"dim": True}, "dim must be a whole number.*got True"),
    ({"tokens": 1}, "tokens must be an integer of at least 2.*got 1"),
    ({"sparsity": 0.0}, r"sparsity must lie in \(0, 1\), got 0\.0"),
    ({"sparsity": 1.0}, r"sparsity must lie in \(0, 1\), got 1\.0"),
    ({"sparsity": 1.5}, r"sparsity must lie in \(0, 1\), got 1\.5"),
    ({"sparsity": float("nan")}, "sparsity must be a number, got nan"),
    ({"sparsity": "0.3"}, "sparsity must be a number, got '0.3'"),
    ({"sparsity": 0.25}, r"0\.25 \* 10 = 2\.5; the nearest choice is sparsity=2/10"),
    ({"sparsity": 0.01}, r"0\.01 \* 10 = 0\.1; the nearest choice is sparsity=1/10"),
    ({"sparsity": 1 - 1e-12}, "the nearest choice is sparsity=9/10"),
    ({"cosine": 1.0}, r"cosine must lie in \(-1, 1\), got 1\.0"),
    ({"cosine": -1.0}, r"cosine must lie in \(-1, 1\), got -1\.0"),
    ({"context_norm": 0.0}, r"context_norm must be > 0, got 0\.0"),
    ({"signal_norm": -1.0}, r"signal_norm must be > 0, got -1\.0"),
    ({"noise_std": -0.1}, r"noise_std must be >= 0, got -0\.1"),
    ({"noise_std": float("inf")}, "noise_std must be a finite number, got inf"),
    ({"deviations": ()}, "deviations must be a non-empty tuple"),
    ({"deviations": (1.0, 2.0)}, r"deviations\[0\] must be a sequence.*got 1\.0"),
    ({"deviations": ((-0.5, 0.0),)}, r"δq must be >= 0, got -0\.5"),
    ({"deviations": ((0.0, float("nan")),)}, r"deviations\[0\]\[1\] must be a number, got nan"),
    ({"probabilities": (0.5, 0.5)}, "one number for each of the 1 deviations"),
    ({"probabilities": (0.9,)}, r"must sum to 1, got \(0\.9,\) with sum 0\.9"),
    (
        {"deviations": ((0.0, 0.0), (1.0, 1.0)), "probabilities": (1.5, -0.5)},
        r"must be >= 0, got -0\.5",
    ),
    ({"dtype": torch.int64}, "dtype must be a floating-point type, got torch.int64"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ContextualMixture(**{**GOOD, **change})


def test_bad_requests_for_samples_are_named():
    with pytest.raises(ValueError, match=r"n must be an integer of at least 1.*got 0"):
        MIXTURE.sample(0, generator())
    with pytest.raises(ValueError, match="generator must be a Generator, got 0"):
        MIXTURE.sample(3, 0)

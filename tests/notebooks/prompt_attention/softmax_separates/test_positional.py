"""One head for each position: the adversary's choice, and the escape without one."""

from itertools import combinations

import pytest
import torch

from notebooks.prompt_attention.softmax_separates.positional import (
    escaping_heads,
    positional_accuracy,
    positional_scores,
    search_worst_case,
    worst_case,
)
from promptlib.prompt_attention import ContextualMixture, aligned, self_attention
from promptlib.prompt_attention.expressivity import aligned_gain, self_attention_threshold


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scores_are_those_of_self_attention_with_a_head_for_each_position():
    mixture = ContextualMixture(3, 5, 0.4, cosine=0.3, deviations=aligned(2.5))
    heads, A = normal(5, 3), normal(3, 3, seed=1)
    heading = mixture.context - mixture.signal  # y = -1
    readouts, c = heads @ heading, heading @ A @ heading
    for chosen in combinations(range(5), 2):
        relevant = torch.zeros(2, 5, dtype=torch.bool)
        relevant[:, list(chosen)] = True
        tokens = mixture.compose(-torch.ones(2), relevant, mixture.deviation_table)
        scores = positional_scores(readouts, readouts[list(chosen)].sum(), c, 2.5, 0.4)
        assert (torch.stack(scores) - self_attention(tokens, heads, A)).abs().max() < 1e-10


def test_the_worst_case_is_the_worst_of_all_relevant_sets():
    readouts, c = normal(7, 6, seed=2), normal(7, seed=3)
    expected = torch.full((7,), float("inf"), dtype=torch.float64)
    for chosen in combinations(range(6), 2):
        scores = positional_scores(readouts, readouts[:, list(chosen)].sum(dim=1), c, 1.7, 1 / 3)
        expected = torch.minimum(expected, torch.stack(scores).amin(dim=0))
    assert (worst_case(readouts, c, 1.7, 2) - expected).abs().max() < 1e-12


def test_averaged_over_relevant_sets_the_scores_are_those_of_a_shared_head():
    readouts, c = normal(5), torch.tensor(0.3, dtype=torch.float64)
    sums = torch.stack([readouts[list(chosen)].sum() for chosen in combinations(range(5), 2)])
    scores = positional_scores(readouts, sums, c.expand(10), 3.0, 0.4)
    for score, size in zip(scores, (0.0, 3.0), strict=True):
        expected = readouts.mean() * aligned_gain(c, size, 0.4)
        assert (score.mean() - expected).abs() < 1e-12


@pytest.mark.parametrize(("factor", "positive"), [(0.95, True), (1.05, False)])
def test_the_adversary_wins_exactly_above_the_threshold(factor, positive):
    size = factor * self_attention_threshold(0.4)
    best = search_worst_case(
        size, 5, 2, restarts=64, steps=100, generator=torch.Generator().manual_seed(0)
    )
    assert (best > 0) is positive


def test_without_an_adversary_the_escape_is_right_with_probability_one_minus_sparsity():
    for size in (1.0, 100.0):
        assert positional_accuracy(escaping_heads(7, 6), 0.5, size, 2) == pytest.approx(5 / 7)
        shared = torch.ones(7, dtype=torch.float64)
        assert positional_accuracy(shared, 0.5, max(size, 10.0), 2) == pytest.approx(0.5)


def test_refusals():
    with pytest.raises(ValueError, match=r"must lie in 1\.\.4, got 5"):
        worst_case(torch.ones(5), torch.zeros(()), 1.0, 5)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        escaping_heads(1, 1)

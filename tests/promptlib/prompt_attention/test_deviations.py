"""The largest deviation that chance explains."""

import pytest
import torch

from promptlib.prompt_attention.deviations import FALSE_ALARMS, Comparison, largest_deviation


def test_one_comparison_is_the_two_sided_quantile():
    assert largest_deviation(1) == pytest.approx(3.8906, abs=1e-4)


def test_more_comparisons_and_fewer_runs_allow_more():
    assert largest_deviation(1) < largest_deviation(10) < largest_deviation(10, 30)
    assert largest_deviation(10, 30) < largest_deviation(10, 12)
    assert largest_deviation(7, 100_000) == pytest.approx(largest_deviation(7), abs=1e-3)


def test_chance_seldom_exceeds_it(monkeypatch):
    monkeypatch.setattr("promptlib.prompt_attention.deviations.FALSE_ALARMS", 0.05)
    draws = torch.randn(4000, 6, 12, generator=torch.Generator().manual_seed(0))
    scores = draws.mean(-1) / (draws.std(-1) / 12**0.5)
    share = (scores.abs().amax(1) > largest_deviation(6, 12)).double().mean()
    assert 0.03 < float(share) < 0.06
    assert FALSE_ALARMS == 1e-4


def test_refusals():
    with pytest.raises(ValueError, match="instances must be at least 1, got 0"):
        largest_deviation(0)
    with pytest.raises(ValueError, match="runs must be at least 2 for a standard error, got 1"):
        largest_deviation(3, 1)


def test_a_comparison_joins_instances_of_any_shape():
    met = Comparison.of([(torch.zeros(2, 2), torch.ones(2, 2), torch.ones(2, 2)), (1, 3.0, 0.5)], 9)
    assert met.formula.dtype == torch.float64
    assert met.deviations.tolist() == [1.0, 1.0, 1.0, 1.0, 4.0]
    assert met.chance == largest_deviation(5, 9)

"""The formulas of the chapter against independent ones, and what they refuse."""

import itertools
import math

import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import betabinom, binom

from notebooks.bridge.before_and_after import (
    coins,
    figures,
    functions_of_the_query,
    measured,
    memory,
    planted,
    two_contents,
    untrained,
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_slope_of_a_random_curve_bounds_its_difference_quotients():
    curve, slope = functions_of_the_query.random_curve(torch.Generator().manual_seed(0))
    angles = torch.rand(2, 500, generator=torch.Generator().manual_seed(1)).double() * 6
    steps = (curve(angles[0]) - curve(angles[1])).norm(dim=1)
    assert (steps <= slope * (angles[0] - angles[1]).abs()).all()
    fine = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    steepest = (curve(fine).diff(dim=0).norm(dim=1) / fine.diff()).max()
    assert 0.99 * slope < steepest < slope


def test_the_prefix_of_a_constant_returns_the_constant():
    def constant(angles):
        return torch.full((len(angles), 2), 3.0, dtype=torch.float64)

    worst, mean = measured.curve_errors(constant, 3, torch.Generator().manual_seed(0))
    left = functions_of_the_query.share_left(12, 1.0, 3)
    assert 1e-3 < mean <= worst <= left * (1 + 3 * math.sqrt(2))
    worst, _ = measured.curve_errors(constant, 8, torch.Generator().manual_seed(0))
    assert worst < 1e-12  # nothing is left to the content
    assert functions_of_the_query.error_limit(0.0, 8) == 0.0


def test_longer_prefixes_come_nearer():
    curve, _ = functions_of_the_query.random_curve(torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(3)
    means = [float(measured.curve_errors(curve, length, draw)[1]) for length in (4, 16, 64, 256)]
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0] / 30


def test_nothing_found_by_descent_swaps_better():
    """For shares of a half, over every point that a prefix could add."""
    outputs, shares = normal(0, 2, 3), torch.tensor([0.5, 0.5]).double()

    def worst(point):
        moved = 0.5 * outputs + 0.5 * torch.tensor(point)
        return float((moved - outputs.flip(0)).norm(dim=1).max())

    apart = (outputs[0] - outputs[1]).norm()
    limit = float(two_contents.swap_limit(*shares, apart))
    assert limit == pytest.approx(0.75 * float(apart))
    found = minimize(worst, normal(1, 3).numpy(), method="Nelder-Mead", options={"maxiter": 4000})
    assert found.fun == pytest.approx(limit, rel=1e-3)
    best = two_contents.swapping_point(outputs, shares)
    assert worst(best.tolist()) == pytest.approx(limit)


def test_nothing_found_by_descent_adds_a_bias_better():
    """Over shares and points of norm up to K."""
    outputs, bias, longest = normal(2, 2, 3), normal(3, 3) / 3, 2.0
    bias = (
        bias
        - (bias @ (outputs[0] - outputs[1]))
        * (outputs[0] - outputs[1])
        / (outputs[0] - outputs[1]).square().sum()
    )

    def off(z):
        share, point = 1 / (1 + math.exp(-z[0])), torch.tensor(z[1:])
        point = point * min(1.0, longest / max(float(point.norm()), 1e-9))
        return float((share * (point - outputs) - bias).norm(dim=1).max())

    limit = two_contents.fading_limit(bias, outputs, longest)
    found = min(
        minimize(off, normal(seed, 4).numpy(), method="Nelder-Mead", options={"maxiter": 4000}).fun
        for seed in range(5)
    )
    assert limit <= found < 4 * limit


@pytest.mark.parametrize(("places", "length"), [(3, 1), (4, 2), (5, 3), (4, 4)])
def test_patterns_are_those_with_few_changes(places, length):
    few = [
        signs
        for signs in memory.patterns(places)
        if sum(a != b for a, b in itertools.pairwise(signs)) < length
    ]
    assert memory.patterns_within(places, length) == len(few)
    assert memory.patterns_within(length, length) == 2**length


def test_sums_with_given_zeros_have_them():
    zeros, rates = torch.tensor([-1.0, 0.3, 2.0]).double(), torch.tensor([0.0, 1, 2.5, 4]).double()
    weights = memory.weights_with_zeros(zeros, rates)
    assert float((torch.exp(zeros[:, None] * rates) @ weights).abs().max()) < 1e-10
    between = torch.tensor([-2.0, 0.0, 1.0, 3.0]).double()
    terms = weights * torch.exp(between[:, None] * rates)
    assert int(memory.sign_changes(terms)) == 3
    assert int(memory.sign_changes(terms.abs())) == 0


def test_rounding_is_no_sign():
    terms = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0 + 1e-15], [1.0, 1.0]]).double()
    assert int(memory.sign_changes(terms)) == 0


def test_the_derivatives_are_those_of_autograd():
    queries, key, value, content = normal(0, 5, 3), normal(1, 3), normal(2, 2), normal(3, 2)
    by_key, by_value = torch.autograd.functional.jacobian(
        lambda k, v: planted.predicted(queries, k, v, content), (key, value)
    )
    expected = torch.cat((by_key, by_value), dim=-1).flatten(0, 1)
    torch.testing.assert_close(planted.derivatives(queries, key, value, content), expected)


def test_a_tie_that_ties_nothing_is_the_free_pair():
    jacobian = normal(0, 20, 4)
    torch.testing.assert_close(
        planted.tied_covariance(jacobian, torch.eye(4).double()), planted.free_covariance(jacobian)
    )


def test_least_squares_finds_a_planted_pair_without_noise():
    queries, content, truth = normal(0, 2, 12, 3), normal(1, 2), normal(2, 5)
    outputs = planted.predicted(queries, truth[:3], truth[3:], content)
    start = truth + 0.05 * normal(3, 5)
    found = planted.least_squares(queries, outputs, start, torch.eye(5).double(), content)
    torch.testing.assert_close(found, truth.expand(2, -1))


def test_laws_of_heads_are_those_of_scipy():
    law = coins.heads_after(torch.tensor(2.0).double(), torch.tensor(-0.5).double(), 7).exp()
    torch.testing.assert_close(law, torch.tensor(betabinom.pmf(range(8), 7, 3.0, 0.5)))
    two = coins.heads_of_coins(torch.tensor([0.2, 0.7]).double(), 7).exp()
    mixed = (binom.pmf(range(8), 7, 0.2) + binom.pmf(range(8), 7, 0.7)) / 2
    torch.testing.assert_close(two, torch.tensor(mixed))
    assert float(coins.divergence(two.log(), two.log())) == pytest.approx(0, abs=1e-12)


def test_no_law_with_one_mode_beats_the_limit():
    """Among laws that rise and then fall, the closest to two humps, by descent on each mode."""
    target = coins.heads_of_coins(torch.tensor([0.1, 0.9]).double(), 8)
    limit = coins.unimodal_limit(target)
    assert limit > 0.1

    def law(z, mode):
        steps = torch.tensor(z).abs()
        signs = torch.where(torch.arange(8) < mode, 1.0, -1.0).double()
        return torch.log_softmax(torch.cat((torch.zeros(1), (signs * steps).cumsum(0))), 0)

    closest = min(
        minimize(
            lambda z, mode=mode: float(coins.divergence(target, law(z, mode))),
            [0.1] * 8,
            method="Powell",
            options={"maxiter": 20},
        ).fun
        for mode in (0, 1, 4)
    )
    assert limit <= closest
    one = coins.heads_of_coins(torch.tensor([0.4]).double(), 8)
    assert coins.unimodal_limit(one) == 0.0


def test_soft_vectors_leave_logits_of_other_answers_below():
    layer = untrained.random_layer(torch.Generator().manual_seed(0), 5, 23, 9)
    wanted = torch.tensor([4, 4, 0, 2, 1])
    prefix = untrained.answering_prefix(layer, wanted, 7)
    assert untrained.answers(layer, prefix).tolist() == wanted.tolist()
    texts = torch.tensor(list(itertools.product(range(5), repeat=3)))
    found = untrained.logits(layer, texts, prefix).argmax(-1)
    assert found.tolist() == wanted[texts[:, -1]].tolist()


def test_a_prefix_reads_as_every_text_of_two_symbols():
    layer = untrained.random_layer(torch.Generator().manual_seed(1), 3, 9, 3)
    prefix = normal(0, 2, 9)
    for text in itertools.product(range(3), repeat=2):
        twin = untrained.reworded(layer, prefix, torch.tensor(text))
        assert untrained.read_as(layer, twin).tolist() == list(text)
        for matrix in (layer.keys, layer.values):
            torch.testing.assert_close(twin @ matrix.mT, prefix @ matrix.mT)


def test_the_figures_say_what_they_show():
    figure, alt = figures.fitted_curve(torch.Generator().manual_seed(0), (4, 8))
    assert [axes.get_title() for axes in figure.axes] == ["$p = 4$", "$p = 8$"]
    assert "4 vectors: largest error" in alt
    _, alt = figures.prompted_coins((0.1, 0.9), 20, 5)
    assert "0 heads, 0 tails, leaves 0.68 nats" in alt


def test_refusals_name_the_value():
    layer = untrained.random_layer(torch.Generator().manual_seed(0), 3, 9, 3)
    ones = torch.ones(2, 3).double()
    refusals = {
        "at least 3 vectors, got 2": lambda: functions_of_the_query.error_limit(1.0, 2),
        "Lipschitz constant, at least 0, got -1": lambda: functions_of_the_query.error_limit(-1, 3),
        r"spread must be > 0, got 0": lambda: functions_of_the_query.gaussian_sums(
            ones, 0.0, ones, ones[0]
        ),
        r"shares lie in \(0, 1\), got 1 to 1": lambda: two_contents.swap_limit(*ones, ones[0]),
        "longest must be > 0, got 0": lambda: two_contents.fading_limit(ones[0], ones, 0.0),
        "the share would be": lambda: two_contents.least_fading(10 * ones[0], ones, 1.0),
        "3 vectors remember as many places, got 2": lambda: memory.remembering_weights(
            ones[0, :2], ones[0], ones[0]
        ),
        "3 vectors have 2 zeros, got 3": lambda: memory.weights_with_zeros(ones[0], ones[0]),
        "got 0 and 1": lambda: memory.patterns_within(0, 1),
        "evidence must be > -1, got -1": lambda: coins.heads_after(-ones[0], ones[0], 3),
        r"biases lie in \(0, 1\)": lambda: coins.heads_of_coins(ones[0], 3),
        "a stream of 9, got 3 and 8": lambda: untrained.random_layer(torch.Generator(), 3, 8, 3),
        r"each of 3 symbols, got \(2,\)": lambda: untrained.answering_prefix(
            layer, torch.tensor([0, 1]), 1
        ),
        "each of 2 vectors, got 1": lambda: untrained.reworded(
            layer, torch.ones(2, 9).double(), torch.tensor([0])
        ),
    }
    for message, refused in refusals.items():
        with pytest.raises(ValueError, match=message):
            refused()

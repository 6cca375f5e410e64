"""The formulas of the bridge against independent ones, and what they refuse."""

import math

import pytest
import torch

from notebooks.bridge.two_theories_one_layer import figures, heads, readings, streams
from notebooks.bridge.two_theories_one_layer.streams import learned_at, three_deviations
from promptlib.prompt_attention import (
    ContextualMixture,
    aligned,
    aligned_gain,
    linear_attention,
    prompt_attention,
    prompt_scale_bound,
    self_attention,
)

MIXTURE = ContextualMixture(5, 10, 0.3, cosine=0.4, deviations=((0.0, 0.0), (3.0, 3.0)))


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bags_of(mixture, label):
    count = len(mixture.deviations)
    relevant = (torch.arange(mixture.tokens) < mixture.relevant_tokens).expand(count, -1)
    return mixture.compose(torch.full((count,), label), relevant, mixture.deviation_table)


def test_the_lead_is_the_score_of_prompt_attention():
    power = MIXTURE.context_only @ MIXTURE.context_only
    w = MIXTURE.signal_only / (MIXTURE.signal_only @ MIXTURE.signal_only)
    scores = prompt_attention(bags_of(MIXTURE, -1.0), w, 0.7 * MIXTURE.context_only / power)
    torch.testing.assert_close(readings.lead(MIXTURE, 0.7), -scores)


def test_the_needed_logit_is_the_bound_on_the_prompt():
    power = float(MIXTURE.context_only @ MIXTURE.context_only)
    needed = readings.needed_logit(MIXTURE)
    assert needed == pytest.approx(prompt_scale_bound(MIXTURE) * power)
    assert float(readings.lead(MIXTURE, needed).min()) == pytest.approx(0, abs=1e-12)
    assert readings.needed_logit(ContextualMixture(2, 4, 0.5)) == -math.inf


def test_one_head_of_the_family_is_the_factor_of_self_attention():
    c = torch.tensor([-1.5, 0.0, 0.4])
    margins = heads.head_margin(c.double(), MIXTURE.deviation_table, 0.3)
    for place, size in enumerate((0.0, 3.0)):
        torch.testing.assert_close(margins[:, place], aligned_gain(c.double(), size, 0.3))


def test_sums_of_one_are_the_models_of_part_one():
    tokens, u, q, A = normal(0, 2, 7, 3), normal(1, 3), normal(2, 3), normal(3, 3, 3)
    torch.testing.assert_close(
        heads.heads_score(tokens, u[None], A[None]), self_attention(tokens, u, A)
    )
    torch.testing.assert_close(
        heads.linear_prompts(tokens, u[None], q[None]), linear_attention(tokens, u, q)
    )
    empty = tokens[0, :0]
    scores, attention = readings.averaged_rows(tokens, u, A, empty, empty)
    torch.testing.assert_close(scores, self_attention(tokens, u, A))
    assert attention.shape == (2, 7, 7)


def test_many_heads_hold_over_a_box_and_one_does_not():
    found = heads.box_margins(0.35, 2.0, points=11, few=11)
    assert found.one < 0
    assert found.two < 0 < found.many
    assert found.used > 2
    # At one half every sum of heads is zero at (1, 1), a point of the grid.
    assert heads.box_margins(0.5, 2.0, points=11, few=11).many < 1e-6


def test_the_explicit_scale_and_value_suffice_for_a_given_head():
    A = normal(4, 5, 5)
    scale = readings.pair_scale(MIXTURE, A)
    keys, values = readings.opposed_pair(MIXTURE, scale, 4 * 3.0 / 0.3)
    for label in (1.0, -1.0):
        tokens = bags_of(MIXTURE, label)
        scores, _ = readings.averaged_rows(tokens, MIXTURE.signal_only, A, keys, values)
        assert (label * scores > 0).all()


def test_a_stack_with_an_empty_cache_is_the_stack():
    layers = streams.random_layers(4, 3, torch.Generator().manual_seed(0))
    rows = normal(5, 6, 4)
    cache = [(rows[:0], rows[:0])] * 3
    for one, other in zip(
        streams.forward(rows, layers, True), streams.forward(rows, layers, True, cache), strict=True
    ):
        torch.testing.assert_close(one.stream, other.stream)
    with pytest.raises(ValueError, match="3 layers need as many cached pairs, got 2"):
        streams.forward(rows, layers, True, cache[:2])


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_the_asking_vector_reads_what_prompt_attention_reads(cosine):
    mixture = ContextualMixture(
        5, 10, 0.2, cosine=cosine, deviations=((0.0, 0.0), (6.0, 6.0), (6.0, -6.0))
    )
    reading = streams.read(
        mixture, streams.asking_vector(3.0), streams.Place(True, True, "own row")
    )
    kept = reading.attention[:, reading.learned, reading.content].sum(-1).squeeze(-1)
    expected = readings.lead(mixture, 3.0).repeat(2) * reading.labels
    torch.testing.assert_close(reading.scores, kept * expected)


def test_the_figure_counts_what_the_library_reads():
    mixture = ContextualMixture(5, 5, 0.2, deviations=((0.0, 0.0), (6.0, 6.0)))
    figure, right = figures.turned_vector(mixture, 0)
    assert [len(counts) for counts in right.values()] == [4, 4, 4]
    place = streams.PLACES[5]
    reading = streams.read(mixture, learned_at(mixture, place), place)
    assert right["own row"][1] == reading.right == 4
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"{count} of 4" for counts in right.values() for count in counts]


def test_refusals_name_the_value():
    noisy = ContextualMixture(3, 4, 0.5, noise_std=0.1)
    with pytest.raises(ValueError, match=r"without noise, got 0\.1"):
        readings.lead(noisy, 1.0)
    with pytest.raises(ValueError, match="blind to the label"):
        readings.difference_in_front(MIXTURE, MIXTURE.signal, normal(0, 1, 5))
    with pytest.raises(ValueError, match="too little"):
        readings.leaking_prefix(MIXTURE, MIXTURE.context_only)
    three = three_deviations(6.0)
    for refused in (
        lambda: readings.leaking_prefix(three, three.context),
        lambda: readings.pair_scale(three, torch.eye(5).double()),
        lambda: readings.least_pair_value(three, torch.eye(5).double(), 1.0),
    ):
        with pytest.raises(ValueError, match="needs the deviations"):
            refused()
    with pytest.raises(ValueError, match=r"scale must be > 0, got -1\.0"):
        readings.opposed_pair(MIXTURE, -1.0, 1.0)
    small = ContextualMixture(5, 10, 0.1, deviations=aligned(9.0))
    with pytest.raises(ValueError, match="too small"):
        readings.least_pair_value(small, -torch.eye(5).double(), 0.01)
    with pytest.raises(ValueError, match="width 5"):
        streams.frozen_layers(ContextualMixture(3, 4, 0.5))
    with pytest.raises(ValueError, match="got 2 vectors"):
        streams.read(three, streams.asking_vector(1.0).repeat(2, 1), streams.PLACES[4])
    with pytest.raises(ValueError, match="odd and at least 3, got 4"):
        heads.head_arguments(1.0, 4)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        heads.head_margin(torch.zeros(1), MIXTURE.deviation_table, 1.5)
    with pytest.raises(ValueError, match="must be > 0, got 0"):
        heads.box_margins(0.3, 0)
    half = ContextualMixture(3, 4, 0.5, deviations=aligned(1.0))
    with pytest.raises(ValueError, match=r"no heads found for sparsity 0\.5"):
        heads.heads_for(half)

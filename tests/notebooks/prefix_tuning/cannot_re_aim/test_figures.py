"""The figures draw what they are given, and say so in words."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from notebooks.prefix_tuning.cannot_re_aim import figures


@pytest.fixture(autouse=True)
def closed():
    mpl.use("agg")
    yield
    plt.close("all")


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_row_with_a_prefix_is_the_row_without_it_scaled():
    plain = torch.tensor([0.1, 0.7, 0.2], dtype=torch.float64)
    taken = torch.tensor(0.4, dtype=torch.float64)
    figure, alt = figures.one_row(plain, taken, 0.6 * plain, [5, 3, 8])
    heights = [patch.get_height() for patch in figure.axes[1].patches]
    assert heights == pytest.approx([0.4, 0.06, 0.42, 0.12])
    assert "the largest bar is 0.70, on a digit 3" in alt
    _, alt = figures.one_row(plain, taken, 0.6 * plain.flip(0), [5, 3, 8])
    assert "they agree with the first chart to 1e-01" in alt


def test_outputs_on_their_segments_are_told_from_others():
    start, value = draw(5, 7), draw(1, 7)
    tenths = [start + share * (value - start) for share in (0.2, 0.8)]
    moved = start + 0.4 * (value - start)
    _, alt = figures.segments(start, moved, tenths, value, range(5))
    assert float(alt.partition("within ")[2].split()[0]) < 1e-14
    _, alt = figures.segments(start, moved + 1, tenths, value, range(5))
    assert float(alt.partition("within ")[2].split()[0]) > 0.1


def test_the_row_behind_is_the_one_that_is_described():
    behind = torch.full((7, 7), 0.1, dtype=torch.float64)
    behind[-1, 1] = 0.5
    _, alt = figures.in_front_and_behind(behind.flip(0), behind)
    assert "that row gives 0.50 of its attention over content to token 2 and at most 0.10" in alt


def test_each_share_is_named_by_its_scheme():
    shares = {name: torch.full((9,), end) for name, end in (("a", 0.7), ("b", 0.1), ("c", 0.4))}
    _, alt = figures.share_by_position(shares)
    assert alt.endswith("At position 9: a 0.70, b 0.10, c 0.40.")


def test_changes_of_attention_are_told_apart():
    before = torch.linspace(0, 0.5, 11, dtype=torch.float64)
    _, alt = figures.before_and_after(before, before, before + 0.25)
    assert "11 attention weights" in alt
    assert "at most 0e+00 away" in alt
    assert "the largest change is 0.25" in alt
    figure, alt = figures.movements({"still": torch.zeros(5), "moves": torch.full((5,), 0.3)})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["moves", "still"]
    assert "still: 0. moves: 0.3." in alt


def test_limits_are_those_while_the_answer_is_written():
    limits = {10: torch.full((3, 19), 0.9).double(), 1: torch.full((3, 19), 0.5).double()}
    _, alt = figures.limits_by_position(limits, torch.full((3, 19), 0.25).double(), row=9)
    assert "One vector: 0.50 at the first position" in alt
    assert "Ten vectors: 0.90 there. The trained prefix takes 0.25 there" in alt

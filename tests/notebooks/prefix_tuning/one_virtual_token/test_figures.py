"""The pictures show what was computed, and say so in words."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from notebooks.prefix_tuning.one_virtual_token import figures
from notebooks.prefix_tuning.one_virtual_token.texts import encode
from promptlib import plotting
from promptlib.prefix_tuning import conditional_generator, unconditional_generator
from promptlib.prefix_tuning.constructions import unpacking


@pytest.fixture(autouse=True)
def themed():
    mpl.use("agg")
    plotting.use_theme()
    yield
    plt.close("all")


def bars(axes):
    return [patch.get_height() for patch in axes.patches]


def test_bars_are_the_virtual_token_and_labels_are_decoded():
    speaker = unconditional_generator(95, 5)
    figure, alt = figures.one_token_each(speaker, ["seven", "a bee"])
    assert bars(figure.axes[1]) == pytest.approx(speaker.virtual_token(encode("a bee")).tolist())
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == ["a", "␣", "b", "e", "e"]
    assert "seven; a bee" in alt


def test_a_lookup_leaves_one_bar():
    speaker = unconditional_generator(95, 5)
    figure, alt = figures.lookup(speaker, "seven", at=2)
    assert [height > 0 for height in bars(figure.axes[3])] == [False, False, True, False, False]
    assert "the coordinate of 'v'" in alt


def test_the_stream_is_drawn_stage_by_stage():
    speaker = conditional_generator(3, inputs=2)
    contents = speaker.contents(speaker.virtual_token(lambda a, b: (a + b) % 3), (1, 2))
    stages = speaker.stages(contents)
    figure, alt = figures.stream_by_stage(stages, speaker.layout, ["token", "1", "2"])
    drawn = [axes.images[0].get_array() for axes in figure.axes[:6]]
    for stage, image in zip(stages, drawn, strict=True):
        torch.testing.assert_close(torch.tensor(image.tolist()).double(), stage.stream)
    assert "embedding: the slots content, position are filled" in alt


def test_a_table_of_virtual_tokens_spells_its_answers():
    speaker = conditional_generator(4, responses=3)
    figure, alt = figures.virtual_table(speaker, ["abc", "cab", "bad", "dad"], "abcd")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "".join(texts) == "acbdbaaacbdd"
    assert "abc, cab, bad, dad" in alt


def test_digits_come_out_one_by_one():
    number = unpacking.pack(torch.tensor([2, 0, 3, 1]))
    figure, alt = figures.row_by_row(number, 4)
    assert [text.get_text() for text in figure.axes[0].texts[:4]] == ["2", "0", "3", "1"]
    assert "in order 2, 0, 3, 1" in alt


def test_wrong_symbols_end_below_the_bound():
    shares = figures.wrong_by_temperature(7, 3, [0.0, 8.0], 50, torch.Generator().manual_seed(0))
    assert shares[0] > 0.2
    assert shares[1] == 0.0


def test_limits_are_drawn_and_described():
    generator = torch.Generator().manual_seed(0)
    for figure, alt in (
        figures.temperature(7, [2, 5], 7, generator),
        figures.precision(3, generator),
        figures.behaviours(24),
    ):
        assert len(figure.axes[0].lines) >= 2
        assert len(alt) > 100


def test_pairs_of_sixteen_symbols_fill_every_bit():
    _, alt = figures.behaviours(24)
    assert "they cross at 16." in alt

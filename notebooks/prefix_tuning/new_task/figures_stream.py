"""What does the residual stream look like where answers are written? A figure and its alt text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from notebooks.prefix_tuning.new_task.stream import Stream, at_pair, class_scatter, reading_plane
from promptlib import plotting
from promptlib.plotting import GRID, INK, PALETTE, PAPER
from promptlib.prefix_tuning.drawing import Drawn

COLOURS = ("blue", "vermilion", "green", "purple", "ochre", "grey")
"""Of the digits that should be written, from the most frequent on."""

POINTS = 250
"""Most sequences drawn."""
LINES = 40
"""Most lines from the old place to the new one."""


@dataclass(frozen=True)
class Panel:
    """One model to draw: `stream` is from `stream.stream_of`.

    If `moved`, it is the first panel's model with something added: drawn in the plane of the first,
    with lines from the old places. Else it has a plane of its own.
    """

    title: str
    stream: Stream
    moved: bool


def planes(panels: Sequence[Panel], output: int, digit: int, n: int = 6000) -> Drawn:
    """Draw the residual stream at one output after one digit, in planes of best linear reading.

    The first panel is what the others started from. Of `n` sequences each for fitting and for
    drawing, those are taken that have written `digit` just before `output`.
    """
    fit_tokens, fit_digits = at_pair(output, digit, n, "train")
    tokens, right = at_pair(output, digit, n, "test")
    tokens, right = tokens[:POINTS], right[:POINTS]
    rows = -(-len(panels) // 2)
    figure, grid = plt.subplots(
        rows, 2, figsize=(plotting.WIDTH, 3.1 * rows), squeeze=False, sharex=False
    )
    frequent = right.unique()
    frequent = frequent[
        torch.stack([(right == d).sum() for d in frequent]).argsort(descending=True)
    ]
    kept = [int(d) for d in frequent[: len(COLOURS)]]
    coloured = list(zip(COLOURS, kept, strict=False))
    first_plane, before = Tensor(), Tensor()
    seen = []
    for axes, panel in zip(grid.flat, panels, strict=False):
        points = panel.stream(tokens)[:, output - 1].double()
        if panel.moved:
            plane = first_plane
        else:
            plane = reading_plane(panel.stream(fit_tokens)[:, output - 1], fit_digits)
        places = points @ plane
        if panel.moved:
            both = np.stack([before[:LINES].numpy(), places[:LINES].numpy()])
            axes.plot(both[..., 0], both[..., 1], color=GRID, linewidth=0.8, zorder=1)
        elif not len(before):
            first_plane, before = plane, places
        for name, wanted in coloured:
            of_digit = places[right == wanted].numpy()
            axes.plot(*of_digit.T, "o", color=PALETTE[name], markersize=3.5, alpha=0.6, zorder=2)
        for name, wanted in reversed(coloured):  # the number of the most frequent stays visible
            x, y = places[right == wanted].mean(dim=0).tolist()
            axes.text(
                x,
                y,
                str(wanted),
                color=PALETTE[name],
                fontsize=15,
                fontweight="bold",
                ha="center",
                va="center",
                path_effects=[effects.withStroke(linewidth=3, foreground=PAPER)],
                zorder=3,
            )
        axes.set_title(panel.title, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        scatter = class_scatter(places, right)
        if panel.moved:
            share = 100 * scatter / class_scatter(before, right)
            seen.append(f"{panel.title}: the digits lie {share:.0f} % as far apart as before")
        else:
            seen.append(f"{panel.title}: {len(kept)} coloured clouds")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    alt = (
        f"Scatter plots of the residual stream at output {output} after the digit {digit}, one dot "
        f"a sequence, numbers at the means of the digits to write. {'; '.join(seen)}."
    )
    return figure, alt

"""What does turning one vector around a frozen layer look like? A figure and its alt text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from notebooks.bridge.two_theories_one_layer import streams
from promptlib import plotting
from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["turned_vector"]

COLUMNS = ("in front,\ncausal", "in front,\nno mask", "behind,\ncausal", "behind,\nno mask")
ROWS = {
    "reader": "read at\nthe reader",
    "own row": "read at\nits own row",
    "all content rows": "all content\nrows averaged",
}


def turned_vector(mixture: ContextualMixture, case: int) -> tuple[Figure, dict[str, list[int]]]:
    """The first layer's attention on one bag, for each place of the learned vectors."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    figure, grid = plt.subplots(3, 4, figsize=(plotting.WIDTH, 6.5))
    right: dict[str, list[int]] = {read: [] for read in ROWS}
    places = [place for place in streams.PLACES if place.read in ROWS]
    for axes, (number, place) in zip(grid.flat, enumerate(places), strict=True):
        learned = streams.learned_at(mixture, place)
        reading = streams.read(mixture, learned, place)
        right[place.read].append(reading.right)
        weights = reading.attention[case].numpy()
        count = len(weights)
        hidden = np.triu(np.ones_like(weights, dtype=bool), 1) & place.causal
        axes.imshow(np.ma.masked_array(weights, hidden), cmap=plotting.SEQUENTIAL, vmin=0, vmax=1)
        start, size = reading.learned.start, len(learned)
        axes.add_patch(  # the learned columns
            Rectangle(
                (start - 0.5, -0.5), size, count, fill=False, ec=plotting.PALETTE["vermilion"], lw=3
            )
        )
        first, rows = {
            "reader": (count - 1, 1),
            "own row": (start, size),
            "all content rows": (reading.content.start, mixture.tokens),
        }[place.read]
        for paint, width in ((plotting.PAPER, 5), (plotting.INK, 2.5)):  # the rows that are read
            axes.add_patch(
                Rectangle((-0.5, first - 0.5), count, rows, fill=False, ec=paint, lw=width)
            )
        every = len(reading.labels)
        axes.set_title(f"{reading.right} of {every}", fontsize=14, weight="bold")
        axes.set(xticks=[], yticks=[], xlim=(-0.6, count - 0.4), ylim=(count - 0.4, -0.6))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        if number < 4:
            axes.annotate(
                COLUMNS[number], (0.5, 1.28), xycoords="axes fraction", ha="center", fontsize=12
            )
        if number % 4 == 0:
            axes.set_ylabel(ROWS[place.read], fontsize=12)
    return figure, right


check_public(__name__)

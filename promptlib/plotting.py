"""How do all figures of the book look alike, in light and in dark?

One seaborn theme, one colour-blind safe palette (after Okabe and Ito 2008, darkened so that every
colour keeps a contrast of 3:1 on white and on the dark page), and one way to show a figure.

The neutrals :data:`INK`, :data:`MUTED`, :data:`GRID` and :data:`PAPER` are values that nothing else
uses: the site makes the dark twin of a figure by replacing exactly these in its SVG, after
:data:`DARK_NEUTRALS`. Text drawn on a heat map's own colours must therefore not use them.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

INK = "#1f2329"
"""Text, axes and reference lines."""
MUTED = "#59626d"
"""Secondary text and lines."""
GRID = "#d4d9df"
"""Grid lines and light fills."""
PAPER = "#fefefe"
"""The page itself: halos and marker edges that separate overlapping marks."""

DARK_NEUTRALS = {INK: "#e8eaed", MUTED: "#a8b0ba", GRID: "#3d444d", PAPER: "#14181e"}
"""What each neutral becomes on the dark page."""

PALETTE = {
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#b565a7",
    "ochre": "#a6761d",
    "grey": "#7a7f85",
}
"""Series colours, in order of use."""

SEQUENTIAL = "cividis"
"""Colour map for amounts; readable with every kind of colour vision."""

WIDTH = 6.8
"""Width of a figure that fills the text column, inches."""


def use_theme() -> None:
    """Make seaborn and matplotlib draw in the book's style; call once at the top of a notebook."""
    import matplotlib
    import seaborn as sns

    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=list(PALETTE.values()),
        rc={
            "figure.figsize": (WIDTH, 3.8),
            "figure.constrained_layout.use": True,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
            "legend.frameon": False,
            "legend.fontsize": 11,
            "lines.linewidth": 2.0,
            "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
            "mathtext.fontset": "dejavusans",
            "svg.fonttype": "path",
            "svg.hashsalt": "promptlib",
            "image.cmap": SEQUENTIAL,
        },
    )
    matplotlib.rcParams["figure.max_open_warning"] = 4


def figure_bundle(figure: Figure, alt: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The figure as Jupyter display data and metadata.

    Parameters
    ----------
    figure
        A matplotlib figure drawn under :func:`use_theme`.
    alt
        What is seen, for readers who do not see it: at least 40 characters.

    Returns
    -------
    data
        ``image/svg+xml`` (the same bytes for the same figure) and ``text/plain``.
    metadata
        ``{"alt": alt}``, from which the site takes the alternative text.

    Raises
    ------
    ValueError
        If the text is too short to describe anything.
    """
    text = " ".join(alt.split())
    if len(text) < 40:
        raise ValueError(f"alt text must say what is seen, at least 40 characters; got {alt!r}")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=200)
    return {"image/svg+xml": buffer.getvalue(), "text/plain": text}, {"alt": text}


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook together with its alternative text, and close it.

    Parameters and errors as for :func:`figure_bundle`.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display

    data, metadata = figure_bundle(figure, alt)
    plt.close(figure)
    display(data, metadata=metadata, raw=True)


def seeds_and_interval(
    axes: Axes,
    values: Sequence[float],
    place: float,
    colour: str,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Draw seeds as dots on one height, and the 95 % interval of their mean as a bar.

    Parameters
    ----------
    axes
    values
        One for each seed.
    place
        Height.
    colour
    limits
        What the values can be: the bar ends there.

    Returns
    -------
    pair of float
        Where dots or bar end.
    """
    from promptlib.claims import interval

    low, high = interval(values) or (min(values), max(values))
    low, high = max(low, limits[0]), min(high, limits[1])
    axes.hlines(place, low, high, color=colour, linewidth=1.6)
    axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.7, markersize=5)
    return min(low, *values), max(high, *values)


def line_and_seeds(
    axes: Axes,
    x: Sequence[float],
    rows: Sequence[Sequence[float]],
    colour: str,
    label: str | None = None,
) -> None:
    """Draw the mean over seeds as a line and seeds as dots; `rows` has the seeds of each place."""
    axes.plot(x, [sum(row) / len(row) for row in rows], color=colour, label=label)
    for place, row in zip(x, rows, strict=True):
        axes.plot([place] * len(row), row, "o", color=colour, markersize=4, alpha=0.7)


def spread_apart(
    values: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Move heights of labels apart until neighbours differ by `gap`, within limits if possible."""
    import numpy as np

    heights = np.array(values, dtype=float)
    for _ in range(300):
        order = np.argsort(heights, kind="stable")
        for below, above in itertools.pairwise(order):
            missing = gap - (heights[above] - heights[below])
            if missing > 1e-9:
                heights[below] -= missing / 2
                heights[above] += missing / 2
        heights = np.clip(heights, low, high)
    return [float(height) for height in heights]


def labelled_cells(
    axes: Axes,
    values: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float] = (0.0, 100.0),
    tops: Sequence[float] | None = None,
) -> QuadMesh:
    """Draw a table of numbers as a heat map with the text of each cell in it.

    Parameters
    ----------
    axes
    values, texts
        By row, then column: what the colour shows, and what is written.
    rows, columns
        Names.
    limits
        Values of the darkest and the brightest colour.
    tops
        Upper edge of each row, where rows stand apart; from 0 in steps of 1 by default.
    """
    import numpy as np

    edges = list(range(len(rows))) if tops is None else list(tops)
    for top, line, said in zip(edges, values, texts, strict=True):
        mesh = axes.pcolormesh(
            np.arange(len(columns) + 1),
            [top, top + 1],
            [line],
            cmap=SEQUENTIAL,
            vmin=limits[0],
            vmax=limits[1],
        )
        for column, (value, text) in enumerate(zip(line, said, strict=True)):
            dark = value < sum(limits) / 2
            axes.text(
                column + 0.5,
                top + 0.5,
                text,
                ha="center",
                va="center",
                color="#ffffff" if dark else "#000000",
            )
    axes.set_yticks([top + 0.5 for top in edges], rows)
    axes.set_xticks([place + 0.5 for place in range(len(columns))], columns)
    axes.set_ylim(edges[-1] + 1, 0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return mesh

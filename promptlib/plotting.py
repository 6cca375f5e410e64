"""How do all figures of the book look alike, in light and in dark?

One seaborn theme, one colour-blind safe palette (after Okabe and Ito 2008, darkened so that every
colour keeps a contrast of 3:1 on white and on the dark page), and one way to show a figure.

The neutrals :data:`INK`, :data:`MUTED`, :data:`GRID` and :data:`PAPER` are values that nothing else
uses: the site makes the dark twin of a figure by replacing exactly these in its SVG, after
:data:`DARK_NEUTRALS`. Text drawn on a heat map's own colours must therefore not use them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

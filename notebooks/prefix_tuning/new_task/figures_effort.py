"""How the chapter "A new task" draws all the ways that were tried. Returns figure and alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from notebooks.prefix_tuning.new_task.results import DESCENDING
from notebooks.prefix_tuning.new_task.results_effort import Way
from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import INK, MUTED, PALETTE
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.sweeps import Metrics, percent


def all_ways(
    ways: Sequence[Way], others: Mapping[str, tuple[Sequence[Metrics], str]], blind: float
) -> Drawn:
    """Draw the best loss and the best accuracy of each way, by seed.

    Parameters
    ----------
    ways : sequence of Way
        The trained prefixes.
    others : mapping
        Name to metrics by seed and the name of a colour: what to compare with.
    blind : float
        Loss of a predictor that does not look at the input, nats a symbol.
    """
    rows = [
        (way.name, way.lowest_losses, way.highest_accuracies, PALETTE["vermilion"]) for way in ways
    ]
    rows += [
        (
            name,
            [entry["loss"][DESCENDING] for entry in metrics],
            percent(metrics, DESCENDING),
            PALETTE[colour],
        )
        for name, (metrics, colour) in others.items()
    ]
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(plotting.WIDTH, 1.2 + 0.36 * len(rows)),
        sharey=True,
        width_ratios=[1.5, 1],
    )
    seen = []
    for place, (name, losses, accuracies, colour) in enumerate(rows):
        _dots(left, place, np.log10(losses), colour)
        ends = _dots(right, place, np.array(accuracies), colour, (0.0, 100.0))
        few = float(np.mean(accuracies)) < 50
        right.annotate(
            f"{np.mean(accuracies):.1f}",
            (ends[1] if few else ends[0], place),
            xytext=(8 if few else -8, 0),
            textcoords="offset points",
            ha="left" if few else "right",
            va="center",
            fontsize=10,
            color=INK,
        )
        seen.append(
            f"{name}: lowest loss {min(losses):.3g}, mean {np.mean(losses):.3g}; accuracy "
            f"{np.mean(accuracies):.1f} %, highest {max(accuracies):.1f} %"
        )
    left.axvline(np.log10(blind), color=MUTED, linestyle="--", linewidth=1.2)
    left.annotate(
        "without looking",
        (np.log10(blind), -0.55),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=10,
        color=MUTED,
        annotation_clip=False,
    )
    exponents = [e for e in (-4, -3, -2, -1, 0, 1) if e >= np.floor(left.get_xlim()[0])]
    left.set_xticks(exponents, [f"{10.0**e:g}" for e in exponents])
    left.set_xlabel("test loss (nats a symbol)")
    right.set(xlim=(-4, 104), xlabel="accuracy (%)")
    left.set_yticks(range(len(rows)), [row[0] for row in rows])
    right.tick_params(axis="y", length=0)
    left.set_ylim(len(rows) - 0.5, -0.55)
    alt = (
        "For each way of training, dots for seeds. Left: lowest test loss, logarithmic. Right: "
        f"highest accuracy. {'; '.join(seen)}. Without looking the loss is {blind:.3g}."
    )
    return figure, alt


def _dots(
    axes: Axes,
    place: int,
    values: np.ndarray,
    colour: str,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float]:
    """Draw seeds as dots and the 95 % interval of their mean as a bar; return where both end."""
    axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.7, markersize=5)
    low, high = np.clip(claims.interval(values) or (values.mean(), values.mean()), *limits)
    axes.hlines(place, low, high, color=colour, linewidth=1.5)
    return float(min(low, values.min())), float(max(high, values.max()))


check_public(__name__)

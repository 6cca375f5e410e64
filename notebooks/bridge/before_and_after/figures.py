"""What do a fitted prefix and a prompted coin look like? Two figures and their alt texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from notebooks.bridge.before_and_after import coins, functions_of_the_query
from promptlib import plotting
from promptlib.attention import attend
from promptlib.checks import check_public

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fitted_curve", "prompted_coins"]


def fitted_curve(generator: torch.Generator, lengths: tuple[int, ...]) -> tuple[Figure, str]:
    """One coordinate of a function of the query, and what prefixes of several lengths return."""
    import matplotlib.pyplot as plt

    curve, _ = functions_of_the_query.random_curve(generator, width=1)
    angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    queries = functions_of_the_query.circle(angles)
    figure, grid = plt.subplots(
        1, len(lengths), figsize=(plotting.WIDTH, 2.6), sharex=True, sharey=True
    )
    said = []
    for axes, length in zip(grid, lengths, strict=True):
        keys, values = functions_of_the_query.interpolating_prefix(curve, length)
        read, _ = attend(queries, keys, values, scale=1.0)
        axes.plot(angles, curve(angles), color=plotting.PALETTE["blue"], lw=4, alpha=0.45)
        axes.plot(angles, read, color=plotting.PALETTE["vermilion"], lw=1.8)
        places = torch.arange(length, dtype=torch.float64) * (2 * math.pi / length)
        axes.plot(places, curve(places), "o", ms=3, color=plotting.INK)
        worst = float((read - curve(angles)).abs().max())
        said.append(f"{length} vectors: largest error {worst:.2g}.")
        axes.set_title(f"$p = {length}$", fontsize=13)
        axes.set_xticks([0, math.pi, 2 * math.pi], ["0", "π", "2π"])
        axes.set_xlabel("angle of the query")
    grid[0].set_ylabel("output")
    return figure, (
        "A smooth function of the query's angle, as a broad blue line, and what a prefix alone "
        "returns, as a thin orange one, in panels side by side. " + " ".join(said)
    )


def prompted_coins(biases: tuple[float, float], tosses: int, most: int) -> tuple[Figure, str]:
    """Laws of the number of heads: two coins, the best prompt of tosses, and the best evidence."""
    import matplotlib.pyplot as plt

    target = coins.heads_of_coins(torch.tensor(biases, dtype=torch.float64), tosses)
    counts = torch.arange(most + 1, dtype=torch.float64)
    fine = torch.linspace(-0.95, 2, 60, dtype=torch.float64)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH * 0.8, 3.4))
    axes.bar(
        range(tosses + 1),
        target.exp().numpy(),
        width=0.8,
        color=plotting.PALETTE["blue"],
        alpha=0.4,
    )
    middle: dict[str, Any] = {
        "transform": axes.transAxes,
        "ha": "center",
        "va": "top",
        "fontsize": 12,
    }
    axes.text(0.5, 0.98, "bars: two coins", color=plotting.PALETTE["blue"], **middle)
    said = []
    for name, grid, colour, where in (
        ("best prompt of tosses", counts, "vermilion", 0.86),
        ("best fractional evidence", fine, "green", 0.65),
    ):
        heads, tails = torch.cartesian_prod(grid, grid).T
        laws = coins.heads_after(heads, tails, tosses)
        away = coins.divergence(target, laws)
        best = int(away.argmin())
        axes.plot(range(tosses + 1), laws[best].exp(), "o-", ms=4, color=plotting.PALETTE[colour])
        digits = ".2f" if colour == "green" else "g"
        label = f"{name}:\n{heads[best]:{digits}} heads, {tails[best]:{digits}} tails"
        axes.text(0.5, where, label, color=plotting.PALETTE[colour], **middle)
        said.append(f"The {label.replace(chr(10), ' ')}, leaves {float(away[best]):.2f} nats.")
    axes.set(xlabel=f"heads in {tosses} tosses", ylabel="probability")
    return figure, (
        "Bars: the law of the number of heads for an even mixture of two coins, with two humps. "
        "Lines: two laws of the Bayesian predictor. " + " ".join(said)
    )


check_public(__name__)

"""What do bags look like, and what do readers see of them? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from torch import Tensor

from notebooks.prompt_attention.contextual_mixture.reach import query_readout
from promptlib import plotting
from promptlib.prompt_attention.bag_moments import Cases
from promptlib.prompt_attention.mass import limiting_mass
from promptlib.prompt_attention.mixture import ContextualMixture

colour = plotting.PALETTE
LABELS = {1: colour["blue"], -1: colour["vermilion"]}


def covariance_ellipse(tokens: Tensor, paint: str) -> Ellipse:
    """One standard deviation of the tokens around their mean, in (signal, context) coordinates."""
    sizes, axes_ = np.linalg.eigh(np.cov(tokens[:, [1, 0]].T.numpy(), bias=True))
    return Ellipse(
        (float(tokens[:, 1].mean()), float(tokens[:, 0].mean())),
        *(2 * np.sqrt(sizes[::-1])),
        angle=np.degrees(np.arctan2(axes_[1, 1], axes_[0, 1])),
        facecolor="none",
        edgecolor=paint,
        lw=1.4,
        ls=(0, (4, 2)),
    )


def what_is_seen(seed: int) -> tuple[Figure, str]:
    """Bags of four worlds, with what averaging, the covariance and a growing prompt see of them."""
    views = {
        "core: others know nothing\n$\\delta=(0,0)$": (0.0, 0.0),
        "others look away\n$\\delta=(1.5,0)$": (1.5, 0.0),
        "others claim the opposite\n$\\delta=(1.5,1.5)$": (1.5, 1.5),
        "others agree\n$\\delta=(1.5,-1.5)$": (1.5, -1.5),
    }
    scales = torch.linspace(0, 4, 60, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    figure, grid = plt.subplots(2, 2, sharex=True, sharey=True, figsize=(6.4, 6.9))
    ends, means = {}, {}
    for axes, (title, deviation) in zip(grid.flat, views.items(), strict=True):
        mixture = ContextualMixture(2, 40, 0.25, noise_std=0.45, deviations=(deviation,))
        labels = torch.tensor([1.0, -1.0])
        relevant = (torch.arange(40) < 10).expand(2, 40)
        noise = 0.45 * torch.randn(2, 40, 2, generator=generator, dtype=torch.float64)
        bags = mixture.compose(labels, relevant, mixture.deviation_table.expand(2, 2), noise)
        for tokens, label in zip(bags, labels, strict=True):
            paint = LABELS[int(label)]
            axes.plot(tokens[10:, 1], tokens[10:, 0], "x", color=paint, ms=4.5, mew=1.2, alpha=0.55)
            axes.plot(
                tokens[0, 1], tokens[0, 0], "o", color=paint, ms=10, mec=plotting.PAPER, mew=1.2
            )
            axes.add_patch(covariance_ellipse(tokens, paint))
            path = query_readout(tokens, scales[:, None] * mixture.context)
            axes.plot(path[:, 1], path[:, 0], color=plotting.PAPER, lw=4.5)
            axes.plot(path[:, 1], path[:, 0], color=paint, lw=2.2)
            axes.plot(path[0, 1], path[0, 0], "D", color=paint, ms=7, mec=plotting.PAPER, mew=1.2)
            axes.plot(path[-1, 1], path[-1, 0], "^", color=paint, ms=7, mec=plotting.PAPER, mew=1.2)
            means[deviation, int(label)], ends[deviation, int(label)] = path[0], path[-1]
        axes.axhline(0, color=plotting.MUTED, lw=0.8, zorder=0)
        axes.axvline(0, color=plotting.MUTED, lw=0.8, zorder=0)
        axes.set_title(title, fontsize=11)
        axes.set(xlim=(-2.9, 2.9), ylim=(-2.8, 1.9), aspect="equal")
    for axes in grid[1]:
        axes.set_xlabel("along $w^\\star$ (signal)")
    for axes in grid[:, 0]:
        axes.set_ylabel("along $q^\\star$ (context)")
    handles = [
        Line2D([], [], marker="o", ls="", color=plotting.MUTED, ms=9, label="relevant tokens"),
        Line2D(
            [],
            [],
            marker="x",
            ls="",
            color=plotting.MUTED,
            ms=6,
            mew=1.4,
            label="irrelevant tokens",
        ),
        Line2D([], [], marker="D", ls="", color=plotting.MUTED, ms=7, label="mean token"),
        Line2D([], [], color=plotting.MUTED, ls=(0, (4, 2)), lw=1.4, label="covariance"),
        Line2D([], [], marker="^", color=plotting.MUTED, ms=7, label="what a growing prompt reads"),
        Line2D([], [], marker="s", ls="", color=LABELS[1], ms=8, label="label $+1$"),
        Line2D([], [], marker="s", ls="", color=LABELS[-1], ms=8, label="label $-1$"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
    against = means[(1.5, 1.5), 1]
    return figure, (
        "Four panels of token clouds, signal across and context upwards. In every panel the line "
        "of what a prompt reads runs from the mean token to the relevant tokens at height 1, on "
        "the right for label plus 1 and on the left for minus 1. Where the others claim the "
        "opposite, the mean token of label plus 1 lies on the wrong side, at signal "
        f"{float(against[1]):.2f}, and the prompt ends at signal "
        f"{float(ends[(1.5, 1.5), 1][1]):.2f}."
    )


def shares_reached(shares: NDArray[np.float64], reached: Tensor) -> tuple[Figure, str]:
    """What narrow heads let a prompt reach, (widths, layers), and what attention that buys."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.5))
    low, high = reached.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1)
    mean = reached.mean(1)
    left.plot([0, 1], [0, 1], color=plotting.MUTED, lw=1.5)
    left.errorbar(
        shares,
        mean,
        yerr=torch.stack((mean - low, high - mean)).numpy(),
        fmt="o",
        color=colour["blue"],
        ms=6,
    )
    left.set(
        xlabel="width of the head, $k/d$", ylabel="reached, $c^2$", xlim=(0, 1.04), ylim=(0, 1.04)
    )
    fine = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    best_mass = {}
    for norm, name in ((2.0, "ochre"), (3.0, "green"), (4.0, "blue")):
        # At the best length the log-odds gain is c²Q²/(2σ²): a context of length cQ at κ = 1/σ².
        best_mass[norm] = limiting_mass(0.01, norm * fine.sqrt(), 1.0, 1.0)
        right.plot(fine, best_mass[norm], color=colour[name])
        right.annotate(
            f"$Q/\\sigma = {norm:g}$",
            (1.0, float(best_mass[norm][-1])),
            xytext=(-4, 5),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=colour[name],
        )
    right.set(
        xlabel="width of the head, $k/d$",
        ylabel="attention on 1 % of the tokens",
        xlim=(0, 1.04),
        ylim=(0, 1.08),
    )
    return figure, (
        f"Left: the reached share of the context follows the diagonal, {float(mean[3]):.2f} at a "
        "quarter of the width. Right: three rising curves of attention on one percent of the "
        f"tokens. At full width they end at {float(best_mass[2.0][-1]):.2f}, "
        f"{float(best_mass[3.0][-1]):.2f} and {float(best_mass[4.0][-1]):.2f} for contexts of 2, "
        f"3 and 4 noise lengths; at half the width they are at {float(best_mass[2.0][49]):.2f}, "
        f"{float(best_mass[3.0][49]):.2f} and {float(best_mass[4.0][49]):.2f}."
    )


def separating_angle(points: Tensor, labels: Tensor) -> Tensor | None:
    """A direction with every signed point on its positive side, or None."""
    angles = torch.linspace(0, 2 * np.pi, 3601, dtype=torch.float64)
    directions = torch.stack((torch.cos(angles), torch.sin(angles)), 1)
    margins = ((labels[:, None] * points) @ directions.T).amin(0)
    return directions[int(margins.argmax())] if float(margins.max()) > 1e-9 else None


def readouts(kinds: Cases, readouts: Mapping[str, Tensor]) -> tuple[Figure, str]:
    """What each model hands to its head, a point for each kind of bag, and a line if one serves."""
    shapes = {(0.0, 0.0): "o", (2.6, 2.6): "s", (2.6, -2.6): "^"}
    figure, grid = plt.subplots(2, 2, figsize=(6.4, 6.6))
    separable = {}
    for axes, (name, points) in zip(grid.flat, readouts.items(), strict=True):
        size = 1.35 * float(points.abs().max())
        head = separating_angle(points, kinds.labels)
        separable[name] = head is not None
        if head is not None:
            edge = size * torch.stack((-head, head))[:, [0, 1]]
            axes.plot(edge[:, 0], -edge[:, 1], color=plotting.INK, lw=1.4, ls=(0, (5, 3)))
        axes.axhline(0, color=plotting.MUTED, lw=0.8, zorder=0)
        axes.axvline(0, color=plotting.MUTED, lw=0.8, zorder=0)
        for point, label, away in zip(points, kinds.labels, kinds.deviations, strict=True):
            marker = shapes[tuple(away.tolist())]
            axes.plot(
                point[1],
                point[0],
                marker,
                color=LABELS[int(label)],
                ms=11,
                mec=plotting.PAPER,
                mew=1.2,
                alpha=0.9,
            )
        verdict = "a line separates" if separable[name] else "no line separates"
        axes.set_title(f"{name}\n{verdict}", fontsize=11)
        axes.set(xlim=(-size, size), ylim=(-size, size), aspect="equal")
    for axes in grid[1]:
        axes.set_xlabel("signal of the readout")
    for axes in grid[:, 0]:
        axes.set_ylabel("context of the readout")
    handles = [
        Line2D([], [], marker="o", ls="", color=plotting.MUTED, ms=9, label="$\\delta=(0,0)$"),
        Line2D([], [], marker="s", ls="", color=plotting.MUTED, ms=9, label="$\\delta=(2.6,2.6)$"),
        Line2D([], [], marker="^", ls="", color=plotting.MUTED, ms=9, label="$\\delta=(2.6,-2.6)$"),
        Line2D([], [], ls=(0, (5, 3)), color=plotting.INK, lw=1.4, label="a head that is right"),
        Line2D([], [], marker="o", ls="", color=LABELS[1], ms=9, label="label $+1$"),
        Line2D([], [], marker="o", ls="", color=LABELS[-1], ms=9, label="label $-1$"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
    return figure, (
        "Four panels with six points each, blue for label plus 1 and red for minus 1. "
        + " ".join(
            f"{name.capitalize()}: {'a' if ok else 'no'} line through the origin separates the "
            "colours."
            for name, ok in separable.items()
        )
        + " For prompt-attention all blue points lie together on the right and all red points on "
        "the left."
    )

"""Where does each model succeed and fail? Each figure with its alt text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from notebooks.prompt_attention.softmax_separates.possible import accuracy_by_scale
from notebooks.prompt_attention.softmax_separates.threshold_map import CHALLENGES, MapOfModel
from promptlib import plotting
from promptlib.prompt_attention import (
    ContextualMixture,
    aligned,
    aligned_gain,
    linear_attention_threshold,
    mean_pooling_threshold,
    prompt_scale_bound,
    self_attention_bracket,
    self_attention_threshold,
)

colour = plotting.PALETTE


def data_in_the_plane(seed: int) -> tuple[Figure, str]:
    """Bags of four mixtures in the plane of context and signal."""
    views = [
        ("core: $\\delta = (0, 0)$", ((0.0, 0.0),), 0.0),
        ("aligned: $\\delta = (\\Delta, \\Delta)$", ((1.5, 1.5),), 0.0),
        ("mirrored: $\\delta = (\\Delta, -\\Delta)$", ((1.5, -1.5),), 0.0),
        ("aligned, with noise", ((1.5, 1.5),), 0.35),
    ]
    label_colour = {1: colour["blue"], -1: colour["vermilion"]}
    generator = torch.Generator().manual_seed(seed)
    figure, grid = plt.subplots(2, 2, sharex=True, sharey=True, figsize=(5.6, 5.9))
    for axes, (title, deviations, noise) in zip(grid.flat, views, strict=True):
        mixture = ContextualMixture(2, 10, 0.2, deviations=deviations)
        labels = torch.tensor([-1.0, 1.0])
        relevant = (torch.arange(10) < 2).expand(2, 10)
        scatter = noise * torch.randn(2, 10, 2, generator=generator, dtype=torch.float64)
        bags = mixture.compose(labels, relevant, mixture.deviation_table.expand(2, 2), scatter)
        for tokens, label in zip(bags, labels, strict=True):
            context, signal = tokens.T
            paint, relevant = label_colour[int(label)], torch.arange(10) < 2
            axes.plot(
                signal[~relevant], context[~relevant], "x", color=paint, ms=6, mew=1.6, alpha=0.8
            )
            axes.plot(
                signal[relevant],
                context[relevant],
                "o",
                color=paint,
                ms=9,
                mec=plotting.PAPER,
                mew=1,
            )
        axes.axhline(0, color=plotting.MUTED, lw=0.8, zorder=0)
        axes.axvline(0, color=plotting.MUTED, lw=0.8, zorder=0)
        axes.set(title=title, xlim=(-2.6, 2.6), ylim=(-2.6, 1.9), aspect="equal")
    for axes in grid[1]:
        axes.set_xlabel("along $w^\\star$ (signal)")
    for axes in grid[:, 0]:
        axes.set_ylabel("along $q^\\star$ (context)")
    disc: dict[str, Any] = {"marker": "o", "ms": 9}
    cross: dict[str, Any] = {"marker": "x", "ms": 6, "mew": 1.6}
    handles = [
        Line2D([], [], ls="", color=label_colour[label], label=name.format(label), **style)
        for name, style in (("relevant, $y = {:+d}$", disc), ("irrelevant, ${:+d}$", cross))
        for label in (1, -1)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=10)
    return figure, (
        "Four scatter plots of tokens, signal across and context upwards. In each, relevant "
        "tokens sit at height 1, at plus 1 for label plus 1 and at minus 1 for label minus 1. "
        "Irrelevant tokens sit at the origin in the core case; at height minus 1.5 on the side "
        "opposite to the label in the aligned case; at height minus 1.5 on the side of the label "
        "in the mirrored case; and in a cloud around the aligned place in the noisy case."
    )


def margins_by_scale(
    sizes: Sequence[float], scales: NDArray[np.float64], margins: Tensor, bounds: Sequence[float]
) -> tuple[Figure, str]:
    """The margin of the constructed prompt by its scale, a curve for each deviation of `sizes`."""
    figure, axes = plt.subplots(figsize=(5.6, 4.0))
    axes.axhspan(0, 1.6, color=colour["blue"], alpha=0.08, lw=0)
    axes.axhline(0, color=plotting.INK, lw=1)
    shades = plt.get_cmap(plotting.SEQUENTIAL)(np.linspace(0.4, 0.85, len(sizes)))
    for margin, bound, size, shade in zip(margins.T, bounds, sizes, shades, strict=True):
        axes.plot(scales, margin, color=shade)
        if bound > 0:
            axes.plot(bound, 0, "o", ms=8, mfc=plotting.PAPER, mec=shade, mew=2, zorder=3)
        if size:
            axes.annotate(
                f"$\\delta_w = {size}$",
                (bound, 0),
                (10, -17),
                textcoords="offset points",
                fontsize=11,
            )
        else:
            axes.annotate(
                "$\\delta_w = 0$",
                (0.25, float(margin[5])),
                (0, 12),
                textcoords="offset points",
                fontsize=11,
            )
    axes.annotate("right", (8.9, 1.22), ha="right", color=colour["blue"], fontsize=12)
    axes.annotate("wrong", (8.9, -1.4), ha="right", color=plotting.MUTED, fontsize=12)
    axes.set(
        xlabel=r"scale $\kappa$ of the prompt (dimensionless)",
        ylabel=r"margin $yf/\|w_\perp\|^2$",
        xlim=(0, 9),
        ylim=(-1.6, 1.5),
    )
    return figure, (
        "Five rising curves of the margin against the scale of the prompt from 0 to 9. The curve "
        "for deviation 0 is always positive. The others start below zero and cross it at "
        + ", ".join(
            f"{bound:.2f} for {size}" for bound, size in zip(bounds, sizes, strict=True) if size
        )
        + ", evenly spaced; all approach 1."
    )


def draw_gain(
    axes: Axes, share: float, factors: Sequence[float], limits: tuple[float, float]
) -> float:
    """Curves for deviations around the threshold; return where the one at it is highest."""
    threshold = self_attention_threshold(share)
    place = np.linspace(-9, 9, 1201)
    axes.axhspan(0, limits[1], color=colour["blue"], alpha=0.08, lw=0)
    axes.axhline(0, color=plotting.INK, lw=1)
    core = aligned_gain(torch.tensor(place), 0.0, share)
    axes.plot(place, core, color=plotting.MUTED, ls=(0, (4, 2)), lw=1.8)
    names = ("below", "at", "above")
    paints = (colour["blue"], colour["ochre"], colour["vermilion"])
    for factor, name, paint in zip(factors, names, paints, strict=True):
        size = factor * threshold
        gain = aligned_gain(torch.tensor(place / (1 + size)), size, share)
        label = rf"$\Delta = {size:.2f}$" + (r"$\, = \Delta^\star$" if name == "at" else "")
        axes.plot(place, gain, color=paint, label=label)
        if name == "at":
            summit = float(place[gain.argmax()])
    axes.set(title=rf"$\zeta = {share}$", ylim=limits, xlim=(-9, 9), ylabel=r"$g_\Delta(c)$")
    axes.legend(loc="lower right", fontsize=10, labelspacing=0.3)
    return summit


def factors() -> tuple[Figure, str]:
    """The factor that decides for self-attention, for rare and for frequent relevant tokens."""
    figure, (rare, frequent) = plt.subplots(2, 1, figsize=(5.6, 7.0), sharex=True)
    summit = draw_gain(rare, 0.2, (0.9, 1.0, 1.1), (-0.36, 0.4))
    draw_gain(frequent, 0.7, (0.7, 1.0, 1.3), (-1.15, 1.05))
    rare.annotate("$g_0$", (8.6, 0.31), ha="right", color=plotting.MUTED, fontsize=12)
    frequent.annotate("$g_0$", (8.6, 0.76), ha="right", color=plotting.MUTED, fontsize=12)
    frequent.set_xlabel(r"$(1+\Delta)\,c$ (dimensionless)")
    return figure, (
        "Two panels of the factor against the logit from minus 9 to 9. At sparsity 0.2 the curves "
        f"for deviations {0.9 * self_attention_threshold(0.2):.2f}, "
        f"{self_attention_threshold(0.2):.2f} and {1.1 * self_attention_threshold(0.2):.2f} are "
        f"flat on the left with a hump near {summit:.1f}, and fall steeply below zero to its "
        "right; the hump of the middle curve just touches zero. At sparsity 0.7 the curves are "
        "high near logit zero and at the right end, and the middle one touches zero in both "
        "places. The dashed core curve is positive everywhere."
    )


def thresholds() -> tuple[Figure, str]:
    """The three thresholds by sparsity."""
    shares = np.linspace(0.04, 0.96, 231)
    lower, upper = np.array([self_attention_bracket(share) for share in shares]).T
    curves = {
        "self-attention": ([self_attention_threshold(s) for s in shares], colour["vermilion"]),
        "mean pooling": ([mean_pooling_threshold(s) for s in shares], colour["blue"]),
        "linear prompt-attention": (
            [linear_attention_threshold(s) for s in shares],
            colour["green"],
        ),
    }
    figure, axes = plt.subplots(figsize=(5.6, 4.4))
    axes.fill_between(shares, lower, upper, color=colour["vermilion"], alpha=0.15, lw=0)
    for name, (values, paint) in curves.items():
        axes.plot(
            shares, values, color=paint, ls="--" if name == "mean pooling" else "-", label=name
        )
    axes.set(
        yscale="log",
        xlim=(0, 1),
        ylim=(0.05, 40),
        xlabel=r"sparsity $\zeta$, the share of relevant tokens",
        ylabel=r"deviation $\Delta$ (dimensionless)",
    )
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.annotate("self-attention", (0.1, 14), color=colour["vermilion"], fontsize=12)
    axes.annotate("mean pooling", (0.24, 0.13), color=colour["blue"], fontsize=12)
    axes.annotate("linear prompt-attention", (0.52, 0.62), color=colour["green"], fontsize=12)
    return figure, (
        "Three curves of the threshold against the sparsity. Self-attention falls from "
        f"{self_attention_threshold(0.04):.1f} at sparsity 0.04 to 1 at one half and rises to 24 "
        "at 0.96, inside a narrow band. Mean pooling rises from 0.04 to 24 and joins the "
        "self-attention curve at one half. Linear prompt-attention rises from 0.2 to 4.9 and "
        "crosses mean pooling at one half."
    )


def cases_right(first: Any, second: Any, coupling: float) -> Any:
    """Right cases by the products of a head and a prompt with both labels."""
    asked = (first > 0, second < 0, first + coupling * second > 0, second + coupling * first < 0)
    return sum(np.asarray(case, dtype=int) for case in asked)


def coupled_cases() -> tuple[Figure, str]:
    """How many of four cases linear prompt-attention gets right, for two couplings."""
    axis = np.linspace(-1, 1, 401)
    first, second = np.meshgrid(axis, axis)
    couplings = (0.4, 2.5)
    figure, grid = plt.subplots(1, 2, sharey=True, figsize=(5.6, 3.3))
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.set(wspace=0.08)  # type: ignore[call-arg]
    most = []
    for axes, coupling in zip(grid, couplings, strict=True):
        right = cases_right(first, second, coupling)
        most.append(int(right.max()))
        axes.imshow(
            right,
            origin="lower",
            extent=(-1, 1, -1, 1),
            cmap=plotting.SEQUENTIAL,
            vmin=0,
            vmax=4,
            interpolation="nearest",
        )
        for slope in (-1 / coupling, -coupling):
            axes.plot(axis, slope * axis, color="white", lw=1.5)
        axes.set(
            title=rf"$\lambda = {coupling}$",
            xlim=(-1, 1),
            ylim=(-1, 1),
            xlabel="$h_+$",
            aspect="equal",
        )
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        axes.grid(visible=False)
    grid[0].set_ylabel("$h_-$")
    places = [(0.62, -0.62), (-0.62, 0.62), (0.62, 0.62), (-0.62, -0.62)]
    narrow = [(0.75, -0.13), (0.13, -0.75), (-0.75, 0.13), (-0.13, 0.75)]
    for axes, coupling in zip(grid, couplings, strict=True):
        for x, y in places + narrow:
            count = int(cases_right(x, y, coupling))
            axes.text(
                x,
                y,
                str(count),
                ha="center",
                va="center",
                fontsize=13,
                color="black" if count > 2 else "white",
            )
    return figure, (
        "Two square maps of the number of right cases over h plus and h minus. Left, at coupling "
        f"0.4, a wedge in the lower right corner has all {most[0]} cases right. Right, at "
        f"coupling 2.5, the lines have swapped places and no point has more than {most[1]} right."
    )


def map_of_models(maps: Mapping[str, MapOfModel]) -> tuple[Figure, str]:
    """The best accuracy that search found for each model, with the proved thresholds."""
    fine = np.linspace(0.06, 0.94, 177)
    labelled: dict[str, list[tuple[float, float]]] = {  # where to write the accuracy of a cell
        "mean-pooling": [(0.8, 0.45), (0.3, 5)],
        "self-attention": [(0.45, 0.45), (0.55, 7)],
        "linear-attention": [(0.8, 0.45), (0.45, 5)],
        "prompt-attention": [(0.5, 2)],
    }
    figure, grid = plt.subplots(2, 2, sharex=True, sharey=True, figsize=(5.6, 6.2))
    for axes, (name, part) in zip(grid.flat, maps.items(), strict=True):
        shares, heights = part.sparsities.numpy(), part.deviations.log10().numpy()
        half = ((shares[1] - shares[0]) / 2, (heights[1] - heights[0]) / 2)
        extent = (
            shares[0] - half[0],
            shares[-1] + half[0],
            heights[0] - half[1],
            heights[-1] + half[1],
        )
        axes.imshow(
            part.found.numpy(),
            origin="lower",
            extent=extent,
            aspect="auto",
            cmap=plotting.SEQUENTIAL,
            vmin=0.4,
            vmax=1.0,
            interpolation="nearest",
        )
        threshold = CHALLENGES[name].threshold
        if threshold is not None:
            line = [math.log10(threshold(share)) for share in fine]
            axes.plot(fine, line, color="black", lw=4)
            axes.plot(fine, line, color="white", lw=2)
        for x, y in labelled[name]:
            row, column = abs(heights - math.log10(y)).argmin(), abs(shares - x).argmin()
            percent = 100 * float(part.found[row, column])
            axes.text(
                x,
                math.log10(y),
                f"{percent:.0f} %",
                ha="center",
                va="center",
                fontsize=13,
                color="black" if percent > 60 else "white",
            )
        axes.set(
            title=name.replace("linear-", "linear prompt-").replace("mean-", "mean "),
            xlim=extent[:2],
            ylim=extent[2:],
        )
        axes.set_yticks([math.log10(y) for y in (0.3, 1, 3, 10)], ["0.3", "1", "3", "10"])
        axes.grid(visible=False)
    for axes in grid[1]:
        axes.set_xlabel(r"sparsity $\zeta$")
    for axes in grid[:, 0]:
        axes.set_ylabel(r"deviation $\Delta$")
    return figure, (
        "Four maps of the best accuracy found, sparsity across and deviation upwards on a "
        "logarithmic axis. "
        + " ".join(
            f"{name}: {100 * float((part.found > 0.999).double().mean()):.0f} percent of the "
            f"cells at accuracy 100 percent, lowest accuracy {100 * float(part.found.min()):.0f} "
            "percent."
            for name, part in maps.items()
        )
        + " In each map the colours change along the proved threshold."
    )


def accuracy_under_noise(seed: int, bags: int) -> tuple[Figure, str]:
    """Accuracy of the constructed prompt by its scale, for four levels of noise."""
    generator = torch.Generator().manual_seed(seed)
    scales = np.concatenate(([0.0], np.geomspace(0.1, 30, 60)))
    levels = (0.0, 0.4, 0.7, 1.0)
    figure, axes = plt.subplots(figsize=(5.6, 4.2))
    peaks = []
    for level, paint in zip(levels, colour.values(), strict=False):
        mixture = ContextualMixture(20, 20, 0.1, noise_std=level, deviations=aligned(2.0))
        measured = accuracy_by_scale(mixture, scales.tolist(), bags, generator)
        mean, error = (100 * part.numpy() for part in measured)
        axes.plot(scales, mean, color=paint)
        axes.fill_between(scales, mean - 2 * error, mean + 2 * error, color=paint, alpha=0.2, lw=0)
        axes.annotate(
            rf"$\sigma = {level}$",
            (30, mean[-1]),
            (5, 2 if level == 0 else -8),
            textcoords="offset points",
            color=paint,
            annotation_clip=False,
            fontsize=12,
        )
        peaks.append((level, mean.max(), scales[mean.argmax()], mean[-1]))
    bound = prompt_scale_bound(ContextualMixture(20, 20, 0.1, deviations=aligned(2.0)))
    axes.axvline(bound, color=plotting.MUTED, lw=1, ls=":")
    axes.set_xscale("symlog", linthresh=0.3, linscale=0.4)
    axes.set(
        xlim=(0, 30),
        ylim=(25, 104),
        xlabel=r"scale $\kappa$ of the prompt (dimensionless)",
        ylabel="accuracy (%)",
    )
    axes.set_xticks([0, 0.3, 1, 3, 10, 30], ["0", "0.3", "1", "3", "10", "30"])
    axes.minorticks_off()
    return figure, (
        "Accuracy against the scale of the prompt, one curve for each noise level. "
        + " ".join(
            f"At noise {level} the curve peaks at {top:.0f} percent near scale {place:.1f} and "
            f"ends at {end:.0f} percent."
            for level, top, place, end in peaks
        )
        + f" Without noise it jumps to 100 percent at {bound:.2f}."
    )

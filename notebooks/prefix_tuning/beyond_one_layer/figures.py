"""What does attention above a prefixed layer look like? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer import results
from notebooks.prefix_tuning.beyond_one_layer.counting import free_numbers
from notebooks.prefix_tuning.beyond_one_layer.many_rows import Reached
from notebooks.prefix_tuning.beyond_one_layer.plan import METHODS
from promptlib import plotting
from promptlib.plotting import INK, MUTED, PALETTE, PAPER
from promptlib.prefix_tuning import movement
from promptlib.prefix_tuning.drawing import inputs_by_size
from promptlib.prefix_tuning.movement import Effect
from promptlib.prefix_tuning.trials import Get, Trial, Trials

Drawn = tuple[Figure, str]

LAYER_COLOURS = ("blue", "vermilion", "green", "purple")
METHOD_COLOURS = dict(zip(METHODS, ("vermilion", "blue", "green", "purple"), strict=True))
METHOD_MARKERS = dict(zip(METHODS, ("o", "D", "^", "v"), strict=True))
BRIGHTEST = 0.4
"""Attention from which on the maps show no difference."""


def attention_by_layer(one: Trial, get: Get, tokens: Tensor) -> Drawn:
    """Relative attention of the writing rows to inputs by size: layers down, prefix across.

    Of each layer the head that moved most is drawn, as a mean over sequences.
    """
    model, trained = results.prefixed(one, get)
    inputs = tokens[:, : movement.WRITING]
    moved = one.metrics["moved"]
    layers = len(moved)
    figure, axes = plt.subplots(
        layers, 2, figsize=(plotting.WIDTH, 1.0 + 2.2 * layers), sharex=True, sharey=True
    )
    axes = np.asarray(axes).reshape(layers, 2)
    told = []
    for column, prefix in enumerate((None, trained)):
        rows, _ = movement.relative_rows(model, tokens, prefix)
        for layer in range(layers):
            head = int(moved[layer].argmax())
            seen = inputs_by_size(rows[layer, :, head, -movement.WRITING :], inputs).mean(0)
            mesh = axes[layer, column].pcolormesh(
                seen[:, : movement.WRITING].numpy(),
                cmap=plotting.SEQUENTIAL,
                vmin=0,
                vmax=BRIGHTEST,
            )
    for layer in range(layers):
        most = 100 * float(moved[layer].max())
        told.append(f"layer {layer + 1}: {most:.0f} %")
        axes[layer, 0].set_ylabel(f"layer {layer + 1}\noutput")
        axes[layer, 1].text(
            1.03,
            0.5,
            f"moved\n{most:.0f} %",
            transform=axes[layer, 1].transAxes,
            va="center",
        )
    for axis in axes.flat:
        axis.set(ylim=(10, 0), xticks=[0, 10], xticklabels=["small", "large"])
        axis.set_yticks([0.5, 9.5], ["1", "10"])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    for axis in axes[-1]:  # inwards, or the words of two panels would meet
        for label, side in zip(axis.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
    axes[0, 0].set_title("without the prefix", loc="left")
    axes[0, 1].set_title("with the prefix", loc="left")
    figure.supxlabel("inputs by size", fontsize=12)
    bar = figure.colorbar(
        mesh, ax=axes, shrink=0.7, extend="max", label="relative attention", pad=0.12
    )
    bar.outline.set_visible(False)
    alt = (
        "Heat maps of relative attention from ten outputs to ten inputs sorted by size, without "
        "and with a prefix in every layer. Part of the attention that moved, "
        + ", ".join(told)
        + ". The two maps of layer 1 are the same."
    )
    return figure, alt


def fans(differences: Tensor, opinions: Sequence[float], follows: Sequence[int]) -> Drawn:
    """Preferences of several queries, as the prefix takes more of them.

    `opinions` are those of the prefix vectors; in the right panel query ``i`` follows the vector
    ``follows[i]``, in the left all follow the first.
    """
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(plotting.WIDTH, 3.9))
    share = torch.linspace(0, 1, 50, dtype=torch.float64)
    titles = ("one vector", "two vectors")
    for axes, title, chosen in zip(panels, titles, ([0] * len(differences), follows), strict=True):
        for difference, vector in zip(differences.tolist(), chosen, strict=True):
            path = (1 - share) * difference + share * opinions[vector]
            name = "blue" if difference > 0 else "vermilion"
            axes.plot(share, path, color=PALETTE[name])
        for vector in sorted(set(chosen)):
            axes.plot(1, opinions[vector], "*", color=INK, markersize=13, clip_on=False, zorder=4)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.set_title(title, loc="left")
        axes.set_xlabel(r"share $\alpha_i$ of the query")
    panels[0].set_ylabel("likes key j more than l")
    panels[0].annotate("$g$", (1, opinions[0]), (-4, -18), textcoords="offset points", fontsize=12)
    turned = [sum(1 for d in differences.tolist() if d * opinions[0] < 0), len(differences)]
    alt = (
        f"Two panels of {len(differences)} lines. Left: with one vector all preferences run "
        f"straight to the same point, {opinions[0]:.1f}; {turned[0]} of {turned[1]} change their "
        "sign, all in one direction. Right: with two vectors some run up and some down, and both "
        "kinds cross zero."
    )
    return figure, alt


def rows_reached(reached: Reached, n_tokens: int = 8, width: int = 8) -> Drawn:
    """How near a search comes to wanted rows, by number of rows and prefix length."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.3))
    names = ("vermilion", "ochre", "green", "blue", "purple")
    mean = 100 * reached.distance.mean(-1)
    before = 100 * reached.untouched.mean(-1)
    axes.plot(reached.rows, before, color=MUTED, linestyle="--", linewidth=1.5)
    axes.annotate(
        "no prefix",
        (reached.rows[-1], float(before[-1])),
        (6, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
    )
    for place, length in enumerate(reached.lengths):
        colour = PALETTE[names[place % len(names)]]
        numbers = free_numbers(length, n_tokens, width)
        axes.plot(reached.rows, mean[place], color=colour)
        for count, height in zip(reached.rows, mean[place].tolist(), strict=True):
            enough = count * (n_tokens - 1) <= numbers
            axes.plot(
                count,
                height,
                "o",
                markersize=7,
                color=colour,
                markerfacecolor=colour if enough else PAPER,
                markeredgewidth=1.8,
            )
        axes.annotate(
            f"p = {length}",
            (reached.rows[-1], float(mean[place, -1])),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    axes.set_xticks(reached.rows)
    axes.set_xlim(reached.rows[0] - 0.2, reached.rows[-1] + 1.1)
    axes.set_ylim(-2, 1.12 * float(before.max()))
    axes.set_xlabel("rows asked for at once")
    axes.set_ylabel("still in the wrong place (% of a row)")
    alt = (
        "Lines of how much attention is still misplaced against the number of rows asked for. "
        + " ".join(
            f"Length {length}: {float(mean[place, 0]):.1f} % for {reached.rows[0]} row, "
            f"{float(mean[place, -1]):.0f} % for {reached.rows[-1]}."
            for place, length in enumerate(reached.lengths)
        )
        + f" Without a prefix: {float(before.mean()):.0f} %."
    )
    return figure, alt


def movement_by_layer(best: Trials) -> Drawn:
    """Movement of relative attention by method, layer and depth: a dot for each seed."""
    depths = sorted(best.by("depth"))
    methods = {depth: list(best.where(depth=depth).by("method")) for depth in depths}
    figure, panels = plt.subplots(
        len(depths),
        1,
        sharex=True,
        figsize=(plotting.WIDTH, 0.9 + sum(0.35 + 0.42 * len(methods[d]) for d in depths)),
        height_ratios=[0.3 + 0.42 * len(methods[depth]) for depth in depths],
        squeeze=False,
    )
    colours = [PALETTE[name] for name in LAYER_COLOURS]
    told = []
    for axes, depth in zip(panels[:, 0], depths, strict=True):
        shown = methods[depth][::-1]
        for place, method in enumerate(shown):
            seeds = best.where(method=method, depth=depth)
            for layer in range(depth):
                moved = [100 * float(one.metrics["moved"][layer].mean()) for one in seeds]
                height = place + 0.16 * ((depth - 1) / 2 - layer)
                colour = colours[layer % len(colours)]
                plotting.seeds_and_interval(axes, moved, height, colour, (0, 100))
                told.append(f"{method}, depth {depth}, layer {layer + 1}: {np.mean(moved):.0f} %.")
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_title(f"{depth} layer{'s' if depth > 1 else ''}", loc="left")
        axes.grid(axis="y", visible=False)
    last = panels[-1, 0]
    for layer in range(depths[-1]):
        colour = colours[layer % len(colours)]
        last.plot([], [], "o", color=colour, label=f"layer {layer + 1}")
    figure.legend(*last.get_legend_handles_labels(), loc="outside upper right", ncols=depths[-1])
    last.set_xlabel("relative attention moved (% of a row)")
    last.set_xlim(left=-2)
    return figure, "Dot plot of moved relative attention by way, depth and layer. " + " ".join(told)


def moving_and_learning(best: Trials) -> Drawn:
    """Movement above the first layer against accuracy at the new task, of trials of one depth."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    told = []
    for method, seeds in best.by("method").items():
        x = [results.deeper_movement(one) for one in seeds]
        y = seeds.percent(results.NEW)
        # Hollow and of different shapes: some lie on one another.
        axes.plot(
            x,
            y,
            METHOD_MARKERS[method],
            color=PALETTE[METHOD_COLOURS[method]],
            markersize=9,
            markerfacecolor="none",
            markeredgewidth=2,
            label=method,
        )
        told.append(f"{method}: moved {np.mean(x):.0f} %, right {np.mean(y):.1f} %.")
    figure.legend(loc="outside right upper", labelcolor="linecolor", handletextpad=0.1)
    axes.set_xlim(0, 100)
    axes.set_ylim(-5, 105)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_xlabel("relative attention moved above layer 1 (% of a row)")
    axes.set_ylabel("sorted downwards (% of sequences)")
    return figure, "Scatter plot of movement and accuracy, a dot for each seed. " + " ".join(told)


def paths(shares: Mapping[str, Sequence[Mapping[Effect, float]]]) -> Drawn:
    """Movement by the whole prefix, its bias alone and its fading alone, by title and seed."""
    names: dict[Effect, str] = {
        "both": "bias and fading",
        "bias": "bias alone",
        "fade": "fading alone",
    }
    figure, panels = plt.subplots(
        1, len(shares), sharex=True, sharey=True, figsize=(plotting.WIDTH, 2.9), squeeze=False
    )
    told = []
    for axes, (title, seeds) in zip(panels[0], shares.items(), strict=True):
        for place, effect in enumerate(reversed(names)):
            values = [one[effect] for one in seeds]
            colour = PALETTE["vermilion" if effect == "both" else "blue"]
            plotting.seeds_and_interval(axes, values, place, colour, (0, 100))
            told.append(f"{title}, {names[effect]}: {np.mean(values):.0f} %.")
        axes.set_yticks(range(len(names)), list(reversed(names.values())))
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xlim(left=0)
        axes.set_title(title, loc="left")
        axes.grid(axis="y", visible=False)
    figure.supxlabel("relative attention moved above layer 1 (% of a row)", fontsize=12)
    return figure, "Dot plots of how much attention moves by which path. " + " ".join(told)

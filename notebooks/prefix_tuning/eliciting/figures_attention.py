"""What does a prefix that calls for a task do to attention? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from notebooks.prefix_tuning.eliciting.box import BlockOutputs, answering_limits, answering_shares
from notebooks.prefix_tuning.eliciting.figures import SHORT
from promptlib import plotting
from promptlib.plotting import GRID, MUTED, PALETTE
from promptlib.prefix_tuning import geometry
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import first_layer
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH

TASK_COLOURS = {
    "sort_ascending": PALETTE["blue"],
    "sort_descending": PALETTE["vermilion"],
    "add_one": PALETTE["green"],
    "add_two": PALETTE["purple"],
}


def rescaled(attention: Tensor, p: int = 1) -> Tensor:
    """Divide the attention over content by what the prefix leaves: ``(…, p + n) -> (…, n)``."""
    return attention[..., p:] / (1 - attention[..., :p].sum(-1, keepdim=True))


def attention_maps(model: GPT, prefixes: Mapping[str, Prefix], tokens: Tensor, head: int) -> Drawn:
    """Draw the attention of one head on one sequence (T,), with each prefix, and rescaled."""
    _, plain = first_layer(model, tokens[None])
    maps = {"no prefix": plain[0, head, -SEQUENCE_LENGTH:]}
    for task, prefix in prefixes.items():
        _, attention = first_layer(model, tokens[None], prefix)
        maps[SHORT[task]] = attention[0, head, -SEQUENCE_LENGTH:]
    brightest = float(maps["no prefix"].max())
    figure, panels = plt.subplots(
        2, len(maps), figsize=(plotting.WIDTH, 4.6), sharex=True, sharey=True, squeeze=False
    )
    seen, worst = [], 0.0
    for column, (title, rows) in enumerate(maps.items()):
        p = rows.shape[-1] - 2 * SEQUENCE_LENGTH + 1
        scale: dict[str, Any] = {"cmap": plotting.SEQUENTIAL, "vmin": 0.0, "vmax": brightest}
        again = rescaled(rows) if p else rows
        worst = max(worst, float((again - maps["no prefix"]).abs().max()))
        for axes, shown in ((panels[0, column], rows[:, p:]), (panels[1, column], again)):
            mesh = axes.pcolormesh(shown.numpy(), rasterized=True, **scale)
        if p:
            taken = rows[:, :1]
            panels[0, column].pcolormesh(
                [-3, -1], np.arange(SEQUENCE_LENGTH + 1), taken.numpy(), **{**scale, "vmax": 1.0}
            )
            mean = float(taken.mean())
            panels[0, column].set_xlabel(f"takes {100 * mean:.0f} %", fontsize=9)
            panels[0, column].xaxis.set_label_position("top")
            seen.append(f"the prefix for {title} takes {100 * mean:.0f} %")
        panels[0, column].set_title(title, fontsize=10, pad=6)
    for axes in panels.flat:
        axes.set(xlim=(-3.2, 19), ylim=(SEQUENCE_LENGTH, 0))
        axes.set_yticks([0.5, 9.5], ["1", "10"])
        axes.set_xticks([5, 14.5], ["in", "out"], fontsize=9)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    for axes, name in zip(panels[:, 0], ("with prefix\noutput", "rescaled\noutput"), strict=True):
        axes.set_ylabel(name)
    bar = figure.colorbar(mesh, ax=panels, shrink=0.6, label="attention (share of a row)")
    bar.outline.set_visible(False)
    alt = (
        f"Heat maps of the attention of head {head + 1}: ten outputs by nineteen positions. Upper "
        f"row: {'; '.join(seen)}, mean over the rows; it is drawn as a separate column on a "
        f"scale from 0 to 1. Lower row: divided by what is left, all maps equal that without a "
        f"prefix to {worst:.0e}."
    )
    return figure, alt


def shares_by_head(shares: Mapping[str, Mapping[str, Tensor]]) -> Drawn:
    """Draw the share, by arm and task, that each task's prefix takes of each head, (H,)."""
    figure, panels = plt.subplots(
        1, len(shares), figsize=(plotting.WIDTH, 3.2), sharey=True, squeeze=False
    )
    seen = []
    for axes, (arm, by_task) in zip(panels.flat, shares.items(), strict=True):
        values = 100 * torch.stack(list(by_task.values())).numpy()
        mesh = plotting.labelled_cells(
            axes,
            values.tolist(),
            [[f"{value:.0f}" for value in row] for row in values],
            rows=[SHORT[task] for task in by_task],
            columns=[str(head + 1) for head in range(values.shape[1])],
        )
        axes.set_title(arm, fontsize=11)
        axes.set_xlabel("head")
        seen.append(
            f"{arm}: from {values.min():.0f} to {values.max():.0f} %, mean {values.mean():.0f} %."
        )
    panels[0, 0].set_ylabel("prefix for")
    bar = figure.colorbar(mesh, ax=panels, shrink=0.8, label="share taken (%)")
    bar.outline.set_visible(False)
    alt = (
        "Share of attention that each task's prefix takes of each head at the positions that write "
        "the answer, in percent. " + " ".join(seen)
    )
    return figure, alt


def movements(outputs: Mapping[str, BlockOutputs], sequences: int = 6) -> Drawn:
    """Draw how each task's prefix moves the block's outputs, in the plane of the fixed points.

    All outputs are of the same tokens; of the first `sequences`, all answering positions are drawn.
    """
    first = next(iter(outputs.values()))
    starts = first.plain[:sequences].flatten(0, 1)
    fixed = torch.stack([one.fixed_point for one in outputs.values()])
    # The mean output counts as one point, so that the plane is chosen for the fixed points.
    plane = geometry.principal_plane(torch.cat([fixed, starts.mean(0, keepdim=True)]))
    figure, panels = plt.subplots(
        2, 2, figsize=(plotting.WIDTH, 6.4), sharex=True, sharey=True, squeeze=False
    )
    ends = plane(fixed)
    seen = []
    for axes, (task, one) in zip(panels.flat, outputs.items(), strict=False):
        here, there = plane(starts), plane(one.moved[:sequences].flatten(0, 1))
        colour = TASK_COLOURS[task]
        goal = ends[list(outputs).index(task)]
        for start, end in zip(here, there, strict=True):
            axes.plot(*torch.stack([start, end]).T, color=colour, linewidth=0.6, alpha=0.5)
        axes.plot(*here.T, ".", color=MUTED, markersize=4)
        axes.plot(*there.T, "o", color=colour, markersize=4)
        for other, end in zip(outputs, ends, strict=True):
            mine = other == task
            axes.plot(
                *end,
                marker="*",
                color=TASK_COLOURS[other] if mine else GRID,
                markersize=17 if mine else 12,
                linestyle="none",
                zorder=1,
            )
        axes.annotate(
            "",
            goal.tolist(),
            here.mean(0).tolist(),
            arrowprops={"arrowstyle": "->", "color": MUTED},
        )
        axes.set_title(f"prefix: {SHORT[task]}", fontsize=12)
        way = (one.moved - one.plain).norm(dim=-1) / (one.fixed_point - one.plain).norm(dim=-1)
        seen.append(f"{SHORT[task]}: {float(way.mean()):.2f} of the distance to the fixed point")
    for axes in panels.flat:
        axes.margins(0.1)
    figure.supxlabel("first direction", fontsize=12)
    figure.supylabel("second direction", fontsize=12)
    alt = (
        "Four charts of the same dots, the block's outputs without a prefix, in one plane. In each "
        "the prefix of one task moves them; lines join old and new places, and a star is the "
        f"task's fixed point. Length of the movement, mean: {'; '.join(seen)}."
    )
    return figure, alt


def box_of_one(outputs: BlockOutputs, sequence: int, place: int) -> Drawn:
    """Draw the box that one output can be moved in, in the plane that shows the most of it."""
    start, end = outputs.plain[sequence, place], outputs.moved[sequence, place]
    steps, shares = outputs.steps[sequence, place], outputs.shares[sequence, place]
    heads = len(steps)
    picks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=start.dtype)] * heads)
    corners = start + picks.view(-1, heads) @ steps
    plane = geometry.principal_plane(corners)
    flat = plane(corners)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.6))
    for number, pick in enumerate(picks.view(-1, heads)):
        for head in range(heads):
            if not pick[head]:
                other = number + 2 ** (heads - 1 - head)
                axes.plot(*flat[[number, other]].T, color=GRID, linewidth=1.2, zorder=1)
    path = torch.cat([start[None], start + (shares[:, None] * steps).cumsum(0)])
    order = plane(path)
    axes.plot(*order.T, color=PALETTE["ochre"], linewidth=1.6, zorder=2)
    _middle_labels(axes, order, [f"head {head + 1}" for head in range(heads)])
    axes.plot(*plane(torch.stack([start, corners[-1]])).T, color=MUTED, linestyle="--", linewidth=1)
    for point, marker, colour, size, name in (
        (start, "o", PALETTE["blue"], 9, "$y$"),
        (end, "o", PALETTE["vermilion"], 9, "$y'$"),
        (corners[-1], "*", PALETTE["vermilion"], 17, "$y^*$"),
    ):
        spot = plane(point)
        axes.plot(*spot, marker, color=colour, markersize=size, zorder=4)
        axes.annotate(name, tuple(spot.tolist()), (9, 7), textcoords="offset points", fontsize=13)
    axes.margins(0.12)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="first principal direction", ylabel="second principal direction")
    listed = ", ".join(f"{share:.2f}" for share in shares.tolist())
    alt = (
        f"A box of {heads} dimensions drawn in a plane that shows {100 * plane.share:.0f} % of its "
        f"extent, with 16 corners. A path from the output without prefix goes along its edges' "
        f"directions, {listed} of each edge, and ends at the output with the prefix. A dashed line "
        f"leads to the opposite corner, the fixed point."
    )
    return figure, alt


def _middle_labels(axes: Axes, points: Tensor, names: list[str]) -> None:
    """Write a name beside the middle of each piece of a path, unless the piece is short."""
    extent = float((points.amax(0) - points.amin(0)).norm())
    for begin, end, name in zip(points[:-1], points[1:], names, strict=True):
        if float((end - begin).norm()) > 0.08 * extent:
            axes.annotate(
                name, tuple(((begin + end) / 2).tolist()), (4, 4), textcoords="offset points",
                color=PALETTE["ochre"], fontsize=9,
            )  # fmt: skip


def limits_by_head(model: GPT, tokens: Tensor, shared: Prefix, free: Prefix, task: str) -> Drawn:
    """Draw what a normalised vector can take of each head, what one takes, and a free one."""
    limits = answering_limits(model, tokens)
    lines = {
        "limit of one normalised vector": (limits, MUTED, "--"),
        "with LayerNorm": (answering_shares(model, shared, tokens), PALETTE["vermilion"], "-"),
        "with LayerNorm, free": (answering_shares(model, free, tokens), PALETTE["green"], "-"),
    }
    heads = limits.shape[1]
    figure, panels = plt.subplots(
        1, heads, figsize=(plotting.WIDTH, 3.7), sharey=True, squeeze=False
    )
    places = np.arange(1, SEQUENCE_LENGTH + 1)
    for head, axes in enumerate(panels.flat):
        for name, (values, colour, style) in lines.items():
            rows = values[:, head]
            low, high = rows.quantile(torch.tensor([0.05, 0.95], dtype=rows.dtype), dim=0)
            axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(places, rows.mean(0), style, color=colour, label=name)
        axes.set_title(f"head {head + 1}", fontsize=11)
        axes.set_xticks([1, 5, 10])
        axes.set(ylim=(-0.02, 1.02))
    panels[0, 0].set_ylabel("share taken")
    figure.supxlabel("output", fontsize=12)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    means = "; ".join(
        f"{name} {float(values.mean()):.2f}" for name, (values, _, _) in lines.items()
    )
    above = float((lines["with LayerNorm, free"][0] > limits).double().mean())
    alt = (
        f"One chart for each of {heads} heads: share of attention taken at the ten outputs by "
        f"prefixes for {SHORT[task]}. Means over all: {means}. The free prefix takes more than the "
        f"limit in {100 * above:.0f} % of the rows."
    )
    return figure, alt

"""What does attention beside a prefix look like, and the output? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from promptlib import plotting
from promptlib.plotting import GRID, MUTED, PALETTE, PAPER
from promptlib.prefix_tuning import geometry

Drawn = tuple[Figure, str]


def one_row(plain: Tensor, taken: Tensor, to_content: Tensor, digits: Sequence[int]) -> Drawn:
    """One attention row over `digits` without a prefix, and with it after the share `taken`."""
    places = range(1, len(plain) + 1)
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, sharey=True, figsize=(plotting.WIDTH, 5.2)
    )
    top.bar(places, plain, color=PALETTE["blue"], width=0.7, linewidth=0)
    bottom.bar([0], taken, color=PALETTE["vermilion"], width=0.7, linewidth=0)
    bottom.bar(places, to_content, color=PALETTE["blue"], width=0.7, linewidth=0)
    bottom.hlines(plain, [x - 0.42 for x in places], [x + 0.42 for x in places], color=MUTED)
    bottom.plot(
        places,
        to_content / (1 - taken),
        "o",
        markersize=8,
        markerfacecolor=PAPER,
        markeredgecolor=PALETTE["blue"],
        markeredgewidth=2,
    )
    said = rf"$\alpha$ = {taken:.2f}"
    bottom.annotate(said, (0, float(taken)), (0, 5), textcoords="offset points", ha="center")
    highest = int(plain.argmax())
    bottom.annotate(
        r"bar divided by $1-\alpha$",
        (places[highest], float(plain[highest])),
        (24, -1),
        textcoords="offset points",
        va="center",
    )
    top.set_ylim(0, 1.2 * max(float(plain.max()), float(taken)))
    top.set_title("without the prefix", loc="left")
    bottom.set_title("with the prefix", loc="left")
    bottom.set_xticks([0, *places], ["prefix", *digits])
    bottom.set_xlabel("digits of the input, in the order read")
    figure.supylabel("attention (share of the row)", fontsize=12)
    for axes in (top, bottom):
        axes.grid(axis="x", visible=False)
    off = float((to_content / (1 - taken) - plain).abs().max())
    return figure, (
        f"Two bar charts of one attention row over the digits {' '.join(map(str, digits))}. "
        f"Without the prefix the largest bar is {plain.max():.2f}, on a digit {digits[highest]}. "
        f"With the prefix, a bar of {taken:.2f} stands on the prefix and all others are smaller by "
        f"the factor {1 - taken:.2f}; divided by it they agree with the first chart to {off:.0e}."
    )


def segments(
    start: Tensor, moved: Tensor, tenths: Sequence[Tensor], value: Tensor, digits: Sequence[int]
) -> Drawn:
    """Outputs without a prefix, with the trained one, and with keys that take tenths of it all."""
    plane = geometry.principal_plane(torch.cat((start, value)))
    end = plane(value[0])
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 5.0))
    for place, digit in enumerate(digits):
        here, there = plane(start[place]), plane(moved[place])
        stops = plane(torch.stack([outputs[place] for outputs in tenths]))
        axes.plot(*torch.stack((here, end)).T, color=GRID, linewidth=1.2, zorder=1)
        axes.plot(*stops.T, ".", color=MUTED, markersize=4, zorder=2)
        axes.plot(*here, "o", color=PALETTE["blue"], markersize=9, zorder=3)
        axes.plot(*there, "o", color=PALETTE["vermilion"], markersize=6, zorder=4)
        axes.annotate(str(digit), tuple(here), (0, 8), textcoords="offset points", ha="center")
    axes.plot(*end, "*", color=PALETTE["vermilion"], markersize=18, zorder=4)
    axes.annotate(r"$W_V s$", tuple(end), (14, -4), textcoords="offset points")
    axes.margins(0.08)
    axes.set_xlabel("first principal direction")
    axes.set_ylabel("second principal direction")
    off = geometry.distance_to_segment(
        torch.stack((moved, *tenths)), start, value.expand_as(start)
    ).max()
    return figure, (
        "Ten points, each joined by a straight line to one star, the fixed point. With the trained "
        "prefix every point has moved a part of the way along its own line; small dots on each "
        f"line mark tenths of the way. The plane shows {100 * plane.share:.0f} % of the variance. "
        f"In all {value.shape[-1]} dimensions the moved points lie within {float(off):.0e} of "
        "their segments."
    )


def hull(start: Tensor, moved: Tensor, aims: Tensor, corners: Tensor, taken: Tensor) -> Drawn:
    """Outputs in the plane that move towards their own points between three prefix values."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.5))
    axes.fill(*corners.T, color=PALETTE["vermilion"], alpha=0.12, linewidth=0)
    axes.plot(*corners[[0, 1, 2, 0]].T, color=PALETTE["vermilion"], linewidth=1)
    for here, there, aim in zip(start, moved, aims, strict=True):
        axes.plot(*torch.stack((here, aim)).T, color=MUTED, linewidth=1, zorder=1)
        axes.plot(*here, "o", color=PALETTE["blue"], markersize=9)
        axes.plot(*aim, "D", color=PALETTE["ochre"], markersize=6)
        axes.plot(*there, "o", color=PALETTE["vermilion"], markersize=7)
    one = int(start[:, 0].argmin())
    for point, name, offset in (
        (start[one], "$t_i$", (-9, 8)),
        (moved[one], "$t'_i$", (0, -16)),
        (aims[one], r"$\mu_i$", (3, -16)),
    ):
        axes.annotate(name, tuple(point), offset, textcoords="offset points", ha="center")
    centre = corners.mean(0)
    for number, corner in enumerate(corners, start=1):
        outwards = (corner - centre) / (corner - centre).norm() * 14
        axes.annotate(
            rf"$\bar v_{number}$",
            corner,
            outwards.tolist(),
            textcoords="offset points",
            ha="center",
            va="center",
        )
    axes.margins(0.12)
    axes.set_aspect("equal")
    axes.set_xlabel("first coordinate of the values")
    axes.set_ylabel("second coordinate")
    return figure, (
        "Seven outputs, each joined by a line to a point inside a triangle whose corners are the "
        "three prefix values. Each has moved along its line by a share between "
        f"{float(taken.min()):.2f} and {float(taken.max()):.2f} of its length."
    )


def limits_by_position(limits: Mapping[int, Tensor], shares: Tensor, row: int) -> Drawn:
    """Largest shares by number of vectors, and those taken, (B, T); from `row` on it writes."""
    positions = torch.arange(1, shares.shape[1] + 1)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    for (length, limit), name in zip(limits.items(), ("purple", "blue"), strict=True):
        low, high = limit.quantile(torch.tensor([0.05, 0.95]).double(), dim=0)
        axes.fill_between(positions, low, high, color=PALETTE[name], alpha=0.2, linewidth=0)
        axes.plot(positions, limit.mean(0), color=PALETTE[name])
        label = "limit, one vector" if length == 1 else f"limit, {length} vectors"
        there = positions[11], high[11]
        axes.annotate(label, there, (0, 12), textcoords="offset points", color=PALETTE[name])
    axes.plot(positions, shares.mean(0), "o", color=PALETTE["vermilion"])
    axes.text(1, 0.06, "trained prefix", color=PALETTE["vermilion"])
    axes.axvline(row + 0.5, color=MUTED, linestyle="--", linewidth=1)
    axes.set_ylim(0, 1)
    axes.set_xticks([1, 5, 10, 15, 19])
    axes.set_xlabel("position in the sequence")
    axes.set_ylabel(r"share $\alpha$ taken by the prefix")
    one = limits[1].mean(0)
    return figure, (
        f"Largest attainable share by position. One vector: {one[0]:.2f} at the first position, "
        f"falling to {one[row - 1]:.2f} at the ninth; {limits[1][:, row:].mean():.2f} on average "
        f"while the answer is written. Ten vectors: {limits[10][:, row:].mean():.2f} there. The "
        f"trained prefix takes {shares[:, row:].mean():.2f} there and stays below the limit "
        "everywhere."
    )


def in_front_and_behind(front: Tensor, behind: Tensor) -> Drawn:
    """Attention of six content tokens and a learned vector, which stands first or last."""
    figure, panels = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.6))
    for axes, weights, names, title in (
        (panels[0], front, ["$s$", *"123456"], "in front"),
        (panels[1], behind, [*"123456", "$s$"], "behind"),
    ):
        image = axes.pcolormesh(weights.flip(0), vmin=0, vmax=1, cmap=plotting.SEQUENTIAL)
        axes.set_xticks([x + 0.5 for x in range(7)], names)
        axes.set_yticks([x + 0.5 for x in range(7)], names[::-1])
        axes.set_title(title, loc="left")
        axes.set_aspect("equal")
        axes.grid(visible=False)
    panels[0].set_ylabel("position that reads")
    figure.supxlabel("position that is read", fontsize=12)
    figure.colorbar(image, ax=panels, label="attention (share of the row)")
    own = behind[-1, :-1] / behind[-1, :-1].sum()
    return figure, (
        "Two attention matrices. In front, the learned vector is read by all rows and its own row "
        "holds one entry. Behind, its column is empty but for its own row; that row gives "
        f"{own[1]:.2f} of its attention over content to token 2 and at most "
        f"{own[[0, 2, 3, 4, 5]].max():.2f} to any other."
    )


def share_by_position(shares: Mapping[str, Tensor]) -> Drawn:
    """What a prefix takes from each content position, by scheme of positions."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.8))
    ends = {label: float(share[-1]) for label, share in shares.items()}
    last = len(next(iter(shares.values())))
    for (label, share), name in zip(shares.items(), ("grey", "vermilion", "blue"), strict=True):
        axes.plot(torch.arange(1, last + 1), share, color=PALETTE[name])
        beside = (6, {"rotary": 5, "ALiBi": -4}.get(label, 0))
        axes.annotate(label, (last, ends[label]), beside, textcoords="offset points", va="center")
    axes.set(
        xlim=(0, 118), ylim=(-0.04, 1), xlabel="content position $i$", ylabel=r"share $\alpha_i$"
    )
    axes.set_xticks([1, 32, 64, 96])
    return figure, (
        "Three curves of the share of a prefix by content position, all high at the first token. "
        f"At position {last}: " + ", ".join(f"{label} {end:.2f}" for label, end in ends.items())
    ) + "."


def before_and_after(before: Tensor, with_prefix: Tensor, fine_tuned: Tensor) -> Drawn:
    """Attention weights after training against those before."""
    figure, panels = plt.subplots(1, 2, sharex=True, sharey=True, figsize=(plotting.WIDTH, 3.7))
    gaps = [float((after - before).abs().max()) for after in (with_prefix, fine_tuned)]
    for axes, after, title, name in (
        (panels[0], with_prefix, "with the prefix", "vermilion"),
        (panels[1], fine_tuned, "fine-tuned", "green"),
    ):
        axes.axline((0, 0), slope=1, color=MUTED, linewidth=1)
        axes.plot(before, after, ".", color=PALETTE[name], markersize=4, alpha=0.6)
        axes.set_title(title, loc="left")
        axes.set_aspect("equal")
    largest = 1.05 * max(float(before.max()), float(fine_tuned.max()))
    panels[0].set(xlim=(0, largest), ylim=(0, largest), ylabel="relative attention after")
    figure.supxlabel("attention before", fontsize=12)
    return figure, (
        f"Two scatter plots of {len(before):,} attention weights before and after training. With "
        f"the prefix all points lie on the diagonal, at most {gaps[0]:.0e} away. Fine-tuned, they "
        f"scatter widely: the largest change is {gaps[1]:.2f}."
    )


def movements(moved: Mapping[str, Tensor], floor: float = 1e-18) -> Drawn:
    """Median and range of how far relative attention moves, by what is changed."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 5.2))
    for place, measured in enumerate(list(moved.values())[::-1]):
        rows = measured.clamp_min(floor)
        colour = PALETTE["vermilion" if rows.median() > 1e-9 else "blue"]
        axes.plot([rows.min(), rows.max()], [place, place], color=colour, linewidth=2, alpha=0.5)
        axes.plot(rows.median(), place, "o", color=colour, markersize=8)
    axes.axvline(1e-10, color=MUTED, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(moved)), list(moved)[::-1])
    axes.set_xticks([1e-18, 1e-14, 1e-10, 1e-6, 1e-2])
    axes.set_xlabel("relative attention moved (share of a row)")
    return figure, "Median movement of relative attention. " + " ".join(
        f"{label}: {float(rows.median()):.1g}." for label, rows in moved.items()
    )

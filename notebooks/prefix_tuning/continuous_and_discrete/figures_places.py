"""Where do learned vectors lie? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.decoding import complete
from notebooks.prefix_tuning.continuous_and_discrete.figures import Drawn, band
from notebooks.prefix_tuning.continuous_and_discrete.places import Places, Steps
from promptlib import plotting
from promptlib.plotting import PALETTE
from promptlib.prefix_tuning.gpt import GPT


def slice_of_space(
    model: GPT, corners: Sequence[tuple[str, Tensor]], length: int, resolution: int
) -> Drawn:
    """Colour a plane through three vectors by what the model says after each of its points.

    The `corners` are three named vectors, not on one line; `resolution` points lie along a side.
    """
    (_, origin), (_, second), (_, learned) = corners
    right = (learned - origin) / (learned - origin).norm()
    up = second - origin - (second - origin) @ right * right
    if float(up.norm()) < 1e-6:
        raise ValueError("the three vectors lie on a line; choose others")
    up = up / up.norm()
    marks = [(float((v - origin) @ right), float((v - origin) @ up)) for _, v in corners]
    low, high = min(x for x, _ in marks), max(x for x, _ in marks)
    reach = 0.6 * (high - low)
    middle = (low + high) / 2
    ticks = torch.linspace(-reach, reach, resolution)
    x, y = torch.meshgrid(ticks + middle, ticks, indexing="xy")
    points = origin + x.reshape(-1, 1) * right + y.reshape(-1, 1) * up
    _, region = complete(model, points.unsqueeze(1), length).unique(dim=0, return_inverse=True)
    regions = region.view(resolution, resolution).numpy()
    n_regions = int(region.max()) + 1

    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 5.4))
    # Neighbouring regions have numbers that are close; spread their colours.
    shades = (regions * 0.618034) % 1.0
    axes.pcolormesh(
        (ticks + middle).numpy(),
        ticks.numpy(),
        shades,
        cmap="cividis",
        vmin=-0.25,
        vmax=1.0,
        rasterized=True,
    )
    for (name, _), (across, above) in zip(corners, marks, strict=True):
        axes.plot([across], [above], "o", color=PALETTE["vermilion"], markeredgecolor="#ffffff")
        axes.annotate(
            name,
            (across, above),
            xytext=(0, 9 if above >= 0 and name != corners[0][0] else -18),
            textcoords="offset points",
            ha="center" if abs(across - middle) < 0.8 * reach else "right",
            color="#000000",
            fontsize=11,
            bbox={"facecolor": "#ffffff", "alpha": 0.85, "linewidth": 0, "pad": 1.5},
        )
    axes.set(xlabel="distance in the plane", ylabel="distance in the plane", aspect="equal")
    axes.grid(False)
    third = resolution // 3
    borders = float(ticks[third - 1] + middle), float(ticks[-third] + middle)
    met = []
    for side, part, there in (
        ("left", regions[:, :third], [at <= borders[0] for at, _ in marks]),
        ("right", regions[:, -third:], [at >= borders[1] for at, _ in marks]),
    ):
        held = " and ".join(name for (name, _), is_in in zip(corners, there, strict=True) if is_in)
        holding = f", with {held}," if held else ""
        met.append(f"the {side} third{holding} meets {len(np.unique(part))}")
    alt = (
        f"A square piece of a plane through {', '.join(name for name, _ in corners)}, divided into "
        f"{n_regions} regions. All points of a region have the same "
        f"completion of {length} symbols. Of the regions {met[0]}, {met[1]}."
    )
    return figure, alt


def where_they_lie(places: Sequence[Places]) -> Drawn:
    """Draw distances and cosines to the nearest token, as cumulative shares over all seeds."""
    if not places:
        raise ValueError("no string was said with one vector, so there are no places to draw")
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(plotting.WIDTH, 4.2))
    distances = {
        "learned to another completion": ([p.breaking for p in places], PALETTE["ochre"]),
        "token to token": ([p.among_tokens for p in places], PALETTE["blue"]),
        "learned to token": ([p.distance for p in places], PALETTE["vermilion"]),
        "random to token": ([p.random_distance for p in places], PALETTE["green"]),
    }
    cosines = {
        "token to token": ([p.among_tokens_cosine for p in places], PALETTE["blue"]),
        "learned to token": ([p.cosine for p in places], PALETTE["vermilion"]),
        "random to token": ([p.random_cosine for p in places], PALETTE["green"]),
    }
    medians = _cumulative(left, distances, label=True)
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.set(xlabel="distance", ylabel="share (%)", ylim=(0, 103))
    figure.legend(fontsize=10, loc="outside lower center", ncols=2, handlelength=1.6)
    cosine_medians = _cumulative(right, cosines, label=False)
    right.set(xlabel="cosine to the nearest token")
    alt = (
        "Cumulative shares. Left, median distances: "
        + ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
        + ". Right, median cosines to the nearest token: "
        + ", ".join(f"{name} {value:.2f}" for name, value in cosine_medians.items())
        + "."
    )
    return figure, alt


def distance_by_rate(found: Sequence[Steps]) -> Drawn:
    """Draw the distance to the nearest token, and the strings said, against the learning rate."""
    if not found:
        raise ValueError("no string was said with all learning rates, so there is nothing to draw")
    rates = found[0].rates
    learned, random, said, still = (
        np.array([getattr(steps, name) for steps in found])
        for name in ("distance", "random", "said", "still_nearest")
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 4.2))
    band(left, rates, random, PALETTE["green"], "random to token", linestyle="--")
    band(left, rates, learned, PALETTE["vermilion"], "learned to token")
    left.axhline(1.0, color=PALETTE["blue"], label="token to token")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.set(ylabel="distance (token to token = 1)")
    left.legend(fontsize=10, loc="upper left", handlelength=1.6)
    band(right, rates, said, PALETTE["purple"], "strings said")
    band(right, rates, still, PALETTE["ochre"], "start still nearest")
    right.set(ylabel="share (%)", ylim=(-3, 103))
    right.legend(fontsize=10, loc="lower left", handlelength=1.6)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("learning rate")
    alt = (
        "Against the learning rate. Left, median distance to the nearest token in units of that "
        f"between tokens: learned vectors from {learned.mean(axis=0)[0]:.2f} at {rates[0]:g} to "
        f"{learned.mean(axis=0)[-1]:.2f} at {rates[-1]:g}; random vectors with the same norms from "
        f"{random.mean(axis=0)[0]:.2f} to {random.mean(axis=0)[-1]:.2f}. Right, strings said: from "
        f"{said.mean(axis=0)[0]:.0f} to {said.mean(axis=0)[-1]:.0f} %; vectors whose nearest token "
        f"is still the one they started at: from {still.mean(axis=0)[0]:.0f} to "
        f"{still.mean(axis=0)[-1]:.0f} %."
    )
    return figure, alt


def _cumulative(
    axes: Axes, groups: Mapping[str, tuple[Sequence[Tensor], str]], label: bool
) -> dict[str, float]:
    medians = {}
    for name, (parts, colour) in groups.items():
        values = np.sort(torch.cat(list(parts)).numpy())
        values = values[np.isfinite(values)]
        medians[name] = float(np.median(values))
        style = "--" if name.startswith("random") else "-"
        axes.plot(
            values,
            100 * np.arange(1, len(values) + 1) / len(values),
            color=colour,
            linestyle=style,
            label=name if label else None,
        )
    return medians

"""The figures of the chapter on continuous and discrete prompts: each with its alt text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.claims import (
    PUBLISHED_TOKENS,
    PUBLISHED_VIRTUAL,
)
from notebooks.prefix_tuning.continuous_and_discrete.counting import certified_bits
from notebooks.prefix_tuning.continuous_and_discrete.decoding import complete
from notebooks.prefix_tuning.continuous_and_discrete.plan import KINDS
from notebooks.prefix_tuning.continuous_and_discrete.results import Measured, Places
from promptlib import plotting
from promptlib.plotting import INK, PALETTE, PAPER
from promptlib.prefix_tuning.gpt import GPT

Drawn = tuple[Figure, str]

LINES = (PALETTE["blue"], PALETTE["vermilion"], PALETTE["green"], PALETTE["purple"])

KIND_NAMES = {
    "text": "held-out text",
    "model": "written by the model",
    "shuffled": "shuffled text",
    "random": "random symbols",
}


def slice_of_space(
    model: GPT, corners: Sequence[tuple[str, Tensor]], length: int, resolution: int
) -> Drawn:
    """Colour a plane through three vectors by what the model says after each of its points.

    Parameters
    ----------
    model : GPT
    corners : three pairs of name and Tensor ``(D,)``
        The plane's points that are marked; not on one line.
    length : int
        Symbols of a completion.
    resolution : int
        Points along each side.
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


def sweep_map(measured: Measured) -> Drawn:
    """Draw how many strings of the sweep each setting forces, by objective."""
    cells = measured.sweep
    rates = sorted({cell["learning_rate"] for cell in cells}, reverse=True)
    scales = sorted({cell["init_scale"] for cell in cells})
    objectives = list(dict.fromkeys(cell["objective"] for cell in cells))
    highest = 100 * max(float(np.mean(cell["success"])) for cell in cells)
    brightest = max(10 * math.ceil(highest / 10), 10)
    figure, panels = plt.subplots(
        1,
        len(objectives),
        sharey=True,
        squeeze=False,
        figsize=(plotting.WIDTH, 1.4 + 0.5 * len(rates)),
    )
    seen = []
    for axes, objective in zip(panels[0], objectives, strict=True):
        shares = np.zeros((len(rates), len(scales)))
        for cell in cells:
            if cell["objective"] == objective:
                share = 100 * float(np.mean(cell["success"]))
                row, column = rates.index(cell["learning_rate"]), scales.index(cell["init_scale"])
                shares[row, column] = share
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{share:.0f}",
                    ha="center",
                    va="center",
                    color="#ffffff" if share < brightest / 2 else "#000000",
                )
        mesh = axes.pcolormesh(shares, cmap="cividis", vmin=0.0, vmax=brightest)
        axes.set_xticks(np.arange(len(scales)) + 0.5, [f"{scale:g}" for scale in scales])
        axes.set_yticks(np.arange(len(rates)) + 0.5, [f"{rate:g}" for rate in rates])
        axes.set(title=objective, xlabel="init scale", ylim=(len(rates), 0))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        seen.append(f"{objective}: from {shares.min():.0f} to {shares.max():.0f} %.")
    panels[0, 0].set_ylabel("learning rate")
    bar = figure.colorbar(mesh, ax=panels, label="strings said (%)")
    bar.outline.set_visible(False)
    alt = (
        f"Heat maps over {len(rates)} learning rates and {len(scales)} init scales, one for each "
        "objective; numbers are the percentage of strings said. " + " ".join(seen)
    )
    return figure, alt


def distinct_completions(measured: Measured) -> Drawn:
    """Draw the share of distinct completions after tokens, random and optimised vectors."""
    v = measured.n_tokens

    def percent(values: ArrayLike) -> np.ndarray:
        return 100 * np.array(values) / v

    scales = [cell["scale"] for cell in measured.surveyed[0]["random"]]
    random = percent([[cell["distinct"] for cell in e["random"]] for e in measured.surveyed])
    tokens = percent([entry["tokens"] for entry in measured.surveyed])
    between = percent([entry["between"] for entry in measured.surveyed])
    text = percent([entry["kinds"]["text"]["distinct"] for entry in measured.distinct])
    noise = percent([entry["kinds"]["random"]["distinct"] for entry in measured.distinct])

    figure, (left, axes) = plt.subplots(
        1, 2, sharey=True, figsize=(plotting.WIDTH, 4.2), width_ratios=[1.25, 1]
    )
    rows = [
        ("tokens", tokens, PALETTE["blue"], PUBLISHED_TOKENS),
        ("between\ntokens", between, PALETTE["grey"], None),
        ("to held-\nout text", text, PALETTE["vermilion"], PUBLISHED_VIRTUAL),
        ("to random\nstrings", noise, PALETTE["vermilion"], None),
    ]
    for place, (_, values, colour, published) in enumerate(rows):
        left.plot([place] * len(values), values, "o", color=colour, alpha=0.8)
        left.hlines(values.mean(), place - 0.25, place + 0.25, color=colour)
        if published is not None:
            left.plot([place + 0.3], [published], "D", markerfacecolor="none", markeredgecolor=INK)
    left.plot([], [], "D", markerfacecolor="none", markeredgecolor=INK, label="LLaMA-7B, published")
    left.legend(loc="lower left", fontsize=10)
    left.set_xticks(range(len(rows)), [name for name, *_ in rows], fontsize=9)
    left.set(
        ylim=(0, 103), xlim=(-0.5, len(rows) - 0.4), ylabel="distinct completions (% of prompts)"
    )
    left.set_title("tokens and optimised vectors", fontsize=11)
    axes.fill_between(
        scales, random.min(axis=0), random.max(axis=0), color=PALETTE["green"], alpha=0.25
    )
    axes.plot(scales, random.mean(axis=0), "o-", color=PALETTE["green"])
    axes.set_xscale("log", base=2)
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales], fontsize=9)
    axes.set_xlabel("size (tokens = 1)")
    axes.set_title("random vectors", fontsize=11)
    alt = (
        f"Share of distinct completions among {v} prompts. Tokens {tokens.mean():.0f} % (published "
        f"for LLaMA-7B {PUBLISHED_TOKENS:.1f} %), points between tokens {between.mean():.0f} %, "
        f"vectors optimised towards held-out text {text.mean():.0f} % (published "
        f"{PUBLISHED_VIRTUAL:.1f} %), towards random strings {noise.mean():.0f} %. Random vectors: "
        f"from {random.mean(axis=0)[0]:.0f} % at size {scales[0]:g} up to "
        f"{random.mean(axis=0).max():.0f} %."
    )
    return figure, alt


def success_by_length(measured: Measured) -> Drawn:
    """Draw how many strings are said, by their length, kind and the length of the prompt."""
    figure, panels = plt.subplots(2, 2, sharex=True, sharey=True, figsize=(plotting.WIDTH, 5.6))
    seen = []
    lengths = measured.string_lengths
    for axes, kind in zip(panels.flat, KINDS, strict=True):
        success = measured.success(kind)
        for place, n in enumerate(measured.prompt_lengths):
            band(axes, lengths, success[:, place], LINES[place % len(LINES)], f"{n}")
        axes.set_title(KIND_NAMES[kind], fontsize=11)
        ends = success.mean(axis=0)[:, -1]
        seen.append(
            f"{KIND_NAMES[kind]}, {lengths[-1]} symbols: "
            + ", ".join(
                f"{end:.0f} % with {n}"
                for n, end in zip(measured.prompt_lengths, ends, strict=True)
            )
        )
    for axes in panels[1]:
        axes.set_xlabel("symbols of the string")
        axes.set_xticks(lengths)
    for axes in panels[:, 0]:
        axes.set_ylabel("strings said (%)")
    panels[0, 0].set_ylim(-3, 103)
    panels[0, 0].legend(title="vectors", fontsize=10, loc="lower left")
    alt = (
        "Four panels, one for each kind of string: percentage said against the length of the "
        "string, one line for each number of vectors; bands span the seeds. "
        + "; ".join(seen)
        + "."
    )
    return figure, alt


def success_by_steps(measured: Measured, length: int) -> Drawn:
    """Draw the share of strings of one length that are said within a number of updates."""
    at = list(measured.string_lengths).index(length)
    longest = max(int(measured.steps.max()), 2)
    grid = np.unique(np.geomspace(1, longest, 60).round())
    figure, panels = plt.subplots(2, 2, sharex=True, sharey=True, figsize=(plotting.WIDTH, 5.6))
    seen = []
    for row, (axes, kind) in enumerate(zip(panels.flat, KINDS, strict=True)):
        steps = measured.steps[:, :, row, at]  # (seeds, prompt lengths, strings)
        for place, n in enumerate(measured.prompt_lengths):
            taken = steps[:, place, :, None]
            shares = 100 * ((taken >= 0) & (taken <= grid)).mean(axis=1)
            band(axes, grid, shares, LINES[place % len(LINES)], f"{n}", marker="")
            said = steps[:, place][steps[:, place] >= 0]
            if len(said):
                vectors = f"{n} vector{'s' * (n > 1)}"
                seen.append(f"{KIND_NAMES[kind]}, {vectors}: median {np.median(said):.0f}")
        axes.set_title(KIND_NAMES[kind], fontsize=11)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    for axes in panels[1]:
        axes.set_xlabel("updates")
    for axes in panels[:, 0]:
        axes.set_ylabel("strings said (%)")
    panels[0, 0].set_ylim(-3, 103)
    panels[1, 1].legend(title="vectors", fontsize=10, loc="upper left")
    alt = (
        f"Four panels: percentage of strings of {length} symbols said within a number of updates, "
        "one line for each number of vectors, bands over the seeds. Median updates of those said: "
        + "; ".join(seen)
        + "."
    )
    return figure, alt


def bits_of_prompts(measured: Measured) -> Drawn:
    """Draw the certified number of strings, in bits, beside what tokens can say."""
    bits_of_token = math.log2(measured.n_tokens)
    lengths = list(measured.counted[0])
    limits = np.array(
        [
            [max(certified_bits(e[n]["bits"], e[n]["success"]), 0.0) for n in lengths]
            for e in measured.counted
        ]
    )
    counted = np.log2([[e["tokens"], e["pairs"]] for e in measured.surveyed]).mean(axis=0)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    span = np.array([0.0, max(lengths) + 0.3])
    axes.plot(span, span * bits_of_token, color=PALETTE["blue"], linestyle="--")
    axes.annotate(
        "limit of tokens",
        (span[1], span[1] * bits_of_token),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=PALETTE["blue"],
    )
    axes.plot([1, 2], counted, "s", color=PALETTE["blue"])
    axes.annotate(
        "tokens, all listed",
        (2, counted[1]),
        xytext=(8, -4),
        textcoords="offset points",
        color=PALETTE["blue"],
        va="center",
    )
    for values in limits:
        axes.plot(lengths, values, "o", color=PALETTE["vermilion"], alpha=0.7)
    axes.plot(lengths, limits.mean(axis=0), color=PALETTE["vermilion"])
    labelled = min(1, len(lengths) - 1)
    axes.annotate(
        "vectors, at least",
        (lengths[labelled], limits[:, labelled].max()),
        xytext=(-8, 6),
        textcoords="offset points",
        color=PALETTE["vermilion"],
        ha="right",
    )
    axes.set_xticks(sorted({1, 2, *lengths}))
    axes.set(
        xlim=(0, max(lengths) * 1.35 + 0.3),
        ylim=(0, None),
        xlabel="tokens or vectors in the prompt",
        ylabel="different strings (bits)",
    )
    alt = (
        "Number of different strings, in bits, against the length of the prompt. Prompts of tokens "
        f"have at most {bits_of_token:.1f} bits a token; listed, one token has {counted[0]:.1f} "
        f"and two have {counted[1]:.1f}. Lower limits for vectors: "
        + ", ".join(
            f"{n}: {value:.1f}" for n, value in zip(lengths, limits.mean(axis=0), strict=True)
        )
        + " bits."
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


def band(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    colour: str,
    name: str,
    marker: str = "o",
    linestyle: str = "-",
) -> None:
    """Draw the mean over seeds, and a band from the lowest to the highest seed."""
    axes.fill_between(
        x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0
    )
    axes.plot(
        x,
        values.mean(axis=0),
        color=colour,
        marker=marker,
        linestyle=linestyle,
        markersize=5,
        markeredgecolor=PAPER,
        label=name,
    )

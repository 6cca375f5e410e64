"""Which strings do vectors make a model say, and how many? Each figure with its alt text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from notebooks.prefix_tuning.continuous_and_discrete import results
from notebooks.prefix_tuning.continuous_and_discrete.claims import (
    PUBLISHED_TOKENS,
    PUBLISHED_VIRTUAL,
)
from notebooks.prefix_tuning.continuous_and_discrete.counting import certified_bits
from notebooks.prefix_tuning.continuous_and_discrete.plan import KINDS
from promptlib import plotting
from promptlib.plotting import INK, PALETTE, PAPER
from promptlib.prefix_tuning.trials import Trials

Drawn = tuple[Figure, str]

LINES = (PALETTE["blue"], PALETTE["vermilion"], PALETTE["green"], PALETTE["purple"])

KIND_NAMES = {
    "text": "held-out text",
    "model": "written by the model",
    "shuffled": "shuffled text",
    "random": "random symbols",
}


def sweep_map(trials: Trials) -> Drawn:
    """Draw how many strings of the sweep each setting forces, by objective."""
    share = {
        tuple(one.metrics[name] for name in ("objective", "learning_rate", "init_scale")): 100
        * float(np.mean(one.metrics["success"]))
        for one in trials.where(method="sweep")
    }
    objectives, rates, scales = (list(dict.fromkeys(names)) for names in zip(*share, strict=True))
    rates, scales = sorted(rates, reverse=True), sorted(scales)
    figure, panels = plt.subplots(
        1,
        len(objectives),
        sharey=True,
        squeeze=False,
        figsize=(plotting.WIDTH, 1.4 + 0.5 * len(rates)),
    )
    seen = []
    for axes, objective in zip(panels[0], objectives, strict=True):
        shares = [[share[objective, rate, scale] for scale in scales] for rate in rates]
        mesh = plotting.labelled_cells(
            axes,
            shares,
            [[f"{value:.0f}" for value in row] for row in shares],
            [f"{rate:g}" for rate in rates],
            [f"{scale:g}" for scale in scales],
            limits=(0.0, max(10 * math.ceil(max(share.values()) / 10), 10)),
        )
        axes.set(title=objective, xlabel="init scale")
        seen.append(f"{objective}: from {np.min(shares):.0f} to {np.max(shares):.0f} %.")
    panels[0, 0].set_ylabel("learning rate")
    bar = figure.colorbar(mesh, ax=panels, label="strings said (%)")
    bar.outline.set_visible(False)
    alt = (
        f"Heat maps over {len(rates)} learning rates and {len(scales)} init scales, one for each "
        "objective; numbers are the percentage of strings said. " + " ".join(seen)
    )
    return figure, alt


def distinct_completions(trials: Trials) -> Drawn:
    """Draw the share of distinct completions after tokens, random and optimised vectors."""
    v = results.n_tokens(trials)
    surveyed = [one.metrics for one in trials.where(method="survey")]
    kinds = [one.metrics["kinds"] for one in trials.where(method="different")]
    scales = [cell["scale"] for cell in surveyed[0]["random"]]
    random = 100 / v * np.array([[cell["distinct"] for cell in e["random"]] for e in surveyed])
    tokens = 100 / v * np.array([e["tokens"] for e in surveyed])
    between = 100 / v * np.array([e["between"] for e in surveyed])
    text = 100 / v * np.array([by_kind["text"]["distinct"] for by_kind in kinds])
    noise = 100 / v * np.array([by_kind["random"]["distinct"] for by_kind in kinds])

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
    band(axes, scales, random, PALETTE["green"])
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


def success_by_length(trials: Trials) -> Drawn:
    """Draw how many strings are said, by their length, kind and the length of the prompt."""
    figure, panels = _panel_for_each_kind()
    lengths, numbers = results.string_lengths(trials).tolist(), results.prompt_lengths(trials)
    seen = []
    for axes, kind in zip(panels.flat, KINDS, strict=True):
        success = results.success(trials, kind)
        for place, n in enumerate(numbers):
            band(axes, lengths, success[:, place], LINES[place % len(LINES)], f"{n}")
        ends = zip(numbers, success.mean(axis=0)[:, -1], strict=True)
        seen.append(
            f"{KIND_NAMES[kind]}, {lengths[-1]} symbols: "
            + ", ".join(f"{end:.0f} % with {n}" for n, end in ends)
        )
    for axes in panels[1]:
        axes.set_xlabel("symbols of the string")
        axes.set_xticks(lengths)
    panels[0, 0].legend(title="vectors", fontsize=10, loc="lower left")
    alt = (
        "Four panels, one for each kind of string: percentage said against the length of the "
        "string, one line for each number of vectors; bands span the seeds. "
        + "; ".join(seen)
        + "."
    )
    return figure, alt


def success_by_steps(trials: Trials, length: int) -> Drawn:
    """Draw the share of strings of one length that are said within a number of updates."""
    steps = results.steps(trials)
    at = results.string_lengths(trials).tolist().index(length)
    grid = np.unique(np.geomspace(1, max(int(steps.max()), 2), 60).round())
    figure, panels = _panel_for_each_kind()
    seen = []
    for row, (axes, kind) in enumerate(zip(panels.flat, KINDS, strict=True)):
        for place, n in enumerate(results.prompt_lengths(trials)):
            taken = steps[:, place, row, at, :, None]  # (seeds, strings, 1)
            shares = 100 * ((taken >= 0) & (taken <= grid)).mean(axis=1)
            band(axes, grid, shares, LINES[place % len(LINES)], f"{n}", marker="")
            if (taken >= 0).any():
                vectors = f"{n} vector{'s' * (n > 1)}"
                median = np.median(taken[taken >= 0])
                seen.append(f"{KIND_NAMES[kind]}, {vectors}: median {median:.0f}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    for axes in panels[1]:
        axes.set_xlabel("updates")
    panels[1, 1].legend(title="vectors", fontsize=10, loc="upper left")
    alt = (
        f"Four panels: percentage of strings of {length} symbols said within a number of updates, "
        "one line for each number of vectors, bands over the seeds. Median updates of those said: "
        + "; ".join(seen)
        + "."
    )
    return figure, alt


def bits_of_prompts(trials: Trials) -> Drawn:
    """Draw the certified number of strings, in bits, beside what tokens can say."""
    bits_of_token = math.log2(results.n_tokens(trials))
    by_vectors = trials.where(method="count").by("vectors")
    lengths = list(by_vectors)
    limits = np.array(
        [
            [max(certified_bits(one.metrics["bits"], one.metrics["success"]), 0.0) for one in seeds]
            for seeds in by_vectors.values()
        ]
    ).T  # (seeds, numbers of vectors)
    surveyed = [one.metrics for one in trials.where(method="survey")]
    counted = np.log2([[found["tokens"], found["pairs"]] for found in surveyed]).mean(axis=0)
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


def _panel_for_each_kind() -> tuple[Figure, np.ndarray]:
    figure, panels = plt.subplots(2, 2, sharex=True, sharey=True, figsize=(plotting.WIDTH, 5.6))
    for axes, kind in zip(panels.flat, KINDS, strict=True):
        axes.set_title(KIND_NAMES[kind], fontsize=11)
    for axes in panels[:, 0]:
        axes.set_ylabel("strings said (%)")
    panels[0, 0].set_ylim(-3, 103)
    return figure, panels


def band(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    colour: str,
    name: str | None = None,
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

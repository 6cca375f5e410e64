"""The figures of the chapter "Eliciting a learned task" about what was measured.

Each function returns a figure and its alt text. Pictures of attention and of its outputs are in
`figures_attention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from notebooks.prefix_tuning.eliciting.plan import ARMS, SWEPT
from notebooks.prefix_tuning.eliciting.results import (
    IN_WORDS,
    PUBLISHED_ARM,
    Measured,
    mixture_shares,
)
from notebooks.prefix_tuning.eliciting.start import Start
from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import MUTED, PALETTE
from promptlib.prefix_tuning import drawing as experiment_figures
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.planning import MIXED

SHORT = {
    "sort_ascending": "ascending",
    "sort_descending": "descending",
    "add_one": "add one",
    "add_two": "add two",
}
"""Names that fit on an axis."""

COLOURS = dict(zip(ARMS, (PALETTE["blue"], PALETTE["vermilion"], PALETTE["green"]), strict=True))


def matrix(measured: Measured) -> Drawn:
    """Draw the accuracy of each task's prefix on each task, and that without a prefix."""
    stacked = np.array([measured.matrix(PUBLISHED_ARM, seed) for seed in measured.seeds])
    without = np.array(mixture_shares(measured))[:, None]
    every = np.concatenate([without, stacked], axis=1)  # (seeds, 5, 4)
    means = every.mean(axis=0)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.4))
    rows = np.array([0.0, *(1.25 + np.arange(len(MIXED)))])  # a gap below the model alone
    for place, row in enumerate(rows):
        mesh = axes.pcolormesh(
            np.arange(len(MIXED) + 1),
            [row, row + 1],
            means[place : place + 1],
            cmap=plotting.SEQUENTIAL,
            vmin=0.0,
            vmax=100.0,
        )
        for column in range(len(MIXED)):
            values = every[:, place, column]
            spread = f"\n± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{values.mean():.1f}{spread}",
                ha="center",
                va="center",
                fontsize=11,
                color="#ffffff" if values.mean() < 50 else "#000000",
            )
    axes.set_yticks(rows + 0.5, ["no prefix", *(f"prefix: {SHORT[task]}" for task in MIXED)])
    axes.set_xticks(np.arange(len(MIXED)) + 0.5, [SHORT[task] for task in MIXED])
    axes.set(xlabel="measured on", ylim=(rows[-1] + 1, 0))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, label="accuracy (% of sequences)")
    bar.outline.set_visible(False)
    own = ", ".join(
        f"{SHORT[task]} {means[1 + place, place]:.1f}" for place, task in enumerate(MIXED)
    )
    others = max(means[1 + r, c] for r in range(len(MIXED)) for c in range(len(MIXED)) if r != c)
    alt = (
        "Matrix of accuracies in percent, mean over seeds. First row, no prefix: "
        + ", ".join(f"{SHORT[t]} {means[0, i]:.1f}" for i, t in enumerate(MIXED))
        + f". Below, each task's prefix on its own task: {own}. The largest of the twelve numbers "
        f"off the diagonal is {others:.1f}."
    )
    return figure, alt


def beside_published(measured: Measured) -> Drawn:
    """Draw the published accuracies with ours, one dot for each seed."""
    shares = np.array(mixture_shares(measured))
    without = [
        (f"no prefix → {SHORT[task]}", published.ELICIT["pretrained"][task], list(shares[:, place]))
        for place, task in enumerate(MIXED)
    ]
    with_prefix = [
        (
            f"prefix → {SHORT[task]}",
            published.ELICIT["prefix"][task],
            measured.percent(PUBLISHED_ARM, task),
        )
        for task in MIXED
    ]
    return experiment_figures.beside_published(without + with_prefix)


def by_init_scale(measured: Measured) -> Drawn:
    """Draw accuracy of the published arm against the initial scale, best rate of each."""
    stds = measured.init_stds
    figure, panels = plt.subplots(
        1, len(SWEPT), figsize=(plotting.WIDTH, 3.4), sharey=True, squeeze=False
    )
    colour, places = COLOURS[PUBLISHED_ARM], np.arange(len(stds))
    seen = []
    for axes, task in zip(panels.flat, SWEPT, strict=True):
        values = np.array([measured.percent(PUBLISHED_ARM, task, std) for std in stds])
        axes.plot(places, values, "o", color=colour, markersize=4, alpha=0.6)
        means = values.mean(axis=1)  # over seeds
        halves = [claims.t_half_width(row) or 0.0 for row in values]
        low, high = np.clip(means - halves, 0, 100), np.clip(means + halves, 0, 100)
        axes.vlines(places, low, high, color=colour, linewidth=1.4)
        axes.plot(places, means, color=colour)
        listed = ", ".join(f"{mean:.1f} at {std:g}" for mean, std in zip(means, stds, strict=True))
        seen.append(f"{SHORT[task]}: {listed}.")
        axes.set_xticks(places, [f"{std:g}" for std in stds])
        axes.set(title=IN_WORDS[task], xlabel="initial scale of the prefix", ylim=(-4, 104))
        axes.margins(x=0.12)
    panels[0, 0].set_ylabel("accuracy (% of sequences)")
    alt = (
        "Accuracy in percent after training by initial scale, best learning rate of each, mean "
        "over seeds. " + " ".join(seen)
    )
    return figure, alt


def at_the_start(measured: Mapping[str, Sequence[Sequence[Start]]], sizes: float) -> Drawn:
    """Draw what untrained prefixes do at each initial scale.

    Parameters
    ----------
    measured : mapping of sequences of sequences of Start
        By arm, seed, scale.
    sizes : float
        Root mean square of the content's entries in the published arm.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 4.1))
    seen = []
    for arm, by_seed in measured.items():
        colour = COLOURS[arm]
        stds = [one.init_std for one in by_seed[0]]
        saturated = np.array([[100 * one.saturated for one in seed] for seed in by_seed])
        through_key = np.array([[one.key_gradient for one in seed] for seed in by_seed])
        through_value = np.array([[one.value_gradient for one in seed] for seed in by_seed])
        for axes, values, style in (
            (left, saturated, "o-"),
            (right, through_key, "o-"),
            (right, through_value, "o--"),
        ):
            axes.fill_between(
                stds, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0
            )
            centre = values.mean(axis=0) if axes is left else np.exp(np.log(values).mean(axis=0))
            label = arm if axes is left else None
            axes.plot(stds, centre, style, color=colour, markersize=4, label=label)
        seen.append(
            f"{arm}: {saturated.mean(axis=0)[0]:.0f} % of the rows are saturated at the smallest "
            f"scale and {saturated.mean(axis=0)[-1]:.0f} % at the largest; the gradient through "
            f"the key changes by the factor {(through_key[:, -1] / through_key[:, 0]).mean():.2g}."
        )
    for axes in (left, right):
        axes.axvline(sizes, color=MUTED, linestyle=":", linewidth=1.4)
        axes.set(xscale="log", xlabel="initial scale")
    left.annotate(
        "content",
        (sizes, 1.0),
        (4, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=MUTED,
        va="top",
        fontsize=10,
    )
    left.set(ylabel="saturated rows (%)", ylim=(-4, 104))
    right.set(yscale="log", ylabel="gradient (nats a symbol)")
    right.plot([], [], "o-", color=MUTED, markersize=4, label="through the key")
    right.plot([], [], "o--", color=MUTED, markersize=4, label="through the value")
    figure.legend(loc="outside upper center", ncols=2)
    alt = (
        "Two charts over the initial scale of an untrained prefix, logarithmic. Left: rows that "
        "give it less than 1 % or more than 99 %. Right: length of the gradient. " + " ".join(seen)
    )
    return figure, alt


def where_they_end(
    measured: Measured, ends: Mapping[str, Sequence[tuple[float, float, float]]]
) -> Drawn:
    """Draw accuracy against the share of attention that trained prefixes take.

    Parameters
    ----------
    measured : Measured
    ends : mapping of sequences of (initial scale, mean share in [0, 1], accuracy in percent)
        By task; one entry for each trained prefix.
    """
    colours = dict(zip(measured.init_stds, list(PALETTE.values()) * 2, strict=False))
    markers = dict(zip(measured.init_stds, "o^sDvP*X" * 2, strict=False))
    figure, panels = plt.subplots(
        1, len(ends), figsize=(plotting.WIDTH, 3.9), sharey=True, squeeze=False
    )
    alone = np.array(mixture_shares(measured)).mean(axis=0)
    seen = []
    for axes, (task, cells) in zip(panels.flat, ends.items(), strict=True):
        axes.axhline(alone[MIXED.index(task)], color=MUTED, linestyle="--", linewidth=1.2)
        for std in measured.init_stds:
            of_scale = [(share, percent) for scale, share, percent in cells if scale == std]
            shares, accuracies = np.array(of_scale).T
            axes.plot(
                100 * shares,
                accuracies,
                markers[std],
                color=colours[std],
                alpha=0.8,
                label=f"scale {std:g}",
            )
            seen.append(
                f"{SHORT[task]}, scale {std:g}: shares from {100 * shares.min():.0f} to "
                f"{100 * shares.max():.0f} %, accuracies from {accuracies.min():.0f} to "
                f"{accuracies.max():.0f} %."
            )
        axes.set(title=IN_WORDS[task], xlabel="share taken (%)", xlim=(-4, 104), ylim=(-4, 104))
    panels[0, 0].set_ylabel("accuracy (% of sequences)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    alt = (
        "Dots for trained prefixes: mean share of attention taken, across, and accuracy, upwards. "
        + " ".join(seen)
    )
    return figure, alt


check_public(__name__)

"""How well is a task called for, and from which start? Each figure with its alt text.

Pictures of attention are in `figures_attention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from notebooks.prefix_tuning.eliciting import results
from notebooks.prefix_tuning.eliciting.plan import ARMS, PUBLISHED_ARM, SWEPT
from notebooks.prefix_tuning.eliciting.results import IN_WORDS
from notebooks.prefix_tuning.eliciting.start import Start
from promptlib import claims, plotting
from promptlib.plotting import MUTED, PALETTE
from promptlib.prefix_tuning import drawing, published
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.trials import Trials

SHORT = {
    "sort_ascending": "ascending",
    "sort_descending": "descending",
    "add_one": "add one",
    "add_two": "add two",
}
"""Names that fit on an axis."""

COLOURS = dict(zip(ARMS, (PALETTE["blue"], PALETTE["vermilion"], PALETTE["green"]), strict=True))


def matrix(trials: Trials) -> Drawn:
    """Draw the accuracy of each task's prefix on each task, and that without a prefix."""
    without = results.without_prefix(trials)[None]
    every = np.concatenate([without, results.every_task(trials)])  # (5, 4, seeds)
    means = every.mean(axis=-1)
    texts = [
        [
            f"{np.mean(seeds):.1f}" + (f"\n± {np.std(seeds, ddof=1):.1f}" if len(seeds) > 1 else "")
            for seeds in row
        ]
        for row in every
    ]
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.4))
    mesh = plotting.labelled_cells(
        axes,
        means.tolist(),
        texts,
        rows=["no prefix", *(f"prefix: {SHORT[task]}" for task in MIXED)],
        columns=[SHORT[task] for task in MIXED],
        tops=[0.0, *(1.25 + place for place in range(len(MIXED)))],  # a gap below the model alone
    )
    axes.set_xlabel("measured on")
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, label="accuracy (% of sequences)")
    bar.outline.set_visible(False)
    alone = ", ".join(
        f"{SHORT[task]} {mean:.1f}" for task, mean in zip(MIXED, means[0], strict=True)
    )
    own = ", ".join(
        f"{SHORT[task]} {mean:.1f}" for task, mean in zip(MIXED, means[1:].diagonal(), strict=True)
    )
    others = means[1:][~np.eye(len(MIXED), dtype=bool)].max()
    alt = (
        f"Matrix of accuracies in percent, mean over seeds. First row, no prefix: {alone}. Below, "
        f"each task's prefix on its own task: {own}. The largest of the twelve numbers off the "
        f"diagonal is {others:.1f}."
    )
    return figure, alt


def beside_published(trials: Trials) -> Drawn:
    """Draw the published accuracies with ours, one dot for each seed."""
    alone, own = results.without_prefix(trials), results.own_task(trials, PUBLISHED_ARM)
    rows = [
        (f"{arrow} → {SHORT[task]}", published.ELICIT[theirs][task], ours[place].tolist())
        for arrow, theirs, ours in (("no prefix", "pretrained", alone), ("prefix", "prefix", own))
        for place, task in enumerate(MIXED)
    ]
    return drawing.beside_published(rows)


def by_init_scale(trials: Trials) -> Drawn:
    """Draw accuracy of the published arm against the initial scale, best rate of each."""
    stds = results.init_stds(trials)
    accuracies = [results.own_task(trials, PUBLISHED_ARM, std, SWEPT) for std in stds]
    figure, panels = plt.subplots(
        1, len(SWEPT), figsize=(plotting.WIDTH, 3.4), sharey=True, squeeze=False
    )
    colour, places = COLOURS[PUBLISHED_ARM], range(len(stds))
    seen = []
    for axes, task, values in zip(panels.flat, SWEPT, np.stack(accuracies, 1), strict=True):
        means = values.mean(axis=1)  # over seeds
        halves = [claims.t_half_width(row) or 0.0 for row in values]
        low, high = np.clip(means - halves, 0, 100), np.clip(means + halves, 0, 100)
        axes.vlines(places, low, high, color=colour, linewidth=1.4)
        plotting.line_and_seeds(axes, places, values.tolist(), colour)
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


def at_the_start(starts: Mapping[str, Sequence[Sequence[Start]]], content: float) -> Drawn:
    """Draw what untrained prefixes do, by arm, seed and scale; `content` is the content's scale."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 4.1))
    seen = []
    for arm, by_seed in starts.items():
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
        axes.axvline(content, color=MUTED, linestyle=":", linewidth=1.4)
        axes.set(xscale="log", xlabel="initial scale")
    left.annotate(
        "content",
        (content, 1.0),
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
    trials: Trials, ends: Mapping[str, Sequence[tuple[float, float, float]]]
) -> Drawn:
    """Draw accuracy against the share of attention that trained prefixes take.

    `ends` has, by task, initial scale, mean share in [0, 1] and accuracy in percent of each.
    """
    stds = results.init_stds(trials)
    colours = dict(zip(stds, list(PALETTE.values()) * 2, strict=False))
    markers = dict(zip(stds, "o^sDvP*X" * 2, strict=False))
    figure, panels = plt.subplots(
        1, len(ends), figsize=(plotting.WIDTH, 3.9), sharey=True, squeeze=False
    )
    alone = dict(zip(MIXED, results.without_prefix(trials).mean(axis=1), strict=True))
    seen = []
    for axes, (task, cells) in zip(panels.flat, ends.items(), strict=True):
        axes.axhline(alone[task], color=MUTED, linestyle="--", linewidth=1.2)
        for std in stds:
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

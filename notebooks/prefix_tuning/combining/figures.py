"""The figures of the chapter "Combining, not inventing?" about what training reached.

Each function returns a figure and its alt text. Figures of what models carry inside are in
`figures_inside`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from notebooks.prefix_tuning.combining.plan import COMPOSITIONS, INVENTIONS
from notebooks.prefix_tuning.combining.results import NAMES, Measured, accuracies
from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import INK, MUTED, PALETTE
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.planning import MIXED

GROUPS = {
    "in the mixture": MIXED,
    "compositions": COMPOSITIONS,
    "no chain of the four": INVENTIONS,
}
COLOURS = dict(
    zip(
        (*COMPOSITIONS, *INVENTIONS),
        ("blue", "purple", "green", "vermilion", "ochre", "grey", "purple", "blue"),
        strict=True,
    )
)
"""Of the new tasks; none twice in one list."""
HOLLOW: dict[str, Any] = {
    "markerfacecolor": "none",
    "markeredgecolor": PALETTE["green"],
    "markersize": 6,
}
"""Markers of fine-tuning."""


def all_tasks(measured: Measured) -> Drawn:
    """Draw every task: seeds and interval of the prefixes, what was published, fine-tuning."""
    rows = sum(len(tasks) for tasks in GROUPS.values())
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.3 + 0.36 * (rows + len(GROUPS))))
    place, ticks, labels, seen = 0.0, [], [], []
    for group, tasks in GROUPS.items():
        axes.text(-3, place, group, color=MUTED, fontsize=10, va="center", style="italic")
        place += 1
        for task in tasks:
            seen.append(_row(axes, place, task, measured))
            ticks.append(place)
            labels.append(NAMES[task])
            place += 1
    axes.set_yticks(ticks, labels)
    axes.set(ylim=(place - 0.3, -0.7), xlim=(-4, 104), xlabel="accuracy (% of sequences)")
    axes.plot([], [], "o-", color=PALETTE["blue"], label="prefix: seeds, mean and 95 % interval")
    axes.plot(
        [], [], "o", color=PALETTE["purple"], label="the same, published parametrisation, new task"
    )
    axes.plot([], [], "D", color=PALETTE["vermilion"], label="prefix, published")
    axes.plot([], [], "s", **HOLLOW, label="fine-tuned, as many steps")
    figure.legend(loc="outside upper left", ncols=1, labelcolor=INK, fontsize=10)
    return figure, "Accuracies with a prefix for each task. " + "; ".join(seen) + "."


def _row(axes: Axes, place: float, task: str, measured: Measured) -> str:
    known = task in MIXED
    mean = _dots_and_interval(
        axes, accuracies(measured.published if known else measured.prefixes, task), place
    )
    said = f"{NAMES[task]} {mean:.1f} %"
    if task in measured.published and not known:
        shared = accuracies(measured.published, task)
        axes.plot(shared, [place - 0.27] * len(shared), "o", color=PALETTE["purple"], markersize=4)
        said += f", in the published parametrisation {np.mean(shared):.1f}"
    theirs = published.COMBINE["prefix"].get(task)
    if theirs is not None:
        axes.plot([theirs], [place - 0.27], "D", color=PALETTE["vermilion"], markersize=6)
        said += f", published {theirs:.1f}"
    if task in measured.finetuned:
        tuned = accuracies(measured.finetuned, task)
        axes.plot(tuned, [place + 0.27] * len(tuned), "s", **HOLLOW)
        said += f", fine-tuned {np.mean(tuned):.1f}"
    return said


def _dots_and_interval(axes: Axes, values: Sequence[float], place: float) -> float:
    axes.plot(values, [place] * len(values), "o", color=PALETTE["blue"], alpha=0.6, markersize=5)
    mean, half = float(np.mean(values)), claims.t_half_width(values)
    if half:
        ends = max(mean - half, 0.0), min(mean + half, 100.0)
        axes.hlines(place, *ends, color=PALETTE["blue"], linewidth=1.6)
    axes.plot([mean], [place], "|", color=PALETTE["blue"], markersize=11)
    return mean


def learning_curves(measured: Measured) -> Drawn:
    """Draw the training loss of the prefixes, as a part of the loss without attention."""
    figure, panels = plt.subplots(
        2, 1, figsize=(plotting.WIDTH, 6.2), sharex=True, sharey=True, height_ratios=(1, 1.25)
    )
    seen = []
    for axes, title in zip(panels, list(GROUPS)[1:], strict=True):
        ends = {}
        for task in GROUPS[title]:
            cells = measured.prefixes[task]
            steps = cells[0].run.config["steps"]
            curves = (
                np.array([cell.metrics["curve"] for cell in cells]) / measured.standing_loss[task]
            )
            at = (np.arange(curves.shape[1]) + 0.5) * steps / curves.shape[1]
            colour = PALETTE[COLOURS[task]]
            axes.plot(at, np.exp(np.log(curves).mean(axis=0)), color=colour)
            axes.fill_between(
                at, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.18, linewidth=0
            )
            ends[task] = float(np.exp(np.log(curves[:, -5:]).mean()))
            seen.append(f"{NAMES[task]} {ends[task]:.2g}")
        for task, height in zip(ends, _apart(list(ends.values()), 2.1), strict=True):
            axes.annotate(
                NAMES[task],
                (steps * 1.02, height),
                color=PALETTE[COLOURS[task]],
                va="center",
                fontsize=10,
            )
        axes.hlines(1.0, 0, steps, color=MUTED, linestyle="--", linewidth=1.2)
        axes.set(yscale="log", xlim=(0, 1.42 * steps), ylim=(1e-3, 20))
        axes.set_title(title, loc="left")
        axes.set_xticks(np.linspace(0, steps, 5))
    panels[-1].set_xlabel("training step")
    figure.supylabel("training loss / loss without attention", fontsize=12)
    alt = (
        "Training loss of the prefixes over steps, as a part of the loss that a model without "
        "attention would have, logarithmic. At the end: " + ", ".join(seen) + "."
    )
    return figure, alt


def _apart(values: Sequence[float], ratio: float) -> list[float]:
    """Move positive values apart until each is at least `ratio` times the one below it."""
    logs = np.log(np.maximum(values, 1.3e-3))
    order = np.argsort(logs)
    gap = np.log(ratio)
    for _ in range(200):
        for low, high in itertools.pairwise(order):
            missing = gap - (logs[high] - logs[low])
            if missing > 1e-6:
                logs[low], logs[high] = logs[low] - missing / 2, logs[high] + missing / 2
    return [float(value) for value in np.exp(logs)]


check_public(__name__)

"""Which tasks does a prefix reach, and what was there before? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from torch import Tensor

from notebooks.prefix_tuning.combining.inside import Evidence
from notebooks.prefix_tuning.combining.plan import COMPOSITIONS, INVENTIONS, NEW
from notebooks.prefix_tuning.combining.results import (
    NAMES,
    correlations,
    prefix_gains,
    probe_gains,
)
from notebooks.prefix_tuning.combining.yardsticks import standing_loss
from promptlib import plotting
from promptlib.plotting import INK, MUTED, PALETTE, PAPER
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.movement import relative_rows
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH, read_and_answer
from promptlib.prefix_tuning.trials import Trials

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
BRIGHTEST = 0.6
"""Relative attention from which on the maps show no difference."""
CROWD = 0.4
"""Gain of a probe below which tasks lie so close that their names need lines."""


def all_tasks(trials: Trials) -> Drawn:
    """Draw every task: seeds and interval of the prefixes, what was published, fine-tuning."""
    rows = sum(len(tasks) for tasks in GROUPS.values())
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.3 + 0.36 * (rows + len(GROUPS))))
    place, ticks, labels, seen = 0.0, [], [], []
    for group, tasks in GROUPS.items():
        axes.text(-3, place, group, color=MUTED, fontsize=10, va="center", style="italic")
        place += 1
        for task in tasks:
            seen.append(_row(axes, place, task, trials))
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


def _row(axes: Axes, place: float, task: str, trials: Trials) -> str:
    found = {
        method: of_method.best().percent()
        for method, of_method in trials.where(task=task).by("method").items()
    }
    shared = found.get("published prefix", [])
    drawn = found.get("free prefix", shared)
    colour, mean = PALETTE["blue"], float(np.mean(drawn))
    plotting.seeds_and_interval(axes, drawn, place, colour, limits=(0.0, 100.0))
    axes.plot([mean], [place], "|", color=colour, markersize=11)
    said = f"{NAMES[task]} {mean:.1f} %"
    if shared and drawn is not shared:
        axes.plot(shared, [place - 0.27] * len(shared), "o", color=PALETTE["purple"], markersize=4)
        said += f", in the published parametrisation {np.mean(shared):.1f}"
    if task in published.COMBINE["prefix"]:
        theirs = published.COMBINE["prefix"][task]
        axes.plot([theirs], [place - 0.27], "D", color=PALETTE["vermilion"], markersize=6)
        said += f", published {theirs:.1f}"
    if "fine-tuned" in found:
        tuned = found["fine-tuned"]
        axes.plot(tuned, [place + 0.27] * len(tuned), "s", **HOLLOW)
        said += f", fine-tuned {np.mean(tuned):.1f}"
    return said


def learning_curves(trials: Trials) -> Drawn:
    """Draw the training loss of the prefixes, as a part of the loss without attention."""
    figure, panels = plt.subplots(
        2, 1, figsize=(plotting.WIDTH, 6.2), sharex=True, sharey=True, height_ratios=(1, 1.25)
    )
    seen = []
    for axes, title in zip(panels, list(GROUPS)[1:], strict=True):
        ends = {}
        for task in GROUPS[title]:
            best = trials.where(method="free prefix", task=task).best()
            steps = best[0].run.config["steps"]
            curves = np.array([one.metrics["curve"] for one in best]) / standing_loss(task)
            at = (np.arange(curves.shape[1]) + 0.5) * steps / curves.shape[1]
            colour = PALETTE[COLOURS[task]]
            axes.plot(at, np.exp(np.log(curves).mean(axis=0)), color=colour)
            axes.fill_between(
                at, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.18, linewidth=0
            )
            ends[task] = float(np.exp(np.log(curves[:, -5:]).mean()))
            seen.append(f"{NAMES[task]} {ends[task]:.2g}")
        logs = [float(np.log(max(end, 1.3e-3))) for end in ends.values()]
        for task, height in zip(ends, plotting.spread_apart(logs, np.log(2.1)), strict=True):
            axes.annotate(
                NAMES[task],
                (steps * 1.02, np.exp(height)),
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


def known_maps(evidence: Evidence) -> Drawn:
    """Draw which input digits can be read at which output, before and after attention."""
    known = torch.stack(list(evidence.known)).mean(dim=0)  # (L + 1, 10, 10)
    last = len(known) - 1
    levels = list(dict.fromkeys([0, 1, last]))
    titles = {0: "before any block", 1: "after the first", last: "after the last"}
    figure, panels = plt.subplots(
        1, len(levels), figsize=(plotting.WIDTH, 3.1), sharey=True, squeeze=False
    )
    seen = []
    diagonal = torch.eye(SEQUENCE_LENGTH, dtype=torch.bool)
    for axes, level in zip(panels[0], levels, strict=True):
        share = 100 * known[level]
        mesh = _map(axes, share, 100.0)
        _outputs_by_inputs(axes)
        axes.set_title(titles[level], fontsize=11)
        seen.append(
            f"{titles[level]}: own digit {share[diagonal].mean():.0f} %, "
            f"others {share[~diagonal].mean():.0f} % on average"
        )
    panels[0, 0].set_ylabel("output")
    figure.supxlabel("input digit", fontsize=12)
    bar = figure.colorbar(mesh, ax=panels, shrink=0.8, label="read (% of sequences)")
    bar.outline.set_visible(False)
    alt = (
        "Heat maps: share of test sequences in which a linear probe at an output, top to bottom, "
        "reads an input digit, left to right. " + "; ".join(seen) + "."
    )
    return figure, alt


def _map(axes: Axes, values: Tensor, brightest: float, rasterized: bool = False) -> QuadMesh:
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return axes.pcolormesh(
        values.numpy(), cmap=plotting.SEQUENTIAL, vmin=0.0, vmax=brightest, rasterized=rasterized
    )


def _outputs_by_inputs(axes: Axes) -> None:
    axes.set(ylim=(SEQUENCE_LENGTH, 0), xlim=(0, SEQUENCE_LENGTH))
    axes.set_xticks([0.5, 9.5], ["1", "10"])
    axes.set_yticks([0.5, 9.5], ["1", "10"])


def probes_and_prefixes(evidence: Evidence) -> Drawn:
    """Draw the gain of the best probe against that of the best prefix, a dot for each seed."""
    probes, prefixes = probe_gains(evidence), prefix_gains(evidence.trials)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.6))
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.axline((0, 0), slope=1, color=MUTED, linestyle="--", linewidth=1)
    styles = {
        "composition": (COMPOSITIONS, "o", PALETTE["blue"]),
        "no chain of the four": (INVENTIONS, "s", PALETTE["vermilion"]),
    }
    points: list[tuple[str, float, float, str]] = []  # task, mean of each gain, colour
    for label, (tasks, marker, colour) in styles.items():
        for task in tasks:
            axes.plot(
                probes[task],
                prefixes[task],
                marker,
                color=colour,
                alpha=0.75,
                markeredgecolor=PAPER,
                markersize=7,
            )
            points.append(
                (task, float(np.mean(probes[task])), float(np.mean(prefixes[task])), colour)
            )
        axes.plot([], [], marker, color=colour, label=label)
    low = min(-0.35, *(min(*probes[task], *prefixes[task]) - 0.08 for task in NEW))
    heights = plotting.spread_apart([y for _, _, y, _ in points], 0.085, low + 0.05, 1.1)
    crowd = [task for task, x, _, _ in points if x < CROWD]
    column = max((max(probes[task]) for task in crowd), default=0.0) + 0.06
    for (task, x, y, colour), height in zip(points, heights, strict=True):
        if task in crowd:
            axes.plot([x, column], [y, height], color=colour, linewidth=0.7, alpha=0.6)
        axes.annotate(
            NAMES[task],
            (column + 0.01 if task in crowd else min(probes[task]) - 0.03, height),
            color=colour,
            fontsize=9.5,
            va="center",
            ha="left" if task in crowd else "right",
        )
    axes.set(
        xlim=(low, 1.08),
        ylim=(low, 1.14),
        xlabel="gain of a probe, before training (1 = answer known)",
        ylabel="gain of the prefix, after training",
    )
    axes.legend(loc="lower right", fontsize=10)
    alt = (
        "Scatter plot of new tasks: gain of the best linear probe of the pretrained model, across, "
        "against gain of the best prefix, upwards. Means: "
        + "; ".join(f"{NAMES[task]} {x:.2f} and {y:.2f}" for task, x, y, _ in points)
        + f". Mean rank correlation over seeds {np.mean(correlations(evidence)):.2f}."
    )
    return figure, alt


def right_by_place(evidence: Evidence) -> Drawn:
    """Draw the share of right symbols at each place: without attention, with prefix, fine-tuned.

    Tasks that nothing was fine-tuned for are left blank there.
    """
    tables = {
        "without attention": evidence.standing_right,
        "with a prefix": {task: one.mean(dim=0) for task, one in evidence.right["prefix"].items()},
        "fine-tuned": {task: one.mean(dim=0) for task, one in evidence.right["fine-tuned"].items()},
    }
    figure, panels = plt.subplots(1, 3, figsize=(plotting.WIDTH, 3.9), sharey=True)
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        blank = torch.full((SEQUENCE_LENGTH,), torch.nan, dtype=torch.float64)
        shares = 100 * torch.stack([table.get(task, blank) for task in NEW])
        mesh = _map(axes, shares, 100.0)
        axes.set_title(title, fontsize=10.5)
        axes.set_xticks([0.5, 9.5], ["1", "10"])
        axes.set_yticks(np.arange(len(NEW)) + 0.5, [NAMES[task] for task in NEW], fontsize=9.5)
        axes.set_ylim(len(NEW), 0)
        axes.axhline(len(COMPOSITIONS), color=PAPER, linewidth=2)
    panels[1].set_xlabel("output")
    bar = figure.colorbar(
        mesh, ax=panels, orientation="horizontal", shrink=0.6, label="right symbols (%)"
    )
    bar.outline.set_visible(False)
    prefix, none = tables["with a prefix"], tables["without attention"]
    seen = [
        f"{NAMES[task]}: first output {100 * float(prefix[task][0]):.0f} %, last "
        f"{100 * float(prefix[task][-1]):.0f} %, mean {100 * float(prefix[task].mean()):.0f} % "
        f"(without attention {100 * float(none[task].mean()):.0f} %)"
        for task in NEW
    ]
    alt = "Heat maps of right symbols by task and output. With a prefix: " + "; ".join(seen) + "."
    return figure, alt


def attention_by_place(
    models: Mapping[str, tuple[GPT, Prefix | None, Tensor, Tensor]],
) -> Drawn:
    """Draw relative attention of the ten outputs to the ten inputs, mean over heads and inputs.

    By title: model, prefix or None, inputs and the answers that are read.
    """
    rows = {
        title: relative_rows(model, read_and_answer(inputs, answers), prefix)[0].mean(dim=(1, 2))
        for title, (model, prefix, inputs, answers) in models.items()
    }
    layers = len(next(iter(rows.values())))
    figure, panels = plt.subplots(
        layers,
        len(rows),
        figsize=(plotting.WIDTH, 1.1 + 1.75 * layers),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    seen = []
    for column, (title, by_layer) in enumerate(rows.items()):
        own = []
        for layer, attention in enumerate(by_layer):
            seen_inputs = attention[-SEQUENCE_LENGTH:, :SEQUENCE_LENGTH]
            mesh = _map(panels[layer, column], seen_inputs, BRIGHTEST, rasterized=True)
            _outputs_by_inputs(panels[layer, column])
            own.append(f"{100 * float(seen_inputs.diagonal().mean()):.0f} %")
        panels[0, column].set_title(title, fontsize=10)
        seen.append(f"{title}: {', '.join(own)} on the input of the same place")
    for layer in range(layers):
        panels[layer, 0].set_ylabel(f"layer {layer + 1}\noutput", fontsize=11)
    figure.supxlabel("input", fontsize=12)
    bar = figure.colorbar(mesh, ax=panels, shrink=0.6, extend="max", label="relative attention")
    bar.outline.set_visible(False)
    alt = (
        "Heat maps of relative attention from ten outputs to ten inputs, layers from above. By "
        "layer, " + "; ".join(seen) + "."
    )
    return figure, alt

"""The figures of the chapter "Combining, not inventing?" about what models carry inside.

Each function returns a figure and its alt text.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from notebooks.prefix_tuning.combining.claims import correlations, probe_gains
from notebooks.prefix_tuning.combining.inside import Evidence
from notebooks.prefix_tuning.combining.plan import COMPOSITIONS, INVENTIONS, NEW
from notebooks.prefix_tuning.combining.results import NAMES, Measured, prefix_gains
from promptlib import plotting
from promptlib.checks import check_public
from promptlib.plotting import MUTED, PALETTE, PAPER
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.movement import relative_rows
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH, read_and_answer

BRIGHTEST = 0.6
"""Relative attention from which on the maps show no difference."""
CROWD = 0.4
"""Gain of a probe below which tasks lie so close that their names need lines."""


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
        mesh = axes.pcolormesh(share.numpy(), cmap=plotting.SEQUENTIAL, vmin=0, vmax=100)
        _squares(axes)
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


def _squares(axes: Axes) -> None:
    axes.set(ylim=(SEQUENCE_LENGTH, 0), xlim=(0, SEQUENCE_LENGTH))
    axes.set_xticks([0.5, 9.5], ["1", "10"])
    axes.set_yticks([0.5, 9.5], ["1", "10"])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def probes_and_prefixes(measured: Measured, evidence: Evidence) -> Drawn:
    """Draw the gain of the best probe against that of the best prefix, a dot for each seed."""
    probes, prefixes = probe_gains(measured, evidence), prefix_gains(measured)
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
    heights = _spread([y for _, _, y, _ in points], 0.085, low + 0.05, 1.1)
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
    values = correlations(probes, prefixes)
    alt = (
        "Scatter plot of new tasks: gain of the best linear probe of the pretrained model, across, "
        "against gain of the best prefix, upwards. Means: "
        + "; ".join(f"{NAMES[task]} {x:.2f} and {y:.2f}" for task, x, y, _ in points)
        + f". Mean rank correlation over seeds {np.mean(values):.2f}."
    )
    return figure, alt


def _spread(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move heights apart until neighbours differ by `gap`; stay within the limits if possible."""
    heights = np.array(values, dtype=float)
    for _ in range(300):
        order = np.argsort(heights)
        for below, above in itertools.pairwise(order):
            missing = gap - (heights[above] - heights[below])
            if missing > 1e-9:
                heights[below] -= missing / 2
                heights[above] += missing / 2
        heights = np.clip(heights, low, high)
    return [float(height) for height in heights]


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
        mesh = axes.pcolormesh(shares.numpy(), cmap=plotting.SEQUENTIAL, vmin=0, vmax=100)
        axes.set_title(title, fontsize=10.5)
        axes.set_xticks([0.5, 9.5], ["1", "10"])
        axes.set_yticks(np.arange(len(NEW)) + 0.5, [NAMES[task] for task in NEW], fontsize=9.5)
        axes.set_ylim(len(NEW), 0)
        axes.axhline(len(COMPOSITIONS), color=PAPER, linewidth=2)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
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

    Parameters
    ----------
    models : mapping
        Title to model, prefix or None, inputs and the answers that are read.
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
    scale: dict[str, Any] = {"cmap": plotting.SEQUENTIAL, "vmin": 0.0, "vmax": BRIGHTEST}
    seen = []
    for column, (title, by_layer) in enumerate(rows.items()):
        own = []
        for layer, attention in enumerate(by_layer):
            seen_inputs = attention[-SEQUENCE_LENGTH:, :SEQUENCE_LENGTH]
            mesh = panels[layer, column].pcolormesh(seen_inputs.numpy(), rasterized=True, **scale)
            _squares(panels[layer, column])
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


check_public(__name__)

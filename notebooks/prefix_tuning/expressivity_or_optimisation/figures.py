"""The figures of the chapter "Expressivity or optimisation?". Each returns figure and alt text."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from notebooks.prefix_tuning.expressivity_or_optimisation.plan import DRAWN
from notebooks.prefix_tuning.expressivity_or_optimisation.results import (
    Measured,
    Question,
    best_by_seed,
    best_trials,
    by_setting,
    closed,
)
from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import GRID, INK, MUTED, PALETTE
from promptlib.prefix_tuning.drawing import Drawn

COLOURS = {"prefix": "vermilion", "LoRA": "blue", "fine-tuning": "green"}
MARKERS = {"LoRA": "s", "fine-tuning": "^"}
"""Of the methods that train weights."""


def reach(measured: Measured, questions: Sequence[Question]) -> Drawn:
    """Accuracy of every setting of every prefix sweep, a row a question, with the best of weights.

    Bars go from the worst setting to the best, dots are the best prefix of each seed.

    Parameters
    ----------
    questions : sequence of Question
        At least one, each with a trial of a prefix.
    """
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.2 + 0.34 * len(questions)))
    told = []
    for place, question in enumerate(questions):
        trials = measured.of(question)
        settings = list(by_setting(trials).values())
        axes.hlines(place, min(settings), max(settings), color=GRID, linewidth=7, zorder=1)
        axes.plot(settings, [place] * len(settings), "|", color=MUTED, markersize=8, zorder=2)
        best = list(best_by_seed(trials).values())
        axes.plot(best, [place] * len(best), "o", color=PALETTE["vermilion"], alpha=0.75, zorder=4)
        half = claims.t_half_width(best)
        mean = float(np.mean(best))
        if half:
            low, high = max(mean - half, 0), min(mean + half, 100)
            axes.hlines(place, low, high, color=PALETTE["vermilion"], linewidth=1.5, zorder=3)
        said = f"{question.label}: {min(settings):.0f} to {max(settings):.0f} %"
        for method, marker in MARKERS.items():
            weights = measured.of(question, method)
            if weights:
                value = float(np.mean(list(best_by_seed(weights).values())))
                axes.plot(
                    [value],
                    [place],
                    marker,
                    color=PALETTE[COLOURS[method]],
                    markersize=8,
                    fillstyle="none",
                    markeredgewidth=1.8,
                    zorder=5,
                )
                said += f", {method} {value:.0f} %"
        told.append(said)
    axes.set_yticks(range(len(questions)), [question.label for question in questions], fontsize=9)
    axes.set(ylim=(len(questions) - 0.4, -0.6), xlim=(-3, 103))
    axes.set_xlabel("accuracy (% of sequences)")
    axes.plot([], [], "|", color=MUTED, label="a setting, mean of seeds")
    axes.plot([], [], "o", color=PALETTE["vermilion"], label="best prefix of a seed")
    for method, marker in MARKERS.items():
        axes.plot(
            [],
            [],
            marker,
            color=PALETTE[COLOURS[method]],
            fillstyle="none",
            markeredgewidth=1.8,
            label=f"best {method}",
        )
    figure.legend(loc="outside upper center", ncols=2, labelcolor=INK)
    alt = (
        "Accuracy of prefixes by task, from the worst setting of the sweep to the best, and what "
        "training weights reaches. " + "; ".join(told) + "."
    )
    return figure, alt


def planted(measured: Measured, steps: int) -> Drawn:
    """Divergence of the best students from their teachers, step by step, a panel a teacher."""
    figure, panels = plt.subplots(
        1,
        len(measured.planted),
        figsize=(plotting.WIDTH, 3.6),
        sharey=True,
        squeeze=False,
    )
    told = []
    for axes, (teacher, found) in zip(panels.flat, measured.planted.items(), strict=True):
        title = "drawn at random" if teacher == DRAWN else f"trained: {teacher.replace('_', ' ')}"
        for curve, without in zip(found.curves, found.without, strict=True):
            at = (np.arange(len(curve)) + 0.5) * steps / len(curve)
            axes.plot(at, curve, color=PALETTE["blue"], linewidth=1.6)
            axes.axhline(without, color=MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            "no prefix",
            (steps, max(found.without)),
            (0, 4),
            textcoords="offset points",
            ha="right",
            color=MUTED,
        )
        axes.set(yscale="log", xlabel="training step", title=title)
        shares = ", ".join(f"{share:.1f} %" for share in closed(found))
        alike = ", ".join(f"{share:.0f} %" for share in found.agreement)
        told.append(f"{title}: {shares} of the divergence gone, {alike} answered alike.")
    panels[0, 0].set_ylabel("divergence (nats a symbol)")
    alt = (
        f"Divergence of students from a planted prefix over {steps} steps, logarithmic, one line a "
        "seed, and what it is without a prefix. " + " ".join(told)
    )
    return figure, alt


def answers(measured: Measured, questions: Sequence[Question]) -> list[tuple[str, str, str, str]]:
    """One row a question for a printed table: task, worst setting, best setting, best trial."""
    rows = []
    for question in questions:
        trials = measured.of(question)
        settings = by_setting(trials)
        one = best_trials(trials)[0]
        std = "" if one.init_std is None else f", init {one.init_std:g}"
        rows.append(
            (
                question.label,
                f"{min(settings.values()):.1f}",
                f"{max(settings.values()):.1f}",
                f"rate {one.learning_rate:g}{std}, length {one.length}, {one.parametrisation}",
            )
        )
    return rows


check_public(__name__)

"""Who does which task, and are planted prefixes found? Each figure with its alt text."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from notebooks.prefix_tuning.expressivity_or_optimisation.plan import DRAWN
from notebooks.prefix_tuning.expressivity_or_optimisation.results import (
    agreement,
    best_students,
    by_setting,
    closed,
    parametrisation,
    questions,
)
from promptlib import plotting
from promptlib.plotting import GRID, INK, MUTED, PALETTE
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.trials import Trials

COLOURS = {"prefix": "vermilion", "LoRA": "blue", "fine-tuning": "green"}
MARKERS = {"LoRA": "s", "fine-tuning": "^"}
"""Of the methods that train weights."""


def reach(trials: Trials) -> Drawn:
    """Draw the accuracy of every prefix sweep, a row a question, with the best of weights.

    Bars go from the worst setting to the best, dots are the best prefix of each seed.
    """
    rows = questions(trials)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.2 + 0.34 * len(rows)))
    told = []
    for place, question in enumerate(rows):
        prefixes = trials.where(method="prefix", question=question)
        settings = list(by_setting(prefixes).values())
        axes.hlines(place, min(settings), max(settings), color=GRID, linewidth=7, zorder=1)
        axes.plot(settings, [place] * len(settings), "|", color=MUTED, markersize=8, zorder=2)
        best = prefixes.best().percent()
        plotting.seeds_and_interval(axes, best, place, PALETTE["vermilion"], (0.0, 100.0))
        said = f"{question.label}: {min(settings):.0f} to {max(settings):.0f} %"
        for method in MARKERS:
            weights = trials.where(method=method, question=question)
            if weights:
                value = float(np.mean(weights.best().percent()))
                axes.plot([value], [place], **_weights(method), markersize=8, zorder=5)
                said += f", {method} {value:.0f} %"
        told.append(said)
    axes.set_yticks(range(len(rows)), [question.label for question in rows], fontsize=9)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-3, 103))
    axes.set_xlabel("accuracy (% of sequences)")
    axes.plot([], [], "|", color=MUTED, label="a setting, mean of seeds")
    axes.plot([], [], "o", color=PALETTE["vermilion"], label="best prefix of a seed")
    for method in MARKERS:
        axes.plot([], [], **_weights(method), label=f"best {method}")
    figure.legend(loc="outside upper center", ncols=2, labelcolor=INK)
    alt = (
        "Accuracy of prefixes by task, from the worst setting of the sweep to the best, and what "
        "training weights reaches. " + "; ".join(told) + "."
    )
    return figure, alt


def _weights(method: str) -> dict[str, Any]:
    """The marker of a method that trains weights."""
    return {
        "marker": MARKERS[method],
        "linestyle": "none",
        "color": PALETTE[COLOURS[method]],
        "fillstyle": "none",
        "markeredgewidth": 1.8,
    }


def planted(trials: Trials, steps: int) -> Drawn:
    """Draw how the best students come near their teachers, step by step, a panel a teacher."""
    teachers = list(trials.where(method="student").by("teacher"))
    figure, panels = plt.subplots(
        1, len(teachers), figsize=(plotting.WIDTH, 3.6), sharey=True, squeeze=False
    )
    told = []
    for axes, teacher in zip(panels.flat, teachers, strict=True):
        title = "drawn at random" if teacher == DRAWN else f"trained: {teacher.replace('_', ' ')}"
        for student in best_students(trials, teacher):
            curve = student.metrics["curve"]
            at = (np.arange(len(curve)) + 0.5) * steps / len(curve)
            axes.plot(at, curve, color=PALETTE["blue"], linewidth=1.6)
        no_prefix = trials.where(method="no prefix", teacher=teacher)
        without = [one.metrics["divergence"] for one in no_prefix]
        for level in without:
            axes.axhline(level, color=MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            "no prefix",
            (steps, max(without)),
            (0, 4),
            textcoords="offset points",
            ha="right",
            color=MUTED,
        )
        axes.set(yscale="log", xlabel="training step", title=title)
        shares = ", ".join(f"{share:.1f} %" for share in closed(trials, teacher))
        alike = ", ".join(f"{share:.0f} %" for share in agreement(trials, teacher))
        told.append(f"{title}: {shares} of the divergence gone, {alike} answered alike.")
    panels[0, 0].set_ylabel("divergence (nats a symbol)")
    alt = (
        f"Divergence of students from a planted prefix over {steps} steps, logarithmic, one line a "
        "seed, and what it is without a prefix. " + " ".join(told)
    )
    return figure, alt


def answers(trials: Trials) -> str:
    """Say how well prefixes do, a line a question: worst setting, best setting, best trial."""
    lines = [f"{'task (base model)':58}{'worst':>7}{'best':>7}  the best of the first seed"]
    for question, prefixes in trials.where(method="prefix").by("question").items():
        settings = by_setting(prefixes).values()
        one = prefixes.best()[0]
        lines.append(
            f"{question.label:58}{min(settings):7.1f}{max(settings):7.1f}  "
            f"rate {one.learning_rate:g}, init {one.init_std:g}, length "
            f"{one.run.config['length']}, {parametrisation(one)}"
        )
    return "\n".join(lines)

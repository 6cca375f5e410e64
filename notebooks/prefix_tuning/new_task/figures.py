"""The figures of the chapter "A new task". Each function returns a figure and its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from notebooks.prefix_tuning.new_task.results import ASCENDING, DESCENDING, Measured
from promptlib import plotting
from promptlib.checks import check_public
from promptlib.plotting import MUTED, PALETTE, PAPER
from promptlib.prefix_tuning import drawing as experiment_figures
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.drawing import Drawn, inputs_by_size, output_attention, peak_rank
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import percent
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH, SORT_DESCENDING, read_and_answer

BRIGHTEST = 0.4
"""Attention from which on the maps show no difference."""


def attention_maps(
    models: Mapping[str, tuple[GPT, Prefix | None]], inputs: Tensor, example: int = 0
) -> Drawn:
    """Draw the attention of several models on the same inputs: one example, and the mean.

    Parameters
    ----------
    models : mapping
        Title to model and prefix.
    inputs : Tensor, ``(B, 10)``
        Answered in descending order.
    example : int
        Row of `inputs` for the upper panels.
    """
    tokens = read_and_answer(inputs, SORT_DESCENDING.solve(inputs))
    figure, axes = plt.subplots(
        2, len(models), figsize=(plotting.WIDTH, 5.4), sharex="row", sharey=True, squeeze=False
    )
    seen = []
    for column, (title, (model, prefix)) in enumerate(models.items()):
        attention = inputs_by_size(output_attention(model, tokens, prefix), inputs)
        mean = attention.mean(dim=0)
        order = inputs[example].argsort(stable=True)
        digits = [str(int(digit)) for digit in inputs[example][order]]
        for row, rows in enumerate((attention[example], mean)):
            mesh = _draw_map(axes[row, column], rows)
        axes[0, column].set_title(title, pad=14)  # above the name of the prefix column
        axes[0, column].set_xticks(np.arange(10) + 0.5, digits, fontsize=8)
        axes[1, column].set_xticks([5, 14.5], ["inputs\nby size", "outputs\nread"], fontsize=9)
        where = f"first output looks most at input {peak_rank(mean)} of 10 by size"
        if prefix is not None:
            taken = float(mean[:, : prefix.length].sum(dim=-1).mean())
            where += f", and the prefix takes {100 * taken:.0f} % of the attention on average"
        seen.append(f"{title}: {where}.")
    for row, name in enumerate(("one input", f"mean of {len(inputs)} inputs")):
        axes[row, 0].set_ylabel(f"{name}\noutput")
    bar = figure.colorbar(
        mesh, ax=axes, shrink=0.6, extend="max", label="attention (share of a row)"
    )
    bar.outline.set_visible(False)
    alt = (
        "Heat maps of attention from ten outputs, top to bottom, to ten inputs sorted by size and "
        "nine outputs read back; a separate column on the left is the prefix. " + " ".join(seen)
    )
    return figure, alt


def _draw_map(axes: Axes, rows: Tensor) -> Any:
    """Draw one map; a prefix stands apart, left of the content."""
    p = rows.shape[-1] - 2 * SEQUENCE_LENGTH + 1
    scale: dict[str, Any] = {"cmap": plotting.SEQUENTIAL, "vmin": 0.0, "vmax": BRIGHTEST}
    y = np.arange(SEQUENCE_LENGTH + 1)
    cells = rows[:, p:].numpy()
    mesh = axes.pcolormesh(np.arange(20), y, cells, rasterized=True, **scale)
    if p:
        axes.pcolormesh(np.arange(p + 1) - p - 1.0, y, rows[:, :p].numpy(), **scale)
        axes.text(-1 - p / 2, -0.3, "prefix", ha="center", va="bottom", fontsize=8)
    axes.axvline(SEQUENCE_LENGTH, color=PAPER, linewidth=1.5)
    axes.set(xlim=(-2.6, 19), ylim=(SEQUENCE_LENGTH, 0))
    axes.set_yticks([0.5, 9.5], ["1", "10"])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return mesh


def learning_curves(measured: Measured, adapt_steps: int, blind: float) -> Drawn:
    """Draw the training loss of each way to adapt the model, all seeds."""
    ways: dict[str, tuple[list[Sequence[float]], str]] = {
        "prefix, shared": (
            [cell.metrics["curve"] for cell in measured.best_prefixes("shared")],
            PALETTE["vermilion"],
        ),
        "prefix, free": (
            [cell.metrics["curve"] for cell in measured.best_prefixes("free")],
            PALETTE["ochre"],
        ),
        "all but attention": (
            [entry["curve"] for entry in measured.besides_attention],
            PALETTE["blue"],
        ),
        "all weights": ([entry["curve"] for entry in measured.best_finetuned], PALETTE["green"]),
    }
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    ends = []
    for name, (curves, colour) in ways.items():
        values = np.array(curves)
        steps = (np.arange(values.shape[1]) + 0.5) * adapt_steps / values.shape[1]
        mean = np.exp(np.log(values).mean(axis=0))
        axes.fill_between(
            steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.25, linewidth=0
        )
        axes.plot(steps, mean, color=colour)
        axes.annotate(
            name,
            (steps[-1], mean[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )
        ends.append(f"{name} {mean[-1]:.3g}")
    axes.hlines(blind, 0, adapt_steps, color=MUTED, linestyle="--", linewidth=1.2)
    axes.annotate(
        "never looks at the input",
        (adapt_steps, blind),
        xytext=(6, 0),
        textcoords="offset points",
        color=MUTED,
        va="center",
    )
    axes.set(
        yscale="log",
        xlim=(0, 1.6 * adapt_steps),
        xlabel="training step",
        ylabel="training loss (nats a symbol)",
    )
    axes.set_xticks(np.linspace(0, adapt_steps, 6))
    alt = (
        f"Training loss over {adapt_steps} steps, logarithmic. At the end, in nats a symbol: "
        f"{'; '.join(ends)}. A predictor that never looks at the input would have {blind:.3g}."
    )
    return figure, alt


def beside_published(measured: Measured) -> Drawn:
    """Draw the six published accuracies with ours, one dot for each seed."""
    shared = [cell.metrics for cell in measured.best_prefixes("shared")]
    rows = [
        (f"{name} → {task}", published.NEW_TASK[f"{key}_{task}"], percent(metrics, full))
        for name, key, metrics in (
            ("pretrained", "pretrained", measured.pretrained),
            ("fine-tuned", "finetuned", measured.best_finetuned),
            ("prefix", "prefix", shared),
        )
        for task, full in (("ascending", ASCENDING), ("descending", DESCENDING))
    ]
    return experiment_figures.beside_published(rows)


check_public(__name__)

"""How far does each way to adapt the sorter get? Each figure with its alt text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from notebooks.prefix_tuning.new_task.plan import ASCENDING, DESCENDING
from promptlib import plotting
from promptlib.plotting import INK, MUTED, PALETTE, PAPER
from promptlib.prefix_tuning import drawing, published
from promptlib.prefix_tuning.drawing import Drawn, inputs_by_size
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH, SORT_DESCENDING, read_and_answer
from promptlib.prefix_tuning.trials import Trials

BRIGHTEST = 0.4
"""Attention from which on the maps show no difference."""


def attention_maps(
    models: Mapping[str, tuple[GPT, Prefix | None]], inputs: Tensor, example: int = 0
) -> Drawn:
    """Draw the attention while `inputs` are answered downwards: one of them, and the mean."""
    tokens = read_and_answer(inputs, SORT_DESCENDING.solve(inputs))
    figure, axes = plt.subplots(
        2, len(models), figsize=(plotting.WIDTH, 5.4), sharex="row", sharey=True, squeeze=False
    )
    seen = []
    for column, (title, (model, prefix)) in enumerate(models.items()):
        attention = inputs_by_size(_output_attention(model, tokens, prefix), inputs)
        mean = attention.mean(dim=0)
        order = inputs[example].argsort(stable=True)
        digits = [str(int(digit)) for digit in inputs[example][order]]
        for row, rows in enumerate((attention[example], mean)):
            mesh = _draw_map(axes[row, column], rows)
        axes[0, column].set_title(title, pad=14)  # above the name of the prefix column
        axes[0, column].set_xticks(np.arange(10) + 0.5, digits, fontsize=8)
        axes[1, column].set_xticks([5, 14.5], ["inputs\nby size", "outputs\nread"], fontsize=9)
        where = f"first output looks most at input {_peak_rank(mean)} of 10 by size"
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


def learning_curves(trials: Trials, adapt_steps: int, blind: float) -> Drawn:
    """Draw the training loss of each way to adapt the model, the best of each seed."""
    shown = {
        "prefix, shared": (trials.where(way="shared"), "vermilion"),
        "prefix, free": (trials.where(way="free"), "ochre"),
        "all but attention": (trials.where(method="besides attention"), "blue"),
        "all weights": (trials.where(method="finetuned"), "green"),
    }
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    ends = []
    for name, (way, colour) in shown.items():
        curves = np.array([trial.metrics["curve"] for trial in way.best()])
        steps = (np.arange(curves.shape[1]) + 0.5) * adapt_steps / curves.shape[1]
        mean = np.exp(np.log(curves).mean(axis=0))
        _line_and_band(axes, steps, mean, curves, PALETTE[colour])
        _beside(axes, name, (steps[-1], mean[-1]), PALETTE[colour])
        ends.append(f"{name} {mean[-1]:.3g}")
    axes.hlines(blind, 0, adapt_steps, color=MUTED, linestyle="--", linewidth=1.2)
    _beside(axes, "never looks at the input", (adapt_steps, blind), MUTED)
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


def _line_and_band(
    axes: Axes, x: np.ndarray, mean: np.ndarray, by_seed: np.ndarray, colour: str
) -> None:
    """Draw a line, and a band that spans the seeds."""
    low, high = by_seed.min(axis=0), by_seed.max(axis=0)
    axes.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(x, mean, color=colour)


def _beside(axes: Axes, text: str, place: tuple[float, float], colour: str) -> None:
    axes.annotate(text, place, (6, 0), textcoords="offset points", color=colour, va="center")


def beside_published(trials: Trials) -> Drawn:
    """Draw the six published accuracies with ours, one dot for each seed."""
    rows = [
        (f"{name} → {task}", published.NEW_TASK[f"{key}_{task}"], ours.percent(full))
        for name, key, ours in (
            ("pretrained", "pretrained", trials.where(method="pretrained")),
            ("fine-tuned", "finetuned", trials.where(method="finetuned").best()),
            ("prefix", "prefix", trials.where(way="shared").best()),
        )
        for task, full in (("ascending", ASCENDING), ("descending", DESCENDING))
    ]
    return drawing.beside_published(rows)


def all_ways(
    ways: Mapping[str, Trials], others: Mapping[str, tuple[Trials, str]], blind: float
) -> Drawn:
    """Draw the best loss and the best accuracy of each way to train a prefix, by seed.

    `others` are what to compare with, one trial a seed, and the name of a colour.
    """
    rows = [
        (name, way.best(by="loss").losses(), way.best().percent(), PALETTE["vermilion"])
        for name, way in ways.items()
    ]
    rows += [
        (name, other.losses(), other.percent(), PALETTE[colour])
        for name, (other, colour) in others.items()
    ]
    figure, (left, right) = plt.subplots(
        1,
        2,
        figsize=(plotting.WIDTH, 1.2 + 0.36 * len(rows)),
        sharey=True,
        width_ratios=[1.5, 1],
    )
    seen = []
    for place, (name, losses, accuracies, colour) in enumerate(rows):
        plotting.seeds_and_interval(left, [math.log10(loss) for loss in losses], place, colour)
        ends = plotting.seeds_and_interval(right, accuracies, place, colour, (0.0, 100.0))
        few = float(np.mean(accuracies)) < 50
        right.annotate(
            f"{np.mean(accuracies):.1f}",
            (ends[1] if few else ends[0], place),
            xytext=(8 if few else -8, 0),
            textcoords="offset points",
            ha="left" if few else "right",
            va="center",
            fontsize=10,
            color=INK,
        )
        seen.append(
            f"{name}: lowest loss {min(losses):.3g}, mean {np.mean(losses):.3g}; accuracy "
            f"{np.mean(accuracies):.1f} %, highest {max(accuracies):.1f} %"
        )
    left.axvline(np.log10(blind), color=MUTED, linestyle="--", linewidth=1.2)
    left.annotate(
        "without looking",
        (np.log10(blind), -0.55),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=10,
        color=MUTED,
        annotation_clip=False,
    )
    exponents = [e for e in (-4, -3, -2, -1, 0, 1) if e >= np.floor(left.get_xlim()[0])]
    left.set_xticks(exponents, [f"{10.0**e:g}" for e in exponents])
    left.set_xlabel("test loss (nats a symbol)")
    right.set(xlim=(-4, 104), xlabel="accuracy (%)")
    left.set_yticks(range(len(rows)), [row[0] for row in rows])
    right.tick_params(axis="y", length=0)
    left.set_ylim(len(rows) - 0.5, -0.55)
    alt = (
        "For each way of training, dots for seeds. Left: lowest test loss, logarithmic. Right: "
        f"highest accuracy. {'; '.join(seen)}. Without looking the loss is {blind:.3g}."
    )
    return figure, alt


ORDER = ("grey", "vermilion", "ochre", "purple", "blue", "green")
"""Colours of `outputs_right`."""


def outputs_right(curves: Mapping[str, Sequence[Tensor]]) -> Drawn:
    """Draw how often each of the ten outputs is right, percent ``(10,)`` of each seed by name."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    outputs = np.arange(1, 11)
    ends, seen = [], []
    for (name, values), colour in zip(curves.items(), ORDER, strict=False):
        by_seed = np.stack([value.numpy() for value in values])
        mean = by_seed.mean(axis=0)
        _line_and_band(axes, outputs, mean, by_seed, PALETTE[colour])
        ends.append((float(mean[-1]), name, PALETTE[colour]))
        seen.append(
            f"{name} {mean.mean():.0f} % on average, from {mean.min():.0f} % at output "
            f"{outputs[mean.argmin()]} to {mean.max():.0f} % at output {outputs[mean.argmax()]}"
        )
    heights = plotting.spread_apart([height for height, _, _ in ends], 7.5, 0.0, 100.0)
    for place, (_, name, colour) in zip(heights, ends, strict=True):  # near their lines
        axes.text(10.25, place, name, color=colour, va="center")
    axes.set(xlim=(0.8, 13.2), ylim=(-3, 103), xlabel="output", ylabel="right digits (%)")
    axes.set_xticks(outputs)
    alt = (
        "Share of right digits at each of the ten outputs, the right ones before it fed; bands "
        f"span the seeds. {'; '.join(seen)}."
    )
    return figure, alt


@torch.no_grad()
def _output_attention(model: GPT, tokens: Tensor, prefix: Prefix | None = None) -> Tensor:
    """Where the ten output positions look in the first layer, averaged over heads.

    Shape (B, 10, p + 19): prefix first, then the ten inputs, then the nine outputs read back.
    """
    _, attention = model(tokens, prefix, return_attention=True)
    return attention[0].mean(dim=1)[:, -SEQUENCE_LENGTH:]


def _peak_rank(attention: Tensor) -> int:
    """Which input by size, 1 to 10, the first output looks at most, given mean rows."""
    p = attention.shape[-1] - 2 * SEQUENCE_LENGTH + 1
    return int(attention[0, p : p + SEQUENCE_LENGTH].argmax()) + 1

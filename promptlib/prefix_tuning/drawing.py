"""How are sweeps, published figures beside ours, attention by size, and heads drawn?

Functions that draw return a figure and its alt text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import INK, PALETTE
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH
from promptlib.prefix_tuning.trials import Metrics

if TYPE_CHECKING:
    from promptlib.prefix_tuning.diagnosis.report import Diagnosis

Drawn = tuple[Figure, str]

MAPS_WIDTH = 5.2
"""What axis labels and colour bar leave of a figure's width to the maps of a sweep, inches."""

NARROWEST_CELL = 0.65
"""Inches that a cell of a sweep needs for its numbers."""


def sweep_maps(
    sweeps: Mapping[str, Sequence[Sequence[Metrics]]],
    task: str,
    quantity: str = "loss",
) -> Drawn:
    """Draw sweeps over learning rate and init scale; cells show mean, spread and accuracy.

    Panels stand side by side as long as their cells have room for the numbers, else one above the
    other.

    Parameters
    ----------
    sweeps : mapping
        Title to metrics by seed and cell.
    task : str
        What is measured on.
    quantity : {"loss", "accuracy"}
        What the colour shows.
    """
    first = next(iter(sweeps.values()))
    rates = sorted({cell["learning_rate"] for cell in first[0]}, reverse=True)
    stds = sorted({cell["init_std"] for cell in first[0]})
    beside = MAPS_WIDTH / (len(sweeps) * len(stds)) >= NARROWEST_CELL
    shape = (1, len(sweeps)) if beside else (len(sweeps), 1)
    lines = 3 if len(first) > 1 else 2
    row = max(0.17 * lines + 0.12, 2.4 / (len(rates) * shape[0]))  # inches
    height = 0.4 + shape[0] * (0.8 + len(rates) * row)
    figure, panels = plt.subplots(
        *shape, figsize=(plotting.WIDTH, height), sharey=True, squeeze=False
    )
    losses = {
        title: np.array([[cell["loss"][task] for cell in seed] for seed in sweep])
        for title, sweep in sweeps.items()
    }
    highest = max(float(loss.mean(axis=0).max()) for loss in losses.values())
    colours = {
        "loss": {"cmap": "cividis_r", "vmin": 0.0, "vmax": np.ceil(highest)},
        "accuracy": {"cmap": "cividis", "vmin": 0.0, "vmax": 100.0},
    }[quantity]
    seen = []
    for axes, (title, sweep) in zip(panels.flat, sweeps.items(), strict=True):
        shares = np.array([[100 * cell["accuracy"][task] for cell in seed] for seed in sweep])
        means = np.zeros((len(rates), len(stds)))
        for index, cell in enumerate(sweep[0]):
            place, column = rates.index(cell["learning_rate"]), stds.index(cell["init_std"])
            loss, share = losses[title][:, index], shares[:, index]
            means[place, column] = (loss if quantity == "loss" else share).mean()
            spread = f"\n± {loss.std(ddof=1):.2f}" if len(loss) > 1 else ""
            level = means[place, column] / colours["vmax"]
            dark = level < 0.5 if quantity == "accuracy" else level > 0.5
            axes.text(
                column + 0.5,
                place + 0.5,
                f"{loss.mean():.2f}{spread}\n{share.mean():.1f} %",
                ha="center",
                va="center",
                fontsize=10,
                linespacing=1.1,
                color="#ffffff" if dark else "#000000",
            )
        mesh = axes.pcolormesh(means, **colours)
        axes.set_xticks(np.arange(len(stds)) + 0.5, [f"{std:g}" for std in stds])
        axes.set_yticks(np.arange(len(rates)) + 0.5, [f"{rate:g}" for rate in rates])
        axes.set(title=title, xlabel="init scale", ylim=(len(rates), 0))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        lowest = losses[title].min()
        seen.append(f"{title}: lowest loss {lowest:.2f}, highest accuracy {shares.max():.1f} %.")
    for axes in panels[:, 0]:
        axes.set_ylabel("learning rate")
    label = {"loss": "test loss (nats a symbol)", "accuracy": "accuracy (% of sequences)"}
    bar = figure.colorbar(mesh, ax=panels, shrink=0.8, label=label[quantity])
    bar.outline.set_visible(False)
    shown = "test loss, its standard deviation over seeds," if lines == 3 else "test loss"
    alt = (
        f"Heat maps of the sweep over {len(rates)} learning rates and {len(stds)} init scales; "
        f"each cell shows {shown} and accuracy. " + " ".join(seen)
    )
    return figure, alt


def beside_published(rows: Sequence[tuple[str, float | None, Sequence[float]]]) -> Drawn:
    """Draw published accuracies with ours, one dot for each seed and a 95 % interval.

    Parameters
    ----------
    rows : sequence of (label, published or None, ours by seed)
        In percent of sequences.
    """
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.0 + 0.43 * len(rows)))
    seen = []
    for place, (label, theirs, ours) in enumerate(rows):
        said = "not published"
        if theirs is not None:
            axes.plot([theirs], [place - 0.16], "D", color=PALETTE["vermilion"], markersize=7)
            said = f"{theirs:.2f} % published"
        axes.plot(ours, [place + 0.16] * len(ours), "o", color=PALETTE["blue"], alpha=0.7)
        mean, ends = float(np.mean(ours)), claims.interval(ours)
        if ends is not None:
            axes.hlines(place + 0.16, max(ends[0], 0.0), min(ends[1], 100.0), color=PALETTE["blue"])
        seen.append(f"{label}: {said}, {mean:.2f} % here")
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(-3, 103), xlabel="accuracy (% of sequences)")
    axes.plot([], [], "D", color=PALETTE["vermilion"], label="published")
    axes.plot([], [], "o-", color=PALETTE["blue"], label="here, seeds and 95 % interval")
    figure.legend(loc="outside upper center", ncols=2, labelcolor=INK)
    alt = "Accuracies, published and ours. " + "; ".join(seen) + "."
    return figure, alt


MOST_WRITTEN = 8
"""Heads of a layer for whose numbers a panel of half a figure's width has room."""


def head_maps(diagnosis: Diagnosis) -> Drawn:
    """Draw what a diagnosis found as heat maps, a panel a quantity, a row a layer.

    Numbers are written into the cells while there is room; NaN is drawn as 0.
    """
    arrays = {
        "share taken (%)": diagnosis.shares,
        "relative attention moved (%)": diagnosis.moved,
        "vectors in use": diagnosis.vectors_used,
        "directions of the bias": diagnosis.bias_rank,
        "share taken of that allowed (%)": diagnosis.reach,
    }
    there = {title: values for title, values in arrays.items() if values is not None}
    layers, heads = diagnosis.moved.shape
    rows = -(-len(there) // 2)
    height = rows * (1.1 + min(0.4 * layers, 5.0))
    figure, panels = plt.subplots(
        rows, min(len(there), 2), figsize=(plotting.WIDTH, height), squeeze=False
    )
    told = []
    for axes, (title, values) in zip(panels.flat, there.items(), strict=False):
        is_share = title.endswith("(%)")
        scaled = np.nan_to_num(values) * (100 if is_share else 1)
        form = "{:.0f}" if is_share else "{:.1f}"
        written = heads <= MOST_WRITTEN
        mesh = plotting.labelled_cells(
            axes,
            scaled.tolist(),
            [[form.format(value) if written else "" for value in row] for row in scaled],
            [f"layer {layer + 1}" for layer in range(layers)],
            [str(head + 1) if written else "" for head in range(heads)],
            (0.0, 100.0 if is_share else float(max(diagnosis.length, 1))),
        )
        axes.set(title=title, xlabel="head")
        if not written:
            figure.colorbar(mesh, ax=axes).outline.set_visible(False)
        told.append(f"{title}: {form.format(scaled.min())} to {form.format(scaled.max())}")
    for axes in panels.flat[len(there) :]:
        axes.set_visible(False)
    alt = f"Heat maps by layer and head, {diagnosis.kind}. " + "; ".join(told) + "."
    return figure, alt


@torch.no_grad()
def output_attention(model: GPT, tokens: Tensor, prefix: Prefix | None = None) -> Tensor:
    """Return where the ten output positions look in the first layer, averaged over heads.

    Returns
    -------
    Tensor, ``(B, 10, p + 19)``
        Prefix first, then the ten inputs, then the nine outputs read back.
    """
    _, attention = model(tokens, prefix, return_attention=True)
    return attention[0].mean(dim=1)[:, -SEQUENCE_LENGTH:]


def inputs_by_size(attention: Tensor, inputs: Tensor) -> Tensor:
    """Reorder the columns of the ten inputs from the smallest digit to the largest.

    Parameters
    ----------
    attention : Tensor, ``(B, 10, p + 19)``
    inputs : Tensor, ``(B, 10)``
    """
    p = attention.shape[-1] - 2 * SEQUENCE_LENGTH + 1
    order = inputs.argsort(dim=-1, stable=True).unsqueeze(1).expand(-1, SEQUENCE_LENGTH, -1)
    on_inputs = attention[..., p : p + SEQUENCE_LENGTH].gather(-1, order)
    return torch.cat([attention[..., :p], on_inputs, attention[..., p + SEQUENCE_LENGTH :]], dim=-1)


def peak_rank(attention: Tensor) -> int:
    """Return which input by size, 1 to 10, the first output looks at most, given mean rows."""
    p = attention.shape[-1] - 2 * SEQUENCE_LENGTH + 1
    return int(attention[0, p : p + SEQUENCE_LENGTH].argmax()) + 1


check_public(__name__)

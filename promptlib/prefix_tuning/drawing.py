"""How are comparisons with published figures, attention by size, and heads drawn?

Functions that draw return a figure and its alt text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import INK, PALETTE
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH

if TYPE_CHECKING:
    from promptlib.prefix_tuning.diagnosis.report import Diagnosis

Drawn = tuple[Figure, str]


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
    length = float(max(diagnosis.length, 1))
    found: list[tuple[str, np.ndarray | None, float, str, float]] = [
        ("share taken (%)", diagnosis.shares, 100.0, "{:.0f}", 100.0),
        ("relative attention moved (%)", diagnosis.moved, 100.0, "{:.0f}", 100.0),
        ("vectors in use", diagnosis.vectors_used, 1.0, "{:.1f}", length),
        ("directions of the bias", diagnosis.bias_rank, 1.0, "{:.1f}", length),
        ("share taken of that allowed (%)", diagnosis.reach, 100.0, "{:.0f}", 100.0),
    ]
    there = [
        (title, factor * np.nan_to_num(values), form, highest)
        for title, values, factor, form, highest in found
        if values is not None
    ]
    layers, heads = diagnosis.moved.shape
    rows = -(-len(there) // 2)
    height = rows * (1.1 + min(0.4 * layers, 5.0))
    figure, panels = plt.subplots(
        rows, min(len(there), 2), figsize=(plotting.WIDTH, height), squeeze=False
    )
    told = []
    for axes, (title, scaled, form, highest) in zip(panels.flat, there, strict=False):
        written = heads <= MOST_WRITTEN
        mesh = plotting.labelled_cells(
            axes,
            scaled.tolist(),
            [[form.format(value) if written else "" for value in row] for row in scaled],
            [f"layer {layer + 1}" for layer in range(layers)],
            [str(head + 1) if written else "" for head in range(heads)],
            (0.0, highest),
        )
        axes.set(title=title, xlabel="head")
        if not written:
            figure.colorbar(mesh, ax=axes).outline.set_visible(False)
        told.append(f"{title}: {form.format(scaled.min())} to {form.format(scaled.max())}")
    for axes in panels.flat[len(there) :]:
        axes.set_visible(False)
    alt = f"Heat maps by layer and head, {diagnosis.kind}. " + "; ".join(told) + "."
    return figure, alt


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


check_public(__name__)

"""How are comparisons with published figures, and attention by size, drawn?

Functions that draw return a figure and its alt text.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import INK, PALETTE
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH

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

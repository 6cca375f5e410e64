"""How the chapter "A new task" draws what the best prefix can do. Returns figure and alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from promptlib import plotting
from promptlib.checks import check_public
from promptlib.plotting import PALETTE
from promptlib.prefix_tuning.drawing import Drawn

COLOURS = ("grey", "vermilion", "ochre", "purple", "blue", "green")


def outputs_right(curves: Mapping[str, Sequence[Tensor]]) -> Drawn:
    """Draw how often each of the ten outputs is right, by way of adapting the model.

    Parameters
    ----------
    curves : mapping
        Name to a tensor ``(10,)`` in percent for each seed; at most six names.
    """
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    outputs = np.arange(1, 11)
    ends: list[tuple[float, str, str]] = []
    seen = []
    for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
        by_seed = np.array([value.numpy() for value in values])
        mean = by_seed.mean(axis=0)
        axes.fill_between(
            outputs,
            by_seed.min(axis=0),
            by_seed.max(axis=0),
            color=PALETTE[colour],
            alpha=0.25,
            linewidth=0,
        )
        axes.plot(outputs, mean, color=PALETTE[colour])
        ends.append((float(mean[-1]), name, PALETTE[colour]))
        seen.append(
            f"{name} {mean.mean():.0f} % on average, from {mean.min():.0f} % at output "
            f"{outputs[mean.argmin()]} to {mean.max():.0f} % at output {outputs[mean.argmax()]}"
        )
    lowest = -np.inf
    for height, name, colour in sorted(ends):  # names one above the other, near their lines
        lowest = max(height, lowest + 7.5)
        axes.annotate(
            name,
            (10, height),
            xytext=(10.25, lowest),
            textcoords="data",
            color=colour,
            va="center",
            annotation_clip=False,
        )
    axes.set(xlim=(0.8, 13.2), ylim=(-3, 103), xlabel="output", ylabel="right digits (%)")
    axes.set_xticks(outputs)
    alt = (
        "Share of right digits at each of the ten outputs, the right ones before it fed; bands "
        f"span the seeds. {'; '.join(seen)}."
    )
    return figure, alt


check_public(__name__)

"""How do three learners fare with few bags, and what did validation choose?

Each function returns the figure and its alternative text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from notebooks.prompt_attention.prompt_or_finetune.plan import LEARNING_RATES, WEIGHT_DECAYS
from promptlib import plotting

colour = plotting.PALETTE
LOOKS = {
    "prompt": ("prompt and head", colour["blue"], "o"),
    "layer": ("whole layer, same start", colour["vermilion"], "s"),
    "layer, random start": ("whole layer, random start", colour["ochre"], "D"),
}
"""Name, colour and marker of each learner."""


def errors_by_bags(
    errors: Mapping[str, NDArray[np.float64]],
    sizes: Sequence[int],
    grid: NDArray[np.float64],
    floor: Sequence[float],
    pooled: float,
) -> tuple[Figure, str]:
    """Test errors, (seeds, sizes) for each learner, beside what a known prompt would cost."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.6))
    for place, (name, (label, paint, marker)) in enumerate(LOOKS.items()):
        values = errors[name]
        shifted = np.array(sizes) * 1.035 ** (place - 1)
        axes.plot(
            shifted, values.T, marker, color=paint, markersize=5, markerfacecolor="none", alpha=0.75
        )
        axes.plot(
            shifted,
            values.mean(0),
            marker + "-",
            color=paint,
            label=label,
            markersize=8,
            markeredgecolor=plotting.PAPER,
        )
    axes.plot(grid, floor, color=plotting.INK, linestyle="--", label="known prompt, head learned")
    axes.axhline(pooled, color=plotting.MUTED, linestyle=":", label="mean pooling, head known")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 0.56)
    axes.set_xlabel("labelled bags $n$ (a quarter of them for validation)")
    axes.set_ylabel("test error")
    axes.legend(loc="upper right", fontsize=10)
    by_size = " ".join(
        f"With {size} bags: prompt {errors['prompt'][:, i].mean():.3f}, layer from the same start "
        f"{errors['layer'][:, i].mean():.3f}, layer from a random start "
        f"{errors['layer, random start'][:, i].mean():.3f}."
        for i, size in enumerate(sizes)
    )
    return figure, (
        f"Test error against labelled bags for three learners, means over {len(errors['prompt'])} "
        f"seeds. {by_size} With a known prompt the error would go from {floor[0]:.3f} to "
        f"{floor[-1]:.3f}; mean pooling cannot fall below {pooled:.3f}."
    )


def choices(
    chosen: Mapping[str, Sequence[Mapping[str, Any]]], sizes: Sequence[int]
) -> tuple[Figure, str]:
    """Where each learner stopped and with which setting, one mark for each seed and size."""
    figure, panels = plt.subplots(1, 3, figsize=(plotting.WIDTH, 3.4), sharey=True)
    edge = {}
    for axes, (name, (label, paint, marker)) in zip(panels, LOOKS.items(), strict=True):
        rates, decays, rows = LEARNING_RATES[name], WEIGHT_DECAYS[name], chosen[name]
        seeds = len(rows) // len(sizes)
        for index, row in enumerate(rows):
            offset = (index // len(sizes) - (seeds - 1) / 2) / seeds  # seeds side by side
            axes.plot(
                row["size"] * 2 ** (0.5 * offset),
                row["step"],
                marker,
                color=paint,
                markersize=4 + 2.5 * rates.index(row["learning_rate"]),
                markerfacecolor=("none", (paint, 0.4), paint)[decays.index(row["weight_decay"])],
            )
        edge[name] = (
            np.mean([row["learning_rate"] == rates[-1] for row in rows]),
            np.mean([row["weight_decay"] == 0 for row in rows]),
            *(
                np.mean([row["step"] for row in rows if row["size"] == n])
                for n in (min(sizes), max(sizes))
            ),
        )
        axes.set_title(label.replace(", ", ",\n"), loc="left", fontsize=10)
        axes.set_xscale("log", base=2)
        ticks = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labelled bags $n$")
    panels[0].set_ylabel("step chosen")
    return figure, (
        "Three panels, one a learner: the training step that validation chose against the number "
        "of bags. "
        + " ".join(
            f"{LOOKS[name][0].capitalize()}: mean stop at step {first:.0f} with {min(sizes)} bags "
            f"and {last:.0f} with {max(sizes)}; the largest learning rate of its grid in "
            f"{100 * share:.0f} % of the cases, no weight decay in {100 * none:.0f} %."
            for name, (share, none, first, last) in edge.items()
        )
    )

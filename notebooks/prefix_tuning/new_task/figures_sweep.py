"""Which cells of a sweep over learning rate and init scale come how far?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from promptlib import plotting
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.trials import Metrics

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
    other. `sweeps` gives metrics by seed and cell; `task` is measured on; `quantity` is the colour.
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

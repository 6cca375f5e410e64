"""The figures of "Prefix against LoRA at an equal budget", each with its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from notebooks.prefix_tuning.prefix_or_lora.plan import TASK
from notebooks.prefix_tuning.prefix_or_lora.results import Inside, Measured, Way
from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import INK, MUTED, PALETTE
from promptlib.prefix_tuning import drawing as experiment_figures
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.drawing import Drawn

COLOURS = {
    "shared": "vermilion",
    "free": "ochre",
    "MLP and projection": "blue",
    "MLP": "purple",
    "attention": "green",
    "MLP and attention": "grey",
    "all weights": "ink",
}
MARKERS = dict(zip(COLOURS, "osD^vPX", strict=True))


def _colour(what: str) -> str:
    return PALETTE.get(COLOURS.get(what, "grey"), INK)


def _title(way: Way) -> str:
    return way.what if way.family == "fine-tuning" else f"{way.family}, {way.what}"


def _room(axes: Axes, marginal: float, lowest: float) -> None:
    """Show losses from zero if some come near it, else only where there are any."""
    axes.set_ylim(0 if lowest < marginal / 2 else lowest - 0.15, marginal + 0.2)


def _groups(measured: Measured) -> dict[str, list[Way]]:
    """Ways that differ only in size, under their common name."""
    groups: dict[str, list[Way]] = {}
    for way in measured.ways:
        groups.setdefault(_title(way), []).append(way)
    return {name: sorted(ways, key=lambda way: way.parameters) for name, ways in groups.items()}


def against_parameters(measured: Measured, blind: float, marginal: float) -> Drawn:
    """Draw accuracy and loss of the best of each way against the numbers that it trains.

    Parameters
    ----------
    measured : Measured
    blind, marginal : float
        Losses without the input, and without anything.
    """
    figure, panels = plt.subplots(2, 1, figsize=(plotting.WIDTH, 6.6), sharex=True)
    seen = []
    for place, (name, ways) in enumerate(_groups(measured).items()):
        aside = 1.05 ** (place % 3 - 1)  # or marks of one count would hide each other
        colour, marker = _colour(ways[0].what), MARKERS.get(ways[0].what, "o")
        at = [aside * way.parameters for way in ways]
        accuracy = [way.best_accuracy() for way in ways]
        loss = [way.lowest_loss() for way in ways]
        for axes, values in zip(panels, (accuracy, loss), strict=True):
            axes.plot(at, [np.mean(one) for one in values], "-", color=colour, zorder=2)
            for x, one in zip(at, values, strict=True):
                axes.plot([x] * len(one), one, marker, color=colour, alpha=0.75, zorder=3)
                half = claims.t_half_width(one)
                if half:
                    axes.errorbar(x, np.mean(one), half, color=colour, capsize=3, linewidth=1.2)
        axes = panels[0]
        axes.plot([], [], marker + "-", color=colour, label=name)
        numbers = "; ".join(
            f"{way.parameters:,} parameters {np.mean(a):.1f} %, loss {np.mean(b):.3f}"
            for way, a, b in zip(ways, accuracy, loss, strict=True)
        )
        seen.append(f"{name}: {numbers}")
    for axes in panels:
        axes.axvline(measured.budget, color=MUTED, linestyle=":", linewidth=1.2)
    panels[0].set(ylabel="accuracy (% of sequences)", ylim=(-4, 104), xscale="log")
    panels[1].set(ylabel="test loss (nats a symbol)", xlabel="numbers trained")
    _references(panels[1], blind, marginal)
    least = min(blind, *(min(way.lowest_loss()) for way in measured.ways))
    _room(panels[1], marginal, least)
    figure.legend(loc="outside upper center", ncols=2, labelcolor=INK)
    alt = (
        "Two panels against the numbers trained, logarithmic: accuracy above, test loss below; a "
        f"dotted line marks the published budget of {measured.budget:,}. Means over seeds: "
        + ". ".join(seen)
        + f". Without looking at the input the loss would be {blind:.3f}."
    )
    return figure, alt


def _references(axes: Axes, blind: float, marginal: float) -> None:
    """Draw the two losses of predictors that do not look."""
    for loss, name, above in (
        (blind, "sees only its own outputs", False),
        (marginal, "sees nothing", True),
    ):
        axes.axhline(loss, color=MUTED, linestyle="--", linewidth=1.2, zorder=1)
        axes.annotate(
            name,
            (0.99, loss),
            (0, 3 if above else -3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=MUTED,
            ha="right",
            va="bottom" if above else "top",
            fontsize=9,
        )


def sweeps(measured: Measured) -> Drawn:
    """Draw the loss of every cell against its learning rate, one panel for each kind of way."""
    names = ("prefix", "LoRA", "fine-tuning")
    figure, panels = plt.subplots(
        1, 3, figsize=(plotting.WIDTH, 5.0), sharey=True, width_ratios=(1.0, 1.0, 0.8)
    )
    seen = []
    for axes, family in zip(panels, names, strict=True):
        ways = measured.of(family)  # type: ignore[arg-type]
        rates: set[float] = set()
        for way in ways:
            colour = _colour(way.what)
            later = sum(other.what == way.what and other.size < way.size for other in ways)
            style = ("-", "--", ":", "-.")[min(later, 3)]
            means = way.mean_by_rate()
            rates |= set(means)
            for cells in way.seeds:
                axes.plot(
                    [cell.learning_rate for cell in cells],
                    [cell.loss(TASK) for cell in cells],
                    MARKERS.get(way.what, "o"),
                    color=colour,
                    alpha=0.5,
                    markersize=5,
                )
            size = {"prefix": f", {way.size}", "LoRA": f", {way.size}"}.get(family, "")
            axes.plot(
                list(means),
                list(means.values()),
                style,
                marker=MARKERS.get(way.what, "o"),
                markersize=0,
                color=colour,
                label=f"{way.what}{size}",
            )
            best = way.best_rate()
            seen.append(f"{way.label}: mean loss {means[best]:.3f} at the chosen rate, {best:g}")
        ordered = sorted(rates)
        axes.set(xscale="log", title=family, xlabel="learning rate")
        axes.set_xticks(ordered, [f"{rate:g}" for rate in ordered])
        axes.set_xticks([], minor=True)
        axes.set_xlim(ordered[0] / 1.6, ordered[-1] * 1.6)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.08, 1.1),
            fontsize=9,
            labelcolor=INK,
            handlelength=1.4,
        )
    panels[0].set_ylabel("test loss (nats a symbol)")
    alt = (
        "Three panels, prefixes, LoRA and fine-tuning: test loss against learning rate, dots for "
        "seeds and lines for means. " + "; ".join(seen) + "."
    )
    return figure, alt


def over_steps(
    measured: Measured, ways: Sequence[Way], work: Mapping[str, int], blind: float, marginal: float
) -> Drawn:
    """Draw training loss against steps and against counted work, and accuracy on the way.

    Runs that measured no accuracy on the way have the first two panels alone.

    Parameters
    ----------
    ways : sequence of Way
        Of which the cell of the lowest loss is drawn.
    work : mapping
        Floating-point operations of a step, by label.
    """
    watched = all("checkpoints" in cell.metrics for way in ways for cell in way.lowest())
    rows = 3 if watched else 2
    figure, panels = plt.subplots(rows, 1, figsize=(plotting.WIDTH, 3.0 * rows))
    seen, least = [], blind
    for way in ways:
        colour, cells = _colour(way.what), way.lowest()
        steps = cells[0].run.config["steps"]
        curves = np.array([cell.metrics["curve"] for cell in cells])
        x = (np.arange(curves.shape[1]) + 0.5) * steps / curves.shape[1]
        least = min(least, float(curves.min()))
        label = _title(way)
        for axes, factor in ((panels[0], 1.0), (panels[1], work[way.label] / 1e9)):
            axes.fill_between(
                x * factor, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0
            )
            axes.plot(x * factor, curves.mean(0), color=colour, label=label)
        if watched:
            looked = [cell.metrics["checkpoints"] for cell in cells]
            at, shares = looked[0]["step"], 100 * np.array([one["accuracy"] for one in looked])
            panels[2].fill_between(
                at, shares.min(0), shares.max(0), color=colour, alpha=0.2, linewidth=0
            )
            panels[2].plot(at, shares.mean(0), "o-", color=colour, markersize=4)
        share = float(np.mean([cell.percent(TASK) for cell in cells]))
        total = work[way.label] * steps / 1e9
        seen.append(
            f"{label}: training loss {curves.mean(0)[-1]:.3f}, test accuracy {share:.1f} % "
            f"after {steps} steps, {total:.3g} billion operations"
        )
    for axes in panels[:2]:
        axes.set(ylabel="training loss (nats a symbol)")
        _references(axes, blind, marginal)
        _room(axes, marginal, least)
    panels[0].set_xlabel("training step")
    panels[1].set_xlabel("work (billions of floating-point operations)")
    if watched:
        panels[2].set(xlabel="training step", ylabel="accuracy (%)", ylim=(-4, 104))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, labelcolor=INK)
    shown = ["training loss against steps", "training loss against counted work"]
    shown += ["accuracy on test sequences against steps"] * watched
    alt = f"{rows} panels: {', '.join(shown)}. Ends: {'; '.join(seen)}."
    return figure, alt


def movement_by_layer(measured: Measured, inside: Mapping[str, Sequence[Inside]]) -> Drawn:
    """Draw how far relative attention moved in each layer, a dot for each seed."""
    layers = len(next(iter(inside.values()))[0].moved)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.2 + 0.62 * len(measured.ways)))
    names = ("blue", "vermilion", "green", "purple", "ochre", "grey")
    seen = []
    for place, way in enumerate(measured.ways):
        values = np.array([100 * one.moved.mean(dim=1).numpy() for one in inside[way.label]])
        for layer in range(layers):
            colour = PALETTE[names[layer % len(names)]]
            at = place + 0.5 * ((layer + 0.5) / layers - 0.5)
            axes.plot(values[:, layer], [at] * len(values), "o", color=colour, alpha=0.7)
            half = claims.t_half_width(values[:, layer])
            if half:
                mean = float(values[:, layer].mean())
                axes.hlines(at, max(mean - half, 0), min(mean + half, 100), color=colour)
        means = ", ".join(f"{value:.0f}" for value in values.mean(0))
        seen.append(f"{way.label}: {means}")
    for layer in range(layers):
        colour = PALETTE[names[layer % len(names)]]
        axes.plot([], [], "o", color=colour, label=f"layer {layer + 1}")
    axes.set_yticks(range(len(measured.ways)), [way.label for way in measured.ways], fontsize=9)
    axes.set(ylim=(len(measured.ways) - 0.4, -0.6), xlim=(-2, None), xlabel="attention moved (%)")
    figure.legend(loc="outside upper center", ncols=min(layers, 4), labelcolor=INK)
    alt = (
        "Movement of relative attention by way and layer, in percent of total variation. Means "
        "over seeds, from the first layer up. " + "; ".join(seen) + "."
    )
    return figure, alt


def beside_published(measured: Measured) -> Drawn:
    """Draw the two published accuracies with ours, and what was not published."""
    theirs = {"shared": published.LORA_BUDGET["prefix"]}
    rows: list[tuple[str, float | None, Sequence[float]]] = [
        (way.label, theirs.get(way.what), way.best_accuracy())
        for way in measured.at_budget("prefix")
    ]
    lora = measured.published_lora
    rows.append((lora.label, published.LORA_BUDGET["lora"], lora.best_accuracy()))
    rows.append((measured.ceiling.label, None, measured.ceiling.best_accuracy()))
    return experiment_figures.beside_published(rows)


check_public(__name__)

"""Who reaches what, with how many parameters? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from notebooks.prefix_tuning.prefix_or_lora.results import (
    at_budget,
    best_rate,
    budget,
    by_rate,
    parameters,
    published_lora,
    ways,
)
from promptlib import claims, plotting
from promptlib.plotting import INK, MUTED, PALETTE
from promptlib.prefix_tuning import drawing, published
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.trials import Trial, Trials

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


def _title(trial: Trial) -> str:
    method, what = trial["method"], trial["what"]
    return str(what) if method == "fine-tuning" else f"{method}, {what}"


def _room(axes: Axes, marginal: float, lowest: float) -> None:
    """Show losses from zero if some come near it, else only where there are any."""
    axes.set_ylim(0 if lowest < marginal / 2 else lowest - 0.15, marginal + 0.2)


def _groups(trials: Trials) -> dict[str, list[Trials]]:
    """Sweeps of ways that differ only in size, the smallest first, under their common name."""
    groups: dict[str, list[Trials]] = {}
    for sweep in ways(trials).values():
        groups.setdefault(_title(sweep[0]), []).append(sweep)
    return {
        name: sorted(sweeps, key=lambda sweep: parameters(sweep[0]))
        for name, sweeps in groups.items()
    }


def against_parameters(trials: Trials, blind: float, marginal: float) -> Drawn:
    """Draw accuracy and loss of the best of each way against the numbers that it trains.

    For comparison, the losses without the input, and without anything.
    """
    figure, panels = plt.subplots(2, 1, figsize=(plotting.WIDTH, 6.6), sharex=True)
    seen = []
    least = blind
    for place, (name, sweeps) in enumerate(_groups(trials).items()):
        aside = 1.05 ** (place % 3 - 1)  # or marks of one count would hide each other
        what = sweeps[0][0]["what"]
        colour, marker = _colour(what), MARKERS.get(what, "o")
        counts = [parameters(sweep[0]) for sweep in sweeps]
        at = [aside * count for count in counts]
        accuracy = [sweep.best().percent() for sweep in sweeps]
        loss = [sweep.best(by="loss").losses() for sweep in sweeps]
        least = min(least, *(min(one) for one in loss))
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
            f"{count:,} parameters {np.mean(a):.1f} %, loss {np.mean(b):.3f}"
            for count, a, b in zip(counts, accuracy, loss, strict=True)
        )
        seen.append(f"{name}: {numbers}")
    for axes in panels:
        axes.axvline(budget(trials), color=MUTED, linestyle=":", linewidth=1.2)
    panels[0].set(ylabel="accuracy (% of sequences)", ylim=(-4, 104), xscale="log")
    panels[1].set(ylabel="test loss (nats a symbol)", xlabel="numbers trained")
    _references(panels[1], blind, marginal)
    _room(panels[1], marginal, least)
    figure.legend(loc="outside upper center", ncols=2, labelcolor=INK)
    alt = (
        "Two panels against the numbers trained, logarithmic: accuracy above, test loss below; a "
        f"dotted line marks the published budget of {budget(trials):,}. Means over seeds: "
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


def sweeps(trials: Trials) -> Drawn:
    """Draw the loss of every cell against its learning rate, one panel for each kind of way."""
    names = ("prefix", "LoRA", "fine-tuning")
    figure, panels = plt.subplots(
        1, 3, figsize=(plotting.WIDTH, 5.0), sharey=True, width_ratios=(1.0, 1.0, 0.8)
    )
    seen = []
    for axes, method in zip(panels, names, strict=True):
        found = ways(trials, method=method)
        for name, sweep in found.items():
            what, size = sweep[0]["what"], sweep[0]["size"]
            others = [other[0] for other in found.values()]
            later = sum(one["what"] == what and one["size"] < size for one in others)
            marker, colour = MARKERS.get(what, "o"), _colour(what)
            means = {rate: float(np.mean(best.losses())) for rate, best in by_rate(sweep).items()}
            rates = [one.learning_rate for one in sweep]
            axes.plot(rates, sweep.losses(), marker, color=colour, alpha=0.5, markersize=5)
            axes.plot(
                list(means),
                list(means.values()),
                ("-", "--", ":", "-.")[min(later, 3)],
                marker=marker,
                markersize=0,
                color=colour,
                label=f"{what}, {size}" if size else what,
            )
            best = best_rate(sweep)
            seen.append(f"{name}: mean loss {means[best]:.3f} at the chosen rate, {best:g}")
        ordered = sorted({one.learning_rate for one in trials.where(method=method)})
        axes.set(xscale="log", title=method, xlabel="learning rate")
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


def over_steps(trials: Trials, work: Mapping[str, int], blind: float, marginal: float) -> Drawn:
    """Draw training loss against steps and against counted work, and accuracy on the way.

    Of each way, the cell of the lowest loss; `work` has the operations of a step by way. Runs that
    measured no accuracy on the way have the first two panels alone.
    """
    lowest = {name: sweep.best(by="loss") for name, sweep in ways(trials).items()}
    watched = all("checkpoints" in one.metrics for best in lowest.values() for one in best)
    rows = 3 if watched else 2
    figure, panels = plt.subplots(rows, 1, figsize=(plotting.WIDTH, 3.0 * rows))
    seen, least = [], blind
    for name, best in lowest.items():
        colour, label = _colour(best[0]["what"]), _title(best[0])
        steps = best[0].run.config["steps"]
        curves = np.array([one.metrics["curve"] for one in best])
        x = (np.arange(curves.shape[1]) + 0.5) * steps / curves.shape[1]
        least = min(least, float(curves.min()))
        for axes, factor in ((panels[0], 1.0), (panels[1], work[name] / 1e9)):
            axes.fill_between(
                x * factor, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0
            )
            axes.plot(x * factor, curves.mean(0), color=colour, label=label)
        if watched:
            looked = [one.metrics["checkpoints"] for one in best]
            at, shares = looked[0]["step"], 100 * np.array([one["accuracy"] for one in looked])
            panels[2].fill_between(
                at, shares.min(0), shares.max(0), color=colour, alpha=0.2, linewidth=0
            )
            panels[2].plot(at, shares.mean(0), "o-", color=colour, markersize=4)
        share = float(np.mean(best.percent()))
        total = work[name] * steps / 1e9
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


def movement_by_layer(seen: Trials) -> Drawn:
    """Draw how far relative attention moved in each layer, a dot for each seed."""
    found = {
        name: np.array([100 * one.metrics["moved"].mean(dim=1).numpy() for one in by_seed])
        for name, by_seed in ways(seen).items()
    }
    layers = len(seen[0].metrics["moved"])
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.2 + 0.62 * len(found)))
    names = ("blue", "vermilion", "green", "purple", "ochre", "grey")
    colours = [PALETTE[names[layer % len(names)]] for layer in range(layers)]
    for place, values in enumerate(found.values()):
        for layer, colour in enumerate(colours):
            at = place + 0.5 * ((layer + 0.5) / layers - 0.5)
            plotting.seeds_and_interval(axes, values[:, layer].tolist(), at, colour, (0, 100))
    for layer, colour in enumerate(colours):
        axes.plot([], [], "o", color=colour, label=f"layer {layer + 1}")
    axes.set_yticks(range(len(found)), list(found), fontsize=9)
    axes.set(ylim=(len(found) - 0.4, -0.6), xlim=(-2, None), xlabel="attention moved (%)")
    figure.legend(loc="outside upper center", ncols=min(layers, 4), labelcolor=INK)
    told = [
        f"{name}: {', '.join(f'{value:.0f}' for value in values.mean(0))}"
        for name, values in found.items()
    ]
    alt = (
        "Movement of relative attention by way and layer, in percent of total variation. Means "
        "over seeds, from the first layer up. " + "; ".join(told) + "."
    )
    return figure, alt


def beside_published(trials: Trials) -> Drawn:
    """Draw the two published accuracies with ours, and what was not published."""
    theirs = {"shared": published.LORA_BUDGET["prefix"]}
    rows: list[tuple[str, float | None, Sequence[float]]] = [
        (name, theirs.get(sweep[0]["what"]), sweep.best().percent())
        for name, sweep in ways(at_budget(trials, "prefix")).items()
    ]
    lora, ceiling = published_lora(trials), trials.where(method="fine-tuning")
    rows.append((lora[0]["way"], published.LORA_BUDGET["lora"], lora.best().percent()))
    rows.append((ceiling[0]["way"], None, ceiling.best().percent()))
    return drawing.beside_published(rows)

"""What do prefixes do to architectures that others wrote? Each figure, or its absence.

This module loads without the extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from notebooks.prefix_tuning.real_architectures import extra
from notebooks.prefix_tuning.real_architectures.claims import reached
from notebooks.prefix_tuning.real_architectures.plan import AIMS
from promptlib import plotting
from promptlib.plotting import PALETTE
from promptlib.prefix_tuning.identities import relative_attention
from promptlib.prefix_tuning.trials import Trials

Drawn = tuple[Figure, str]

SMALLEST = 1e-18
"""Where a movement of zero is drawn."""


def attention_maps(sentence: str, words: list[str], plain: Tensor, prefixed: Tensor) -> Drawn:
    """Draw a head (H, T, T) over a sentence, and with one vector in front (H, T, 1 + T).

    It is the head in which the vector's share differs most from row to row.
    """
    taken = prefixed[..., 0]
    head = int(taken.std(-1).argmax())
    gap = float((relative_attention(prefixed[..., 1:]) - plain).abs().max())
    figure, panels = plt.subplots(
        1, 2, figsize=(plotting.WIDTH, 4.0), width_ratios=[len(words), len(words) + 2]
    )
    apart = torch.full((len(words), 1), float("nan"), dtype=prefixed.dtype)
    right = torch.cat((prefixed[head][:, :1], apart, prefixed[head][:, 1:]), -1)
    for axes, weights, names in (
        (panels[0], plain[head], words),
        (panels[1], right, ["prefix", "", *words]),
    ):
        axes.imshow(
            weights, vmin=0, vmax=float(plain[head].max()), cmap=plotting.SEQUENTIAL, aspect="auto"
        )
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    panels[0].set_yticks(range(len(words)), words, fontsize=9)
    panels[1].set_yticks([])
    panels[0].set_title("the sentence alone", loc="left")
    panels[1].set_title("with one vector", loc="left")
    kept = 1 - taken[head]
    return figure, (
        f"Two attention maps of head {head + 1} over the {len(words)} pieces of the sentence "
        f"'{sentence}' With the inserted vector every row is fainter, by a factor between "
        f"{float(kept.min()):.2f} and {float(kept.max()):.2f}, and otherwise "
        f"as before: relative attention differs by at most {gap:.0e}."
    )


def shift(moved: Mapping[str, Sequence[Tensor]]) -> Drawn:
    """Draw how far the first layer's relative attention moved, in each model of each kind."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 2.9))
    colours = {"GPT-2, peft": PALETTE["vermilion"], "LLaMA, peft": PALETTE["green"]}
    means = {label: [float(one.mean()) for one in models] for label, models in moved.items()}
    for place, label in enumerate(reversed(means)):
        axes.plot(
            [max(mean, SMALLEST) for mean in means[label]],
            [place] * len(means[label]),
            "o",
            color=colours.get(label, PALETTE["blue"]),
            markersize=8,
            alpha=0.8,
        )
    axes.set_xscale("log")
    axes.set_xlim(3e-19, 3)
    axes.set_xticks([1e-18, 1e-14, 1e-10, 1e-6, 1e-2])
    axes.set_yticks(range(len(means)), list(reversed(means)))
    axes.set_ylim(-0.5, len(means) - 0.5)
    axes.set_xlabel("relative attention moved (share of a row)")
    return figure, (
        "Movement of the first layer's relative attention, largest mean over rows. "
        + " ".join(f"{label}: {max(found):.0e}." for label, found in means.items())
    )


def by_depth(curves: Mapping[str, Sequence[float]]) -> Drawn:
    """Draw how far relative attention moved in each layer of three models."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.6))
    colours = (PALETTE["vermilion"], PALETTE["blue"], PALETTE["green"])
    for (label, curve), colour in zip(curves.items(), colours, strict=True):
        axes.plot(range(1, 1 + len(curve)), curve, "o-", color=colour)
        _name_line(axes, label, (len(curve), curve[-1]), 8)
    axes.set(xlim=(0.7, 8), ylim=(-0.02, 1), xlabel="layer", ylabel="relative attention moved")
    axes.set_xticks(range(1, 7))
    return figure, (
        "Three curves of the movement of relative attention by layer. "
        + " ".join(
            f"{label}: {curve[0]:.0e} in layer 1, {min(curve[1:]):.2f} to "
            f"{max(curve[1:]):.2f} in layers 2 to {len(curve)}."
            for label, curve in curves.items()
        )
    )


def steering(trials: Trials, crowds: Sequence[int]) -> Drawn:
    """Draw the mean cosine to the targets by the number of sentences that one prefix moves."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.8))
    seen = []
    for aim, colour in zip(AIMS, (PALETTE["blue"], PALETTE["vermilion"]), strict=True):
        after = [reached(trials, aim, crowd) for crowd in crowds]
        plotting.line_and_seeds(axes, crowds, after, colour)
        before = [reached(trials, aim, crowd, "before")[0] for crowd in crowds]
        axes.plot(crowds, before, "--", color=colour, linewidth=1)
        first, last = (sum(after[place]) / len(after[place]) for place in (0, -1))
        _name_line(axes, f"to {aim}", (crowds[-1], last), 10)
        seen.append(f"To {aim}: {first:.2f} for {crowds[0]} and {last:.2f} for {crowds[-1]}.")
    axes.set_xscale("log", base=2)
    axes.set_xticks(crowds, [str(crowd) for crowd in crowds])
    axes.set_xlim(0.9 * crowds[0], 2.6 * crowds[-1])
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("sentences that one prefix moves")
    axes.set_ylabel("mean cosine to the targets")
    return figure, "Mean cosine to the targets by number of sentences. " + " ".join(seen)


def _name_line(axes: Axes, name: str, end: tuple[float, float], points: float) -> None:
    axes.annotate(name, end, (points, 0), textcoords="offset points", va="center")


def show_absent(what: str) -> None:
    """Show a small figure that says what would be seen here, and how to get it."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.5))
    axes.axis("off")
    for height, text, family in (
        (0.65, "not in this build", None),
        (0.3, f"to see it: {extra.HOW}", "monospace"),
    ):
        axes.text(
            0.5, height, text, ha="center", va="center", transform=axes.transAxes, family=family
        )
    plotting.show(
        figure,
        f"This figure would show {what}. It is not in this build, because the optional extra "
        f"'{extra.NAME}' is not installed. To see it, run: {extra.HOW}",
    )

"""What do more vectors give, and how many are in use? Each figure with its alt text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from notebooks.prefix_tuning.long_prefixes.plan import QUESTIONS
from notebooks.prefix_tuning.long_prefixes.results import Use, best, lengths
from promptlib import plotting
from promptlib.plotting import MUTED, PALETTE
from promptlib.prefix_tuning.drawing import Drawn
from promptlib.prefix_tuning.trials import Trials

Uses = Mapping[str, Mapping[int, Sequence[Use]]]
"""By question and length, one for each seed."""

COLOURS = dict(zip(QUESTIONS, ("vermilion", "blue"), strict=True))
HEAD_COLOURS = ("blue", "vermilion", "green", "purple", "ochre", "grey")


def attention_over_prefix(weights: Tensor) -> Drawn:
    """Share of each prefix vector in the attention that the prefix gets; (heads, p), rows' mean."""
    heads, length = weights.shape
    ordered = 100 * weights.sort(dim=-1, descending=True).values
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.8))
    places = torch.arange(1, length + 1)
    for head in range(heads):
        axes.plot(places, ordered[head], color=PALETTE["vermilion"], alpha=0.8, linewidth=1.5)
    axes.axhline(100 / length, color=MUTED, linestyle="--", linewidth=1.2)
    axes.text(length, 100 / length * 1.25, "uniform", color=MUTED, ha="right", va="bottom")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-2, top=130)
    axes.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes.set_xlabel("prefix vectors, from the most to the least attended")
    axes.set_ylabel("% of the prefix's attention")
    top = ordered[:, 0]
    alt = (
        f"{heads} falling lines, one for each head: the share of each of {length} prefix vectors. "
        f"The first vector has between {float(top.min()):.0f} and {float(top.max()):.0f} %, where "
        f"uniform would be {100 / length:.1f} %; the last one has less than a tenth of that "
        f"in {int((ordered[:, -1] < 10 / length).sum())} of the heads."
    )
    return figure, alt


def by_length(trials: Trials, blind: float) -> Drawn:
    """Accuracy and loss against length, for both questions; `blind` is a loss to compare with."""
    figure, panels = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.9))
    told = []
    tried = lengths(trials)
    for question in QUESTIONS:
        seeds = [best(trials, question, length) for length in tried]
        accuracy, loss = [ones.percent() for ones in seeds], [ones.losses() for ones in seeds]
        for axes, rows in zip(panels, (accuracy, loss), strict=True):
            plotting.line_and_seeds(axes, tried, rows, PALETTE[COLOURS[question]])
        told.append(
            f"{question}: {np.mean(accuracy[0]):.1f} % and a loss of {np.mean(loss[0]):.3f} with "
            f"{tried[0]}, {np.mean(accuracy[-1]):.1f} % and {np.mean(loss[-1]):.3f} with "
            f"{tried[-1]} vectors."
        )
        height = float(np.mean(accuracy[0]))
        panels[0].annotate(
            question,
            (tried[0], height),
            (4, 9 if height < 50 else -20),
            textcoords="offset points",
            color=PALETTE[COLOURS[question]],
        )
    panels[0].set_ylim(-5, 105)
    panels[0].set_ylabel("sorted downwards (% of sequences)")
    panels[1].set_yscale("log")
    ticks = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
    panels[1].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[1].axhline(blind, color=MUTED, linestyle="--", linewidth=1.2)
    panels[1].text(tried[-1], blind * 0.93, "without looking", color=MUTED, ha="right", va="top")
    panels[1].set_ylabel("loss (nats a symbol)")
    _length_axes(panels, tried)
    figure.supxlabel("length of the prefix", fontsize=12)
    told.append(f"A predictor that does not look at the input has a loss of {blind:.2f}.")
    return figure, "Two panels against prefix length. " + " ".join(told)


def use_by_length(uses: Uses) -> Drawn:
    """Effective number and effective rank against length, for both questions."""
    tried = list(uses[QUESTIONS[0]])
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(plotting.WIDTH, 4.0))
    told = []
    for axes, question in zip(panels, QUESTIONS, strict=True):
        axes.plot(tried, tried, color=MUTED, linestyle="--", linewidth=1.2)
        for name, attribute, colour in (
            ("in use by all rows", "in_use", "ochre"),
            ("attended by a row", "number", "vermilion"),
            ("directions of the bias", "rank", "blue"),
        ):
            rows = [
                [float(getattr(one, attribute).mean()) for one in uses[question][length]]
                for length in tried
            ]
            plotting.line_and_seeds(axes, tried, rows, PALETTE[colour], name)
            told.append(f"{question}, {name}: {np.mean(rows[-1]):.1f} at length {tried[-1]}.")
        axes.set_title(question, loc="left")
        axes.set_yscale("log", base=2)
    panels[0].set_yticks(tried, [str(length) for length in tried])
    panels[0].set_ylabel("effective number")
    panels[0].text(tried[-1], tried[-1], "length  ", color=MUTED, ha="right", va="bottom")
    _length_axes(panels, tried)
    figure.supxlabel("length of the prefix", fontsize=12)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
        labelcolor="linecolor", columnspacing=1.2, handlelength=1.0,
    )  # fmt: skip
    return figure, "Two panels of lines under the diagonal. " + " ".join(told)


def by_head(uses: Uses) -> Drawn:
    """Effective number and rank of the longest prefix, by layer and head: a dot for each seed."""
    length = max(uses[QUESTIONS[0]])
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(plotting.WIDTH, 3.6))
    told = []
    layers, heads = uses[QUESTIONS[0]][length][0].rank.shape
    names = [
        f"layer {layer + 1}, head {head + 1}" for layer in range(layers) for head in range(heads)
    ]
    for axes, attribute, title in (
        (panels[0], "number", "vectors attended by a row"),
        (panels[1], "rank", "directions of the bias"),
    ):
        for question, shift in zip(QUESTIONS, (0.13, -0.13), strict=True):
            table = torch.stack(
                [getattr(one, attribute).flatten() for one in uses[question][length]]
            )
            for place, values in enumerate(table.T.tolist()):
                height = len(names) - 1 - place + shift
                axes.plot(
                    values, [height] * len(values), "o", color=PALETTE[COLOURS[question]],
                    label=question if place == 0 else None, markersize=6,
                )  # fmt: skip
                told.append(f"{title}, {question}, {names[place]}: {np.mean(values):.1f}.")
        axes.set_xlabel(title)
        axes.set_xlim(left=0)
        axes.set_yticks(range(len(names)), list(reversed(names)))
        axes.grid(axis="y", visible=False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2,
        labelcolor="linecolor",
    )  # fmt: skip
    return figure, f"Dots for each head, at length {length}. " + " ".join(told)


def combinations(combined: Sequence[Mapping[str, float]], without: Sequence[float]) -> Drawn:
    """Accuracies of short prefixes and of what is made of them, in [0, 1], for each seed.

    `without` has those without a prefix, in percent.
    """
    names = {
        "single": "one short prefix (mean)",
        "averaged": "mean of their vectors",
        "ensemble": "mean of their predictions",
        "concatenated": "one after another",
        "trained": "one long prefix, trained",
    }
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.2))
    told = []
    before = float(np.mean(without))
    for place, name in enumerate(reversed(names)):
        values = [100 * one[name] for one in combined]
        axes.plot(values, [place] * len(values), "o", color=PALETTE["blue"], markersize=7)
        told.append(f"{names[name]}: {np.mean(values):.1f} %.")
    axes.axvline(before, color=MUTED, linestyle="--", linewidth=1.2)
    axes.text(before, len(names) - 0.45, " no prefix", color=MUTED, va="bottom")
    axes.set_yticks(range(len(names)), list(reversed(names.values())))
    axes.set_ylim(-0.5, len(names))
    axes.set_xlim(right=101)
    axes.set_xlabel("sorted downwards (% of sequences)")
    axes.grid(axis="y", visible=False)
    return figure, "Dots for each seed. " + " ".join(told) + f" Without a prefix: {before:.1f} %."


def reach_by_length(tried: Sequence[int], limits: Tensor) -> Drawn:
    """The largest share that a normalised prefix can take, (lengths, heads), against its length."""
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.5))
    for head in range(limits.shape[1]):
        colour = PALETTE[HEAD_COLOURS[head % len(HEAD_COLOURS)]]
        axes.plot(tried, 100 * limits[:, head], "o-", color=colour, label=f"head {head + 1}")
    axes.set_ylim(0, 104)
    axes.set_ylabel("largest share (% of a row)")
    axes.set_xlabel("length of the prefix")
    _length_axes([axes], tried)
    axes.legend(loc="lower right", labelcolor="linecolor", handlelength=1.2)
    return (
        figure,
        "Rising lines of the largest share that a normalised prefix can take. "
        + " ".join(
            f"Head {head + 1}: {100 * float(limits[0, head]):.0f} % with {tried[0]} vector, "
            f"{100 * float(limits[-1, head]):.0f} % with {tried[-1]}."
            for head in range(limits.shape[1])
        ),
    )


def _length_axes(panels: Sequence[Axes], tried: Sequence[int]) -> None:
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(tried, [str(length) for length in tried])
        axes.minorticks_off()

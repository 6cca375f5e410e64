"""The figures of the chapter "Long prefixes". Each function returns a figure and its alt text."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from notebooks.prefix_tuning.long_prefixes.claims_measured import KNOWN, NEW, longest
from notebooks.prefix_tuning.long_prefixes.plan import QUESTIONS
from notebooks.prefix_tuning.long_prefixes.results import Measured
from promptlib import claims, plotting
from promptlib.checks import check_public
from promptlib.plotting import MUTED, PALETTE

Drawn = tuple[Figure, str]

COLOURS = dict(zip(QUESTIONS, ("vermilion", "blue"), strict=True))
HEAD_COLOURS = ("blue", "vermilion", "green", "purple", "ochre", "grey")


def attention_over_prefix(weights: Tensor) -> Drawn:
    """Share of each prefix vector in the attention that the prefix gets, for each head.

    Parameters
    ----------
    weights : Tensor, shape (heads, p)
        Means over rows, each summing to one; heads are named by layer and number.
    """
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


def by_length(measured: Measured, blind: float) -> Drawn:
    """Accuracy and loss against length, for both questions; `blind` is a loss to compare with."""
    figure, panels = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.9))
    told = []
    lengths = sorted(measured.tuned[NEW])
    for question in QUESTIONS:
        seeds = measured.tuned[question]
        accuracy = [measured.best(question, length) for length in lengths]
        loss = [[one.loss for one in seeds[length]] for length in lengths]
        for axes, rows in zip(panels, (accuracy, loss), strict=True):
            _band(axes, lengths, rows, PALETTE[COLOURS[question]])
        told.append(
            f"{question}: {np.mean(accuracy[0]):.1f} % and a loss of {np.mean(loss[0]):.3f} with "
            f"{lengths[0]}, {np.mean(accuracy[-1]):.1f} % and {np.mean(loss[-1]):.3f} with "
            f"{lengths[-1]} vectors."
        )
        height = float(np.mean(accuracy[0]))
        panels[0].annotate(
            question,
            (lengths[0], height),
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
    panels[1].text(lengths[-1], blind * 0.93, "without looking", color=MUTED, ha="right", va="top")
    panels[1].set_ylabel("loss (nats a symbol)")
    _length_axes(panels, lengths)
    figure.supxlabel("length of the prefix", fontsize=12)
    told.append(f"A predictor that does not look at the input has a loss of {blind:.2f}.")
    return figure, "Two panels against prefix length. " + " ".join(told)


def use_by_length(measured: Measured) -> Drawn:
    """Effective number and effective rank against length, for both questions."""
    lengths = sorted(measured.tuned[NEW])
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(plotting.WIDTH, 4.0))
    told = []
    for axes, question in zip(panels, QUESTIONS, strict=True):
        axes.plot(lengths, lengths, color=MUTED, linestyle="--", linewidth=1.2)
        for name, attribute, colour in (
            ("in use by all rows", "in_use", "ochre"),
            ("attended by a row", "number", "vermilion"),
            ("directions of the bias", "rank", "blue"),
        ):
            rows = [
                [float(getattr(one.use, attribute).mean()) for one in measured.tuned[question][p]]
                for p in lengths
            ]
            _band(axes, lengths, rows, PALETTE[colour], name)
            told.append(f"{question}, {name}: {np.mean(rows[-1]):.1f} at length {lengths[-1]}.")
        axes.set_title(question, loc="left")
        axes.set_yscale("log", base=2)
    panels[0].set_yticks(lengths, [str(length) for length in lengths])
    panels[0].set_ylabel("effective number")
    panels[0].text(lengths[-1], lengths[-1], "length  ", color=MUTED, ha="right", va="bottom")
    _length_axes(panels, lengths)
    figure.supxlabel("length of the prefix", fontsize=12)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
        labelcolor="linecolor", columnspacing=1.2, handlelength=1.0,
    )  # fmt: skip
    return figure, "Two panels of lines under the diagonal. " + " ".join(told)


def by_head(measured: Measured) -> Drawn:
    """Effective number and rank of the longest prefix, by layer and head: a dot for each seed."""
    length = longest(measured)
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(plotting.WIDTH, 3.6))
    told = []
    layers, heads = measured.tuned[NEW][length][0].use.rank.shape
    names = [
        f"layer {layer + 1}, head {head + 1}" for layer in range(layers) for head in range(heads)
    ]
    for axes, attribute, title in (
        (panels[0], "number", "vectors attended by a row"),
        (panels[1], "rank", "directions of the bias"),
    ):
        for question, shift in zip(QUESTIONS, (0.13, -0.13), strict=True):
            table = torch.stack(
                [getattr(one.use, attribute).flatten() for one in measured.tuned[question][length]]
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


def combinations(measured: Measured) -> Drawn:
    """Accuracies of short prefixes and of what is made of them, for the known task."""
    names = {
        "single": "one short prefix (mean)",
        "averaged": "mean of their vectors",
        "ensemble": "mean of their predictions",
        "concatenated": "one after another",
        "trained": "one long prefix, trained",
    }
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.2))
    told = []
    before = 100 * float(np.mean(measured.bases[KNOWN]))
    for place, name in enumerate(reversed(names)):
        values = [100 * getattr(one, name) for one in measured.combined]
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


def reach_by_length(lengths: Sequence[int], limits: Tensor) -> Drawn:
    """The largest share that a normalised prefix can take, against its length.

    Parameters
    ----------
    lengths : sequence of int
    limits : Tensor, shape (lengths, heads)
        Means over rows.
    """
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 3.5))
    for head in range(limits.shape[1]):
        colour = PALETTE[HEAD_COLOURS[head % len(HEAD_COLOURS)]]
        axes.plot(lengths, 100 * limits[:, head], "o-", color=colour, label=f"head {head + 1}")
    axes.set_ylim(0, 104)
    axes.set_ylabel("largest share (% of a row)")
    axes.set_xlabel("length of the prefix")
    _length_axes([axes], lengths)
    axes.legend(loc="lower right", labelcolor="linecolor", handlelength=1.2)
    return (
        figure,
        "Rising lines of the largest share that a normalised prefix can take. "
        + " ".join(
            f"Head {head + 1}: {100 * float(limits[0, head]):.0f} % with {lengths[0]} vector, "
            f"{100 * float(limits[-1, head]):.0f} % with {lengths[-1]}."
            for head in range(limits.shape[1])
        ),
    )


def _band(
    axes: Axes,
    lengths: Sequence[int],
    rows: Sequence[Sequence[float]],
    colour: str,
    label: str | None = None,
) -> None:
    """Mean over seeds as a line, seeds as dots."""
    axes.plot(lengths, [float(np.mean(row)) for row in rows], color=colour, label=label)
    for length, row in zip(lengths, rows, strict=True):
        axes.plot([length] * len(row), row, "o", color=colour, markersize=4, alpha=0.7)


def _length_axes(panels: Sequence[Axes], lengths: Sequence[int]) -> None:
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % t-interval, in words."""
    half = claims.t_half_width(values)
    mean = f"{float(np.mean(values)):.2f}"
    return mean if half is None else f"{mean} ± {half:.2f}"


check_public(__name__)

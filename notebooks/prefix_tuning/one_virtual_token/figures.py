"""What does the residual stream look like while a virtual token is unpacked?

Each function returns a figure and its alternative text, for :func:`promptlib.plotting.show`.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from promptlib import plotting
from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions import unpacking
from promptlib.prefix_tuning.constructions.conditional import ConditionalGenerator
from promptlib.prefix_tuning.constructions.symbols import decode, encode
from promptlib.prefix_tuning.constructions.transformer import Layout, Stage
from promptlib.prefix_tuning.constructions.unconditional import UnconditionalGenerator

__all__ = ["lookup", "one_token_each", "row_by_row", "stream_by_stage", "virtual_table"]

SPACE = "␣"


def one_token_each(speaker: UnconditionalGenerator, texts: Sequence[str]) -> tuple[Figure, str]:
    """Virtual tokens as bars, each with the text that the same transformer says from it."""
    figure, rows = plt.subplots(
        len(texts), 1, sharey=True, figsize=(plotting.WIDTH, 1.65 * len(texts)), squeeze=False
    )
    said = []
    for axes, text, colour in zip(rows[:, 0], texts, plotting.PALETTE.values(), strict=False):
        token = speaker.virtual_token(encode(text))
        said.append(decode(speaker.generate(token)))
        axes.bar(range(len(text)), token.tolist(), color=colour, width=0.7, linewidth=0)
        axes.set_xticks(range(len(text)), [c.replace(" ", SPACE) for c in said[-1]], fontsize=15)
        axes.tick_params(axis="x", length=0)
        axes.set(ylim=(0, 1), yticks=[0, 1])
        axes.grid(axis="x", visible=False)
    rows[len(texts) // 2, 0].set_ylabel("coordinate of the virtual token")
    rows[-1, 0].set_xlabel("what the transformer then says, symbol by symbol")
    return figure, (
        f"{len(texts)} rows of {speaker.length} bars with heights between 0 and 1, each row one "
        f"vector. Below the bars stands what the same transformer says from it: {'; '.join(said)}."
    )


def stream_by_stage(
    stages: Sequence[Stage],
    layout: Layout,
    row_labels: Sequence[str],
    *,
    row_title: str = "position",
    short: dict[str, str] | None = None,
) -> tuple[Figure, str]:
    """The residual stream at all positions after each part of a transformer.

    Parameters
    ----------
    stages : sequence of Stage
        Streams of shape (T, d).
    layout : Layout
    row_labels : sequence of str
        One for each of the T positions.
    row_title : str
    short : dict of str, optional
        Names to write above the slots, where others than the slots' own.
    """
    height = 0.24 * len(row_labels) + 0.45
    figure, panels = plt.subplots(
        len(stages), 1, figsize=(plotting.WIDTH, height * len(stages) + 0.6), sharex=True
    )
    top = max(float(stage.stream.max()) for stage in stages)
    for place, (axes, stage) in enumerate(zip(panels, stages, strict=True)):
        image = axes.imshow(
            stage.stream.numpy(), cmap=plotting.SEQUENTIAL, vmin=0, vmax=top, aspect="auto"
        )
        axes.set_yticks(range(len(row_labels)), row_labels, fontsize=10)
        axes.set_xticks([])
        axes.set_ylabel(f"after\n{stage.name}" if place else stage.name, fontsize=10)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        _slots(axes, layout, labels=not place, short=short or {})
    panels[-1].set_xlabel(f"coordinate of the stream (rows: {row_title})")
    figure.colorbar(image, ax=panels, label="value", shrink=0.5, pad=0.02)
    filled = [
        (stage.name, [n for n in layout.names if float(stage.stream[..., layout[n]].max()) > 1e-9])
        for stage in stages
    ]
    return figure, (
        f"Heat maps of the stream, {len(row_labels)} positions by {layout.width} coordinates. "
        + " ".join(f"{name}: the slots {', '.join(slots)} are filled." for name, slots in filled)
    )


def _slots(axes: Axes, layout: Layout, labels: bool, short: dict[str, str]) -> None:
    """Lines between the slots, and their names above."""
    for name in layout.names:
        slot = layout[name]
        if slot.start:
            axes.axvline(slot.start - 0.5, color=plotting.PAPER, linewidth=2.5)
        if labels:
            middle = (slot.start + slot.stop - 1) / 2
            axes.annotate(
                short.get(name, name),
                (middle, 1.0),
                (0, 4),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=10,
                rotation=0 if slot.stop - slot.start > 2 else 30,
            )


def lookup(speaker: UnconditionalGenerator, text: str, at: int) -> tuple[Figure, str]:
    """How one coordinate of the virtual token is picked out: the three steps, as bars.

    Parameters
    ----------
    text : str
        Of the length that the transformer says.
    at : int
        The position that says its symbol, from 0.
    """
    token = speaker.virtual_token(encode(text))
    contents = torch.cat((token[None], speaker.embedding[encode(text)[:-1]]))
    stages = speaker.stages(contents)
    read = stages[1].stream[at, speaker.layout["read"]]
    value = float(stages[2].stream[at, speaker.layout["value"]])
    own = torch.zeros_like(token)
    own[at] = 1.0
    rows = (
        (token, "head 2 reads the virtual token", 1.05),
        (own, "head 1 reads where we are", 1.05),
        (read, "their sum, and the line at 1", 2.05),
        ((read - 1).relu(), "minus 1, ReLU: one is left", 1.05),
    )
    figure, panels = plt.subplots(4, 1, figsize=(plotting.WIDTH, 5.6), sharex=True)
    places = range(speaker.length)
    for axes, (values, title, top) in zip(panels, rows, strict=True):
        colours = [plotting.PALETTE["blue"]] * speaker.length
        colours[at] = plotting.PALETTE["vermilion"]
        axes.bar(places, values.tolist(), color=colours, width=0.7, linewidth=0)
        axes.set_title(title, loc="left")
        axes.set(ylim=(0, top), yticks=range(int(top) + 1))
        axes.grid(axis="x", visible=False)
    panels[2].axhline(1, color=plotting.INK, linewidth=1.2, linestyle="--")
    panels[-1].set_xticks(places, [c.replace(" ", SPACE) for c in text], fontsize=13)
    panels[-1].set_xlabel("coordinate, with the character that it stands for")
    return figure, (
        f"Four rows of bars for the text {text!r} at its character {at + 1}. The sum of both reads "
        f"is {float(read[at]):.4f} there and below 1 elsewhere; after subtracting 1 and ReLU only "
        f"{value:.4f} is left, the coordinate of {text[at]!r}."
    )


def virtual_table(
    speaker: ConditionalGenerator, answers: Sequence[str], prompts: str
) -> tuple[Figure, str]:
    """Virtual tokens as a table: one row for each, with the symbols that they ask for.

    Parameters
    ----------
    answers : sequence of str
        For each prompt a text over `prompts` of ``N`` symbols.
    prompts : str
        The vocabulary, one character for each symbol.
    """
    symbols = torch.tensor([[prompts.index(c) for c in answer] for answer in answers])
    tokens = speaker.virtual_token(symbols)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 0.36 * len(tokens) + 1.3))
    image = axes.imshow(tokens.numpy(), cmap=plotting.SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
    for row in range(len(tokens)):
        for column, answer in enumerate(answers):
            shade = "white" if float(tokens[row, column]) < 0.55 else "black"
            axes.text(
                column, row, answer[row].replace(" ", "·"), ha="center", va="center",
                color=shade, fontsize=10,
            )  # fmt: skip
    axes.set_xticks(range(len(prompts)), [c.replace(" ", SPACE) for c in prompts])
    axes.set_yticks(range(len(tokens)), [str(row + 1) for row in range(len(tokens))])
    axes.set_xlabel("coordinate: the symbol of the prompt")
    axes.set_ylabel("virtual token")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="value", pad=0.02)
    spelt = ", ".join(answer.strip() for answer in answers[:4])
    return figure, (
        f"A table of {len(tokens)} rows, the virtual tokens, and {len(prompts)} columns, the "
        f"prompts. Read downwards, the columns spell the answers: {spelt} and so on."
    )


def row_by_row(number: Tensor, base: int) -> tuple[Figure, str]:
    """How the digits of a packed number come out, one by one.

    Parameters
    ----------
    number : Tensor, shape ()
        Packed digits base `base`.
    base : int
    """
    found = unpacking.remainders(number, base)
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.2))
    places = range(1, base + 1)
    axes.hlines(range(base), 0.5, base + 0.5, color=plotting.GRID, linewidth=0.8)
    for place, z, digit in zip(places, found[:, 0].tolist(), found[:, -1].tolist(), strict=True):
        axes.vlines(place, 0, digit, color=plotting.PALETTE["blue"], linewidth=7)
        axes.vlines(place, digit, z, color=plotting.PALETTE["vermilion"], linewidth=7)
        axes.annotate(
            f"{digit:.0f}", (place, z), (0, 6), textcoords="offset points", ha="center", fontsize=13
        )
    axes.annotate(
        "what remains (red), times the base, is the next number",
        (0.98, 0.97),
        xycoords="axes fraction",
        ha="right",
        va="top",
        color=plotting.PALETTE["vermilion"],
    )
    axes.set(ylim=(0, base + 1.6), yticks=range(0, base + 1, 2), xlim=(0.5, base + 0.5))
    axes.set_xticks(places)
    axes.set_xlabel("digit, from the first")
    axes.set_ylabel(f"number between 0 and {base}")
    axes.grid(visible=False)
    listed = ", ".join(f"{digit:.0f}" for digit in found[:, -1].tolist())
    return figure, (
        f"Unpacking {float(number):.{base}f} in base {base}. Each bar is a number below {base}; "
        f"its whole part is the digit, in order {listed}; the rest of each bar, times {base}, is "
        "the next bar."
    )


check_public(__name__)

"""How is a virtual token unpacked, where do the constructions fail, and how much do they say?

Each function returns a figure and its alternative text, for :func:`promptlib.plotting.show`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from notebooks.prefix_tuning.one_virtual_token import measuring, theory
from notebooks.prefix_tuning.one_virtual_token.texts import decode, encode
from promptlib import plotting
from promptlib.prefix_tuning.constructions import bounds
from promptlib.prefix_tuning.constructions.conditional import (
    ConditionalGenerator,
    conditional_generator,
)
from promptlib.prefix_tuning.constructions.transformer import Layout, Stage
from promptlib.prefix_tuning.constructions.unconditional import (
    UnconditionalGenerator,
    unconditional_generator,
)

Drawn = tuple[Figure, str]

SPACE = "␣"


def one_token_each(speaker: UnconditionalGenerator, texts: Sequence[str]) -> Drawn:
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
) -> Drawn:
    """The residual stream at all positions after each part; `short` names slots otherwise."""
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


def lookup(speaker: UnconditionalGenerator, text: str, at: int) -> Drawn:
    """How one coordinate of the virtual token is picked out: the three steps, as bars."""
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


def virtual_table(speaker: ConditionalGenerator, answers: Sequence[str], prompts: str) -> Drawn:
    """Virtual tokens as a table, one row each; for each of `prompts` a text over them."""
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


def row_by_row(number: Tensor, base: int) -> Drawn:
    """How the digits of a packed number come out, one by one."""
    found = theory.remainders(number, base)
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


def wrong_by_temperature(
    vocab_size: int, length: int, betas: Sequence[float], samples: int, generator: torch.Generator
) -> list[float]:
    """Share of wrong symbols in random sequences, at each inverse temperature."""
    wanted = torch.randint(0, vocab_size, (samples, length), generator=generator)
    shares = []
    for beta in betas:
        speaker = unconditional_generator(
            vocab_size, length, inverse_temperature=beta, beyond_bounds=True
        )
        wrong = measuring.wrong_symbols(speaker, wanted)
        shares.append(float(wrong.sum()) / wanted.numel())
    return shares


def temperature(
    vocab_size: int, lengths: Sequence[int], samples: int, generator: torch.Generator
) -> Drawn:
    """Wrong symbols of random texts against the inverse temperature, with the proved bounds."""
    betas = [0.25 * step for step in range(57)]
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.0))
    described = []
    for length, (name, colour) in zip(lengths, plotting.PALETTE.items(), strict=False):
        shares = wrong_by_temperature(vocab_size, length, betas, samples, generator)
        axes.plot(betas, [100 * share for share in shares], color=colour)
        proved = bounds.least_inverse_temperature(vocab_size, length)
        axes.axvline(proved, color=colour, linestyle="--", linewidth=1.3)
        axes.annotate(
            f"N = {length}", (0.3, 100 * shares[0]), (0, -5), textcoords="offset points",
            va="top", color=colour,
        )  # fmt: skip
        last = max((b for b, share in zip(betas, shares, strict=True) if share), default=0.0)
        described.append(
            f"For length {length} ({name}) errors were last seen at {last:.2f}; the bound is "
            f"{proved:.2f}."
        )
    axes.set(xlim=(0, 14), ylim=(-2, 102))
    axes.set_xlabel(r"inverse temperature $\beta$ (nats)")
    axes.set_ylabel("wrong symbols (%)")
    return figure, (
        f"Share of wrong symbols in {samples} random texts over {vocab_size} symbols. The "
        "curves are flat where attention is hot, nearly all but the first symbol wrong, and fall "
        "to zero before the dashed line of their length. " + " ".join(described)
    )


def precision(samples: int, generator: torch.Generator) -> Drawn:
    """Where float64 ends: by vocabulary for sequences, by digit for packed maps."""
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(plotting.WIDTH, 4.0), width_ratios=(1.1, 1)
    )
    exponents = [20 + 0.5 * step for step in range(21)]
    shares = []
    for exponent in exponents:
        wanted, said = measuring.texts_beyond(round(2**exponent), 2, 4 * samples, generator)
        shares.append(100 * float((wanted != said).double().mean()))
    left.plot(exponents, shares, "o-", color=plotting.PALETTE["blue"], markersize=4)
    left.axvline(24, color=plotting.MUTED, linestyle="--", linewidth=1.2)
    left.annotate(
        "proved\nup to here", (24, 62), (-5, 0), textcoords="offset points", ha="right", fontsize=10
    )
    left.set_xlabel("$\\log_2 V$, sequences of two")
    left.set_ylabel("wrong symbols (%)")
    left.set_xticks([20, 22, 24, 26, 28, 30])
    described = []
    for vocab_size, colour in zip((13, 14, 15), list(plotting.PALETTE.values())[2:], strict=False):
        maps = measuring.random_maps(samples, vocab_size, 1, 2, generator)
        speaker = conditional_generator(vocab_size, inputs=2, beyond_bounds=True)
        wrong = 100 * (measuring.answers(speaker, maps) != maps).double().mean((0, 1))
        right.plot(range(1, vocab_size + 1), wrong, "o-", color=colour, markersize=4)
        if wrong[-1] > 1:
            end, shift, side = (vocab_size, float(wrong[-1])), (-7, 5), "right"
        else:  # nothing is wrong: a flat line, named where the others have not risen
            end, shift, side = (1, 0.0), (0, 6), "left"
        right.annotate(
            f"V = {vocab_size}", end, shift, textcoords="offset points", color=colour, ha=side
        )
        described.append(f"{float(wrong[-1]):.0f} % of the last digit for V = {vocab_size}")
    right.set_xlabel("digit, packed rows")
    right.set_xticks([1, 5, 10, 15])
    right.set_ylim(-3, 103)
    first = next(e for e, share in zip(exponents, shares, strict=True) if share)
    return figure, (
        f"Left: no wrong symbols up to V = 2 to the {first - 0.5:g}, then rising to "
        f"{shares[-1]:.0f} % at 2 to the 30. Right: wrong digits of packed rows, by place; "
        + ", ".join(described)
        + "."
    )


def behaviours(length: int) -> Drawn:
    """Bits of behaviour against the size of the vocabulary, and the bits of a float64 vector."""
    sizes = range(2, 101)
    curves = {
        "a symbol": ([math.log2(v) for v in sizes], "grey"),
        f"{length} out": ([theory.log2_behaviours(v, length) for v in sizes], "blue"),
        "one in, one out": ([theory.log2_behaviours(v, 1, 1) for v in sizes], "green"),
        "two in, one out": ([theory.log2_behaviours(v, 1, 2) for v in sizes], "vermilion"),
    }
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 4.4))
    for label, (bits, name) in curves.items():
        colour = plotting.PALETTE[name]
        axes.plot(sizes, bits, color=colour)
        axes.annotate(
            label, (sizes[-1], bits[-1]), (5, 0), textcoords="offset points", va="center",
            color=colour, annotation_clip=False,
        )  # fmt: skip
    held = [64 * v for v in sizes]
    axes.plot(sizes, held, color=plotting.INK, linestyle="--", linewidth=1.4)
    axes.annotate(
        "$V$ float64 numbers", (sizes[-1], held[-1]), (5, 0), textcoords="offset points",
        va="center", annotation_clip=False,
    )  # fmt: skip
    crossing = next(v for v in sizes if theory.log2_behaviours(v, 1, 2) >= 64 * v)
    axes.plot(
        crossing, 64 * crossing, "o", color=plotting.PALETTE["vermilion"], markersize=8, zorder=3
    )
    axes.annotate(
        f"V = {crossing}",
        (crossing, 64 * crossing),
        (-6, 6),
        textcoords="offset points",
        ha="right",
    )
    axes.set(xscale="log", yscale="log")
    axes.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_xlabel("symbols $V$")
    axes.set_ylabel("bits to name one behaviour")
    most = {label: f"{bits[-1]:.0f}" for label, (bits, _) in curves.items()}
    return figure, (
        "Bits of behaviour on logarithmic axes, up to 100 symbols, where a vocabulary symbol "
        f"names {most['a symbol']} bits, {length} symbols out {most[f'{length} out']}, maps of one "
        f"symbol {most['one in, one out']}, and maps of two {most['two in, one out']}. The last is "
        f"above the {held[-1]} bits of a float64 vector of width 100; they cross at {crossing}."
    )

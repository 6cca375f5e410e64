"""What do the constructions look like where they begin to fail, and how much do they say?

Each function returns a figure and its alternative text, for :func:`promptlib.plotting.show`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from notebooks.prefix_tuning.one_virtual_token import measuring
from promptlib import plotting
from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions import bounds
from promptlib.prefix_tuning.constructions.conditional import conditional_generator
from promptlib.prefix_tuning.constructions.unconditional import unconditional_generator

__all__ = ["behaviours", "precision", "temperature", "wrong_by_temperature"]


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
) -> tuple[Figure, str]:
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


def precision(samples: int, generator: torch.Generator) -> tuple[Figure, str]:
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


def behaviours(length: int) -> tuple[Figure, str]:
    """Bits of behaviour against the size of the vocabulary, and the bits of a float64 vector."""
    sizes = range(2, 101)
    curves = {
        "a symbol": ([math.log2(v) for v in sizes], "grey"),
        f"{length} out": ([bounds.log2_behaviours(v, length) for v in sizes], "blue"),
        "one in, one out": ([bounds.log2_behaviours(v, 1, 1) for v in sizes], "green"),
        "two in, one out": ([bounds.log2_behaviours(v, 1, 2) for v in sizes], "vermilion"),
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
    crossing = next(v for v in sizes if bounds.log2_behaviours(v, 1, 2) >= 64 * v)
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


check_public(__name__)

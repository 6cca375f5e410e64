"""What is claimed of transformers whose weights are written down, and what would refute it?

Each row is judged by what was measured for it (`claims.check_each`); errors of decoding are counts
of wrong symbols.
"""

from __future__ import annotations

from notebooks.prefix_tuning.one_virtual_token import measuring, theory
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prefix_tuning.constructions import bounds, pieces, unpacking
from promptlib.prefix_tuning.constructions.conditional import conditional_generator
from promptlib.prefix_tuning.constructions.unconditional import unconditional_generator

PAPER = "Petrov et al. 2024, virtual tokens and expressiveness"
EXACT = 0.5
"""Tolerance of errors that are counted: none is allowed."""

ROWS = (
    claims.Identity(
        "one-token-any-sequence",
        "For each of the $V^N$ sequences there is one virtual token from which the same "
        "transformer decodes it (all sequences of all small sizes; error: wrong symbols).",
        tolerance=EXACT,
        source=PAPER,
        checks=unconditional_generator,
    ),
    claims.Identity(
        "one-token-any-text",
        lambda m: (
            f"Random texts in printable ASCII, up to {m.largest:,} characters, are decoded from "
            "one virtual token without a wrong character."
        ),
        errors=lambda m: m.values,
        tolerance=EXACT,
        source=PAPER,
        checks=unconditional_generator,
    ),
    claims.Identity(
        "one-token-any-map",
        "For each of the $V^V$ maps from symbols to symbols there is one virtual token with which "
        "the same transformer answers every prompt as the map says.",
        tolerance=EXACT,
        source=PAPER,
        checks=conditional_generator,
    ),
    claims.Identity(
        "virtual-tokens-any-answers",
        "With $N$ virtual tokens the same transformer answers each of $V$ prompts with $N$ "
        "symbols, for each of the $V^{NV}$ maps.",
        tolerance=EXACT,
        source=PAPER,
        checks=conditional_generator,
    ),
    claims.Identity(
        "one-token-any-pair-map",
        "For each of the $V^{V^2}$ maps from pairs of symbols to symbols there is one virtual "
        "token of width $V$ with which the same transformer answers every pair.",
        tolerance=EXACT,
        source=PAPER,
        checks=conditional_generator,
    ),
    claims.Identity(
        "one-token-counts",
        "Virtual tokens give $V^N$ different sequences and a symbol in their place only $V$; maps "
        "give $V^V$, $V^{NV}$ and $V^{V^2}$ different behaviours (error: of the count).",
        tolerance=EXACT,
        source=PAPER,
        checks=measuring.answers,
    ),
    claims.Bound(
        "one-token-leak",
        r"A head with a logit ahead of all others by $\beta$ gives the others at most "
        r"$(n-1)e^{-\beta}$ of its attention.",
        values=lambda m: m.values,
        limits=lambda m: m.limits,
        tolerance=1e-15,
        source=HERE,
        checks=pieces.read_positions,
        search=lambda m: m.search,
    ),
    claims.Bound(
        "one-token-total-error",
        r"At $\beta = \log(4V(N-1))$ the number that a lookup finds is wrong by at most $1/(2V)$, "
        "whatever the table and the other positions hold (in units of that margin).",
        values=lambda m: m.values,
        limits=1.0,
        tolerance=1e-12,
        source=HERE,
        checks=bounds.least_inverse_temperature,
        search=lambda m: m.search,
    ),
    claims.Identity(
        "one-token-critical-temperature",
        r"All sequences are decoded if $\beta > \log((N-1)(4V-3))$, and some sequence is not if "
        r"$\beta$ is smaller; one in and $N$ out likewise with $\log((4V-2)(2N-2)-(2N-1))$. "
        "Measured on all sequences and maps of small sizes, on the hardest ones of larger sizes.",
        tolerance=1e-8,
        source=HERE,
        checks=theory.critical_inverse_temperature,
    ),
    claims.Identity(
        "one-token-two-positions",
        "With one symbol in and one out the leaks of the two heads cancel: every map is answered "
        "at every inverse temperature, zero and below included.",
        tolerance=EXACT,
        source=HERE,
        checks=conditional_generator,
    ),
    claims.Identity(
        "one-token-unpacking",
        r"A network of ReLUs reads all $V$ digits of a packed number that is wrong by up to "
        r"$\frac{15}{32}V^{-V}$.",
        tolerance=1e-9,
        source=HERE,
        checks=unpacking.unpack,
    ),
    claims.Bound(
        "one-token-thirteen-symbols",
        lambda m: (
            f"With {m.largest} symbols, and with fewer, the packed number that is looked up is "
            "wrong by less than the margin of the unpacking, rounding included (in units of the "
            "margin)."
        ),
        values=lambda m: m.values,
        limits=1.0,
        source=HERE,
        checks=bounds.check_vocabulary,
        search=lambda m: m.search,
    ),
    claims.Bound(
        "one-token-fourteen-symbols-fail",
        "With 14 or 15 symbols float64 cannot hold the packed rows: more than 1 % of the answers "
        "are wrong.",
        values=lambda m: m.values,
        limits=lambda m: m.limits,
        source=HERE,
        checks=bounds.check_vocabulary,
        search=lambda m: m.search,
    ),
    claims.Identity(
        "one-token-largest-vocabulary",
        "Float64 tells apart at least $2^{24}$ symbols: random sequences over vocabularies up to "
        "that size are decoded without a wrong symbol.",
        tolerance=EXACT,
        source=HERE,
        checks=pieces.nearest_symbol,
    ),
)

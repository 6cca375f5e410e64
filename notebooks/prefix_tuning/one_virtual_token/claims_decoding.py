r"""Does each construction decode all that it should? The claims, one function each.

A function measures, decides and returns the claim. What builds the transformer is passed in, so
that a test can pass in something that builds a wrong one. Errors are counts of wrong symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from notebooks.prefix_tuning.one_virtual_token import measuring
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions.conditional import (
    ConditionalGenerator,
    conditional_generator,
)
from promptlib.prefix_tuning.constructions.symbols import PRINTABLE
from promptlib.prefix_tuning.constructions.unconditional import (
    UnconditionalGenerator,
    unconditional_generator,
)

PAPER = "Petrov et al. 2024, virtual tokens and expressiveness"
EXACT = 0.5
"""Tolerance of errors that are counted: none is allowed."""

_HOME = "promptlib.prefix_tuning.constructions"

Unconditional = Callable[..., UnconditionalGenerator]
Conditional = Callable[..., ConditionalGenerator]


def any_sequence(most: int, build: Unconditional = unconditional_generator) -> claims.Claim:
    """Every sequence is said, for all small vocabularies and lengths.

    Parameters
    ----------
    most : int
        Sizes with at most so many sequences are exhausted, up to 7 symbols and length 8.
    """
    wrong = [
        measuring.wrong_symbols(build(v, n), measuring.all_sequences(v, n))
        for v, n in measuring.sizes_up_to(most)
    ]
    return claims.identity(
        "prefix-tuning/one-token-any-sequence",
        "For each of the $V^N$ sequences there is one virtual token from which the same "
        "transformer decodes it (all sequences of all small sizes; error: wrong symbols).",
        errors=torch.cat(wrong),
        tolerance=EXACT,
        source=PAPER,
        checks=unconditional_generator,
    )


def any_text(
    lengths: Sequence[int],
    samples: int,
    generator: torch.Generator,
    build: Unconditional = unconditional_generator,
) -> claims.Claim:
    """Random texts in printable ASCII are said to the letter.

    Parameters
    ----------
    lengths : sequence of int
    samples : int
        Texts of each length.
    """
    wrong = []
    for length in lengths:
        texts = torch.randint(0, len(PRINTABLE), (samples, length), generator=generator)
        wrong.append(measuring.wrong_symbols(build(len(PRINTABLE), length), texts))
    return claims.identity(
        "prefix-tuning/one-token-any-text",
        f"Random texts in printable ASCII, up to {max(lengths):,} characters, are decoded from one "
        "virtual token without a wrong character.",
        errors=torch.cat(wrong),
        tolerance=EXACT,
        source=PAPER,
        checks=unconditional_generator,
    )


def any_map(
    most: int,
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> claims.Claim:
    """Every map from symbols to symbols is answered.

    Parameters
    ----------
    most : int
        Vocabularies with at most so many maps are exhausted.
    sizes : sequence of int
        Larger vocabularies, with random maps.
    samples : int
        Maps of each.
    """
    small = [v for v, n in measuring.sizes_up_to(most, conditional=True) if n == 1]
    wrong = [measuring.wrong_answers(build(v), measuring.all_maps(v)) for v in small]
    for v in sizes:
        maps = measuring.random_maps(samples, v, 1, 1, generator)
        wrong.append(measuring.wrong_answers(build(v), maps))
    return claims.identity(
        "prefix-tuning/one-token-any-map",
        "For each of the $V^V$ maps from symbols to symbols there is one virtual token with which "
        "the same transformer answers every prompt as the map says.",
        errors=torch.cat(wrong),
        tolerance=EXACT,
        source=PAPER,
        checks=conditional_generator,
    )


def any_answers(
    most: int,
    sizes: Sequence[tuple[int, int]],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> claims.Claim:
    """Every map from symbols to sequences is answered.

    Parameters
    ----------
    most : int
        Sizes with at most so many maps are exhausted.
    sizes : sequence of (V, N)
        Larger sizes, with random maps.
    samples : int
        Maps of each.
    """
    small = [(v, n) for v, n in measuring.sizes_up_to(most, conditional=True) if n > 1]
    wrong = [measuring.wrong_answers(build(v, n), measuring.all_maps(v, n)) for v, n in small]
    for v, n in sizes:
        maps = measuring.random_maps(samples, v, n, 1, generator)
        wrong.append(measuring.wrong_answers(build(v, n), maps))
    return claims.identity(
        "prefix-tuning/virtual-tokens-any-answers",
        "With $N$ virtual tokens the same transformer answers each of $V$ prompts with $N$ "
        "symbols, for each of the $V^{NV}$ maps.",
        errors=torch.cat(wrong),
        tolerance=EXACT,
        source=PAPER,
        checks=conditional_generator,
    )


def any_pair_map(
    most: int,
    sizes: Sequence[tuple[int, int]],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> claims.Claim:
    """Every map from pairs of symbols is answered.

    Parameters
    ----------
    most : int
        Vocabularies with at most so many maps are exhausted: 2**4 for two, 3**9 for three symbols.
    sizes : sequence of (V, N)
        Larger sizes, with random maps.
    samples : int
        Maps of each.
    """
    small = [v for v in (2, 3) if v ** (v * v) <= most]
    wrong = [
        measuring.wrong_answers(build(v, inputs=2), measuring.all_maps(v, inputs=2)) for v in small
    ]
    for v, n in sizes:
        maps = measuring.random_maps(samples, v, n, 2, generator)
        wrong.append(measuring.wrong_answers(build(v, n, inputs=2), maps))
    return claims.identity(
        "prefix-tuning/one-token-any-pair-map",
        "For each of the $V^{V^2}$ maps from pairs of symbols to symbols there is one virtual "
        "token of width $V$ with which the same transformer answers every pair.",
        errors=torch.cat(wrong),
        tolerance=EXACT,
        source=PAPER,
        checks=conditional_generator,
    )


def counts(
    most: int,
    build: Unconditional = unconditional_generator,
    build_conditional: Conditional = conditional_generator,
) -> claims.Claim:
    """How many behaviours there are: ``V ** N`` from vectors, ``V`` from symbols.

    Parameters
    ----------
    most : int
        Sizes with at most so many behaviours are exhausted.
    """
    errors: list[int] = []
    for v, n in measuring.sizes_up_to(most):
        speaker = build(v, n)
        tokens = speaker.virtual_token(measuring.all_sequences(v, n))
        for vectors, expected in ((tokens, v**n), (speaker.embedding, v)):
            errors.append(abs(distinct(speaker.generate(vectors)) - expected))
    for v, n in measuring.sizes_up_to(most, conditional=True):
        maps = measuring.all_maps(v, n)
        found = measuring.answers(build_conditional(v, n), maps)
        errors.append(abs(distinct(found) - v ** (n * v)))
    pairs = measuring.answers(build_conditional(2, inputs=2), measuring.all_maps(2, inputs=2))
    errors.append(abs(distinct(pairs) - 2**4))
    return claims.identity(
        "prefix-tuning/one-token-counts",
        "Virtual tokens give $V^N$ different sequences and a symbol in their place only $V$; maps "
        "give $V^V$, $V^{NV}$ and $V^{V^2}$ different behaviours (error: of the count).",
        errors=errors,
        tolerance=EXACT,
        source=PAPER,
        checks=measuring.answers,
    )


def distinct(behaviours: Tensor) -> int:
    """Number of different entries along the first dimension."""
    return len(behaviours.flatten(1).unique(dim=0))


check_public(__name__)

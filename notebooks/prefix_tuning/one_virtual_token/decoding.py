r"""How often does each construction decode something else than what was asked?

What builds the transformer is passed in, so that a test can pass in something that builds a wrong
one. Sizes with at most `most` behaviours are exhausted, larger `sizes` are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from notebooks.prefix_tuning.one_virtual_token import measuring
from notebooks.prefix_tuning.one_virtual_token.measuring import Found
from notebooks.prefix_tuning.one_virtual_token.texts import PRINTABLE
from promptlib.prefix_tuning.constructions.conditional import (
    ConditionalGenerator,
    conditional_generator,
)
from promptlib.prefix_tuning.constructions.unconditional import (
    UnconditionalGenerator,
    unconditional_generator,
)

Unconditional = Callable[..., UnconditionalGenerator]
Conditional = Callable[..., ConditionalGenerator]


def any_sequence(most: int, build: Unconditional = unconditional_generator) -> Tensor:
    """Wrong symbols of every sequence, for all small vocabularies and lengths."""
    wrong = [
        measuring.wrong_symbols(build(v, n), measuring.all_sequences(v, n))
        for v, n in measuring.sizes_up_to(most)
    ]
    return torch.cat(wrong)


def any_text(
    lengths: Sequence[int],
    samples: int,
    generator: torch.Generator,
    build: Unconditional = unconditional_generator,
) -> Found:
    """Wrong symbols of random texts in printable ASCII."""
    wrong = []
    for length in lengths:
        texts = torch.randint(0, len(PRINTABLE), (samples, length), generator=generator)
        wrong.append(measuring.wrong_symbols(build(len(PRINTABLE), length), texts))
    return Found(torch.cat(wrong), largest=max(lengths))


def any_map(
    most: int,
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> Tensor:
    """Wrong answers of maps from symbols to symbols."""
    small = [v for v, n in measuring.sizes_up_to(most, conditional=True) if n == 1]
    wrong = [measuring.wrong_answers(build(v), measuring.all_maps(v)) for v in small]
    for v in sizes:
        maps = measuring.random_maps(samples, v, 1, 1, generator)
        wrong.append(measuring.wrong_answers(build(v), maps))
    return torch.cat(wrong)


def any_answers(
    most: int,
    sizes: Sequence[tuple[int, int]],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> Tensor:
    """Wrong answers of maps from symbols to sequences, at sizes (V, N)."""
    small = [(v, n) for v, n in measuring.sizes_up_to(most, conditional=True) if n > 1]
    wrong = [measuring.wrong_answers(build(v, n), measuring.all_maps(v, n)) for v, n in small]
    for v, n in sizes:
        maps = measuring.random_maps(samples, v, n, 1, generator)
        wrong.append(measuring.wrong_answers(build(v, n), maps))
    return torch.cat(wrong)


def any_pair_map(
    most: int,
    sizes: Sequence[tuple[int, int]],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> Tensor:
    """Wrong answers of maps from pairs of symbols: small are 2**4 and 3**9 maps."""
    small = [v for v in (2, 3) if v ** (v * v) <= most]
    wrong = [
        measuring.wrong_answers(build(v, inputs=2), measuring.all_maps(v, inputs=2)) for v in small
    ]
    for v, n in sizes:
        maps = measuring.random_maps(samples, v, n, 2, generator)
        wrong.append(measuring.wrong_answers(build(v, n, inputs=2), maps))
    return torch.cat(wrong)


def counts(
    most: int,
    build: Unconditional = unconditional_generator,
    build_conditional: Conditional = conditional_generator,
) -> list[int]:
    """Errors of how many behaviours there are: ``V ** N`` from vectors, ``V`` from symbols."""
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
    return errors


def distinct(behaviours: Tensor) -> int:
    """Number of different entries along the first dimension."""
    return len(behaviours.flatten(1).unique(dim=0))

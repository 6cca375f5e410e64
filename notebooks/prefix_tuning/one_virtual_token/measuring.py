r"""Does a construction decode what was asked?

Small cases are exhausted: all :math:`V^N` sequences, all :math:`V^{N V}` or :math:`V^{V^2}` maps.
Large ones are sampled. Vocabularies too large to store are read out in a window.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions import bounds
from promptlib.prefix_tuning.constructions.conditional import ConditionalGenerator
from promptlib.prefix_tuning.constructions.pieces import score_of
from promptlib.prefix_tuning.constructions.unconditional import (
    UnconditionalGenerator,
    unconditional_generator,
)

__all__ = [
    "Found",
    "all_maps",
    "all_sequences",
    "answers",
    "random_maps",
    "read_out",
    "smallest_failing_vocabulary",
    "texts_beyond",
    "wrong_answers",
    "wrong_symbols",
]


class Found(NamedTuple):
    """Measured for a claim that also says how it was."""

    values: Tensor | Sequence[float]
    limits: Tensor | Sequence[float] = ()
    search: str = ""
    largest: int = 0  # size that was tried


MOST_NUMBERS = 2**17
"""Numbers in the residual streams that are computed at a time: what a processor keeps at hand."""


def all_sequences(vocab_size: int, length: int) -> Tensor:
    """Every sequence, in order: int64 of shape (V**N, N)."""
    return _every(vocab_size, length)


def all_maps(vocab_size: int, responses: int = 1, inputs: int = 1) -> Tensor:
    """Every map, as a table: shape (count, V[, V][, N]), without the last for one response."""
    shape = [vocab_size] * inputs + ([responses] if responses > 1 else [])
    return _every(vocab_size, responses * vocab_size**inputs).reshape(-1, *shape)


def random_maps(
    n: int, vocab_size: int, responses: int, inputs: int, generator: torch.Generator
) -> Tensor:
    """Random maps, and the two that are all 0 and all ``V - 1``: shape (n + 2, V[, V][, N])."""
    shape = [vocab_size] * inputs + ([responses] if responses > 1 else [])
    drawn = torch.randint(0, vocab_size, (n, *shape), generator=generator)
    ends = torch.stack((torch.zeros_like(drawn[0]), torch.full_like(drawn[0], vocab_size - 1)))
    return torch.cat((drawn, ends))


def wrong_symbols(speaker: UnconditionalGenerator, sequences: Tensor) -> Tensor:
    """For each sequence asked for, (n, N), how many symbols came out otherwise, (n,)."""
    size = max(1, MOST_NUMBERS // (speaker.length * speaker.layout.width))
    said = [speaker.generate(speaker.virtual_token(part)) for part in sequences.split(size)]
    return (torch.cat(said) != sequences).sum(-1)


def answers(speaker: ConditionalGenerator, maps: Tensor) -> Tensor:
    """What the transformer answers to every prompt, for each map: equal to `maps` if right."""
    prompts = _every(speaker.vocab_size, speaker.inputs)  # (P, inputs)
    numbers = len(speaker.positions) * speaker.layout.width * len(prompts)
    size = max(1, MOST_NUMBERS // numbers)
    found = []
    for part in maps.split(size):
        tokens = speaker.virtual_token(part).unsqueeze(1)  # every map before every prompt
        found.append(speaker.generate(tokens, prompts).reshape(part.shape))
    return torch.cat(found)


def wrong_answers(speaker: ConditionalGenerator, maps: Tensor) -> Tensor:
    """For each map, how many symbols over all prompts came out otherwise: int64 of shape (n,)."""
    return (answers(speaker, maps) != maps).flatten(1).sum(-1)


def read_out(values: Tensor, vocab_size: int, reach: int = 64) -> Tensor:
    """The best symbol for numbers, without scoring a vocabulary of billions.

    The scores are those of :func:`promptlib.prefix_tuning.constructions.pieces.nearest_symbol`, in
    float64, but only of the symbols around the number. Each score is wrong by at most ``8u`` with
    ``u = 2**-53``, so no symbol further away than `reach` can win while
    ``reach * (reach - 1) / V**2 > 16u``: up to ``V = 2**30`` for the default.
    """
    around = torch.arange(-reach, reach + 1)
    nearby = (values * vocab_size).round().long()[:, None] + around
    nearby = nearby.clamp(0, vocab_size - 1)
    slope, bias = score_of(nearby, vocab_size)
    best = (slope * values[:, None] + bias).argmax(-1, keepdim=True)
    return nearby.gather(-1, best).squeeze(-1)


def texts_beyond(
    vocab_size: int,
    length: int,
    samples: int,
    generator: torch.Generator,
    read_out: Callable[[Tensor, int], Tensor] = read_out,
) -> tuple[Tensor, Tensor]:
    """Sequences over a vocabulary too large to store, and what comes out.

    Attention and MLP do not depend on the vocabulary but for the temperature, so they are those of
    a small transformer at the temperature of the large one. The symbols said before are read back
    as they were asked for; the scores are those of :func:`read_out`.
    """
    beta = bounds.least_inverse_temperature(vocab_size, length) + bounds.RESERVE
    speaker = unconditional_generator(2, length, inverse_temperature=beta)
    wanted = torch.randint(0, vocab_size, (samples, length), generator=generator)
    wanted[0] = vocab_size - 1
    shares = wanted.double() / vocab_size
    back = shares[:, :-1, None].expand(-1, -1, length)
    stream = speaker.stages(torch.cat((shares.unsqueeze(1), back), 1))[-1].stream
    said = read_out(stream[..., speaker.layout["value"]].flatten(), vocab_size)
    return wanted, said.reshape(wanted.shape)


def smallest_failing_vocabulary(dtype: torch.dtype, length: int, most: int) -> int:
    """The first ``V`` for which a sequence goes wrong when everything is held in a short format.

    Weights, virtual tokens, stream, attention and scores are of this type. All sequences are tried.
    """
    for vocab_size in range(2, most + 1):
        speaker = unconditional_generator(vocab_size, length)
        wanted = all_sequences(vocab_size, length)
        tokens = speaker.virtual_token(wanted).to(dtype)
        if (speaker.to(dtype).greedy(tokens.unsqueeze(-2), length) != wanted).any():
            return vocab_size
    raise ValueError(f"every sequence is said in {dtype} up to vocab_size={most}; try a larger one")


def sizes_up_to(most: int, *, conditional: bool = False) -> Iterator[tuple[int, int]]:
    """Pairs ``(V, N)`` with at most `most` sequences, or maps from one symbol to ``N``."""
    for vocab_size, length in itertools.product(range(2, 8), range(1, 9)):
        if vocab_size ** (length * (vocab_size if conditional else 1)) <= most:
            yield vocab_size, length


def _every(base: int, length: int) -> Tensor:
    """All rows of `length` digits, counting upwards."""
    powers = base ** torch.arange(length - 1, -1, -1)
    return torch.arange(base**length)[:, None] // powers % base


check_public(__name__)

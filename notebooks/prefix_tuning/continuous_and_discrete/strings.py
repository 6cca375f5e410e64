"""Which strings is the model asked to say? Drawn before anything is tried on them.

Four kinds, from easy to hard for a model of the language. ``text``: a piece of the held-out text
that begins with a word and has no line break and no two spaces in a row (indentation says itself).
``model``: written by the model itself, the first symbol by its frequency in the training text, each
further one by the model's distribution. ``shuffled``: a piece of text with its symbols in random
order. ``random``: every symbol drawn evenly from the alphabet.

Pieces of text, shuffled or not, are drawn from one of two disjoint `PARTS`, by a fixed hash of the
piece: settings are chosen on strings of the first, results are read on strings of the second.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.corpus import Corpus, encode
from promptlib.prefix_tuning.gpt import GPT

KINDS = ("text", "model", "shuffled", "random")
PARTS = ("validation", "test")

Part = Literal["validation", "test"]

VALIDATION_EVERY = 4
"""One piece of the held-out text in so many is for choosing settings."""


def draw(
    kind: str,
    n: int,
    length: int,
    model: GPT,
    corpus: Corpus,
    generator: torch.Generator,
    part: Part = "test",
) -> Tensor:
    """Draw `n` strings of one kind, ``(n, length)``, text from one of the `PARTS`."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    if n < 1 or length < 1:
        raise ValueError(f"expected n >= 1 and length >= 1, got n={n} and length={length}")
    if kind == "random":
        return torch.randint(model.config.vocab_size, (n, length), generator=generator)
    if kind == "model":
        return _written_by(model, n, length, corpus, generator)
    text = _tokens(corpus.held_out, corpus.alphabet)
    possible = _beginnings_in(corpus.held_out, length, part)
    if len(possible) == 0:
        raise ValueError(
            f"the {part} part of the held-out text has no piece of length={length} without a line "
            "break"
        )
    starts = possible[torch.randint(len(possible), (n, 1), generator=generator)]
    pieces = text[starts + torch.arange(length)]
    if kind == "text":
        return pieces
    order = torch.rand(n, length, generator=generator).argsort(dim=1)
    return pieces.gather(1, order)


def part_of(piece: str) -> Part:
    """Say which part a piece of the held-out text belongs to: a fixed function of its symbols."""
    hashed = hashlib.sha256(piece.encode()).digest()
    return "validation" if int.from_bytes(hashed[:8], "big") % VALIDATION_EVERY == 0 else "test"


def beginnings(text: str, length: int) -> list[int]:
    """Where the pieces of the kind ``text`` begin; see the module's docstring."""
    found = []
    for start in range(len(text) - length + 1):
        if text[start].isspace() or not (start == 0 or text[start - 1].isspace()):
            continue
        piece = text[start : start + length]
        if "\n" not in piece and "  " not in piece:
            found.append(start)
    return found


def different(strings: Tensor, n: int) -> Tensor:
    """The first `n` different rows, in order; a ValueError if there are fewer."""
    rows = list(dict.fromkeys(map(tuple, strings.tolist())))
    if len(rows) < n:
        raise ValueError(f"only {len(rows)} of {len(strings)} strings differ; expected {n}")
    return torch.tensor(rows[:n])


def surprisals(kind: str, strings: Tensor, model: GPT, corpus: Corpus) -> Tensor:
    """Minus log2 of the probability that each string is drawn; known of two kinds only."""
    n, length = strings.shape
    if kind == "random":
        bits = length * math.log2(model.config.vocab_size)
        return torch.full((n,), bits, dtype=torch.float64)
    if kind != "model":
        raise ValueError(f"the probabilities of kind {kind!r} are not known; use 'model', 'random'")
    first = _frequencies(corpus).log()[strings[:, 0]]
    if length == 1:
        return -first / math.log(2)
    with torch.no_grad():
        logs = F.log_softmax(model(strings[:, :-1]).double(), dim=-1)
    later = logs.gather(-1, strings[:, 1:].unsqueeze(-1)).squeeze(-1).sum(dim=1)
    return -(first + later) / math.log(2)


@lru_cache(maxsize=16)
def _beginnings_in(text: str, length: int, part: Part) -> Tensor:
    """Those of `beginnings` whose piece belongs to a part: ``(k,)``."""
    starts = beginnings(text, length)
    return torch.tensor([at for at in starts if part_of(text[at : at + length]) == part])


@lru_cache(maxsize=2)
def _tokens(text: str, alphabet: str) -> Tensor:
    """The tokens of a text; kept, for every kind and length is drawn from the same two."""
    return torch.tensor(encode(text, alphabet))


def _frequencies(corpus: Corpus) -> Tensor:
    """Share of each symbol in the training text, float64."""
    tokens = _tokens(corpus.train, corpus.alphabet)
    return tokens.bincount(minlength=len(corpus.alphabet)).double() / len(tokens)


@torch.no_grad()
def _written_by(
    model: GPT, n: int, length: int, corpus: Corpus, generator: torch.Generator
) -> Tensor:
    frequencies = _frequencies(corpus)
    written = torch.multinomial(frequencies, n, replacement=True, generator=generator)[:, None]
    for _ in range(length - 1):
        shares = F.softmax(model(written, last=1)[:, 0].double(), dim=-1)
        symbol = torch.multinomial(shares, 1, generator=generator)
        written = torch.cat([written, symbol], dim=1)
    return written

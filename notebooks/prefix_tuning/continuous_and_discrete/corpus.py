"""Which real text does every Python installation carry, and how is it divided?

The documentation topics of ``pydoc_data.topics``: what ``help("while")`` prints. They differ a
little between versions of Python, so every run names the digest of the text that it was trained on.
Topics quote each other at length: of a repeated paragraph the first is kept, and one of a held-out
topic is never trained on. Symbols are ASCII characters, so that a symbol is a byte.

No torch here: the plan of the runs reads this module.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

HELD_OUT_EVERY = 8
"""One topic in so many is held out."""

RECORDED_VERSION = "3.11.7"
RECORDED_DIGEST = "5e8676030ebac351794b1508a5b4d033ad3af23d85dfac3d4c76ee957a12387e"
"""Version of Python, and digest of its text, that the book was written with."""

WRITTEN_AS = {
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "–": "-",
    "—": "-",
    "…": "...",
    "°": " deg",
    "ß": "ss",
}
"""Characters outside ASCII that the topics are known to use; any other becomes a question mark."""


@dataclass(frozen=True)
class Corpus:
    """Text to train on and text to test on, paragraphs with an empty line between them.

    Symbols are counted as ``repeated`` if their paragraph had occurred before, as ``shared`` if a
    topic to train on quotes a held-out one; characters outside ASCII as ``rewritten``.
    """

    train: str
    held_out: str
    topics: int
    held_out_topics: int
    repeated: int
    shared: int
    rewritten: int

    @cached_property
    def alphabet(self) -> str:
        """The symbols that occur, in the order of their codes."""
        return "".join(sorted({*self.train, *self.held_out}))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of both texts, 64 hexadecimal digits."""
        both = f"{self.train}\0{self.held_out}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def provenance(self) -> str:
        """One sentence: is this the text that the book was written with?"""
        here = f"The text is that of Python {platform.python_version()}"
        if self.digest == RECORDED_DIGEST:
            return f"{here}; its digest is the recorded one."
        return (
            f"{here}, with digest {self.digest[:16]}…; the book was written with the text of "
            f"Python {RECORDED_VERSION}, {RECORDED_DIGEST[:16]}…. All numbers below belong to the "
            "text that is here and can differ from those of other builds."
        )


def is_held_out(topic: str) -> bool:
    """Say whether a topic is for testing: a fixed function of its name."""
    hashed = hashlib.sha256(topic.encode()).digest()
    return int.from_bytes(hashed[:8], "big") % HELD_OUT_EVERY == 0


def divide(topics: Mapping[str, str]) -> Corpus:
    """Divide topics, text by name; a ValueError if nothing is left on one side."""
    seen: set[str] = set()
    parts: dict[bool, list[str]] = {True: [], False: []}
    repeated = shared = rewritten = 0
    # Held-out topics come first, so that they keep what others quote.
    for name in sorted(topics, key=lambda name: (not is_held_out(name), name)):
        held = is_held_out(name)
        rewritten += sum(not character.isascii() for character in topics[name])
        for piece in to_ascii(topics[name]).split("\n\n"):
            paragraph = piece.strip("\n")
            if not paragraph.strip():
                continue
            if paragraph in seen:
                repeated += len(paragraph)
                if not held and paragraph in parts[True]:
                    shared += len(paragraph)
                continue
            seen.add(paragraph)
            parts[held].append(paragraph)
    if not parts[True] or not parts[False]:
        raise ValueError(
            f"the {len(topics)} topics leave {len(parts[False])} paragraphs to train on and "
            f"{len(parts[True])} to test on; pass more topics"
        )
    return Corpus(
        train="\n\n".join(parts[False]),
        held_out="\n\n".join(parts[True]),
        topics=len(topics),
        held_out_topics=sum(map(is_held_out, topics)),
        repeated=repeated,
        shared=shared,
        rewritten=rewritten,
    )


@lru_cache(maxsize=1)
def documentation() -> Corpus:
    """The corpus of the Python that runs this; a ValueError if it has no topics."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            f"Python {platform.python_version()} was installed without pydoc_data.topics, the text "
            "of this chapter; install the full standard library"
        ) from error
    return divide(topics)


def to_ascii(text: str) -> str:
    """Write a text with ASCII characters, see `WRITTEN_AS`; tabs become spaces."""
    written = (WRITTEN_AS.get(c, c if c.isascii() else "?") for c in text)
    return "".join(written).expandtabs().replace("\r", "")


def encode(text: str, alphabet: str) -> list[int]:
    """The token of each symbol: its place in `alphabet`."""
    if not text:
        raise ValueError("the text is empty; give at least 1 symbol")
    token_of = {character: token for token, character in enumerate(alphabet)}
    unknown = set(text) - token_of.keys()
    if unknown:
        place = min(map(text.index, unknown))
        raise ValueError(
            f"character {text[place]!r} at place {place} of {text!r} is not one of the "
            f"{len(alphabet)} symbols of the model; write it with these: {alphabet!r}"
        )
    return [token_of[character] for character in text]


def decode(tokens: Sequence[int], alphabet: str) -> str:
    """The text of tokens."""
    for token in tokens:
        if not 0 <= token < len(alphabet):
            raise ValueError(f"token {token} is outside 0..{len(alphabet) - 1}")
    return "".join(alphabet[token] for token in tokens)

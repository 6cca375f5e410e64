"""Which symbols are the characters of a text?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from promptlib.prefix_tuning.constructions.symbols import as_symbols

PRINTABLE = "".join(map(chr, range(32, 127)))
"""The 95 printable characters of ASCII, space first."""


def encode(text: str) -> Tensor:
    """Printable ASCII as symbols 0..94."""
    if not text:
        raise ValueError("the text is empty; give at least one character")
    for place, character in enumerate(text, start=1):
        if not " " <= character <= "~":
            raise ValueError(
                f"character {place} of the text, {character!r} (U+{ord(character):04X}), is not "
                "printable ASCII; use the characters from space to ~"
            )
    return torch.tensor([ord(character) - 32 for character in text])


def decode(symbols: Tensor | Sequence[Any]) -> str:
    """Symbols 0..94 as printable ASCII; the inverse of :func:`encode`."""
    return "".join(PRINTABLE[symbol] for symbol in as_symbols(symbols, 95, "text").tolist())

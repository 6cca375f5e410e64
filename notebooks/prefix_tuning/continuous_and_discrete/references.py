"""How good is the model, compared with what counts letters?

Symbols by their frequency, by what came before them (Witten and Bell's mixture of all orders up to
a highest), and two compressors of the standard library that know the training text. All in bits a
symbol of the held-out text, which is bits a byte.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections import Counter, defaultdict


def even(alphabet_size: int) -> float:
    """Bits a symbol of a predictor that finds all symbols equally likely."""
    if alphabet_size < 1:
        raise ValueError(f"an alphabet has at least 1 symbol, got {alphabet_size}")
    return math.log2(alphabet_size)


def n_gram(train: str, test: str, order: int, alphabet_size: int) -> float:
    r"""Bits a symbol of a mixture of contexts of up to ``order - 1`` symbols.

    .. math::

        p_k(s \mid c) = \frac{N(cs) + T(c)\, p_{k-1}(s \mid c')}{N(c) + T(c)}

    with :math:`N` the counts in the training text, :math:`T(c)` the number of different symbols
    seen after the context :math:`c`, :math:`c'` the context without its first symbol, and
    :math:`p_0` even.
    """
    if not train or not test:
        raise ValueError("both texts must have at least 1 symbol")
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    if alphabet_size < len({*train, *test}):
        raise ValueError(
            f"alphabet_size={alphabet_size}, but the texts have {len({*train, *test})} symbols"
        )
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    for place, symbol in enumerate(train):
        for length in range(min(order - 1, place) + 1):
            followers[train[place - length : place]][symbol] += 1
    totals = {context: sum(counts.values()) for context, counts in followers.items()}
    bits = 0.0
    for place, symbol in enumerate(test):
        probability = 1 / alphabet_size
        for length in range(min(order - 1, place) + 1):
            context = test[place - length : place]
            counts = followers.get(context)
            if counts is None:
                break
            different = len(counts)
            probability = (counts[symbol] + different * probability) / (totals[context] + different)
        bits -= math.log2(probability)
    return bits / len(test)


def compressors(train: str, test: str) -> dict[str, float]:
    """Bits a symbol that the test text adds to the compressed training text.

    zlib looks back 32,768 bytes only, so it is given that much of the end.
    """
    if not train or not test:
        raise ValueError("both texts must have at least 1 symbol")
    first, both = train.encode(), (train + test).encode()

    def by_zlib(data: bytes) -> int:
        return len(zlib.compress(data, 9))

    recent = first[-(1 << 15) :]
    window = recent + test.encode()
    return {
        "zlib": 8 * (by_zlib(window) - by_zlib(recent)) / len(test),
        "lzma": 8 * (len(lzma.compress(both)) - len(lzma.compress(first))) / len(test),
    }

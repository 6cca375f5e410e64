"""How good is the model, compared with what counts letters?

Symbols by their frequency, by what came before them (Witten and Bell's mixture of all orders up to
a highest), and two compressors of the standard library that know the training text. All in bits a
symbol of the held-out text, which is bits a byte.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections import Counter


def even(alphabet_size: int) -> float:
    """Bits a symbol of a predictor that finds all symbols equally likely."""
    if alphabet_size < 1:
        raise ValueError(f"an alphabet has at least 1 symbol, got {alphabet_size}")
    return math.log2(alphabet_size)


def n_grams(train: str, test: str, order: int, alphabet_size: int) -> list[float]:
    r"""Bits a symbol of mixtures of contexts: none, up to 1 symbol, …, up to ``order - 1``.

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
    seen = Counter(
        train[end - length : end]
        for length in range(1, order + 1)
        for end in range(length, len(train) + 1)
    )
    totals: Counter[str] = Counter()  # N(c)
    different: Counter[str] = Counter()  # T(c)
    for gram, count in seen.items():
        totals[gram[:-1]] += count
        different[gram[:-1]] += 1
    # What is predicted depends on the last symbols alone, and most of them come again and again.
    windows = Counter(test[max(0, end - order) : end] for end in range(1, len(test) + 1))
    bits = [0.0] * order
    for window, count in windows.items():
        probability = 1 / alphabet_size
        for length in range(1, order + 1):  # of the context and its symbol
            gram = window[-length:]
            context = gram[:-1]
            if length <= len(window) and context in totals:
                kinds = different[context]
                probability = (seen[gram] + kinds * probability) / (totals[context] + kinds)
            bits[length - 1] -= count * math.log2(probability)
    return [one / len(test) for one in bits]


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

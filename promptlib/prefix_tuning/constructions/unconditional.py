r"""Can one vector make a fixed transformer say any given sequence?

Yes. The virtual token is the sequence itself, :math:`s = (Y_1/V, \dots, Y_N/V)` with symbols
:math:`Y_i \in \{0, \dots, V-1\}`. At position ``i`` one head reads the one-hot vector of the own
position, another reads the virtual token, and the lookup
(:mod:`promptlib.prefix_tuning.constructions.pieces`) leaves :math:`s_i`, whose nearest symbol is
:math:`Y_i`. There are :math:`V^N` sequences; a symbol of the vocabulary in the place of the virtual
token makes the same transformer say one of at most ``V``.

Sequence of positions: the virtual token, then the symbols said so far. Position ``i`` says symbol
``i``. The content of symbol ``j`` is :math:`(j/V, \dots, j/V)`: as a first token it asks for the
constant sequence.

Source: A. Petrov, P. H. S. Torr, A. Bibi (ICLR 2024). They give the construction with a perfectly
hard attention; finite temperature, causal mask, scale and bounds are this book's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions import bounds
from promptlib.prefix_tuning.constructions.pieces import (
    Reader,
    nearest_symbol,
    read_positions,
    select,
)
from promptlib.prefix_tuning.constructions.symbols import as_symbols
from promptlib.prefix_tuning.constructions.transformer import (
    Layout,
    Transformer,
    check_size,
)

__all__ = ["UnconditionalGenerator", "checked_vectors", "unconditional_generator"]


class UnconditionalGenerator(Transformer):
    """A transformer that says what its virtual token says; see :func:`unconditional_generator`.

    Attributes
    ----------
    vocab_size, length : int
        ``V`` and ``N``.
    inverse_temperature, least_inverse_temperature : float
        The one in use, and the one from which on the proof holds.
    """

    def __init__(self, vocab_size: int, length: int, inverse_temperature: float, least: float):
        layout = Layout(content=length, position=length, read=length, value=1)
        own, first = range(length), [0] * length
        readers = (Reader(own, "position", "read"), Reader(first, "content", "read"))
        positions = torch.zeros(length, layout.width).double()
        positions[:, layout["position"]] = torch.eye(length)
        shares = torch.arange(vocab_size).double() / vocab_size
        super().__init__(
            layout,
            shares[:, None].repeat(1, length),
            positions,
            (
                read_positions("attention", layout, readers, inverse_temperature),
                select("MLP", layout, "read", "value"),
            ),
            *nearest_symbol(layout, "value", vocab_size),
        )
        self.vocab_size, self.length = vocab_size, length
        self.inverse_temperature, self.least_inverse_temperature = inverse_temperature, least

    def virtual_token(self, symbols: Tensor | Sequence[Any]) -> Tensor:
        """The vector that makes the transformer say a sequence.

        Parameters
        ----------
        symbols : Tensor of int or sequence, shape (..., N)
            In 0..V-1.

        Returns
        -------
        Tensor of float64, shape (..., N)
            Entries in [0, 1).

        Raises
        ------
        ValueError
            If the sequence is empty, too long or too short, or a symbol is not in the vocabulary.
        """
        wanted = as_symbols(symbols, self.vocab_size, "sequence")
        got = wanted.shape[-1] if wanted.dim() else 1
        if wanted.dim() == 0 or got != self.length:
            raise ValueError(
                f"this transformer says exactly {self.length} symbols, got {got}; "
                f"build unconditional_generator({self.vocab_size}, length={got}) for them"
            )
        return wanted.double() / self.vocab_size

    def generate(self, virtual_token: Tensor) -> Tensor:
        """Decode greedily from a virtual token.

        Parameters
        ----------
        virtual_token : Tensor of float64, shape (..., N)
            Any finite vector.

        Returns
        -------
        Tensor of int64, shape (..., N)

        Raises
        ------
        ValueError
            If the vector has another width, is not finite or not float64.
        """
        vectors = checked_vectors(virtual_token, (self.length,))
        return self.greedy(vectors.unsqueeze(-2), self.length)


def unconditional_generator(
    vocab_size: int,
    length: int,
    *,
    inverse_temperature: float | None = None,
    beyond_bounds: bool = False,
) -> UnconditionalGenerator:
    r"""A transformer that one virtual token can make say any sequence of a given length.

    Parameters
    ----------
    vocab_size : int
        ``V``, from 2 to 2**24.
    length : int
        ``N`` >= 1, the number of symbols that are said.
    inverse_temperature : float, optional
        :math:`\beta`. By default :math:`\log(4V(N-1)) + \log 16`: leaks use at most a sixteenth
        of the margin :math:`1/(2V)`, and the rest is left for rounding.
    beyond_bounds : bool
        Allow a temperature and a vocabulary for which correct decoding is not proved.

    Returns
    -------
    UnconditionalGenerator
        With ``.virtual_token(symbols)`` and ``.generate(virtual_token)``.

    Raises
    ------
    ValueError
        If an argument is out of range, or the weights would not fit in memory.

    Examples
    --------
    >>> speaker = unconditional_generator(vocab_size=10, length=4)
    >>> token = speaker.virtual_token([3, 1, 4, 1])
    >>> token.tolist(), speaker.generate(token).tolist()
    ([0.3, 0.1, 0.4, 0.1], [3, 1, 4, 1])
    """
    vocab_size = bounds.as_count("vocab_size", vocab_size, 2)
    length = bounds.as_count("length", length, 1)
    bounds.check_vocabulary(vocab_size, 0, beyond_bounds)
    width = 3 * length + 1
    size = vocab_size * (length + width + 1) + length * width * 11
    check_size(size, f"a transformer for {vocab_size:,} symbols and length {length:,}")
    beta = bounds.check_temperature(inverse_temperature, vocab_size, length, 1, beyond_bounds)
    least = bounds.least_in_float64(vocab_size, length)
    return UnconditionalGenerator(vocab_size, length, beta, least)


def checked_vectors(vectors: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Virtual tokens of shape (..., *shape), finite and in float64.

    Raises
    ------
    ValueError
        Otherwise.
    """
    if not isinstance(vectors, Tensor) or vectors.dtype != torch.float64:
        got = vectors.dtype if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"a virtual token is a tensor of float64, got {got}; use .virtual_token")
    if vectors.dim() < len(shape) or tuple(vectors.shape[vectors.dim() - len(shape) :]) != shape:
        raise ValueError(
            f"the virtual token needs the shape (..., {', '.join(map(str, shape))}), "
            f"got {tuple(vectors.shape)}"
        )
    if not torch.isfinite(vectors).all():
        bad = vectors[~torch.isfinite(vectors)][0]
        raise ValueError(f"the virtual token has an entry {float(bad)}; all must be finite")
    return vectors


check_public(__name__)

r"""Can virtual tokens make a fixed transformer answer every prompt as a given map says?

Yes: a virtual token is a table of the map. With ``V`` symbols and symbols numbered from 0,

one in, one out
    :math:`s = (m(0)/V, \dots, m(V-1)/V)`; the prompt is the one-hot vector that points into it.
one in, ``N`` out
    one such table for each output, ``N`` virtual tokens.
two in
    entry ``a`` of the table packs the row :math:`m(a, \cdot)` as digits base ``V``
    (:mod:`promptlib.prefix_tuning.constructions.unpacking`). Look up, unpack, look up.

All the work is done at the position that says the answer. Sequence of positions: ``N`` virtual
tokens, the prompt, the answers so far. The position that says answer ``k`` reads the first prompt
symbol and virtual token ``k``; with two inputs, a second attention layer reads the second prompt
symbol and, at the same position, the row that was unpacked.

Source: A. Petrov, P. H. S. Torr, A. Bibi (ICLR 2024) for one or two in and one out, and one in
and ``N`` out, with perfectly hard attention; the finite version, two in and ``N`` out, and the
unpacking network are this book's.
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
from promptlib.prefix_tuning.constructions.symbols import SymbolMap, as_symbols, as_table
from promptlib.prefix_tuning.constructions.transformer import (
    MLP,
    Attention,
    Layout,
    Transformer,
    check_size,
)
from promptlib.prefix_tuning.constructions.unconditional import checked_vectors
from promptlib.prefix_tuning.constructions.unpacking import pack, unpack

__all__ = ["ConditionalGenerator", "conditional_generator"]


class ConditionalGenerator(Transformer):
    """A transformer that answers as its virtual tokens say; see :func:`conditional_generator`.

    Attributes
    ----------
    vocab_size, responses, inputs : int
        ``V``, ``N`` and the length of the prompt.
    inverse_temperature, least_inverse_temperature : float
        The one in use, and the one from which on the proof holds.
    """

    def __init__(
        self,
        vocab_size: int,
        responses: int,
        inputs: int,
        inverse_temperature: float,
        least: float,
    ):
        length = positions_of(responses, inputs)
        slots = {"content": vocab_size, "position": length, "read": vocab_size}
        if inputs == 2:
            slots |= {"packed": 1, "row": vocab_size, "read again": vocab_size}
        layout = Layout(**slots, value=1)
        says = range(responses + inputs - 1, length)  # position that says answer k = 0, 1, …

        def aimed(target: Sequence[int]) -> list[int]:
            """Positions that say nothing look at themselves."""
            aims = list(range(length))
            aims[says.start :] = target
            return aims

        own, tables = list(says), list(range(responses))
        first, second = [responses] * responses, [responses + 1] * responses
        blocks: list[Attention | MLP] = [
            read_positions(
                "attention",
                layout,
                (Reader(aimed(first), "content", "read"), Reader(aimed(tables), "content", "read")),
                inverse_temperature,
            ),
            select("MLP", layout, "read", "packed" if inputs == 2 else "value"),
        ]
        if inputs == 2:
            again = (
                Reader(aimed(second), "content", "read again"),
                Reader(aimed(own), "row", "read again"),
            )
            blocks += [
                unpack("unpacking", layout, "packed", "row"),
                read_positions("second attention", layout, again, inverse_temperature),
                select("second MLP", layout, "read again", "value"),
            ]
        positions = torch.zeros(length, layout.width).double()
        positions[:, layout["position"]] = torch.eye(length)
        super().__init__(
            layout,
            torch.eye(vocab_size),
            positions,
            blocks,
            *nearest_symbol(layout, "value", vocab_size),
        )
        self.vocab_size, self.responses, self.inputs = vocab_size, responses, inputs
        self.inverse_temperature, self.least_inverse_temperature = inverse_temperature, least

    def virtual_token(self, mapping: SymbolMap) -> Tensor:
        """The vectors that make the transformer answer as a map says.

        Parameters
        ----------
        mapping : Tensor, nested sequence, dict or callable
            A symbol, or `responses` symbols, for every prompt. As a tensor of shape (..., V),
            (..., V, N), (..., V, V) or (..., V, V, N); as a dictionary from symbols, or from pairs
            of symbols; or as a function of one or two symbols.

        Returns
        -------
        Tensor of float64, shape (..., V), or (..., N, V) for ``N`` > 1 responses
            Entries in [0, 1).

        Raises
        ------
        ValueError
            If the map has holes or extra keys, or a value is not in the vocabulary.
        """
        table = as_table(mapping, self.vocab_size, self.inputs, self.responses)  # (..., V[, V], N)
        table = table.movedim(-1, -1 - self.inputs)  # (..., N, V[, V])
        shares = pack(table) if self.inputs == 2 else table.double() / self.vocab_size
        return shares if self.responses > 1 else shares.squeeze(-2)

    def generate(self, virtual_token: Tensor, prompt: Tensor | Sequence[Any] | int) -> Tensor:
        """Answer a prompt, greedily.

        Parameters
        ----------
        virtual_token : Tensor of float64, shape (..., V), or (..., N, V) for ``N`` > 1 responses
            Any finite vectors.
        prompt : int, sequence or Tensor of int, shape (..., inputs)
            Leading dimensions broadcast against those of the virtual token.

        Returns
        -------
        Tensor of int64, shape (..., N)

        Raises
        ------
        ValueError
            If the vectors have another width, are not finite or not float64, or the prompt has
            another length or a symbol outside the vocabulary.
        """
        contents = self.contents(virtual_token, prompt)
        return self.greedy(contents, self.responses)

    def contents(self, virtual_token: Tensor, prompt: Tensor | Sequence[Any] | int) -> Tensor:
        """Virtual tokens and the contents of a prompt, (..., N + inputs, V)."""
        many = self.responses > 1
        shape = (self.responses, self.vocab_size) if many else (self.vocab_size,)
        vectors = checked_vectors(virtual_token, shape)
        vectors = vectors if many else vectors.unsqueeze(-2)
        symbols = as_symbols(prompt, self.vocab_size, "prompt")
        if symbols.dim() == 0:
            symbols = symbols.unsqueeze(0)
        if symbols.shape[-1] != self.inputs:
            raise ValueError(
                f"the prompt needs the shape (..., {self.inputs}), got {tuple(symbols.shape)}"
            )
        try:
            leading = torch.broadcast_shapes(vectors.shape[:-2], symbols.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"virtual tokens {tuple(virtual_token.shape)} and prompts {tuple(symbols.shape)} "
                "do not broadcast"
            ) from None
        read = self.embedding[symbols].expand(*leading, -1, -1)
        return torch.cat((vectors.expand(*leading, -1, -1), read), -2)


def positions_of(responses: int, inputs: int) -> int:
    """Positions that are read: virtual tokens, prompt, and all answers but the last."""
    return responses + inputs + responses - 1


def conditional_generator(
    vocab_size: int,
    responses: int = 1,
    inputs: int = 1,
    *,
    inverse_temperature: float | None = None,
    beyond_bounds: bool = False,
) -> ConditionalGenerator:
    r"""A transformer that virtual tokens can make answer prompts as any map says.

    Parameters
    ----------
    vocab_size : int
        ``V`` >= 2; with two inputs at most 13, since :math:`V^V` must stay below :math:`2^{53}`.
    responses : int
        ``N`` >= 1 symbols of every answer, and the number of virtual tokens.
    inputs : int
        1 or 2 symbols of every prompt.
    inverse_temperature : float, optional
        :math:`\beta`. By default :math:`\log(2(n-1)/\text{margin}) + \log 16` for ``n`` positions;
        see :mod:`promptlib.prefix_tuning.constructions.bounds`.
    beyond_bounds : bool
        Allow a temperature and a vocabulary for which correct decoding is not proved.

    Returns
    -------
    ConditionalGenerator
        With ``.virtual_token(map)`` and ``.generate(virtual_token, prompt)``.

    Raises
    ------
    ValueError
        If an argument is out of range, or the weights would not fit in memory.

    Examples
    --------
    >>> speaker = conditional_generator(vocab_size=5)
    >>> token = speaker.virtual_token({0: 3, 1: 1, 2: 4, 3: 1, 4: 0})
    >>> speaker.generate(token, 2).tolist()
    [4]
    >>> adder = conditional_generator(vocab_size=10, inputs=2)
    >>> token = adder.virtual_token(lambda a, b: (a + b) % 10)
    >>> float(token[7]), adder.generate(token, (7, 8)).tolist()
    (0.7890123456, [5])
    """
    vocab_size = bounds.as_count("vocab_size", vocab_size, 2)
    responses = bounds.as_count("responses", responses, 1)
    inputs = bounds.as_count("inputs", inputs, 1)
    if inputs > 2:
        raise ValueError(
            f"inputs must be 1 or 2, got {inputs}: a table of three would have to pack V * V "
            "digits in one number, more than float64 holds from V = 4 on"
        )
    bounds.check_vocabulary(vocab_size, inputs, beyond_bounds)
    length = positions_of(responses, inputs)
    width = (2 * inputs * vocab_size) + length + inputs
    heads = inputs * 2 * (2 * length + 2 * vocab_size) * width
    check_size(
        heads + (2 * width + vocab_size) * vocab_size * 2 + length * width,
        f"a transformer for {vocab_size:,} symbols and {responses:,} responses",
    )
    beta = bounds.check_temperature(inverse_temperature, vocab_size, length, inputs, beyond_bounds)
    least = bounds.least_in_float64(vocab_size, length, inputs)
    return ConditionalGenerator(vocab_size, responses, inputs, beta, least)


check_public(__name__)

r"""What is a transformer whose weights are written down, not trained?

The same object as a trained one: an embedding, positions, attention layers and MLPs that read a
residual stream and add to it, and an unembedding. Every weight is a tensor in the place where a
trained model has its own, and attention runs through :func:`promptlib.attention.attend` with a
causal mask and the usual scale :math:`1/\sqrt{d_k}`. Only the values of the weights are chosen, by
the functions of :mod:`promptlib.prefix_tuning.constructions.pieces`.

To say where in the stream something is, its coordinates are divided into named slots
(:class:`Layout`). Inputs are *contents*: vectors for the slot ``content``, which symbols take from
the embedding and a virtual token brings itself.

Symbols: ``T`` positions, ``d`` the width of the stream, ``c`` the width of the slot ``content``,
``V`` symbols, ``H`` heads of width ``d_k`` with values of width ``d_v``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptlib.attention import attend
from promptlib.checks import check_public

__all__ = ["MLP", "Attention", "Layout", "Stage", "Transformer"]

MOST_PARAMETERS = 2**28
"""Larger constructions are refused: in float64 these are 2 GiB of weights."""

Cache = tuple[Tensor, Tensor]


class Layout:
    """Names for the coordinates of the residual stream.

    Parameters
    ----------
    **widths : int
        Width of each slot, >= 1, in the order in which they stand.

    Examples
    --------
    >>> layout = Layout(content=3, position=2)
    >>> layout["position"], layout.width
    (slice(3, 5, None), 5)
    """

    def __init__(self, **widths: int) -> None:
        self._slots: dict[str, slice] = {}
        self.width = 0
        for name, width in widths.items():
            self._slots[name] = slice(self.width, self.width + width)
            self.width += width

    def __getitem__(self, name: str) -> slice:
        return self._slots[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The slots in order."""
        return tuple(self._slots)

    def size(self, name: str) -> int:
        """Number of coordinates of a slot."""
        slot = self._slots[name]
        return slot.stop - slot.start


class Attention(nn.Module):
    """Causal attention that adds what its heads read to the stream.

    Parameters
    ----------
    name : str
        What the layer does, for pictures.
    query, key : Tensor, shape (H, d_k, d)
    value : Tensor, shape (H, d_v, d)
    output : Tensor, shape (H, d_v, d)
    """

    def __init__(self, name: str, query: Tensor, key: Tensor, value: Tensor, output: Tensor):
        super().__init__()
        self.name = name
        self.query, self.key = _weight(query), _weight(key)
        self.value, self.output = _weight(value), _weight(output)

    def forward(self, stream: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor, Cache]:
        """Read the positions seen so far.

        Parameters
        ----------
        stream : Tensor, shape (..., T, d)
            The last ``T`` positions.
        cache : tuple of Tensor, optional
            Keys and values of the positions before them.

        Returns
        -------
        stream : Tensor, shape (..., T, d)
            With what was read added.
        attention : Tensor, shape (..., H, T, positions)
        cache : tuple of Tensor
            Keys and values of all positions.
        """
        queries, keys, values = (
            _heads(stream, weight) for weight in (self.query, self.key, self.value)
        )
        if cache is not None:
            keys, values = torch.cat((cache[0], keys), -2), torch.cat((cache[1], values), -2)
        read, attention = attend(queries, keys, values, causal=True)
        side_by_side = read.transpose(-3, -2).flatten(-2)  # (..., T, H * d_v)
        written = side_by_side @ self.output.flatten(0, 1)
        return stream + written, attention, (keys, values)


class MLP(nn.Module):
    """Affine maps with ReLU between them; the last one adds to the stream.

    Parameters
    ----------
    name : str
        What the layer does, for pictures.
    weights : sequence of Tensor, shapes (h_1, d), (h_2, h_1), …, (d, h_last)
    biases : sequence of Tensor, shapes (h_1,), (h_2,), …, (d,)
    """

    def __init__(self, name: str, weights: Sequence[Tensor], biases: Sequence[Tensor]):
        super().__init__()
        self.name = name
        self.weights = nn.ParameterList([_weight(weight) for weight in weights])
        self.biases = nn.ParameterList([_weight(bias) for bias in biases])

    def hidden(self, stream: Tensor) -> list[Tensor]:
        """Activations of every hidden layer, each of shape (..., T, h)."""
        found = []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            stream = torch.relu(torch.nn.functional.linear(stream, weight, bias))
            found.append(stream)
        return found

    def forward(self, stream: Tensor) -> Tensor:
        """The stream of shape (..., T, d) with the result added."""
        last = self.hidden(stream)[-1]
        return stream + torch.nn.functional.linear(last, self.weights[-1], self.biases[-1])


@dataclass(frozen=True)
class Stage:
    """The residual stream after one part of the transformer.

    Attributes
    ----------
    name : str
    stream : Tensor, shape (..., T, d)
    attention : Tensor, shape (..., H, T, T), or None for parts that do not attend
    """

    name: str
    stream: Tensor
    attention: Tensor | None = None


class Transformer(nn.Module):
    """A transformer with given weights, in float64.

    Parameters
    ----------
    layout : Layout
        With a slot ``content`` of width ``c``.
    embedding : Tensor, shape (V, c)
        Content of every symbol.
    positions : Tensor, shape (T, d)
        Added to the stream, position by position; ``T`` is the longest sequence.
    blocks : sequence of Attention and MLP
    unembedding : Tensor, shape (V, d)
    bias : Tensor, shape (V,)
        A symbol's score is its row of the unembedding times the stream, plus its bias.
    """

    def __init__(
        self,
        layout: Layout,
        embedding: Tensor,
        positions: Tensor,
        blocks: Sequence[Attention | MLP],
        unembedding: Tensor,
        bias: Tensor,
    ):
        super().__init__()
        self.layout = layout
        self.embedding, self.positions = _weight(embedding), _weight(positions)
        self.blocks = nn.ModuleList(blocks)
        self.unembedding, self.bias = _weight(unembedding), _weight(bias)

    @property
    def n_parameters(self) -> int:
        """Number of weights, zeros included."""
        return sum(weight.numel() for weight in self.parameters())

    @property
    def depth(self) -> tuple[int, int]:
        """Numbers of attention layers, and of ReLU layers in the MLPs."""
        mlps = [block for block in self.blocks if isinstance(block, MLP)]
        return len(self.blocks) - len(mlps), sum(len(mlp.weights) - 1 for mlp in mlps)

    def place(self, contents: Tensor, start: int = 0) -> Tensor:
        """The stream at the input: contents in their slot, and the positions from `start` on.

        Parameters
        ----------
        contents : Tensor, shape (..., T, c)

        Returns
        -------
        Tensor, shape (..., T, d)
        """
        length = contents.shape[-2]
        if start + length > len(self.positions):
            raise ValueError(
                f"this transformer has {len(self.positions)} positions; "
                f"got a sequence of {start + length}"
            )
        stream = contents.new_zeros(*contents.shape[:-1], self.layout.width)
        stream[..., self.layout["content"]] = contents
        return stream + self.positions[start : start + length]

    def stages(self, contents: Tensor) -> list[Stage]:
        """The stream after the embedding and after every block; contents (..., T, c)."""
        found = [Stage("embedding", self.place(contents))]
        for block in self.blocks:
            if isinstance(block, Attention):
                stream, attention, _ = block(found[-1].stream)
                found.append(Stage(block.name, stream, attention))
            else:
                found.append(Stage(str(block.name), block(found[-1].stream)))
        return found

    def forward(self, contents: Tensor) -> Tensor:
        """Scores of the next symbol at every position: (..., T, c) to (..., T, V)."""
        return self.score(self.stages(contents)[-1].stream)

    def score(self, stream: Tensor) -> Tensor:
        """Scores of the next symbol from the last stream: (..., T, d) to (..., T, V)."""
        return torch.nn.functional.linear(stream, self.unembedding, self.bias)

    def greedy(self, contents: Tensor, n: int) -> Tensor:
        """Decode `n` symbols, one after the other, each read back before the next.

        Parameters
        ----------
        contents : Tensor, shape (..., T, c)
            Virtual tokens and the contents of the prompt.
        n : int

        Returns
        -------
        Tensor of int64, shape (..., n)
        """
        symbols: list[Tensor] = []
        caches: list[Cache | None] = [None] * len(self.blocks)
        start = 0
        for _ in range(n):
            stream = self.place(contents, start)
            for place, block in enumerate(self.blocks):
                if isinstance(block, Attention):
                    stream, _, caches[place] = block(stream, caches[place])
                else:
                    stream = block(stream)
            symbols.append(self.score(stream[..., -1:, :]).argmax(-1))
            start += contents.shape[-2]
            contents = self.embedding[symbols[-1]]
        return torch.cat(symbols, -1)


def check_size(parameters: int, what: str) -> None:
    """Refuse weights that would not fit in memory, before they are allocated."""
    if parameters > MOST_PARAMETERS:
        raise ValueError(
            f"{what} has {parameters:,} weights, more than the {MOST_PARAMETERS:,} that are "
            "allocated; choose a smaller vocabulary or fewer symbols"
        )


def _heads(stream: Tensor, weight: Tensor) -> Tensor:
    """What each head makes of the stream: (..., T, d) and (H, k, d) to (..., H, T, k)."""
    made = torch.nn.functional.linear(stream, weight.flatten(0, 1))
    return made.unflatten(-1, weight.shape[:2]).transpose(-3, -2)


def _weight(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.double(), requires_grad=False)


check_public(__name__)

r"""From which pieces are the constructions built?

Three pieces, each a few weights with a lemma beside it.

:func:`read_positions`
    an attention layer whose heads each look at *one* position that depends on where they stand;
:func:`select`
    an MLP that takes from a table the entry that a one-hot vector points at;
:func:`nearest_symbol`
    an unembedding whose best symbol is the one nearest to a number.

Reading and selecting together are a **lookup**: one head reads a one-hot vector
:math:`e_i`, another a table :math:`s \in [0, 1)^K`, both write to the same slot, and

.. math:: x = \sum_k \operatorname{ReLU}(e_{ik} + s_k - 1) = s_i,

since the argument is :math:`s_i` for :math:`k = i` and :math:`s_k - 1 < 0` otherwise.

Source: A. Petrov, P. H. S. Torr, A. Bibi (ICLR 2024) for the idea of the lookup and the scores of
the unembedding; the leaks and the bounds are worked out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions.transformer import MLP, Attention, Layout

__all__ = ["Reader", "nearest_symbol", "read_positions", "select"]


@dataclass(frozen=True)
class Reader:
    """What one head does: from where it reads, which slot, and where it writes.

    Attributes
    ----------
    targets : sequence of int, length T
        For each position the position that it reads, not after itself.
    source, sink : str
        Slots of equal width.
    """

    targets: Sequence[int]
    source: str
    sink: str


def read_positions(
    name: str, layout: Layout, readers: Sequence[Reader], inverse_temperature: float
) -> Attention:
    r"""Heads that look at given positions.

    With one-hot positions :math:`e_1, \dots, e_T` the query of position :math:`i` is
    :math:`\beta \sqrt{d_k}\, e_{t(i)}` and the key of position :math:`j` is :math:`e_j`, where
    :math:`d_k = T`. After the scale :math:`1/\sqrt{d_k}` the logit is :math:`\beta` for the target
    :math:`j = t(i)` and 0 for all others: **a gap of** :math:`\beta`.

    Leak. If :math:`n` positions are visible, the weight that does not fall on the target is

    .. math::

        \ell = \frac{(n-1)\, e^{-\beta}}{1 + (n-1)\, e^{-\beta}} \le (n - 1)\, e^{-\beta}.

    Parameters
    ----------
    name : str
        Of the layer.
    layout : Layout
        With a slot ``position`` of width ``T``.
    readers : sequence of Reader
        One for each head; all their slots have one width ``d_v``.
    inverse_temperature : float
        :math:`\beta`.

    Returns
    -------
    Attention
    """
    length, width = layout.size("position"), layout.size(readers[0].source)
    shape = len(readers), length, layout.width
    query, key = torch.zeros(shape).double(), torch.zeros(shape).double()
    value = torch.zeros(len(readers), width, layout.width).double()
    output = torch.zeros(len(readers), width, layout.width).double()
    position = torch.eye(length, dtype=torch.float64)
    for head, reader in enumerate(readers):
        # Row t(i) of the matrix picks the coordinate i: a one-hot e_i becomes e_t(i).
        aim = position[list(reader.targets)].T
        query[head, :, layout["position"]] = inverse_temperature * length**0.5 * aim
        key[head, :, layout["position"]] = position
        copy = torch.eye(width, dtype=torch.float64)
        value[head, :, layout[reader.source]] = copy
        output[head, :, layout[reader.sink]] = copy
    return Attention(name, query, key, value, output)


def select(name: str, layout: Layout, source: str, sink: str) -> MLP:
    r"""The entry of a table that a one-hot vector points at.

    The slot `source` holds :math:`r = e_i + s`, and one hidden layer gives
    :math:`x = \sum_k \operatorname{ReLU}(r_k - 1)`.

    Lookup. Let both heads read entries in [0, 1], with leaks :math:`\ell_1` and :math:`\ell_2`, and
    let :math:`0 \le s_k \le 1 - \delta`. If :math:`\ell_1 + \ell_2 \le \delta`, then
    :math:`|x - s_i| \le \ell_1 + \ell_2`.

    Proof. The heads write :math:`r = (1-\ell_1) e_i + \ell_1 a + (1-\ell_2) s + \ell_2 b` with
    mixtures :math:`a, b` of what the other positions hold, entries in [0, 1]. For :math:`k = i`,

    .. math:: r_i - 1 - s_i = \ell_1 (a_i - 1) + \ell_2 (b_i - s_i),

    at most :math:`\ell_1 + \ell_2` in size, and ReLU does not increase the distance to
    :math:`s_i \ge 0`. For :math:`k \ne i`, :math:`r_k - 1 \le \ell_1 + s_k + \ell_2 - 1 \le
    \ell_1 + \ell_2 - \delta \le 0`, so this term is exactly 0.

    Parameters
    ----------
    name : str
        Of the layer.
    layout : Layout
    source : str
        Slot with the sum of one-hot vector and table.
    sink : str
        Slot of width 1.
    """
    width = layout.size(source)
    first = torch.zeros(width, layout.width).double()
    first[:, layout[source]] = torch.eye(width, dtype=torch.float64)
    last = torch.zeros(layout.width, width).double()
    last[layout[sink], :] = 1.0
    biases = -torch.ones(width).double(), torch.zeros(layout.width).double()
    return MLP(name, (first, last), biases)


def nearest_symbol(layout: Layout, source: str, vocab_size: int) -> tuple[Tensor, Tensor]:
    r"""Scores whose maximum is the symbol :math:`j` with :math:`j/V` nearest to a number.

    .. math::

        \Bigl(\frac{2j}{V} - 1\Bigr) x + \frac14 - \frac{j^2}{V^2}
        = \Bigl(x - \frac12\Bigr)^2 - \Bigl(x - \frac jV\Bigr)^2 .

    The first square is common to all symbols, so the best score has the smallest distance; the
    left side is affine in :math:`x`, so it is an unembedding. If :math:`|x - j/V| < 1/(2V)`, the
    best symbol is :math:`j`, and it leads by :math:`(1/V)(1/V - 2|x - j/V|)` at least.

    Parameters
    ----------
    layout : Layout
    source : str
        Slot of width 1 with the number.
    vocab_size : int
        ``V``.

    Returns
    -------
    unembedding : Tensor, shape (V, d)
    bias : Tensor, shape (V,)
    """
    slope, bias = score_of(torch.arange(vocab_size), vocab_size)
    unembedding = torch.zeros(vocab_size, layout.width).double()
    unembedding[:, layout[source]] = slope[:, None]
    return unembedding, bias


def score_of(symbols: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Slope and bias of the scores of symbols (of int64, any shape), in float64."""
    share = symbols.double() / vocab_size
    return 2 * share - 1, 0.25 - share**2


check_public(__name__)

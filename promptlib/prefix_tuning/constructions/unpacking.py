r"""How does a network of ReLUs take a number apart into its digits?

A row of ``V`` symbols :math:`m_0, \dots, m_{V-1}` is packed into one number as digits base ``V``,

.. math:: s = \sum_{b=0}^{V-1} m_b\, V^{-(b+1)} \in [0, 1 - V^{-V}].

Unpacking is long multiplication by ``V``: the whole part of :math:`V s` is the first digit, and
what remains is packed again. The whole part of :math:`z \in [0, V)` counts thresholds,
:math:`\lfloor z \rfloor = \#\{j \in \{1, \dots, V-1\} : z \ge j\}`. ReLUs make a ramp instead of
a threshold, and a ramp may only be used where no number comes.

**Margin.** Move :math:`s` up by :math:`c V^{-V}` with :math:`c = 17/32`. With :math:`m` digits left
the fraction of :math:`z` is then in :math:`[cV^{-m}, 1 - (1-c)V^{-m}]`: there are gaps around whole
numbers. For the threshold :math:`j` take

.. math:: p_j = \operatorname{ReLU}(z - j), \qquad q_j = \operatorname{ReLU}(1 - 16 V^m p_j) .

:math:`q_j = 1` when :math:`z \le j`, and :math:`q_j = 0` when :math:`z \ge j + V^{-m}/16`:
exactly, in floating point too. So the digit is :math:`V - 1 - \sum_j q_j` as long as :math:`z` is
wrong by at most :math:`\min(c - 1/16, 1 - c)\, V^{-m} = \frac{15}{32} V^{-m}`. An error
:math:`\varepsilon` of :math:`s` is an error :math:`V^{V-m} \varepsilon` of this :math:`z`, so all
digits are right if

.. math:: |\varepsilon| \le \frac{15}{32}\, V^{-V} .

Two hidden layers for a digit, ``2V`` in all, none wider than ``2V``.

Source: the packing is from A. Petrov, P. H. S. Torr, A. Bibi (ICLR 2024); the network and its
margin are this book's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions.transformer import MLP, Layout

__all__ = ["LARGEST_PACKED", "MARGIN", "pack", "unpack"]

SHIFT = 17 / 32
STEEPNESS = 16.0
MARGIN = 15 / 32
"""Largest error of a packed number, in units of its last digit, that leaves all digits right."""

LARGEST_PACKED = 15
"""Largest ``V`` for which ``V`` digits base ``V`` are packed at all: 16^16 = 2^64 exceeds int64."""


def pack(rows: Tensor) -> Tensor:
    """Rows of ``V`` symbols as numbers in [0, 1).

    Parameters
    ----------
    rows : Tensor of int64, shape (..., V)
        Symbols in 0..V-1; ``V`` up to :data:`LARGEST_PACKED`.

    Returns
    -------
    Tensor of float64, shape (...)
        The packed numbers, correctly rounded for ``V`` up to 13 (``V**V`` < 2**53).
    """
    base = rows.shape[-1]
    whole = torch.zeros_like(rows[..., 0])
    for place in range(base):
        whole = base * whole + rows[..., place]
    return whole.double() / float(base**base)


def unpack(name: str, layout: Layout, source: str, sink: str) -> MLP:
    r"""A network that reads a packed number and writes its digits, divided by ``V``.

    The comments say what each hidden layer holds; the module proves that it does.

    Parameters
    ----------
    name : str
        Of the layer.
    layout : Layout
    source : str
        Slot of width 1 with the packed number.
    sink : str
        Slot of width ``V`` for the table ``m_b / V``.
    """
    base = layout.size(sink)
    thresholds = torch.arange(1, base).double()
    # The stream holds s. First hidden layer: z = V (s + shift), and p_j = ReLU(z - j).
    weight = torch.zeros(base, layout.width).double()
    weight[:, layout[source]] = float(base)
    bias = torch.cat((torch.zeros(1).double(), -thresholds)) + base * SHIFT * float(base) ** -base
    weights, biases = [weight], [bias]
    for done in range(base):
        left = base - 1 - done  # digits after this one
        # Holds the digits already found, z, and p_1..p_{V-1}. Next: the same digits, z, and q_j.
        weight, bias = torch.eye(base + done).double(), torch.zeros(base + done).double()
        weight[done + 1 :, done + 1 :] *= -STEEPNESS * float(base) ** left
        bias[done + 1 :] = 1.0
        weights.append(weight)
        biases.append(bias)
        # This digit is V - 1 - sum q. One row for each digit so far.
        rows, row_bias = torch.zeros(done + 1, base + done).double(), torch.zeros(done + 1).double()
        rows[:done, :done] = torch.eye(done)
        rows[done, done + 1 :] = -1.0
        row_bias[done] = base - 1.0
        if not left:
            weight = torch.zeros(layout.width, base + done).double()
            bias = torch.zeros(layout.width).double()
            weight[layout[sink]], bias[layout[sink]] = rows / base, row_bias / base
        else:
            # The rest is y = z - digit = z - (V - 1) + sum q; the next z is V y.
            rest = torch.zeros(1, base + done).double()
            rest[0, done], rest[0, done + 1 :] = 1.0, 1.0
            weight = torch.cat((rows, base * rest.expand(base, -1)))
            next_bias = torch.full((base,), -base * (base - 1.0)).double()
            next_bias[1:] -= thresholds
            bias = torch.cat((row_bias, next_bias))
        weights.append(weight)
        biases.append(bias)
    return MLP(name, weights, biases)


check_public(__name__)

"""What do the constructions leak, from when on are they right, and what do they unpack?

Symbols: ``V`` symbols, ``n`` visible positions, ``N`` outputs, ``beta`` the inverse temperature.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptlib.prefix_tuning.constructions.transformer import Layout
from promptlib.prefix_tuning.constructions.unpacking import unpack


def leak_bound(n: int, inverse_temperature: float) -> float:
    r"""The bound :math:`(n-1)e^{-\beta}` on the attention that misses its target."""
    return (n - 1) * math.exp(-inverse_temperature)


def largest_leak(n: int, inverse_temperature: float) -> float:
    r"""The leak itself when all other logits are level, :math:`(n-1) / (e^\beta + n - 1)`."""
    return (n - 1) / (math.exp(inverse_temperature) + n - 1)


def critical_inverse_temperature(
    vocab_size: int, responses: int, conditional: bool = False
) -> float:
    r"""The exact inverse temperature above which everything is decoded, in real arithmetic.

    .. math::

        \beta_c = \begin{cases}
            \log\bigl((N-1)(4V-3)\bigr) & \text{unconditional, } N \ge 2, \\
            \log\bigl((4V-2)(2N-2) - (2N-1)\bigr) & \text{one in, } N \ge 2 \text{ out,} \\
            -\infty & N = 1 .
        \end{cases}
    """
    if responses == 1:
        return -math.inf
    if conditional:
        return math.log((4 * vocab_size - 2) * (2 * responses - 2) - (2 * responses - 1))
    return math.log((responses - 1) * (4 * vocab_size - 3))


def log2_behaviours(vocab_size: int, responses: int, inputs: int = 0) -> float:
    """Bits that say which behaviour is wanted: ``log2`` of ``V ** (N * V ** inputs)``."""
    return responses * vocab_size**inputs * math.log2(vocab_size)


def digits(numbers: Tensor, base: int) -> Tensor:
    """The digits that the network reads from packed numbers, (...) to (..., V).

    Whole numbers up to the rounding of a division.
    """
    layout = Layout(packed=1, row=base)
    stream = numbers.new_zeros(*numbers.shape, layout.width)
    stream[..., 0] = numbers
    return base * unpack("unpack", layout, "packed", "row")(stream)[..., layout["row"]]


def remainders(numbers: Tensor, base: int) -> Tensor:
    """What is left of packed numbers before each digit, as the network has it, (..., V, V + 1).

    For each digit the number ``z`` whose whole part it is, its ``V - 1`` ramps ``q``, the digit.
    """
    layout = Layout(packed=1, row=base)
    stream = numbers.new_zeros(*numbers.shape, layout.width)
    stream[..., 0] = numbers
    hidden = unpack("unpack", layout, "packed", "row").hidden(stream)
    found = []
    for done in range(base):
        ramps = hidden[2 * done + 1][..., done:]  # z and q
        digit = base - 1 - ramps[..., 1:].sum(-1, keepdim=True)
        found.append(torch.cat((ramps, digit), -1))
    return torch.stack(found, -2)

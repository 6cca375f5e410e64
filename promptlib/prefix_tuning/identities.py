r"""What can a prefix change in one attention layer, to the last digit?

Result B2 of the book (the claim of Petrov et al. 2024, proved in the chapter "A prefix cannot
re-aim attention"): with :math:`A` the attention without and :math:`A'` the attention with a
prefix, :math:`\alpha_i = \sum_m A'_{im}` over the prefix positions :math:`m`, and :math:`t, t'` the
outputs,

.. math::

    A'_{ij} = (1 - \alpha_i) A_{ij}, \qquad
    t'_i = (1 - \alpha_i) t_i + \sum_m A'_{im} \bar v_m .

Errors come one for each row (head and query).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "AttendFunction",
    "bias_errors",
    "relative_attention",
    "row_errors",
    "split",
    "total_variation",
]

NEGLIGIBLE = 1e-200
"""Weights below are too close to the end of float64 for a ratio of two of them to have digits."""


class AttendFunction(Protocol):
    """Anything that attends as :func:`promptlib.attention.attend` does."""

    def __call__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        prefix_keys: Tensor | None = None,
        prefix_values: Tensor | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]: ...


def split(attention: Tensor, prefix_length: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Attention with a prefix, taken apart.

    Parameters
    ----------
    attention : Tensor, shape (..., m, p + n)
        Prefix first, as :func:`promptlib.attention.attend` returns it.
    prefix_length : int
        ``p``, at least 1.

    Returns
    -------
    taken : Tensor, shape (..., m)
        :math:`\alpha_i`, all that goes to the prefix.
    to_prefix : Tensor, shape (..., m, p)
    to_content : Tensor, shape (..., m, n)

    Raises
    ------
    ValueError
        If the prefix length does not leave a content position.
    """
    if not 1 <= prefix_length < attention.shape[-1]:
        raise ValueError(
            f"prefix length {prefix_length} does not fit attention {tuple(attention.shape)}"
        )
    to_prefix, to_content = attention[..., :prefix_length], attention[..., prefix_length:]
    return to_prefix.sum(-1), to_prefix, to_content


def relative_attention(to_content: Tensor) -> Tensor:
    """Rows rescaled to sum to one: who gets how much of what the content gets.

    Rows whose content gets nothing in this precision are NaN.
    """
    return to_content / to_content.sum(-1, keepdim=True)


def total_variation(rows: Tensor, other: Tensor) -> Tensor:
    """Half the absolute difference of two distributions, in [0, 1]; shape (..., n) to (...)."""
    return (rows - other).abs().sum(-1) / 2


def row_errors(plain: Tensor, prefixed: Tensor, prefix_length: int) -> Tensor:
    r"""How far rows with a prefix are from :math:`A'_{ij} = (1-\alpha_i) A_{ij}`, both ways.

    The larger of the absolute error and, where both weights have digits, the relative error of the
    relative attention.

    Parameters
    ----------
    plain : Tensor, shape (..., m, n)
    prefixed : Tensor, shape (..., m, p + n)
        Prefix first.
    prefix_length : int
        ``p``, at least 1.

    Returns
    -------
    Tensor, shape (..., m)
    """
    taken, _, to_content = split(prefixed, prefix_length)
    absolute = (to_content - (1 - taken)[..., None] * plain).abs().amax(-1)
    left = to_content.sum(-1, keepdim=True) * plain
    relative = torch.where(left > NEGLIGIBLE, (to_content / left - 1).abs(), 0.0).amax(-1)
    return torch.maximum(absolute, relative)


def bias_errors(
    outputs: Tensor, prefixed_outputs: Tensor, prefixed: Tensor, prefix_values: Tensor
) -> Tensor:
    r"""How far outputs are from :math:`(1-\alpha_i) t_i + \sum_m A'_{im} \bar v_m`.

    Parameters
    ----------
    outputs, prefixed_outputs : Tensor, shape (..., m, d)
        Of each head, without and with the prefix.
    prefixed : Tensor, shape (..., m, p + n)
        Attention with the prefix, prefix first.
    prefix_values : Tensor, shape (..., p, d)

    Returns
    -------
    Tensor, shape (..., m)
        The largest coordinate, in the units of the outputs.
    """
    taken, to_prefix, _ = split(prefixed, prefix_values.shape[-2])
    predicted = (1 - taken)[..., None] * outputs + to_prefix @ prefix_values
    return (prefixed_outputs - predicted).abs().amax(-1)


check_public(__name__)

r"""What can a prefix change in one attention layer, to the last digit?

Result B2 of the book (the claim of Petrov et al. 2024, proved in the chapter "A prefix cannot
re-aim attention"): with :math:`A` the attention without and :math:`A'` the attention with a
prefix, :math:`\alpha_i = \sum_m A'_{im}` over the prefix positions :math:`m`, and :math:`t, t'` the
outputs,

.. math::

    A'_{ij} = (1 - \alpha_i) A_{ij}, \qquad
    t'_i = (1 - \alpha_i) t_i + \sum_m A'_{im} \bar v_m .

Each function measures one such equality and takes the attention function as an argument, so that
a test can hand it a wrong one. Errors come one for each row (head and query).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.cases import AttentionCase

__all__ = [
    "AttendFunction",
    "bias_errors",
    "hull_distances",
    "output_errors",
    "ratio_errors",
    "relative_attention",
    "rescaling_errors",
    "row_errors",
    "split",
    "statistics_errors",
    "total_variation",
]

NEGLIGIBLE = 1e-200
"""Weights below are too close to the end of float64 for a ratio of two of them to have digits."""

ROUNDING = 1e-13
"""Biases below, relative to the largest value, hold no digits."""


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


def rescaling_errors(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""Largest :math:`|A'_{ij} - (1-\alpha_i) A_{ij}|` of every row.

    Returns
    -------
    Tensor, shape (H * n,)
    """
    _, plain, _, prefixed = _both(case, attend)
    taken, _, to_content = split(prefixed, case.prefix_length)
    return (to_content - (1 - taken)[..., None] * plain).abs().amax(-1).flatten()


def ratio_errors(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""Largest relative error of the relative attention, of every row that has digits.

    That is :math:`|r_{ij} / A_{ij} - 1|` with :math:`r_{ij} = A'_{ij} / \sum_l A'_{il}` over
    content positions. Weights below :data:`NEGLIGIBLE` are left out, and so are rows in which the
    prefix leaves less than that to the content.

    Returns
    -------
    Tensor, shape (rows,)
    """
    _, plain, _, prefixed = _both(case, attend)
    _, _, to_content = split(prefixed, case.prefix_length)
    left = to_content.sum(-1)
    has_digits = (plain > NEGLIGIBLE) & (left[..., None] * plain > NEGLIGIBLE)
    errors = (to_content / (left[..., None] * plain) - 1).abs()
    errors = torch.where(has_digits, errors, 0.0).amax(-1)
    return errors[has_digits.any(-1)]


def output_errors(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""Error of :math:`t'_i = (1-\alpha_i) t_i + \sum_m A'_{im} \bar v_m` in every row.

    The largest coordinate, relative to the largest value that the layer reads.

    Returns
    -------
    Tensor, shape (H * n,)
    """
    outputs, _, prefixed_outputs, prefixed = _both(case, attend)
    errors = bias_errors(outputs, prefixed_outputs, prefixed, case.prefix_values)
    return errors.flatten() / _largest_value(case)


def hull_distances(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""How far the bias of every row lies outside the hull of the prefix values.

    The bias :math:`t'_i - (1-\alpha_i) t_i` must be :math:`\sum_m c_m \bar v_m` with
    :math:`c_m \ge 0` and :math:`\sum_m c_m = \alpha_i`. The best such :math:`c` is found by
    non-negative least squares from outputs alone; the attention over single prefix positions is not
    consulted. The distance is relative to the largest value that the layer reads.

    Returns
    -------
    Tensor, shape (H * n,)
    """
    outputs, _, prefixed_outputs, prefixed = _both(case, attend)
    taken, _, _ = split(prefixed, case.prefix_length)
    bias = prefixed_outputs - (1 - taken)[..., None] * outputs
    largest = _largest_value(case)
    ones = torch.ones(1, case.prefix_length, dtype=bias.dtype)
    distances = []
    for head_bias, head_taken, head_values in zip(bias, taken, case.prefix_values, strict=True):
        corners = torch.cat((head_values.mT / largest, ones)).numpy()  # (d_k + 1, p)
        for row, share in zip(head_bias / largest, head_taken, strict=True):
            target = np.append(row.numpy(), share)
            distance = np.linalg.norm(target)  # that of c = 0
            if distance > ROUNDING:  # the solver cycles on targets that are rounding alone
                distance = nnls(corners, target, maxiter=100 * case.prefix_length)[1]
            distances.append(distance)
    return torch.tensor(distances, dtype=torch.float64)


def statistics_errors(
    case: AttentionCase, generator: torch.Generator, attend: AttendFunction = library_attend
) -> Tensor:
    r"""Difference of outputs on two contents that agree in :math:`t_i` and :math:`\log Z_i`.

    For every query of the layer a second content is drawn, then its keys are shifted along the
    query until the log normaliser agrees and its values until the output without prefix agrees.
    With the same prefix the two outputs must then be one.

    Returns
    -------
    Tensor, shape (H * n,)
        Largest coordinate of the difference, relative to the largest value that the layers read.
    """
    scale = case.queries.shape[-1] ** -0.5
    n_head, n_tokens, width = case.queries.shape
    queries = case.queries.reshape(n_head, n_tokens, 1, width)  # each query on its own
    first_keys, first_values = case.keys[:, None], case.values[:, None]  # (H, 1, n, d_k)
    prefix = case.prefix_keys[:, None], case.prefix_values[:, None]

    def draw() -> Tensor:
        shape = (n_head, n_tokens, n_tokens + 3, width)
        return torch.randn(shape, generator=generator, dtype=queries.dtype)

    def log_normaliser(keys: Tensor) -> Tensor:  # (H, n, 1, 1)
        return (scale * queries @ keys.mT).logsumexp(-1, keepdim=True)

    second_keys, second_values = draw() * case.keys.square().mean().sqrt(), draw()
    gap = log_normaliser(first_keys) - log_normaliser(second_keys)
    second_keys = second_keys + gap * queries / (scale * queries.square().sum(-1, keepdim=True))
    first_output, _ = attend(queries, first_keys, first_values)
    second_output, _ = attend(queries, second_keys, second_values)
    second_values = second_values + (first_output - second_output)

    first, _ = attend(queries, first_keys, first_values, *prefix)
    second, _ = attend(queries, second_keys, second_values, *prefix)
    largest = torch.maximum(_largest_value(case), second_values.abs().max())
    return (first - second).abs().amax(-1).flatten() / largest


def _both(case: AttentionCase, attend: AttendFunction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs and attention without the prefix, then with it."""
    content = case.queries, case.keys, case.values
    outputs, attention = attend(*content, causal=case.causal)
    prefixed_outputs, prefixed = attend(
        *content, case.prefix_keys, case.prefix_values, causal=case.causal
    )
    return outputs, attention, prefixed_outputs, prefixed


def _largest_value(case: AttentionCase) -> Tensor:
    return torch.maximum(case.values.abs().max(), case.prefix_values.abs().max())


check_public(__name__)

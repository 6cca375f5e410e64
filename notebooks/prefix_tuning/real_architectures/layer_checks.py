r"""Do the layers of a real architecture obey the theorems?

Two comparisons. *Every layer with itself*: the model runs with its prefix, and each attention layer
is then called again on the same input without. *The first layer with that of the plain model*: its
content does not depend on the prefix, if it stands at the same positions (or, with rotary
positions, at positions that have the same differences).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from notebooks.prefix_tuning.real_architectures.recording import LayerCall, without_prefix
from promptlib.prefix_tuning.identities import (
    bias_errors,
    relative_attention,
    row_errors,
    split,
    total_variation,
)

__all__ = ["Removal", "first_layer_movement", "output_errors", "relative_errors", "shares"]

Removal = Callable[[LayerCall, int], LayerCall]
"""Gives the call of the same layer on the same input without its prefix."""


def relative_errors(
    calls: Sequence[LayerCall], length: int, remove: Removal = without_prefix
) -> Tensor:
    r"""Errors of :math:`A'_{ij} = (1-\alpha_i)A_{ij}` in every row of every head of every layer.

    Parameters
    ----------
    calls : sequence of LayerCall
        Of one run with a prefix.
    length : int
        Of the prefix.
    remove : callable

    Returns
    -------
    Tensor, shape (rows,)
        The larger of absolute error and relative error of the relative attention.
    """
    errors = [
        row_errors(remove(call, length).attention, call.attention, length).flatten()
        for call in calls
    ]
    return torch.cat(errors)


def output_errors(
    calls: Sequence[LayerCall], length: int, remove: Removal = without_prefix
) -> Tensor:
    r"""Errors of :math:`t'_i = (1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m`, relative to the values.

    Parameters and returned shape as for :func:`relative_errors`.
    """
    errors = []
    for call in calls:
        plain = remove(call, length)
        values = call.values[..., :length, :]
        found = bias_errors(plain.outputs, call.outputs, call.attention, values)
        errors.append(found.flatten() / call.values.abs().max())
    return torch.cat(errors)


def first_layer_movement(plain: LayerCall, prefixed: LayerCall, length: int) -> Tensor:
    """How far relative attention over content moves between two runs, in [0, 1].

    Parameters
    ----------
    plain : LayerCall
        Of a layer without prefix.
    prefixed : LayerCall
        Of the same layer with a prefix of that length.
    length : int

    Returns
    -------
    Tensor, shape (B, H, T)
        Total variation distance between the rows.
    """
    _, _, to_content = split(prefixed.attention, length)
    return total_variation(relative_attention(to_content), plain.attention)


def shares(calls: Sequence[LayerCall], length: int) -> Tensor:
    r"""The shares :math:`\alpha_i` of the prefix, shape (layers, B, H, T)."""
    return torch.stack([split(call.attention, length)[0] for call in calls])

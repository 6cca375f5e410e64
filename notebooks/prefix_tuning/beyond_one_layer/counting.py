r"""How many numbers of the second layer's attention can a prefix in the first layer choose?

For one content, one head in each layer, prefixes of length :math:`p` and values of width
:math:`d_v`, the rows of the second layer depend on the prefix only through
:math:`p\,(n + d_v)` numbers: its attention from the :math:`n` positions, and its values. So the
Jacobian of the rows with respect to keys and values has that rank at most, however wide the keys
are, and where the rows have more free entries almost none of them can be attained.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer.two_layers import (
    TwoLayers,
    first_layer,
    second_logits,
)
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction

__all__ = ["free_entries", "free_numbers", "rank_of_rows"]


def free_numbers(length: int, n_tokens: int, width: int) -> int:
    """How many numbers a prefix can choose for one content: its attention and its values."""
    return length * (n_tokens + width)


def free_entries(layers: TwoLayers) -> int:
    """Free entries of all rows of the second layer, which sees every position."""
    n_tokens = len(layers.content)
    return n_tokens * (n_tokens - 1)


def rank_of_rows(
    layers: TwoLayers, attend: AttendFunction = library_attend, relative: float = 1e-9
) -> int:
    """Rank of the Jacobian of all rows of the second layer with respect to the prefix, unmasked.

    Singular values above `relative` times the largest count.
    """

    def rows(prefix_keys: Tensor, prefix_values: Tensor) -> Tensor:
        prefixed = replace(layers, prefix_keys=prefix_keys, prefix_values=prefix_values)
        return second_logits(layers, first_layer(prefixed, attend)[0]).log_softmax(-1).flatten()

    parts = torch.autograd.functional.jacobian(rows, (layers.prefix_keys, layers.prefix_values))
    values = torch.linalg.svdvals(torch.cat([part.flatten(1) for part in parts], dim=1))
    return int((values > relative * values[0]).sum())


check_public(__name__)

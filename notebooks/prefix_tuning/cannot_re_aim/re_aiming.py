r"""What do changed weights do that a prefix cannot?

The construction of the chapter "A prefix cannot re-aim attention": one query :math:`q` and linearly
independent content tokens :math:`x_1, \dots, x_n`. The rank-one update

.. math::

    W_K \mapsto W_K + q\,u^\top, \qquad
    u^\top x_j = \frac{\sqrt{d_k}}{|q|^2}\,(\log B_j - \log A_j),

turns the attention row :math:`A` into any positive row :math:`B`. It has
:math:`d + d_k` parameters, fewer than two prefix vectors, and is a LoRA of rank one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction

__all__ = ["rank_one_errors", "rank_one_key_update"]


def rank_one_key_update(
    content: Tensor, query: Tensor, attention: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The factors :math:`q, u` of the update of :math:`W_K` that makes one row what is wanted.

    `content` (n, d) has linearly independent rows; `query`, (d_k,), is not zero; `attention` and
    `wanted`, (n,), are positive and sum to one. The update is ``outer(query, direction)``.
    """
    n_tokens, width = content.shape
    if n_tokens > width:
        raise ValueError(f"{n_tokens} tokens of width {width} cannot be linearly independent")
    if not bool((attention > 0).all() and (wanted > 0).all()):
        raise ValueError("both attention rows must be positive in every entry")
    length = query.square().sum()
    if not length > 0:
        raise ValueError("the query is zero, and attends uniformly whatever the keys are")
    change = query.shape[-1] ** 0.5 / length * (wanted.log() - attention.log())
    return query, torch.linalg.pinv(content) @ change


def rank_one_errors(
    content: Tensor,
    query: Tensor,
    key_weight: Tensor,
    wanted: Tensor,
    attend: AttendFunction = library_attend,
    update: Callable[..., tuple[Tensor, Tensor]] = rank_one_key_update,
) -> Tensor:
    """Apply :func:`rank_one_key_update`, attend, and compare with the row wanted."""

    def row(weight: Tensor) -> Tensor:
        keys = content @ weight.mT
        return attend(query[None], keys, keys)[1][0]

    left, right = update(content, query, row(key_weight), wanted)
    return (row(key_weight + torch.outer(left, right)) - wanted).abs()


check_public(__name__)

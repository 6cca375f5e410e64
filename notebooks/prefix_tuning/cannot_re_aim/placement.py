r"""What if the learned vectors stand between or behind the content, instead of before it?

The chapter "A prefix cannot re-aim attention" proves two things. Rows of *content* that see learned
vectors keep their relative attention wherever the vectors stand, and rows that do not see them
(under a causal mask: all before them) do not change at all. But a learned vector among the content
has a row of its own, whose query is learned. That row can be aimed: for linearly independent keys
:math:`k_1, \dots, k_n`, any row :math:`B` with positive entries is the relative attention of the
query that solves

.. math:: k_j^\top q = \sqrt{d_k} \log B_j, \qquad q = W_Q s .

Symbols: ``H`` heads of width ``d_k``, ``n`` content tokens, ``p`` learned vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.cases import AttentionCase
from promptlib.prefix_tuning.identities import AttendFunction, bias_errors, row_errors

__all__ = ["aiming_errors", "insertion_errors", "suffix_that_reads"]


def insertion_errors(
    case: AttentionCase, place: int, queries: Tensor, attend: AttendFunction = library_attend
) -> Tensor:
    r"""Insert the learned vectors behind `place` content tokens and compare all content rows.

    The vectors become ordinary tokens of the layer. Rows of content that see them must be
    :math:`(1-\alpha_i) A_i` with outputs :math:`(1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m`; rows
    before them must, under a causal mask, be untouched. Place 0 is a prefix, n a suffix; no content
    row depends on the vectors' queries, shape (H, p, d_k). Errors of outputs are relative to the
    largest value.
    """
    n_tokens, length = case.keys.shape[-2], case.prefix_length
    if not 0 <= place <= n_tokens:
        raise ValueError(f"place must lie in [0, {n_tokens}], got {place}")

    def insert(content: Tensor, vectors: Tensor) -> Tensor:
        return torch.cat((content[..., :place, :], vectors, content[..., place:, :]), -2)

    outputs, plain = attend(case.queries, case.keys, case.values, causal=case.causal)
    joined_outputs, joined = attend(
        insert(case.queries, queries),
        insert(case.keys, case.prefix_keys),
        insert(case.values, case.prefix_values),
        causal=case.causal,
    )
    inserted = torch.arange(place, place + length)
    content = torch.cat((torch.arange(place), torch.arange(place + length, n_tokens + length)))
    joined = joined[:, content][..., torch.cat((inserted, content))]  # vectors first
    joined_outputs = joined_outputs[:, content]
    largest = torch.maximum(case.values.abs().max(), case.prefix_values.abs().max())
    errors = torch.maximum(
        row_errors(plain, joined, length),
        bias_errors(outputs, joined_outputs, joined, case.prefix_values) / largest,
    )
    if case.causal:
        seen_too_early = joined[:, :place, :length].sum(-1)
        errors[:, :place] = torch.maximum(errors[:, :place], seen_too_early)
    return errors.flatten()


def suffix_that_reads(wanted: Tensor, keys: Tensor, query_weight: Tensor) -> Tensor:
    r"""A vector behind the content whose own row distributes itself as wanted.

    .. math:: s = W_Q^{+} K^{+} \sqrt{d_k} (\log B - c),

    with the rows of :math:`K` the content's keys. :math:`B` is then the relative attention of the
    vector's row over the content, however much the vector leaves to itself. The constant
    :math:`c`, the mean of :math:`\log B`, cancels in the row and keeps the vector short. `wanted`
    is :math:`B`, (n,); `keys` (n, d_k) are independent; `query_weight`, (d_k, d), has rank d_k.
    """
    (n_tokens, head_width), width = keys.shape, query_weight.shape[-1]
    if not (wanted > 0).all() or abs(float(wanted.sum()) - 1) > 1e-9:
        raise ValueError(f"wanted must be positive and sum to one, got {wanted.tolist()}")
    if n_tokens > head_width:
        raise ValueError(
            f"{n_tokens} keys of width {head_width} are not linearly independent; "
            "give at most as many tokens as the head is wide"
        )
    if head_width > width:
        raise ValueError(f"W_Q of shape {tuple(query_weight.shape)} cannot give every query")
    query = torch.linalg.pinv(keys) @ (wanted.log() - wanted.log().mean()) * head_width**0.5
    return torch.linalg.pinv(query_weight) @ query


def aiming_errors(
    content: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    wanted: Tensor,
    attend: AttendFunction = library_attend,
) -> Tensor:
    """Put the suffix of :func:`suffix_that_reads` behind the content and look at its row.

    `weights` are ``W_Q``, ``W_K``, ``W_V`` of a causal head, (d_k, d). Returns the relative error
    of the suffix's relative attention, and the change of the content's own outputs.
    """
    query, key, value = weights
    suffix = suffix_that_reads(wanted, content @ key.mT, query)
    tokens = torch.cat((content, suffix[None]))
    outputs, _ = attend(content @ query.mT, content @ key.mT, content @ value.mT, causal=True)
    with_suffix, attention = attend(
        tokens @ query.mT, tokens @ key.mT, tokens @ value.mT, causal=True
    )
    to_content = attention[-1, :-1]
    aimed = (to_content / to_content.sum() / wanted - 1).abs().max()
    return torch.stack((aimed, (with_suffix[:-1] - outputs).abs().max()))


check_public(__name__)

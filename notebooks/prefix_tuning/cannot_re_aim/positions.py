r"""What if a prefix takes positions, so that the content moves on?

A soft prompt of :math:`p` vectors sits at positions :math:`1, \dots, p` and the content behind it.
Where a layer knows positions only through differences, the content does not notice:

rotary (Su et al. 2024)
    queries and keys are rotated, :math:`q_i \mapsto R_{\pi_i} q_i`, and
    :math:`(R_a q)^\top (R_b k) = q^\top R_{b-a} k`;
ALiBi (Press et al. 2022)
    :math:`m\,|\pi_i - \pi_j|` is subtracted from the logit, with a slope :math:`m` for each head;
a table of distances (Raffel et al. 2020)
    :math:`b(\pi_i - \pi_j)` is added to the logit.

With position vectors added to the tokens the logits change. A *scheme* turns queries and keys at
given positions into queries and keys whose scaled products are the logits, so that the attention
function of the book serves them all.

Symbols: ``H`` heads of width ``d_k``, ``m`` queries, ``n`` keys, ``p`` prefix vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.cases import AttentionCase
from promptlib.prefix_tuning.identities import AttendFunction, bias_errors, row_errors

__all__ = ["RELATIVE", "Scheme", "biased", "moved_attention", "rotate", "shift_errors"]

Scheme = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(queries, keys, query positions, key positions)`` to queries and keys of another width."""


def rotate(vectors: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    r"""Rotary positions: coordinates ``l`` and ``l + d/2`` turned by :math:`\pi\, b^{-2l/d}`."""
    width = vectors.shape[-1]
    if width % 2:
        raise ValueError(f"rotary positions turn pairs of coordinates; width {width} is odd")
    speeds = base ** -(torch.arange(0, width, 2, dtype=vectors.dtype) / width)
    angles = positions.to(vectors.dtype)[:, None] * speeds
    first, second = vectors.chunk(2, -1)
    return torch.cat(
        (
            first * angles.cos() - second * angles.sin(),
            first * angles.sin() + second * angles.cos(),
        ),
        -1,
    )


def biased(queries: Tensor, keys: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose scaled products carry `bias` besides.

    Key ``j`` gets the ``j``-th unit vector as further coordinates and query ``i`` the biases of its
    row, scaled so that attention with one over the root of the new width is right. Of queries
    (H, m, d) and keys (H, n, d) the shapes become (H, m, d + n) and (H, n, d + n).
    """
    width, n_keys = keys.shape[-1], keys.shape[-2]
    units = torch.eye(n_keys, dtype=keys.dtype).expand(*keys.shape[:-1], n_keys)
    rows = bias.to(queries.dtype).expand(*queries.shape[:-1], n_keys) * width**0.5
    rescale = ((width + n_keys) / width) ** 0.5
    return rescale * torch.cat((queries, rows), -1), torch.cat((keys, units), -1)


def _rotary(
    queries: Tensor, keys: Tensor, query_positions: Tensor, key_positions: Tensor
) -> tuple[Tensor, Tensor]:
    return rotate(queries, query_positions), rotate(keys, key_positions)


def _alibi(
    queries: Tensor, keys: Tensor, query_positions: Tensor, key_positions: Tensor
) -> tuple[Tensor, Tensor]:
    n_head = len(queries)
    slopes = 2.0 ** (-8 * torch.arange(1, n_head + 1, dtype=queries.dtype) / n_head)
    distances = (query_positions[:, None] - key_positions).abs()
    return biased(queries, keys, -slopes[:, None, None] * distances)


def _table(
    queries: Tensor, keys: Tensor, query_positions: Tensor, key_positions: Tensor
) -> tuple[Tensor, Tensor]:
    distances = (query_positions[:, None] - key_positions).clamp(-16, 16)
    entries = torch.sin(1.7 * torch.arange(33, dtype=queries.dtype))  # any table serves
    return biased(queries, keys, entries[distances + 16])


RELATIVE: dict[str, Scheme] = {
    "rotary": _rotary,
    "ALiBi": _alibi,
    "table of distances": _table,
}
"""Schemes in which a logit depends on the difference of two positions."""


def moved_attention(
    case: AttentionCase,
    scheme: Scheme,
    content_positions: Tensor,
    prefix_positions: Tensor,
    attend: AttendFunction = library_attend,
) -> tuple[Tensor, Tensor]:
    """Outputs and attention with the prefix, everybody at the position given."""
    length = case.prefix_length
    queries, keys = scheme(
        case.queries,
        torch.cat((case.prefix_keys, case.keys), -2),
        content_positions,
        torch.cat((prefix_positions, content_positions)),
    )
    return attend(
        queries,
        keys[..., length:, :],
        case.values,
        keys[..., :length, :],
        case.prefix_values,
        causal=case.causal,
    )


def shift_errors(
    case: AttentionCase, scheme: Scheme, start: int, attend: AttendFunction = library_attend
) -> Tensor:
    r"""Compare content at positions 0, 1, … with the same content behind a prefix.

    With the prefix, it takes positions ``start`` to ``start + p - 1`` and the content those after.
    The rows must still be :math:`(1-\alpha_i) A_i`, and the outputs
    :math:`(1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m`.
    """
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    content = torch.arange(case.keys.shape[-2])
    front = start + torch.arange(case.prefix_length)
    behind = start + case.prefix_length + content
    queries, keys = scheme(case.queries, case.keys, content, content)
    outputs, plain = attend(queries, keys, case.values, causal=case.causal)
    moved_outputs, moved = moved_attention(case, scheme, behind, front, attend)
    largest = torch.maximum(case.values.abs().max(), case.prefix_values.abs().max())
    weights = row_errors(plain, moved, case.prefix_length)
    biases = bias_errors(outputs, moved_outputs, moved, case.prefix_values) / largest
    return torch.maximum(weights, biases).flatten()


check_public(__name__)

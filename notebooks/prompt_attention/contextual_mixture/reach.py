r"""Which queries can a prompt vector set, when the attention weights are frozen?

A prompt vector ``p`` joined to the queries acts as the query :math:`q = W_K W_Q^\top p`. Its reach
is the range of that matrix: everything when ``W_Q`` and ``W_K`` are invertible, a space of the
width of the head, ``k < d``, in a model with several heads. The part of a wanted context outside
the range is out of reach, and a prompt of cosine ``c`` with the context is worth a context of ``c``
times the length (:func:`promptlib.prompt_attention.mass.limiting_mass`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.attention import attend
from promptlib.checks import check_public, same_kind, shape_of

__all__ = ["Reach", "cumulant", "prompt_for_query", "query_readout"]


class Reach(NamedTuple):
    """The closest that a prompt comes to a wanted query."""

    prompt: Tensor  # (..., d): ``p``, the shortest of the best
    query: Tensor  # (..., d): `W_K W_Q^\top p`, the projection of the wanted query on the range
    cosine: Tensor  # (...): of the reached and the wanted query, in [0, 1]


def prompt_for_query(W_Q: Tensor, W_K: Tensor, query: Tensor) -> Reach:
    r"""The prompt vector whose effect on a frozen layer comes closest to a wanted query.

    .. math:: p = (W_K W_Q^\top)^{+} q, \qquad
              \min_p \lVert W_K W_Q^\top p - q\rVert \text{ is reached at the projection of } q

    For independent Gaussian ``W_Q`` and ``W_K`` of shape (d, k) the range is a uniformly random
    k-dimensional space, and the squared cosine has mean :math:`k/d`. Source: this book.

    Shapes: W_Q, W_K (..., d, k), query (d,).
    """
    shape_of("query", query, "d", integer=False)
    for name, part in (("W_Q", W_Q), ("W_K", W_K)):
        shape_of(name, part, ..., "d", "k")
        same_kind(name, part, "query", query)
    if W_Q.shape != W_K.shape or W_Q.shape[-2] != query.shape[-1]:
        raise ValueError(
            f"W_Q and W_K must have the shape (..., d, k) of one layer and the query shape (d,); "
            f"got {tuple(W_Q.shape)}, {tuple(W_K.shape)}, {tuple(query.shape)}"
        )
    if not float(query.norm()) > 0:
        raise ValueError("the wanted query must not be zero")
    product = W_K @ W_Q.mT
    # The rank is known: a cut by size would count rounding as directions.
    rank = min(W_Q.shape[-1], W_Q.shape[-2])
    left, sizes, right = torch.linalg.svd(product)
    coordinates = query @ left[..., :rank]  # (..., rank)
    prompt = ((coordinates / sizes[..., :rank])[..., None, :] @ right[..., :rank, :]).squeeze(-2)
    reached = (left[..., :rank] @ coordinates[..., None]).squeeze(-1)
    cosine = reached.norm(dim=-1) / query.norm()
    return Reach(prompt, reached, cosine.clamp(max=1.0))


def cumulant(tokens: Tensor, q: Tensor) -> Tensor:
    r"""The cumulant function of a bag: all that any prompt can see of it.

    .. math:: K_X(q) = \log \tfrac1T \sum_t e^{\langle q, x_t\rangle}, \qquad
              \nabla K_X(q) = X^\top\varphi(Xq), \quad
              \nabla K_X(0) = \bar x, \quad \nabla^2 K_X(0) = S_X

    Source: this book (the gradient of log-sum-exp is the softmax).

    Shapes: tokens (..., T, d), q (d,).
    """
    _check_bag(tokens, q)
    return torch.logsumexp(tokens @ q, dim=-1) - torch.log(
        torch.tensor(float(tokens.shape[-2]), dtype=tokens.dtype)
    )


def _check_bag(tokens: Tensor, q: Tensor, several: bool = False) -> None:
    shape_of("tokens", tokens, ..., "T", "d", integer=False)
    shape_of("q", q, *(["K"] if several and q.dim() == 2 else []), tokens.shape[-1])
    same_kind("q", q, "tokens", tokens)


def query_readout(tokens: Tensor, q: Tensor) -> Tensor:
    r"""What one query reads from a bag, :math:`X^\top\varphi(Xq)`.

    Shapes: tokens (..., T, d), q (d,) or (K, d) -> (..., d) or (..., K, d).
    """
    _check_bag(tokens, q, several=True)
    queries = q if q.dim() == 2 else q[None]
    outputs, _ = attend(queries, tokens, tokens, scale=1.0)  # (..., K, d)
    return outputs if q.dim() == 2 else outputs.squeeze(-2)


check_public(__name__)

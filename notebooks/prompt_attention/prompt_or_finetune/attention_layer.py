r"""Which self-attention layer contains a prompt, and can do more?

The layer has every weight that a layer of a transformer has, a bias on the queries among them:

.. math::

    f(X) = \tfrac1T\,\mathbf 1^\top \varphi\big((XW_Q + \mathbf 1 b^\top)\,W_K^\top X^\top\big)\,
           X W_V\, u .

*It contains prompt-attention.* With :math:`W_Q = 0`, :math:`W_K = W_V = I`, :math:`b = q`,
:math:`u = w` every row of the logits is :math:`(Xq)^\top`, so every row of the softmax is
:math:`\varphi(Xq)^\top`, every output is :math:`\langle w, X^\top\varphi(Xq)\rangle`, and so is
their mean: the prompt is the query bias of a layer whose queries do not look at their tokens.

Weights may carry leading dimensions: layers side by side, each with bags of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.attention import attend
from promptlib.checks import check_public, same_kind, shape_of

__all__ = ["LayerWeights", "containing_layer", "layer_scores", "random_layer"]


class LayerWeights(NamedTuple):
    """Weights of the layer and its head; ``...`` layers side by side."""

    W_Q: Tensor  # (..., d, d)
    W_K: Tensor  # (..., d, d)
    W_V: Tensor  # (..., d, d)
    bias: Tensor  # (..., d): ``b``, the query bias: the place of a prompt
    head: Tensor  # (..., d): ``u``


def layer_scores(tokens: Tensor, weights: LayerWeights) -> Tensor:
    """Scores of the whole layer.

    Shapes: tokens (..., n, T, d) -> (..., n).
    """
    shape_of("tokens", tokens, ..., "n", "T", "d", integer=False)
    dim = tokens.shape[-1]
    for name, weight in zip(weights._fields, weights, strict=True):
        expected = (dim,) if name in ("bias", "head") else (dim, dim)
        if tuple(weight.shape[-len(expected) :]) != expected:
            raise ValueError(
                f"{name} must end in shape {expected} for tokens of width {dim}, "
                f"got {tuple(weight.shape)}"
            )
        same_kind(name, weight, "tokens", tokens)
    rows = tokens.flatten(-3, -2)  # (..., n T, d)
    queries = (rows @ weights.W_Q + weights.bias[..., None, :]) @ weights.W_K.mT
    values = rows @ (weights.W_V @ weights.head[..., None])  # (..., n T, 1)
    outputs, _ = attend(
        queries.unflatten(-2, tokens.shape[-3:-1]),
        tokens,
        values.unflatten(-2, tokens.shape[-3:-1]),
        scale=1.0,
    )  # (..., n, T, 1)
    return outputs[..., 0].mean(-1)


def containing_layer(w: Tensor, q: Tensor) -> LayerWeights:
    """The layer that equals prompt-attention with head ``w`` and prompt ``q``, each (..., d)."""
    shape_of("w", w, ..., "d", integer=False)
    same_kind("q", q, "w", w)
    if w.shape != q.shape:
        raise ValueError(f"w and q must have one shape, got {tuple(w.shape)} and {tuple(q.shape)}")
    identity = torch.eye(w.shape[-1], dtype=w.dtype).expand(*w.shape, w.shape[-1])
    return LayerWeights(torch.zeros_like(identity), identity.clone(), identity.clone(), q, w)


def random_layer(shape: tuple[int, ...], generator: torch.Generator) -> LayerWeights:
    r"""The usual start of a transformer's layer, with a head and a bias of zero.

    Entries of variance ``1/d``; queries and keys are both shorter by :math:`d^{1/4}`, which is the
    usual factor :math:`1/\sqrt d` before the logits.
    """
    dim = shape[-1]

    def matrix(size: float) -> Tensor:
        return size * dim**-0.5 * torch.randn(*shape, dim, generator=generator)

    W_Q, W_K, W_V = matrix(dim**-0.25), matrix(dim**-0.25), matrix(1.0)
    return LayerWeights(W_Q, W_K, W_V, torch.zeros(shape), torch.zeros(shape))


check_public(__name__)

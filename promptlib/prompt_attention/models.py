r"""How can a frozen layer be told which tokens to read? Four models of a bag of tokens.

After Oymak et al. 2023. ``X`` has the ``T`` tokens of a bag as rows, :math:`\phi` is the softmax
over tokens, and every model returns one score, whose sign is the prediction:

.. math::

    \text{prompt-attention}        &\quad \langle w, X^\top \phi(X q) \rangle \\
    \text{softmax self-attention}  &\quad
        \tfrac1T \langle \mathbf 1 u^\top, \phi(X A X^\top) X \rangle \\
    \text{linear prompt-attention} &\quad \tfrac1T \langle w, X^\top X q \rangle \\
    \text{mean pooling}            &\quad \tfrac1T \langle w, X^\top \mathbf 1 \rangle

Softmax attention is the book's one attention function with unit scale; a head is linear, so it is
applied to the values first, which makes them one number a token.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from promptlib.attention import attend
from promptlib.checks import check_public, same_kind, shape_of

__all__ = [
    "linear_attention",
    "mean_pooling",
    "prompt_attention",
    "prompted_layer",
    "self_attention",
]


def prompt_attention(tokens: Tensor, w: Tensor, q: Tensor) -> Tensor:
    r"""Prompt-attention: one query, the prompt, reads the whole bag; then a linear head.

    .. math:: f(X) = \langle w, X^\top \phi(X q) \rangle

    Parameters
    ----------
    tokens : Tensor, shape (..., T, d)
        ``X``, one bag or a batch of bags.
    w : Tensor, shape (d,)
        The head.
    q : Tensor, shape (d,)
        The prompt.

    Returns
    -------
    Tensor, shape (...,)
        One score for each bag.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    tokens, w, q = _prepared(tokens, w=w, q=q)
    values = (tokens @ w)[..., None]  # (..., T, 1)
    scores, _ = attend(q[None, :], tokens, values, scale=1.0)  # (..., 1, 1)
    return scores[..., 0, 0]


def self_attention(tokens: Tensor, u: Tensor, A: Tensor) -> Tensor:
    r"""Softmax self-attention: every token is a query; a linear head reads the mean output.

    .. math:: f(X) = \tfrac1T \langle \mathbf 1 u^\top, \phi(X A X^\top) X \rangle

    Parameters
    ----------
    tokens : Tensor, shape (..., T, d)
    u : Tensor, shape (d,) or (T, d)
        The head, the same at every position or one row for each.
    A : Tensor, shape (d, d)
        The product of query and key matrices; row ``t`` of the logits is :math:`x_t^\top A X^\top`.

    Returns
    -------
    Tensor, shape (...,)

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    tokens, u, A = _prepared(tokens, u=u, A=A)
    if u.dim() == 1:
        values = (tokens @ u)[..., None]  # (..., T, 1)
        outputs, _ = attend(tokens @ A, tokens, values, scale=1.0)
    else:
        outputs, _ = attend(tokens @ A, tokens, tokens, scale=1.0)  # (..., T, d)
        outputs = (outputs * u).sum(dim=-1, keepdim=True)
    return outputs[..., 0].mean(dim=-1)


def linear_attention(tokens: Tensor, w: Tensor, q: Tensor) -> Tensor:
    r"""Linear prompt-attention: the prompt's raw scores weigh the tokens, without softmax.

    .. math:: f(X) = \tfrac1T \langle w, X^\top X q \rangle

    Parameters and errors as for :func:`prompt_attention`.
    """
    tokens, w, q = _prepared(tokens, w=w, q=q)
    return ((tokens @ w) * (tokens @ q)).mean(dim=-1)


def mean_pooling(tokens: Tensor, w: Tensor) -> Tensor:
    r"""Linear model on the mean token: no attention at all.

    .. math:: f(X) = \tfrac1T \langle w, X^\top \mathbf 1 \rangle

    Parameters and errors as for :func:`prompt_attention`, without a prompt.
    """
    tokens, w = _prepared(tokens, w=w)
    return (tokens @ w).mean(dim=-1)


def prompted_layer(
    tokens: Tensor, prompts: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor
) -> tuple[Tensor, Tensor]:
    r"""One attention layer whose queries are joined by prompt vectors, the keys and values not.

    .. math::

        X_P = \begin{bmatrix} P \\ X \end{bmatrix}, \qquad
        \begin{bmatrix} O_P \\ O \end{bmatrix} = \phi(X_P W_Q W_K^\top X^\top)\, X W_V

    Parameters
    ----------
    tokens : Tensor, shape (..., T, d)
        ``X``.
    prompts : Tensor, shape (p, d)
        ``P``, the trainable rows.
    W_Q, W_K : Tensor, shape (d, k)
    W_V : Tensor, shape (d, e)

    Returns
    -------
    O_P : Tensor, shape (..., p, e)
        What the prompts read.
    O : Tensor, shape (..., T, e)
        What the tokens read: the output of the frozen layer, whatever the prompts are.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit.
    """
    shape_of("tokens", tokens, ..., "T", "d", integer=False)
    dim = tokens.shape[-1]
    shape_of("prompts", prompts, "p", dim)
    shape_of("W_Q", W_Q, dim, "k")
    shape_of("W_K", W_K, dim, W_Q.shape[1])
    shape_of("W_V", W_V, dim, "e")
    for name, part in (("prompts", prompts), ("W_Q", W_Q), ("W_K", W_K), ("W_V", W_V)):
        same_kind(name, part, "tokens", tokens)
    rows = prompts.expand(*tokens.shape[:-2], *prompts.shape)
    queries = torch.cat((rows, tokens), dim=-2)
    outputs, _ = attend(queries @ W_Q, tokens @ W_K, tokens @ W_V, scale=1.0)
    return outputs[..., : prompts.shape[0], :], outputs[..., prompts.shape[0] :, :]


def _prepared(tokens: Tensor, **weights: Tensor) -> tuple[Tensor, ...]:
    """Everything in one floating-point type, after the shapes were checked."""
    if not torch.is_tensor(tokens) or tokens.dim() < 2:
        raise ValueError(
            f"tokens must be a tensor of shape (..., T, d), got {_described(tokens)}; "
            f"the bags of ContextualMixture.sample are in its field .tokens"
        )
    count, dim = tokens.shape[-2:]
    if count == 0:
        raise ValueError(f"a bag needs at least one token, got tokens of {_described(tokens)}")
    allowed: dict[str, list[tuple[int, ...]]] = {
        "w": [(dim,)],
        "q": [(dim,)],
        "u": [(dim,), (count, dim)],
        "A": [(dim, dim)],
    }
    for name, weight in weights.items():
        if not torch.is_tensor(weight) or tuple(weight.shape) not in allowed[name]:
            expected = " or ".join(str(shape) for shape in allowed[name])
            raise ValueError(
                f"{name} must be a tensor of shape {expected} for tokens of shape "
                f"{tuple(tokens.shape)}, got {_described(weight)}"
            )
    parts = (tokens, *weights.values())
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    if not dtype.is_floating_point:
        raise ValueError(f"tokens and weights must be floating-point tensors, got {dtype}")
    return tuple(part.to(dtype) for part in parts)


def _described(value: object) -> str:
    if torch.is_tensor(value):
        return f"shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


check_public(__name__)

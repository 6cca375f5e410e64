"""What do the first three steps of gradient descent give on samples, with fresh bags in each?

The steps are those of :mod:`promptlib.prompt_attention.descent`. A step never holds more than a
stated number of bytes of bags; it draws and adds up as many batches as that takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.descent import Loss, _start_slope
from promptlib.prompt_attention.mass import _number
from promptlib.prompt_attention.mixture import Bags, ContextualMixture

__all__ = ["MEMORY_LIMIT", "Descent", "batches", "gradients", "three_step_descent"]

MEMORY_LIMIT = 64 * 2**20
"""Bytes that the tokens of one batch may take; working copies take a few times that."""

CACHED = 2**20
"""Bytes of tokens that a batch of several bags takes: what a processor keeps at hand."""


class Descent(NamedTuple):
    """The three iterates.

    Attributes
    ----------
    w1, q1, w2 : Tensor, shape (..., d)
        ``...`` are the dimensions of the step sizes, broadcast.
    """

    w1: Tensor
    q1: Tensor
    w2: Tensor


def gradients(
    tokens: Tensor, labels: Tensor, w: Tensor, q: Tensor, loss: Loss = "squared"
) -> tuple[Tensor, Tensor]:
    r"""The gradients of prompt-attention on given bags, for many heads and prompts at once.

    With :math:`a = \varphi(Xq)`, the feature :math:`v = X^\top a` and the slope
    :math:`\ell` of the loss in the score (:math:`f - y` for squared loss,
    :math:`-y S(-yf)` for logistic),

    .. math:: \nabla_w = \frac1n\sum \ell\, v, \qquad \nabla_q =
              \frac1n\sum \ell\, \bigl(X^\top \operatorname{diag}(a) X - v v^\top\bigr) w .

    Parameters
    ----------
    tokens : Tensor, shape (n, T, d)
    labels : Tensor, shape (n,)
    w, q : Tensor, shape (..., d)
        Leading dimensions are equal.
    loss : {"squared", "logistic"}

    Returns
    -------
    grad_w, grad_q : Tensor, shape (..., d)
    """
    shape = w.shape
    heads, prompts = w.reshape(-1, shape[-1]), q.reshape(-1, shape[-1])  # (K, d)
    attention = torch.softmax(tokens @ prompts.T, dim=1)  # (n, T, K)
    reads = tokens @ heads.T  # (n, T, K), ⟨w, x_t⟩
    scores = (attention * reads).sum(1)  # (n, K)
    slopes = _slope(scores, labels[:, None], loss) / len(tokens)  # (n, K)
    grad_w = _weighted_sum(tokens, attention * slopes[:, None])
    pull = attention * (reads - scores[:, None]) * slopes[:, None]  # (n, T, K)
    return grad_w.reshape(shape), _weighted_sum(tokens, pull).reshape(shape)


def three_step_descent(
    mixture: ContextualMixture,
    n: int,
    eta: Tensor | float,
    gamma: Tensor | float,
    generator: torch.Generator,
    *,
    loss: Loss = "squared",
    memory_limit: int = MEMORY_LIMIT,
) -> Descent:
    """The three iterates from samples, with `n` fresh bags in each step.

    Parameters
    ----------
    mixture : ContextualMixture
        Any deviations and any cosine.
    n : int
        Bags in each of the three steps.
    eta, gamma : Tensor or float
        Step sizes of head and prompt; they broadcast, and all of them see the same bags.
    generator : torch.Generator
        Where the randomness comes from.
    loss : {"squared", "logistic"}
    memory_limit : int
        Bytes that the tokens of one batch may take.

    Returns
    -------
    Descent
        w1, q1 and w2, each of shape (..., d).

    Raises
    ------
    ValueError
        If a step size is not finite, `n` is no positive integer, the loss is unknown, or one bag
        alone exceeds the memory limit.
    """
    head_step, prompt_step = (
        size.to(mixture.dtype)[..., None]
        for size in torch.broadcast_tensors(_number("eta", eta), _number("gamma", gamma))
    )
    zero = torch.zeros(*head_step.shape[:-1], mixture.dim, dtype=mixture.dtype)

    def step(w: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        grad_w, grad_q = torch.zeros_like(zero), torch.zeros_like(zero)
        for bags in batches(mixture, n, generator, memory_limit):
            share = len(bags.tokens) / n
            part_w, part_q = gradients(bags.tokens, bags.labels, w, q, loss)
            grad_w += share * part_w
            grad_q += share * part_q
        return grad_w, grad_q

    w1 = -head_step * step(zero, zero)[0]
    q1 = -prompt_step * step(w1, zero)[1]
    w2 = -head_step * step(zero, q1)[0]
    return Descent(w1, q1, w2)


def batches(
    mixture: ContextualMixture,
    n: int,
    generator: torch.Generator,
    memory_limit: int = MEMORY_LIMIT,
) -> Iterator[Bags]:
    """Draw `n` bags in batches whose tokens stay within a memory limit.

    Parameters
    ----------
    mixture : ContextualMixture
    n : int
        Bags in all, at least 1.
    generator : torch.Generator
    memory_limit : int
        Bytes for the tokens of one batch.

    Yields
    ------
    Bags

    Raises
    ------
    ValueError
        If `n` is no positive integer, or one bag alone exceeds the limit.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, got {n!r}")
    size = mixture.tokens * mixture.dim * mixture.dtype.itemsize
    if size > memory_limit:
        raise ValueError(
            f"one bag of {mixture.tokens} tokens of width {mixture.dim} takes {size} bytes, more "
            f"than memory_limit={memory_limit}"
        )
    at_once = max(1, min(memory_limit, CACHED) // size)
    for start in range(0, n, at_once):
        yield mixture.sample(min(at_once, n - start), generator)


def _slope(scores: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """The derivative of the loss of a bag in its score."""
    _start_slope(loss)
    if loss == "squared":
        return scores - labels
    return -labels * torch.sigmoid(-labels * scores)


def _weighted_sum(tokens: Tensor, weights: Tensor) -> Tensor:
    """Σ over bags and tokens of weight times token: (n, T, d), (n, T, K) -> (K, d)."""
    return weights.reshape(-1, weights.shape[-1]).T @ tokens.reshape(-1, tokens.shape[-1])


check_public(__name__)

r"""How much attention can a prefix take, and from which queries at once?

A prefix that attracts the logits :math:`\bar z_{im}` takes from query :math:`i` the share

.. math::

    \alpha_i = \sigma(\log \bar Z_i - \log Z_i), \qquad
    Z_i = \sum_j e^{z_{ij}}, \quad \bar Z_i = \sum_m e^{\bar z_{im}},

with the logistic function :math:`\sigma`. Two consequences, proved in the chapter "A prefix cannot
re-aim attention":

* shares and points of the hull can be prescribed freely for linearly independent queries, and one
  prefix vector takes the shares :math:`\alpha` exactly when :math:`\operatorname{logit}\alpha +
  \log Z` lies in the column space of the queries;
* if the prefix passes through a LayerNorm, its keys lie in an ellipsoid, and no prefix vector takes
  more than a share that the query and the layer's weights determine.

Symbols: ``n`` queries, ``p`` prefix vectors, ``d`` the layer's width, ``d_k`` the head's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "best_normalised_vector",
    "climb",
    "keys_that_take",
    "largest_share",
    "log_normalisers",
    "normalise",
]


def log_normalisers(queries: Tensor, keys: Tensor, causal: bool = False) -> Tensor:
    r""":math:`\log Z_i`, the log of the sum of exponentiated logits that query ``i`` sees.

    Parameters
    ----------
    queries : Tensor, shape (..., n, d_k)
    keys : Tensor, shape (..., n, d_k)
        With a causal mask query ``i`` sees the keys up to ``i``.
    causal : bool

    Returns
    -------
    Tensor, shape (..., n)
    """
    logits = queries @ keys.mT * queries.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        logits = logits.masked_fill(hidden, float("-inf"))
    return logits.logsumexp(-1)


def keys_that_take(queries: Tensor, log_normaliser: Tensor, attention: Tensor) -> Tensor:
    r"""Prefix keys that receive a prescribed attention from linearly independent queries.

    The logits must be :math:`\log A'_{im} - \log(1 - \alpha_i) + \log Z_i`, and
    linearly independent queries can be given any logits.

    Parameters
    ----------
    queries : Tensor, shape (n, d_k)
        Linearly independent, so ``n <= d_k``.
    log_normaliser : Tensor, shape (n,)
        :math:`\log Z_i` of the content.
    attention : Tensor, shape (n, p)
        Attention wanted on each prefix vector: positive, rows summing to less than one.

    Returns
    -------
    Tensor, shape (p, d_k)
        The keys of smallest norm that do it.

    Raises
    ------
    ValueError
        If there are more queries than their width, or the attention is not as described.
    """
    n_queries, width = queries.shape
    if n_queries > width:
        raise ValueError(f"{n_queries} queries of width {width} cannot be linearly independent")
    left = 1 - attention.sum(-1, keepdim=True)
    if not bool((attention > 0).all() and (left > 0).all()):
        raise ValueError(
            "the wanted attention must be positive with rows that sum to less than one, got "
            f"entries from {attention.min():g} and rows up to {attention.sum(-1).max():g}"
        )
    logits = attention.log() - left.log() + log_normaliser[:, None]  # (n, p)
    return (width**0.5 * torch.linalg.pinv(queries) @ logits).mT


def normalise(vectors: Tensor) -> Tensor:
    r"""LayerNorm without gain and shift: mean 0 and mean square 1 along the last dimension.

    This is the limit of :math:`\mathrm{LN}(cs)` for :math:`c \to \infty`, in which the constant
    that guards its denominator disappears.

    Parameters
    ----------
    vectors : Tensor, shape (..., d)
        Not constant along the last dimension, ``d >= 2``.
    """
    centred = vectors - vectors.mean(-1, keepdim=True)
    return centred / centred.square().mean(-1, keepdim=True).sqrt()


def best_normalised_vector(queries: Tensor, key_weight: Tensor, gain: Tensor) -> Tensor:
    r"""The normalised vector that attracts most attention from a query.

    :math:`\hat s = \sqrt d\, g / |g|` with :math:`g = P\,\Gamma\, W_K^\top q`, where :math:`P`
    removes the mean and :math:`\Gamma` is the diagonal of gains.

    Parameters
    ----------
    queries : Tensor, shape (n, d_k)
    key_weight : Tensor, shape (d_k, d)
    gain : Tensor, shape (d,)

    Returns
    -------
    Tensor, shape (n, d)
        Mean 0 and mean square 1.
    """
    return normalise((queries @ key_weight) * gain)


def largest_share(
    queries: Tensor,
    log_normaliser: Tensor,
    key_weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    key_bias: Tensor | None = None,
    prefix_length: int = 1,
) -> Tensor:
    r"""The supremum of :math:`\alpha_i` over all prefixes that pass through the LayerNorm.

    The prefix key is :math:`\bar k = W_K(\Gamma \hat s + \beta) + b_K` with :math:`\hat s` of
    mean 0 and length at most :math:`\sqrt d`, so its logit is at most

    .. math::

        \bar z_i = \frac{\sqrt d\,|P \Gamma W_K^\top q_i| + q_i^\top (W_K \beta + b_K)}{\sqrt{d_k}},
        \qquad \alpha_i \le \sigma(\log p + \bar z_i - \log Z_i).

    Parameters
    ----------
    queries : Tensor, shape (n, d_k)
        Of one head.
    log_normaliser : Tensor, shape (n,)
        :math:`\log Z_i` of the content.
    key_weight : Tensor, shape (d_k, d)
        Of the same head.
    gain, shift : Tensor, shape (d,)
        Of the LayerNorm.
    key_bias : Tensor, shape (d_k,), optional
    prefix_length : int
        ``p``, at least 1.

    Returns
    -------
    Tensor, shape (n,)

    Raises
    ------
    ValueError
        If the prefix length is below 1 or the shapes do not fit.
    """
    if prefix_length < 1:
        raise ValueError(f"prefix_length must be at least 1, got {prefix_length}")
    head_width, width = key_weight.shape
    if queries.shape[-1] != head_width or gain.shape != (width,) or shift.shape != (width,):
        raise ValueError(
            f"queries {tuple(queries.shape)}, key_weight {tuple(key_weight.shape)}, gain "
            f"{tuple(gain.shape)} and shift {tuple(shift.shape)} do not fit"
        )
    pull = (queries @ key_weight) * gain  # (n, d)
    pull = pull - pull.mean(-1, keepdim=True)
    constant = key_weight @ shift
    if key_bias is not None:
        constant = constant + key_bias
    logits = (width**0.5 * pull.norm(dim=-1) + queries @ constant) * head_width**-0.5
    length = torch.tensor(float(prefix_length), dtype=logits.dtype)
    return torch.sigmoid(length.log() + logits - log_normaliser)


def climb(
    queries: Tensor,
    key_weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    generator: torch.Generator,
    *,
    restarts: int,
    steps: int,
    rate: float = 0.3,
) -> Tensor:
    r"""Gradient search for the prefix vector that attracts most attention from each query.

    It knows nothing of :func:`best_normalised_vector`: it takes steps along the gradient of the
    prefix logit, with the LayerNorm in place, from random starts.

    Parameters
    ----------
    queries : Tensor, shape (n, d_k)
    key_weight : Tensor, shape (d_k, d)
    gain, shift : Tensor, shape (d,)
        Of the LayerNorm.
    generator : torch.Generator
    restarts, steps : int
        Both at least 1.
    rate : float
        First step length relative to the vector's; it falls to zero linearly.

    Returns
    -------
    Tensor, shape (n, d)
        The best normalised vector found for each query.
    """
    n_queries, (head_width, width) = queries.shape[0], key_weight.shape
    vectors = torch.randn(restarts, n_queries, width, generator=generator, dtype=queries.dtype)

    def prefix_logits(candidates: Tensor) -> Tensor:  # (restarts, n)
        prefix_keys = (normalise(candidates) * gain + shift) @ key_weight.mT
        return (prefix_keys * queries).sum(-1) * head_width**-0.5

    for step in range(steps):
        vectors = normalise(vectors).requires_grad_()
        (slope,) = torch.autograd.grad(prefix_logits(vectors).sum(), vectors)
        length = rate * (1 - step / steps) * vectors.norm(dim=-1, keepdim=True)
        slope = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        vectors = (vectors + length * slope).detach()
    winner = prefix_logits(vectors).argmax(0)
    return normalise(vectors[winner, torch.arange(n_queries)])


check_public(__name__)

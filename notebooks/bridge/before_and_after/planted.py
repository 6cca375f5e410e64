r"""How well is a planted prefix recovered, if key and value are free, and if one vector gives both?

Queries :math:`x` read a content with output :math:`t` and logit 0, and one prefix vector:

.. math:: y = (1-\alpha)\,t + \alpha\,\bar v + \text{noise}, \qquad
    \alpha = \sigma(\langle x, \bar k\rangle) .

Free are :math:`\bar k` and :math:`\bar v`; tied they are :math:`\bar k = s`, :math:`\bar v = Cs`.
Source: this book, after Le et al. 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "derivatives",
    "free_covariance",
    "least_squares",
    "predicted",
    "tied_covariance",
]


def predicted(queries: Tensor, key: Tensor, value: Tensor, content: Tensor) -> Tensor:
    """Outputs without noise: queries (..., n, d), key (..., d), value (..., e) -> (..., n, e)."""
    share = torch.sigmoid(queries @ key[..., None])  # (..., n, 1)
    return content + share * (value - content)[..., None, :]


def derivatives(queries: Tensor, key: Tensor, value: Tensor, content: Tensor) -> Tensor:
    """Derivatives of all outputs by key and value: (..., n * e, d + e)."""
    share = torch.sigmoid(queries @ key[..., None])  # (..., n, 1)
    slope = (share * (1 - share))[..., None, :] * (value - content)[..., None, :, None]
    by_key = slope * queries[..., None, :]  # (..., n, e, d)
    by_value = share[..., None] * torch.eye(value.shape[-1], dtype=value.dtype)
    return torch.cat((by_key, by_value.expand(*by_key.shape[:-1], -1)), dim=-1).flatten(-3, -2)


def free_covariance(jacobian: Tensor) -> Tensor:
    r"""Covariance of least squares for key and value, noise 1: :math:`F^{-1}`, (..., k, k)."""
    return torch.linalg.inv(jacobian.mT @ jacobian)


def tied_covariance(jacobian: Tensor, tie: Tensor) -> Tensor:
    r"""The same where both are ``tie`` times one vector: :math:`G(G^\top FG)^{-1}G^\top`.

    Shapes: jacobian (..., m, k), tie (k, d) -> (..., k, k).
    """
    own = jacobian @ tie
    return tie @ torch.linalg.inv(own.mT @ own) @ tie.mT


def least_squares(
    queries: Tensor, outputs: Tensor, start: Tensor, tie: Tensor, content: Tensor, steps: int = 8
) -> Tensor:
    """Key and value by Gauss and Newton's method.

    Parameters
    ----------
    queries, outputs : Tensor, shapes (r, n, d) and (r, n, e)
        Several data sets.
    start : Tensor, shape (j,)
        Of the free parameters.
    tie : Tensor, shape (d + e, j)
        From these to key and value; the identity where they are free.

    Returns
    -------
    Tensor, shape (r, d + e)
    """
    width = queries.shape[-1]
    found = start.expand(len(queries), -1)
    for _ in range(steps):
        pair = found @ tie.mT
        key, value = pair[:, :width], pair[:, width:]
        left = (outputs - predicted(queries, key, value, content)).flatten(1)
        own = derivatives(queries, key, value, content) @ tie
        found = found + torch.linalg.lstsq(own, left[..., None]).solution.squeeze(-1)
    return found @ tie.mT


check_public(__name__)

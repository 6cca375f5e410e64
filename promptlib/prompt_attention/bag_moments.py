r"""What do the mean and the covariance of a bag know about context and signal?

A bag of :class:`~promptlib.prompt_attention.mixture.ContextualMixture` holds ``m`` copies of ``r``
and ``N = T - m`` noisy copies of ``i``, where

.. math::

    r = q_\star + y w_\star, \qquad i = -\delta_q q_\star - \delta_w y w_\star, \qquad
    D = r - i = (1+\delta_q) q_\star + (1+\delta_w) y w_\star .

With :math:`\bar z` the mean of the noise over the irrelevant tokens and :math:`S_z` its covariance
among them, the mean :math:`\bar x` and the covariance :math:`S_X = \frac1T X^\top X - \bar x \bar
x^\top` of the tokens in the bag are

.. math::

    \bar x = \zeta r + (1-\zeta)(i + \bar z), \qquad
    S_X = \zeta(1-\zeta)(D - \bar z)(D - \bar z)^\top + (1-\zeta) S_z .

Everything that follows in this module is an average of these two. The noise is Gaussian, so
:math:`\bar z` and :math:`S_z` are independent, :math:`E\,\bar z\bar z^\top = \sigma^2 I/N` and
:math:`E S_z = \sigma^2(1-1/N) I`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = [
    "Cases",
    "bag_covariance",
    "bag_mean",
    "cases",
    "signed_covariance",
    "signed_mean",
]


class Cases(NamedTuple):
    """The finitely many values of (y, δ), with the two kinds of token in each.

    Attributes
    ----------
    labels : Tensor, shape (P,)
    relevant, irrelevant : Tensor, shape (P, d)
        ``r`` and ``i``; the irrelevant tokens of a bag scatter around ``i``.
    probabilities : Tensor, shape (P,)
    deviations : Tensor, shape (P, 2)
    """

    labels: Tensor
    relevant: Tensor
    irrelevant: Tensor
    probabilities: Tensor
    deviations: Tensor

    @property
    def difference(self) -> Tensor:
        """``D = r - i``, shape (P, d)."""
        return self.relevant - self.irrelevant


def cases(mixture: ContextualMixture) -> Cases:
    """Every (y, δ) of a mixture, labels +1 first."""
    count = len(mixture.deviations)
    labels = torch.tensor([1.0, -1.0], dtype=mixture.dtype).repeat_interleave(count)
    deviations = mixture.deviation_table.repeat(2, 1)
    kinds = mixture.compose(
        labels, torch.tensor([[True, False]]).expand(2 * count, 2), deviations
    )  # (P, 2, d)
    probabilities = mixture.deviation_probabilities.repeat(2) / 2
    return Cases(labels, kinds[:, 0], kinds[:, 1], probabilities, deviations)


def bag_mean(mixture: ContextualMixture) -> Tensor:
    r"""The mean token of a bag in each case, averaged over the noise.

    .. math:: E[\bar x \mid y, \delta] = \zeta r + (1-\zeta)\, i

    Returns
    -------
    Tensor, shape (P, d)
        In the order of :func:`cases`.
    """
    kinds = cases(mixture)
    return mixture.sparsity * kinds.relevant + (1 - mixture.sparsity) * kinds.irrelevant


def bag_covariance(mixture: ContextualMixture) -> Tensor:
    r"""The covariance of the tokens of a bag in each case, averaged over the noise.

    .. math:: E[S_X \mid y, \delta] = \zeta(1-\zeta) D D^\top
              + (1-\zeta)\,\sigma^2\,\bigl(1 - \tfrac{1}{T}\bigr) I

    Returns
    -------
    Tensor, shape (P, d, d)
        In the order of :func:`cases`.
    """
    share, count = mixture.sparsity, mixture.tokens
    difference = cases(mixture).difference
    outer = difference[:, :, None] * difference[:, None, :]
    noise = (1 - share) * mixture.noise_std**2 * (1 - 1 / count)
    return share * (1 - share) * outer + noise * torch.eye(mixture.dim, dtype=mixture.dtype)


def signed_mean(mixture: ContextualMixture) -> Tensor:
    r"""What the label has in common with the mean token: the direction of the first head.

    .. math:: E[y \bar x] = \bigl(\zeta - (1-\zeta)\, E\delta_w\bigr)\, w_\star

    True for every cosine of the two vectors: the context carries no sign.

    Returns
    -------
    Tensor, shape (d,)
    """
    kinds = cases(mixture)
    return (kinds.probabilities * kinds.labels) @ bag_mean(mixture)


def signed_covariance(mixture: ContextualMixture) -> Tensor:
    r"""What the label has in common with the covariance: the product of context and signal.

    .. math:: E[y S_X] = \zeta(1-\zeta)\, E[(1+\delta_q)(1+\delta_w)]\,
              (q_\star w_\star^\top + w_\star q_\star^\top)

    Returns
    -------
    Tensor, shape (d, d)
    """
    kinds = cases(mixture)
    return torch.einsum("p,pij->ij", kinds.probabilities * kinds.labels, bag_covariance(mixture))


check_public(__name__)

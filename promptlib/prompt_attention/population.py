r"""What is left of a bag without noise? Two kinds of token, a label and a deviation.

In the discrete model (``noise_std = 0``) a bag holds :math:`\zeta T` copies of
:math:`r = q^\star + y w^\star` and :math:`(1-\zeta)T` copies of
:math:`i = -\delta_q q^\star - \delta_w y w^\star`, all in the plane of :math:`q^\star` and
:math:`w^\star`. The order of the tokens does not matter to any model with one head, so a score is
a function of :math:`(y, \delta)` alone, and accuracy is a sum over finitely many cases: exact, with
no sampling. With :math:`\ell = \log\frac{\zeta}{1-\zeta}` and :math:`S` the logistic function,
a query :math:`v` puts on the relevant tokens the attention :math:`S(\ell + v^\top (r - i))`.

Shapes in comments: ``...`` cells (populations side by side) and restarts, ``P`` the cases
:math:`(y, \delta)`; weights live in the plane, so they have 2 coordinates, matrices 2 by 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = ["PLANE_MODELS", "PlaneModel", "Population", "aligned", "mirrored"]

TIE = 1e-9
"""A score counts as right when it is this far on the right side, relative to its terms."""


def aligned(deviation: float) -> tuple[tuple[float, float], ...]:
    """The two deviations (0, 0) and (Δ, Δ): irrelevant tokens turned against context and signal."""
    return ((0.0, 0.0), (deviation, deviation))


def mirrored(deviation: float) -> tuple[tuple[float, float], ...]:
    """The two deviations (0, 0) and (Δ, -Δ): against the context, and with the signal."""
    return ((0.0, 0.0), (deviation, -deviation))


@dataclass(frozen=True)
class Population:
    """Every case (y, δ) of one discrete mixture, or of several side by side.

    Attributes
    ----------
    relevant, irrelevant : Tensor, shape (..., P, 2)
        The two kinds of token, in orthonormal coordinates of the plane of q* and w*.
    labels : Tensor, shape (P,)
        Each +1 or -1.
    probabilities : Tensor, shape (..., P)
        Of the cases; they sum to one.
    sparsity : Tensor, shape (...)
        ζ.
    """

    relevant: Tensor
    irrelevant: Tensor
    labels: Tensor
    probabilities: Tensor
    sparsity: Tensor

    @classmethod
    def of(cls, mixture: ContextualMixture) -> Population:
        """The population of a mixture without noise.

        Raises
        ------
        ValueError
            If the mixture has noise: its bags are then not finitely many.
        """
        if mixture.noise_std != 0:
            raise ValueError(
                f"only a mixture without noise has finitely many kinds of bag, got noise_std="
                f"{mixture.noise_std}; draw bags with mixture.sample, or set noise_std=0"
            )
        count = len(mixture.deviations)
        labels = torch.tensor([1.0, -1.0], dtype=mixture.dtype).repeat_interleave(count)
        cases = mixture.compose(
            labels,
            torch.tensor([[True, False]]).expand(2 * count, 2),
            mixture.deviation_table.repeat(2, 1),
        )  # (P, 2, d): one relevant and one irrelevant token
        cases = cases[..., :2]  # q* and w* span the first two axes
        return cls(
            relevant=cases[:, 0],
            irrelevant=cases[:, 1],
            labels=labels,
            probabilities=mixture.deviation_probabilities.repeat(2) / 2,
            sparsity=torch.tensor(mixture.sparsity, dtype=mixture.dtype),
        )

    @classmethod
    def stack(cls, mixtures: Sequence[ContextualMixture]) -> Population:
        """Populations side by side; the mixtures have equally many deviations.

        Raises
        ------
        ValueError
            If there are none, or they differ in the number of deviations.
        """
        counts = {len(mixture.deviations) for mixture in mixtures}
        if len(counts) != 1:
            raise ValueError(
                f"mixtures to stack must have equally many deviations, got {sorted(counts)}"
            )
        parts = [cls.of(mixture) for mixture in mixtures]
        return cls(
            relevant=torch.stack([part.relevant for part in parts]),
            irrelevant=torch.stack([part.irrelevant for part in parts]),
            labels=parts[0].labels,
            probabilities=torch.stack([part.probabilities for part in parts]),
            sparsity=torch.stack([part.sparsity for part in parts]),
        )

    def with_restarts(self) -> Population:
        """The same population with an axis for restarts before the cases."""
        return Population(
            relevant=self.relevant.unsqueeze(-3),
            irrelevant=self.irrelevant.unsqueeze(-3),
            labels=self.labels,
            probabilities=self.probabilities.unsqueeze(-2),
            sparsity=self.sparsity.unsqueeze(-1),
        )


class Reading(NamedTuple):
    """Scores in the plane, with the size of the terms that they are made of.

    Attributes
    ----------
    scores : Tensor, shape (..., P)
    sizes : Tensor, shape (..., P)
        The same sum with every term made positive; ``scores / sizes`` lies in [-1, 1].
    """

    scores: Tensor
    sizes: Tensor

    def margins(self, population: Population) -> Tensor:
        """How far on the right side each case is, in [-1, 1], shape (..., P)."""
        return population.labels * self.scores / self.sizes.clamp_min(1e-300)

    def accuracy(self, population: Population) -> Tensor:
        """The exact accuracy; a score of zero counts as wrong. Shape (...)."""
        right = self.margins(population) > TIE
        # Sums of thirds are not exact; rounded, equal accuracies compare as equal.
        return (right * population.probabilities).sum(dim=-1).round(decimals=12)


@dataclass(frozen=True)
class PlaneModel:
    """A model of the book as a function on the plane.

    Attributes
    ----------
    name : str
    sizes : Mapping[str, tuple[int, ...]]
        The name and shape of each weight, in the order of the model's arguments.
    read : callable
        ``read(population, **weights) -> Reading``; weights carry the leading dimensions.
    """

    name: str
    sizes: Mapping[str, tuple[int, ...]]
    read: Callable[..., Reading]


def _dot(vectors: Tensor, weight: Tensor) -> Tensor:
    """⟨v, weight⟩ for vectors (..., P, 2) and a weight (..., 2); faster than a tiny matmul."""
    return vectors[..., 0] * weight[..., None, 0] + vectors[..., 1] * weight[..., None, 1]


def _blend(attention: Tensor, first: Tensor, second: Tensor) -> Reading:
    scores = attention * first + (1 - attention) * second
    return Reading(scores, attention * first.abs() + (1 - attention) * second.abs())


def _log_odds(population: Population) -> Tensor:
    return torch.logit(population.sparsity)[..., None]  # (..., 1)


def _prompt_attention(population: Population, w: Tensor, q: Tensor) -> Reading:
    attention = torch.sigmoid(
        _log_odds(population) + _dot(population.relevant - population.irrelevant, q)
    )
    return _blend(attention, _dot(population.relevant, w), _dot(population.irrelevant, w))


def _self_attention(population: Population, u: Tensor, A: Tensor) -> Reading:
    relevant, irrelevant = population.relevant, population.irrelevant
    first, second = _dot(relevant, u), _dot(irrelevant, u)
    difference = relevant - irrelevant
    # The keys as every query sees them, A (r - i), shape (..., P, 2).
    keys = torch.stack((_dot(difference, A[..., 0, :]), _dot(difference, A[..., 1, :])), dim=-1)
    readings = [
        _blend(torch.sigmoid(_log_odds(population) + (query * keys).sum(-1)), first, second)
        for query in (relevant, irrelevant)
    ]
    share = population.sparsity[..., None]
    return Reading(
        share * readings[0].scores + (1 - share) * readings[1].scores,
        share * readings[0].sizes + (1 - share) * readings[1].sizes,
    )


def _linear_attention(population: Population, w: Tensor, q: Tensor) -> Reading:
    share = population.sparsity[..., None]
    first = _dot(population.relevant, w) * _dot(population.relevant, q)
    second = _dot(population.irrelevant, w) * _dot(population.irrelevant, q)
    return _blend(share, first, second)


def _mean_pooling(population: Population, w: Tensor) -> Reading:
    share = population.sparsity[..., None]
    return _blend(share, _dot(population.relevant, w), _dot(population.irrelevant, w))


PLANE_MODELS = {
    model.name: model
    for model in (
        PlaneModel("prompt-attention", {"w": (2,), "q": (2,)}, _prompt_attention),
        PlaneModel("self-attention", {"u": (2,), "A": (2, 2)}, _self_attention),
        PlaneModel("linear-attention", {"w": (2,), "q": (2,)}, _linear_attention),
        PlaneModel("mean-pooling", {"w": (2,)}, _mean_pooling),
    )
}
"""The four models by name."""


check_public(__name__)

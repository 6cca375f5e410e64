r"""Where can a prefix send the output of an attention layer?

With one prefix vector of value :math:`\bar v`, to the segment from :math:`t` to :math:`\bar v`;
with several, to the simplex spanned by :math:`t` and their values. Here is a
plane on which to draw both (a linear projection, under which segments stay segments), how far
a point is from a segment, how many of several vectors are in use, and how many directions the
biases they give fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "Plane",
    "distance_to_segment",
    "effective_number",
    "effective_rank",
    "number_in_use",
    "principal_plane",
]


@dataclass(frozen=True)
class Plane:
    """A two-dimensional look at points of a space of width ``d``.

    Attributes
    ----------
    origin : Tensor, shape (d,)
    axes : Tensor, shape (d, 2)
        Orthonormal columns.
    share : float
        Part of the variance of the points the plane was made for that it shows, in [0, 1].
    """

    origin: Tensor
    axes: Tensor
    share: float

    def __call__(self, points: Tensor) -> Tensor:
        """Coordinates of points of shape (..., d) in the plane, shape (..., 2)."""
        return (points - self.origin) @ self.axes


def principal_plane(points: Tensor) -> Plane:
    """The plane through the mean that shows most of the variance of the points.

    Parameters
    ----------
    points : Tensor, shape (k, d)
        At least three, ``d >= 2``.

    Raises
    ------
    ValueError
        If there are fewer than three points or two dimensions.
    """
    if points.ndim != 2 or points.shape[0] < 3 or points.shape[1] < 2:
        raise ValueError(f"a plane needs points of shape (k >= 3, d >= 2), {tuple(points.shape)}")
    origin = points.mean(0)
    _, lengths, directions = torch.linalg.svd(points - origin, full_matrices=False)
    axes = directions[:2].mT
    largest = axes.abs().argmax(0)  # fixes the sign, which the decomposition leaves open
    axes = axes * axes[largest, torch.arange(2)].sign()
    energy = lengths.square()
    return Plane(origin, axes, float(energy[:2].sum() / energy.sum()))


def distance_to_segment(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Euclidean distance of points (..., d) from the segments between ``start`` and ``end``.

    Returns
    -------
    Tensor, shape (...)
    """
    along = end - start
    length = along.square().sum(-1, keepdim=True).clamp_min(torch.finfo(points.dtype).tiny)
    position = (((points - start) * along).sum(-1, keepdim=True) / length).clamp(0, 1)
    return (points - (start + position * along)).norm(dim=-1)


def effective_number(weights: Tensor) -> Tensor:
    """Exponential of the entropy of the last dimension, scaled to sum to one; (..., p) to (...)."""
    return torch.special.entr(weights / weights.sum(-1, keepdim=True)).sum(-1).exp()


def number_in_use(weights: Tensor) -> Tensor:
    """Effective number of the mean over queries, shape (..., queries, p) to (...)."""
    return effective_number((weights / weights.sum(-1, keepdim=True)).mean(-2))


def effective_rank(biases: Tensor) -> Tensor:
    """Exponential of the entropy of the squared singular values, shape (..., rows, d) to (...).

    Raises
    ------
    ValueError
        If all biases of a matrix are zero.
    """
    # Of the d x d products eigenvalues are found in a moment, however many rows there are.
    squared = torch.linalg.eigvalsh(biases.mT @ biases).clamp_min(0.0)
    if not bool((squared[..., -1] > 0).all()):
        raise ValueError("the biases are all zero and have no rank")
    return effective_number(squared)


check_public(__name__)

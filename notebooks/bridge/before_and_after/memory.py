r"""How many bits does a prefix remember?

Queries on a line, :math:`q(x) = a + xb`, turn what a head :math:`h` reads from a prefix, times its
normaliser, into an exponential sum :math:`\sum_m c_m e^{\kappa_m x}` with
:math:`\kappa_m = \langle b, \bar k_m\rangle`. It changes its sign less often than it has terms.
Source: this book, after Meyer et al. 2025.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "patterns",
    "patterns_within",
    "remembering_weights",
    "sign_changes",
    "weights_with_zeros",
]


def sign_changes(terms: Tensor) -> Tensor:
    """How often sums change their sign along the places; sums that are only rounding are skipped.

    Shapes: terms (..., places, p) -> (...) of integers.
    """
    sums, sizes = terms.sum(-1), terms.abs().sum(-1)
    signs = torch.where(sums.abs() > 1e-12 * sizes, sums.sign(), torch.zeros_like(sums))
    rows = signs.reshape(-1, signs.shape[-1])
    counts = []
    for row in rows:
        kept = row[row != 0]
        counts.append((kept[1:] != kept[:-1]).sum())
    return torch.stack(counts).reshape(signs.shape[:-1])


def remembering_weights(places: Tensor, rates: Tensor, signs: Tensor) -> Tensor:
    """Weights of the exponentials that give each place its sign, times 1.

    Shapes: places (p,), rates (p,) all different, signs (..., p) -> (..., p).
    """
    if len(places) != len(rates):
        raise ValueError(f"{len(rates)} vectors remember as many places, got {len(places)}")
    table = torch.exp(places[:, None] * rates)
    return torch.linalg.solve(table, signs[..., None]).squeeze(-1)


def weights_with_zeros(zeros: Tensor, rates: Tensor) -> Tensor:
    """Weights of p exponentials whose sum is zero at p - 1 given places, the first of them 1.

    Shapes: zeros (p - 1,), rates (p,) -> (p,).
    """
    if len(zeros) != len(rates) - 1:
        raise ValueError(f"{len(rates)} vectors have {len(rates) - 1} zeros, got {len(zeros)}")
    table = torch.exp(zeros[:, None] * rates)
    rest = torch.linalg.solve(table[:, 1:], -table[:, 0])
    return torch.cat((torch.ones(1, dtype=rates.dtype), rest))


def patterns(places: int) -> Iterator[tuple[int, ...]]:
    """All sign patterns at a number of places."""
    return itertools.product((-1, 1), repeat=places)


def patterns_within(places: int, length: int) -> int:
    r"""How many sign patterns p vectors reach: :math:`2\sum_{j<p}\binom{n-1}{j}` at n places."""
    if min(places, length) < 1:
        raise ValueError(f"at least one place and one vector, got {places} and {length}")
    return 2 * sum(math.comb(places - 1, changes) for changes in range(length))


check_public(__name__)

r"""What can a prompt of tosses make of a predictor that has learned coins of every bias?

The Bayesian predictor of coins with uniformly distributed bias, after a prompt with ``h`` heads and
``t`` tails, gives the next ``N`` tosses the law of a coin with bias from Beta(1 + h, 1 + t).
Source: this book, after Genewein et al. 2025.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = ["divergence", "heads_after", "heads_of_coins", "unimodal_limit"]


def heads_after(heads: Tensor, tails: Tensor, tosses: int) -> Tensor:
    """Log law of the number of heads in the next tosses, after evidence that may be fractional.

    Shapes: heads, tails (...) above -1 -> (..., tosses + 1).
    """
    if not ((heads > -1) & (tails > -1)).all():
        raise ValueError(f"evidence must be > -1, got {min(heads.min(), tails.min()):g}")
    a, b = heads[..., None] + 1, tails[..., None] + 1
    j = torch.arange(tosses + 1, dtype=heads.dtype)

    def log_beta(one: Tensor, other: Tensor) -> Tensor:
        return torch.lgamma(one) + torch.lgamma(other) - torch.lgamma(one + other)

    return _log_ways(tosses, heads.dtype) + log_beta(a + j, b + tosses - j) - log_beta(a, b)


def heads_of_coins(biases: Tensor, tosses: int) -> Tensor:
    """Log law of the heads of one of these coins, drawn evenly: (tosses + 1,)."""
    if not ((biases > 0) & (biases < 1)).all():
        raise ValueError(f"biases lie in (0, 1), got {biases.tolist()}")
    j = torch.arange(tosses + 1, dtype=biases.dtype)
    each = j * biases.log()[:, None] + (tosses - j) * (-biases).log1p()[:, None]
    mixed = torch.logsumexp(each, dim=0) - math.log(len(biases))
    return _log_ways(tosses, biases.dtype) + mixed


def divergence(target: Tensor, law: Tensor) -> Tensor:
    """Kullback-Leibler divergence in nats, of log laws: (k,), (..., k) -> (...).

    For exchangeable tosses this is the expected excess log loss over all of them.
    """
    return (target.exp() * (target - law)).sum(-1)


def unimodal_limit(target: Tensor) -> float:
    r"""No law with one mode is closer to the target than this, in nats.

    Of three neighbouring blocks of equal size the middle one has, under a law with one mode, at
    least the mass of one of the others. With masses :math:`x` of that one and :math:`y < x` of the
    middle one under the target, the divergence is at least

    .. math:: x\log\frac{2x}{x+y} + y\log\frac{2y}{x+y} .

    It grows with :math:`x`, so the smaller of the two outer masses counts; the best blocks are
    taken.
    """
    law, count = target.exp(), len(target)
    best = 0.0
    for size in range(1, count // 3 + 1):
        for start in range(count - 3 * size + 1):
            first, y, last = law[start : start + 3 * size].reshape(3, size).sum(1).tolist()
            x = min(first, last)
            if x > y:
                half = (x + y) / 2
                best = max(best, x * math.log(x / half) + y * math.log(y / half))
    return best


def _log_ways(tosses: int, dtype: torch.dtype) -> Tensor:
    j = torch.arange(tosses + 1, dtype=dtype)
    return math.lgamma(tosses + 1) - torch.lgamma(j + 1) - torch.lgamma(tosses - j + 1)


check_public(__name__)

"""How well can one answer the double histogram without reading the question?

The answer says for each position how often its digit occurs. Inputs in another order are equally
likely, so all answers with the same numbers of ones, twos, threes, … are. The entropy of an answer
is therefore that of these numbers, plus the mean logarithm of the number of their orders; divided
by ten it is the least loss of a predictor that sees the outputs before and nothing of the input.
A predictor that does not look at these either has the entropy of a single output.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.blind import count_probabilities, digit_counts
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH


def positions_by_count() -> Tensor:
    """For each row of `digit_counts`, how many positions have the answer 1, 2, …, 10."""
    counts = digit_counts()
    return torch.stack([n * (counts == n).sum(dim=1) for n in range(1, SEQUENCE_LENGTH + 1)], dim=1)


@functools.cache
def blind_histogram_loss() -> float:
    """The least loss without looking at the input, in nats a symbol."""
    positions, probabilities = positions_by_count(), count_probabilities()
    kinds, kind = positions.unique(dim=0, return_inverse=True)
    of_kind = torch.zeros(len(kinds), dtype=torch.float64).index_add_(0, kind, probabilities)
    factorials = torch.lgamma(positions.double() + 1)
    orders = torch.lgamma(torch.tensor(SEQUENCE_LENGTH + 1.0, dtype=torch.float64))
    log_orders = orders - factorials.sum(dim=1)
    entropy = -(of_kind * of_kind.log()).sum() + (probabilities * log_orders).sum()
    return float(entropy) / SEQUENCE_LENGTH


def marginal_histogram_loss() -> float:
    """The least loss without looking at anything, in nats a symbol."""
    shares = count_probabilities() @ (positions_by_count().double() / SEQUENCE_LENGTH)
    return float(-(shares * shares.log()).sum())


check_public(__name__)

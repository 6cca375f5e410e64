r"""How well can one sort without reading the question?

A predictor that sees which output comes next and which outputs came before, but nothing of the
input, does best by the distribution of the answers. Its mean loss over a sequence is then the
entropy of that distribution, by the chain rule :math:`H(Y) = \sum_i H(Y_i \mid Y_{<i})`. A model
whose loss is higher than this predicts worse than one that ignores its input, whatever it reads.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.tasks import MOST_DISTINCT, N_DIGITS, SEQUENCE_LENGTH


def digit_counts() -> Tensor:
    """List how often each digit can occur in an input: ``(19448, 8)``, rows that sum to ten."""
    # Ten stars and seven bars in a row: the digits' counts are the stars between the bars.
    places = SEQUENCE_LENGTH + N_DIGITS - 1
    bars = itertools.combinations(range(places), N_DIGITS - 1)
    return torch.tensor([(-1, *bar, places) for bar in bars]).diff(dim=1) - 1


def count_probabilities() -> Tensor:
    """Return the probability of each row of `digit_counts` among the examples of a task.

    Half of the examples are free, the other half conditioned on at most `MOST_DISTINCT` different
    digits. That the split takes part of the sequences away is not counted: it does not look at
    the digits in any way that could matter.
    """
    counts = digit_counts().double()
    log_orders = torch.lgamma(torch.tensor(SEQUENCE_LENGTH + 1.0, dtype=torch.float64))
    log_orders = log_orders - torch.lgamma(counts + 1).sum(dim=1)
    free = torch.exp(log_orders) / N_DIGITS**SEQUENCE_LENGTH
    few = (counts > 0).sum(dim=1) <= MOST_DISTINCT
    return 0.5 * free + 0.5 * free * few / free[few].sum()


def blind_sorting_loss() -> float:
    """Return the least loss of sorting, in nats a symbol, without looking at the input.

    Sorted answers and digit counts determine each other, so it is the entropy of the counts
    divided by the number of outputs. The direction of sorting does not matter.
    """
    probabilities = count_probabilities()
    return float(-(probabilities * probabilities.log()).sum()) / SEQUENCE_LENGTH


check_public(__name__)

"""What can still be read from the residual stream, where the answer is written?

The MLP and the head of a sorter of one layer see its residual stream after the attention. A ridge
regression that reads the right downward digit there, for each output by itself, tells how much of
the answer arrived, whether or not the model's own MLP and head can make use of it.

Symbols: ``B`` sequences, ten outputs, ``D`` the width of the model, 8 digits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.prefix_tuning.new_task.tables import Table, Tabled
from promptlib.checks import check_public
from promptlib.prefix_tuning.evaluation import CHUNK
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import (
    N_DIGITS,
    SEQUENCE_LENGTH,
    SORT_DESCENDING,
    Split,
    read_and_answer,
)

RIDGE = 1e-3
"""Penalty of the regression, as a share of the mean variance of a coordinate."""

PROBE_SEED = 7
"""Sequences that probes are fitted and tested on."""

Stream = Callable[[Tensor], Tensor]
"""Maps tokens ``(B, 19)`` to the residual stream at the outputs, ``(B, 10, D)``."""


def stream_of(model: GPT, added: Prefix | Table | None = None) -> Stream:
    """Return what computes the residual stream of a model of one layer after the attention."""

    def of_some(tokens: Tensor) -> Tensor:
        if isinstance(added, Table):
            return Tabled(model, [added]).stream(tokens, SEQUENCE_LENGTH).squeeze(0)
        block = model.blocks[0]
        x, queries, keys, values = model.embed_and_read(tokens, SEQUENCE_LENGTH)
        read, _ = block.attention(queries, keys, values, model.read_prefix(added, 0))
        return x + read

    @torch.no_grad()
    def stream(tokens: Tensor) -> Tensor:
        return torch.cat([of_some(some) for some in tokens.split(CHUNK)])

    return stream


@functools.cache
def examples(n: int, split: Split) -> tuple[Tensor, Tensor]:
    """Draw what a probe sees: tokens ``(n, 19)`` and right downward digits ``(n, 10)``."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    inputs, targets = SORT_DESCENDING.sample(n, split, generator)
    return read_and_answer(inputs, targets), targets


def probe_accuracy(stream: Stream, n_fit: int, n_test: int) -> float:
    """Return how many of the right digits a linear probe reads, in percent of outputs.

    One ridge regression for each of the ten outputs, on one-hot digits, fitted on training
    sequences and tested on test sequences; the largest of its eight outputs is what it says.
    """
    fit_tokens, fit_digits = examples(n_fit, "train")
    test_tokens, test_digits = examples(n_test, "test")
    weights, offset = ridge(stream(fit_tokens), fit_digits)
    scores = torch.einsum("bod,odk->bok", stream(test_tokens).double(), weights) + offset
    return 100 * float((scores.argmax(dim=-1) == test_digits).double().mean())


def ridge(features: Tensor, digits: Tensor) -> tuple[Tensor, Tensor]:
    """Fit one-hot digits ``(B, 10)`` from features ``(B, 10, D)``, for each output by itself.

    Returns weights ``(10, D, 8)`` and offset ``(10, 8)``.
    """
    x = features.double().transpose(0, 1)  # (10, B, D)
    y = torch.nn.functional.one_hot(digits, N_DIGITS).double().transpose(0, 1)
    x_mean, y_mean = x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
    x, y = x - x_mean, y - y_mean
    gram = x.mT @ x / x.shape[1]  # (10, D, D)
    penalty = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1).view(-1, 1, 1).clamp_min(1e-12)
    identity = torch.eye(x.shape[-1], dtype=torch.float64)
    weights = torch.linalg.solve(gram + penalty * identity, x.mT @ y / x.shape[1])
    return weights, (y_mean - x_mean @ weights).squeeze(1)


def at_pair(output: int, digit: int, n: int, split: Split) -> tuple[Tensor, Tensor]:
    """Draw `n` examples and keep those with a digit written just before an output, from 2 to 10.

    Returns tokens ``(m, 19)`` and what should be written at the output, ``(m,)``.
    """
    if not 2 <= output <= SEQUENCE_LENGTH:
        raise ValueError(f"expected an output from 2 to {SEQUENCE_LENGTH}, got {output}")
    tokens, targets = examples(n, split)
    here = targets[:, output - 2] == digit
    if not here.any():
        raise ValueError(f"none of {n} sequences has {digit} before output {output}; draw more")
    return tokens[here], targets[here, output - 1]


def reading_plane(features: Tensor, digits: Tensor) -> Tensor:
    """Return the plane in which a linear probe reads most of the digit.

    Coordinates are ``features @ plane``, ``(m, D) @ (D, 2)``: the two leading directions of what
    the ridge regression says.
    """
    weights, _ = ridge(features.unsqueeze(1), digits.unsqueeze(1))
    said = features.double() @ weights[0]
    directions = torch.linalg.svd(said - said.mean(dim=0), full_matrices=False).Vh[:2]
    return weights[0] @ directions.mT


def class_scatter(points: Tensor, digits: Tensor) -> float:
    """Return the root mean square distance of the digits' mean points from the mean of all."""
    means = torch.stack([points[digits == digit].mean(dim=0) for digit in digits])
    return float((means - points.mean(dim=0)).square().sum(dim=-1).mean().sqrt())


check_public(__name__)

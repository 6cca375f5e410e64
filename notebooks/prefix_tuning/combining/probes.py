r"""What does the pretrained model already know at the places where it must answer?

A prefix leaves all weights alone, and in each layer the relative attention over what that layer
reads. So it can hardly bring information to an output that does not already come there. This module
measures what comes: linear probes read the residual stream of the pretrained model, without any
prefix, at the ten outputs.

Two kinds. `answer_probe` asks for the symbol that a task wants, with one read-out for all places,
as the model's own head is. `known_digits` asks at each output for each of the ten input digits.

Shape comments: ``B`` sequences, ``L`` layers, ``D`` width; streams are counted from 0, the
embedding, to L, the output of the last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.evaluation import CHUNK
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.tasks import (
    N_DIGITS,
    SEQUENCE_LENGTH,
    VOCABULARY,
    Task,
    read_and_answer,
)

RIDGE = 1e-4
"""Weight of the squared length of a read-out in the loss of an `answer_probe`."""
ITERATIONS = 12
"""Of L-BFGS on features without correlations; the loss is convex."""


@torch.no_grad()
def residual_streams(model: GPT, tokens: Tensor) -> Tensor:
    """The residual stream at the last ten positions around every block, ``(L + 1, B, 10, D)``.

    Each vector is normalised (LayerNorm without gains), as whatever reads it would.
    """
    streams: list[Tensor] = []
    hooks = [
        model.blocks[0].register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0])),
        *(
            block.register_forward_hook(lambda _, __, out: streams.append(out[0]))
            for block in model.blocks
        ),
    ]
    try:
        read = []
        for some in tokens.split(CHUNK):
            model(some, last=SEQUENCE_LENGTH)
            read.append(torch.stack([stream[:, -SEQUENCE_LENGTH:] for stream in streams]))
            streams.clear()
    finally:
        for hook in hooks:
            hook.remove()
    seen = torch.cat(read, dim=1)
    return F.layer_norm(seen, seen.shape[-1:])


@dataclass(frozen=True)
class Probed:
    """What a probe reads: loss in nats a symbol, and share of right symbols.

    Both on one half of the test sequences; `choice_loss` is the loss on the other half, for
    choosing between probes.
    """

    loss: float
    accuracy: float
    choice_loss: float


def answer_probe(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], symbols: int = VOCABULARY
) -> Probed:
    """Fit a linear read-out of the answer, the same at all places, and measure it.

    Train and test are pairs of features ``(…, D)`` and symbols ``(…)``.
    """
    for features, wanted in (train, test):
        if features.shape[:-1] != wanted.shape:
            raise ValueError(
                f"expected one symbol for each feature vector, got features "
                f"{tuple(features.shape)} and symbols {tuple(wanted.shape)}"
            )
    weight, bias = read_out(train[0].flatten(0, -2), train[1].flatten(), symbols)
    logits, asked = test[0] @ weight + bias, test[1]
    half = len(asked) // 2
    losses = [
        float(F.cross_entropy(logits[part].flatten(0, -2), asked[part].flatten()))
        for part in (slice(half), slice(half, None))
    ]
    right = logits[half:].argmax(dim=-1) == asked[half:]
    return Probed(losses[1], float(right.double().mean()), choice_loss=losses[0])


@torch.no_grad()
def read_out(features: Tensor, wanted: Tensor, symbols: int) -> tuple[Tensor, Tensor]:
    """Fit a linear read-out to features ``(n, D)``, symbols ``(n,)``: ``(D, symbols)`` and bias.

    L-BFGS turns on coordinates in which features and a constant are uncorrelated. There a third of
    the steps goes further than in those of the model, where some directions are much shorter.
    """
    n, width = features.shape
    extended = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)  # (n, D + 1)
    moments = (extended.mT @ extended / n).double()
    moments.diagonal().add_(RIDGE)  # they are singular: LayerNorm fixes the sum of a vector
    to_model = torch.linalg.inv(torch.linalg.cholesky(moments)).mT.to(features.dtype)
    uncorrelated = extended @ to_model
    asked = F.one_hot(wanted, symbols).to(features.dtype) / n
    found = torch.zeros(width + 1, symbols, dtype=features.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def loss_and_gradient() -> Tensor:
        logs = torch.log_softmax(uncorrelated @ found, dim=-1)
        penalised = (to_model @ found).index_fill(0, torch.tensor(width), 0.0)  # not the bias
        loss = RIDGE * penalised.square().sum() - (logs * asked).sum()
        slopes = logs.exp_().div_(n).sub_(asked)
        found.grad = uncorrelated.mT @ slopes + 2 * RIDGE * to_model.mT @ penalised
        return loss

    optimiser.step(loss_and_gradient)
    both = to_model @ found.detach()
    return both[:-1], both[-1]


def answer_probes(model: GPT, task: Task, train: Tensor, test: Tensor) -> list[Probed]:
    """Probe the stream after every block for the answers to ``(B, 10)`` inputs.

    The right answers are read to the model, as in training, and asked for.
    """
    parts = []
    for inputs in (train, test):
        targets = task.solve(inputs)
        parts.append((residual_streams(model, read_and_answer(inputs, targets)), targets))
    (train_streams, train_targets), (test_streams, test_targets) = parts
    return [
        answer_probe((train_streams[level], train_targets), (test_streams[level], test_targets))
        for level in range(1, len(train_streams))
    ]


def known_digits(model: GPT, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Tensor:
    """Which input digits can be read at which output, by least squares: ``(L + 1, 10, 10)``.

    Train and test are pairs of inputs and of answers that are read to the model. Of the shares of
    test sequences, for each stream, rows are outputs and columns inputs.
    """
    features = []
    for inputs, answers in (train, test):
        streams = residual_streams(model, read_and_answer(inputs, answers)).double()
        extended = torch.cat([streams, torch.ones_like(streams[..., :1])], dim=-1)
        features.append(extended.transpose(1, 2))  # (L + 1, 10, B, D + 1)
    wanted = F.one_hot(train[0], N_DIGITS).double().flatten(1)  # (B, 80)
    moments = features[0].mT @ features[0]
    moments.diagonal(dim1=-2, dim2=-1).add_(1e-3 * len(wanted))
    weights = torch.linalg.solve(moments, features[0].mT @ wanted)
    scores = (features[1] @ weights).unflatten(-1, (SEQUENCE_LENGTH, N_DIGITS))
    return (scores.argmax(dim=-1) == test[0]).double().mean(dim=2)


def ranks(values: Sequence[float]) -> Tensor:
    """Ranks of some numbers, from 1; equal ones share the mean of their ranks."""
    numbers = torch.as_tensor(values, dtype=torch.float64)
    below = (numbers.unsqueeze(1) > numbers).sum(dim=1)
    equal = (numbers.unsqueeze(1) == numbers).sum(dim=1)
    return below + (equal.double() + 1) / 2


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's correlation of two lists: that of their ranks, in [-1, 1]."""
    if len(first) != len(second) or len(first) < 3:
        raise ValueError(
            f"expected two lists of one length, at least 3, got {len(first)} and {len(second)}"
        )
    pair = torch.stack([ranks(first), ranks(second)])
    pair = pair - pair.mean(dim=1, keepdim=True)
    lengths = pair.norm(dim=1)
    if not (lengths > 0).all():
        raise ValueError("a list of equal numbers has no rank correlation")
    return float((pair[0] @ pair[1]) / lengths.prod())


check_public(__name__)

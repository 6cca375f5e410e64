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
from torch import Tensor, nn

from promptlib.checks import check_public
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
ITERATIONS = 30
"""Of L-BFGS; the loss is convex."""


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
        model(tokens, return_attention=True)  # so that every block updates all positions
    finally:
        for hook in hooks:
            hook.remove()
    seen = torch.stack([stream[..., -SEQUENCE_LENGTH:, :] for stream in streams])
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
    features, wanted = train[0].flatten(0, -2), train[1].flatten()
    head = nn.Linear(features.shape[-1], symbols)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(head(features), wanted) + RIDGE * head.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        logits, asked = head(test[0]), test[1]
        half = len(asked) // 2
        losses = [
            float(F.cross_entropy(logits[part].flatten(0, -2), asked[part].flatten()))
            for part in (slice(half), slice(half, None))
        ]
        right = logits[half:].argmax(dim=-1) == asked[half:]
        return Probed(losses[1], float(right.double().mean()), choice_loss=losses[0])


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


def known_digits(
    model: GPT, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], level: int
) -> Tensor:
    """Which input digits can be read at which output, by linear least squares: ``(10, 10)``.

    Train and test are pairs of inputs and of answers that are read to the model; `level` is the
    stream. Of the shares of test sequences, rows are outputs and columns inputs.
    """
    features = []
    for inputs, answers in (train, test):
        stream = residual_streams(model, read_and_answer(inputs, answers))[level].double()
        features.append(torch.cat([stream, torch.ones_like(stream[..., :1])], dim=-1))
    wanted = F.one_hot(train[0], N_DIGITS).double().flatten(1)  # (B, 80)
    shares = []
    for place in range(SEQUENCE_LENGTH):
        at, square = features[0][:, place], torch.eye(features[0].shape[-1], dtype=torch.float64)
        weights = torch.linalg.solve(at.T @ at + 1e-3 * len(at) * square, at.T @ wanted)
        scores = (features[1][:, place] @ weights).unflatten(-1, (SEQUENCE_LENGTH, N_DIGITS))
        shares.append((scores.argmax(dim=-1) == test[0]).double().mean(dim=0))
    return torch.stack(shares)


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

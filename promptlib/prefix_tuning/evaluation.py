"""How wrong, and how often right, is a model on a task?"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptlib.checks import check_public, shape_of
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import (
    SEQUENCE_LENGTH,
    Mixture,
    Split,
    Task,
    check_vocabulary,
    read_and_answer,
)
from promptlib.prefix_tuning.writing import write_greedily


class Answering(Protocol):
    """What is measured here: a `GPT`, or what answers to the same call."""

    config: GPTConfig
    head: nn.Linear

    def __call__(
        self, tokens: Tensor, prefix: Prefix | PrefixBatch | None = None, *, last: int
    ) -> Tensor:
        """Return the logits of the last positions: ``(B, last, V)``, or ``(C, B, last, V)``."""


CHUNK = 1024
"""Sequences of a pass of `score`."""


def sequence_loss(
    model: Answering, tokens: Tensor, targets: Tensor, prefix: Prefix | PrefixBatch | None = None
) -> Tensor:
    """Mean cross-entropy of the outputs, in nats a symbol.

    Parameters
    ----------
    model : GPT
    tokens : Tensor, int64, ``(B, 19)``
        From `read_and_answer`.
    targets : Tensor, int64, ``(B, 10)``
    prefix : Prefix or PrefixBatch, optional

    Returns
    -------
    Tensor, a scalar; ``(C,)`` with a `PrefixBatch`

    Raises
    ------
    ValueError
        If tokens or targets do not have such shapes or dtypes, or there are more targets than
        tokens.
    """
    shape_of("tokens", tokens, "B", "T")
    shape_of("targets", targets, tokens.shape[0], "n", integer=True)
    if targets.shape[1] > tokens.shape[1]:
        raise ValueError(
            f"targets must be answers to the last tokens, at most {tokens.shape[1]} for tokens "
            f"{tuple(tokens.shape)}; got {tuple(targets.shape)}"
        )
    logits = model(tokens, prefix, last=targets.shape[-1])  # (B, 10, V) or (C, B, 10, V)
    if logits.ndim == 3:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    n_prefixes = logits.shape[0]
    losses = F.cross_entropy(
        logits.flatten(0, 2), targets.expand(n_prefixes, -1, -1).flatten(), reduction="none"
    )
    return losses.view(n_prefixes, -1).mean(dim=1)


@torch.no_grad()
def score(
    model: Answering,
    task: Task | Mixture,
    n: int,
    split: Split,
    prefix: Prefix | None = None,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Accuracy and loss on `n` sequences of a split, from one pass over them.

    Decoding is not needed to know the accuracy. If the first i - 1 decoded symbols are right, then
    the model reads the same tokens as when the right answers are fed to it, and writes the same
    i-th symbol. By induction all ten decoded symbols are right exactly if all ten are right when
    the answers are fed, and that takes one pass instead of ten. The loss needs the same pass.

    Returns
    -------
    accuracy : float
        Share of sequences whose ten greedily decoded outputs are all right, in [0, 1].
    loss : float
        Mean cross-entropy of the outputs, in nats a symbol, summed in float64.

    Raises
    ------
    ValueError
        If `n` is below 1, there is no such split, or the task needs more symbols than the model
        has.
    """
    check_vocabulary(task, model.config.vocab_size)
    device = model.head.weight.device
    inputs, targets = (part.to(device) for part in task.sample(n, split, generator))
    right = torch.zeros((), dtype=torch.int64, device=device)
    lost = torch.zeros((), dtype=torch.float64, device=device)
    for some_inputs, some_targets in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
        tokens = read_and_answer(some_inputs, some_targets)
        logits = model(tokens, prefix, last=SEQUENCE_LENGTH)  # (B, 10, V)
        right += (logits.argmax(dim=-1) == some_targets).all(dim=-1).sum()
        losses = F.cross_entropy(logits.flatten(0, 1), some_targets.flatten(), reduction="none")
        lost += losses.sum(dtype=torch.float64)
    return int(right) / n, float(lost) / targets.numel()


def sequence_accuracy(
    model: GPT,
    task: Task | Mixture,
    n: int,
    prefix: Prefix | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Share of `n` test sequences whose ten greedily decoded outputs are all right, in [0, 1].

    The first number of `score`.

    Raises
    ------
    ValueError
        If `n` is below 1, or the task needs more symbols than the model has.
    """
    return score(model, task, n, "test", prefix, generator)[0]


def greedy_decode(model: GPT, inputs: Tensor, prefix: Prefix | None = None) -> Tensor:
    """Let the model write ten symbols after each input: ``(B, 10) -> (B, 10)``.

    Raises
    ------
    ValueError
        If `inputs` is not ``(B, T)``, or the model cannot read inputs and answers at once.
    """
    shape_of("inputs", inputs, "B", "T", integer=True)
    longest = model.config.block_size - SEQUENCE_LENGTH + 1
    if inputs.shape[1] > longest:
        raise ValueError(
            f"inputs must have at most {longest} tokens, so that {SEQUENCE_LENGTH} answers fit "
            f"into block_size={model.config.block_size}; got {tuple(inputs.shape)}"
        )
    return write_greedily(model, inputs, SEQUENCE_LENGTH, prefix)


check_public(__name__)

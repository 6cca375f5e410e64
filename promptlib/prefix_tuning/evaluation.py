"""How wrong, and how often right, is a model on a task?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import (
    SEQUENCE_LENGTH,
    Mixture,
    Task,
    check_vocabulary,
    read_and_answer,
)


def sequence_loss(
    model: GPT, tokens: Tensor, targets: Tensor, prefix: Prefix | PrefixBatch | None = None
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
    """
    logits = model(tokens, prefix, last=targets.shape[-1])  # (B, 10, V) or (C, B, 10, V)
    if logits.ndim == 3:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    n_prefixes = logits.shape[0]
    losses = F.cross_entropy(
        logits.flatten(0, 2), targets.expand(n_prefixes, -1, -1).flatten(), reduction="none"
    )
    return losses.view(n_prefixes, -1).mean(dim=1)


@torch.no_grad()
def sequence_accuracy(
    model: GPT,
    task: Task | Mixture,
    n: int,
    prefix: Prefix | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Share of `n` test sequences whose ten greedily decoded outputs are all right, in [0, 1].

    Decoding is not needed to know it. If the first i - 1 decoded symbols are right, then the
    model reads the same tokens as when the right answers are fed to it, and writes the same i-th
    symbol. By induction all ten decoded symbols are right exactly if all ten are right when the
    answers are fed, and that takes one pass instead of ten.

    Raises
    ------
    ValueError
        If `n` is below 1, or the task needs more symbols than the model has.
    """
    check_vocabulary(task, model.config.vocab_size)
    device = model.head.weight.device
    inputs, targets = (part.to(device) for part in task.sample(n, "test", generator))
    right = 0
    for some_inputs, some_targets in zip(inputs.split(1024), targets.split(1024), strict=True):
        tokens = read_and_answer(some_inputs, some_targets)
        answers = model(tokens, prefix, last=SEQUENCE_LENGTH).argmax(dim=-1)
        right += int((answers == some_targets).all(dim=-1).sum())
    return right / n


@torch.no_grad()
def greedy_decode(model: GPT, inputs: Tensor, prefix: Prefix | None = None) -> Tensor:
    """Let the model write ten symbols after each input: ``(B, 10) -> (B, 10)``."""
    tokens = inputs
    for _ in range(SEQUENCE_LENGTH):
        answer = model(tokens, prefix, last=1).argmax(dim=-1)  # (B, 1)
        tokens = torch.cat([tokens, answer], dim=1)
    return tokens[:, inputs.shape[1] :]

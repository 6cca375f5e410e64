"""What if the three steps came in another order, were longer, or minimised another loss?

A schedule is a tuple of moves, each a gradient step on fresh bags from where the schedule stands:

``"head"``
    ``w`` moves, ``q`` stays;
``"prompt"``
    ``q`` moves, ``w`` stays;
``"both"``
    both move, with gradients taken at the same point;
``"head afresh"``
    ``w`` is forgotten, and a step from ``w = 0`` with the present ``q`` replaces it.

Result A2 is the schedule ``("head", "prompt", "head afresh")`` from ``w = q = 0``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.descent import Loss
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.sampled_descent import MEMORY_LIMIT, batches, gradients

__all__ = ["MOVES", "SCHEDULES", "error_rates", "run_schedule"]

MOVES = ("head", "prompt", "both", "head afresh")
"""What one step can do."""

SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "head, prompt, head afresh": ("head", "prompt", "head afresh"),
    "head, prompt, head continued": ("head", "prompt", "head"),
    "head, head, prompt": ("head", "head", "prompt"),
    "prompt, head, head": ("prompt", "head", "head"),
    "both, three times": ("both", "both", "both"),
    "head, head, head": ("head", "head", "head"),
}
"""The orders that the chapter compares: three steps each, so the same number of bags."""


def run_schedule(
    mixture: ContextualMixture,
    moves: Sequence[str],
    n: int,
    eta: Tensor | float,
    gamma: Tensor | float,
    generator: torch.Generator,
    *,
    loss: Loss = "squared",
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[Tensor, Tensor]:
    """Run a schedule from ``w = q = 0`` with `n` fresh bags for each move.

    Shape (..., d).
    """
    unknown = [move for move in moves if move not in MOVES]
    if unknown or not moves:
        raise ValueError(f"moves must be some of {', '.join(MOVES)}, got {tuple(moves)!r}")
    head_step, prompt_step = torch.broadcast_tensors(
        torch.as_tensor(eta, dtype=mixture.dtype), torch.as_tensor(gamma, dtype=mixture.dtype)
    )
    w = torch.zeros(*head_step.shape, mixture.dim, dtype=mixture.dtype)
    q = torch.zeros_like(w)
    for place, move in enumerate(moves):
        if move == "head afresh":
            w = torch.zeros_like(w)
        grad_w, grad_q = torch.zeros_like(w), torch.zeros_like(q)
        for bags in batches(mixture, n, generator, memory_limit):
            share = len(bags.tokens) / n
            part_w, part_q = gradients(bags.tokens, bags.labels, w, q, loss)
            grad_w += share * part_w
            grad_q += share * part_q
        if move != "prompt":
            w = w - head_step[..., None] * grad_w
        if move in ("prompt", "both"):
            q = q - prompt_step[..., None] * grad_q
        if not (w.isfinite().all() and q.isfinite().all()):
            raise ValueError(
                f"step {place + 1} ({move}) left the finite numbers; shorten the steps"
            )
    return w, q


def error_rates(
    mixture: ContextualMixture,
    w: Tensor,
    q: Tensor,
    n: int,
    generator: torch.Generator,
    memory_limit: int = MEMORY_LIMIT,
) -> Tensor:
    """The share of `n` fresh bags that prompt-attention gets wrong, for many weights at once.

    A score of exactly zero counts as half an error.

    Shapes: w, q (..., d) -> (...).
    """
    shape = w.shape[:-1]
    heads, prompts = w.reshape(-1, mixture.dim).T, q.reshape(-1, mixture.dim).T
    wrong = torch.zeros(heads.shape[1], dtype=torch.float64)
    for bags in batches(mixture, n, generator, memory_limit):
        attention = torch.softmax(bags.tokens @ prompts, dim=1)  # (b, T, K)
        scores = (attention * (bags.tokens @ heads)).sum(1)  # (b, K)
        wrong += (0.5 - 0.5 * torch.sign(bags.labels[:, None] * scores)).double().sum(0)
    return (wrong / n).reshape(shape)


check_public(__name__)

"""How far can a vector be moved before the model says something else?

Where all margins are positive, they stay so nearby, because logits are continuous: the vectors that
say one string form an open set. `breaking_distance` searches for the nearest point outside. It
follows the linearised margins to their nearest zero, again and again, and bisects the last way.
What it finds does break the completion, so the true distance is at most that; it may be less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.decoding import margins, target_logits
from promptlib.prefix_tuning.gpt import GPT

OVERSHOOT = 1.02
"""How much further than to the linearised border each move goes."""

RIVALS = 3
"""Symbols that are considered to take the place of each symbol."""


def holds(model: GPT, vectors: Tensor, strings: Tensor) -> Tensor:
    """Say whether the model writes each string after each prompt: bool, ``(P,)``."""
    with torch.no_grad():
        return (margins(target_logits(model, vectors, strings), strings) > 0).all(dim=1)


def breaking_distance(
    model: GPT, vectors: Tensor, strings: Tensor, moves: int = 12, halvings: int = 12
) -> Tensor:
    """Search for the shortest move of each prompt that changes its completion.

    Parameters
    ----------
    model : GPT
        Frozen.
    vectors : Tensor, ``(P, n, D)``
        Each says its string.
    strings : Tensor, int64, ``(P, L)``
    moves, halvings : int
        Most moves, and bisections of the way found.

    Returns
    -------
    Tensor, ``(P,)``
        Distance to a prompt with another completion, infinite where none was found.

    Raises
    ------
    ValueError
        If a vector does not say its string.
    """
    if not holds(model, vectors, strings).all():
        raise ValueError("every vector must say its string before it is moved")
    moved = vectors.clone()
    for _ in range(moves):
        intact = holds(model, moved, strings).nonzero().flatten()
        if len(intact) == 0:
            break
        moved[intact] += OVERSHOOT * _to_nearest_border(model, moved[intact], strings[intact])
    broken = ~holds(model, moved, strings)
    inside = torch.zeros(len(vectors), dtype=vectors.dtype)
    outside = torch.ones_like(inside)
    for _ in range(halvings):
        middle = (inside + outside) / 2
        at = torch.lerp(vectors, moved, middle.view(-1, 1, 1))
        still = holds(model, at, strings)
        inside, outside = torch.where(still, middle, inside), torch.where(still, outside, middle)
    distance = outside * (moved - vectors).flatten(1).norm(dim=1)
    return distance.masked_fill(~broken, float("inf"))


def _to_nearest_border(model: GPT, vectors: Tensor, strings: Tensor) -> Tensor:
    """Return the shortest move to where a linearised margin is zero: ``(P, n, D)``."""
    read = vectors.detach().requires_grad_()
    logits = target_logits(model, read, strings)  # (P, L, V)
    index = strings.unsqueeze(-1)
    own = logits.gather(-1, index)
    others = logits.scatter(-1, index, float("-inf"))
    gaps = (own - others.topk(RIVALS, dim=-1).values).flatten(1)  # (P, L RIVALS)
    best = torch.full((len(vectors),), float("inf"), dtype=vectors.dtype)
    move = torch.zeros_like(vectors)
    for place in range(gaps.shape[1]):
        gap = gaps[:, place]
        (slope,) = torch.autograd.grad(gap.sum(), read, retain_graph=True)
        steepness = slope.flatten(1).norm(dim=1).clamp_min(1e-12)
        distance = gap.detach() / steepness
        closer = distance < best
        best = torch.where(closer, distance, best)
        candidate = -slope * (distance / steepness).view(-1, 1, 1)
        move = torch.where(closer.view(-1, 1, 1), candidate, move)
    return move

r"""What does one prefix vector do to the output of an attention block with several heads?

Head :math:`h` reads :math:`t_i^h` at position :math:`i` without a prefix, and
:math:`(1-\alpha_i^h)t_i^h + \alpha_i^h \bar v^h` with one prefix vector. The block writes the sum
over heads, :math:`y_i = \sum_h W_O^h t_i^h + b_O`. So

.. math::

    y'_i = y_i + \sum_h \alpha_i^h d_i^h, \qquad d_i^h = W_O^h(\bar v^h - t_i^h),

a point of the box that the steps :math:`d_i^h` span at :math:`y_i`. The opposite corner of the box
is the fixed point :math:`y^* = \sum_h W_O^h \bar v^h + b_O`, the same for all contents and
positions. Proved in the chapter "Eliciting a learned task".

Only the answering positions are looked at: the last ten, which write the answer. Shapes: ``B``
sequences, ``m`` answering positions, ``H`` heads of width ``d``, ``D`` the width of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from promptlib.checks import check_public
from promptlib.prefix_tuning.geometry import distance_to_segment
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import (
    first_layer,
    largest_shares,
    prefix_head_values,
    shares_taken,
)
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.reach import climb, log_normalisers, normalise
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH

FAR = 1e4
"""Length of a searched vector, against which the constant inside LayerNorm vanishes."""
FIRST_STEP = 0.3
"""Length of the first step of a search relative to the vector's; it falls to zero linearly."""


@dataclass(frozen=True)
class BlockOutputs:
    """What the first attention block writes at the answering positions, without its input."""

    plain: Tensor  # (B, m, D), without the prefix
    moved: Tensor  # (B, m, D), with it
    shares: Tensor  # (B, m, H), what the prefix takes of each head
    steps: Tensor  # (B, m, H, D), by which each head would move the output if it were taken whole
    fixed_point: Tensor  # (D,), what the block would write if all heads were


def block_outputs(model: GPT, prefix: Prefix, tokens: Tensor) -> BlockOutputs:
    """Run the model without and with a prefix of one vector, and take its first block apart."""
    if prefix.length != 1:
        raise ValueError(f"one prefix vector has a fixed point, {prefix.length} have not; use 1")
    project = model.blocks[0].attention.project
    outputs, _ = first_layer(model, tokens)  # (B, H, T, d)
    moved_outputs, attention = first_layer(model, tokens, prefix)
    values = prefix_head_values(model, prefix)  # (H, 1, d)

    def write(read: Tensor) -> Tensor:
        return project(read.transpose(-2, -3).flatten(-2))

    here = outputs[..., -SEQUENCE_LENGTH:, :]
    by_head = project.weight.unflatten(1, (values.shape[0], -1))  # (D, H, d)
    with torch.no_grad():
        return BlockOutputs(
            plain=write(here),
            moved=write(moved_outputs[..., -SEQUENCE_LENGTH:, :]),
            shares=attention[..., -SEQUENCE_LENGTH:, 0].transpose(-1, -2),
            steps=torch.einsum("bhme,Dhe->bmhD", values - here, by_head),
            fixed_point=write(values[None])[0, 0],
        )


def box_coefficients(outputs: BlockOutputs) -> tuple[Tensor, Tensor]:
    """Write each movement as a combination of the steps, by least squares: (B, m, H), (B, m).

    Attention is not consulted. The second is the length of what no combination explains, relative
    to the longest step.
    """
    movement = (outputs.moved - outputs.plain)[..., None]  # (B, m, D, 1)
    directions = outputs.steps.mT  # (B, m, D, H)
    coefficients = torch.linalg.lstsq(directions, movement).solution
    left = (movement - directions @ coefficients)[..., 0].norm(dim=-1)
    return coefficients[..., 0], left / outputs.steps.norm(dim=-1).amax(-1)


def box_errors(outputs: BlockOutputs) -> Tensor:
    """How far each moved output is from the point of the box that the shares name, (B, m).

    The largest of three: what no combination of the steps explains, how far a coefficient lies
    outside [0, 1], and how far it is from the share that the prefix takes of that head.
    """
    coefficients, residuals = box_coefficients(outputs)
    outside = (coefficients - coefficients.clamp(0, 1)).abs().amax(-1)
    from_shares = (coefficients - outputs.shares).abs().amax(-1)
    return torch.stack([residuals, outside, from_shares]).amax(0)


def corner_errors(outputs: BlockOutputs) -> Tensor:
    """How far the corner opposite to each output is from the fixed point, relative, (B, m)."""
    corners = outputs.plain + outputs.steps.sum(dim=-2)
    largest = torch.maximum(outputs.plain.abs().max(), outputs.fixed_point.abs().max())
    return (corners - outputs.fixed_point).abs().amax(-1) / largest


def straightness(outputs: BlockOutputs) -> tuple[Tensor, Tensor]:
    """How far outputs go towards the fixed point, and how far they stray from the straight way.

    Both (B, m): movement along the line relative to its length, and distance from the segment
    relative to the movement, in [0, 1].
    """
    movement, whole = outputs.moved - outputs.plain, outputs.fixed_point - outputs.plain
    way = (movement * whole).sum(-1) / whole.square().sum(-1)
    ends = outputs.fixed_point.expand_as(outputs.plain)
    distance = distance_to_segment(outputs.moved, outputs.plain, ends)
    return way, distance / movement.norm(dim=-1).clamp_min(torch.finfo(way.dtype).tiny)


def answering_shares(model: GPT, prefix: Prefix, tokens: Tensor) -> Tensor:
    """The shares that the prefix takes at the answering positions, shape (B, H, m)."""
    return shares_taken(model, prefix, tokens)[..., -SEQUENCE_LENGTH:]


def answering_limits(model: GPT, tokens: Tensor) -> Tensor:
    """The most that one vector through the model's LayerNorm can take there, (B, H, m)."""
    return largest_shares(model, tokens)[..., -SEQUENCE_LENGTH:]


def share_above_limit(model: GPT, prefixes: Sequence[Prefix], tokens: Tensor) -> float:
    """Part of all heads, positions and inputs where prefixes take more than the limit, in %."""
    limits = answering_limits(model, tokens)
    above = [answering_shares(model, prefix, tokens) > limits for prefix in prefixes]
    return 100 * float(torch.stack(above).double().mean())


def searched_shares(
    model: GPT, tokens: Tensor, generator: torch.Generator, *, restarts: int, steps: int
) -> Tensor:
    """The most that a search finds a vector to take of one head at one position, (B, H, m).

    The search knows nothing of the limit. What it finds is put into the model as a prefix, and the
    share is read from the model's own attention; so the model runs ``B H m`` times.
    """
    norm = _first_norm(model)
    layer = model.blocks[0].attention
    queries, _ = _answering_queries(model, tokens)
    found = torch.zeros(queries.shape[:-1], dtype=queries.dtype)
    for head in range(layer.n_head):
        vectors = climb(
            queries[:, head].flatten(0, 1),
            layer.key.weight.unflatten(0, (layer.n_head, -1))[head],
            norm.weight,
            norm.bias,
            generator,
            restarts=restarts,
            steps=steps,
        ).unflatten(0, (len(tokens), -1))  # (B, m, D)
        for sequence in range(len(tokens)):
            for place in range(SEQUENCE_LENGTH):
                prefix = Prefix(1, 1, model.config.n_embd).to(vectors.dtype)
                with torch.no_grad():
                    prefix.vectors[0, 0] = FAR * vectors[sequence, place]
                taken = answering_shares(model, prefix, tokens[sequence : sequence + 1])
                found[sequence, head, place] = taken[0, head, place]
    return found


class Tried(NamedTuple):
    """Shares that were taken, what limits each, and how they were looked for."""

    values: Tensor
    limits: Tensor
    search: str


def taken_and_limits(
    by_model: Sequence[Sequence[tuple[GPT, Prefix]]],
    tokens: Tensor,
    generator: torch.Generator,
    *,
    restarts: int,
    steps: int,
    searched: int,
    limit: Callable[[GPT, Tensor], Tensor] = answering_limits,
) -> Tried:
    """What each model's prefixes take, all through its LayerNorm, and what a search finds.

    The search goes over the first `searched` sequences.
    """
    taken, limits = [], []
    for pairs in by_model:
        model, few = pairs[0][0], tokens[:searched]
        most = limit(model, tokens)
        taken += [answering_shares(*pair, tokens) for pair in pairs]
        taken.append(searched_shares(model, few, generator, restarts=restarts, steps=steps))
        limits += [most] * len(pairs) + [most[:searched]]
    count = sum(len(pairs) for pairs in by_model)
    return Tried(
        torch.cat([values.flatten() for values in taken]),
        torch.cat([values.flatten() for values in limits]),
        f"{count} prefixes trained by gradient descent, and for each head and position of "
        f"{searched} sequence(s) in {len(by_model)} model(s) {restarts} searches of {steps} steps",
    )


def joint_shares(
    model: GPT,
    tokens: Tensor,
    generator: torch.Generator,
    *,
    restarts: int,
    steps: int,
    all_heads: bool,
) -> Tensor:
    """Mean share of each head that a vector takes of all answering positions at once, (H,).

    A search looks for one normalised vector with the largest mean over all heads, or for one for
    each head. What it finds can be taken; that nothing takes more is not shown.
    """
    pulls, offsets = _pulls(model, tokens)  # (H, n, D), (H, n)
    heads, _, width = pulls.shape
    goals = 1 if all_heads else heads
    pulls, offsets = pulls.reshape(goals, -1, width), offsets.reshape(goals, -1)

    def shares(candidates: Tensor) -> Tensor:  # (restarts, goals, D) -> (goals, restarts, …)
        logits = normalise(candidates).transpose(0, 1) @ pulls.mT
        return torch.sigmoid(logits + offsets.unsqueeze(1))

    def worth(candidates: Tensor) -> Tensor:  # (restarts, goals)
        return shares(candidates).mean(dim=-1).T

    drawn = torch.randn(restarts, goals, width, generator=generator, dtype=pulls.dtype)
    vectors = _ascend(worth, drawn, steps)
    with torch.no_grad():
        best = worth(vectors).argmax(dim=0)  # (goals,)
        winners = shares(vectors)[torch.arange(goals), best]
    return winners.reshape(heads, -1).mean(dim=-1)


def imitation(
    model: GPT,
    free: Prefix,
    tokens: Tensor,
    generator: torch.Generator,
    *,
    restarts: int,
    steps: int,
) -> Prefix:
    """Give a free prefix a key that one vector through the LayerNorm can have; keep its value.

    A search looks for the normalised vector whose shares, at the answering positions of all heads,
    come nearest to those of the free prefix (mean square). If the result, as free as the given one,
    still does the task, the bounded key was no obstacle.
    """
    if free.value_vectors is None:
        raise ValueError("only a free prefix can be imitated; this one has no value_vectors")
    norm = _first_norm(model)
    pulls, offsets = (part.flatten(0, 1) for part in _pulls(model, tokens))  # (H n, D), (H n,)
    wanted = answering_shares(model, free, tokens).transpose(0, 1).flatten()  # (H n,)

    def nearness(candidates: Tensor) -> Tensor:  # (restarts, D) -> (restarts,)
        shares = torch.sigmoid(torch.addmm(offsets, normalise(candidates), pulls.mT))
        return -(shares - wanted).square().mean(dim=-1)

    drawn = torch.randn(restarts, model.config.n_embd, generator=generator, dtype=pulls.dtype)
    vectors = _ascend(nearness, drawn, steps)
    found = Prefix(1, 1, model.config.n_embd, separate_values=True, layer_norm=False)
    found = found.to(pulls.dtype)
    assert found.value_vectors is not None
    with torch.no_grad():
        best = normalise(vectors)[nearness(vectors).argmax()]
        found.vectors[0, 0] = best * norm.weight + norm.bias
        found.value_vectors.copy_(free.value_vectors)
    return found.requires_grad_(False)


def _ascend(worth: Callable[[Tensor], Tensor], vectors: Tensor, steps: int) -> Tensor:
    """Gradient ascent of normalised vectors, each for its own worth; shape (..., D)."""
    for step in range(steps):
        vectors = normalise(vectors).requires_grad_()
        (slope,) = torch.autograd.grad(worth(vectors).sum(), vectors)
        length = FIRST_STEP * (1 - step / steps) * vectors.norm(dim=-1, keepdim=True)
        slope = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        vectors = (vectors + length * slope).detach()
    return vectors


def _first_norm(model: GPT) -> nn.LayerNorm:
    norm = model.blocks[0].norm_attention
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError("the model has no first LayerNorm, so nothing bounds what is searched for")
    return norm


def _pulls(model: GPT, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Say what a normalised vector takes of the ``n`` answering positions of all sequences.

    It takes ``sigmoid(pulls @ vector + offsets)``; the two are (H, n, D) and (H, n).
    """
    norm, layer = _first_norm(model), model.blocks[0].attention
    queries, normalisers = _answering_queries(model, tokens)
    queries = queries.transpose(0, 1).flatten(1, 2) * queries.shape[-1] ** -0.5  # (H, n, d)
    with torch.no_grad():
        constant = layer.key(norm.bias).unflatten(0, (layer.n_head, -1))  # (H, d)
        weights = (layer.key.weight * norm.weight).unflatten(0, (layer.n_head, -1))  # (H, d, D)
        offsets = torch.einsum("hnd,hd->hn", queries, constant)
        return queries @ weights, offsets - normalisers.transpose(0, 1).flatten(1)


def _answering_queries(model: GPT, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and log normalisers at the answering positions, (B, H, m, d), (B, H, m)."""
    block = model.blocks[0]
    layer = block.attention
    positions = model.position.weight[: tokens.shape[1]]
    with torch.no_grad():
        content = block.norm_attention(model.token(tokens) + positions)
        queries, keys = layer.heads(layer.query(content)), layer.heads(layer.key(content))
        normalisers = log_normalisers(queries, keys, causal=True)
    return queries[..., -SEQUENCE_LENGTH:, :], normalisers[..., -SEQUENCE_LENGTH:]


check_public(__name__)

r"""Can one prefix vector below make two queries of the second layer exchange their preferences?

Of two keys :math:`j, l` the query :math:`i` prefers :math:`j` and the query :math:`i'` prefers
:math:`l`: the logit differences :math:`\delta = z_{\cdot j} - z_{\cdot l}` have opposite signs. If
the first layer has one head, no residual stream, and its prefix of one vector takes the same share
:math:`a` from both keys, then

.. math::

    \delta'_i = (1-a)\bigl[(1-\alpha_i)\,\delta_i + \alpha_i\, g\bigr], \qquad
    g = \nu^\top H (t_j - t_l):

every query moves towards one number :math:`g`. So one of the two keeps its preference. With unequal
shares, with two vectors, or with a LayerNorm before the second layer, both can be turned; the
constructions of the proofs are here.

Positions 0 and 1 are the queries, 2 and 3 the keys. The margin of a swap is the smaller of the two
turned differences, each relative to what it was; a swap has a positive margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer.two_layers import (
    TwoLayers,
    first_layer,
    random_two_layers,
    second_logits,
    take_apart,
)
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction
from promptlib.prefix_tuning.reach import keys_that_take, log_normalisers, normalise

__all__ = [
    "disagreeing",
    "margin",
    "search",
    "swap_by_layer_norm",
    "swap_by_two_vectors",
    "swap_by_unequal_shares",
]

N_TOKENS, WIDTH = 4, 6
Found = tuple[Tensor, Tensor]
"""Attention to each prefix vector ``(4, p)``, and the values ``(p, D)`` in the stream."""


Between = Callable[[Tensor], Tensor]
"""What stands between the two layers and acts on each position alone."""


def nothing_between(stream: Tensor) -> Tensor:
    """The second layer reads what the first has written."""
    return stream


def disagreeing(generator: torch.Generator, between: Between = nothing_between) -> TwoLayers:
    """Draw layers without residual stream whose two queries disagree about the two keys."""
    while True:
        layers = random_two_layers(generator, n_tokens=N_TOKENS, head_width=WIDTH)
        no_bias = layers.second_query.clone(), layers.second_key.clone()
        for weight in no_bias:
            weight[:, -1] = 0
        layers = replace(layers, second_query=no_bias[0], second_key=no_bias[1])
        first, second = _differences(second_logits(layers, between(take_apart(layers).plain)))
        if first > 0.1 and second < -0.1:
            return layers


def margin(
    layers: TwoLayers,
    found: Found,
    attend: AttendFunction = library_attend,
    between: Between = nothing_between,
) -> Tensor:
    """Margin of the swap that a prefix achieves, measured by running both layers."""
    attention, values = found
    queries, keys = (layers.content @ w[0].mT for w in (layers.query, layers.key))
    prefix_keys = keys_that_take(queries, log_normalisers(queries, keys), attention)
    prefix_values = torch.linalg.solve(layers.project[0], values.mT).mT
    prefixed = replace(layers, prefix_keys=prefix_keys[None], prefix_values=prefix_values[None])
    before = _differences(second_logits(layers, between(take_apart(layers).plain)))
    after = _differences(second_logits(prefixed, between(first_layer(prefixed, attend)[0])))
    return torch.minimum(-after[0] / before[0], after[1] / -before[1])


Search = Callable[[Sequence[TwoLayers], torch.Generator, int, int], list[Found]]


def search(
    problems: Sequence[TwoLayers],
    generator: torch.Generator,
    restarts: int = 8,
    steps: int = 150,
) -> list[Found]:
    """Look for swaps by one vector that takes equal shares from both keys, by gradient ascent.

    The shares of the queries, the common share of the keys and the value are free. All problems
    share their steps, and none sees the others.
    """
    plain = torch.stack([take_apart(layers).plain for layers in problems]).unsqueeze(1)
    form = torch.stack([layers.form[:-1, :-1] for layers in problems]).unsqueeze(1)
    first, second = _differences(plain @ form @ plain.mT)  # (problems, 1) each

    def draw(*shape: int) -> Tensor:
        shape = len(problems), restarts, *shape
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    raw, value = draw(3), draw(WIDTH)
    optimiser = torch.optim.Adam([raw, value], lr=0.1)

    def margins() -> tuple[Tensor, Tensor]:  # (problems, restarts), (…, 4, 1)
        # Shares beyond this would leave nothing but rounding of what the content says.
        shares = 0.001 + 0.998 * torch.sigmoid(raw[..., [0, 1, 2, 2]])[..., None]
        stream = (1 - shares) * plain + shares * value[..., None, :]
        after = _differences(stream @ form @ stream.mT)
        return torch.minimum(-after[0] / first, after[1] / -second), shares

    for _ in range(steps):
        optimiser.zero_grad()
        (-margins()[0].sum()).backward()
        optimiser.step()
    with torch.no_grad():
        reached, shares = margins()
        return [
            (shares[problem, best], value[problem, best].detach()[None])
            for problem, best in enumerate(reached.argmax(dim=1).tolist())
        ]


def swap_by_unequal_shares(layers: TwoLayers) -> Found:
    """One vector that swaps, by taking 0.6 of one key and 0.2 of the other: as in the proof.

    Its value makes the difference of the two keys the opposite of what it was.
    """
    plain = take_apart(layers).plain
    form = layers.form[:-1, :-1]
    first, second = 0.6, 0.2
    turned = -(plain[2] - plain[3])
    value = (turned - (1 - first) * plain[2] + (1 - second) * plain[3]) / (first - second)
    # Small enough shares of the queries: the difference that each is pulled to may be anything.
    pull = (value @ form @ turned).abs()
    own = torch.minimum(*(d.abs() for d in _differences(plain @ form @ plain.mT)))
    share = float(0.25 * own / (own + pull))
    shares = torch.tensor([share, share, first, second], dtype=torch.float64)
    return shares[:, None], value[None]


def swap_by_two_vectors(layers: TwoLayers) -> Found:
    """Two vectors that swap with equal shares everywhere: each query hears its own."""
    plain = take_apart(layers).plain
    form = layers.form[:-1, :-1]
    ask = form @ (plain[2] - plain[3])
    before = torch.stack(_differences(plain @ form @ plain.mT))
    # Opinions about the two keys, -4 and +4 times the strongest; each query mostly hears one.
    opinions = 4 * before.abs().max() * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    values = opinions[:, None] * ask / ask.square().sum()
    heard = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    return 0.5 * heard, values


def swap_by_layer_norm(layers: TwoLayers) -> Found:
    r"""One vector that swaps with equal shares of the keys, if a LayerNorm follows.

    Beside a long value :math:`\nu` the LayerNorm leaves of the difference :math:`t_j - t_l` only
    what is orthogonal to :math:`\nu`. With :math:`u = P H^\top t_i` and :math:`u'` for the two
    queries take a :math:`w` with :math:`u^\top w < 0 < u'^\top w` and
    :math:`w^\top (t_j - t_l) > 0`, and :math:`\nu` in the plane of :math:`w` and
    :math:`t_j - t_l`, orthogonal to :math:`w`: then what is left is a multiple of :math:`w`. The
    queries give the prefix next to nothing.
    """
    plain = take_apart(layers).plain
    form = layers.form[:-1, :-1]
    before = _differences(second_logits(layers, normalise(plain)))
    centred = plain - plain.mean(-1, keepdim=True)
    asks = centred[:2] @ form
    apart = centred[2] - centred[3]
    rows = torch.stack((*(asks - asks.mean(-1, keepdim=True)), apart))
    rows = rows / rows.norm(dim=-1, keepdim=True)
    best, found = torch.tensor(0.0, dtype=plain.dtype), None
    for along in (0.1, 0.3, 1.0, 3.0):
        wanted = torch.tensor([-1.0, 1.0, along], dtype=plain.dtype)
        left = torch.linalg.pinv(rows) @ wanted
        direction = apart - (apart @ left) / left.square().sum() * left
        direction = direction / direction.norm()
        for doubling in range(2, 12):
            size = 2.0**doubling * float(centred.norm(dim=-1).max())
            share = 1e-3 / 2.0**doubling
            shares = torch.tensor([share, share, 0.5, 0.5], dtype=plain.dtype)[:, None]
            stream = normalise((1 - shares) * plain + shares * size * direction)
            after = _differences(second_logits(layers, stream))
            reached = torch.minimum(-after[0] / before[0], after[1] / -before[1])
            if reached > best:
                best, found = reached, (shares, size * direction[None])
    if found is None:
        raise ValueError("no value that was tried exchanges the preferences of the two queries")
    return found


def _differences(logits: Tensor) -> tuple[Tensor, Tensor]:
    """How much more the queries 0 and 1 like key 2 than key 3."""
    return (
        logits[..., 0, 2] - logits[..., 0, 3],
        logits[..., 1, 2] - logits[..., 1, 3],
    )


check_public(__name__)

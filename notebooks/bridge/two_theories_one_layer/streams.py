r"""What do mask and depth decide for one learned vector? Layers on a stream of rows.

A layer adds to every row what its head reads, and what a small network makes of the row:

.. math:: x_i \leftarrow x_i + \sum_j A_{ij} W_V^\top x_j, \qquad
          x_i \leftarrow x_i + W_{\text{out}}^\top\tanh(W_{\text{in}}^\top x_i).

:func:`frozen_layers` are two explicit ones of width 5, whose coordinates are the plane of
:math:`q^\star` and :math:`w^\star`, then

- *ask*: how strongly a row asks for the context,
- *out*: where the first layer writes the signal that a row reads,
- *voice*: signal that a learned vector brings along.

Rows are vectors on the left: ``x @ W``. Source: this book.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from notebooks.bridge.two_theories_one_layer.readings import needed_logit, opposed_pair, pair_scale
from promptlib.attention import attend
from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.population import aligned

__all__ = [
    "PLACES",
    "Layer",
    "Place",
    "Reading",
    "Step",
    "asking_vector",
    "forward",
    "frozen_layers",
    "learned_at",
    "pair_vectors",
    "random_layers",
    "read",
    "relative_attention",
    "three_deviations",
]

ASK, OUT, VOICE, WIDTH = 2, 3, 4, 5
CONTENT_SCALE = 0.2
"""How strongly content asks content, :math:`A = 0.2\\,I` on the plane."""


class Layer(NamedTuple):
    """Weights of one layer.

    `W_in, W_out : Tensor, shape (d, h) and (h, d)`  `W_in, W_out : Tensor, shape (d, h) and (h, d)`
    """

    W_Q: Tensor  # (d, d)
    W_K: Tensor  # (d, d)
    W_V: Tensor  # (d, d)
    W_in: Tensor
    W_out: Tensor


class Step(NamedTuple):
    """What one layer did."""

    keys: Tensor  # (..., n, d)
    values: Tensor  # (..., n, d)
    attention: Tensor  # (..., n, p + n): with a cache of ``p`` rows in front, without one ``p`` = 0
    read: Tensor  # (..., n, d): what the head added to each row
    stream: Tensor  # (..., n, d): the rows afterwards


def forward(
    stream: Tensor,
    layers: Sequence[Layer],
    causal: bool,
    cache: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> list[Step]:
    """Send rows through layers.

    Shapes: stream (..., n, d).
    """
    if cache is not None and len(cache) != len(layers):
        raise ValueError(f"{len(layers)} layers need as many cached pairs, got {len(cache)}")
    steps = []
    for place, layer in enumerate(layers):
        keys, values = stream @ layer.W_K, stream @ layer.W_V
        old_keys, old_values = (None, None) if cache is None else cache[place]
        read, attention = attend(
            stream @ layer.W_Q, keys, values, old_keys, old_values, causal, scale=1.0
        )
        stream = stream + read
        stream = stream + torch.tanh(stream @ layer.W_in) @ layer.W_out
        steps.append(Step(keys, values, attention, read, stream))
    return steps


def random_layers(width: int, depth: int, generator: torch.Generator) -> list[Layer]:
    """Layers with Gaussian weights of variance ``1/width``, hidden width twice the width."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * shape[0] ** -0.5

    return [
        Layer(
            W_Q=normal(width, width),
            W_K=normal(width, width),
            W_V=normal(width, width),
            W_in=normal(width, 2 * width),
            W_out=normal(2 * width, width),
        )
        for _ in range(depth)
    ]


def frozen_layers(mixture: ContextualMixture, sharpness: float = 60.0) -> list[Layer]:
    r"""Two explicit layers: the first reads bags, the second reads the row that asks most.

    First layer: a row with plane part ``x`` and asking coordinate :math:`\kappa` has the query
    :math:`0.2\,x + \kappa\, q_\perp/\lVert q_\perp\rVert^2` and the key ``x``; its value, written
    to *out*, is its signal :math:`\langle x, w_\perp\rangle/\lVert w_\perp\rVert^2` plus its voice.
    Second layer: query and key are the asking coordinates, times `sharpness`, and the value is what
    the first layer wrote.
    """
    if mixture.dim != WIDTH or not sharpness > 0:
        raise ValueError(
            f"needs a mixture of width {WIDTH} and a sharpness > 0, got {mixture.dim}, {sharpness}"
        )
    context, signal = mixture.context_only, mixture.signal_only
    zeros = torch.zeros(WIDTH, WIDTH, dtype=mixture.dtype)
    queries, keys, values = zeros.clone(), zeros.clone(), zeros.clone()
    keys[0, 0] = keys[1, 1] = 1.0
    queries += CONTENT_SCALE * keys
    queries[ASK] = context / (context @ context)
    values[:, OUT] = signal / (signal @ signal)
    values[VOICE, OUT] = 1.0
    asks, outs = zeros.clone(), zeros.clone()
    asks[ASK, ASK], outs[OUT, OUT] = 1.0, 1.0
    no_network = torch.zeros(WIDTH, 1, dtype=mixture.dtype)
    return [
        Layer(queries, keys, values, no_network, no_network.T),
        Layer(sharpness * asks, asks, outs, no_network, no_network.T),
    ]


def asking_vector(strength: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """A vector that asks for the context and says nothing: shape (1, 5)."""
    vector = torch.zeros(1, WIDTH, dtype=dtype)
    vector[0, ASK] = strength
    return vector


def pair_vectors(mixture: ContextualMixture, scale: float, value: float) -> Tensor:
    """The opposed pair as two vectors of the stream, for queries 0.2 times as long: (2, 5)."""
    keys, _ = opposed_pair(mixture, scale / CONTENT_SCALE, value)
    signal = mixture.signal_only
    vectors = keys.clone()
    vectors[:, VOICE] = value * torch.tensor([1.0, -1.0]) - keys @ signal / (signal @ signal)
    return vectors


class Place(NamedTuple):
    """Where learned vectors stand and which rows are read."""

    behind: bool
    causal: bool
    # ``"reader"``, ``"own row"``, ``"all content rows"`` of the first layer, or ``"second
    # layer"``: the reader's row there
    read: str


PLACES = [
    Place(behind, causal, read)
    for read in ("reader", "own row", "all content rows", "second layer")
    for behind, causal in ((False, True), (False, False), (True, True), (True, False))
]
"""Every place of the chapter's figure: the vector is turned around the frozen layers."""


def three_deviations(size: float) -> ContextualMixture:
    """Ten tokens, two relevant, deviations (0, 0), (Δ, Δ) and (Δ, -Δ); width 5."""
    return ContextualMixture(WIDTH, 10, 0.2, deviations=((0.0, 0.0), (size, size), (size, -size)))


def learned_at(mixture: ContextualMixture, place: Place) -> Tensor:
    """What is learned for a place: the opposed pair where all rows are read, else one query.

    Shape (1, 5) or (2, 5).
    """
    if place.read != "all content rows":
        return asking_vector(4.0)
    size = max(context for context, _ in mixture.deviations)
    pair = ContextualMixture(
        mixture.dim, mixture.tokens, mixture.sparsity, deviations=aligned(size)
    )
    A = CONTENT_SCALE * torch.eye(mixture.dim, dtype=mixture.dtype)
    scale = pair_scale(pair, A)
    return pair_vectors(mixture, scale, 4 * size / mixture.sparsity)


class Reading(NamedTuple):
    """What the frozen layers say about every case of a mixture."""

    labels: Tensor  # (C,)
    scores: Tensor  # (C,)
    attention: Tensor  # (C, n, n): of the first layer
    content: slice  # The content rows
    learned: slice  # The learned rows
    learned_rows: Tensor  # (C, p, 5): after the first layer

    @property
    def right(self) -> int:
        """Cases with the strict sign of their label; a score within 1e-9 of zero has no sign."""
        return int((self.labels * self.scores > 1e-9).sum())


def read(
    mixture: ContextualMixture, learned: Tensor, place: Place, reader_logit: float | None = None
) -> Reading:
    r"""Every case (y, δ) of a mixture, read through the frozen layers.

    The rows are the learned vectors, the bag and the reader; or the bag, the learned vectors and
    the reader.

    Shapes: learned (p, 5).
    """
    if place.read == "own row" and len(learned) != 1:
        raise ValueError(f"one vector has an own row to read, got {len(learned)} vectors")
    strength = needed_logit(mixture) / 2 if reader_logit is None else reader_logit
    count, size = 2 * len(mixture.deviations), len(learned)
    labels = torch.tensor([1.0, -1.0], dtype=mixture.dtype).repeat_interleave(count // 2)
    order = torch.randperm(mixture.tokens, generator=torch.Generator().manual_seed(0))
    bags = mixture.compose(
        labels,
        (order < mixture.relevant_tokens).expand(count, -1),
        mixture.deviation_table.repeat(2, 1),
    )
    vectors = learned.to(mixture.dtype).expand(count, size, WIDTH)
    reader = asking_vector(strength, mixture.dtype).expand(count, 1, WIDTH)
    first, second = (bags, vectors) if place.behind else (vectors, bags)
    bag_at, vector_at = (0, mixture.tokens) if place.behind else (size, 0)
    content = slice(bag_at, bag_at + mixture.tokens)
    own = slice(vector_at, vector_at + size)
    # The reader finds the row that asks most: its own logit is far below the learned vector's.
    sharpness = 60.0 / max(abs(strength), 1e-6)
    steps = forward(
        torch.cat((first, second, reader), dim=1), frozen_layers(mixture, sharpness), place.causal
    )
    out = {
        "reader": lambda: steps[0].read[:, -1, OUT],
        "own row": lambda: steps[0].read[:, own, OUT].squeeze(1),
        "all content rows": lambda: steps[0].read[:, content, OUT].mean(1),
        "second layer": lambda: steps[1].read[:, -1, OUT],
    }
    return Reading(
        labels, out[place.read](), steps[0].attention, content, own, steps[0].stream[:, own]
    )


def relative_attention(reading: Reading) -> Tensor:
    """Attention of content rows among content, each row divided by its sum: (C, T, T)."""
    among = reading.attention[:, reading.content, reading.content]
    return among / among.sum(dim=-1, keepdim=True)


check_public(__name__)

r"""How far can the second layer's attention move if the prefix below takes little?

Let :math:`\eta` bound how far the prefix moves the stream at any position,

.. math::

    \lVert y'_i - y_i \rVert = \Bigl\lVert \sum_h \alpha_i^h (\mu_i^h - t_i^h)^\top W_O^{h\top}
    \Bigr\rVert \le \eta,

and :math:`Y` the length of the rows :math:`\hat y_i` of the stream with a 1 appended. Then no
relative attention of a second-layer head moves by more than

.. math::

    \tanh\Bigl(\tfrac12 \lVert H \rVert\,(2 \eta Y + \eta^2)\Bigr)

in total variation, because logits move by at most :math:`\varepsilon = \lVert H \rVert (2\eta Y +
\eta^2)`, and two softmax rows whose logits differ by numbers in an interval of length :math:`s` are
at most :math:`\tanh(s/4)` apart; here :math:`s \le 2\varepsilon`. The second bound is the least
possible: two tokens with weights :math:`1/(1 + e^{\pm s/2})` reach it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer.two_layers import (
    TwoLayers,
    first_layer,
    second_logits,
    take_apart,
)
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction, total_variation

__all__ = ["fainter", "furthest", "interval_limit", "movement", "stream_limit"]


def interval_limit(spread: Tensor) -> Tensor:
    """Most that a softmax row can move when its logits move within an interval of length s."""
    return torch.tanh(spread / 4)


def furthest(spread: Tensor) -> tuple[Tensor, Tensor]:
    """Two rows of two weights that reach :func:`interval_limit`: before and after, (..., 2)."""
    half = torch.stack((-spread / 4, spread / 4), dim=-1)
    return half.softmax(-1), (-half).softmax(-1)


def fainter(layers: TwoLayers, by: float) -> TwoLayers:
    """Layers of the same kind whose prefix gets logits lower by `by`: smaller shares everywhere.

    The first coordinate of the content becomes 1, and queries read it into one more coordinate of
    their own, in which the content's keys are 0 and the prefix's below it.
    """
    width = layers.query.shape[1]
    content = layers.content.clone()
    content[:, 0] = 1
    constant = torch.zeros_like(layers.query[:, :1])
    constant[..., 0] = (width + 1) ** 0.5
    lower = torch.full_like(layers.prefix_keys[..., :1], -by)
    return replace(
        layers,
        content=content,
        query=torch.cat((layers.query, constant), dim=1),
        key=torch.cat((layers.key, torch.zeros_like(constant)), dim=1),
        prefix_keys=torch.cat((layers.prefix_keys, lower), dim=-1),
    )


def stream_limit(layers: TwoLayers, attend: AttendFunction = library_attend) -> Tensor:
    r"""The bound of the module's docstring, with :math:`\eta` from shares and values: a scalar.

    As :math:`\eta` serves the largest :math:`\sum_h \alpha_i^h\,(\max_m \lVert W_O^h \bar v_m^h
    \rVert + \lVert r_i^h \rVert)`, which needs no knowledge of the second layer.
    """
    stream = take_apart(layers, attend)
    queries, keys, values = (
        layers.content @ weight.mT for weight in (layers.query, layers.key, layers.value)
    )
    heads, _ = attend(queries, keys, values, causal=layers.causal)
    read = (heads @ layers.project.mT).norm(dim=-1)  # (H, n)
    value = (layers.prefix_values @ layers.project.mT).norm(dim=-1).amax(-1, keepdim=True)
    eta = (stream.shares * (read + value)).sum(0).max()
    longest = (stream.plain.square().sum(-1) + 1).sqrt().max()
    strength = torch.linalg.matrix_norm(layers.form, ord=2)
    return interval_limit(2 * strength * (2 * eta * longest + eta.square()))


def movement(layers: TwoLayers, attend: AttendFunction = library_attend) -> Tensor:
    """Total variation by which the prefix moves each row of the second layer, shape (n,)."""
    before = second_logits(layers, take_apart(layers, attend).plain)
    after = second_logits(layers, first_layer(layers, attend)[0])
    if layers.causal:
        hidden = torch.ones_like(before, dtype=torch.bool).triu(1)
        before, after = (z.masked_fill(hidden, float("-inf")) for z in (before, after))
    return total_variation(before.softmax(-1), after.softmax(-1))


check_public(__name__)

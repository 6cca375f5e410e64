r"""How far can one prefix vector below re-aim one query of the second layer? Completely.

The construction of the theorem "One row is free". The second layer reads
:math:`y'_j = y_j + \alpha_j (\nu - r_j)`, where :math:`y_j = x_j + r_j` without the prefix and
:math:`\nu` is what the prefix value becomes in the stream. Take :math:`\nu = s w` with
:math:`w^\top H w \ne 0`, give the query :math:`i` itself any share :math:`a`, and every other
position :math:`j` the share

.. math::

    \alpha_j = \frac{\kappa + \log(B_j / B_i) - e_j}{c - d_j}, \qquad
    \kappa = e_i + a\,(c - d_i),

with :math:`e_j = y_i'^\top H y_j`, :math:`d_j = y_i'^\top H r_j`, :math:`c = y_i'^\top H \nu`. Then
row :math:`i` is :math:`B`. As :math:`s` grows, :math:`c` outgrows everything else and all
:math:`\alpha_j` tend to :math:`a`, so they lie in (0, 1) from some :math:`s` on. Keys that take
given shares exist when the queries of the first layer are linearly independent
(`promptlib.prefix_tuning.reach.keys_that_take`).
"""

from __future__ import annotations

from collections.abc import Callable
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
from promptlib.attention import causal_mask
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction
from promptlib.prefix_tuning.reach import keys_that_take, log_normalisers

__all__ = ["aim_row", "row_errors", "shares_for_row"]

OWN_SHARE = 0.5
"""The share taken from the query itself; any number in (0, 1) would do."""

DOUBLINGS = 60


def shares_for_row(
    form: Tensor, plain: Tensor, read: Tensor, row: int, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Shares and stream value of one prefix vector that make one attention row what is wanted.

    `form` is that of the second layer; `plain` the stream without the prefix and `read` the part of
    it that the first layer's head read, both (n, D). `wanted`, shape (m,), is positive and sums to
    one over the first ``m`` positions, `row` among them. Returns shares (m,) in (0, 1), and (D,).
    """
    count = len(wanted)
    if not bool((wanted > 0).all()):
        raise ValueError(f"the row wanted must be positive, got a weight {float(wanted.min())}")
    if not 0 <= row < count:
        raise ValueError(f"query {row} is not among the {count} positions of the row wanted")
    inner = form[:-1, :-1]
    values, vectors = torch.linalg.eigh(inner + inner.mT)
    best = int(values.abs().argmax())
    if not values[best].abs() > 0:
        raise ValueError("the form is antisymmetric: no direction attends to itself")
    direction = vectors[:, best]
    offsets = wanted.log() - wanted[row].log()
    size = read.square().sum(-1).mean().sqrt().clamp_min(1e-3)
    ones = torch.ones_like(plain[:count, :1])
    for _ in range(DOUBLINGS):
        target = size * direction
        own = plain[row] + OWN_SHARE * (target - read[row])
        ask = torch.cat((own, ones[0])) @ form  # (D + 1,)
        plain_logits = torch.cat((plain[:count], ones), dim=1) @ ask
        gain = ask[:-1] @ target - read[:count] @ ask[:-1]
        level = plain_logits[row] + OWN_SHARE * gain[row]
        shares = (level + offsets - plain_logits) / gain
        if bool(((shares > 0.05) & (shares < 0.95)).all()):
            return shares, target
        size = 1.5 * size
    raise ValueError(f"no length up to {float(size):.1e} of the value gives shares in (0, 1)")


Aim = Callable[[Tensor, Tensor, Tensor, int, Tensor], tuple[Tensor, Tensor]]


def aim_row(layers: TwoLayers, row: int, wanted: Tensor, aim: Aim = shares_for_row) -> TwoLayers:
    """The same layers with one prefix vector that makes row `row` of the second layer `wanted`.

    One head, an invertible output matrix, linearly independent queries at the row's positions.
    """
    if len(layers.query) != 1:
        raise ValueError(f"the construction is for one head, got {len(layers.query)}")
    count = len(wanted)
    stream = take_apart(layers)
    read = stream.plain - layers.content if layers.residual else stream.plain
    shares, target = aim(layers.form, stream.plain, read, row, wanted)
    queries, keys = (layers.content @ w[0].mT for w in (layers.query, layers.key))
    normalisers = log_normalisers(queries, keys, layers.causal)
    key = keys_that_take(queries[:count], normalisers[:count], shares[:, None])
    value = torch.linalg.solve(layers.project[0], target)
    return replace(layers, prefix_keys=key[None], prefix_values=value[None, None])


def row_errors(
    layers: TwoLayers,
    row: int,
    wanted: Tensor,
    attend: AttendFunction = library_attend,
    aim: Aim = shares_for_row,
) -> Tensor:
    """Aim, run both layers, and compare the row of the second with what was wanted, (m,)."""
    aimed = aim_row(layers, row, wanted, aim)
    stream, _ = first_layer(aimed, attend)
    logits = second_logits(aimed, stream)
    if layers.causal:
        n_queries, n_keys = logits.shape
        hidden = causal_mask(n_queries, n_keys, device=logits.device)
        logits = logits.masked_fill(hidden, float("-inf"))
    return (logits[row].softmax(-1)[: len(wanted)] - wanted).abs()


check_public(__name__)

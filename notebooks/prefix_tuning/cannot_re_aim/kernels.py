r"""Does it have to be softmax?

The theorem that a prefix cannot re-aim attention uses one property of softmax: a weight depends on
its own query and key alone, and the weights are then divided by their sum. Here are attention
functions that share it, and two that do not, with the signature of
:func:`promptlib.attention.attend`:

* any positive kernel :math:`f(q, k)`, normalised: the theorem holds;
* a kernel of either sign (linear attention without a positive feature map), normalised: ratios stay
  but :math:`\alpha` may leave [0, 1], so outputs may leave the segment;
* sigmoid attention (no division): content weights do not change at all, and the prefix adds a bias;
* sparsemax (Martins and Astudillo 2016): a threshold that depends on all logits is subtracted, so a
  prefix does change relative attention.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.attention import causal_mask
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction

__all__ = ["POSITIVE_KERNELS", "normalised", "sigmoid", "signed_linear", "sparsemax"]

Kernel = Callable[[Tensor, Tensor], Tensor]


def _logits(queries: Tensor, keys: Tensor) -> Tensor:
    return queries @ keys.mT * queries.shape[-1] ** -0.5


def _features(vectors: Tensor) -> Tensor:
    # elu + 1 written out: adding 1 to a rounded elu would lose positivity below -37.
    return torch.where(vectors > 0, vectors + 1, vectors.clamp(-300, 0).exp())


def _distance(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.cdist(queries, keys).square()


POSITIVE_KERNELS: dict[str, Kernel] = {
    "exponential (softmax)": lambda q, k: _logits(q, k).clamp(-300, 300).exp(),
    "linear attention, elu + 1 features": lambda q, k: _features(q) @ _features(k).mT,
    "squared dot product": lambda q, k: _logits(q, k).square() + 1e-3,
    "softplus of the logit": lambda q, k: F.softplus(_logits(q, k)) + 1e-12,
    "Cauchy kernel of the distance": lambda q, k: 1 / (1 + _distance(q, k)),
}
"""Weights that are positive and see one query and one key."""


def normalised(kernel: Kernel) -> AttendFunction:
    """Attention with the weights of a kernel, divided by their sum over what a query sees."""

    def from_weights(queries: Tensor, keys: Tensor, hidden: Tensor | None) -> Tensor:
        weights = kernel(queries, keys)
        if hidden is not None:
            weights = weights.masked_fill(hidden, 0.0)
        return weights / weights.sum(-1, keepdim=True)

    return _attend_with(from_weights)


def signed_linear() -> AttendFunction:
    """Linear attention with the identity as feature map: weights may be negative."""
    return normalised(_logits)


def sigmoid() -> AttendFunction:
    """Sigmoid of the logits, not divided by anything."""

    def from_logits(queries: Tensor, keys: Tensor, hidden: Tensor | None) -> Tensor:
        weights = torch.sigmoid(_logits(queries, keys))
        return weights if hidden is None else weights.masked_fill(hidden, 0.0)

    return _attend_with(from_logits)


def sparsemax() -> AttendFunction:
    """The Euclidean projection of the logits onto the simplex, in the place of softmax."""

    def from_logits(queries: Tensor, keys: Tensor, hidden: Tensor | None) -> Tensor:
        logits = _logits(queries, keys)
        if hidden is not None:
            logits = logits.masked_fill(hidden, -1e9)
        ordered = logits.sort(-1, descending=True).values
        excess = ordered.cumsum(-1) - 1
        size = torch.arange(1, logits.shape[-1] + 1, dtype=logits.dtype)
        support = (size * ordered > excess).sum(-1, keepdim=True)  # at least 1
        threshold = excess.gather(-1, support - 1) / support
        return (logits - threshold).clamp_min(0)

    return _attend_with(from_logits)


def _attend_with(rows: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> AttendFunction:
    """An attention function from one that turns queries, keys and a mask into attention rows."""

    def attend(
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        prefix_keys: Tensor | None = None,
        prefix_values: Tensor | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        prefix_length = 0
        if prefix_keys is not None and prefix_values is not None:
            prefix_length = prefix_keys.shape[-2]
            keys = torch.cat((prefix_keys, keys), -2)
            values = torch.cat((prefix_values, values), -2)
        n_keys = keys.shape[-2] - prefix_length
        size = (queries.shape[-2], n_keys, prefix_length)
        hidden = causal_mask(*size, queries.device) if causal else None
        attention = rows(queries, keys, hidden)
        return attention @ values, attention

    return attend


check_public(__name__)

r"""How much of a long prefix is in use?

Within a prefix of length ``p``, query ``i`` spreads its attention as
:math:`c_{im} = A'_{im} / \alpha_i`.

effective number of positions
    :math:`N_i = \exp(-\sum_m c_{im} \log c_{im})`, from 1 (one vector gets all) to ``p``.
    If the prefix logits of query ``i`` lie in an interval of length :math:`\Delta_i`, then
    :math:`N_i \ge 1 + (p-1) e^{-\Delta_i}`.
effective number in use
    the same of the mean :math:`\bar c_m` over queries. Its logarithm is the mean of
    :math:`\log N_i` plus the mutual information :math:`I` between query and position.
effective rank of the biases
    :math:`\exp(-\sum_r q_r \log q_r)` with :math:`q_r = \sigma_r^2 / \sum \sigma^2` from the
    singular values of the matrix whose rows are the biases :math:`\alpha_i \mu_i`; at most ``p``.

The points :math:`\mu_i` stay close together if queries use the prefix alike:
:math:`\operatorname{mean}_i \lVert \mu_i - \bar\mu \rVert \le \operatorname{diam}(\bar v)
\sqrt{I/2}`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from promptlib.checks import check_public


def least_effective_number(
    spread: Tensor, length: int, decay: Callable[[Tensor], Tensor] = lambda s: (-s).exp()
) -> Tensor:
    r"""The bound :math:`1 + (p-1) e^{-\Delta}` for logits in an interval of length `spread`."""
    return 1 + (length - 1) * decay(spread)


def mutual_information(weights: Tensor) -> Tensor:
    """Between query and prefix position, in nats, shape (..., queries, p) to (...).

    The entropy of the mean over queries minus their mean entropy.
    """
    rows = _normalised(weights)
    return (
        torch.special.entr(rows.mean(-2)).sum(-1) - torch.special.entr(rows).sum(-1).mean(-1)
    ).clamp_min(0.0)


def mean_divergence(weights: Tensor) -> Tensor:
    """The mutual information by its definition, shape (..., queries, p) to (...).

    The mean over queries of the Kullback-Leibler divergence of their weights from the mean.
    """
    rows = _normalised(weights)
    ratios = rows / rows.mean(-2, keepdim=True)
    return torch.special.xlogy(rows, ratios).sum(-1).mean(-1)


def bias_spread(weights: Tensor, values: Tensor) -> Tensor:
    r"""Mean distance of the points :math:`\mu_i` from their mean, shape (...).

    Weights are (..., queries, p), values (..., p, d).
    """
    points = _normalised(weights) @ values
    return (points - points.mean(-2, keepdim=True)).norm(dim=-1).mean(-1)


def spread_limit(weights: Tensor, values: Tensor) -> Tensor:
    r"""The bound :math:`\operatorname{diam}(\bar v) \sqrt{I/2}` on :func:`bias_spread`."""
    diameter = torch.cdist(values, values).amax((-1, -2))
    return diameter * (mutual_information(weights) / 2).sqrt()


def diluted_share(reach: Tensor, length: int, visible: int) -> Tensor:
    r"""The bound :math:`p / (p + |M_i|\,e^{-2 r_i})` on the share of a prefix behind a LayerNorm.

    `reach` is :math:`r_i`, `visible` the number of content tokens that the query sees.
    """
    return length / (length + visible * (-2 * reach).exp())


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


check_public(__name__)

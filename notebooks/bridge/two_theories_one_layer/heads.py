r"""How many self-attention heads replace one prompt?

``H`` heads, each with a logit matrix and a head vector of its own, score a bag with

.. math:: f(X) = \sum_h \tfrac1T \langle \mathbf 1 u_h^\top, \phi(XA_hX^\top)X\rangle .

In the family :math:`A_h = c_h\, q_\perp q_\perp^\top/\lVert q_\perp\rVert^4`,
:math:`u_h = \beta_h\, w_\perp/\lVert w_\perp\rVert^2` the score is
:math:`y\sum_h \beta_h F(c_h, \delta)` with

.. math::

    F(c, \delta) = M - (1 - M)\,\delta_w, \qquad
    M(c, \delta_q) = \zeta\,S(\ell + c(1+\delta_q)) + (1-\zeta)\,S(\ell - c\,\delta_q(1+\delta_q)),

where :math:`\ell = \log\frac{\zeta}{1-\zeta}` and :math:`S` is the logistic function. Source: this
book.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.models import self_attention

__all__ = [
    "BoxMargins",
    "box_margins",
    "head_arguments",
    "head_margin",
    "heads_for",
    "heads_score",
    "linear_prompts",
]


def head_margin(c: Tensor, deviations: Tensor, sparsity: float) -> Tensor:
    r"""What one head of the family says for the right label: :math:`F(c, \delta)`.

    Shapes: c (n,), deviations (k, 2) -> (n, k).
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity must lie in (0, 1), got {sparsity}")
    log_odds = math.log(sparsity / (1 - sparsity))
    context, signal = deviations.T
    gap = c[:, None] * (1 + context)  # (n, k)
    relevant = torch.sigmoid(log_odds + gap)
    others = torch.sigmoid(log_odds - gap * context)
    mass = sparsity * relevant + (1 - sparsity) * others
    return mass - (1 - mass) * signal


def head_arguments(largest_deviation: float, count: int = 101) -> Tensor:
    """Values of ``c`` from -20 to 20, denser where logits of large deviations turn: (count,)."""
    if count < 3 or count % 2 == 0:
        raise ValueError(f"count must be odd and at least 3, got {count}")
    finest = 0.05 / (1 + largest_deviation) ** 2
    steps = torch.linspace(-1, 1, count, dtype=torch.float64)
    return finest * torch.sinh(steps * math.asinh(20.0 / finest))


def heads_for(mixture: ContextualMixture) -> tuple[Tensor, Tensor]:
    r"""Heads that are perfect on the deviations of a mixture, at most as many as those.

    The rows :math:`(F(c,\delta))_\delta` span all of :math:`\mathbb R^k` unless ζ = 1/2; a
    pivoted QR factorisation picks ``k`` of them, and the weights :math:`\beta` that give the
    margin 1 at every deviation solve a linear system.

    Shape (k, d).
    """
    from scipy.linalg import qr  # here: it takes a while

    table = mixture.deviation_table
    arguments = head_arguments(float(table[:, 0].max()))
    margins = head_margin(arguments, table, mixture.sparsity)  # (n, k)
    _, _, order = qr(margins.numpy().T, mode="economic", pivoting=True)
    chosen = torch.as_tensor(np.sort(order[: len(table)]))
    system = margins[chosen].T  # (k, k)
    if float(torch.linalg.cond(system)) > 1e10:
        raise ValueError(
            f"no heads found for sparsity {mixture.sparsity} and deviations {mixture.deviations}"
        )
    weights = torch.linalg.solve(system, torch.ones(len(table), dtype=system.dtype))
    context, signal = mixture.context_only, mixture.signal_only
    u = weights[:, None] * signal / (signal @ signal)
    A = arguments[chosen][:, None, None] * torch.outer(context, context) / (context @ context) ** 2
    return u, A


def heads_score(tokens: Tensor, u: Tensor, A: Tensor) -> Tensor:
    """The sum of several self-attention heads.

    Shapes: tokens (..., T, d), u (H, d), A (H, d, d) -> (...).
    """
    return torch.stack(
        [self_attention(tokens, *weights) for weights in zip(u, A, strict=True)]
    ).sum(0)


def linear_prompts(tokens: Tensor, w: Tensor, q: Tensor) -> Tensor:
    r"""Linear prompt-attention with several prompts.

    .. math:: f(X) = \sum_j \tfrac1T\langle w_j, X^\top X q_j\rangle

    Shapes: tokens (..., T, d), w, q (p, d) -> (...).
    """
    return ((tokens @ w.mT) * (tokens @ q.mT)).mean(dim=-2).sum(dim=-1)


class BoxMargins(NamedTuple):
    """The best least margin over a box that a search found, for heads of total weight 1."""

    # With one head, two, and any number of the arguments searched; negative or zero where the
    # search found no weights that are right everywhere
    one: float
    # With one head, two, and any number of the arguments searched; negative or zero where the
    # search found no weights that are right everywhere
    two: float
    # With one head, two, and any number of the arguments searched; negative or zero where the
    # search found no weights that are right everywhere
    many: float
    used: int  # Heads with a weight above 1e-6 among the many


def box_margins(sparsity: float, limit: float, points: int = 41, few: int = 41) -> BoxMargins:
    r"""Search heads that are right for all :math:`\delta \in [0, B] \times [-B, B]`.

    A margin is linear in :math:`\delta_w`, so its ends :math:`\pm B` are enough; :math:`\delta_q`
    runs over a grid, and what is found is measured on one ten times as fine. One and two heads are
    searched over pairs of arguments and a grid of weights with :math:`\sum|\beta_h| = 1`; for many
    a linear program is solved.
    """
    from scipy.optimize import linprog

    if not limit > 0:
        raise ValueError(f"the limit of the box must be > 0, got {limit}")

    def corners(count: int) -> Tensor:
        ends = torch.tensor([-limit, limit], dtype=torch.float64)
        return torch.cartesian_prod(torch.linspace(0, limit, count, dtype=torch.float64), ends)

    coarse, fine = corners(points), corners(10 * points)
    arguments = head_arguments(limit, few)
    margins = head_margin(arguments, coarse, sparsity)  # (n, k)
    angles = torch.linspace(0, 2 * math.pi, 241, dtype=torch.float64)[:-1]
    mix = torch.stack((angles.cos(), angles.sin()), 1)
    mix = mix / mix.abs().sum(1, keepdim=True)  # (a, 2)
    first, second = torch.combinations(torch.arange(few)).T
    # One slice of weights at a time keeps the array of pairs by deviations small.
    least = torch.stack(
        [(a * margins[first] + b * margins[second]).amin(-1) for a, b in mix]
    )  # (a, pairs)
    angle, pair = divmod(int(least.argmax()), len(first))
    where = torch.stack((first[pair], second[pair]))
    fine_few = head_margin(arguments[where], fine, sparsity)
    one = max(
        float((sign * head_margin(arguments, fine, sparsity)).amin(1).max()) for sign in (1, -1)
    )
    arguments = head_arguments(limit)
    table = head_margin(arguments, coarse, sparsity).numpy()  # (n, k)
    count, cases = table.shape
    # Maximise t with sum(beta F) >= t and sum|beta| <= 1, beta = beta_plus - beta_minus.
    rows = np.vstack(
        (np.hstack((-table.T, table.T, np.ones((cases, 1)))), np.append(np.ones(2 * count), 0.0))
    )
    found = linprog(
        np.append(np.zeros(2 * count), -1.0),
        A_ub=rows,
        b_ub=np.append(np.zeros(cases), 1.0),
        bounds=[(0, None)] * (2 * count) + [(None, None)],
    )
    beta = torch.as_tensor(found.x[:count] - found.x[count : 2 * count])
    many = beta @ head_margin(arguments, fine, sparsity)
    return BoxMargins(
        one, float((mix[angle] @ fine_few).min()), float(many.min()), int((beta.abs() > 1e-6).sum())
    )


check_public(__name__)

r"""What can one learned vector change, in front of a bag of tokens and behind it?

The bags are those of the discrete contextual mixture; :math:`D = \zeta/(1-\zeta)` are the odds of
relevant tokens and :math:`a_y = q^\star + y w^\star` is a relevant token. A *reader* is a token
whose query ``r`` is the same for all bags. It is *blind to the label* when
:math:`\langle r, w^\star\rangle = 0`. Then, with the logit :math:`\eta = \langle r, q^\star\rangle`
of a relevant token, its attention on the relevant tokens is ``A`` with odds
:math:`D e^{\eta(1+\delta_q)}`, whatever the label, and the *lead* of the right answer is

.. math:: L(\delta) = A - (1 - A)\,\delta_w .

Logits are plain inner products. Source: this book.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.attention import attend
from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = [
    "LeakingPrefix",
    "averaged_rows",
    "difference_in_front",
    "lead",
    "leaking_prefix",
    "least_pair_value",
    "needed_logit",
    "opposed_pair",
    "own_row",
    "pair_scale",
    "search_in_front",
]


def lead(mixture: ContextualMixture, logit: Tensor | float) -> Tensor:
    r"""How far a label-blind query's reading is on the right side: :math:`A - (1-A)\delta_w`.

    Shape (..., k).
    """
    if mixture.noise_std:
        raise ValueError(f"the formula is for bags without noise, got {mixture.noise_std}")
    context, signal = mixture.deviation_table.T
    eta = torch.as_tensor(logit, dtype=mixture.dtype)[..., None]
    logits = math.log(mixture.sparsity / (1 - mixture.sparsity)) + eta * (1 + context)
    return torch.sigmoid(logits) - torch.sigmoid(-logits) * signal


def needed_logit(mixture: ContextualMixture) -> float:
    r"""The logit that a label-blind reader must exceed to be right at every deviation.

    .. math:: \eta_0 = \max_\delta \frac{\log(\max(\delta_w, 0)/D)}{1+\delta_q}

    The bound of `thm-prompt-perfect`, in logits. Minus infinity if no :math:`\delta_w` is positive.
    """
    odds = mixture.sparsity / (1 - mixture.sparsity)
    return max(
        math.log(signal / odds) / (1 + context) if signal > 0 else -math.inf
        for context, signal in mixture.deviations
    )


def difference_in_front(mixture: ContextualMixture, reader: Tensor, prefix_keys: Tensor) -> Tensor:
    r"""How far apart the two labels are at a label-blind reader that has a prefix in front of it.

    .. math:: t'(y=+1) - t'(y=-1) = 2\,(1-\alpha)\,\bigl[A - (1-A)\delta_w\bigr]\, w^\star

    The values of the prefix do not appear.

    Shapes: reader (d,), prefix_keys (p, d) -> (k,).
    """
    leak = float(reader @ mixture.signal)
    if abs(leak) > 1e-9 * float(reader.norm() * mixture.signal.norm()):
        raise ValueError(f"the reader must be blind to the label, got <r, w*> = {leak:g}")
    eta = reader @ mixture.context
    context = mixture.deviation_table[:, 0]
    relevant = math.log(mixture.relevant_tokens) + eta
    others = math.log(mixture.tokens - mixture.relevant_tokens) - eta * context
    log_content = torch.logaddexp(relevant, others)  # log Z, the same for both labels
    log_prefix = torch.logsumexp(prefix_keys @ reader, dim=0)  # minus infinity without a prefix
    return 2 * torch.sigmoid(log_content - log_prefix) * lead(mixture, eta)


class LeakingPrefix(NamedTuple):
    """A head, an intercept and one prefix vector for a reader that is not blind to the label."""

    head: Tensor  # (d,)
    intercept: float
    key: Tensor  # (d,): of the prefix vector
    value: Tensor  # (d,): of the prefix vector


def leaking_prefix(mixture: ContextualMixture, reader: Tensor) -> LeakingPrefix:
    r"""One prefix vector that makes a label-sensitive reader right where no head alone does.

    Times :math:`Z + \bar Z`, the score of reader, prefix, head ``u`` and intercept ``b`` is
    :math:`h_y S + b Z + C` with :math:`h_y = \langle u, a_y\rangle`,
    :math:`S = Z(A - (1-A)\Delta)` and the constant :math:`C = \bar Z(\langle u, \bar v\rangle + b)`
    that the prefix adds. Four cases, four unknowns :math:`h_+, h_-, b, C`: the score is set to
    ``y`` in each.

    Shapes: reader (d,).
    """
    (first, deviation), *more = mixture.deviations[1:]
    if mixture.deviations[0] != (0.0, 0.0) or first != deviation or more:
        raise ValueError(f"needs the deviations (0, 0) and (Δ, Δ), got {mixture.deviations}")
    relevant = mixture.relevant_tokens
    rows, sides = [], []
    for y in (1.0, -1.0):
        logit = float(reader @ (mixture.context + y * mixture.signal))
        for size in (0.0, deviation):
            irrelevant = (mixture.tokens - relevant) * math.exp(-size * logit)
            total = relevant * math.exp(logit) + irrelevant
            signal = relevant * math.exp(logit) - size * irrelevant
            rows.append([signal * (y > 0), signal * (y < 0), total, 1.0])
            sides.append(y)
    system = torch.tensor(rows, dtype=torch.float64)
    if float(torch.linalg.cond(system)) > 1e12:
        raise ValueError("the reader tells the labels apart by too little for a prefix to help")
    plus, minus, intercept, constant = torch.linalg.solve(system, torch.tensor(sides).double())
    even, odd = (part / (part @ part) for part in (mixture.context_only, mixture.signal_only))
    head = (plus + minus) / 2 * even + (plus - minus) / 2 * odd  # <head, a_y> = h_y
    key = math.log(mixture.tokens) * reader / (reader @ reader)
    value = (constant / mixture.tokens - intercept) * head / (head @ head)
    return LeakingPrefix(head, float(intercept), key, value)


def own_row(tokens: Tensor, query: Tensor, own_logit: float, own_value: Tensor) -> Tensor:
    r"""The row of a vector that stands behind a bag, or sees it without a mask.

    .. math:: (1-\gamma)\, X^\top\phi(Xq) + \gamma\, \bar v, \qquad
              \gamma = \frac{e^{\ell}}{e^{\ell} + \sum_t e^{\langle q, x_t\rangle}}

    Shapes: tokens (..., T, d), query (d,), own_value (d,) -> (..., d).
    """
    logits = tokens @ query
    log_content = torch.logsumexp(logits, dim=-1, keepdim=True)
    gamma = torch.sigmoid(own_logit - log_content)
    read = (torch.softmax(logits, dim=-1)[..., None] * tokens).sum(dim=-2)
    return (1 - gamma) * read + gamma * own_value


def opposed_pair(mixture: ContextualMixture, scale: float, value: float) -> tuple[Tensor, Tensor]:
    r"""Two prefix vectors with keys :math:`\lambda(\hat q \pm \frac12\hat w)` and opposed values.

    :math:`\hat q = q_\perp/\lVert q_\perp\rVert^2` and :math:`\hat w` alike, so that the token
    :math:`v a_y` gives them the logits :math:`\lambda v (1 \pm \frac y2)`.

    Shape (2, d).
    """
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    context, signal = mixture.context_only, mixture.signal_only
    sides = torch.tensor([[1.0], [-1.0]], dtype=mixture.dtype)
    keys = scale * (context / (context @ context) + sides * signal / (2 * signal @ signal))
    return keys, value * sides * signal


def averaged_rows(
    tokens: Tensor, u: Tensor, A: Tensor, prefix_keys: Tensor, prefix_values: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Self-attention with a prefix in front, its content rows averaged.

    The queries are the tokens and the keys :math:`A x_s`, so the content logits are
    :math:`x_t^\top A x_s` and those of the prefix :math:`x_t^\top \bar k_m`.

    Shapes: tokens (..., T, d), u (d,), A (d, d), prefix_keys, prefix_values (p, d) -> (...).
    """
    outputs, attention = attend(
        tokens, tokens @ A.mT, tokens, prefix_keys, prefix_values, scale=1.0
    )
    return (outputs @ u).mean(dim=-1), attention


def _log_sums(mixture: ContextualMixture, c: float, deviation: float) -> tuple[Tensor, Tensor]:
    """log Z of a relevant and of an irrelevant query on an aligned bag, without a prefix."""
    relevant = math.log(mixture.relevant_tokens)
    others = math.log(mixture.tokens - mixture.relevant_tokens)
    terms = [[relevant + c, others - deviation * c]]
    terms.append([relevant - deviation * c, others + deviation**2 * c])
    first, second = torch.logsumexp(torch.tensor(terms, dtype=torch.float64), dim=1)
    return first, second


def _both_labels(mixture: ContextualMixture, A: Tensor) -> list[float]:
    tokens = (mixture.context + mixture.signal, mixture.context - mixture.signal)
    return [float(a @ A @ a) for a in tokens]


def _aligned_size(mixture: ContextualMixture) -> float:
    if len(mixture.deviations) != 2 or mixture.deviations[0] != (0.0, 0.0):
        raise ValueError(f"needs the deviations (0, 0) and (Δ, Δ), got {mixture.deviations}")
    first, second = mixture.deviations[1]
    if first != second or first == 0:
        raise ValueError(f"needs the deviations (0, 0) and (Δ, Δ), got {mixture.deviations}")
    return first


def pair_scale(mixture: ContextualMixture, A: Tensor) -> float:
    r"""A scale :math:`\lambda` of the opposed pair with which the value :math:`4\Delta/\zeta` does.

    .. math:: \lambda = \max_y \max\Bigl\{\log 6,\; \tfrac23\log 2Z_1,\;
              \tfrac2\Delta \log\frac{4}{D\, Z_{-\Delta}}\Bigr\}

    with the sums :math:`Z_1, Z_{-\Delta}` of a relevant and an irrelevant query over the content.

    Shapes: A (d, d).
    """
    deviation = _aligned_size(mixture)
    log_odds = math.log(mixture.sparsity / (1 - mixture.sparsity))
    candidates = [math.log(6.0)]
    for c in _both_labels(mixture, A):
        relevant, other = (float(part) for part in _log_sums(mixture, c, deviation))
        candidates.append(2 / 3 * (math.log(2) + relevant))
        candidates.append(2 / deviation * (math.log(4) - log_odds - other))
    return max(candidates)


def least_pair_value(mixture: ContextualMixture, A: Tensor, scale: float) -> float:
    r"""The value ``V`` that the opposed pair must exceed, for head :math:`w_\perp`, exactly.

    At (Δ, Δ) the score of label ``y`` has the sign of :math:`y(H + VG)`, where ``H`` is the faded
    content and ``G`` the signed share of the pair; :math:`V_0 = \max_y(-H/G)`. At (0, 0) every
    ``V`` >= 0 is right.
    """
    deviation, share = _aligned_size(mixture), mixture.sparsity
    log_odds = math.log(share / (1 - share))
    least = -math.inf
    for c in _both_labels(mixture, A):
        content = pair = 0.0
        sums = _log_sums(mixture, c, deviation)
        for weight, v, log_sum in zip((share, 1 - share), (1.0, -deviation), sums, strict=True):
            logits = torch.stack((log_sum, *torch.tensor([1.5, 0.5]).double() * scale * v))
            kept, larger, smaller = torch.softmax(logits, dim=0).tolist()
            mass = 1 / (1 + math.exp(min(-(log_odds + c * v * (1 + deviation)), 700.0)))
            content += weight * kept * (mass - deviation * (1 - mass))
            pair += weight * (larger - smaller)
        if not pair > 0:
            raise ValueError(f"scale {scale} is too small: the pair's share has the wrong sign")
        least = max(least, -content / pair)
    return least


def search_in_front(
    mixture: ContextualMixture,
    fractions: Sequence[float],
    length: int,
    *,
    restarts: int,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    r"""The best accuracy that gradient descent finds with a prefix in front of a blind reader.

    Prefix keys and values, head and intercept move together, from random starts of sizes over two
    decades, up a smooth count of the right cases. Each step is scored exactly.

    Shape (len(fractions),).
    """
    count = len(mixture.deviations)
    labels = torch.tensor([1.0, -1.0], dtype=mixture.dtype).repeat_interleave(count)
    relevant = torch.arange(mixture.tokens) < mixture.relevant_tokens
    bags = mixture.compose(
        labels, relevant.expand(2 * count, -1), mixture.deviation_table.repeat(2, 1)
    )  # (C, T, d)
    context = mixture.context_only
    logits = torch.tensor(fractions, dtype=mixture.dtype) * needed_logit(mixture)
    readers = logits[:, None, None, None, None] * context / (context @ context)  # (F, 1, 1, 1, d)

    def start(*shape: int) -> Tensor:
        shape = (len(fractions), restarts, *shape)
        size = 10 ** (2 * torch.rand(shape[:2], generator=generator, dtype=mixture.dtype) - 1)
        drawn = torch.randn(shape, generator=generator, dtype=mixture.dtype)
        return (size.reshape(*shape[:2], *(1,) * (len(shape) - 2)) * drawn).requires_grad_()

    keys, values = start(1, length, mixture.dim), start(1, length, mixture.dim)
    head, intercept = start(mixture.dim), start(1)
    sharpness = 10 ** (5 * torch.rand(restarts, 1, generator=generator, dtype=mixture.dtype))
    optimiser = torch.optim.Adam((keys, values, head, intercept), lr=0.05)
    best = torch.zeros(len(fractions), dtype=mixture.dtype)
    for _ in range(steps):
        outputs, _ = attend(readers, bags, bags, keys, values, scale=1.0)  # (F, R, C, 1, d)
        scores = (outputs[..., 0, :] @ head[..., None])[..., 0] + intercept  # (F, R, C)
        size = scores.detach().abs().amax(dim=-1, keepdim=True).clamp_min(1e-300)
        margins = labels * scores / size
        best = torch.maximum(best, (margins > 1e-9).double().mean(-1).amax(dim=1))
        optimiser.zero_grad()
        (-torch.tanh(sharpness * margins).sum()).backward()
        optimiser.step()
    return best


check_public(__name__)

r"""Which equalities does the theorem on one attention layer state, and how far off is attention?

Result B2 of the book (the claim of Petrov et al. 2024): with :math:`A` the attention without and
:math:`A'` the attention with a prefix, :math:`\alpha_i = \sum_m A'_{im}` over the prefix positions
:math:`m`, and :math:`t, t'` the outputs,

.. math::

    A'_{ij} = (1 - \alpha_i) A_{ij}, \qquad
    t'_i = (1 - \alpha_i) t_i + \sum_m A'_{im} \bar v_m .

Each function measures one equality, with one error for each row (head and query), on a layer of
`random_cases`. Attention is an argument, so that a test can hand in a wrong one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.prefix_tuning.cases import PREFIX_KINDS, AttentionCase, random_case
from promptlib.prefix_tuning.identities import NEGLIGIBLE, AttendFunction, bias_errors, split
from promptlib.prefix_tuning.reach import keys_that_take, log_normalisers

LOGIT_SCALES = (0.01, 1.0, 20.0, 500.0)
"""Standard deviations of the attention logits: from uniform attention to a hard maximum."""

ROUNDING = 1e-13
"""Biases below, relative to the largest value, hold no digits."""


def random_cases(generator: torch.Generator, n_each: int) -> Iterator[AttentionCase]:
    """`n_each` layers of every variant: heads, mask, kind and length of prefix, logit scale.

    Sizes are drawn anew for every layer. With ``n_each = 1`` there are 144 layers.
    """
    if n_each < 1:
        raise ValueError(f"n_each must be at least 1, got {n_each}")

    def size(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    variants = itertools.product((1, 3), (False, True), PREFIX_KINDS, (1, 2, 7), LOGIT_SCALES)
    for n_head, causal, prefix_kind, prefix_length, logit_scale in variants:
        for _ in range(n_each):
            yield random_case(
                generator,
                n_head=n_head,
                n_tokens=size(2, 24),
                head_width=size(2, 16),
                prefix_length=prefix_length,
                causal=causal,
                prefix_kind=prefix_kind,
                logit_scale=logit_scale,
            )


def rescaling_errors(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""Largest :math:`|A'_{ij} - (1-\alpha_i) A_{ij}|` of every row."""
    _, plain, _, prefixed = _both(case, attend)
    taken, _, to_content = split(prefixed, case.prefix_length)
    return (to_content - (1 - taken)[..., None] * plain).abs().amax(-1).flatten()


def ratio_errors(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""Largest relative error of the relative attention, of every row that has digits.

    That is :math:`|r_{ij} / A_{ij} - 1|` with :math:`r_{ij} = A'_{ij} / \sum_l A'_{il}` over
    content positions. Weights below :data:`NEGLIGIBLE` are left out, and so are rows in which the
    prefix leaves less than that to the content.
    """
    _, plain, _, prefixed = _both(case, attend)
    _, _, to_content = split(prefixed, case.prefix_length)
    left = to_content.sum(-1)
    has_digits = (plain > NEGLIGIBLE) & (left[..., None] * plain > NEGLIGIBLE)
    errors = (to_content / (left[..., None] * plain) - 1).abs()
    errors = torch.where(has_digits, errors, 0.0).amax(-1)
    return errors[has_digits.any(-1)]


def output_errors(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""Error of :math:`t'_i = (1-\alpha_i) t_i + \sum_m A'_{im} \bar v_m` in every row.

    The largest coordinate, relative to the largest value that the layer reads.
    """
    outputs, _, prefixed_outputs, prefixed = _both(case, attend)
    errors = bias_errors(outputs, prefixed_outputs, prefixed, case.prefix_values)
    return errors.flatten() / _largest_value(case)


def hull_distances(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""How far the bias of every row lies outside the hull of the prefix values.

    The bias :math:`t'_i - (1-\alpha_i) t_i` must be :math:`\sum_m c_m \bar v_m` with
    :math:`c_m \ge 0` and :math:`\sum_m c_m = \alpha_i`. The best such :math:`c` is found by
    non-negative least squares from outputs alone; the attention over single prefix positions is not
    consulted. The distance is relative to the largest value that the layer reads.
    """
    outputs, _, prefixed_outputs, prefixed = _both(case, attend)
    taken, _, _ = split(prefixed, case.prefix_length)
    bias = prefixed_outputs - (1 - taken)[..., None] * outputs
    largest = _largest_value(case)
    ones = torch.ones(1, case.prefix_length, dtype=bias.dtype)
    distances = []
    for head_bias, head_taken, head_values in zip(bias, taken, case.prefix_values, strict=True):
        corners = torch.cat((head_values.mT / largest, ones)).numpy()  # (d_k + 1, p)
        for row, share in zip(head_bias / largest, head_taken, strict=True):
            target = np.append(row.numpy(), share)
            distance = np.linalg.norm(target)  # that of c = 0
            if distance > ROUNDING:  # the solver cycles on targets that are rounding alone
                distance = nnls(corners, target, maxiter=100 * case.prefix_length)[1]
            distances.append(distance)
    return torch.tensor(distances, dtype=torch.float64)


def statistics_errors(
    case: AttentionCase, generator: torch.Generator, attend: AttendFunction = library_attend
) -> Tensor:
    r"""Difference of outputs on two contents that agree in :math:`t_i` and :math:`\log Z_i`.

    For every query of the layer a second content is drawn, then its keys are shifted along the
    query until the log normaliser agrees and its values until the output without prefix agrees.
    With the same prefix the two outputs must then be one.
    """
    scale = case.queries.shape[-1] ** -0.5
    n_head, n_tokens, width = case.queries.shape
    queries = case.queries.reshape(n_head, n_tokens, 1, width)  # each query on its own
    first_keys, first_values = case.keys[:, None], case.values[:, None]  # (H, 1, n, d_k)
    prefix = case.prefix_keys[:, None], case.prefix_values[:, None]

    def draw() -> Tensor:
        shape = (n_head, n_tokens, n_tokens + 3, width)
        return torch.randn(shape, generator=generator, dtype=queries.dtype)

    def log_normaliser(keys: Tensor) -> Tensor:  # (H, n, 1, 1)
        return (scale * queries @ keys.mT).logsumexp(-1, keepdim=True)

    second_keys, second_values = draw() * case.keys.square().mean().sqrt(), draw()
    gap = log_normaliser(first_keys) - log_normaliser(second_keys)
    second_keys = second_keys + gap * queries / (scale * queries.square().sum(-1, keepdim=True))
    first_output, _ = attend(queries, first_keys, first_values)
    second_output, _ = attend(queries, second_keys, second_values)
    second_values = second_values + (first_output - second_output)

    first, _ = attend(queries, first_keys, first_values, *prefix)
    second, _ = attend(queries, second_keys, second_values, *prefix)
    largest = torch.maximum(_largest_value(case), second_values.abs().max())
    return (first - second).abs().amax(-1).flatten() / largest


def _both(case: AttentionCase, attend: AttendFunction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs and attention without the prefix, then with it."""
    content = case.queries, case.keys, case.values
    outputs, attention = attend(*content, causal=case.causal)
    prefixed_outputs, prefixed = attend(
        *content, case.prefix_keys, case.prefix_values, causal=case.causal
    )
    return outputs, attention, prefixed_outputs, prefixed


def _largest_value(case: AttentionCase) -> Tensor:
    return torch.maximum(case.values.abs().max(), case.prefix_values.abs().max())


def attainment_errors(
    queries: Tensor,
    keys: Tensor,
    attention: Tensor,
    causal: bool = False,
    attend: AttendFunction = library_attend,
) -> Tensor:
    """Prescribe the attention on a prefix, build its keys, attend, and compare."""
    prefix_keys = keys_that_take(queries, log_normalisers(queries, keys, causal), attention)
    _, received = attend(queries, keys, keys, prefix_keys, prefix_keys, causal=causal)
    return (received[:, : attention.shape[-1]] - attention).abs().amax(-1)


def unreachable_errors(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    r"""Part of :math:`\operatorname{logit}\alpha + \log Z` outside the queries' column space.

    It must vanish for one prefix vector, whatever it is. With ``n <= d_k`` generic queries there is
    no outside and the check says nothing, so the case must have more tokens than head width.
    """
    _, n_tokens, width = case.queries.shape
    if case.prefix_length != 1 or n_tokens <= width:
        raise ValueError(
            f"needs one prefix vector and more tokens than head width; got {case.prefix_length} "
            f"vectors, {n_tokens} tokens, width {width}"
        )
    content = case.queries, case.keys, case.values
    _, attention = attend(*content, case.prefix_keys, case.prefix_values, causal=case.causal)
    taken, _, to_content = split(attention, 1)
    wanted = taken.log() - to_content.sum(-1).log()  # logit, with digits also close to one
    wanted = wanted + log_normalisers(case.queries, case.keys, case.causal)
    basis, _ = torch.linalg.qr(case.queries)  # (H, n, d_k)
    outside = wanted - (basis @ (basis.mT @ wanted[..., None]))[..., 0]
    return outside.norm(dim=-1) / wanted.norm(dim=-1)

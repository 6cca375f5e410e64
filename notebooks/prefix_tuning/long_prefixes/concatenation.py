r"""What do several prefixes do together, in one attention layer?

With the odds :math:`o_i = \alpha_i / (1 - \alpha_i) = \bar Z_i / Z_i` of the share and the point
:math:`\mu_i` that a prefix aims at, :math:`t'_i = (t_i + o_i \mu_i) / (1 + o_i)`. Three ways to
make one prefix of :math:`k` prefixes:

concatenate
    odds add, :math:`o_i = \sum_r o_i^r`, and
    :math:`t'_i = (t_i + \sum_r o_i^r \mu_i^r) / (1 + \sum_r o_i^r)`. The outputs that the parts
    give alone determine it:

    .. math:: t'_i = \frac{\sum_r (1 + o_i^r)\, t_i'^r - (k-1)\, t_i}{1 + \sum_r o_i^r}.
repeat
    :math:`k` copies of one vector are one vector whose logit is larger by :math:`\log k`.
average (of single vectors)
    logits and values average, so the odds become the geometric mean. By the inequality of the means
    the concatenation has at least :math:`k` times these odds.

Shapes are those of :func:`promptlib.attention.attend`; parts are lists of prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.cases import AttentionCase
from promptlib.prefix_tuning.identities import AttendFunction, split

Part = tuple[Tensor, Tensor]
"""Keys and values of one prefix."""


def parts_of(case: AttentionCase, lengths: Sequence[int]) -> list[Part]:
    """Cut the prefix of a layer into prefixes of the given lengths."""
    if sum(lengths) != case.prefix_length or min(lengths) < 1:
        raise ValueError(
            f"lengths {list(lengths)} do not cut a prefix of length {case.prefix_length}"
        )
    keys = case.prefix_keys.split(list(lengths), dim=-2)
    values = case.prefix_values.split(list(lengths), dim=-2)
    return list(zip(keys, values, strict=True))


def concatenated(plain: Tensor, outputs: Sequence[Tensor], shares: Sequence[Tensor]) -> Tensor:
    """Output with all prefixes, from those with none and with each alone, and the shares of each.

    Outputs have shape (..., n, d), shares (..., n) and are below 1.
    """
    odds = [(share / (1 - share))[..., None] for share in shares]
    total = sum(
        ((1 + o) * output - plain for o, output in zip(odds, outputs, strict=True)), start=plain
    )
    return total / (1 + sum(odds))


Combine = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]


def concatenation_errors(
    case: AttentionCase,
    lengths: Sequence[int],
    attend: AttendFunction = library_attend,
    combine: Combine = concatenated,
) -> Tensor:
    """Error of `concatenated`, and of the odds, in every row that leaves the content something.

    The larger of that of the output, relative to the largest value, and of the share; (rows,).
    """
    plain, _ = attend(case.queries, case.keys, case.values, causal=case.causal)
    outputs, shares = [], []
    for keys, values in parts_of(case, lengths):
        output, attention = attend(
            case.queries, case.keys, case.values, keys, values, causal=case.causal
        )
        outputs.append(output)
        shares.append(split(attention, keys.shape[-2])[0])
    together, attention = attend(
        case.queries,
        case.keys,
        case.values,
        case.prefix_keys,
        case.prefix_values,
        causal=case.causal,
    )
    taken = split(attention, case.prefix_length)[0]
    # A share that rounds to one has lost its odds.
    usable = torch.stack(shares).amax(0) < 1 - 1e-4
    odds = sum((share / (1 - share) for share in shares), torch.zeros_like(taken))
    error = (together - combine(plain, outputs, shares)).abs().amax(-1)
    largest = torch.maximum(case.values.abs().max(), case.prefix_values.abs().max())
    return torch.maximum(error / largest, (taken - odds / (1 + odds)).abs())[usable]


def repetition_errors(
    case: AttentionCase,
    copies: int,
    attend: AttendFunction = library_attend,
    shift: Callable[[int], float] = math.log,
) -> Tensor:
    r"""Copies of a prefix against one whose logits are larger by :math:`\log` of their number.

    The larger of the differences of outputs, relative to the largest value, and of shares; (rows,).
    A coordinate appended to queries and keys adds the same number to all logits of the prefix.
    """
    keys, values = (
        tensor.repeat_interleave(copies, dim=-2)
        for tensor in (case.prefix_keys, case.prefix_values)
    )
    copied, attention = attend(
        case.queries, case.keys, case.values, keys, values, causal=case.causal
    )
    width = case.queries.shape[-1]
    stretch = ((width + 1) / width) ** 0.5  # attention divides by the root of the new width
    raised = stretch * shift(copies) * width**0.5

    def append(tensor: Tensor, number: float) -> Tensor:
        return torch.cat((tensor, torch.full_like(tensor[..., :1], number)), dim=-1)

    one, single = attend(
        append(stretch * case.queries, 1.0),
        append(case.keys, 0.0),
        case.values,
        append(case.prefix_keys, raised),
        case.prefix_values,
        causal=case.causal,
    )
    taken = split(attention, keys.shape[-2])[0]
    error = (taken - split(single, case.prefix_length)[0]).abs()
    largest = torch.maximum(case.values.abs().max(), case.prefix_values.abs().max())
    return torch.maximum((copied - one).abs().amax(-1) / largest, error).flatten()


def geometric_mean(odds: Tensor) -> Tensor:
    """Geometric mean of positive numbers over the last dimension."""
    return odds.log().mean(-1).exp()


def average_errors(
    case: AttentionCase,
    attend: AttendFunction = library_attend,
    mean: Callable[[Tensor], Tensor] = geometric_mean,
) -> tuple[Tensor, Tensor]:
    """The mean of single vectors against the vectors one after another, both (rows,).

    Relative errors of the odds of the averaged vector against the `mean` of the single odds, and
    odds of the concatenation, divided by the number of vectors times the averaged odds.
    """

    def log_odds(keys: Tensor) -> Tensor:
        _, attention = attend(case.queries, case.keys, case.values, keys, keys, causal=case.causal)
        taken, _, to_content = split(attention, keys.shape[-2])
        return taken.log() - to_content.sum(-1).log()

    single = torch.stack(
        [log_odds(case.prefix_keys[..., [m], :]) for m in range(case.prefix_length)], dim=-1
    )
    together = log_odds(case.prefix_keys)
    averaged = log_odds(case.prefix_keys.mean(-2, keepdim=True))
    # Rows in which a weight has underflowed say nothing.
    usable = single.isfinite().all(-1) & together.isfinite() & averaged.isfinite()
    usable &= (single.abs().amax(-1) < 200) & (averaged.abs() < 200)
    errors = (averaged - mean(single.exp()).log()).abs()[usable]
    gains = (together - averaged)[usable].exp() / case.prefix_length
    return errors, gains


check_public(__name__)

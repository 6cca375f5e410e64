r"""Can one prefix vector below turn the attention of the second layer round, for every content?

Yes, if the weights hold both directions. Two explicit transformers in which the prefix only sets a
switch. Their stream has four coordinates:

====  =====================================================================
0     the digit of a content token, 0 to ``D - 1``; 0 elsewhere
1     what an asking token wants: +1 the largest digit, -1 the smallest
2     1 at asking tokens, so that nobody attends to them
3     the switch, 0 in every token
====  =====================================================================

First layer: one head with zero queries and zero values. It attends uniformly and writes nothing. A
prefix vector therefore takes the share :math:`1/(1 + n)` of each of ``n`` positions, and its value
:math:`(1 + n_{\max})\,e_3` sets coordinate 3 to :math:`s = (1 + n_{\max})/(1 + n) \ge 1`.

Second layer: keys say the digit, queries say :math:`\beta u` with the inverse temperature
:math:`\beta`, so the logit of a digit :math:`d` is :math:`\beta u d`. Digits are whole numbers, so
with :math:`|u| \ge 1` all but :math:`(n-1) e^{-\beta}` of the attention goes to the largest digits
(:math:`u > 0`) or to the smallest (:math:`u < 0`).

``reverse``
    :math:`u = 1 - 2s`: the query is linear in the stream. One asking token, which wants the largest
    digit; with the prefix it gets the smallest.
``exchange``
    Two asking tokens that want opposite things; with the prefix each gets what the other wanted.
    What is needed is the exclusive or of want :math:`w` and switch, which no linear query
    computes. An MLP with two ReLU units between the layers does:
    :math:`u = w - 2(w + s - 1)_+ + 2(-w + s - 1)_+`. For :math:`s = 0` both units are silent and
    :math:`u = w`. For :math:`w = 1` it is :math:`u = 1 - 2s \le -1` up to :math:`s = 2` and
    :math:`-3` beyond, and :math:`u(-w) = -u(w)`. At content, :math:`w = 0` and the units cancel.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction

__all__ = ["all_contents", "leaks", "second_attention"]

Kind = Literal["reverse", "exchange"]
KINDS: tuple[Kind, ...] = ("reverse", "exchange")

DIGIT, WANT, ASKING, SWITCH = range(4)
MOST_TOKENS = 12
"""Longest input, asking tokens included, for which the prefix is made."""


def all_contents(digits: int, length: int) -> Tensor:
    """Every content of that length, shape (digits ** length, length)."""
    if digits < 1 or not 1 <= length <= MOST_TOKENS - 2:
        raise ValueError(
            f"expected digits >= 1 and length from 1 to {MOST_TOKENS - 2}, got {digits}, {length}"
        )
    return torch.tensor(list(itertools.product(range(digits), repeat=length)))


def second_attention(
    contents: Tensor,
    kind: Kind,
    prefixed: bool,
    beta: float,
    attend: AttendFunction = library_attend,
) -> Tensor:
    """Attention of the asking tokens over the content, in the second layer.

    Of contents (B, n) it has the shape (B, 1, n) for ``"reverse"`` and (B, 2, n) for
    ``"exchange"``; `beta` is the inverse temperature.
    """
    if not beta > 0:
        raise ValueError(f"the inverse temperature must be > 0, got {beta}")
    stream = _tokens(contents, kind)
    nothing = torch.zeros_like(stream)
    prefix_value = torch.zeros(1, 4, dtype=stream.dtype)
    prefix_value[0, SWITCH] = 1 + MOST_TOKENS
    prefix = (nothing[0, :1], prefix_value) if prefixed else (None, None)
    read, _ = attend(nothing, stream, nothing, *prefix)
    stream = stream + read
    want = stream[..., WANT] if kind == "exchange" else torch.ones_like(stream[..., WANT])
    switch = stream[..., SWITCH]
    if kind == "exchange":
        turn = 2 * ((-want + switch - 1).relu() - (want + switch - 1).relu())
    else:
        turn = -2 * switch
    queries = beta * torch.stack((want + turn, torch.ones_like(want)), dim=-1) * 2**0.5
    far = -float(MOST_TOKENS + 8 * stream[..., DIGIT].max())
    keys = torch.stack((stream[..., DIGIT], far * stream[..., ASKING]), dim=-1)
    _, attention = attend(queries, keys, stream)
    count = contents.shape[1]
    return attention[:, count:, :count]


def leaks(
    contents: Tensor,
    kind: Kind,
    prefixed: bool,
    beta: float,
    attend: AttendFunction = library_attend,
) -> Tensor:
    """Attention that does not go where it should, shape (B * asking tokens,).

    Without the prefix an asking token should attend to the digits that it wants; with it, to those
    at the other end.
    """
    attention = second_attention(contents, kind, prefixed, beta, attend)
    largest = contents == contents.amax(-1, keepdim=True)
    smallest = contents == contents.amin(-1, keepdim=True)
    wanted = [largest, smallest] if kind == "exchange" else [largest]
    if prefixed:
        wanted = [smallest, largest] if kind == "exchange" else [smallest]
    return (1 - (attention * torch.stack(wanted, dim=1)).sum(-1)).flatten()


def _tokens(contents: Tensor, kind: Kind) -> Tensor:
    asking = torch.tensor([[1.0], [-1.0]] if kind == "exchange" else [[1.0]], dtype=torch.float64)
    stream = torch.zeros(*contents.shape[:1], contents.shape[1] + len(asking), 4).double()
    stream[:, : contents.shape[1], DIGIT] = contents.double()
    stream[:, contents.shape[1] :, WANT] = asking[:, 0]
    stream[:, contents.shape[1] :, ASKING] = 1
    return stream


check_public(__name__)

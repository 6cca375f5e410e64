r"""What would have to change for a prefix to re-aim attention?

Each function draws a random layer, changes one assumption of the theorem (or the weights), and
measures how far the relative attention over content moves: the total variation distance between the
rows with and without the change, in [0, 1], one number for each row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.cannot_re_aim import kernels, positions
from promptlib.attention import attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.cases import AttentionCase, random_case
from promptlib.prefix_tuning.identities import (
    AttendFunction,
    relative_attention,
    split,
    total_variation,
)

__all__ = ["BREAKERS", "movement", "movements"]

N_TOKENS, HEAD_WIDTH, PREFIX_LENGTH = 8, 12, 3
LOGIT_SCALE = 0.5
"""Small, so that sparsemax rows have more than one entry."""


def movement(case: AttentionCase, attend: AttendFunction = attend) -> Tensor:
    """Total variation between relative attention with and without the prefix, shape (rows,).

    Rows without a relative attention are left out: those whose content keeps nothing, and those of
    signed kernels whose weights nearly cancel.
    """
    content = case.queries, case.keys, case.values
    _, plain = attend(*content, causal=case.causal)
    _, prefixed = attend(*content, case.prefix_keys, case.prefix_values, causal=case.causal)
    _, _, to_content = split(prefixed, case.prefix_length)
    moved = total_variation(relative_attention(to_content), relative_attention(plain))
    defined = (to_content.sum(-1).abs() > 1e-9) & (plain.abs().sum(-1) < 100)
    return moved[defined]


def _with(function: AttendFunction) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: movement(_draw(generator), function)


def _draw(generator: torch.Generator) -> AttentionCase:
    return random_case(
        generator,
        n_tokens=N_TOKENS,
        head_width=HEAD_WIDTH,
        prefix_length=PREFIX_LENGTH,
        prefix_kind="independent key and value",
        logit_scale=LOGIT_SCALE,
    )


def _weights(generator: torch.Generator, number: int) -> list[Tensor]:
    def draw() -> Tensor:
        weight = torch.randn(HEAD_WIDTH, HEAD_WIDTH, generator=generator, dtype=torch.float64)
        return weight / HEAD_WIDTH**0.5

    return [draw() for _ in range(number)]


def _tokens(generator: torch.Generator, number: int = N_TOKENS) -> Tensor:
    return torch.randn(number, HEAD_WIDTH, generator=generator, dtype=torch.float64)


def _positions_shift(generator: torch.Generator) -> Tensor:
    """A soft prompt before the content, which moves the content's absolute positions."""
    query_weight, key_weight = _weights(generator, 2)
    content, prefix = _tokens(generator), _tokens(generator, PREFIX_LENGTH)
    positions = _tokens(generator, PREFIX_LENGTH + N_TOKENS)
    plain = content + positions[:N_TOKENS]
    moved = content + positions[PREFIX_LENGTH:]
    _, before = attend(plain @ query_weight, plain @ key_weight, plain)
    prefix = prefix + positions[:PREFIX_LENGTH]
    _, after = attend(moved @ query_weight, moved @ key_weight, moved, prefix @ key_weight, prefix)
    _, _, to_content = split(after, PREFIX_LENGTH)
    return total_variation(relative_attention(to_content), before)


def _moved_content(scheme_name: str, gap: int = 0) -> Callable[[torch.Generator], Tensor]:
    """Prefix vectors that take positions before the content, or in its middle, `gap` tokens in."""
    scheme = positions.RELATIVE[scheme_name]

    def draw(generator: torch.Generator) -> Tensor:
        case = _draw(generator)
        content = torch.arange(N_TOKENS)
        queries, keys = scheme(case.queries, case.keys, content, content)
        _, before = attend(queries, keys, case.values)
        moved = content + PREFIX_LENGTH * (content >= gap)
        taken = gap + torch.arange(PREFIX_LENGTH)
        _, after = positions.moved_attention(case, scheme, moved, taken)
        _, _, to_content = split(after, PREFIX_LENGTH)
        return total_variation(relative_attention(to_content), before).flatten()

    return draw


def _second_layer(generator: torch.Generator) -> Tensor:
    """Two layers with residual stream and LayerNorm; the second one's attention is compared."""
    first, second = _weights(generator, 4), _weights(generator, 2)
    content, prefix = _tokens(generator), _tokens(generator, PREFIX_LENGTH)

    def second_attention(prefixed: bool) -> Tensor:
        inside = F.layer_norm(content, (HEAD_WIDTH,))
        query, key, value, out = first
        own = (prefix @ key, prefix @ value) if prefixed else (None, None)
        read, _ = attend(inside @ query, inside @ key, inside @ value, *own)
        inside = F.layer_norm(content + read @ out, (HEAD_WIDTH,))
        return attend(inside @ second[0], inside @ second[1], inside)[1]

    # A prefix of the second layer would not change these rows: that is the theorem.
    return total_variation(second_attention(True), second_attention(False))


def _trained_weights(generator: torch.Generator) -> Tensor:
    """A rank-one change of the key projection, of the size of the projection's own columns."""
    query_weight, key_weight = _weights(generator, 2)
    content = _tokens(generator)
    left, right = _tokens(generator, 1)[0], _tokens(generator, 1)[0]
    change = torch.outer(left, right) / HEAD_WIDTH**0.5
    queries = content @ query_weight
    _, before = attend(queries, content @ key_weight, content)
    _, after = attend(queries, content @ (key_weight + change), content)
    return total_variation(before, after)


BREAKERS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "softmax": _with(attend),
    "linear attention, positive": _with(
        kernels.normalised(kernels.POSITIVE_KERNELS["linear attention, elu + 1 features"])
    ),
    "linear attention, signed": _with(kernels.signed_linear()),
    "sigmoid": _with(kernels.sigmoid()),
    "sparsemax": _with(kernels.sparsemax()),
    "rotary, positions shift": _moved_content("rotary"),
    "ALiBi, positions shift": _moved_content("ALiBi"),
    "absolute, positions shift": _positions_shift,
    "rotary, vectors in the middle": _moved_content("rotary", gap=N_TOKENS // 2),
    "second layer": _second_layer,
    "rank-one change of $W_K$": _trained_weights,
}
"""What is changed, and a function that draws an instance and measures it."""


def movements(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Movement of relative attention in `n` random instances of every entry of :data:`BREAKERS`."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return {name: torch.cat([draw(generator) for _ in range(n)]) for name, draw in BREAKERS.items()}


check_public(__name__)

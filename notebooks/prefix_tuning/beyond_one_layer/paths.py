"""By which path does a trained prefix move attention above it: by its bias, or by fading?"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import AttendFunction, total_variation
from promptlib.prefix_tuning.movement import EFFECTS, Effect, apart, relative_rows
from promptlib.prefix_tuning.prefix import Prefix


def by_path(model: GPT, tokens: Tensor, prefix: Prefix) -> dict[Effect, Tensor]:
    """`movement` with the prefix as it is, with its bias alone, and with its fading alone."""
    plain, _ = relative_rows(model, tokens)
    return {
        effect: apart(plain, relative_rows(model, tokens, prefix, effect=effect)[0])
        for effect in EFFECTS
    }


def from_whole(model: GPT, tokens: Tensor, prefix: Prefix) -> dict[Effect, Tensor]:
    """How far the bias alone, and the fading alone, end from where the whole prefix ends.

    Two movements of one length may go different ways; this tells them apart. Total variation,
    shape (L, H) each.
    """
    whole, _ = relative_rows(model, tokens, prefix)
    alone: tuple[Effect, Effect] = ("bias", "fade")
    return {
        effect: apart(whole, relative_rows(model, tokens, prefix, effect=effect)[0])
        for effect in alone
    }


def own_layer_errors(
    model: GPT, tokens: Tensor, prefix: Prefix, attend: AttendFunction = library_attend
) -> Tensor:
    """How far the relative attention of a layer moves when only its own prefix is taken away.

    By the theorem about one layer: not at all, in every layer. Total variation, shape (L, B, H, T).
    """
    full, _ = relative_rows(model, tokens, prefix, attend=attend)
    errors = []
    for index in range(len(full)):
        without, _ = relative_rows(model, tokens, prefix, absent=[index], attend=attend)
        errors.append(total_variation(full[index], without[index]))
    return torch.stack(errors)

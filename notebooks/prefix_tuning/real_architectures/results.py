r"""Do the layers of a real architecture obey the theorems, with a prefix and without?

Two comparisons. *Every layer with itself*: the model runs with its prefix, and each attention layer
is then called again on the same input without. *The first layer with that of the plain model*: its
content does not depend on the prefix, if it stands at the same positions (or, with rotary
positions, at positions that have the same differences).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.real_architectures import architectures
from notebooks.prefix_tuning.real_architectures.recording import (
    LayerCall,
    PastKeyValues,
    record,
    without_prefix,
)
from promptlib.prefix_tuning.identities import (
    bias_errors,
    relative_attention,
    row_errors,
    split,
    total_variation,
)

N_SEQUENCES, N_TOKENS, LENGTH = 3, 11, 7
SCALES = (0.3, 3.0)
"""Standard deviations of hand-made keys and values."""

Runs = Sequence[tuple[Sequence[LayerCall], int]]
"""Calls of a run with a prefix, and the prefix's length."""
Removal = Callable[[LayerCall, int], LayerCall]
"""Gives the call of the same layer on the same input without its prefix."""


@dataclass(frozen=True)
class Comparison:
    """One model with one prefix, by layer.

    Without it the content stands at the same positions (``plain``), or at 0, 1, … (``unmoved``).
    For `peft`, ``logits_gap`` is the largest difference of the model's logits to those that the
    same keys and values in a cache filled by hand give.
    """

    model: str
    prefix: str
    length: int
    prefixed: list[LayerCall]
    plain: list[LayerCall]
    unmoved: list[LayerCall]
    logits_gap: float | None = None


def tokens_of(model: nn.Module, generator: torch.Generator) -> Tensor:
    """Random token ids for a model, shape (3, 11)."""
    config: Any = model.config
    return torch.randint(0, config.vocab_size, (N_SEQUENCES, N_TOKENS), generator=generator)


def compare(name: str, model: nn.Module, generator: torch.Generator) -> list[Comparison]:
    """Run a GPT-2 or LLaMA with caches filled by hand and, last, with `peft`."""
    ids = tokens_of(model, generator)

    def by_hand(past: PastKeyValues, position: int) -> Tensor:
        cache = architectures.cache_of(model, past, N_SEQUENCES)
        return model(ids, past_key_values=cache, position_ids=_positions(position)).logits

    def without(position: int) -> list[LayerCall]:
        run = partial(model, ids, position_ids=_positions(position), use_cache=False)
        return record(model, run)

    found = []
    unmoved = without(0)
    for scale in SCALES:
        past = architectures.random_past(model, LENGTH, generator, scale)
        calls = record(model, partial(by_hand, past, 0))
        label = f"cache, entries of size {scale:g}"
        found.append(Comparison(name, label, LENGTH, calls, unmoved, unmoved))
    tuned = architectures.with_peft(model, LENGTH, generator)
    attended = torch.ones_like(ids)  # what users of peft pass on; it adds its own ones in front
    calls = record(model, partial(tuned, ids, attention_mask=attended))
    with torch.no_grad():
        logits = tuned(ids, attention_mask=attended).logits
        gap = (logits - by_hand(architectures.past_of_peft(tuned), LENGTH)).abs().max()
    found.append(Comparison(name, "peft", LENGTH, calls, without(LENGTH), unmoved, float(gap)))
    return found


def layer_errors(runs: Runs, remove: Removal = without_prefix) -> dict[str, Tensor]:
    """Errors of both theorems in every layer of every run, by claim."""
    return {
        "relative attention": torch.cat([relative_errors(*run, remove) for run in runs]),
        "output bias": torch.cat([output_errors(*run, remove) for run in runs]),
    }


def model_errors(
    comparisons: Sequence[Comparison], remove: Removal = without_prefix
) -> dict[str, Any]:
    """Errors of whole models beside those of their layers, by claim."""
    return {
        **layer_errors([(one.prefixed, one.length) for one in comparisons], remove),
        "first layer": first_layer_errors(comparisons),
        "peft": [one.logits_gap for one in comparisons if one.logits_gap is not None],
    }


def relative_errors(
    calls: Sequence[LayerCall], length: int, remove: Removal = without_prefix
) -> Tensor:
    r"""Errors of :math:`A'_{ij} = (1-\alpha_i)A_{ij}` in every row of every head of every layer.

    The larger of absolute error and relative error of the relative attention.
    """
    errors = [
        row_errors(remove(call, length).attention, call.attention, length).flatten()
        for call in calls
    ]
    return torch.cat(errors)


def output_errors(
    calls: Sequence[LayerCall], length: int, remove: Removal = without_prefix
) -> Tensor:
    r"""Errors of :math:`t'_i = (1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m`, relative to values."""
    errors = []
    for call in calls:
        plain = remove(call, length)
        values = call.values[..., :length, :]
        found = bias_errors(plain.outputs, call.outputs, call.attention, values)
        errors.append(found.flatten() / call.values.abs().max())
    return torch.cat(errors)


def first_layer_errors(comparisons: Sequence[Comparison]) -> Tensor:
    r"""Errors of :math:`A'_i = (1-\alpha_i)A_i` between the first layers of two whole models.

    One has the prefix and one has not; the content stands at the same positions.
    """
    return torch.cat(
        [
            row_errors(one.plain[0].attention, one.prefixed[0].attention, one.length).flatten()
            for one in comparisons
        ]
    )


def movement(plain: LayerCall, prefixed: LayerCall, length: int) -> Tensor:
    """How far relative attention over content moves between two calls of a layer: (B, H, T).

    Total variation distance between the rows, in [0, 1].
    """
    _, _, to_content = split(prefixed.attention, length)
    return total_variation(relative_attention(to_content), plain.attention)


def movement_by_layer(
    plain: Sequence[LayerCall], prefixed: Sequence[LayerCall], length: int
) -> list[float]:
    """The mean movement in each layer of two whole models."""
    pairs = zip(plain, prefixed, strict=True)
    return [float(movement(*pair, length).mean()) for pair in pairs]


def shift_movement(comparison: Comparison) -> Tensor:
    """How far the first layer's relative attention is from that at positions 0, 1, …; (B, H, T)."""
    return movement(comparison.unmoved[0], comparison.prefixed[0], comparison.length)


def shares(calls: Sequence[LayerCall], length: int) -> Tensor:
    r"""The shares :math:`\alpha_i` of the prefix, shape (layers, B, H, T)."""
    return torch.stack([split(call.attention, length)[0] for call in calls])


def as_shipped_errors(model: nn.Module, generator: torch.Generator) -> float:
    r"""The worst error of :math:`A'_{ij} = (1-\alpha_i)A_{ij}` in the first layer, in float32.

    A model built as ``"eager"`` returns its attention: nothing of ours runs but the comparison.
    """
    model = model.float()
    ids = tokens_of(model, generator)
    past = architectures.random_past(model, LENGTH, generator)
    options: dict[str, Any] = {"output_attentions": True, "position_ids": _positions(0)}
    with torch.no_grad():
        plain = model(ids, use_cache=False, **options).attentions[0]
        cache = architectures.cache_of(model, past, N_SEQUENCES)
        prefixed = model(ids, past_key_values=cache, **options).attentions[0]
    taken = prefixed[..., :LENGTH].sum(-1, keepdim=True)
    return float((prefixed[..., LENGTH:] - (1 - taken) * plain).abs().max())


def _positions(start: int) -> Tensor:
    return start + torch.arange(N_TOKENS)[None]

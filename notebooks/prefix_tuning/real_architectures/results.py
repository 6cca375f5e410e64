"""With and without a prefix: what does the chapter run on each model?

For every model and every kind of prefix three runs: with the prefix; without it, the content at the
positions that it has with the prefix; and without it at positions 0, 1, …, where a model without
prefix would put it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.real_architectures import architectures, layer_checks
from notebooks.prefix_tuning.real_architectures.recording import LayerCall, PastKeyValues, record
from promptlib.prefix_tuning.identities import row_errors

__all__ = [
    "Comparison",
    "as_shipped_errors",
    "compare",
    "first_layer_errors",
    "shift_movement",
    "tokens_of",
]

N_SEQUENCES, N_TOKENS, LENGTH = 3, 11, 7
SCALES = (0.3, 3.0)
"""Standard deviations of hand-made keys and values."""


@dataclass(frozen=True)
class Comparison:
    """One model with one prefix.

    Attributes
    ----------
    model, prefix : str
        What they are, in words.
    length : int
        Of the prefix.
    prefixed : list of LayerCall
        The run with the prefix, one call for each layer.
    plain : list of LayerCall
        Without it, the content at the same positions.
    unmoved : list of LayerCall
        Without it, the content at positions 0, 1, ….
    logits_gap : float or None
        For `peft`: largest difference of the model's logits to those that the same keys and values
        in a cache filled by hand give.
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
    """Run a GPT-2 or LLaMA with caches filled by hand and with `peft`.

    Parameters
    ----------
    name : str
        Of the model, in words.
    model : nn.Module
        With ``attn_implementation`` `recording.NAME`.
    generator : torch.Generator
        Draws the tokens and the prefixes.
    """
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


def first_layer_errors(comparisons: Sequence[Comparison]) -> Tensor:
    r"""Errors of :math:`A'_i = (1-\alpha_i)A_i` between the first layers of two whole models.

    One model has the prefix and one has not; the content stands at the same positions.
    """
    return torch.cat(
        [
            row_errors(one.plain[0].attention, one.prefixed[0].attention, one.length).flatten()
            for one in comparisons
        ]
    )


def shift_movement(comparison: Comparison) -> Tensor:
    """How far the first layer's relative attention is from that at positions 0, 1, …; (B, H, T)."""
    return layer_checks.first_layer_movement(
        comparison.unmoved[0], comparison.prefixed[0], comparison.length
    )


def as_shipped_errors(model: nn.Module, generator: torch.Generator) -> float:
    """The worst error of the first layer's rows by the library's own attention, in float32.

    ``attn_implementation="eager"`` returns its attention, so nothing of ours runs but the
    comparison. The model must have been built with it.

    Returns
    -------
    float
        Largest absolute error of :math:`A'_{ij} = (1-\\alpha_i)A_{ij}`.
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

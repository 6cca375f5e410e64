r"""What does a prefix, a soft prompt or a LoRA do inside the model that it was trained for?

Five numbers for each layer and head, measured on a few inputs: the share :math:`\alpha_i` of the
attention that it takes, how far relative attention over the content moves, how many of its vectors
are in use, how many directions its bias :math:`\sum_m A'_{im} \bar v_m` fills, and how much it
takes of what its LayerNorm allows. For the GPT of this book, and for decoders of `transformers`
that `peft` adapts. Neither library is imported; their models are asked for what they show.

Shapes: ``L`` layers, ``H`` heads of width ``d``, ``B`` sequences, ``m`` rows compared, ``n``
content positions, ``p`` vectors.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from promptlib.checks import check_public, whole_number
from promptlib.prefix_tuning.diagnosis.report import Diagnosis, Kind
from promptlib.prefix_tuning.geometry import effective_rank, number_in_use
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import relative_attention, split, total_variation
from promptlib.prefix_tuning.inside import in_float64, share_limits
from promptlib.prefix_tuning.lora import LoRALinear, remove_lora
from promptlib.prefix_tuning.prefix import Prefix

__all__ = ["diagnose"]

PEFT_KINDS: dict[str, Kind] = {
    "PREFIX_TUNING": "free prefix",
    "PROMPT_TUNING": "soft prompt",
    "P_TUNING": "soft prompt",
    "LORA": "LoRA",
}


def diagnose(
    model: nn.Module,
    prefix: Prefix | None,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    last: int | None = None,
) -> Diagnosis:
    """Measure what a prefix, a soft prompt or a LoRA does in every layer and head.

    The model is run with and without it; a GPT in float64, a model of `peft` as it is. All
    attention is kept, so a few inputs are enough, and many of a large model are too many.

    Parameters
    ----------
    model : GPT or PeftModel
        A `PeftModel` wraps a decoder of `transformers` that attends with
        ``attn_implementation="eager"``; its active adapter is diagnosed.
    prefix : Prefix or None
        Of a `GPT`. None for a LoRA, which is in the model already, and for a `PeftModel`.
    inputs : Tensor of int64, shape (B, T), or mapping
        Tokens. Or, for a `PeftModel`, what a tokenizer returns: ``input_ids`` and
        ``attention_mask``; rows and columns of padding do not count.
    last : int, optional
        Compare the rows of this many last positions, those that write an answer, and no others.

    Returns
    -------
    Diagnosis

    Raises
    ------
    ValueError
        If the model is neither, or is training, or has nothing to diagnose, or does not show its
        attention, or the adapter is of a kind without a diagnosis, or `last` is not from 1 to T.

    Notes
    -----
    Cached and virtual tokens push the content to later positions. The model without them is run
    at the same positions, so what moves is not the work of position embeddings.

    Sources: :mod:`promptlib.prefix_tuning.identities` and :mod:`promptlib.prefix_tuning.reach`.
    """
    if isinstance(model, GPT):
        if not isinstance(inputs, Tensor):
            raise ValueError(f"inputs of a GPT must be a Tensor of tokens, got {_kind(inputs)}")
        model.check_tokens(inputs)
        layers, kind = _layers_of_gpt(model, prefix, inputs)
        visible, rounding = torch.ones(inputs.shape[:2], dtype=torch.bool), 1e-9
    elif hasattr(model, "disable_adapter") and hasattr(model, "active_peft_config"):
        if prefix is not None:
            raise ValueError("the adapter is in the PeftModel; pass None as its prefix")
        ids, mask = _ids_and_mask(inputs)
        layers, kind = _layers_of_peft(model, ids, mask)
        visible = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        # Architectures take softmax and rotary positions in float32, or in less.
        precision = torch.finfo(next(model.parameters()).dtype).eps
        rounding = 32 * max(precision, torch.finfo(torch.float32).eps)
    else:
        raise ValueError(
            f"model must be a GPT or a PeftModel, got {_kind(model)}; wrap a decoder of "
            "transformers with peft.get_peft_model"
        )
    n_tokens = visible.shape[1]
    if last is not None:
        whole_number("last", last, at_least=1, at_most=n_tokens)
    wanted = visible & (torch.arange(n_tokens) >= n_tokens - (last or n_tokens)).to(visible.device)
    if not bool(wanted.any()):
        raise ValueError(f"the last {last or n_tokens} positions of all inputs are padding")
    found = [_measured(layer, wanted) for layer in layers]
    arrays = {
        name: np.stack([one[name] for one in found]) if name in found[0] else None
        for name in ("shares", "vectors_used", "bias_rank", "reach")
    }
    length = 0 if layers[0].values is None else layers[0].values.shape[-2]
    return Diagnosis(kind, length, np.stack([one["moved"] for one in found]), rounding, **arrays)


class _Layer(NamedTuple):
    """What one layer showed."""

    plain: Tensor  # (B, H, T, n), without what is diagnosed
    changed: Tensor  # (B, H, T, p + n), with it, vectors first
    values: Tensor | None = None  # (H, p, d), of the vectors
    limits: Tensor | None = None  # (B, H, T), the most that a prefix of this length can take


def _measured(layer: _Layer, wanted: Tensor) -> dict[str, np.ndarray]:
    """The numbers of each head, from the rows (B, T) that are wanted."""

    def rows(tensor: Tensor) -> Tensor:  # (B, H, T, ...) -> (H, rows, ...)
        return tensor.transpose(1, 2)[wanted].transpose(0, 1).double()

    changed, found = rows(layer.changed), {}
    if layer.values is not None:
        taken, weights, changed = split(changed, layer.values.shape[-2])
        # A row that gives the vectors nothing has no weights among them; the least share counts.
        weights = weights.clamp_min(1e-300)
        biases = weights @ layer.values.double()
        size = biases.abs().amax((-1, -2), keepdim=True)
        empty = size[:, 0, 0] == 0
        rank = effective_rank(torch.where(size > 0, biases / size, 1.0))
        found = {
            "shares": taken.mean(-1),
            "vectors_used": number_in_use(weights),
            "bias_rank": rank.masked_fill(empty, 0.0),
        }
        if layer.limits is not None:
            found["reach"] = (taken / rows(layer.limits)).mean(-1)
    found["moved"] = total_variation(rows(layer.plain), relative_attention(changed)).nanmean(-1)
    return {name: value.cpu().numpy() for name, value in found.items()}


@torch.no_grad()
def _layers_of_gpt(model: GPT, prefix: Prefix | None, tokens: Tensor) -> tuple[list[_Layer], Kind]:
    tokens = tokens.double() if tokens.is_floating_point() else tokens
    base = in_float64(model)
    if prefix is None:
        if not any(isinstance(module, LoRALinear) for module in model.modules()):
            raise ValueError(
                "there is nothing to diagnose: pass a Prefix, or a model that add_lora corrected"
            )
        _, changed = base(tokens, return_attention=True)
        remove_lora(base)
        _, plain = base(tokens, return_attention=True)
        return [_Layer(*pair) for pair in zip(plain, changed, strict=True)], "LoRA"
    model.check_prefix(prefix)
    prefix = in_float64(prefix)
    remove_lora(base, merge=True)
    read: list[tuple[Tensor, ...]] = []  # queries, keys, values of the content; then the prefix
    _, plain = base(tokens, return_attention=True)
    for block in base.blocks:
        block.attention.register_forward_pre_hook(lambda _, seen: read.append(seen))
    _, changed = base(tokens, prefix, return_attention=True)
    normed = [isinstance(block.norm_attention, nn.LayerNorm) for block in base.blocks]
    bounded = prefix.layer_norm and any(normed)
    layers = []
    for index, (block, (queries, keys, _, shown)) in enumerate(zip(base.blocks, read, strict=True)):
        limits = None
        if bounded:
            limits = torch.ones_like(changed[index, ..., 0])  # without LayerNorm: anything
            if normed[index]:
                limits = share_limits(block, queries, keys, prefix.length)
        values = block.attention.heads(block.attention.value(shown[1]))
        layers.append(_Layer(plain[index], changed[index], values, limits))
    return layers, "prefix" if bounded else "free prefix"


@torch.no_grad()
def _layers_of_peft(model: Any, ids: Tensor, mask: Tensor | None) -> tuple[list[_Layer], Kind]:
    config, base = model.active_peft_config, model.get_base_model()
    name = getattr(config.peft_type, "value", str(config.peft_type))
    if name not in PEFT_KINDS:
        raise ValueError(f"the adapter must be one of {', '.join(PEFT_KINDS)}, got {name}")
    if base.config.is_encoder_decoder:
        raise ValueError(f"the model must be a decoder, got the encoder-decoder {_kind(base)}")
    if model.training:
        raise ValueError("the model is training, so dropout moves its attention; call .eval()")
    given = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
    seen = model(**given, output_attentions=True, use_cache=True)
    _check_attention(seen, base)
    n_tokens = ids.shape[1]
    length = 0 if PEFT_KINDS[name] == "LoRA" else config.num_virtual_tokens
    if length and "position_ids" in inspect.signature(base.forward).parameters:
        places = torch.arange(length, length + n_tokens, device=ids.device)
        given["position_ids"] = places.expand(ids.shape)
    with model.disable_adapter():
        plain = model(**given, output_attentions=True, use_cache=False).attentions
    layers = []
    for index, (without, attention) in enumerate(zip(plain, seen.attentions, strict=True)):
        values = None
        if length:  # the first places of the cache, one for each group of heads
            cached = seen.past_key_values.layers[index].values[0, :, :length]
            values = cached.repeat_interleave(attention.shape[1] // len(cached), 0)
        layers.append(_Layer(without, attention[..., -n_tokens:, :], values))
    return layers, PEFT_KINDS[name]


def _ids_and_mask(inputs: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    if not isinstance(inputs, Tensor):
        if "input_ids" not in inputs:
            raise ValueError(f"inputs must have input_ids, got {', '.join(inputs) or 'nothing'}")
        mask = inputs.get("attention_mask")
        return _ids_and_mask(inputs["input_ids"])[0], mask
    if inputs.ndim != 2 or inputs.is_floating_point():
        raise ValueError(
            f"inputs must be token ids of shape (B, T), got {inputs.dtype} {tuple(inputs.shape)}"
        )
    return inputs, None


def _check_attention(seen: Any, base: Any) -> None:
    shown = seen.attentions
    if not shown or any(attention is None for attention in shown):
        used = getattr(base.config, "_attn_implementation", None)
        raise ValueError(
            f"{_kind(base)} attends with {used!r} and shows no attention; load it with "
            'attn_implementation="eager", or call set_attn_implementation("eager")'
        )


def _kind(thing: object) -> str:
    return type(thing).__name__


check_public(__name__)

"""How do we look into an attention layer that somebody else wrote?

`transformers` lets a model name the function that turns queries, keys, values and a mask into
outputs. Ours, :data:`NAME`, calls torch's own ``scaled_dot_product_attention`` and can do two
things besides. It *records* what the layer handed over, the attention weights (torch's function
attends to the unit vectors, :math:`A = A I`), and the arguments the layer was called with, so that
it can be called again on the same input without its prefix. And it *inserts* keys and values of a
prefix in front of the content, for models that have no room for past ones. Everything before and
after (projections, rotary positions, caches, masks, norms, residual streams) is the library's.

Shapes: ``B`` sequences, ``H`` heads of width ``d``, ``G`` key-value heads, ``T`` positions that
read, ``p`` prefix vectors, ``n`` positions that are read, prefix included.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from notebooks.prefix_tuning.real_architectures.library import (
    AttentionInterface,
    AttentionMaskInterface,
    BertSelfAttention,
    GPT2Attention,
    LlamaAttention,
    eager_mask,
)

__all__ = ["NAME", "LayerCall", "PastKeyValues", "inserting", "record", "without_prefix"]

NAME = "promptlib_recorded"
"""What ``attn_implementation`` must be for a model to be looked into."""

ATTENTION = (GPT2Attention, LlamaAttention, BertSelfAttention)


@dataclass(frozen=True)
class PastKeyValues:
    """A prefix as implementations keep it: free keys and values (G, p, d) in every layer."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor]

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.values):
            raise ValueError(
                f"every layer needs keys and values, got {len(self.keys)} and {len(self.values)}"
            )

    @property
    def length(self) -> int:
        """Number of prefix vectors ``p``."""
        return self.keys[0].shape[-2]


@dataclass(frozen=True)
class LayerCall:
    """One call of one attention layer, and the arguments it was called with, by name.

    Queries and outputs, before the output projection, are (B, H, T, d), keys and values (B, H, n,
    d), grouped heads repeated for each query head they serve; attention is (B, H, T, n).
    """

    module: nn.Module
    arguments: Mapping[str, Any]
    queries: Tensor
    keys: Tensor
    values: Tensor
    attention: Tensor
    outputs: Tensor


@dataclass
class _Session:
    """What the attention function does while a model runs."""

    prefix: PastKeyValues | None = None
    recording: bool = False
    arguments: list[dict[str, Any]] = field(default_factory=list)
    calls: list[LayerCall] = field(default_factory=list)
    count: int = 0


_SESSION: ContextVar[_Session | None] = ContextVar("session", default=None)


def record(
    model: nn.Module, run: Callable[[], Any], prefix: PastKeyValues | None = None
) -> list[LayerCall]:
    """Run something that calls `model`, without gradients, and keep every attention layer's call.

    The model must attend through :data:`NAME`; a prefix is inserted layer by layer.
    """
    session = _Session(prefix, recording=True)
    hooks = [
        module.register_forward_pre_hook(_keep_arguments(session), with_kwargs=True)
        for module in model.modules()
        if isinstance(module, ATTENTION)
    ]
    try:
        with torch.no_grad(), _active(session):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    if not session.calls:
        raise ValueError(
            f"{type(model).__name__} made no attention call that could be recorded; "
            f"load it with attn_implementation={NAME!r}"
        )
    return session.calls


@contextmanager
def inserting(prefix: PastKeyValues) -> Iterator[None]:
    """While this lasts, models attend to `prefix` besides their content; gradients reach it.

    One forward pass of one model for each use.
    """
    with _active(_Session(prefix)):
        yield


def without_prefix(call: LayerCall, length: int) -> LayerCall:
    """The same layer on the same input, without its prefix from a cache or inserted."""
    arguments = dict(call.arguments)
    mask = arguments.get("attention_mask")
    content = call.keys.shape[-2] - length
    if mask is not None and mask.shape[-1] != content:
        arguments["attention_mask"] = mask[..., length:]
    arguments["past_key_values"] = None
    more = arguments.pop("kwargs", {})
    session = _Session(recording=True, arguments=[arguments])
    with torch.no_grad(), _active(session):
        call.module(**arguments, **more)
    return session.calls[0]


@contextmanager
def _active(session: _Session) -> Iterator[None]:
    token = _SESSION.set(session)
    try:
        yield
    finally:
        _SESSION.reset(token)


def _keep_arguments(session: _Session) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        session.arguments.append(dict(bound.arguments))

    return hook


def _attention(
    module: nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """What `transformers` calls: takes (B, H, T, d), (B, G, n, d) twice; returns (B, T, H, d)."""
    session = _SESSION.get()
    if session is not None and session.prefix is not None:
        own_keys, own_values = (part[session.count] for part in _parts(session.prefix))
        length = own_keys.shape[-2]
        keys = torch.cat((own_keys.expand(len(keys), *own_keys.shape), keys), -2)
        values = torch.cat((own_values.expand(len(values), *own_values.shape), values), -2)
        mask = mask if mask is None else F.pad(mask, (length, 0))  # 0 is added: visible
    groups = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)

    def attend_to(read: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            queries, keys, read, attn_mask=mask, dropout_p=dropout, scale=scaling
        )

    outputs = attend_to(values)
    weights = None
    if session is not None:
        session.count += 1
        if session.recording:
            n_keys = keys.shape[-2]
            weights = attend_to(
                torch.eye(n_keys, dtype=values.dtype).expand(*keys.shape[:2], -1, -1)
            )
            arguments = session.arguments[len(session.calls)]
            session.calls.append(
                LayerCall(module, arguments, queries, keys, values, weights, outputs)
            )
    return outputs.transpose(1, 2).contiguous(), weights


def _parts(prefix: PastKeyValues) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return prefix.keys, prefix.values


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)

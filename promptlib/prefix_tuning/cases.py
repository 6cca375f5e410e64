"""On which layers is a theorem about one attention layer checked?

Random layers that differ in all that the theorem does not depend on: number of heads, causal mask,
LayerNorm on the prefix, key and value from one vector or independent, prefix length, and the size
of the logits, up to where the softmax is a hard maximum to all digits of float64.

Symbols: ``n`` content tokens of width ``d``, ``H`` heads of width ``d_k``, ``p`` prefix vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "PREFIX_KINDS",
    "AttentionCase",
    "random_case",
]

PrefixKind = Literal["vector", "LayerNormed vector", "independent key and value"]
PREFIX_KINDS: tuple[PrefixKind, ...] = (
    "vector",
    "LayerNormed vector",
    "independent key and value",
)


@dataclass(frozen=True)
class AttentionCase:
    """One attention layer with its content and its prefix, as the arguments of ``attend``.

    Attributes
    ----------
    queries, keys, values : Tensor, shape (H, n, d_k)
        Of the content, as the layer computes them from its input.
    prefix_keys, prefix_values : Tensor, shape (H, p, d_k)
    causal : bool
    prefix_kind : str
        How the prefix became keys and values, one of :data:`PREFIX_KINDS`.
    logit_scale : float
        Intended standard deviation of the content logits.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    prefix_keys: Tensor
    prefix_values: Tensor
    causal: bool
    prefix_kind: PrefixKind
    logit_scale: float

    @property
    def prefix_length(self) -> int:
        """Number of prefix vectors ``p``."""
        return self.prefix_keys.shape[-2]


def random_case(
    generator: torch.Generator,
    *,
    n_head: int = 1,
    n_tokens: int = 7,
    head_width: int = 5,
    prefix_length: int = 1,
    causal: bool = False,
    prefix_kind: PrefixKind = "vector",
    logit_scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> AttentionCase:
    """Draw a layer, content and prefix with Gaussian entries.

    Parameters
    ----------
    generator : torch.Generator
    n_head, n_tokens, head_width, prefix_length : int
        Each at least 1; the layer has width ``n_head * head_width``.
    causal : bool
    prefix_kind : str
        One of :data:`PREFIX_KINDS`.
    logit_scale : float
        Standard deviation of the content logits, > 0.
    dtype : torch.dtype

    Raises
    ------
    ValueError
        If a size is below 1, the scale is not positive or the kind is unknown.
    """
    sizes = {
        "n_head": n_head,
        "n_tokens": n_tokens,
        "head_width": head_width,
        "prefix_length": prefix_length,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if not logit_scale > 0:
        raise ValueError(f"logit_scale must be > 0, got {logit_scale}")
    if prefix_kind not in PREFIX_KINDS:
        raise ValueError(f"prefix_kind must be one of {PREFIX_KINDS}, got {prefix_kind!r}")

    width = n_head * head_width

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    def project(tokens: Tensor, weight: Tensor) -> Tensor:  # (t, d), (d, H d_k) -> (H, t, d_k)
        return (tokens @ weight).view(-1, n_head, head_width).transpose(0, 1)

    query_weight, key_weight, value_weight = (draw(width, width) / width**0.5 for _ in range(3))
    query_weight, key_weight = (w * logit_scale**0.5 for w in (query_weight, key_weight))
    content = F.layer_norm(draw(n_tokens, width), (width,)) if width > 1 else draw(n_tokens, 1)
    prefix = draw(prefix_length, width)
    if prefix_kind == "LayerNormed vector" and width > 1:
        prefix = F.layer_norm(5 * prefix, (width,))
    if prefix_kind == "independent key and value":
        prefix_keys = logit_scale**0.5 * draw(n_head, prefix_length, head_width)
        prefix_values = draw(n_head, prefix_length, head_width)
    else:
        prefix_keys = project(prefix, key_weight)
        prefix_values = project(prefix, value_weight)
    return AttentionCase(
        queries=project(content, query_weight),
        keys=project(content, key_weight),
        values=project(content, value_weight),
        prefix_keys=prefix_keys,
        prefix_values=prefix_values,
        causal=causal,
        prefix_kind=prefix_kind,
        logit_scale=logit_scale,
    )


check_public(__name__)

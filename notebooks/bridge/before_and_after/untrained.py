r"""What do soft vectors make of a layer that was never trained, and what do they read as?

One causal head with random weights and a residual stream. Keys and values of a soft vector ``s``
are :math:`W_K s` and :math:`W_V s`. If the layer is wide enough they can be chosen freely, and
there is room in ``s`` that neither of them sees. Source: this book, after Genewein et al. 2025 and
Ramati, Gottesman and Geva 2025.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.attention import attend
from promptlib.checks import check_public

__all__ = ["Layer", "answering_prefix", "answers", "logits", "random_layer", "read_as", "reworded"]


class Layer(NamedTuple):
    """The weights of one head and its vocabulary."""

    embeddings: Tensor  # (V, d)
    queries: Tensor  # (k, d)
    keys: Tensor  # (k, d)
    values: Tensor  # (e, d)
    output: Tensor  # (d, e)
    unembedding: Tensor  # (V, d)


def random_layer(generator: torch.Generator, symbols: int, width: int, head: int) -> Layer:
    """Independent normal weights, of variance 1 / width; keys and values are of width `head`."""
    if head < symbols or width < 2 * head + symbols:
        raise ValueError(
            f"{symbols} symbols need a head of width {symbols} at least and a stream of "
            f"{2 * head + symbols}, got {head} and {width}"
        )
    shapes = [(symbols, width), *[(head, width)] * 3, (width, head), (symbols, width)]
    draw = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    embeddings, *weights = draw
    return Layer(embeddings, *(matrix / math.sqrt(width) for matrix in weights))


def logits(layer: Layer, symbols: Tensor, prefix: Tensor) -> Tensor:
    """What the layer predicts at the last symbol, after a prefix of soft vectors.

    Shapes: symbols (..., n) of integers, prefix (p, d) or (..., p, d) -> (..., V).
    """
    stream = layer.embeddings[symbols]
    last = stream[..., -1:, :]
    read, _ = attend(
        last @ layer.queries.mT,
        stream @ layer.keys.mT,
        stream @ layer.values.mT,
        prefix @ layer.keys.mT,
        prefix @ layer.values.mT,
        scale=1.0,
    )
    return ((last + read @ layer.output.mT) @ layer.unembedding.mT).squeeze(-2)


def answers(layer: Layer, prefix: Tensor) -> Tensor:
    """The answer to each symbol alone: prefix (..., p, d) -> (..., V)."""
    alone = torch.arange(len(layer.embeddings))[:, None]
    return logits(layer, alone, prefix[..., None, :, :]).argmax(-1)


def answering_prefix(layer: Layer, wanted: Tensor, tokens: int) -> Tensor:
    r"""One soft vector a symbol that makes the layer answer by a map, after any content.

    Vector ``a`` has the logit :math:`\lambda` at queries of symbol ``a`` and zero at others; its
    value lifts the logit of the answer by :math:`\gamma` and lowers no other.

    Parameters
    ----------
    wanted : Tensor of integers, shape (V,)
        The answer to each symbol.
    tokens
        The longest content, at least 1.

    Returns
    -------
    Tensor, shape (V, d)
    """
    count = len(layer.embeddings)
    if wanted.shape != (count,):
        raise ValueError(f"one answer for each of {count} symbols, got {tuple(wanted.shape)}")
    asked = layer.embeddings @ layer.queries.mT  # (V, k)
    own = layer.embeddings @ layer.keys.mT
    largest = float((asked @ own.mT).max())  # of a content logit
    written = layer.unembedding @ layer.output  # (V, e)
    spoken = float((layer.embeddings @ layer.unembedding.mT).abs().max())
    heard = float((layer.embeddings @ layer.values.mT @ written.mT).abs().max())
    # The content and the other vectors keep a quarter of the attention at most.
    scale = math.log(3 * (tokens * math.exp(largest) + count - 1))
    lift = 8 * (spoken + heard) + 1
    keys = scale * torch.linalg.pinv(asked).mT  # rows k_a with <q_b, k_a> = scale if a = b, else 0
    values = lift * torch.linalg.pinv(written).mT[wanted]
    both = torch.cat((layer.keys, layer.values))  # (k + e, d)
    return torch.cat((keys, values), dim=1) @ torch.linalg.pinv(both).mT


def read_as(layer: Layer, prefix: Tensor) -> Tensor:
    """The symbol whose embedding has the largest inner product with each vector: (p, d) -> (p,)."""
    return (prefix @ layer.embeddings.mT).argmax(-1)


def reworded(layer: Layer, prefix: Tensor, text: Tensor) -> Tensor:
    """A prefix with the same keys and values whose vectors read as a given text.

    Shapes: prefix (p, d), text (p,) of integers -> (p, d).
    """
    if len(text) != len(prefix):
        raise ValueError(f"one symbol for each of {len(prefix)} vectors, got {len(text)}")
    both = torch.cat((layer.keys, layer.values))
    unseen = torch.eye(both.shape[1], dtype=both.dtype) - torch.linalg.pinv(both) @ both
    # Rows w_a that no key or value sees, with <w_a, E_b> = 1 if a = b, else 0.
    marks = torch.linalg.pinv(layer.embeddings @ unseen).mT @ unseen
    read = prefix @ layer.embeddings.mT
    enough = read.max() - read.min() + 1
    return prefix + enough * marks[text]


check_public(__name__)

r"""What does the second layer see when the first one has a prefix?

Two attention layers with all that the theory of one layer leaves out: several heads, a residual
stream, biases. With :math:`r_i^h = W_O^h t_i^h` the second layer reads

.. math::

    y'_i = \underbrace{x_i + \sum_h (1-\alpha_i^h)\, r_i^h}_{f_i}
         + \underbrace{\sum_h \sum_m A'^h_{im}\, W_O^h \bar v_m^h}_{b_i},

the *faded* stream :math:`f_i` plus the *bias* :math:`b_i`. With a coordinate 1 appended, the logits
of one of its heads are a bilinear form :math:`\hat y_i'^\top H \hat y_j'`, so

.. math::

    z'_{ij} = f_i^\top H f_j + f_i^\top H b_j + b_i^\top H f_j + b_i^\top H b_j .

Shapes in comments: ``n`` positions, ``D`` width of the stream, ``H`` heads of width ``d``, ``p``
prefix vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.identities import AttendFunction, split

__all__ = [
    "Stream",
    "TwoLayers",
    "correction_rank",
    "first_layer",
    "four_terms",
    "generic_rank",
    "logit_errors",
    "random_layers",
    "random_two_layers",
    "second_logits",
    "take_apart",
]


@dataclass(frozen=True)
class TwoLayers:
    """Content, a first layer with a prefix, and one head of a second layer."""

    content: Tensor  # (n, D): what the first layer reads
    query: Tensor  # (H, d, D), as key and value
    key: Tensor
    value: Tensor
    project: Tensor  # (H, D, d): output matrices
    prefix_keys: Tensor  # (H, p, d)
    prefix_values: Tensor  # (H, p, d)
    second_query: Tensor  # (d, D + 1): the last column is the bias
    second_key: Tensor  # (d, D + 1)
    residual: bool  # whether the content is added to what the first layer writes
    causal: bool

    @property
    def form(self) -> Tensor:
        """The bilinear form ``H`` of the second layer, shape (D + 1, D + 1)."""
        return self.second_query.mT @ self.second_key * self.second_query.shape[0] ** -0.5

    @property
    def vectors(self) -> int:
        """Prefix vectors, counted once for each head."""
        return self.prefix_keys.shape[0] * self.prefix_keys.shape[1]


@dataclass(frozen=True)
class Stream:
    """What the second layer reads, taken apart; a row for each position."""

    plain: Tensor  # (n, D): without the prefix
    faded: Tensor  # (n, D)
    bias: Tensor  # (n, D): with the prefix the stream is faded + bias
    shares: Tensor  # (H, n)


def first_layer(
    layers: TwoLayers, attend: AttendFunction = library_attend
) -> tuple[Tensor, Tensor]:
    """Run the first layer with its prefix: the stream (n, D) and attention (H, n, p + n)."""
    heads, attention = attend(
        *_read(layers), layers.prefix_keys, layers.prefix_values, causal=layers.causal
    )
    return _write(layers, heads), attention


def take_apart(layers: TwoLayers, attend: AttendFunction = library_attend) -> Stream:
    """The faded stream and the bias, from the layer without its prefix and from the shares."""
    heads, _ = attend(*_read(layers), causal=layers.causal)
    _, attention = first_layer(layers, attend)
    shares, to_prefix, _ = split(attention, layers.prefix_keys.shape[1])
    bias = (to_prefix @ layers.prefix_values) @ layers.project.mT  # (H, n, D)
    return Stream(
        plain=_write(layers, heads),
        faded=_write(layers, (1 - shares)[..., None] * heads),
        bias=bias.sum(0),
        shares=shares,
    )


def second_logits(layers: TwoLayers, stream: Tensor) -> Tensor:
    """Logits of the second layer's head on a stream, shape (n, n), as an attention layer does."""
    queries = stream @ layers.second_query[:, :-1].mT + layers.second_query[:, -1]
    keys = stream @ layers.second_key[:, :-1].mT + layers.second_key[:, -1]
    return queries @ keys.mT * queries.shape[-1] ** -0.5


def four_terms(layers: TwoLayers, stream: Stream) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The terms of the second layer's logits: faded-faded, faded-bias, bias-faded, bias-bias."""
    faded = torch.cat((stream.faded, torch.ones_like(stream.faded[:, :1])), dim=1)
    bias = torch.cat((stream.bias, torch.zeros_like(stream.bias[:, :1])), dim=1)
    left, right = (rows @ layers.form for rows in (faded, bias))
    return left @ faded.mT, left @ bias.mT, right @ faded.mT, right @ bias.mT


Terms = Callable[[TwoLayers, Stream], tuple[Tensor, ...]]


def logit_errors(
    layers: TwoLayers, attend: AttendFunction = library_attend, terms: Terms = four_terms
) -> Tensor:
    """Errors of the four terms against both layers run one after the other, shape (n * n,).

    Divided by the largest logit or 1.
    """
    stream, _ = first_layer(layers, attend)
    logits = second_logits(layers, stream)
    predicted = sum(terms(layers, take_apart(layers, attend)), torch.zeros_like(logits))
    return (logits - predicted).abs().flatten() / logits.abs().max().clamp_min(1.0)


def correction_rank(
    layers: TwoLayers, attend: AttendFunction = library_attend, relative: float = 1e-11
) -> int:
    """Rank of what the bias adds to the logits: singular values above `relative` of the largest."""
    stream, _ = first_layer(layers, attend)
    faded = take_apart(layers, attend).faded
    correction = second_logits(layers, stream) - second_logits(layers, faded)
    scale = second_logits(layers, stream).abs().max()  # what rounding is relative to
    values = torch.linalg.svdvals(correction)
    return int((values > relative * torch.maximum(values[0], scale)).sum())


def generic_rank(layers: TwoLayers) -> int:
    """The rank that `correction_rank` has for generic layers: bias twice, as query and as key."""
    n_tokens, width = layers.content.shape
    return min(n_tokens, 2 * min(layers.vectors, width))


def random_two_layers(
    generator: torch.Generator,
    *,
    n_tokens: int = 11,
    n_head: int = 1,
    head_width: int = 7,
    prefix_length: int = 1,
    residual: bool = False,
    causal: bool = False,
) -> TwoLayers:
    """Draw two layers with Gaussian entries; widths are ``n_head * head_width``."""
    sizes = {
        "n_tokens": n_tokens,
        "n_head": n_head,
        "head_width": head_width,
        "prefix_length": prefix_length,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    width = n_head * head_width

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def weight(*shape: int) -> Tensor:
        return draw(*shape) / shape[-1] ** 0.5

    return TwoLayers(
        content=draw(n_tokens, width),
        query=weight(n_head, head_width, width),
        key=weight(n_head, head_width, width),
        value=weight(n_head, head_width, width),
        project=weight(n_head, width, head_width),
        prefix_keys=draw(n_head, prefix_length, head_width),
        prefix_values=2 * draw(n_head, prefix_length, head_width),
        second_query=weight(width, width + 1),
        second_key=weight(width, width + 1),
        residual=residual,
        causal=causal,
    )


def random_layers(generator: torch.Generator, n_each: int) -> Iterator[TwoLayers]:
    """`n_each` draws of every variant: heads, prefix length, residual stream, mask (24 in all)."""
    if n_each < 1:
        raise ValueError(f"n_each must be at least 1, got {n_each}")
    for n_head, length, residual, causal in itertools.product(
        (1, 3), (1, 2, 5), (False, True), (False, True)
    ):
        for _ in range(n_each):
            yield random_two_layers(
                generator,
                n_tokens=int(torch.randint(2, 40, (), generator=generator)),
                n_head=n_head,
                head_width=int(torch.randint(2, 12, (), generator=generator)),
                prefix_length=length,
                residual=residual,
                causal=causal,
            )


def _read(layers: TwoLayers) -> tuple[Tensor, Tensor, Tensor]:
    content = layers.content
    return tuple(content @ w.mT for w in (layers.query, layers.key, layers.value))  # type: ignore[return-value]


def _write(layers: TwoLayers, heads: Tensor) -> Tensor:
    written = (heads @ layers.project.mT).sum(0)
    return layers.content + written if layers.residual else written


check_public(__name__)

"""What is a prefix? A few learned vectors in every layer that all positions attend to.

Source: Li and Liang, ACL 2021. Two choices that the literature leaves to the implementation are
options here. `layer_norm`: whether the vectors pass through the LayerNorm in front of the
attention, as content does (then their length says little), or go to the key and value projections
as they are. `separate_values`: whether one vector serves as key and value, as content does, or
each slot has two; two vectors without LayerNorm are, for invertible projections, the free
``past_key_values`` of common implementations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptlib.checks import check_public, same_kind, whole_number


class Prefix(nn.Module):
    """Learned vectors for each layer of a `GPT`; nothing else of the model changes.

    Parameters
    ----------
    n_layer : int
        Layers of the model.
    length : int
        Vectors in each layer, at least 1.
    n_embd : int
        Width of the model.
    init_std : float
        Standard deviation of the initial entries, above 0. It decides much: see the chapter
        "A new task".
    generator : torch.Generator, optional
        Source of the initial entries.
    separate_values : bool
        Learn a vector for the value of each slot, beside the one for its key.
    layer_norm : bool
        Send the vectors through the LayerNorm that content passes.

    Attributes
    ----------
    vectors : Parameter, ``(n_layer, length, n_embd)``
    value_vectors : Parameter of the same shape, or None
    """

    def __init__(
        self,
        n_layer: int,
        length: int,
        n_embd: int,
        init_std: float = 0.1,
        generator: torch.Generator | None = None,
        *,
        separate_values: bool = False,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (("n_layer", n_layer), ("length", length), ("n_embd", n_embd)):
            if size < 1:
                raise ValueError(f"expected {name} >= 1, got {size}")
        if not 0 < init_std < math.inf:
            raise ValueError(f"expected init_std > 0 and finite, got {init_std}")
        self.n_layer, self.length, self.n_embd = n_layer, length, n_embd
        self.layer_norm = layer_norm

        def draw() -> nn.Parameter:
            noise = torch.randn(n_layer, length, n_embd, generator=generator)
            return nn.Parameter(init_std * noise)

        self.vectors = draw()
        self.value_vectors = draw() if separate_values else None

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Return what layer `index` offers as keys and as values, ``(length, n_embd)`` each."""
        whole_number("index", index, at_most=self.n_layer - 1)
        for_keys = self.vectors[index]
        for_values = for_keys if self.value_vectors is None else self.value_vectors[index]
        return for_keys, for_values

    def vectors_of_first(self) -> Tensor:
        """Return `vectors`; see the method of the same name of `PrefixBatch`."""
        return self.vectors


class PrefixBatch:
    """Several prefixes of one shape, run through a frozen model in one pass.

    What the model computes from the content before it meets a prefix is shared. Each prefix gets
    the outputs and gradients that it would get alone, but for rounding: products of other sizes
    sum in another order.

    Parameters
    ----------
    prefixes : sequence of Prefix
        ``C`` prefixes with the same sizes and options.
    """

    def __init__(self, prefixes: Sequence[Prefix]) -> None:
        if not prefixes:
            raise ValueError("expected at least 1 prefix, got none")
        shapes = {
            (p.n_layer, p.length, p.n_embd, p.layer_norm, p.value_vectors is None) for p in prefixes
        }
        if len(shapes) > 1:
            raise ValueError(f"prefixes of different shapes cannot share a pass: {sorted(shapes)}")
        for place, prefix in enumerate(prefixes):
            same_kind(f"prefixes[{place}]", prefix.vectors, "prefixes[0]", prefixes[0].vectors)
        self.prefixes = tuple(prefixes)
        first = prefixes[0]
        self.n_layer, self.length, self.n_embd = first.n_layer, first.length, first.n_embd
        self.layer_norm = first.layer_norm

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of layer `index`: ``(C, 1, length, n_embd)``, 1 for the batch."""
        keys, values = zip(*(prefix.layer(index) for prefix in self.prefixes), strict=True)
        for_keys = torch.stack(keys).unsqueeze(1)
        if all(k is v for k, v in zip(keys, values, strict=True)):
            return for_keys, for_keys
        return for_keys, torch.stack(values).unsqueeze(1)

    def vectors_of_first(self) -> Tensor:
        """Return the vectors of one prefix; the others have the same shape, dtype and device."""
        return self.prefixes[0].vectors


check_public(__name__)

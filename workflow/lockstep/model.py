"""What does one pass through many models, prefixes or LoRAs at once compute?

A stack of models of one size answers for many learners in one pass. What each of them computes is
what `promptlib.prefix_tuning.gpt.GPT` computes; only the order of sums differs. Every weight has
one more dimension in front, so that a linear layer is one batched matrix product.

Where matrix products are in bfloat16, so are their results, the activation of the MLP and the
attention scores, as under autocast. Residual streams, LayerNorms and losses are in float32; the
softmax is computed in float32, and its result rounded for the product with the values.

Shapes: ``S`` stacked models, ``K`` learners of each, ``L = S K`` learners, ``B`` sequences, ``T``
tokens, ``m`` positions that are computed, ``n`` content keys, ``p`` prefix slots, ``D`` the width,
``H`` heads, ``d = D / H``, ``V`` symbols, ``r`` the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.attention import causal_mask
from promptlib.prefix_tuning.gpt import GPTConfig
from workflow.lockstep import kernels as lockstep_kernels

ALIGNED = 8
"""Rows of keys and logits come in multiples of this; matrix units are slow at other sizes."""

MODULES = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.project",
    "mlp.expand",
    "mlp.contract",
)
"""The linear layers of a block."""

Weights = Mapping[str, Tensor]
"""By the names of the state dict of `GPT`, each with ``S`` in front."""

Corrections = Mapping[str, tuple[Tensor, Tensor]]
"""By the name of a linear layer: ``down (L, r, n_in)`` and ``up (L, n_out, r)``."""


@dataclass(frozen=True)
class Prefixes:
    """A prefix for each learner.

    Attributes
    ----------
    vectors : Tensor, ``(L, n_layer, p, D)``
        Shorter prefixes are padded.
    value_vectors : Tensor of the same shape, or None
        None where no learner has separate values.
    normalised, separate : Tensor of bool, ``(L, 1, 1)``
        Whose vectors pass through the LayerNorm, and whose values have vectors of their own.
    hidden : Tensor of bool, ``(L, p)``
        The slots that are padding.
    """

    vectors: Tensor
    value_vectors: Tensor | None
    normalised: Tensor
    separate: Tensor
    hidden: Tensor


def is_product(name: str) -> bool:
    """Whether a parameter of this name belongs to a linear layer, so is rounded for products."""
    return not {"attention", "mlp", "head"}.isdisjoint(name.split("."))


def rounded(weights: Weights, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same weights, those of linear layers in the dtype of products."""
    return {
        name: weight.to(dtype) if is_product(name) else weight for name, weight in weights.items()
    }


class Stack:
    """A stack of models that can be called.

    Parameters
    ----------
    config : GPTConfig
        Of each model.
    weights : Weights
        Those of linear layers in the dtype that products are to have; see `rounded`.
    learners : int
        Learners of each model, ``K``.
    constant : bool
        Whether the weights do not learn. Then what the first block reads of a token at a position
        is computed once.
    n_tokens : int
        Tokens of each sequence, ``T``.

    Attributes
    ----------
    fusing : bool
        Of the class: whether kernels of `lockstep_kernels` are used where they can be.
    """

    fusing = True

    def __init__(
        self,
        config: GPTConfig,
        weights: Weights,
        learners: int,
        n_tokens: int,
        constant: bool = False,
    ) -> None:
        self.config, self.weights, self.learners = config, weights, learners
        self.n_tokens = n_tokens
        head = weights["head.weight"]  # (S, V, D)
        self.dtype, self.stacked = head.dtype, head.shape[0]
        self.head = F.pad(head, (0, 0, 0, -head.shape[1] % ALIGNED))
        self.fused = constant and self.fusing and lockstep_kernels.available(head.device)
        self.tables = self._tabulate() if constant else None

    def __call__(
        self,
        tokens: Tensor,
        last: int,
        prefixes: Prefixes | None = None,
        corrections: Corrections | None = None,
    ) -> Tensor:
        """Predict the symbols after the last positions: ``(L, B, T) -> (L, B, last, V)``."""
        corrections = corrections or {}
        n_layer = self.config.n_layer
        bias: Tensor | None = None
        x = seen = tokens.new_empty(())  # the residual stream, and the stream normalised
        for layer in range(n_layer):
            name = f"blocks.{layer}"
            final = layer == n_layer - 1
            wanted = last if final else self.n_tokens
            if layer == 0:
                x, read = self._first(tokens, wanted, corrections)
            else:
                read = self._read(seen, name, wanted, corrections)
                x = self._last(x, wanted)
            if layer == 0 or final:
                bias = self._bias(wanted, prefixes)
            shown = None if prefixes is None else self._show(prefixes, layer)
            mixed = self._attend(*read, shown, bias)
            x, seen = self._add(
                x, mixed, f"{name}.attention.project", f"{name}.norm_mlp", corrections
            )
            hidden = self._activate(seen, f"{name}.mlp.expand", corrections)
            following = "norm" if final else f"blocks.{layer + 1}.norm_attention"
            x, seen = self._add(x, hidden, f"{name}.mlp.contract", following, corrections)
        logits = torch.bmm(seen, self.head.mT)[..., : self.config.vocab_size]
        return logits.unflatten(1, (self.learners, -1, last)).flatten(0, 1)

    def _add(
        self, x: Tensor, y: Tensor, module: str, norm: str, corrections: Corrections
    ) -> tuple[Tensor, Tensor]:
        """Add what a linear layer makes of `y` to the stream, and read the sum normalised."""
        if self.fused:
            parameters = (self.weights[f"{norm}.weight"], self.weights[f"{norm}.bias"])
            y = self._linear(y, module, corrections, biased=False)
            added: tuple[Tensor, Tensor] = lockstep_kernels.add_norm(
                x, y, self.weights[f"{module}.bias"], *parameters
            )
            return added
        x = x + self._linear(y, module, corrections)
        return x, self._norm(x, norm).to(self.dtype)

    def _activate(self, x: Tensor, module: str, corrections: Corrections) -> Tensor:
        """The activation of what a linear layer makes of `x`."""
        if self.fused:
            x = self._linear(x, module, corrections, biased=False)
            return lockstep_kernels.gelu(x, self.weights[f"{module}.bias"])
        return F.gelu(self._linear(x, module, corrections), approximate="tanh")

    def _first(
        self, tokens: Tensor, wanted: int, corrections: Corrections
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Embed the tokens, and read them for the first block."""
        if self.tables is None:
            x = self._embed(tokens)
            seen = self._norm(x, "blocks.0.norm_attention").to(self.dtype)
            return self._last(x, wanted), self._read(seen, "blocks.0", wanted, corrections)
        n_tokens, n_pairs = self.n_tokens, self.config.vocab_size * self.n_tokens
        models = torch.arange(self.stacked, device=tokens.device).view(-1, 1, 1, 1)
        places = torch.arange(n_tokens, device=tokens.device)
        pairs = tokens.unflatten(0, (self.stacked, -1)) * n_tokens + places + models * n_pairs
        late = pairs[..., -wanted:]

        def of(name: str, rows: Tensor) -> Tensor:
            assert self.tables is not None
            return F.embedding(rows, self.tables[name].flatten(0, 1)).flatten(1, 3)

        read = [of("query", late), of("key", pairs), of("value", pairs)]
        for index, (name, rows) in enumerate((("query", late), ("key", pairs), ("value", pairs))):
            module = f"blocks.0.attention.{name}"
            if module in corrections:
                read[index] = self._correct(read[index], of("seen", rows), corrections[module])
        return of("x", late), (read[0], read[1], read[2])

    def _tabulate(self) -> dict[str, Tensor]:
        """What the first block reads of each symbol at each position: ``(S, V T, …)``."""
        token, position = self.weights["token.weight"], self.weights["position.weight"]
        x = token.unsqueeze(2) + position[:, : self.n_tokens].unsqueeze(1)  # (S, V, T, D)
        x = x.flatten(1, 2)
        seen = self._norm(x, "blocks.0.norm_attention").to(self.dtype)
        read = {
            name: self._linear(seen, f"blocks.0.attention.{name}", {})
            for name in ("query", "key", "value")
        }
        return {"x": x, "seen": seen, **read}

    def _embed(self, tokens: Tensor) -> Tensor:
        """``(L, B, T) -> (S, K B T, D)``.

        By a product with indicators: its gradient is a product, too, and needs no atomic sums.
        """
        token, position = self.weights["token.weight"], self.weights["position.weight"]
        symbols = torch.arange(self.config.vocab_size, device=tokens.device)
        chosen = (tokens.unsqueeze(-1) == symbols).to(token.dtype)
        x = torch.bmm(chosen.view(self.stacked, -1, len(symbols)), token)
        x = x.unflatten(1, (-1, self.n_tokens)) + position[:, : self.n_tokens].unsqueeze(1)
        return x.flatten(1, 2)

    def _read(
        self, seen: Tensor, name: str, wanted: int, corrections: Corrections
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last positions, keys and values of all: ``(S, R, D)`` each."""
        late = self._last(seen, wanted)
        return (
            self._linear(late, f"{name}.attention.query", corrections),
            self._linear(seen, f"{name}.attention.key", corrections),
            self._linear(seen, f"{name}.attention.value", corrections),
        )

    def _show(self, prefixes: Prefixes, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefixes in a layer: ``(L, H, p, d)`` each."""
        for_keys = prefixes.vectors[:, layer]
        for_values = for_keys
        if prefixes.value_vectors is not None:
            own = prefixes.value_vectors[:, layer]
            for_values = torch.where(prefixes.separate, own, for_keys)
        name = f"blocks.{layer}"
        shown = []
        for vectors, module in ((for_keys, "key"), (for_values, "value")):
            normed = self._norm(self._by_model(vectors), f"{name}.norm_attention")
            vectors = torch.where(prefixes.normalised, normed.view_as(vectors), vectors)
            rows = self._by_model(vectors).to(self.dtype)
            rows = self._linear(rows, f"{name}.attention.{module}", {})
            rows = rows.view(len(vectors), -1, self.config.n_head, self._head_width)
            shown.append(rows.transpose(1, 2).contiguous())
        return shown[0], shown[1]

    def _attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        shown: tuple[Tensor, Tensor] | None,
        bias: Tensor | None,
    ) -> Tensor:
        """``(S, K B m, D)`` from queries of this shape, and keys and values ``(S, K B T, D)``."""
        padding = -self.n_tokens % ALIGNED
        wanted = queries.shape[1] * self.n_tokens // keys.shape[1]
        queries = self._heads(queries, wanted).contiguous()  # (L, H, B, m, d)
        keys = F.pad(self._heads(keys, self.n_tokens), (0, 0, 0, padding))
        values = F.pad(self._heads(values, self.n_tokens), (0, 0, 0, padding))
        learners, heads, batch, wanted, width = queries.shape
        scores = torch.bmm(queries.flatten(0, 2), keys.flatten(0, 2).mT)
        scores = scores.view(learners, heads, batch, wanted, -1)
        slots = 0
        if shown is not None:
            slots = shown[0].shape[2]
            to_slots = torch.bmm(
                queries.view(learners * heads, -1, width), shown[0].flatten(0, 1).mT
            )
            scores = torch.cat([to_slots.view(*scores.shape[:-1], slots), scores], dim=-1)
        assert bias is not None
        shares = torch.softmax(torch.add(bias, scores, alpha=width**-0.5), dim=-1)
        n_keys = shares.shape[-1]
        mixed = torch.bmm(shares.view(-1, wanted, n_keys)[..., slots:], values.flatten(0, 2))
        mixed = mixed.view(learners * heads, -1, width)
        if shown is not None:
            to_slots = shares.view(learners * heads, -1, n_keys)[..., :slots]
            mixed = torch.baddbmm(mixed, to_slots, shown[1].flatten(0, 1))
        mixed = mixed.view(learners, heads, batch, wanted, width).permute(0, 2, 3, 1, 4)
        return mixed.reshape(self.stacked, -1, heads * width)

    def _bias(self, wanted: int, prefixes: Prefixes | None) -> Tensor:
        """What is added to the scores, 0 or -inf: ``(1 or L, 1, 1, m, p + n)``."""
        device = self.head.device
        hidden = causal_mask(wanted, self.n_tokens, device=device)
        hidden = F.pad(hidden, (0, -self.n_tokens % ALIGNED), value=True).unsqueeze(0)
        if prefixes is not None:
            slots = prefixes.hidden.unsqueeze(1)  # (L, 1, p)
            hidden = torch.cat(
                [slots.expand(-1, wanted, -1), hidden.expand(len(slots), -1, -1)], dim=-1
            )
        bias = torch.zeros(hidden.shape, dtype=self.dtype, device=device)
        return bias.masked_fill_(hidden, float("-inf"))[:, None, None]

    def _linear(
        self, x: Tensor, name: str, corrections: Corrections, biased: bool = True
    ) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        if biased:
            y = torch.baddbmm(self.weights[f"{name}.bias"].unsqueeze(1), x, weight.mT)
        else:
            y = torch.bmm(x, weight.mT)
        return self._correct(y, x, corrections[name]) if name in corrections else y

    def _correct(self, y: Tensor, x: Tensor, correction: tuple[Tensor, Tensor]) -> Tensor:
        down, up = correction
        rows = torch.bmm(x.view(len(down), -1, x.shape[-1]), down.mT)
        return torch.baddbmm(y.view(len(down), -1, y.shape[-1]), rows, up.mT).view_as(y)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        """LayerNorm of ``(S, R, D)``, if there is one of this name."""
        if f"{name}.weight" not in self.weights:
            return x
        gain, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return torch.addcmul(shift.unsqueeze(1), F.layer_norm(x, x.shape[-1:]), gain.unsqueeze(1))

    def _last(self, x: Tensor, wanted: int, there: int | None = None) -> Tensor:
        """The rows of the last positions, of `there` for each sequence: ``(S, K B m, D)``."""
        there = self.n_tokens if there is None else there
        if wanted == there:
            return x
        return x.unflatten(1, (-1, there))[:, :, -wanted:].flatten(1, 2)

    def _heads(self, x: Tensor, positions: int) -> Tensor:
        """``(S, K B T, D) -> (L, H, B, T, d)``, a view."""
        shape = (self.stacked * self.learners, -1, positions, self.config.n_head)
        return x.view(*shape, self._head_width).permute(0, 3, 1, 2, 4)

    def _by_model(self, rows: Tensor) -> Tensor:
        """``(L, p, D) -> (S, K p, D)``."""
        return rows.reshape(self.stacked, -1, rows.shape[-1])

    @property
    def _head_width(self) -> int:
        return self.config.n_embd // self.config.n_head

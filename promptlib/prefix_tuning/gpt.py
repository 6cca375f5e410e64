"""The model of Part II: a GPT that a prefix can steer.

Pre-LayerNorm blocks, learned positions, GELU, an MLP four times as wide as the model, weights
from N(0, 0.02²). It reads from top to bottom: attention, MLP, block, GPT.

Shape comments: ``B`` sequences, ``T`` tokens, ``p`` prefix vectors, ``D = n_embd``,
``d = n_embd / n_head``, ``V`` symbols; ``…`` is ``B``, or ``C, B`` when the prefix is a
`PrefixBatch` of ``C`` prefixes, or behind a layer with ``C`` corrections (`share_pass`).

Three things keep a training step short, and none of them changes a number: logits are computed
only where a loss asks for them (`last`), so the last block needs queries and its MLP only there;
the first block's keys and values depend on a token and its position alone, so they are computed
once for each such pair and looked up; weights that do not require gradients get none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptlib.attention import attend
from promptlib.checks import check_public, same_kind, shape_of, whole_number
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch

__all__ = ["GPT", "INIT_STD", "GPTConfig"]

INIT_STD = 0.02
"""Standard deviation of the initial weights."""


@dataclass(frozen=True)
class GPTConfig:
    """Size of a `GPT`.

    Attributes
    ----------
    n_layer, n_head, n_embd : int
        Blocks, heads of each block, width; `n_head` divides `n_embd`.
    vocab_size : int
        Symbols that the model reads and writes.
    block_size : int
        Most tokens it reads at once; prefix vectors do not count.
    first_layer_norm : bool
        Whether the first block normalises what its attention reads. Without it a prefix vector of
        the first block can be as long as it likes.
    gelu : "tanh" or "erf"
        GELU by its tanh approximation, as GPT-2 has it, or exactly, which takes half the time.
    """

    n_layer: int
    n_head: int
    n_embd: int
    vocab_size: int
    block_size: int
    first_layer_norm: bool = True
    gelu: Literal["tanh", "erf"] = "tanh"

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "vocab_size", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.gelu not in ("tanh", "erf"):
            raise ValueError(f"expected gelu 'tanh' or 'erf', got {self.gelu!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head={self.n_head} does not divide n_embd={self.n_embd}")


class Attention(nn.Module):
    """Causal self-attention, with room for a prefix that every position sees."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.query = nn.Linear(config.n_embd, config.n_embd)
        self.key = nn.Linear(config.n_embd, config.n_embd)
        self.value = nn.Linear(config.n_embd, config.n_embd)
        self.project = nn.Linear(config.n_embd, config.n_embd)

    def heads(self, x: Tensor) -> Tensor:
        """Split the width into heads: ``(…, T, D) -> (…, n_head, T, d)``."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(-2, -3)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        prefix: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend from the last positions to all of them.

        Parameters
        ----------
        queries : Tensor, ``(…, m, D)``
        keys, values : Tensor, ``(…, T, D)``
        prefix : pair of Tensors ``(…, p, D)``, optional
            What the prefix offers to the key and to the value projection.

        Returns
        -------
        outputs : Tensor, ``(…, m, D)``
        attention : Tensor, ``(…, n_head, m, p + T)``
        """
        prefix_keys = prefix_values = None
        if prefix is not None:
            prefix_keys = self.heads(self.key(prefix[0]))
            prefix_values = self.heads(self.value(prefix[1]))
        outputs, attention = attend(
            self.heads(queries),
            self.heads(keys),
            self.heads(values),
            prefix_keys,
            prefix_values,
            causal=True,
        )
        return self.project(outputs.transpose(-2, -3).flatten(-2)), attention


class MLP(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.contract = nn.Linear(4 * config.n_embd, config.n_embd)
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each position alone: ``(…, T, D) -> (…, T, D)``."""
        return self.contract(F.gelu(self.expand(x), approximate=self.approximate))


class Block(nn.Module):
    """Attention, then MLP, each added to what it read."""

    def __init__(self, config: GPTConfig, layer_norm: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.n_embd) if layer_norm else nn.Identity()
        self.attention = Attention(config)
        self.norm_mlp = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def read(self, x: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        """Project what attention needs to update the last `wanted` positions.

        Returns
        -------
        queries : Tensor, ``(…, wanted, D)``
        keys, values : Tensor, ``(…, T, D)``
        """
        x = self.norm_attention(x)
        queries = self.attention.query(x[..., -wanted:, :])
        return queries, self.attention.key(x), self.attention.value(x)

    def forward(
        self,
        x: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        prefix: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Update the residual stream at its last ``m`` positions.

        Parameters
        ----------
        x, queries : Tensor, ``(…, m, D)``
        keys, values : Tensor, ``(…, T, D)``
        prefix : pair of Tensors ``(…, p, D)``, or None
            What the prefix offers to the key and to the value projection.

        Returns
        -------
        x : Tensor, ``(…, m, D)``
        attention : Tensor, ``(…, n_head, m, p + T)``
        """
        read, attention = self.attention(queries, keys, values, prefix)
        x = x + read
        return x + self.mlp(self.norm_mlp(x)), attention


class GPT(nn.Module):
    """A decoder-only transformer; see the module's docstring.

    Parameters
    ----------
    config : GPTConfig
    generator : torch.Generator, optional
        Source of the initial weights.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocab_size, config.n_embd)
        self.position = nn.Embedding(config.block_size, config.n_embd)
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(config, layer_norm=config.first_layer_norm or layer > 0)
            for layer in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @overload
    def forward(
        self,
        tokens: Tensor,
        prefix: Prefix | PrefixBatch | None = None,
        return_attention: Literal[False] = False,
        last: int | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        prefix: Prefix | PrefixBatch | None = None,
        *,
        return_attention: Literal[True],
        last: int | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        tokens: Tensor,
        prefix: Prefix | PrefixBatch | None = None,
        return_attention: bool = False,
        last: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict the next symbol at each position.

        Parameters
        ----------
        tokens : Tensor, int64, ``(B, T)`` with ``T <= block_size``
            Or floating, ``(B, T, D)``: embeddings in the place of tokens, to which positions are
            added. Some of them can be learned; then they are virtual tokens.
        prefix : Prefix or PrefixBatch, optional
            Vectors that every position attends to, in every block. They have no token and no
            position, and nothing is predicted at them.
        return_attention : bool
            Also return who attended to whom, at all positions.
        last : int, optional
            Return the logits of this many last positions only, and compute no others.

        Returns
        -------
        logits : Tensor, ``(B, T, V)`` or ``(B, last, V)``; with a `PrefixBatch`, ``(C, B, …)``
        attention : Tensor, ``(n_layer, B, n_head, T, p + T)``
            The prefix comes first. Only if `return_attention`.

        Raises
        ------
        ValueError
            If tokens are none of these, there are more than `block_size`, one is not below
            `vocab_size`, `last` is not from 1 to ``T``, or the prefix was made for another depth,
            width, dtype or device.
        """
        self.check_tokens(tokens)
        n_tokens = tokens.shape[1]
        if not 1 <= n_tokens <= self.config.block_size:
            raise ValueError(
                f"expected 1 to block_size={self.config.block_size} tokens, got {n_tokens}"
            )
        if prefix is not None:
            self.check_prefix(prefix)
        last = (
            n_tokens if last is None else whole_number("last", last, at_least=1, at_most=n_tokens)
        )
        attentions = []
        for layer, block in enumerate(self.blocks):
            final = layer == self.config.n_layer - 1 and not return_attention
            wanted = last if final else n_tokens
            if layer == 0:
                try:
                    x, queries, keys, values = self.embed_and_read(tokens, wanted)
                except IndexError:
                    raise ValueError(
                        f"tokens must be symbols from 0 to vocab_size - 1 = "
                        f"{self.config.vocab_size - 1}, got {int(tokens.min())} to "
                        f"{int(tokens.max())}"
                    ) from None
            else:
                queries, keys, values = block.read(x, wanted)
                x = x[..., -wanted:, :]
            x, attention = block(x, queries, keys, values, self.read_prefix(prefix, layer))
            attentions.append(attention)
        logits = self.head(self.norm(x[..., -last:, :]))
        return (logits, torch.stack(attentions)) if return_attention else logits

    def embed_and_read(self, tokens: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embed the tokens and read them for the first block.

        Everything here depends on a token and its position alone. A batch of more sequences than
        there are symbols repeats itself, so it is computed once for each symbol at each position.

        Returns
        -------
        x, queries : Tensor, ``(…, wanted, D)``
        keys, values : Tensor, ``(…, T, D)``
        """
        n_sequences, n_tokens = tokens.shape[:2]
        positions = self.position.weight[:n_tokens]
        embedded = tokens.is_floating_point()
        if embedded or n_sequences <= self.config.vocab_size:
            x = (tokens if embedded else self.token(tokens)) + positions
            return x[:, -wanted:], *self.blocks[0].read(x, wanted)
        every_pair = self.token.weight.unsqueeze(1) + positions  # (V, T, D)
        queries, keys, values = self.blocks[0].read(every_pair, n_tokens)
        pairs = tokens * n_tokens + torch.arange(n_tokens, device=tokens.device)
        x, queries = _look_up(pairs[:, -wanted:], every_pair, queries)
        keys, values = _look_up(pairs, keys, values)
        return x, queries, keys, values

    def read_prefix(
        self, prefix: Prefix | PrefixBatch | None, layer: int
    ) -> tuple[Tensor, Tensor] | None:
        """Return what the prefix shows to the key and value projections of a layer."""
        if prefix is None:
            return None
        for_keys, for_values = prefix.layer(layer)
        if not prefix.layer_norm:
            return for_keys, for_values
        norm = self.blocks[layer].norm_attention
        return norm(for_keys), norm(for_values)

    def check_tokens(self, tokens: Tensor) -> None:
        """Raise a ValueError unless `forward` can read such tokens, or embeddings."""
        weight = self.token.weight
        if tokens.is_floating_point():
            shape_of("tokens, as embeddings,", tokens, "B", "T", self.config.n_embd)
            if not torch.is_autocast_enabled(tokens.device.type):
                same_kind("tokens", tokens, "the model", weight)
        else:
            shape_of("tokens", tokens, "B", "T")
            if tokens.dtype not in (torch.int64, torch.int32):
                raise ValueError(f"tokens must be int64; use .long(); got {tokens.dtype}")
            if tokens.device != weight.device:
                raise ValueError(
                    f"tokens are on {tokens.device}, but the model is on {weight.device}; "
                    f"use tokens.to({str(weight.device)!r})"
                )

    def check_prefix(self, prefix: Prefix | PrefixBatch) -> None:
        """Raise a ValueError unless `prefix` was made for a model like this.

        Depth, width, dtype and device count.
        """
        for name in ("n_layer", "n_embd"):
            expected, received = getattr(self.config, name), getattr(prefix, name)
            if expected != received:
                raise ValueError(
                    f"the prefix has {name}={received}, but the model has {name}={expected}; "
                    f"make it with Prefix(n_layer={self.config.n_layer}, length=…, "
                    f"n_embd={self.config.n_embd})"
                )
        vectors, weight = prefix.vectors_of_first(), self.token.weight
        if vectors.dtype != weight.dtype or vectors.device != weight.device:
            raise ValueError(
                f"the prefix is {vectors.dtype} on {vectors.device}, but the model is "
                f"{weight.dtype} on {weight.device}; use "
                f"prefix.to({str(weight.device)!r}, {weight.dtype})"
            )


def _look_up(pairs: Tensor, *tables: Tensor) -> Iterator[Tensor]:
    """Rows of tables ``(V, T, D)`` or ``(C, V, T, D)``: ``(B, n, D)`` or ``(C, B, n, D)`` each."""
    flat = [table.movedim((-3, -2), (0, 1)).flatten(0, 1).flatten(1) for table in tables]
    found = F.embedding(pairs, torch.cat(flat, dim=-1))  # one look-up for all: (B, n, …)
    for table, rows in zip(tables, found.split([one.shape[1] for one in flat], -1), strict=True):
        yield rows if table.ndim == 3 else rows.unflatten(-1, (len(table), -1)).movedim(-2, 0)


check_public(__name__)

r"""What is the most that any prefix, of whatever length, could do to one layer?

In the first layer the query of a position is a function of its place and of the symbol that stands
there: of the pair :math:`(i, x)`. For a head and prefix keys :math:`\bar k_m` and values
:math:`\bar v_m`, put

.. math::

    c(i, x) = \log \sum_m e^{\sigma\, q(i, x)^\top \bar k_m}, \qquad
    b(i, x) = \frac{\sum_m e^{\sigma\, q(i, x)^\top \bar k_m}\, \bar v_m}{e^{c(i, x)}}.

Then the head returns :math:`(1 - \alpha) t + \alpha\, b` with
:math:`\alpha = \operatorname{sigmoid}(c - \log Z)`, where :math:`t` is what it reads without the
prefix and :math:`Z` the content's partition function. So all that a model of one layer learns of
its prefix is this `Table`: one logit and one vector for each head and pair, however long the
prefix. Which tables are those of prefixes is the question of `tables_theory`.

Here a free table is trained. The loss at a pair depends on the entries of that pair alone, so a
table is as many small independent problems as there are pairs, and the best of several tables can
be put together from the best entries of each.

Shapes: ``C`` tables, ``H`` heads, ``B`` sequences, ``T``
positions, ``V`` symbols, ``m`` positions that are computed, ``d`` the width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptlib.attention import attend
from promptlib.checks import check_public, whole_number
from promptlib.prefix_tuning.adapting import generator_for, load_model, measure, thinned
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import (
    batches,
    check_vocabulary,
    read_and_answer,
    task_named,
)
from promptlib.runs import Result
from promptlib.training import Learner, Progress, Recipe, freeze
from promptlib.training import train as minimise

COMPARED = 6400
"""Training sequences on which the entries of several tables are compared."""

CHUNK = 256
"""So many of them in one pass: few enough for the processor's cache."""


class Table(nn.Module):
    """What a prefix is to a model of one layer: a logit and a vector for each head and pair.

    Logits :math:`c(i, x)` are ``(H, T, V)``, vectors :math:`b(i, x)` ``(H, T, V, d)``, in the space
    of the head's values; both free, so that training can search among all tables.
    """

    def __init__(self, logits: Tensor, vectors: Tensor) -> None:
        super().__init__()
        if logits.ndim != 3 or vectors.shape[:-1] != logits.shape:
            raise ValueError(
                "expected logits (heads, positions, symbols) and one vector for each, got "
                f"{tuple(logits.shape)} and {tuple(vectors.shape)}"
            )
        self.logits = nn.Parameter(logits)
        self.vectors = nn.Parameter(vectors)


class Tabled:
    """A model of one layer with tables in the place of a prefix.

    It answers to the calls of `GPT` that `sequence_loss` and `score` make; several tables share
    their passes.
    """

    def __init__(self, model: GPT, tables: Sequence[Table]) -> None:
        check_one_layer(model)
        if not tables:
            raise ValueError("expected at least 1 table, got none")
        self.model, self.tables = model, tuple(tables)
        self.config, self.head = model.config, model.head

    def __call__(
        self,
        tokens: Tensor,
        prefix: Prefix | PrefixBatch | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Return the logits of the last positions: ``(B, last, V)``, ``(C, B, …)`` if C > 1."""
        if prefix is not None:
            raise ValueError("prefix must be None: tables stand in the place of a prefix")
        block = self.model.blocks[0]
        x = self.stream(tokens, tokens.shape[1] if last is None else last)
        x = x + block.mlp(block.norm_mlp(x))
        logits = self.head(self.model.norm(x))
        return logits if len(self.tables) > 1 else logits.squeeze(0)

    def stream(self, tokens: Tensor, wanted: int) -> Tensor:
        """Return the residual stream after the attention: ``(C, B, wanted, D)``."""
        attention = self.model.blocks[0].attention
        x, queries, keys, values = self.model.embed_and_read(tokens, wanted)
        read = self._read(tokens, wanted, *map(attention.heads, (queries, keys, values)))
        return x + attention.project(read.transpose(-2, -3).flatten(-2))

    def _read(
        self, tokens: Tensor, wanted: int, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return what the heads read: ``(C, B, H, m, d)``.

        The shared attention function does the work. One more coordinate, in which the only key
        with an entry is that of one prefix position, makes its logit the table's.
        """
        logits, vectors = self.look_up(tokens, wanted)
        width = queries.shape[-1]
        queries = queries.expand(len(self.tables), *queries.shape)
        queries = torch.cat([queries, logits.unsqueeze(-1)], dim=-1)
        keys = F.pad(keys, (0, 1))
        # The factor 1/sqrt(d) of the other coordinates is part of the table's logits.
        key = keys.new_zeros(1, width + 1)
        key[0, -1] = width**0.5
        read, shares = attend(
            queries, keys, values, key, values.new_zeros(1, width), causal=True, scale=width**-0.5
        )
        return read + shares[..., :1] * vectors

    def look_up(self, tokens: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """Return the entries of the last positions: ``(C, B, H, m)`` and ``(C, B, H, m, d)``."""
        n_tokens, vocab = tokens.shape[1], self.config.vocab_size
        places = torch.arange(n_tokens - wanted, n_tokens, device=tokens.device)
        pairs = places * vocab + tokens[:, -wanted:]  # (B, m)
        entries = []
        for table in self.tables:
            rows = torch.cat([table.logits.unsqueeze(-1), table.vectors], dim=-1)
            rows = rows.flatten(1, 2).transpose(0, 1).flatten(1)  # (T V, H (1 + d))
            entries.append(F.embedding(pairs, rows))
        found = torch.stack(entries).unflatten(-1, (self.config.n_head, -1)).transpose(-2, -3)
        return found[..., 0], found[..., 1:]


def check_one_layer(model: GPT) -> None:
    """Raise a ValueError unless the model has one layer; deeper queries see more than a pair."""
    if model.config.n_layer != 1:
        raise ValueError(f"a table speaks of models of one layer, got {model.config.n_layer}")


def start_table(model: GPT, logit: float) -> Table:
    """Return the table before training: the same logit everywhere, and vectors of zeros."""
    config = model.config
    shape = (config.n_head, config.block_size, config.vocab_size)
    return Table(
        torch.full(shape, float(logit)), torch.zeros(*shape, config.n_embd // config.n_head)
    )


def train(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a table for each of ``config["cells"]``, with the model of ``needs[0]`` frozen.

    All tables see the same batches, those that the prefixes of the same seed see. Each cell has its
    own learning rate and the logit that its entries start from. ``combined`` takes for each pair
    the entry with the lowest loss on further training sequences.
    """
    model = load_model(config, needs[0])
    freeze(model)
    tables = [start_table(model, cell["start_logit"]) for cell in config["cells"]]
    learners = [
        Learner(
            f"the table that starts at {cell['start_logit']:g}",
            decayed=[],
            undecayed=list(table.parameters()),
            learning_rate=cell["learning_rate"],
        )
        for cell, table in zip(config["cells"], tables, strict=True)
    ]
    together = Tabled(model, tables)
    curve = minimise(
        learners,
        lambda batch: sequence_loss(together, *batch).reshape(-1),
        _training_batches(config),
        Recipe(config["steps"], config["warmup"]),
        label=f"{len(tables)} tables, seed {config['seed']}",
        progress=progress,
    )
    tables.append(combine(model, tables, config["task"], config["seed"]))
    measured = [measure(Tabled(model, [table]), config) for table in tables]
    cells = [
        {**cell, **of_cell, "curve": thinned(curve[:, index])}
        for index, (cell, of_cell) in enumerate(zip(config["cells"], measured, strict=False))
    ]
    tensors = {
        f"{index}.{name}": tensor
        for index, table in enumerate(tables)
        for name, tensor in table.state_dict().items()
    }
    return Result({"cells": cells, "combined": measured[-1]}, tensors)


@torch.no_grad()
def combine(model: GPT, tables: Sequence[Table], task_name: str, seed: int) -> Table:
    """Put a table together from the entries that do best at each pair on `COMPARED` sequences.

    Pairs at which nothing was drawn keep the entry of the first table.
    """
    generator = generator_for(seed, "compare")
    inputs, targets = task_named(task_name).sample(COMPARED, "train", generator)
    tokens, n_outputs = read_and_answer(inputs, targets), targets.shape[1]
    losses = torch.stack(
        [
            torch.cat(
                [
                    F.cross_entropy(
                        Tabled(model, [table])(some, last=n_outputs).transpose(1, 2),
                        wanted,
                        reduction="none",
                    )
                    for some, wanted in zip(tokens.split(CHUNK), targets.split(CHUNK), strict=True)
                ]
            )
            for table in tables
        ]
    )  # (C, COMPARED, m)
    n_places, vocab = tables[0].logits.shape[1:]
    first = tokens.shape[1] - n_outputs
    pairs = (first + torch.arange(n_outputs)) * vocab + tokens[:, first:]
    sums = losses.new_zeros(len(tables), n_places * vocab)
    sums.index_add_(1, pairs.flatten(), losses.flatten(1))
    best = sums.argmin(dim=0).view(n_places, vocab)  # the first of equal ones
    logits = torch.stack([table.logits for table in tables])  # (C, H, T, V)
    vectors = torch.stack([table.vectors for table in tables])
    chosen = best.expand(1, *logits.shape[1:])
    return Table(
        logits.gather(0, chosen).squeeze(0),
        vectors.gather(0, chosen.unsqueeze(-1).expand(1, *vectors.shape[1:])).squeeze(0),
    )


def load_table(result: Result, cell: int | None = None) -> Table:
    """Rebuild the table of one cell of a run, or the combined one."""
    combined = len(result.metrics["cells"])
    index = combined if cell is None else whole_number("cell", cell, at_most=combined - 1)
    return Table(result.tensors[f"{index}.logits"], result.tensors[f"{index}.vectors"])


def _training_batches(config: Mapping[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    task = task_named(config["task"])
    check_vocabulary(task, config["model"]["vocab_size"])
    generator = generator_for(config, "data")
    return batches(task, config["steps"], config["batch_size"], generator)


check_public(__name__)

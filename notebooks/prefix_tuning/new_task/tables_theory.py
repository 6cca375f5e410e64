r"""Which tables are those of prefixes?

A prefix of a model of one layer amounts to a table: a logit :math:`c` and a vector :math:`b` for
each head and each pair of a place :math:`i` and a symbol :math:`x` (`tables`). `table_of` goes from
a prefix to its table. `prefix_of` goes back, as far as one can.

The query of a pair is

.. math::

    q(i, x) = r_{ix}\, A\,(e_x + p_i) + a, \qquad r_{ix} > 0,

with embeddings :math:`e_x` of symbols and :math:`p_i` of places, :math:`A = W_Q \Gamma P` and
:math:`a = W_Q \beta + b_Q` (gains :math:`\Gamma`, shifts :math:`\beta` and centring :math:`P` of
the LayerNorm; without one, :math:`r = 1` and :math:`\Gamma = P = I`). Where all :math:`A e_x`, all
:math:`A p_i` and :math:`a` are linearly independent, there is for each pair a vector :math:`g` with
:math:`g^\top q = 0` at that pair and :math:`g^\top q < 0` at all others. A prefix with one vector a
pair, whose keys go far along these, has nearly any table that one likes.

Shapes: ``H`` heads, ``T`` places, ``V`` symbols, ``n``
pairs, ``p`` prefix vectors, ``d`` the width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from notebooks.prefix_tuning.new_task.tables import Table, check_one_layer
from promptlib.checks import check_public
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix

MARGIN = 45.0
"""Nats by which the vector of a pair outweighs all others there: a share of 3e-20 for each."""


@torch.no_grad()
def queries_of_pairs(model: GPT) -> Tensor:
    """Return the first layer's query of each pair of place and symbol: ``(H, T, V, d)``."""
    block = model.blocks[0]
    pairs = model.token.weight + model.position.weight.unsqueeze(1)  # (T, V, D)
    queries: Tensor = block.attention.query(block.norm_attention(pairs))
    return queries.unflatten(-1, (model.config.n_head, -1)).movedim(-2, 0)


@torch.no_grad()
def table_of(model: GPT, prefix: Prefix) -> Table:
    """Return the table of a prefix; with it the model of one layer computes the same logits."""
    check_one_layer(model)
    model.check_prefix(prefix)
    attention = model.blocks[0].attention
    for_keys, for_values = cast(tuple[Tensor, Tensor], model.read_prefix(prefix, 0))
    keys = attention.heads(attention.key(for_keys))  # (H, p, d)
    values = attention.heads(attention.value(for_values))
    queries = queries_of_pairs(model)  # (H, T, V, d)
    scores = torch.einsum("htvd,hpd->htvp", queries, keys) * queries.shape[-1] ** -0.5
    vectors = torch.einsum("htvp,hpd->htvd", scores.softmax(dim=-1), values)
    return Table(scores.logsumexp(dim=-1), vectors)


@torch.no_grad()
def parts_of_queries(model: GPT, places: Sequence[int], symbols: Sequence[int]) -> Tensor:
    """Return the images of symbols, of places, and of zero: ``(H, symbols + places + 1, d)``."""
    check_one_layer(model)
    block = model.blocks[0]
    embeddings = torch.cat([model.token.weight[list(symbols)], model.position.weight[list(places)]])
    shift = torch.zeros_like(embeddings[:1])
    if model.config.first_layer_norm:
        norm = block.norm_attention
        centred = embeddings - embeddings.mean(dim=-1, keepdim=True)
        embeddings = centred * cast(Tensor, norm.weight)
        shift = cast(Tensor, norm.bias).unsqueeze(0)
    query = block.attention.query
    parts = torch.cat([embeddings @ query.weight.T, query(shift)])
    return parts.unflatten(-1, (model.config.n_head, -1)).transpose(0, 1)


@torch.no_grad()
def exposing_keys(model: GPT, places: Sequence[int], symbols: Sequence[int]) -> Tensor:
    """Return a vector for each head and pair that is orthogonal to the query of that pair alone.

    ``(H, n, d)``, places first. Products with the queries of all other pairs are at most -1; that
    needs parts of the queries that are linearly independent, to rounding.
    """
    parts = parts_of_queries(model, places, symbols)
    count = parts.shape[1]
    if int(torch.linalg.matrix_rank(parts).min()) < count:
        raise ValueError(
            f"{count} parts of queries in {parts.shape[-1]} dimensions are linearly dependent; "
            "take fewer places or symbols"
        )
    n_symbols, n_places = len(symbols), len(places)
    wanted = -parts.new_ones(n_places, n_symbols, count)
    wanted[..., -1] = 0.0  # nothing along a
    for place in range(n_places):
        wanted[place, :, n_symbols + place] = 0.0
    for symbol in range(n_symbols):
        wanted[:, symbol, symbol] = 0.0
    keys = wanted.flatten(0, 1) @ torch.linalg.pinv(parts).mT  # (H, n, d)
    products = _of_pairs(queries_of_pairs(model), places, symbols) @ keys.mT  # (H, query, key)
    n = keys.shape[1]
    others = products.masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf).amax(dim=-2)
    return keys / -others.unsqueeze(-1)


@torch.no_grad()
def prefix_of(
    model: GPT,
    table: Table,
    places: Sequence[int],
    symbols: Sequence[int],
    margin: float = MARGIN,
) -> Prefix:
    """Build a prefix, one vector a pair, that has nearly the entries of `table` at these pairs.

    At a pair the vectors of all other pairs have logits that lie at least `margin` below its own.
    So with ``n`` pairs its logit is that of the table plus at most ``(n - 1) exp(-margin)``, and
    its vector mixes the others' in with shares of at most that. In float64, as the keys are long;
    without LayerNorm, keys and values apart.
    """
    if not margin > 0:
        raise ValueError(f"expected margin > 0, got {margin}")
    queries = _of_pairs(queries_of_pairs(model), places, symbols)  # (H, n, d)
    scale = queries.shape[-1] ** 0.5
    logits = table.logits[:, list(places)][:, :, list(symbols)].flatten(1)  # (H, n)
    values = _of_pairs(table.vectors, places, symbols)
    # The part along the own query makes its logit; the exposing part silences all others.
    along = queries / queries.square().sum(dim=-1, keepdim=True)
    n = queries.shape[1]
    heights = queries @ (logits.unsqueeze(-1) * along).mT  # (H, query, key), own ones right
    too_high = (heights - logits.unsqueeze(-1)).masked_fill(torch.eye(n, dtype=torch.bool), 0.0)
    push = margin + too_high.amax(dim=-2).clamp_min(0.0).unsqueeze(-1)  # (H, n, 1)
    exposing = exposing_keys(model, places, symbols)
    keys = scale * (logits.unsqueeze(-1) * along + push * exposing)
    prefix = Prefix(1, n, model.config.n_embd, separate_values=True, layer_norm=False)
    prefix = prefix.to(queries.dtype)
    attention = model.blocks[0].attention
    for vectors, wanted, linear in (
        (prefix.vectors, keys, attention.key),
        (cast(Tensor, prefix.value_vectors), values, attention.value),
    ):
        beside = wanted.transpose(0, 1).flatten(1)  # (n, D): heads side by side
        vectors[0] = torch.linalg.solve(linear.weight, (beside - linear.bias).T).T
    return prefix


def log_convexity_excess(queries: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    r"""Return :math:`c(\sum_j \lambda_j q_j) - \sum_j \lambda_j c(q_j)`, which is never positive.

    The logit of a prefix with `keys` ``(…, p, d)`` at a mixture of `queries` ``(…, n, d)``, with
    `weights` ``(…, n)`` that are positive and sum to one, and the mixture of its logits.
    """
    scale = queries.shape[-1] ** -0.5
    mixture = (weights.unsqueeze(-1) * queries).sum(dim=-2, keepdim=True)
    at_mixture = (mixture @ keys.mT * scale).logsumexp(dim=-1).squeeze(-1)
    at_queries = (queries @ keys.mT * scale).logsumexp(dim=-1)
    return at_mixture - (weights * at_queries).sum(dim=-1)


def _of_pairs(entries: Tensor, places: Sequence[int], symbols: Sequence[int]) -> Tensor:
    """Pick the pairs of a tensor ``(H, T, V, d)``: ``(H, n, d)``."""
    return entries[:, list(places)][:, :, list(symbols)].flatten(1, 2)


check_public(__name__)

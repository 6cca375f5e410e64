"""What do trained prefixes of several lengths achieve, and how much of them is in use?

Of every question, length and seed the prefix with the lowest validation loss counts. How it is used
is measured for each layer and head; prefixes of length one are combined.

Shapes: ``L`` layers, ``H`` heads, ``B`` sequences, ``p`` prefix vectors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from notebooks.prefix_tuning.long_prefixes import spread
from notebooks.prefix_tuning.long_prefixes.plan import KNOWN, QUESTIONS
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import geometry
from promptlib.prefix_tuning.adapting import generator_for, load_model, new_prefix
from promptlib.prefix_tuning.evaluation import CHUNK
from promptlib.prefix_tuning.gpt import GPT, Block
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH, SORT_DESCENDING, read_and_answer
from promptlib.prefix_tuning.trials import Get, Trials, rebuild


@dataclass(frozen=True)
class Use:
    """How a prefix is used, by layer and head; rows are those that write the answer.

    All are means over rows but `in_use` and `rank`, and have shape (L, H) but `weights`.
    """

    weights: Tensor  # (L, H, p), attention to each prefix vector, within the prefix
    number: Tensor  # effective number of prefix positions of a row
    in_use: Tensor  # effective number of positions over all rows together
    rank: Tensor  # effective rank of the biases
    share: Tensor  # of attention that the prefix takes
    distance: Tensor  # of the points aimed at from their mean
    limit: Tensor  # its bound


def lengths(trials: Trials) -> list[int]:
    """All lengths, in increasing order."""
    return list(trials.where(method="prefix").by("length"))


def longest(trials: Trials) -> int:
    """The largest length."""
    return lengths(trials)[-1]


def best(trials: Trials, question: str, length: int | None = None) -> Trials:
    """The best prefix of each seed, of one length or of all.

    By loss: at a task that no prefix learns, accuracies are all but equal.
    """
    tried = trials.where(method="prefix", question=question)
    return (tried if length is None else tried.where(length=length)).best(by="loss")


def uses(trials: Trials, get: Get, tokens: Tensor) -> dict[str, dict[int, list[Use]]]:
    """How the best prefixes are used on sequences (B, 19): by question, length, seed."""

    def measure(question: str, length: int) -> list[Use]:
        used = []
        for one in best(trials, question, length):
            model, prefix = rebuild(one, get)
            assert prefix is not None
            used.append(use_of(in_float64(model), in_float64(prefix), tokens))
        return used

    return {
        question: {length: measure(question, length) for length in lengths(trials)}
        for question in QUESTIONS
    }


def untrained(trials: Trials, get: Get, tokens: Tensor, generator: torch.Generator) -> list[Use]:
    """For each trial the use of a prefix that is freshly drawn, at the same init scale."""
    used = []
    for one in trials:
        assert one.init_std is not None
        config = one.run.config
        model = in_float64(load_model(config, get(one.run.needs[0])))
        drawn = in_float64(new_prefix(config, one.init_std, generator))
        used.append(use_of(model, drawn, tokens))
    return used


@torch.no_grad()
def use_of(model: GPT, prefix: Prefix, tokens: Tensor) -> Use:
    """Measure how the writing rows use a prefix; all in float64, `tokens` of shape (B, 19)."""
    _, attention = model(tokens, prefix, return_attention=True)
    weights = attention[..., -SEQUENCE_LENGTH:, : prefix.length]  # (L, B, H, 10, p)
    weights = weights.transpose(1, 2).flatten(2, 3)  # (L, H, rows, p)
    values = torch.stack([_values(model, prefix, layer) for layer in range(len(model.blocks))])
    # A row that gives the prefix nothing has no weights within it; the smallest share counts.
    weights = weights.clamp_min(1e-300)
    return Use(
        weights=(weights / weights.sum(-1, keepdim=True)).mean(-2),
        number=geometry.effective_number(weights).mean(-1),
        in_use=geometry.number_in_use(weights),
        rank=geometry.effective_rank(weights @ values),
        share=weights.sum(-1).mean(-1),
        distance=spread.bias_spread(weights, values),
        limit=spread.spread_limit(weights, values),
    )


def _values(model: GPT, prefix: Prefix, layer: int) -> Tensor:
    block = model.blocks[layer]
    assert isinstance(block, Block)
    shown = model.read_prefix(prefix, layer)
    assert shown is not None
    return block.attention.heads(block.attention.value(shown[1]))  # (H, p, d)


def joined(prefixes: Sequence[Prefix]) -> Prefix:
    """One prefix with the vectors of all, one after another, in every layer."""
    return _built(prefixes, lambda vectors: torch.cat(vectors, dim=1))


def averaged(prefixes: Sequence[Prefix]) -> Prefix:
    """One prefix whose vectors are the means of those of prefixes of one length."""
    return _built(prefixes, lambda vectors: torch.stack(vectors).mean(0))


def _built(prefixes: Sequence[Prefix], combine: Callable[[list[Tensor]], Tensor]) -> Prefix:
    if not prefixes:
        raise ValueError("expected at least 1 prefix, got none")
    vectors = combine([prefix.vectors.detach() for prefix in prefixes])
    first = prefixes[0]
    built = Prefix(
        first.n_layer,
        vectors.shape[1],
        first.n_embd,
        separate_values=first.value_vectors is not None,
        layer_norm=first.layer_norm,
    ).to(vectors)
    with torch.no_grad():
        built.vectors.copy_(vectors)
        if built.value_vectors is not None:
            values = [prefix.value_vectors for prefix in prefixes]
            built.value_vectors.copy_(combine([one.detach() for one in values if one is not None]))
    return built


def combine(short: Trials, get: Get, sequences: int) -> dict[str, float]:
    """Accuracies, in [0, 1], of one seed's short prefixes and of what is made of them.

    ``single`` is the mean over them, ``ensemble`` that of the mean of their predicted
    log-probabilities; nothing is trained further.
    """
    pairs = [rebuild(one, get) for one in short]
    model = pairs[0][0].requires_grad_(False)
    prefixes = [prefix for _, prefix in pairs if prefix is not None]
    inputs, targets = SORT_DESCENDING.sample(
        sequences, "test", generator_for(short[0].run.config, "test")
    )
    tokens = read_and_answer(inputs, targets)

    def predicted(prefix: Prefix) -> Tensor:  # logits, (sequences, 10, V)
        with torch.no_grad():
            return torch.cat(
                [model(some, prefix, last=SEQUENCE_LENGTH) for some in tokens.split(CHUNK)]
            )

    def accuracy(logits: Tensor) -> float:
        return float((logits.argmax(-1) == targets).all(-1).double().mean())

    one_by_one = [predicted(prefix) for prefix in prefixes]
    together = torch.stack([logits.log_softmax(-1) for logits in one_by_one]).mean(0)
    return {
        "single": statistics.fmean(map(accuracy, one_by_one)),
        "averaged": accuracy(predicted(averaged(prefixes))),
        "concatenated": accuracy(predicted(joined(prefixes))),
        "ensemble": accuracy(together),
    }


def combined(trials: Trials, get: Get, sequences: int) -> list[dict[str, float]]:
    """What `combine` returns for each seed, and ``trained``: of a prefix of that length.

    If none was trained at the length of the concatenation, it is one of the next length below.
    """
    by_seed = list(trials.where(method="short prefixes").by("seed").values())
    length = max(one for one in lengths(trials) if one <= len(by_seed[0]))
    return [
        {**combine(short, get, sequences), "trained": one.metrics["accuracy"][one.task]}
        for short, one in zip(by_seed, best(trials, KNOWN, length), strict=True)
    ]


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % t-interval, in words."""
    half = claims.t_half_width(values)
    mean = f"{float(np.mean(values)):.2f}"
    return mean if half is None else f"{mean} ± {half:.2f}"


check_public(__name__)

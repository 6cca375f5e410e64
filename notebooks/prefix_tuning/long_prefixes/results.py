"""What do trained prefixes of several lengths achieve, and how much of them is in use?

`collect` reads the runs of a plan. For every question, length and seed it keeps the best prefix of
the sweep and measures, for each layer and head, how attention spreads over its positions and how
many directions the biases fill. From prefixes of length one it builds concatenations, means and an
ensemble.

Shapes in comments: ``L`` layers, ``H`` heads, ``B`` sequences, ``p`` prefix vectors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from notebooks.prefix_tuning.long_prefixes import spread
from notebooks.prefix_tuning.long_prefixes.plan import KNOWN, LongPlan
from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import generator_for, load_model, load_prefix, new_prefix
from promptlib.prefix_tuning.evaluation import sequence_accuracy
from promptlib.prefix_tuning.gpt import GPT, Block
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import best_cell, cells_of, lowest_loss_cell
from promptlib.prefix_tuning.tasks import (
    SEQUENCE_LENGTH,
    SORT_DESCENDING,
    read_and_answer,
)
from promptlib.runs import Result, Run

__all__ = [
    "Combined", "Measured", "Tuned", "Use", "averaged", "collect", "joined", "untrained", "use_of",
]  # fmt: skip

TASK = "sort_descending"
Get = Callable[[Run], Result]


@dataclass(frozen=True)
class Use:
    """How a prefix is used, by layer and head; rows are those that write the answer.

    Attributes
    ----------
    weights : Tensor, shape (L, H, p)
        Mean attention to each prefix vector, within the prefix.
    number : Tensor, shape (L, H)
        Mean effective number of prefix positions of a row.
    in_use : Tensor, shape (L, H)
        Effective number of positions over all rows together.
    rank : Tensor, shape (L, H)
        Effective rank of the biases.
    share : Tensor, shape (L, H)
        Mean share of attention that the prefix takes.
    distance, limit : Tensor, shape (L, H)
        Mean distance of the points aimed at from their mean, and its bound.
    """

    weights: Tensor
    number: Tensor
    in_use: Tensor
    rank: Tensor
    share: Tensor
    distance: Tensor
    limit: Tensor


@dataclass(frozen=True)
class Tuned:
    """The best prefix of a sweep, that with the lowest validation loss.

    Attributes
    ----------
    length : int
    accuracy, loss : float
        On test sequences of the task asked for.
    validation_loss : float
        By which it was chosen, and lengths can be.
    learning_rate, init_std : float
        Of the best cell.
    cells : sequence of mapping
        All cells, for the spread over the sweep.
    use : Use
    """

    length: int
    accuracy: float
    loss: float
    validation_loss: float
    learning_rate: float
    init_std: float
    cells: Sequence[Mapping[str, Any]]
    use: Use


@dataclass(frozen=True)
class Combined:
    """Accuracies of single short prefixes and of what is made of them, in [0, 1].

    Attributes
    ----------
    single : float
        Mean over the short prefixes.
    averaged : float
        One prefix whose vectors are their means.
    concatenated : float
        All of them, one after another, without further training.
    ensemble : float
        Mean of the predicted log-probabilities of the short ones.
    trained : float
        A prefix that was trained at the length of the concatenation, or at the next one below.
    """

    single: float
    averaged: float
    concatenated: float
    ensemble: float
    trained: float


@dataclass(frozen=True)
class Measured:
    """Everything, by question.

    Attributes
    ----------
    tuned : mapping of mapping of sequence of Tuned
        By question and length, one for each seed.
    combined : sequence of Combined
        For the known task, one for each seed.
    bases : mapping of sequence of float
        Accuracy without a prefix, in [0, 1].
    control : sequence of float
        Accuracy at the new task of the best fine-tuned model of each seed, in [0, 1].
    trials : int
        Test sequences behind each accuracy.
    """

    tuned: Mapping[str, Mapping[int, Sequence[Tuned]]]
    combined: Sequence[Combined]
    bases: Mapping[str, Sequence[float]]
    control: Sequence[float]
    trials: int

    def best(self, question: str, length: int) -> list[float]:
        """Accuracy of each seed in percent."""
        return [100 * one.accuracy for one in self.tuned[question][length]]


def collect(plan: LongPlan, get: Get, tokens: Tensor, sequences: int) -> Measured:
    """Read the runs of `plan`; `get` is that of a run store.

    Parameters
    ----------
    tokens : Tensor, shape (B, 19)
        On which the use of prefixes is measured.
    sequences : int
        Test sequences for the accuracies of combined prefixes.
    """
    tuned = {
        question: {length: [_best(run, get, tokens) for run in runs] for length, runs in by.items()}
        for question, by in plan.sweeps.items()
    }
    length = max(one for one in tuned[KNOWN] if one <= len(plan.short[0].config["cells"]))
    combined = [
        _combine(run, get, sequences, tuned[KNOWN][length][seed].accuracy)
        for seed, run in enumerate(plan.short)
    ]
    bases = {
        question: [get(run).metrics["accuracy"][TASK] for run in runs]
        for question, runs in plan.bases.items()
    }
    control = [best_cell(cells_of(runs, get), TASK).percent(TASK) / 100 for runs in plan.control]
    return Measured(tuned, combined, bases, control, plan.short[0].config["test_sequences"])


def _best(run: Run, get: Get, tokens: Tensor) -> Tuned:
    result = get(run)
    cells = result.metrics["cells"]
    # By loss: at a task that no prefix learns, accuracies are all but equal.
    best = lowest_loss_cell(cells_of(run, get))
    index = best.index
    model = in_float64(load_model(run.config, get(run.needs[0])))
    prefix = in_float64(load_prefix(run.config, result, index))
    cell = cells[index]
    return Tuned(
        length=run.config["length"],
        accuracy=cell["accuracy"][TASK],
        loss=cell["loss"][TASK],
        validation_loss=best.validation_loss,
        learning_rate=cell["learning_rate"],
        init_std=cell["init_std"],
        cells=cells,
        use=use_of(model, prefix, tokens),
    )


def untrained(
    runs: Sequence[Run],
    tuned: Sequence[Tuned],
    get: Get,
    tokens: Tensor,
    generator: torch.Generator,
) -> list[Use]:
    """For each run the use of a prefix that is freshly drawn, at the init scale of the best one."""
    uses = []
    for run, best in zip(runs, tuned, strict=True):
        model = in_float64(load_model(run.config, get(run.needs[0])))
        drawn = in_float64(new_prefix(run.config, best.init_std, generator))
        uses.append(use_of(model, drawn, tokens))
    return uses


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
        number=spread.effective_number(weights).mean(-1),
        in_use=spread.number_in_use(weights),
        rank=spread.effective_rank(weights @ values),
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


def _combine(run: Run, get: Get, sequences: int, trained: float) -> Combined:
    result = get(run)  # which may train, so gradients stay on
    model = load_model(run.config, get(run.needs[0])).requires_grad_(False)
    prefixes = [load_prefix(run.config, result, cell) for cell in range(len(run.config["cells"]))]

    def accuracy(prefix: Prefix) -> float:
        generator = generator_for(run.config, "test")
        return sequence_accuracy(model, SORT_DESCENDING, sequences, prefix, generator)

    generator = generator_for(run.config, "test")
    inputs, targets = SORT_DESCENDING.sample(sequences, "test", generator)
    tokens = read_and_answer(inputs, targets)
    predicted = torch.stack(
        [
            model(tokens, prefix, last=SEQUENCE_LENGTH).detach().log_softmax(-1)
            for prefix in prefixes
        ]
    )
    right = (predicted.mean(0).argmax(-1) == targets).all(-1)
    return Combined(
        single=statistics.fmean(accuracy(prefix) for prefix in prefixes),
        averaged=accuracy(averaged(prefixes)),
        concatenated=accuracy(joined(prefixes)),
        ensemble=float(right.double().mean()),
        trained=trained,
    )


check_public(__name__)

r"""How are prompt and layer trained on the same few bags, and tuned with the same effort?

The learners of one run differ in learning rate and weight decay. For every one of them the problems
of all sizes are solved side by side, stacked along a first dimension: AdamW works number by number,
so each problem moves as it would alone (and there is no clipping, which would couple them). The
loss is logistic.

Shapes in comments: ``S`` settings, ``N`` sizes, ``B`` bags of a batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from promptlib.attention import attend
from promptlib.prompt_attention.attention_layer import (
    LayerWeights,
    containing_layer,
    layer_scores,
    random_layer,
)
from promptlib.prompt_attention.mixture import Bags, ContextualMixture
from promptlib.runs import Result
from promptlib.training import Learner, Recipe, train

__all__ = ["prompt_scores", "train_few_samples", "validation_share"]


def validation_share(size: int) -> int:
    """How many of ``size`` bags are kept for validation: a quarter."""
    return size // 4


def prompt_scores(tokens: Tensor, w: Tensor, q: Tensor) -> Tensor:
    """Prompt-attention for models side by side: tokens (..., n, T, d), w and q (..., d)."""
    values = tokens @ w[..., None, :, None]  # (..., n, T, 1)
    scores, _ = attend(q[..., None, None, :], tokens, values, scale=1.0)
    return scores[..., 0, 0]


def train_few_samples(
    config: Mapping[str, Any], needs: Sequence[Result], progress: Callable[..., Iterator[Any]]
) -> Result:
    """Train one learner of :mod:`promptlib.prompt_attention.few_samples` at all sizes.

    Parameters
    ----------
    config : Mapping
        As written by :func:`promptlib.prompt_attention.few_samples.plan`.
    needs : sequence of Result
        Empty.
    progress : callable

    Returns
    -------
    Result
        ``metrics["chosen"]``: for each size the learning rate, weight decay and step that
        validation chose, the validation loss, and the test error there. No tensors.
    """
    mixture = ContextualMixture(**config["mixture"], dtype=torch.float32)
    sizes, steps, every = config["sizes"], config["steps"], config["check_every"]
    settings = list(itertools.product(config["learning_rates"], config["weight_decays"]))
    # Every learner of a seed gets the same bags; a smaller data set is the beginning of a larger.
    bags = mixture.sample(max(sizes), torch.Generator().manual_seed(2 * config["seed"]))
    order = torch.Generator().manual_seed(2 * config["seed"] + 1)
    weights, scores = _start(config["learner"], mixture.dim, len(sizes), order)
    copies = [[nn.Parameter(w.clone()) for w in weights] for _ in settings]
    learners = [
        Learner(
            f"{config['learner']} (weight decay {decay:g})",
            decayed=copy if decay else [],
            undecayed=[] if decay else copy,
            learning_rate=rate,
        )
        for copy, (rate, decay) in zip(copies, settings, strict=True)
    ]
    (decay,) = {decay for _, decay in settings if decay} or {0.0}

    def stacked() -> list[Tensor]:
        return [torch.stack(parts) for parts in zip(*copies, strict=True)]  # (S, N, ...)

    best = _Best(len(sizes))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(steps):
            if step % every == 0:
                best.look(step, stacked(), scores, bags, sizes)
            chosen = [
                torch.randint(size - validation_share(size), (config["batch"],), generator=order)
                for size in sizes
            ]
            rows = torch.stack(chosen)  # (N, B)
            yield bags.tokens[rows], bags.labels[rows]

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        tokens, labels = batch
        margins = labels * scores(tokens.expand(len(settings), *tokens.shape), stacked())
        return softplus(-margins).mean(-1).sum(-1)  # (S,)

    recipe = Recipe(steps=steps, warmup=0, weight_decay=decay, clip_norm=math.inf)
    train(learners, loss, batches(), recipe, label=config["learner"], progress=progress)
    best.look(steps, stacked(), scores, bags, sizes)

    test = mixture.sample(config["test_bags"], order)
    rows = []
    for column, size in enumerate(sizes):
        picked = [part[None] for part in best.weights[column]]
        margins = test.labels * scores(test.tokens[None], picked)[0]
        rate, decay = settings[best.setting[column]]
        rows.append(
            {
                "size": size,
                "learning_rate": rate,
                "weight_decay": decay,
                "step": best.step[column],
                "validation_loss": best.loss[column],
                # A score of exactly zero, as of a head that never moved, is a coin toss.
                "test_error": float(((margins < 0) + 0.5 * (margins == 0)).double().mean()),
            }
        )
    return Result({"chosen": rows})


Scores = Callable[[Tensor, Sequence[Tensor]], Tensor]


def _start(
    learner: str, dim: int, sizes: int, generator: torch.Generator
) -> tuple[list[Tensor], Scores]:
    """Weights (N, ...) at the start, and how they score bags."""
    zero = torch.zeros(sizes, dim)
    if learner == "prompt":
        return [zero, zero.clone()], lambda tokens, parts: prompt_scores(tokens, *parts)
    if learner == "layer":
        weights = containing_layer(zero, zero.clone())
    elif learner == "layer, random start":
        weights = random_layer((dim,), generator)
        weights = LayerWeights(*(part.expand(sizes, *part.shape) for part in weights))
    else:
        raise ValueError(f"unknown learner {learner!r}")
    return list(weights), lambda tokens, parts: layer_scores(tokens, LayerWeights(*parts))


class _Best:
    """For each size the setting and step with the smallest validation loss so far."""

    def __init__(self, sizes: int) -> None:
        self.loss = [math.inf] * sizes
        self.setting = [0] * sizes
        self.step = [0] * sizes
        self.weights: list[list[Tensor]] = [[] for _ in range(sizes)]

    @torch.no_grad()
    def look(
        self, step: int, parts: Sequence[Tensor], scores: Scores, bags: Bags, sizes: Sequence[int]
    ) -> None:
        for column, size in enumerate(sizes):
            kept = slice(size - validation_share(size), size)
            mine = [part[:, column] for part in parts]  # (S, ...)
            tokens = bags.tokens[kept].expand(len(mine[0]), -1, -1, -1)
            losses = softplus(-bags.labels[kept] * scores(tokens, mine)).mean(-1)  # (S,)
            smallest = int(losses.argmin())
            if float(losses[smallest]) < self.loss[column]:
                self.loss[column] = float(losses[smallest])
                self.setting[column], self.step[column] = smallest, step
                self.weights[column] = [part[smallest].clone() for part in mine]

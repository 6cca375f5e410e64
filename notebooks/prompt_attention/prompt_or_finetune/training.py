r"""How are prompt and layer trained on the same few bags, and tuned with the same effort?

For every weight decay and learning rate the problems of all sizes are solved side by side, stacked
along a first dimension: AdamW works number by number, so each problem moves as it would alone (and
there is no clipping, which would couple them). The loss is logistic.

Shapes in comments: ``S`` learning rates, ``N`` sizes, ``B`` bags of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from notebooks.prompt_attention.prompt_or_finetune.attention_layer import (
    LayerWeights,
    containing_layer,
    layer_scores,
    random_layer,
)
from promptlib.attention import attend
from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import Bags, ContextualMixture
from promptlib.runs import Result
from promptlib.training import Learner, Recipe, train

__all__ = ["layer_read", "prompt_read", "prompt_scores", "train_few_samples", "validation_share"]


def validation_share(size: int) -> int:
    """How many of ``size`` bags are kept for validation: a quarter."""
    return size // 4


def prompt_scores(tokens: Tensor, w: Tensor, q: Tensor) -> Tensor:
    """Prompt-attention for models side by side: tokens (..., n, T, d), w and q (..., d)."""
    values = tokens @ w[..., None, :, None]  # (..., n, T, 1)
    scores, _ = attend(q[..., None, None, :], tokens, values, scale=1.0)
    return scores[..., 0, 0]


Scores = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""Scores of bags (..., n, T, d) from a list of weights with leading dimensions ``...``."""


def train_few_samples(
    config: Mapping[str, Any], needs: Sequence[Result], progress: Callable[..., Iterator[Any]]
) -> Result:
    """Train one learner of `plan` at all sizes.

    The metrics hold what validation chose for each size and the test error there, ``chosen``, and
    ``by_weight_decay`` the same had there been but one weight decay.
    """
    mixture = ContextualMixture(**config["mixture"], dtype=torch.float32)
    sizes, seed = config["sizes"], config["seed"]
    # Every learner of a seed gets the same bags; a smaller data set is the beginning of a larger.
    bags = mixture.sample(max(sizes), torch.Generator().manual_seed(3 * seed))
    test = mixture.sample(config["test_bags"], torch.Generator().manual_seed(3 * seed + 1))
    scores = prompt_read if config["learner"] == "prompt" else layer_read
    by_decay = {}
    for decay in config["weight_decays"]:
        choices = _train_one_decay(config, decay, scores, bags, progress)
        by_decay[decay] = [
            choice.report(size, test, scores) for size, choice in zip(sizes, choices, strict=True)
        ]
    candidates = zip(*by_decay.values(), strict=True)  # for each size
    chosen = [min(rows, key=lambda row: row["validation_loss"]) for rows in candidates]
    return Result(
        {
            "chosen": chosen,
            "by_weight_decay": {f"{decay:g}": rows for decay, rows in by_decay.items()},
        }
    )


def prompt_read(tokens: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Scores of prompt and head, as a list of weights."""
    return prompt_scores(tokens, *weights)


def layer_read(tokens: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Scores of the layer, as a list of weights."""
    return layer_scores(tokens, LayerWeights(*weights))


@dataclass
class _Choice:
    """The weights with the smallest validation loss so far, and where they come from."""

    loss: float = math.inf
    learning_rate: float = math.nan
    weight_decay: float = math.nan
    step: int = 0
    weights: Sequence[Tensor] = ()

    def report(self, size: int, test: Bags, scores: Scores) -> dict[str, Any]:
        margins = test.labels * scores(test.tokens, self.weights)
        # A score of exactly zero, as of a head that never moved, is a coin toss.
        mistakes = (margins < 0) + 0.5 * (margins == 0)
        return {
            "size": size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "step": self.step,
            "validation_loss": self.loss,
            "test_error": float(mistakes.double().mean()),
        }


def _train_one_decay(
    config: Mapping[str, Any],
    decay: float,
    scores: Scores,
    bags: Bags,
    progress: Callable[..., Iterator[Any]],
) -> list[_Choice]:
    """Train with every learning rate; for each size, what validation chooses."""
    best = [_Choice() for _ in config["sizes"]]
    sizes, rates = config["sizes"], config["learning_rates"]
    # The same start and the same order of bags for every weight decay.
    order = torch.Generator().manual_seed(3 * config["seed"] + 2)
    start = _start(config["learner"], config["mixture"]["dim"], len(sizes), order)
    copies = [[nn.Parameter(weight.clone()) for weight in start] for _ in rates]
    learners = [
        Learner(config["learner"], decayed=copy, undecayed=[], learning_rate=rate)
        for copy, rate in zip(copies, rates, strict=True)
    ]

    def stacked() -> list[Tensor]:
        return [torch.stack(parts) for parts in zip(*copies, strict=True)]  # (S, N, ...)

    @torch.no_grad()
    def validate(step: int) -> None:
        weights = stacked()
        for column, (size, choice) in enumerate(zip(sizes, best, strict=True)):
            kept = slice(size - validation_share(size), size)
            mine = [weight[:, column] for weight in weights]  # (S, ...)
            tokens = bags.tokens[kept].expand(len(rates), -1, -1, -1)
            losses = softplus(-bags.labels[kept] * scores(tokens, mine)).mean(-1)  # (S,)
            smallest = int(losses.argmin())
            if float(losses[smallest]) < choice.loss:
                choice.loss, choice.step = float(losses[smallest]), step
                choice.learning_rate, choice.weight_decay = rates[smallest], decay
                choice.weights = [weight[smallest].clone() for weight in mine]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(config["steps"]):
            if step % config["check_every"] == 0:
                validate(step)
            rows = torch.stack(
                [
                    torch.randint(
                        size - validation_share(size), (config["batch"],), generator=order
                    )
                    for size in sizes
                ]
            )  # (N, B)
            yield bags.tokens[rows], bags.labels[rows]

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        tokens, labels = batch
        margins = labels * scores(tokens.expand(len(rates), *tokens.shape), stacked())
        return softplus(-margins).mean(-1).sum(-1)  # (S,)

    recipe = Recipe(config["steps"], warmup=0, weight_decay=decay, clip_norm=math.inf)
    label = f"{config['learner']}, weight decay {decay:g}"
    train(learners, loss, batches(), recipe, label=label, progress=progress)
    validate(config["steps"])
    return best


def _start(learner: str, dim: int, sizes: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Weights (N, ...) at the start."""
    zero = torch.zeros(sizes, dim)
    if learner == "prompt":
        return [zero, zero]
    if learner == "layer":
        return containing_layer(zero, zero)
    if learner == "layer, random start":
        return [part.expand(sizes, *part.shape) for part in random_layer((dim,), generator)]
    raise ValueError(f"unknown learner {learner!r}")


check_public(__name__)

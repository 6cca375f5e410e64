"""Are three steps worth anything beside training the models to the end?

All four models of the book, trained on the same bags as the book's one training loop does it
(AdamW, squared loss, no weight decay), and the three steps of result A2 on as many bags. What is
tuned is tuned alike: every method gets the same number of settings (learning rates, or lengths of
the prompt step), and a validation set of the same size chooses the setting and, for trained models,
the moment to stop. The test bags serve once, for the chosen one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from notebooks.prompt_attention.first_gradient.side_by_side import train_rows
from promptlib.checks import check_public
from promptlib.progress import progress_bar
from promptlib.prompt_attention.descent import population_descent
from promptlib.prompt_attention.mixture import Bags, ContextualMixture
from promptlib.prompt_attention.models import (
    linear_attention,
    mean_pooling,
    prompt_attention,
    self_attention,
)
from promptlib.prompt_attention.sampled_descent import gradients
from promptlib.training import Recipe

__all__ = [
    "METHODS",
    "TRAINED_MODELS",
    "Budget",
    "Compared",
    "Tuned",
    "compare",
    "compare_seeds",
    "three_steps",
    "train_model",
]


@dataclass(frozen=True)
class TrainedModel:
    """A model as a function of one bag, and how large its weights are."""

    score: Callable[..., Tensor]  # ``score(tokens, *weights)``
    # Maps the width ``d`` to the shapes of the weights
    shapes: Callable[[int], tuple[tuple[int, ...], ...]]


TRAINED_MODELS: Mapping[str, TrainedModel] = {
    "prompt-attention": TrainedModel(prompt_attention, lambda d: ((d,), (d,))),
    "self-attention": TrainedModel(self_attention, lambda d: ((d,), (d, d))),
    "linear prompt-attention": TrainedModel(linear_attention, lambda d: ((d,), (d,))),
    "mean pooling": TrainedModel(mean_pooling, lambda d: ((d,),)),
}
"""The four models by name."""

METHODS = ("three steps", "three steps, labels centred", *TRAINED_MODELS)
"""What :func:`compare` compares."""


@dataclass(frozen=True)
class Budget:
    """What every method may spend."""

    training: int  # Bags. Each of the three steps takes a third of the training bags
    validation: int  # Bags. Each of the three steps takes a third of the training bags
    test: int  # Bags. Each of the three steps takes a third of the training bags
    steps: int  # Updates of full training
    batch: int  # Bags in a batch of full training
    learning_rates: Sequence[float]  # The settings of full training
    # The settings of the three steps: the length of the population prompt in units of
    # `q_\star/\sigma^2`. As many as there are learning rates
    prompt_scales: Sequence[float]
    watch_every: int = 20  # Updates between two looks at the validation bags
    # Standard deviation of the initial weights. Zero would be a saddle point of two models
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("training", "validation", "test", "steps", "batch", "watch_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.training % 3:
            raise ValueError(f"training bags must be divisible by 3, got {self.training}")
        if not self.learning_rates or len(self.learning_rates) != len(self.prompt_scales):
            raise ValueError(
                f"every method gets as many settings as the others, at least one; got "
                f"{len(self.learning_rates)} learning rates and {len(self.prompt_scales)} scales"
            )


class Tuned(NamedTuple):
    """What tuning handed in."""

    error: float  # Test error, in [0, 1]
    setting: int  # Place of the chosen setting in its sweep


class Compared(NamedTuple):
    """What :func:`compare_seeds` measures; both of shape (seeds, methods)."""

    errors: Tensor  # Test errors, in [0, 1]
    settings: Tensor  # Places of the chosen settings in their sweeps


class Trained(NamedTuple):
    """Test errors after tuning, in percent, one for each seed: what the claims read."""

    prompt: Tensor  # trained prompt-attention, most bags
    rival: Tensor  # best trained rival, most bags
    excess: Tensor  # three steps with centred labels minus trained prompt-attention, most bags
    lead: Tensor  # best trained rival minus these steps, most bags
    ratio: Tensor  # these steps over trained prompt-attention, fewest bags
    fewest: int
    most: int
    pooled: float  # of the best head on mean pooling
    test_bags: int


class Round(NamedTuple):
    """The bags of one round of tuning."""

    seed: int
    training: Bags
    validation: Bags
    test: Bags

    @classmethod
    def drawn(cls, mixture: ContextualMixture, budget: Budget, seed: int) -> Round:
        """The same bags for every method."""
        generator = torch.Generator().manual_seed(seed)
        sizes = (budget.training, budget.validation, budget.test)
        return cls(seed, *(mixture.sample(size, generator) for size in sizes))


def compare(
    mixture: ContextualMixture, budget: Budget, seed: int, methods: Sequence[str] = METHODS
) -> dict[str, Tuned]:
    """The test error of each method after one round of tuning."""
    rounds = [Round.drawn(mixture, budget, seed)]
    return {method: _tuned(mixture, budget, rounds, method)[0] for method in methods}


def compare_seeds(
    mixture: ContextualMixture,
    budget: Budget,
    seeds: Sequence[int],
    methods: Sequence[str] = METHODS,
) -> Compared:
    """:func:`compare` for several seeds, side by side."""
    rounds = [Round.drawn(mixture, budget, seed) for seed in seeds]
    columns = [
        _tuned(mixture, budget, rounds, method)
        for method in progress_bar(methods, f"training on {budget.training} bags")
    ]
    table = torch.tensor(columns, dtype=torch.float64).reshape(len(methods), len(rounds), 2)
    table = table.transpose(0, 1)
    return Compared(table[..., 0], table[..., 1].long())


def _tuned(
    mixture: ContextualMixture, budget: Budget, rounds: Sequence[Round], method: str
) -> list[Tuned]:
    if method in TRAINED_MODELS:
        # Each method has its own source of randomness: leaving one out changes no other.
        seeds = [1000 * one.seed + METHODS.index(method) + 1 for one in rounds]
        return train_model(TRAINED_MODELS[method], budget, rounds, seeds)
    centred = method.endswith("centred")
    return [three_steps(mixture, budget, *one[1:], centred) for one in rounds]


def three_steps(
    mixture: ContextualMixture,
    budget: Budget,
    training: Bags,
    validation: Bags,
    test: Bags,
    centred: bool = False,
) -> Tuned:
    """Result A2, a third of the training bags a step, its prompt scale chosen on validation."""
    eta = 1.0 / (mixture.sparsity * mixture.signal_norm**2)
    unit = population_descent(mixture, eta, 1.0)[1].norm() / mixture.context_norm
    scales = torch.tensor(budget.prompt_scales, dtype=training.tokens.dtype)
    gamma = (scales / (mixture.noise_std**2 * unit))[:, None]  # (settings, 1)
    third = len(training.labels) // 3
    zero = torch.zeros(len(scales), mixture.dim, dtype=training.tokens.dtype)

    def step(number: int, w: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        part = slice(number * third, (number + 1) * third)
        labels = training.labels[part]
        if centred:
            labels = labels - labels.mean()
        return gradients(training.tokens[part], labels, w, q)

    w1 = -eta * step(0, zero, zero)[0]
    q1 = -gamma * step(1, w1, zero)[1]
    w2 = -eta * step(2, zero, q1)[0]
    seen = torch.stack(
        [
            errors(prompt_attention(validation.tokens, head, prompt), validation.labels)
            for head, prompt in zip(w2, q1, strict=True)
        ]
    )
    best = int(seen.argmin())
    error = errors(prompt_attention(test.tokens, w2[best], q1[best]), test.labels)
    return Tuned(float(error), best)


def train_model(
    model: TrainedModel, budget: Budget, rounds: Sequence[Round], seeds: Sequence[int]
) -> list[Tuned]:
    """Train one model in every round with every learning rate, and test the best on validation."""
    if not rounds:
        return []
    tokens, labels = (torch.stack([one.training[part] for one in rounds]) for part in (0, 1))
    watched = [torch.stack([one.validation[part] for one in rounds]) for part in (0, 1)]
    dim, bags = tokens.shape[-1], tokens.shape[1]
    count, size = len(budget.learning_rates), min(budget.batch, bags)
    places = torch.arange(len(rounds))[:, None]
    starts, chosen = [], []
    for seed in seeds:
        own = torch.Generator().manual_seed(seed)
        starts.append([torch.randn(shape, generator=own) for shape in model.shapes(dim)])
        order = [torch.randperm(bags, generator=own)[:size] for _ in range(budget.steps)]
        chosen.append(torch.stack(order))
    orders = torch.stack(chosen, dim=1)  # (steps, rounds, batch)
    weights = [
        (budget.init_std * torch.stack(parts))[:, None].repeat(1, count, *(1,) * parts[0].dim())
        for parts in zip(*starts, strict=True)
    ]  # (rounds, learning rates, ...) each
    best_weights = [part.clone() for part in weights]
    best_error = torch.full((len(rounds), count), torch.inf, dtype=torch.float64)
    one_round = torch.vmap(model.score, in_dims=(None, *(0 for _ in weights)))
    scores = torch.vmap(one_round)  # (rounds, n, T, d), weights -> (rounds, learning rates, n)

    def watch() -> None:
        with torch.no_grad():
            now = errors(scores(watched[0], *weights), watched[1][:, None])
            better = now < best_error
            best_error[better] = now[better]
            for kept, part in zip(best_weights, weights, strict=True):
                kept[better] = part[better]

    def loss(batch: Tensor) -> Tensor:
        missed = scores(tokens[places, batch], *weights) - labels[places, batch][:, None]
        return 0.5 * missed.square().mean(-1)

    def losses() -> Iterator[Callable[[], Tensor]]:
        for step, batch in enumerate(orders):
            if step % budget.watch_every == 0:
                watch()
            yield partial(loss, batch)

    for part in weights:
        part.requires_grad_()
    recipe = Recipe(budget.steps, warmup=min(10, budget.steps - 1), weight_decay=0.0)
    rates = torch.tensor(budget.learning_rates).expand(len(rounds), count)
    train_rows(weights, rates, losses(), recipe)
    watch()
    tuned = []
    for place, best in enumerate(best_error.argmin(1).tolist()):
        test = rounds[place].test
        found = model.score(test.tokens, *(part[place, best] for part in best_weights))
        tuned.append(Tuned(float(errors(found, test.labels)), best))
    return tuned


def errors(scores: Tensor, labels: Tensor) -> Tensor:
    """The share of wrong signs; a score of zero is half an error. (..., n), (n,) -> (...)."""
    return (0.5 - 0.5 * torch.sign(scores * labels)).double().mean(-1)


check_public(__name__)

"""Are three steps worth anything beside training the models to the end?

All four models of the book, trained on the same bags by the book's one training loop (AdamW on
squared loss, no weight decay), and the three steps of result A2 on as many bags. What is tuned is
tuned alike: every method gets the same number of settings (learning rates, or lengths of the prompt
step), and a validation set of the same size chooses the setting and, for trained models, the moment
to stop. The test bags serve once, for the chosen one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
from promptlib.training import Learner, Recipe, train

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


def compare(
    mixture: ContextualMixture, budget: Budget, seed: int, methods: Sequence[str] = METHODS
) -> dict[str, Tuned]:
    """The test error of each method after one round of tuning."""
    generator = torch.Generator().manual_seed(seed)
    training = mixture.sample(budget.training, generator)
    validation = mixture.sample(budget.validation, generator)
    test = mixture.sample(budget.test, generator)
    result = {}
    for method in methods:
        # Each method has its own source of randomness: leaving one out changes no other.
        own = torch.Generator().manual_seed(1000 * seed + METHODS.index(method) + 1)
        if method in TRAINED_MODELS:
            model = TRAINED_MODELS[method]
            result[method] = train_model(model, budget, training, validation, test, own)
        else:
            centred = method.endswith("centred")
            result[method] = three_steps(mixture, budget, training, validation, test, centred)
    return result


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
    model: TrainedModel,
    budget: Budget,
    training: Bags,
    validation: Bags,
    test: Bags,
    generator: torch.Generator,
) -> Tuned:
    """Train one model with every learning rate side by side, and test the best on validation."""
    count, dim = len(budget.learning_rates), training.tokens.shape[-1]
    start = [
        budget.init_std * torch.randn(shape, generator=generator) for shape in model.shapes(dim)
    ]
    weights = [[nn.Parameter(part.clone()) for part in start] for _ in range(count)]
    learners = [
        Learner(f"learning rate {rate:g}", (), own, rate)
        for rate, own in zip(budget.learning_rates, weights, strict=True)
    ]
    score_all = torch.vmap(model.score, in_dims=(None, *(0 for _ in start)))

    def scores(tokens: Tensor) -> Tensor:
        stacked = [torch.stack(parts) for parts in zip(*weights, strict=True)]
        return score_all(tokens, *stacked)  # (learners, bags)

    def loss(bags: tuple[Tensor, Tensor]) -> Tensor:
        tokens, labels = bags
        return 0.5 * (scores(tokens) - labels).square().mean(-1)

    best_error = torch.full((count,), torch.inf, dtype=torch.float64)
    best_weights: list[list[Tensor]] = [[part.detach().clone() for part in own] for own in weights]

    def watch() -> None:
        with torch.no_grad():
            now = errors(scores(validation.tokens), validation.labels)
        for row in (now < best_error).nonzero().flatten().tolist():
            best_error[row] = now[row]
            best_weights[row] = [part.detach().clone() for part in weights[row]]

    def watched_batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(budget.steps):
            if step % budget.watch_every == 0:
                watch()
            size = min(budget.batch, len(training.tokens))
            chosen = torch.randperm(len(training.tokens), generator=generator)[:size]
            yield training.tokens[chosen], training.labels[chosen]

    recipe = Recipe(budget.steps, warmup=min(10, budget.steps - 1), weight_decay=0.0)
    train(learners, loss, watched_batches(), recipe, label="training", progress=_silent)
    watch()
    best = int(best_error.argmin())
    with torch.no_grad():
        error = errors(model.score(test.tokens, *best_weights[best]), test.labels)
    return Tuned(float(error), best)


def compare_seeds(
    mixture: ContextualMixture,
    budget: Budget,
    seeds: Sequence[int],
    methods: Sequence[str] = METHODS,
) -> Compared:
    """:func:`compare` for several seeds."""
    rows = [
        list(compare(mixture, budget, seed, methods).values())
        for seed in progress_bar(seeds, f"training on {budget.training} bags")
    ]
    table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(methods), 2)
    return Compared(table[..., 0], table[..., 1].long())


def errors(scores: Tensor, labels: Tensor) -> Tensor:
    """The share of wrong signs; a score of zero is half an error. (..., n), (n,) -> (...)."""
    return (0.5 - 0.5 * torch.sign(scores * labels)).double().mean(-1)


def _silent(items: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    return items


check_public(__name__)

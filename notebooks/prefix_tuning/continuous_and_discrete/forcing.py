"""Which vectors make the model say given strings? Many are sought at once.

The model is frozen. Each prompt has its own string, learning rate, moments and clipping, as if it
were alone: AdamW without decay and with the schedule of `promptlib.training.Recipe`, written for a
batch, because thousands of separate optimisers would spend their time on bookkeeping. A prompt
stops when greedy decoding writes its string.

Two objectives, of which a sweep takes the better one: *likelihood* is the mean cross-entropy of the
string's symbols, the usual loss of prompt tuning. *Margin* is the mean of ``max(0, 1 - m)``, where
``m`` is the margin of a symbol: once a symbol is right by 1, the wrong ones get all the force.

Shapes as in `decoding`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.decoding import (
    PAD,
    check_fits,
    margins,
    target_logits,
)
from promptlib.prefix_tuning.gpt import GPT
from promptlib.progress import progress_bar
from promptlib.training import Progress, Recipe, flushed_denormals

OBJECTIVES = ("likelihood", "margin")

SAFE_MARGIN = 1e-3
"""A string counts as said when every symbol wins by this much; rounding is far less."""

WANTED_MARGIN = 1.0
"""From here on the margin objective is content with a symbol."""

EPSILON = 1e-8
"""Of AdamW."""


@dataclass(frozen=True)
class Forced:
    """What came out for each prompt: vectors ``(P, n, D)`` at success or after the last step.

    ``steps`` ``(P,)`` are the updates until the string was said, -1 if it never was; ``right`` is
    the share of its symbols that are right where the prompt stopped, given those before them.
    """

    vectors: Tensor
    steps: Tensor
    right: Tensor

    @property
    def success(self) -> Tensor:
        """Whether each string was said: bool, ``(P,)``."""
        return self.steps >= 0


@flushed_denormals()
def force(
    model: GPT,
    targets: Tensor,
    start: Tensor,
    learning_rates: Tensor,
    by_margin: Tensor,
    recipe: Recipe,
    *,
    stop_margin: float = SAFE_MARGIN,
    label: str = "forcing",
    progress: Progress = progress_bar,
) -> Forced:
    """Seek vectors from `start` ``(P, n, D)`` after which the model says `targets` ``(P, L)``.

    A prompt stops when every symbol wins by `stop_margin`, and at the latest after ``recipe.steps``
    updates; ``by_margin`` chooses its objective. The model gets no gradients.
    """
    n_prompts = len(targets)
    if n_prompts == 0 or targets.ndim != 2:
        raise ValueError(f"expected at least 1 target string, got targets {tuple(targets.shape)}")
    for name, given in (
        ("start", start),
        ("learning_rates", learning_rates),
        ("by_margin", by_margin),
    ):
        if len(given) != n_prompts:
            raise ValueError(f"{n_prompts} targets but {len(given)} entries of {name}")
    check_fits(model, start, targets.shape[1])
    check_targets(targets, model.config.vocab_size)
    if not stop_margin >= SAFE_MARGIN:
        raise ValueError(f"stop_margin must be at least {SAFE_MARGIN}, got {stop_margin}")
    if not (learning_rates > 0).all():
        raise ValueError(f"learning rates must be above 0, got {float(learning_rates.min())}")

    vectors, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    steps = torch.full((n_prompts,), -1)
    right = torch.zeros(n_prompts, dtype=start.dtype)
    seeking = torch.arange(n_prompts)
    beta, gamma = recipe.betas
    for step in progress(range(recipe.steps + 1), label, total=recipe.steps + 1):
        read = vectors[seeking].requires_grad_()
        wanted = targets[seeking]
        logits = target_logits(model, read, wanted)
        margin = margins(logits, wanted)
        said = (margin > stop_margin).all(dim=1)
        steps[seeking[said]] = step
        real = wanted != PAD
        right[seeking] = ((margin > 0) & real).sum(dim=1).to(right) / real.sum(dim=1)
        if said.all() or step == recipe.steps:
            break
        losses = objective(logits, margin, wanted, by_margin[seeking])
        (gradient,) = torch.autograd.grad(losses.sum(), read)
        seeking, gradient = seeking[~said], gradient[~said]
        lengths = gradient.flatten(1).norm(dim=1)
        gradient *= (recipe.clip_norm / (lengths + 1e-6)).clamp_max(1.0).view(-1, 1, 1)
        first[seeking] = beta * first[seeking] + (1 - beta) * gradient
        second[seeking] = gamma * second[seeking] + (1 - gamma) * gradient**2
        mean = first[seeking] / (1 - beta ** (step + 1))
        spread = (second[seeking] / (1 - gamma ** (step + 1))).sqrt()
        rates = (learning_rates[seeking] * recipe.schedule(step)).view(-1, 1, 1)
        vectors[seeking] -= rates * mean / (spread + EPSILON)
    return Forced(vectors, steps, right)


def objective(logits: Tensor, margin: Tensor, targets: Tensor, by_margin: Tensor) -> Tensor:
    """The loss of each prompt, ``(P,)``; see the module's docstring."""
    real = targets != PAD
    likelihood = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, reduction="none"
    ).view(targets.shape)
    shortfall = (WANTED_MARGIN - margin).clamp_min(0.0)
    chosen = torch.where(by_margin.unsqueeze(1), shortfall, likelihood)
    return (chosen * real).sum(dim=1) / real.sum(dim=1)


def check_targets(targets: Tensor, vocab_size: int) -> None:
    """Raise a ValueError unless each row is a string of the alphabet, padded only at its end."""
    real = targets != PAD
    if not real[:, 0].all():
        row = int((~real[:, 0]).nonzero()[0])
        raise ValueError(f"target {row} is empty; give at least 1 symbol")
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError("a target has padding before its end; put it after the last symbol")
    wrong = real & ((targets < 0) | (targets >= vocab_size))
    if wrong.any():
        raise ValueError(
            f"target symbol {int(targets[wrong][0])} is not a token of the model, "
            f"0..{vocab_size - 1}; encode the string with the alphabet of the corpus"
        )


def pad(strings: list[Tensor]) -> Tensor:
    """Stack strings of different lengths, ``(k, L)`` each, with `PAD` after shorter ones."""
    longest = max(part.shape[1] for part in strings)
    return torch.cat([F.pad(part, (0, longest - part.shape[1]), value=PAD) for part in strings])

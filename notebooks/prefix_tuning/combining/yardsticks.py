r"""How much of a task can be had without looking back, and how much by doing another task?

Two yardsticks for the tasks of the chapter "Combining, not inventing", both free of any trained
model.

A model without attention sees, at each output, its place :math:`i` and the token that it stands on:
the last input digit for :math:`i = 1`, the previous answer after that. The best that it can do is
the table of :math:`P(Y_i \mid i, \text{token})`, counted here from training inputs. Whatever a
model does better than this, its attention has brought.

A model that does a task of the mixture instead of the one that was asked is right wherever the two
answers coincide.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.tasks import (
    SEQUENCE_LENGTH,
    VOCABULARY,
    Task,
    check_digits,
    read_and_answer,
    sample_digits,
    task_named,
)

PRIOR = 0.5
"""Added to each count, so that what was never seen is not impossible."""
SEED = 11
"""Of the inputs of `standing_loss`."""
MEASURED_ON = 4000
"""Test inputs of `standing_loss`."""


@dataclass(frozen=True)
class Standing:
    """The table of a task for a model without attention."""

    log_probabilities: Tensor
    """By place, token that the model stands on, and answer, ``(10, 11, 11)``."""

    def loss(self, task: Task, inputs: Tensor) -> float:
        """Its mean cross-entropy on some inputs, in nats a symbol."""
        standing, targets = standing_and_targets(task, inputs)
        places = torch.arange(SEQUENCE_LENGTH).expand_as(targets)
        return -float(self.log_probabilities[places, standing, targets].mean())

    def right(self, task: Task, inputs: Tensor) -> Tensor:
        """Which symbols its most likely answers get right: ``(n, 10)``, bool."""
        standing, targets = standing_and_targets(task, inputs)
        places = torch.arange(SEQUENCE_LENGTH).expand_as(targets)
        return self.log_probabilities[places, standing].argmax(dim=-1) == targets


def standing_and_targets(task: Task, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens at the ten outputs and the symbols asked for there, ``(n, 10)`` each."""
    targets = task.solve(inputs)
    return read_and_answer(inputs, targets)[:, -SEQUENCE_LENGTH:], targets


def without_attention(
    task: Task, n: int = 40_000, generator: torch.Generator | None = None
) -> Standing:
    """Count the table of a task on `n` training inputs."""
    standing, targets = standing_and_targets(task, sample_digits(n, "train", generator))
    places = torch.arange(SEQUENCE_LENGTH).expand_as(targets)
    cells = (places * VOCABULARY + standing) * VOCABULARY + targets
    counts = torch.bincount(cells.flatten(), minlength=SEQUENCE_LENGTH * VOCABULARY**2)
    table = counts.view(SEQUENCE_LENGTH, VOCABULARY, VOCABULARY).double() + PRIOR
    return Standing((table / table.sum(dim=-1, keepdim=True)).log())


@functools.cache
def standing_loss(name: str) -> float:
    """The loss of the table of a task by name, nats a symbol: always on the same inputs."""
    generator, task = torch.Generator().manual_seed(SEED), task_named(name)
    assert isinstance(task, Task)
    table = without_attention(task, generator=generator)
    return table.loss(task, sample_digits(MEASURED_ON, "test", generator))


@dataclass(frozen=True)
class Coincidence:
    """How often the answers of two tasks agree, in [0, 1]: whole sequences, and single symbols."""

    sequences: float
    symbols: float


def coincidence(task: Task, other: Task, inputs: Tensor) -> Coincidence:
    """Compare the right answers of two tasks on the same inputs ``(n, 10)``."""
    check_digits(inputs)
    equal = task.solve(inputs) == other.solve(inputs)
    return Coincidence(float(equal.all(dim=-1).double().mean()), float(equal.double().mean()))


check_public(__name__)

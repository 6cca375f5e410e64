"""What do many runs in lockstep read? Each what it would read alone, drawn beforehand.

Training batches and test sequences are drawn on the CPU, from the streams of random numbers that
the runs would use alone, and then lie on the device that trains. Runs that read the same share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import CHECKPOINT_SEQUENCES, generator_for
from promptlib.prefix_tuning.tasks import Split, batches, read_and_answer, task_named


class Stream(NamedTuple):
    """Training batches of a run: all that decides them."""

    seed: int
    task: str
    steps: int
    batch_size: int


class Examples(NamedTuple):
    """Sequences that something is measured on: all that decides them."""

    seed: int
    task: str
    split: Split
    n: int


Drawn = tuple[Tensor, Tensor]
"""Tokens ``(…, 19)`` and targets ``(…, 10)``, uint8."""

Draw = Callable[[Stream | Examples], Drawn]


def draw(wanted: Stream | Examples) -> Drawn:
    """Draw training batches, ``(steps, batch_size, …)``, or examples, ``(n, …)``."""
    if isinstance(wanted, Stream):
        drawn = batches(
            task_named(wanted.task),
            wanted.steps,
            wanted.batch_size,
            generator_for(wanted.seed, "data"),
        )
        tokens, targets = zip(*drawn, strict=True)
        return torch.stack(tokens).to(torch.uint8), torch.stack(targets).to(torch.uint8)
    task, generator = task_named(wanted.task), generator_for(wanted.seed, wanted.split)
    inputs, answers = task.sample(wanted.n, wanted.split, generator)
    return read_and_answer(inputs, answers).to(torch.uint8), answers.to(torch.uint8)


def stream_of(config: Mapping[str, Any]) -> Stream:
    """The training batches of a run."""
    return Stream(config["seed"], config["task"], config["steps"], config["batch_size"])


def tested(config: Mapping[str, Any]) -> list[Examples]:
    """What a run is measured on after training, in the order of ``config["evaluate"]``."""
    seed, n = config["seed"], config["test_sequences"]
    return [Examples(seed, task, "test", n) for task in config["evaluate"]]


def validated(config: Mapping[str, Any]) -> Examples:
    """What a setting of a run is chosen on."""
    return Examples(config["seed"], config["task"], "validation", config["test_sequences"])


def looked_at(config: Mapping[str, Any]) -> Examples:
    """What the accuracy on the way is measured on."""
    n = min(CHECKPOINT_SEQUENCES, config["test_sequences"])
    return Examples(config["seed"], config["task"], "test", n)


def read_by(config: Mapping[str, Any]) -> list[Stream | Examples]:
    """Everything that a run reads, in the order in which it does."""
    wanted: list[Stream | Examples] = [stream_of(config)]
    if config.get("checkpoints"):
        wanted.append(looked_at(config))
    wanted += tested(config)
    if "learned" in config or "cells" in config:
        wanted.append(validated(config))
    return wanted


class Rows:
    """What each of several learners reads; the same for those who want the same.

    Parameters
    ----------
    wanted : sequence of Stream or Examples
        One for each learner, of one shape.
    draw : callable
        Where they come from.
    device : torch.device
    """

    def __init__(
        self, wanted: Sequence[Stream | Examples], draw: Draw, device: torch.device
    ) -> None:
        different = list(dict.fromkeys(wanted))
        drawn = [draw(one) for one in different]
        self.tokens = torch.stack([tokens for tokens, _ in drawn]).to(device)
        self.targets = torch.stack([targets for _, targets in drawn]).to(device)
        self.of = torch.tensor([different.index(one) for one in wanted], device=device)

    def at(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """The batches of one step ``(1,)``: ``(L, B, 19)`` and ``(L, B, 10)``, int64."""
        return self._of_each(*(rows.index_select(1, step).squeeze(1) for rows in self._all))

    def between(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Some of the examples, for each learner, int64."""
        return self._of_each(*(rows[:, first:end] for rows in self._all))

    @property
    def _all(self) -> tuple[Tensor, Tensor]:
        return self.tokens, self.targets

    def _of_each(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return (
            tokens.index_select(0, self.of).long(),
            targets.index_select(0, self.of).long(),
        )


check_public(__name__)

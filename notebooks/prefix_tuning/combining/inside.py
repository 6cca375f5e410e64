"""Where are the answers of a prefix right, what are they else, and which attention moves?

`look` opens the stored models and prefixes: it probes the pretrained models (`probes`), finds out
at which places the answers of prefixes are right, what they are when they are wrong, and how far
relative attention moves in each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from notebooks.prefix_tuning.combining.plan import NEW
from notebooks.prefix_tuning.combining.probes import (
    Probed,
    answer_probes,
    known_digits,
)
from notebooks.prefix_tuning.combining.yardsticks import (
    Coincidence,
    coincidence,
    without_attention,
)
from promptlib.checks import check_public
from promptlib.prefix_tuning.evaluation import CHUNK, greedy_decode
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import total_variation
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.movement import WRITING, relative_rows
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import (
    MIXTURE,
    SEQUENCE_LENGTH,
    Task,
    read_and_answer,
    sample_digits,
    task_named,
)
from promptlib.prefix_tuning.trials import Get, Trials, rebuild

Adapted = tuple[GPT, Prefix | None]
"""A model, and the prefix that goes with it."""
PROBE_SEED = 5
"""Of the sequences that probes are fitted on and everything here is measured on."""
DECODED = 200
"""Most test sequences that are decoded, or whose attention is compared."""


@dataclass(frozen=True)
class Evidence:
    """What `look` found in the best models of a table of trials, by seed; shares are in [0, 1]."""

    trials: Trials
    standing_right: Mapping[str, Tensor]
    """By new task: right symbols of the best table without attention at each place, ``(10,)``."""
    standing_sequences: Mapping[str, float]
    """By new task: sequences that the table gets right."""
    coincidences: Mapping[str, Mapping[str, Coincidence]]
    """By new task, then task of the mixture."""
    probes: Mapping[str, Sequence[Sequence[Probed]]]
    """By new task, then seed, then block."""
    known: Sequence[Tensor]
    """Digits that can be read: stream, output, input, ``(L + 1, 10, 10)``."""
    right: Mapping[str, Mapping[str, Tensor]]
    """By way ("prefix", "fine-tuned"), then task: right symbols at each place, ``(seeds, 10)``."""
    said: Mapping[str, Sequence[Mapping[str, float]]]
    """By new task, then seed: `agreements` of what a prefix makes the model write on its own."""
    moved: Mapping[str, Mapping[str, Tensor]]
    """By way, then task: `moved_by_layer`, ``(seeds, L)``."""


def simple(name: str) -> Task:
    """The task of that name, which is not a mixture."""
    task = task_named(name)
    assert isinstance(task, Task)
    return task


@torch.no_grad()
def right_by_place(model: GPT, prefix: Prefix | None, task: Task, inputs: Tensor) -> Tensor:
    """Share of right symbols at each output, right answers fed: ``(10,)``."""
    targets = task.solve(inputs)
    tokens = read_and_answer(inputs, targets)
    said = torch.cat(
        [model(some, prefix, last=SEQUENCE_LENGTH).argmax(dim=-1) for some in tokens.split(CHUNK)]
    )
    return (said == targets).double().mean(dim=0)


def moved_by_layer(before: GPT, after: GPT, prefix: Prefix | None, tokens: Tensor) -> Tensor:
    """How far relative attention of the outputs moves in each layer: ``(L,)``, in [0, 1].

    Total variation, mean over sequences, heads and outputs, in float64. Where a prefix leaves
    nothing at all to the content, there is no relative attention, and the row does not count.
    """
    plain, _ = relative_rows(in_float64(before), tokens)
    shown = None if prefix is None else in_float64(prefix)
    moved, _ = relative_rows(in_float64(after), tokens, shown)
    return total_variation(plain, moved)[..., -WRITING:].nanmean(dim=(1, 2, 3)).float()


def agreements(answers: Tensor, task: Task, inputs: Tensor) -> dict[str, float]:
    """Share of symbols of `answers` that agree with this task, those of the mixture, the input."""
    compared = {"right": task.solve(inputs), "input": inputs}
    compared |= {name: simple(name).solve(inputs) for name in MIXED}
    return {name: float((answers == other).double().mean()) for name, other in compared.items()}


def look(trials: Trials, get: Get, sequences: int) -> Evidence:
    """Open the pretrained models, and the best free prefixes and fine-tuned models.

    Probes are fitted on `sequences`, at least 20, and measured on as many.
    """
    if sequences < 20:
        raise ValueError(f"expected at least 20 sequences for the probes, got {sequences}")
    generator = torch.Generator().manual_seed(PROBE_SEED)
    train, test = (sample_digits(sequences, split, generator) for split in ("train", "test"))
    fed_train, fed_test = (
        MIXTURE.sample(sequences, split, generator) for split in ("train", "test")
    )
    tasks = {name: simple(name) for name in (*NEW, *MIXED)}
    right_of_tables = {
        name: without_attention(tasks[name], generator=generator).right(tasks[name], test)
        for name in NEW
    }
    few = test[:DECODED]
    models = [rebuild(trial, get)[0] for trial in trials.where(method="pretrained")]
    opened = {
        way: {
            name: [rebuild(best, get) for best in found.best()]
            for name, found in trials.where(method=method).by("task").items()
        }
        for way, method in (("prefix", "free prefix"), ("fine-tuned", "fine-tuned"))
    }

    def right(name: str, after: Adapted) -> Tensor:
        return right_by_place(*after, tasks[name], test)

    def moved(name: str, before: GPT, after: Adapted) -> Tensor:
        return moved_by_layer(before, *after, read_and_answer(few, tasks[name].solve(few)))

    return Evidence(
        trials=trials,
        standing_right={name: one.double().mean(dim=0) for name, one in right_of_tables.items()},
        standing_sequences={
            name: float(one.all(dim=-1).double().mean()) for name, one in right_of_tables.items()
        },
        coincidences={
            name: {other: coincidence(tasks[name], tasks[other], test) for other in MIXED}
            for name in NEW
        },
        probes={
            name: [answer_probes(model, tasks[name], train, test) for model in models]
            for name in NEW
        },
        known=[known_digits(model, fed_train, fed_test) for model in models],
        right={
            way: {
                name: torch.stack([right(name, one) for one in seeds]) for name, seeds in by.items()
            }
            for way, by in opened.items()
        },
        said={
            name: [
                agreements(greedy_decode(model, few, prefix), tasks[name], few)
                for model, prefix in seeds
            ]
            for name, seeds in opened["prefix"].items()
        },
        moved={
            way: {
                name: torch.stack([moved(name, *pair) for pair in zip(models, seeds, strict=True)])
                for name, seeds in by.items()
            }
            for way, by in opened.items()
        },
    )


check_public(__name__)

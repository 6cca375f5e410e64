"""What happens inside the models of the chapter "Combining, not inventing?"

`look` opens the stored models and prefixes: it probes the pretrained models
(`probes`), finds out at which places the answers of prefixes are
right, what they are when they are wrong, and how far relative attention moves in each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from notebooks.prefix_tuning.combining import probes as combine_probe
from notebooks.prefix_tuning.combining import yardsticks as combine_easy
from notebooks.prefix_tuning.combining.plan import NEW, CombinePlan
from notebooks.prefix_tuning.combining.probes import Probed
from notebooks.prefix_tuning.combining.results import Measured
from notebooks.prefix_tuning.combining.yardsticks import Coincidence
from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import load_model, load_prefix
from promptlib.prefix_tuning.evaluation import greedy_decode
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import total_variation
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.movement import WRITING, relative_rows
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import Cell, Get
from promptlib.prefix_tuning.tasks import (
    MIXTURE,
    SEQUENCE_LENGTH,
    Task,
    read_and_answer,
    sample_digits,
    task_named,
)

PROBE_SEED = 5
"""Of the sequences that probes are fitted on and everything here is measured on."""
DECODED = 200
"""Most test sequences that are decoded, or whose attention is compared."""


@dataclass(frozen=True)
class Evidence:
    """What `look` found; sequences have one entry for each seed.

    Attributes
    ----------
    standing_right : mapping of Tensor ``(10,)``
        By new task: share of right symbols of the best table without attention at each place.
    standing_sequences : mapping of float
        By new task: share of sequences that the table gets right, in [0, 1].
    coincidences : mapping of mapping of Coincidence
        By new task, then task of the mixture.
    probes : mapping of sequences of sequences of Probed
        By new task, then seed, then block.
    known : sequence of Tensor ``(L + 1, 10, 10)``
        Digits that can be read: stream, output, input.
    right : mapping of mapping of Tensor ``(seeds, 10)``
        By way ("prefix", "fine-tuned"), then new task: share of right symbols at each place, when
        the right answers before it are fed. Fine-tuned are the tasks that have this control.
    said : mapping of sequences of mappings
        By new task, then seed: share of the symbols that a prefix makes the model write on its own
        which agree with each task of the mixture, with the task itself, and with the input.
    moved : mapping of mapping of Tensor ``(seeds, L)``
        By way, then new task: part of the relative attention that moved, see `moved_by_layer`.
    """

    standing_right: Mapping[str, Tensor]
    standing_sequences: Mapping[str, float]
    coincidences: Mapping[str, Mapping[str, Coincidence]]
    probes: Mapping[str, Sequence[Sequence[Probed]]]
    known: Sequence[Tensor]
    right: Mapping[str, Mapping[str, Tensor]]
    said: Mapping[str, Sequence[Mapping[str, float]]]
    moved: Mapping[str, Mapping[str, Tensor]]


def simple(name: str) -> Task:
    """Return the task of that name, which is not a mixture."""
    task = task_named(name)
    assert isinstance(task, Task)
    return task


def base_of(cell: Cell, get: Get) -> GPT:
    """Return the pretrained model that a cell started from."""
    base = cell.run.needs[0]
    return load_model(base.config, get(base))


def adapted(cell: Cell, get: Get) -> tuple[GPT, Prefix | None]:
    """Return the model of a cell and its prefix; after fine-tuning there is none."""
    if "cells" in cell.run.config:
        return base_of(cell, get), load_prefix(cell.run.config, get(cell.run), cell.index)
    return load_model(cell.run.config, get(cell.run)), None


@torch.no_grad()
def right_by_place(model: GPT, prefix: Prefix | None, task: Task, inputs: Tensor) -> Tensor:
    """Return the share of right symbols at each output, right answers fed: ``(10,)``."""
    targets = task.solve(inputs)
    logits = model(read_and_answer(inputs, targets), prefix, last=SEQUENCE_LENGTH)
    return (logits.argmax(dim=-1) == targets).double().mean(dim=0)


def moved_by_layer(before: GPT, after: GPT, tokens: Tensor, prefix: Prefix | None) -> Tensor:
    """Return how far relative attention of the outputs moves in each layer: ``(L,)``, in [0, 1].

    Total variation, mean over sequences, heads and outputs, in float64. Where a prefix leaves
    nothing at all to the content, there is no relative attention, and the row does not count.
    """
    plain, _ = relative_rows(in_float64(before), tokens)
    shown = None if prefix is None else in_float64(prefix)
    moved, _ = relative_rows(in_float64(after), tokens, shown)
    return total_variation(plain, moved)[..., -WRITING:].nanmean(dim=(1, 2, 3)).float()


def agreements(answers: Tensor, task: Task, inputs: Tensor) -> dict[str, float]:
    """Return the share of symbols of `answers` that agree with this task, others, and the input."""
    compared = {"right": task.solve(inputs), "input": inputs}
    compared |= {name: simple(name).solve(inputs) for name in MIXED}
    return {name: float((answers == other).double().mean()) for name, other in compared.items()}


def look(plan: CombinePlan, measured: Measured, get: Get, sequences: int) -> Evidence:
    """Open the models of a plan.

    Parameters
    ----------
    plan : CombinePlan
    measured : Measured
        Of the same plan.
    get : callable
        The ``get`` of a run store.
    sequences : int
        Training sequences that a probe is fitted on, and test sequences that it is measured on;
        at least 20.

    Raises
    ------
    ValueError
        If there are too few sequences.
    """
    if sequences < 20:
        raise ValueError(f"expected at least 20 sequences for the probes, got {sequences}")
    generator = torch.Generator().manual_seed(PROBE_SEED)
    train, test = (sample_digits(sequences, split, generator) for split in ("train", "test"))
    fed = (
        MIXTURE.sample(sequences, "train", generator),
        MIXTURE.sample(sequences, "test", generator),
    )
    models = [load_model(run.config, get(run)) for run in plan.pretrained]
    tables = {
        name: combine_easy.without_attention(simple(name), generator=generator) for name in NEW
    }
    right_of_tables = {name: tables[name].right(simple(name), test) for name in NEW}
    few = test[:DECODED]
    ways = {"prefix": measured.prefixes, "fine-tuned": measured.finetuned}
    opened = {
        way: {name: [adapted(cell, get) for cell in cells] for name, cells in by_task.items()}
        for way, by_task in ways.items()
    }
    return Evidence(
        standing_right={
            name: right.double().mean(dim=0) for name, right in right_of_tables.items()
        },
        standing_sequences={
            name: float(right.all(dim=-1).double().mean())
            for name, right in right_of_tables.items()
        },
        coincidences={
            name: {
                other: combine_easy.coincidence(simple(name), simple(other), test)
                for other in MIXED
            }
            for name in NEW
        },
        probes={
            name: [
                combine_probe.answer_probes(model, simple(name), train, test) for model in models
            ]
            for name in NEW
        },
        known=[
            torch.stack(
                [
                    combine_probe.known_digits(model, *fed, level)
                    for level in range(model.config.n_layer + 1)
                ]
            )
            for model in models
        ],
        right={
            way: {
                name: torch.stack([right_by_place(*one, simple(name), test) for one in seeds])
                for name, seeds in tasks.items()
            }
            for way, tasks in opened.items()
        },
        said={
            name: [
                agreements(greedy_decode(model, few, prefix), simple(name), few)
                for model, prefix in seeds
            ]
            for name, seeds in opened["prefix"].items()
        },
        moved={
            way: {
                name: torch.stack(
                    [
                        moved_by_layer(before, model, _read(name, few), prefix)
                        for before, (model, prefix) in zip(models, seeds, strict=True)
                    ]
                )
                for name, seeds in tasks.items()
            }
            for way, tasks in opened.items()
        },
    )


def _read(name: str, inputs: Tensor) -> Tensor:
    return read_and_answer(inputs, simple(name).solve(inputs))


check_public(__name__)

r"""Does training find a prefix that is known to exist?

A failure of prefix-tuning has two possible reasons: no prefix does the task, or one does and
training does not find it. To look at the second alone, plant a solution: let the frozen model
answer with some prefix, the *teacher*, and train others, the *students*, from their usual start, to
give the same answers. The teacher has no loss, so whatever loss is left is the optimiser's.

A teacher is *drawn* at random, or *trained* before, for a task. They ask different things. A drawn
one shows whether an arbitrary solution is found; a trained one, whether what training has found
once is found again.

The student reads what the teacher has written and learns its distributions: the loss is the
Kullback-Leibler divergence

.. math:: \mathrm{KL}(\pi \,\|\, \hat\pi) = \sum_s \pi_s \log(\pi_s / \hat\pi_s)

in nats a symbol, over the ten outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import (
    generator_for,
    load_model,
    load_prefix,
    new_prefix,
    thinned,
)
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH, Split, read_and_answer, sample_digits
from promptlib.prefix_tuning.writing import write_greedily
from promptlib.runs import Result
from promptlib.training import Learner, Progress, Recipe, flushed_denormals, freeze, train

CHUNK = 256
"""Sequences that are answered in one pass: few enough for the processor's cache."""


@dataclass(frozen=True)
class Answers:
    """What a teacher makes of some inputs.

    Tokens ``(N, 19)`` are the inputs and, but for the last, the outputs ``(N, 10)`` that it wrote
    after them, decoded greedily; log probabilities ``(N, 10, V)`` are those of all symbols at each
    output, given the outputs before.
    """

    tokens: Tensor
    outputs: Tensor
    log_probabilities: Tensor

    def split(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches: tokens, and log probabilities of the answers."""
        parts = (self.tokens.split(size), self.log_probabilities.split(size))
        yield from zip(*parts, strict=True)


@torch.no_grad()
def answers_of(model: GPT, inputs: Tensor, teacher: Prefix) -> Answers:
    """Let the model answer inputs ``(N, 10)`` with a prefix."""
    parts = []
    for some in inputs.split(CHUNK):
        outputs = write_greedily(model, some, SEQUENCE_LENGTH, teacher)
        tokens = read_and_answer(some, outputs)
        parts.append((tokens, outputs, _log_probabilities(model, tokens, teacher)))
    return Answers(*(torch.cat(part) for part in zip(*parts, strict=True)))


def divergence(
    model: GPT, tokens: Tensor, teacher: Tensor, student: Prefix | PrefixBatch | None
) -> Tensor:
    """Mean divergence of a student's answers from a teacher's, in nats a symbol.

    Tokens ``(B, 19)``, log probabilities of the teacher ``(B, 10, V)``; one number for each student
    of a batch.
    """
    lost = (teacher.exp() * (teacher - _log_probabilities(model, tokens, student))).sum(dim=-1)
    return lost.mean(dim=(-2, -1))  # of ([C,] B, 10)


def plant(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a prefix for each of ``config["cells"]`` to answer as a planted one.

    The planted prefix has the shape of the students. ``config["planted_std"]`` is the standard
    deviation of its entries; where that is None, it is the best by validation of the prefixes in
    ``needs[1:]``, which are runs of `promptlib.prefix_tuning.adapting.tune_prefixes`.
    """
    model = load_model(config, needs[0])
    freeze(model)
    teacher = _teacher(config, needs[1:])
    freeze(teacher)
    generator = generator_for(config, "prefix")
    if config["planted_std"] is None:  # or a student would start where its teacher once did
        generator = generator_for(config, "planted")
    students = [new_prefix(config, cell["init_std"], generator) for cell in config["cells"]]
    learners = [
        Learner("a student", [], list(student.parameters()), cell["learning_rate"])
        for cell, student in zip(config["cells"], students, strict=True)
    ]
    together = PrefixBatch(students)
    examples = config["steps"] * config["batch_size"]
    inputs = sample_digits(examples, "train", generator_for(config, "data"))
    curve = train(
        learners,
        lambda batch: divergence(model, *batch, together),
        answers_of(model, inputs, teacher).split(config["batch_size"]),
        Recipe(config["steps"], config["warmup"]),
        label=f"{len(students)} students of a planted prefix, seed {config['seed']}",
        progress=progress,
    )
    measured = measure(model, config, teacher, [None, *students])
    cells = [
        {**cell, **found, "curve": thinned(curve[:, index])}
        for index, (cell, found) in enumerate(zip(config["cells"], measured[1:], strict=True))
    ]
    return Result({"cells": cells, "without": measured[0]}, {"planted": teacher.vectors.detach()})


@torch.no_grad()
@flushed_denormals()
def measure(
    model: GPT, config: Mapping[str, Any], teacher: Prefix, students: Sequence[Prefix | None]
) -> list[dict[str, Any]]:
    """Measure how well students answer as the teacher does.

    Two answers agree if all ten decoded outputs do. They do exactly if each output is the same
    after the teacher's outputs before it (`promptlib.prefix_tuning.evaluation.score`). Of each
    student ``divergence`` in nats a symbol and ``agreement``, the share of inputs answered alike,
    in [0, 1], on test sequences; ``validation`` holds the same of the validation split.
    """

    def of(split: Split) -> list[dict[str, Any]]:
        inputs = sample_digits(config["test_sequences"], split, generator_for(config, split))
        theirs = answers_of(model, inputs, teacher)
        found = []
        for student in students:
            ours = torch.cat(
                [_log_probabilities(model, some, student) for some in theirs.tokens.split(CHUNK)]
            )
            lost = theirs.log_probabilities.exp() * (theirs.log_probabilities - ours)
            same = (ours.argmax(dim=-1) == theirs.outputs).all(dim=-1)
            found.append(
                {
                    "divergence": float(lost.sum(dim=-1).mean()),
                    "agreement": float(same.double().mean()),
                }
            )
        return found

    pairs = zip(of("test"), of("validation"), strict=True)
    return [{**tested, "validation": validated} for tested, validated in pairs]


def _teacher(config: Mapping[str, Any], trained: Sequence[Result]) -> Prefix:
    if config["planted_std"] is not None:
        return new_prefix(config, config["planted_std"], generator_for(config, "planted"))
    cells = [
        (-cell["validation"]["accuracy"], cell["validation"]["loss"], place, index)
        for place, result in enumerate(trained)
        for index, cell in enumerate(result.metrics["cells"])
    ]
    _, _, place, index = min(cells)
    return load_prefix(config, trained[place], index)


def _log_probabilities(model: GPT, tokens: Tensor, prefix: Prefix | PrefixBatch | None) -> Tensor:
    """Of the ten outputs: ``(B, 19) -> ([C,] B, 10, V)``."""
    return F.log_softmax(model(tokens, prefix, last=SEQUENCE_LENGTH), dim=-1)


check_public(__name__)

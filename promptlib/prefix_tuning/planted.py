r"""Does training find a prefix that is known to exist?

A failure of prefix-tuning has two possible reasons: no prefix does the task, or one does and
training does not find it. To look at the second alone, plant a solution. Draw a prefix at random,
let the frozen model answer with it, and train another prefix, from its usual start, to give the
same answers. The planted prefix has no loss, so whatever loss is left is the optimiser's.

The student learns from the teacher's distributions: the loss is the Kullback-Leibler divergence

.. math:: \mathrm{KL}(\pi \,\|\, \hat\pi) = \sum_s \pi_s \log(\pi_s / \hat\pi_s)

in nats a symbol, over the ten outputs of sequences of the mixture of four tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.prefix_tuning.evaluation import greedy_decode
from promptlib.prefix_tuning.experiment_training import TEST_SEED, load_model, new_prefix
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import (
    MIXTURE,
    SEQUENCE_LENGTH,
    batches,
    read_and_answer,
    sample_digits,
)
from promptlib.runs import Result
from promptlib.training import Learner, Progress, Recipe, flushed_denormals, freeze, train

CURVE_POINTS = 100
"""Points of a stored learning curve; each is the mean of the steps since the last."""


def divergence(
    model: GPT, tokens: Tensor, teacher: Tensor, prefix: Prefix | PrefixBatch | None
) -> Tensor:
    """Mean divergence of a student's answers from a teacher's, in nats a symbol.

    Parameters
    ----------
    model : GPT
    tokens : Tensor, int64, ``(B, 19)``
    teacher : Tensor, ``(B, 10, V)``
        Log probabilities of the teacher's answers.
    prefix : Prefix or PrefixBatch, optional
        The student; None for the model without a prefix.

    Returns
    -------
    Tensor, a scalar; ``(C,)`` with a `PrefixBatch`
    """
    student = F.log_softmax(model(tokens, prefix, last=SEQUENCE_LENGTH), dim=-1)
    lost = (teacher.exp() * (teacher - student)).sum(dim=-1)  # ([C,] B, 10)
    return lost.mean(dim=(-2, -1))


def answers_of(model: GPT, tokens: Tensor, prefix: Prefix) -> Tensor:
    """Log probabilities of the ten outputs: ``(B, 19) -> (B, 10, V)``."""
    with torch.no_grad():
        return F.log_softmax(model(tokens, prefix, last=SEQUENCE_LENGTH), dim=-1)


def plant(config: Mapping[str, Any], needs: Sequence[Result], progress: Progress) -> Result:
    """Train a prefix for each of ``config["cells"]`` to answer as a planted one.

    ``config["planted_std"]`` is the standard deviation of the planted prefix's entries; it has the
    shape of the students.
    """
    model = load_model(config, needs[0])
    freeze(model)
    generator = torch.Generator().manual_seed(config["seed"])
    planted = new_prefix(config, config["planted_std"], generator)
    freeze(planted)
    students = [new_prefix(config, cell["init_std"], generator) for cell in config["cells"]]
    learners = [
        Learner("a student", [], list(student.parameters()), cell["learning_rate"])
        for cell, student in zip(config["cells"], students, strict=True)
    ]
    together = PrefixBatch(students)
    curve = train(
        learners,
        lambda batch: divergence(model, *batch, together),
        _taught(model, planted, config, generator),
        Recipe(config["steps"], config["warmup"]),
        label=f"{len(students)} students of a planted prefix, seed {config['seed']}",
        progress=progress,
    )
    untrained = measure(model, config, planted, None)
    cells = [
        {**cell, **measure(model, config, planted, student), "curve": _thin(curve[:, index])}
        for index, (cell, student) in enumerate(zip(config["cells"], students, strict=True))
    ]
    return Result({"cells": cells, "without": untrained}, {"planted": planted.vectors.detach()})


@torch.no_grad()
@flushed_denormals()
def measure(
    model: GPT, config: Mapping[str, Any], planted: Prefix, student: Prefix | None
) -> dict[str, float]:
    """Measure how well a student answers as the planted prefix does, on test sequences.

    Returns
    -------
    dict
        ``divergence`` in nats a symbol, and ``agreement``: the share of inputs, in [0, 1], for
        which all ten greedily decoded outputs are the same.
    """
    test = torch.Generator().manual_seed(TEST_SEED)
    inputs, targets = MIXTURE.sample(config["test_sequences"], "test", test)
    tokens = read_and_answer(inputs, targets)
    lost = divergence(model, tokens, answers_of(model, tokens, planted), student)
    inputs = sample_digits(min(config["test_sequences"], 500), "test", test)
    same = greedy_decode(model, inputs, planted) == greedy_decode(model, inputs, student)
    return {"divergence": float(lost), "agreement": float(same.all(dim=-1).double().mean())}


def _taught(
    model: GPT, planted: Prefix, config: Mapping[str, Any], generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches: tokens, and what the planted prefix answers to them."""
    for tokens, _ in batches(MIXTURE, config["steps"], config["batch_size"], generator):
        yield tokens, answers_of(model, tokens, planted)


def _thin(curve: Tensor) -> list[float]:
    pieces = min(CURVE_POINTS, len(curve))
    return [float(piece.mean()) for piece in curve.tensor_split(pieces)]

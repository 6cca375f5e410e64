"""What did the runs of the chapter "A new task" measure, and what follows from it?

`collect` reads the runs of a plan. Each claim function takes what was measured and returns the
claim, so that a test can hand in what a wrong implementation measures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from promptlib import claims
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.experiment_results import HERE, Metrics, accuracy_claim, percent
from promptlib.prefix_tuning.experiment_training import load_model, load_prefix
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.new_task import NewTaskPlan
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.runs import Result, Run

Loss = Callable[[GPT, Tensor, Tensor, PrefixBatch], Tensor]

PAPER = "Petrov et al. 2024, new task"
ASCENDING, DESCENDING = "sort_ascending", "sort_descending"


@dataclass(frozen=True)
class Cell:
    """One prefix of a sweep: where it stands and what it measured."""

    parametrisation: str
    index: int
    metrics: Metrics


@dataclass(frozen=True)
class Measured:
    """The metrics of all runs; sequences have one entry for each seed.

    Attributes
    ----------
    pretrained, finetuned, besides_attention : sequences of metrics
        With ``accuracy`` and ``loss`` by task, and ``curve``.
    sweeps : mapping of sequences of sequences of metrics
        By parametrisation, then seed, then cell.
    control_pretrained : metrics
    control : sequence of metrics
        One for each cell.
    """

    pretrained: Sequence[Metrics]
    finetuned: Sequence[Metrics]
    besides_attention: Sequence[Metrics]
    sweeps: Mapping[str, Sequence[Sequence[Metrics]]]
    control_pretrained: Metrics
    control: Sequence[Metrics]

    def best_prefix(self, seed: int, parametrisation: str | None = None) -> Cell:
        """Return the prefix of a seed that does best at the new task.

        Chosen after the fact, by test accuracy and then by test loss: no rule of choice could
        have done better, which favours the prefix.
        """
        cells = [
            Cell(name, index, cell)
            for name, sweep in self.sweeps.items()
            if parametrisation in (None, name)
            for index, cell in enumerate(sweep[seed])
        ]
        return min(
            cells,
            key=lambda cell: (
                -cell.metrics["accuracy"][DESCENDING],
                cell.metrics["loss"][DESCENDING],
            ),
        )

    def best_prefixes(self, parametrisation: str | None = None) -> list[Cell]:
        """Return `best_prefix` of each seed."""
        return [self.best_prefix(seed, parametrisation) for seed in range(len(self.pretrained))]


def collect(plan: NewTaskPlan, get: Callable[[Run], Result]) -> Measured:
    """Read the metrics of all runs of `plan`; `get` is the ``get`` of a run store."""
    return Measured(
        pretrained=[get(run).metrics for run in plan.pretrained],
        finetuned=[get(run).metrics for run in plan.finetuned],
        besides_attention=[get(run).metrics for run in plan.besides_attention],
        sweeps={
            name: [get(run).metrics["cells"] for run in runs]
            for name, runs in plan.prefixes.items()
        },
        control_pretrained=get(plan.control_pretrained).metrics,
        control=get(plan.control_prefixes).metrics["cells"],
    )


def model_of(run: Run, get: Callable[[Run], Result]) -> GPT:
    """Return the model that a run trained."""
    return load_model(run.config, get(run))


def prefix_of(plan: NewTaskPlan, cell: Cell, seed: int, get: Callable[[Run], Result]) -> Prefix:
    """Return a prefix that `Measured.best_prefix` names."""
    run = plan.prefixes[cell.parametrisation][seed]
    return load_prefix(run.config, get(run), cell.index)


def _accuracy_claim(
    name: str,
    sentence: str,
    values: Sequence[float],
    favours: Literal["higher", "lower"],
    refuted_if: tuple[Literal["<", ">"], float],
    checks: str,
    published_as: str | None = None,
    source: str = HERE,
) -> claims.Claim:
    return accuracy_claim(
        f"new-task-{name}",
        sentence,
        values,
        checks=checks,
        refuted_if=refuted_if,
        favours=favours,
        published=published.NEW_TASK[published_as] if published_as else None,
        source=PAPER if published_as else source,
    )


def pretrained_ascending(measured: Measured) -> claims.Claim:
    """Pretraining succeeds."""
    return _accuracy_claim(
        "pretrained-ascending",
        "A model of one layer, one head and width 96 learns to sort ascending.",
        percent(measured.pretrained, ASCENDING),
        "higher",
        ("<", 50.0),
        "experiment_training.pretrain",
        "pretrained_ascending",
    )


def pretrained_descending(measured: Measured) -> claims.Claim:
    """The new task is new."""
    return _accuracy_claim(
        "pretrained-descending",
        "Pretrained on ascending alone, it never sorts descending.",
        percent(measured.pretrained, DESCENDING),
        "lower",
        (">", 1.0),
        "evaluation.sequence_accuracy",
        "pretrained_descending",
    )


def finetuned_descending(measured: Measured) -> claims.Claim:
    """Fine-tuning learns the new task."""
    return _accuracy_claim(
        "finetuned-descending",
        "Fine-tuning all its weights teaches it to sort descending.",
        percent(measured.finetuned, DESCENDING),
        "higher",
        ("<", 50.0),
        "experiment_training.fine_tune",
        "finetuned_descending",
    )


def finetuned_ascending(measured: Measured) -> claims.Claim:
    """Fine-tuning forgets the old task."""
    return _accuracy_claim(
        "finetuned-ascending",
        "Fine-tuned on descending, it no longer sorts ascending.",
        percent(measured.finetuned, ASCENDING),
        "lower",
        (">", 1.0),
        "experiment_training.fine_tune",
        "finetuned_ascending",
    )


def prefix_ascending(measured: Measured) -> claims.Claim:
    """The prefix does break the old task.

    How much of it is left depends on where the training ends, so it spreads widely over seeds and
    cells. An interval that wide would contain almost any published value. Therefore the claim is
    judged on its own sentence and not on whether its interval meets the published one.
    """
    left = published.NEW_TASK["prefix_ascending"]
    return _accuracy_claim(
        "prefix-ascending",
        "The best prefix of the published parametrisation, though it gains nothing at the new "
        f"task, loses more than half of the old one (published: {left} % left).",
        percent([cell.metrics for cell in measured.best_prefixes("shared")], ASCENDING),
        "lower",
        (">", 50.0),
        "experiment_training.tune_prefixes",
        source=PAPER,
    )


def control_elicits(measured: Measured) -> claims.Claim:
    """The same code and sweep succeed where a prefix can."""
    return _accuracy_claim(
        "control",
        "Control: the same code, steps and sweep make a model that was pretrained on a mixture "
        "of four tasks do one of them, adding one.",
        [max(percent(measured.control, "add_one"))],
        "higher",
        ("<", 90.0),
        "experiment_training.tune_prefixes",
    )


def besides_attention(measured: Measured) -> claims.Claim:
    """With the attention frozen, retraining what reads it goes a long way."""
    return _accuracy_claim(
        "frozen-attention",
        "With queries, keys and embeddings frozen, so that every relative attention stays as it "
        "was, training the other weights still teaches it to sort more than half of the sequences "
        "descending.",
        percent(measured.besides_attention, DESCENDING),
        "higher",
        ("<", 50.0),
        "experiment_training.fine_tune",
    )


def prefix_gradient(
    model: GPT, prefix: Prefix, tokens: Tensor, targets: Tensor, loss: Loss = sequence_loss
) -> claims.Claim:
    """The gradient that trains a prefix is the gradient of the loss.

    Training runs all prefixes of a sweep in one pass, and so does the gradient that is checked.
    """
    return claims.identity(
        "prefix-tuning/new-task-prefix-gradient",
        "The gradient of the loss with respect to a prefix, as training computes it, equals "
        "central differences of the loss; errors relative to the longest gradient entry.",
        errors=gradient_errors(model, prefix, tokens, targets, loss).numpy(),
        tolerance=1e-7,
        source=HERE,
        checks="promptlib.prefix_tuning.evaluation.sequence_loss",
    )


def gradient_errors(
    model: GPT,
    prefix: Prefix,
    tokens: Tensor,
    targets: Tensor,
    loss: Loss = sequence_loss,
    step: float = 1e-5,
) -> Tensor:
    """Compare the gradient of `loss` at `prefix` with central differences.

    Parameters
    ----------
    model, prefix : GPT and Prefix
        In float64; unchanged afterwards.
    tokens, targets : Tensor
        One batch.
    loss : callable
        What computes the gradient, for the prefix and a copy of it in one pass, as in training;
        the differences are always of `sequence_loss` with the prefix alone.
    step : float
        Half the distance of the two points.

    Returns
    -------
    Tensor, one entry for each entry of the prefix
        Absolute errors, divided by the largest entry of the gradient.
    """
    parameters = list(prefix.parameters())
    together = PrefixBatch([prefix, copy.deepcopy(prefix)])
    gradients = torch.autograd.grad(loss(model, tokens, targets, together).sum(), parameters)
    differences = []
    with torch.no_grad():
        for parameter in parameters:
            flat = parameter.view(-1)
            for index in range(len(flat)):
                start = float(flat[index])
                ends = []
                for sign in (1, -1):
                    flat[index] = start + sign * step
                    ends.append(sequence_loss(model, tokens, targets, prefix))
                flat[index] = start
                differences.append((ends[0] - ends[1]) / (2 * step))
    expected = torch.stack(differences)
    ours = torch.cat([gradient.flatten() for gradient in gradients])
    return (ours - expected).abs() / expected.abs().max()

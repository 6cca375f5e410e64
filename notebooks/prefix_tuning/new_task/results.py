"""What did the runs of the chapter "A new task" measure, and what follows from it?

`collect` reads the runs of a plan. Each claim function takes what was measured and returns the
claim, so that a test can hand in what a wrong implementation measures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.new_task.plan import NewTaskPlan
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import adapting, published
from promptlib.prefix_tuning.adapting import load_model, load_prefix
from promptlib.prefix_tuning.evaluation import score, sequence_loss
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.sweeps import HERE, UNIT, Metrics, best_first, percent
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
    base : mapping
        Config of the first sorter.
    pretrained, besides_attention : sequences of metrics
        With ``accuracy`` and ``loss`` by task, and ``curve``.
    finetuned : sequence of sequences of metrics
        By seed, then learning rate, which stands among the metrics.
    sweeps : mapping of sequences of sequences of metrics
        By parametrisation, then seed, then cell.
    """

    base: Mapping[str, Any]
    pretrained: Sequence[Metrics]
    finetuned: Sequence[Sequence[Metrics]]
    besides_attention: Sequence[Metrics]
    sweeps: Mapping[str, Sequence[Sequence[Metrics]]]

    @property
    def trials(self) -> int:
        """Test sequences behind each accuracy."""
        return int(self.base["test_sequences"])

    @property
    def best_finetuned(self) -> list[Metrics]:
        """The fine-tuned model of each seed that does best on the validation split."""
        return [min(rates, key=best_first) for rates in self.finetuned]

    def best_prefix(self, seed: int, parametrisation: str | None = None) -> Cell:
        """Return the prefix of a seed that does best at the new task.

        Chosen on the validation split, by accuracy and then by loss.
        """
        cells = [
            Cell(name, index, cell)
            for name, sweep in self.sweeps.items()
            if parametrisation in (None, name)
            for index, cell in enumerate(sweep[seed])
        ]
        return min(cells, key=lambda cell: best_first(cell.metrics))

    def best_prefixes(self, parametrisation: str | None = None) -> list[Cell]:
        """Return `best_prefix` of each seed."""
        return [self.best_prefix(seed, parametrisation) for seed in range(len(self.pretrained))]


def collect(plan: NewTaskPlan, get: Callable[[Run], Result]) -> Measured:
    """Read the metrics of all runs of `plan`; `get` is the ``get`` of a run store."""
    return Measured(
        base=plan.pretrained[0].config,
        pretrained=[get(run).metrics for run in plan.pretrained],
        finetuned=[
            [{**get(run).metrics, "learning_rate": run.config["learning_rate"]} for run in rates]
            for rates in plan.finetuned
        ],
        besides_attention=[get(run).metrics for run in plan.besides_attention],
        sweeps={
            name: [get(run).metrics["cells"] for run in runs]
            for name, runs in plan.prefixes.items()
        },
    )


def model_of(run: Run, get: Callable[[Run], Result]) -> GPT:
    """Return the model that a run trained."""
    return load_model(run.config, get(run))


def best_finetuned_run(rates: Sequence[Run], get: Callable[[Run], Result]) -> Run:
    """Return which fine-tuning of one seed does best on the validation split."""
    return min(rates, key=lambda run: best_first(get(run).metrics))


def prefix_of(plan: NewTaskPlan, cell: Cell, seed: int, get: Callable[[Run], Result]) -> Prefix:
    """Return a prefix that `Measured.best_prefix` names."""
    run = plan.prefixes[cell.parametrisation][seed]
    return load_prefix(run.config, get(run), cell.index)


def differs(base: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how a sorter differs from the published one in size and setting.

    Steps and learning rates are ours at every size. The prefix that is compared has the published
    length and parametrisation: one vector, shared.

    Parameters
    ----------
    base : mapping
        Config of the run that trained the sorter.
    """
    ours, theirs = base["model"], new_task.MODEL
    named = {"n_layer": "layers", "n_head": "heads", "n_embd": "width"}
    found = [
        f"{word} {ours[name]}, not {theirs[name]}"
        for name, word in named.items()
        if ours[name] != theirs[name]
    ]
    if ours["first_layer_norm"] != theirs["first_layer_norm"]:
        found.append("without the first LayerNorm")
    return tuple(found)


def accuracy(
    name: str,
    sentence: str,
    values: Sequence[float],
    *,
    limit: float,
    side: Literal["above", "below"],
    trials: int,
    checks: Callable[..., object],
    published_as: claims.Published | None = None,
    requires: Sequence[claims.Claim] = (),
    note: str = "",
) -> claims.Claim:
    """Return an outcome of the chapter in percent of test sequences, one value for each seed.

    Parameters
    ----------
    name
        The id without wing and chapter.
    trials
        Test sequences behind each value.
    checks
        The function that it speaks of.

    Other parameters are those of `promptlib.claims.outcome`.
    """
    return claims.outcome(
        f"prefix-tuning/new-task-{name}",
        sentence,
        values=values,
        limit=limit,
        side=side,
        unit=UNIT,
        trials=trials,
        source=PAPER if published_as else HERE,
        checks=checks,
        published=published_as,
        requires=requires,
        note=note,
    )


def _published(
    measured: Measured, name: str, favours: Literal["higher", "lower"]
) -> claims.Published:
    return claims.Published(published.NEW_TASK[name], favours, differs=differs(measured.base))


def pretrained_ascending(measured: Measured) -> claims.Claim:
    """Pretraining succeeds."""
    return accuracy(
        "pretrained-ascending",
        "A model of one layer and one head learns to sort more than half of the sequences "
        "ascending.",
        percent(measured.pretrained, ASCENDING),
        limit=50.0,
        side="above",
        trials=measured.trials,
        checks=adapting.pretrain,
        published_as=_published(measured, "pretrained_ascending", "higher"),
    )


def pretrained_descending(measured: Measured) -> claims.Claim:
    """The new task is new."""
    return accuracy(
        "pretrained-descending",
        "Pretrained on ascending alone, it sorts fewer than one sequence in a hundred descending.",
        percent(measured.pretrained, DESCENDING),
        limit=1.0,
        side="below",
        trials=measured.trials,
        checks=score,
        published_as=_published(measured, "pretrained_descending", "lower"),
    )


def finetuned_descending(measured: Measured) -> claims.Claim:
    """Fine-tuning learns the new task."""
    return accuracy(
        "finetuned-descending",
        "Fine-tuning all its weights teaches it to sort more than half of the sequences "
        "descending.",
        percent(measured.best_finetuned, DESCENDING),
        limit=50.0,
        side="above",
        trials=measured.trials,
        checks=adapting.fine_tune,
        published_as=_published(measured, "finetuned_descending", "higher"),
    )


def finetuned_ascending(measured: Measured, requires: Sequence[claims.Claim] = ()) -> claims.Claim:
    """Fine-tuning forgets the old task; `requires` says that there was one to forget."""
    return accuracy(
        "finetuned-ascending",
        "Fine-tuned on descending, it sorts fewer than one sequence in a hundred ascending.",
        percent(measured.best_finetuned, ASCENDING),
        limit=1.0,
        side="below",
        trials=measured.trials,
        checks=adapting.fine_tune,
        published_as=_published(measured, "finetuned_ascending", "lower"),
        requires=requires,
    )


def prefix_descending(measured: Measured, requires: Sequence[claims.Claim] = ()) -> claims.Claim:
    """The published prefix does not learn the new task.

    `requires` says that the task can be learned, and that the training of prefixes works.
    """
    return accuracy(
        "prefix-descending",
        "With the best prefix of one vector in the published parametrisation, after as many steps "
        "as fine-tuning had and with as many cells in its sweep, the pretrained model sorts fewer "
        "than one sequence in a hundred descending.",
        percent([cell.metrics for cell in measured.best_prefixes("shared")], DESCENDING),
        limit=1.0,
        side="below",
        trials=measured.trials,
        checks=adapting.tune_prefixes,
        published_as=_published(measured, "prefix_descending", "lower"),
        requires=requires,
    )


def prefix_ascending(measured: Measured, requires: Sequence[claims.Claim] = ()) -> claims.Claim:
    """The prefix does break the old task; `requires` says that there was one to break."""
    return accuracy(
        "prefix-ascending",
        "With the best prefix of one vector in the published parametrisation, trained on "
        "descending, the model sorts fewer than half of the sequences ascending, which it could "
        "without.",
        percent([cell.metrics for cell in measured.best_prefixes("shared")], ASCENDING),
        limit=50.0,
        side="below",
        trials=measured.trials,
        checks=adapting.tune_prefixes,
        published_as=_published(measured, "prefix_ascending", "lower"),
        requires=requires,
        note="What is left depends on the seed and on the cell of the sweep, so the limit is as "
        "wide as half.",
    )


def besides_attention(measured: Measured, prefixes: Sequence[float]) -> claims.Claim:
    """With the attention frozen, retraining what reads it goes further than any prefix.

    Parameters
    ----------
    prefixes : sequence of float
        Accuracy of the best prefix of each seed, of any length, in percent.
    """
    ours = percent(measured.besides_attention, DESCENDING)
    return claims.outcome(
        "prefix-tuning/new-task-frozen-attention",
        "With queries, keys and embeddings frozen, so that every relative attention stays as it "
        "was, training the other weights sorts more sequences descending than the best trained "
        "prefix of any length does after as many steps or more; the difference is above 0.",
        values=[reached - prefix for reached, prefix in zip(ours, prefixes, strict=True)],
        limit=0.0,
        side="above",
        unit=f"points, {UNIT}",
        resolution=100 / measured.trials,
        source=HERE,
        checks=adapting.fine_tune,
        note="An earlier edition asked for half of all sequences. How many it gets depends on the "
        "number of steps; what it is there for is this comparison.",
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
        checks=sequence_loss,
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


check_public(__name__)

"""What did all the ways to adapt the sorter come to, in one table of trials?

Settings are chosen on the validation split and read on the test split.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from promptlib import claims
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.trials import Get, Plan, Trial, Trials, read

Loss = Callable[[GPT, Tensor, Tensor, PrefixBatch], Tensor]


def measured(plan: Plan, get: Get) -> Trials:
    """Read all trials of the chapter's plan, and as one more the best table of each seed.

    Put together from the best entries of the single tables, it is no cell of their sweep.
    """
    best = [
        Trial({"method": "best table"}, run, None, get(run).metrics["combined"])
        for run in plan.where(method="table")
    ]
    return read(plan, get) + Trials(tuple(best))


def ways(trials: Trials) -> dict[str, Trials]:
    """Return the trained prefixes by what the page calls them, single vectors first."""
    by_way = trials.where(method="prefix").by("way")
    return dict(sorted(by_way.items(), key=lambda way: way[1][0]["length"]))


def one_vector(trials: Trials) -> Trials:
    """Return all prefixes of one vector, however they were trained."""
    return trials.where(method="prefix", length=1)


def longer(trials: Trials) -> Trials:
    """Return all prefixes of several vectors."""
    return trials.where(method="prefix", length=lambda length: length > 1)


def table_of_counts(trials: Trials) -> str:
    """Say what each way to train a prefix learned, how long, and how often."""
    lines = [f"{'way':24}{'vectors':>8}{'numbers':>9}{'steps':>7}{'trained':>9}"]
    for name, way in ways(trials).items():
        numbers, steps = int(way[0].metrics["parameters"]), int(way[0].run.config["steps"])
        lines.append(f"{name:24}{way[0]['length']:8}{numbers:9,}{steps:7,}{len(way):9}")
    lines.append(f"{'all':24}{'':24}{len(trials.where(method='prefix')):9}")
    return "\n".join(lines)


def table_of_rates(trials: Trials) -> str:
    """Say how often the best learning rate of a sweep lies at its end; single rates have none."""
    sweeps = {
        "fine-tuning": trials.where(method="finetuned"),
        **ways(trials),
        "table": trials.where(method="table"),
    }
    lines = []
    for name, sweep in sweeps.items():
        rates = sorted({trial.learning_rate for trial in sweep})
        if len(rates) < 2:
            continue
        best = [trial.learning_rate for trial in sweep.best()]
        lines.append(
            f"{name:18} {rates[0]:g} to {rates[-1]:g}: best at the lowest for "
            f"{best.count(rates[0])}, at the highest for {best.count(rates[-1])} of {len(best)} "
            "seeds"
        )
    return "\n".join(lines)


def table_of_probes(accuracies: Mapping[str, Sequence[float]]) -> str:
    """Say how much a linear probe reads from each model: mean and interval over seeds."""
    lines = []
    for name, values in accuracies.items():
        ends = claims.interval(values)
        spread = "" if ends is None else f", 95 % interval {ends[0]:.1f} to {ends[1]:.1f}"
        lines.append(f"{name:24}{np.mean(values):6.1f} % of digits{spread}")
    return "\n".join(lines)


def gradient_errors(
    model: GPT,
    prefix: Prefix,
    tokens: Tensor,
    targets: Tensor,
    loss: Loss = sequence_loss,
    step: float = 1e-5,
) -> Tensor:
    """Compare the gradient of `loss` at a prefix with central differences of `sequence_loss`.

    `loss` is given the prefix and a copy of it in one pass, as training runs all prefixes of a
    sweep. Errors are relative to the largest entry of the gradient; model and prefix in float64.
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

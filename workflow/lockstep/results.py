"""What did each run of a group get that was trained in lockstep?

What its training function would have returned: the same measurements, under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import thinned
from promptlib.runs import Result, Run
from promptlib.training import TrainingDiverged
from workflow.lockstep.data import tested, validated
from workflow.lockstep.groups import kind_of
from workflow.lockstep.training import Lockstep


def train_together(
    runs: Sequence[Run],
    needs: Sequence[Sequence[Result]],
    device: torch.device | None = None,
) -> list[Result | TrainingDiverged]:
    """Train the runs of one group.

    Parameters
    ----------
    runs : sequence of Run
        All with the same value of `group_of`.
    needs : sequence of sequences of Result
        For each run the results of the runs that it needs.
    device : torch.device, optional
        A GPU if there is one.

    Returns
    -------
    list
        For each run what its training function would return, or the error that it would raise.
    """
    group = Lockstep(runs, needs, device)
    group.train()
    return results(group)


def results(
    group: Lockstep, with_tensors: Callable[[Run], bool] = lambda run: True
) -> list[Result | TrainingDiverged]:
    """Measure, and return for each run its result, or why it has none.

    Parameters
    ----------
    group : Lockstep
        Trained to the end.
    with_tensors : callable
        Whether a result is to hold what was learned, too.
    """
    members = group.learners.members
    configs = [member.config for member in members]
    most = max(len(config["evaluate"]) for config in configs)
    scores = []
    for place in range(most):  # who is measured on fewer tasks repeats the first
        wanted = [tested(config) for config in configs]
        scores.append(group.score([one[place] if place < len(one) else one[0] for one in wanted]))
    chosen = None
    if kind_of(group.runs[0]) != "pretrain":
        chosen = group.score([validated(config) for config in configs])
    curve = group.curve.cpu()
    rows: dict[tuple[int, int], int] = {}
    for row, member in enumerate(members):
        rows.setdefault((member.run, member.cell), row)

    def measured(row: int) -> dict[str, Any]:
        tasks = configs[row]["evaluate"]
        found: dict[str, Any] = {
            "accuracy": {task: scores[i][row][0] for i, task in enumerate(tasks)},
            "loss": {task: scores[i][row][1] for i, task in enumerate(tasks)},
            "curve": thinned(curve[:, row]),
        }
        if chosen is not None:
            found["validation"] = {"accuracy": chosen[row][0], "loss": chosen[row][1]}
        if group.checkpoints:
            accuracy = [look[row][0] for look in group.looks]
            found["checkpoints"] = {"step": group.checkpoints, "accuracy": accuracy}
        return found

    return [
        _result(group, place, rows, measured, curve, with_tensors(run))
        for place, run in enumerate(group.runs)
    ]


def _result(
    group: Lockstep,
    place: int,
    rows: Mapping[tuple[int, int], int],
    measured: Callable[[int], dict[str, Any]],
    curve: Tensor,
    with_tensors: bool,
) -> Result | TrainingDiverged:
    config = group.runs[place].config
    cells = config.get("cells")
    own = [rows[place, cell] for cell in range(len(cells) if cells else 1)]
    for row in own:
        lost = (~curve[:, row].isfinite()).nonzero()
        if len(lost):
            return _divergence(group, row, int(lost[0]), float(curve[int(lost[0]), row]))
        if not all(map(math.isfinite, measured(row)["loss"].values())):
            return _divergence(group, row, group.recipe.steps, math.nan)
    tensors: dict[str, Tensor] = {}
    for row in own if with_tensors else []:
        tensors |= group.learners.tensors(row)
    if cells is None:
        return Result(measured(own[0]), tensors)
    metrics = [
        {**cell, **measured(row), "parameters": group.learners.parameters(row)}
        for cell, row in zip(cells, own, strict=True)
    ]
    return Result({"cells": metrics}, tensors)


def _divergence(group: Lockstep, row: int, step: int, loss: float) -> TrainingDiverged:
    rate = group.learners.members[row].learning_rate
    return TrainingDiverged(
        f"the loss of cell {group.learners.members[row].cell} is {loss} at step {step} of "
        f"{group.recipe.steps}, with learning rate {rate:g}; lower the learning rate"
    )


check_public(__name__)

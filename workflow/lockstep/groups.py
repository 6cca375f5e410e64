"""How are many runs of the experiments B3 to B6 trained at once?

In lockstep: runs with models of one size, as many steps, batches of one size and one kind of
learner are rows of the same tensors. Each gets what it would get alone, from the same random
numbers, with its own learning rate, its own clipping and its own moments; only sums are taken in
another order. A learner that diverges stays in its row, and its run fails alone.

On a GPU one training step is captured once as a CUDA graph, and then replayed: steps of these
models are so short that starting their operations would take longer than they do. Elsewhere the
same step is called anew each time.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import CURVE_POINTS
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH
from promptlib.runs import Result, Run
from promptlib.training import Recipe, TrainingDiverged, flushed_denormals
from workflow.lockstep.data import (
    Draw,
    Examples,
    Rows,
    draw,
    looked_at,
    stream_of,
    tested,
    validated,
)
from workflow.lockstep.learners import KINDS, N_TOKENS, Learners

ROWS_AT_A_TIME = 32768
"""Sequences of a pass in measuring, all learners together."""

STEPS_AT_A_TIME = 250
"""Steps after which the host looks at the clock."""

MEASURED_FOR_TIMING = 128
"""Sequences of each learner that measuring is timed on."""

WARM_UP = 3
"""Steps before the capture; a library may set itself up in them."""

Watch = Callable[[int, int], None]
"""``watch(steps done, steps)``; raises to end the training of a group."""

PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def kind_of(run: Run) -> str:
    """The name of the training function."""
    return run.train.partition(":")[2]


def fits(run: Run) -> bool:
    """Whether there is a lockstep for this kind of run."""
    return kind_of(run) in KINDS


def group_of(run: Run) -> Hashable:
    """What runs of one group have in common; runs with equal values can be trained together."""
    config = run.config
    shared = ("model", "steps", "warmup", "batch_size", "test_sequences")
    return (
        kind_of(run),
        json.dumps([config[name] for name in shared], sort_keys=True),
        config.get("precision", "float32"),
        config.get("checkpoints", 0),
        tuple(config.get("learned", ())),
    )


def groups(runs: Iterable[Run]) -> list[list[Run]]:
    """Sort runs into groups, in the order of the first run of each.

    Raises
    ------
    ValueError
        If there is no lockstep for one of them.
    """
    found: dict[Hashable, list[Run]] = {}
    for run in runs:
        if not fits(run):
            raise ValueError(f"no lockstep for {run.train}; there is one for {', '.join(KINDS)}")
        found.setdefault(group_of(run), []).append(run)
    return list(found.values())


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
    return group.results()


class Lockstep:
    """The runs of one group, from their start to their results.

    Parameters
    ----------
    runs, needs, device
        As in `train_together`.
    draw : callable
        Where batches and test sequences come from, if they have been drawn before.

    Attributes
    ----------
    learners : Learners
    curve : Tensor, ``(steps, L)``
        The loss of each learner at each step, before its update; NaN until then.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        needs: Sequence[Sequence[Result]],
        device: torch.device | None = None,
        draw: Draw = draw,
    ) -> None:
        if len({group_of(run) for run in runs}) != 1:
            raise ValueError(f"expected runs of one group, got {len(groups(runs))} groups")
        self.runs, self.draw = list(runs), draw
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.learners: Learners = KINDS[kind_of(runs[0])](runs, needs, self.device)
        config = runs[0].config
        self.recipe = Recipe(config["steps"], config["warmup"])
        self.exact = torch.get_default_dtype()
        rounded = PRODUCTS[config.get("precision", "float32")]
        self.products = self.exact if rounded == torch.float32 else rounded
        configs = [member.config for member in self.learners.members]
        self.batches = Rows([stream_of(one) for one in configs], draw, self.device)
        self._prepare_updates()
        count, steps = config.get("checkpoints", 0), config["steps"]
        self.checkpoints = [steps * number // count for number in range(1, count + 1)]
        self.looks: list[list[tuple[float, float]]] = []
        self.examples: dict[tuple[Examples, ...], Rows] = {}
        self.graph: torch.cuda.CUDAGraph | None = None

    def _prepare_updates(self) -> None:
        members, device = self.learners.members, self.device
        both = ((self.learners.decayed, self.recipe.weight_decay), (self.learners.undecayed, 0.0))
        self.learned = [(matrix, decay) for matrix, decay in both if matrix is not None]
        self.moments = [
            (torch.zeros_like(matrix), torch.zeros_like(matrix)) for matrix, _ in self.learned
        ]
        rates = [member.learning_rate for member in members]
        self.rows_of_rate = {
            rate: [row for row, one in enumerate(rates) if one == rate] for rate in set(rates)
        }
        steps = self.recipe.steps
        self.schedule = torch.tensor(
            [self.recipe.schedule(step) for step in range(steps)], device=device
        )
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.updates = torch.zeros((), device=device)
        self.curve = torch.full((steps, len(members)), math.nan, device=device)

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of each learner, in nats a symbol: ``(L,)``."""
        logits = self.learners.logits(tokens, self.products)
        each = F.cross_entropy(
            logits.flatten(0, 2).to(self.exact), targets.flatten(), reduction="none"
        )
        return each.view(len(targets), -1).mean(dim=1)

    def one_step(self) -> None:
        """Train all learners for one step, at the batch that `step` says."""
        losses = self.losses(*self.batches.at(self.step))
        self.curve.index_copy_(0, self.step, losses.detach().unsqueeze(0))
        gradients = torch.autograd.grad(losses.sum(), [matrix for matrix, _ in self.learned])
        with torch.no_grad():
            self._clip(gradients)
            self.updates += 1
            factor = self.schedule.index_select(0, self.step).squeeze(0)
            for rate, rows in self.rows_of_rate.items():
                for (matrix, decay), moments, gradient in zip(
                    self.learned, self.moments, gradients, strict=True
                ):
                    self._update(matrix, gradient, moments, rows, rate * factor, decay)
            self.step += 1

    def _clip(self, gradients: Sequence[Tensor]) -> None:
        """As `torch.nn.utils.clip_grad_norm_` does, each row for itself."""
        parts = [torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients]
        length = torch.linalg.vector_norm(torch.stack(parts), dim=0)
        factor = (self.recipe.clip_norm / (length + 1e-6)).clamp(max=1.0).unsqueeze(1)
        for gradient in gradients:
            gradient.mul_(factor)

    def _update(
        self,
        matrix: Tensor,
        gradient: Tensor,
        moments: tuple[Tensor, Tensor],
        rows: Sequence[int],
        rate: Tensor,
        decay: float,
    ) -> None:
        """One step of AdamW for the rows that have one learning rate."""
        first, second = moments
        torch._fused_adamw_(
            [matrix[row] for row in rows],
            [gradient[row] for row in rows],
            [first[row] for row in rows],
            [second[row] for row in rows],
            [],
            [self.updates] * len(rows),
            lr=rate,
            beta1=self.recipe.betas[0],
            beta2=self.recipe.betas[1],
            weight_decay=decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def capture(self) -> None:
        """Capture the training step as a CUDA graph; nothing learns by it. Not on a CPU."""
        if self.device.type != "cuda" or self.graph is not None:
            return
        before = [tensor.detach().clone() for tensor in self._state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(min(WARM_UP, self.recipe.steps)):
                self.one_step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.one_step()
            self.graph = graph
        except RuntimeError as error:
            warnings.warn(
                f"the training step was not captured, so it is called anew each time: {error}",
                stacklevel=2,
            )
        torch.cuda.synchronize()
        self._restore(before)

    def seconds_a_step(self, steps: int = 20) -> float:
        """Measure how long a step takes, and undo the steps."""
        before = [tensor.detach().clone() for tensor in self._state]
        steps = min(steps, self.recipe.steps)
        self._advance(1)
        self._wait()
        started = time.perf_counter()
        self._advance(steps - 1)
        self._wait()
        seconds = (time.perf_counter() - started) / max(steps - 1, 1)
        self._restore(before)
        return seconds

    def seconds_to_measure(self) -> float:
        """Estimate how long all measuring takes, from a part of it."""
        configs = [member.config for member in self.learners.members]
        wanted = [validated(config)._replace(n=MEASURED_FOR_TIMING) for config in configs]
        self.score(wanted)  # libraries set themselves up
        self._wait()
        started = time.perf_counter()
        self.score(wanted)
        self._wait()
        seconds = time.perf_counter() - started
        config = configs[0]
        passes = max(len(one["evaluate"]) for one in configs) + 1
        sequences = passes * config["test_sequences"]
        sequences += len(self.checkpoints) * looked_at(config).n
        return seconds * sequences / MEASURED_FOR_TIMING

    @property
    def _state(self) -> list[Tensor]:
        moments = [moment for pair in self.moments for moment in pair]
        learned = [matrix for matrix, _ in self.learned]
        return [*learned, *moments, self.step, self.updates, self.curve]

    @torch.no_grad()
    def _restore(self, before: Sequence[Tensor]) -> None:
        for tensor, value in zip(self._state, before, strict=True):
            tensor.copy_(value)

    def _advance(self, steps: int) -> None:
        for _ in range(steps):
            if self.graph is None:
                self.one_step()
            else:
                self.graph.replay()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @flushed_denormals()
    def train(self, watch: Watch = lambda done, steps: None) -> None:
        """Train all learners to the end, and look at them at the checkpoints.

        Parameters
        ----------
        watch : callable
            Told now and then how far it is; what it raises ends the training.
        """
        self.capture()
        steps = self.recipe.steps
        stops = sorted({*self.checkpoints, *range(0, steps, STEPS_AT_A_TIME), steps})
        done = 0
        for stop in stops:
            self._advance(stop - done)
            self._wait()
            done = stop
            watch(done, steps)
            if stop in self.checkpoints and stop < steps:
                self._look()
        if len(self.looks) < len(self.checkpoints):
            self._look()

    def _look(self) -> None:
        configs = [member.config for member in self.learners.members]
        self.looks.append(self.score([looked_at(config) for config in configs]))

    @torch.no_grad()
    @flushed_denormals()
    def score(self, wanted: Sequence[Examples]) -> list[tuple[float, float]]:
        """Accuracy and loss of each learner on its examples, in full precision.

        As `promptlib.prefix_tuning.evaluation.score` measures them.
        """
        if tuple(wanted) not in self.examples:
            self.examples[tuple(wanted)] = Rows(wanted, self.draw, self.device)
        rows = self.examples[tuple(wanted)]
        n = wanted[0].n
        right = torch.zeros(len(wanted), dtype=torch.int64, device=self.device)
        lost = torch.zeros(len(wanted), dtype=torch.float64, device=self.device)
        size = max(1, ROWS_AT_A_TIME // len(wanted))
        for first in range(0, n, size):
            tokens, targets = rows.between(first, first + size)
            logits = self.learners.logits(tokens, self.exact)
            right += (logits.argmax(dim=-1) == targets).all(dim=-1).sum(dim=1)
            losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
            lost += losses.view(len(wanted), -1).sum(dim=1, dtype=torch.float64)
        symbols = n * rows.targets.shape[-1]
        return [
            (count / n, loss / symbols)
            for count, loss in zip(right.tolist(), lost.tolist(), strict=True)
        ]

    def results(
        self, with_tensors: Callable[[Run], bool] = lambda run: True
    ) -> list[Result | TrainingDiverged]:
        """Measure, and return for each run its result, or why it has none.

        Parameters
        ----------
        with_tensors : callable
            Whether a result is to hold what was learned, too.
        """
        members = self.learners.members
        configs = [member.config for member in members]
        most = max(len(config["evaluate"]) for config in configs)
        scores = []
        for place in range(most):  # who is measured on fewer tasks repeats the first
            wanted = [tested(config) for config in configs]
            scores.append(
                self.score([one[place] if place < len(one) else one[0] for one in wanted])
            )
        chosen = None
        if kind_of(self.runs[0]) != "pretrain":
            chosen = self.score([validated(config) for config in configs])
        curve = self.curve.cpu()
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
            if self.checkpoints:
                accuracy = [look[row][0] for look in self.looks]
                found["checkpoints"] = {"step": self.checkpoints, "accuracy": accuracy}
            return found

        return [
            self._result(place, rows, measured, curve, with_tensors(run))
            for place, run in enumerate(self.runs)
        ]

    def _result(
        self,
        place: int,
        rows: Mapping[tuple[int, int], int],
        measured: Callable[[int], dict[str, Any]],
        curve: Tensor,
        with_tensors: bool,
    ) -> Result | TrainingDiverged:
        config = self.runs[place].config
        cells = config.get("cells")
        own = [rows[place, cell] for cell in range(len(cells) if cells else 1)]
        for row in own:
            lost = (~curve[:, row].isfinite()).nonzero()
            if len(lost):
                return self._divergence(row, int(lost[0]), float(curve[int(lost[0]), row]))
            if not all(map(math.isfinite, measured(row)["loss"].values())):
                return self._divergence(row, self.recipe.steps, math.nan)
        tensors: dict[str, Tensor] = {}
        for row in own if with_tensors else []:
            tensors |= self.learners.tensors(row)
        if cells is None:
            return Result(measured(own[0]), tensors)
        metrics = [
            {**cell, **measured(row), "parameters": self.learners.parameters(row)}
            for cell, row in zip(cells, own, strict=True)
        ]
        return Result({"cells": metrics}, tensors)

    def _divergence(self, row: int, step: int, loss: float) -> TrainingDiverged:
        rate = self.learners.members[row].learning_rate
        return TrainingDiverged(
            f"the loss of cell {self.learners.members[row].cell} is {loss} at step {step} of "
            f"{self.recipe.steps}, with learning rate {rate:g}; lower the learning rate"
        )


def work_of(runs: Sequence[Run]) -> float:
    """Roughly how many floating-point operations the training of runs takes."""
    total = 0.0
    for run in runs:
        config, model = run.config, run.config["model"]
        weights = 12 * model["n_embd"] ** 2  # of a block
        positions = (model["n_layer"] - 1) * N_TOKENS + SEQUENCE_LENGTH  # the last block needs less
        passes = 3 if "cells" not in config else 2  # frozen weights get no gradient
        sequences = config["steps"] * config["batch_size"] * len(config.get("cells", [0]))
        total += 2.0 * weights * positions * passes * sequences
    return total


def thinned(curve: Tensor) -> list[float]:
    """The means of a learning curve between points of a stored one."""
    pieces = min(CURVE_POINTS, len(curve))
    return [float(piece.mean()) for piece in curve.tensor_split(pieces)]


check_public(__name__)

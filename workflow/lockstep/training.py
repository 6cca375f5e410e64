"""How are many runs of the experiments B3 to B6 trained at once?

In lockstep: the runs of one group (`workflow.lockstep.groups`) are rows of the same tensors. Each
gets what it would get alone, from the same random numbers, with its own learning rate, its own
clipping and its own moments; only sums are taken in another order. A learner that diverges stays in
its row, and its run fails alone.

On a GPU one training step is captured once as a CUDA graph, and then replayed: steps of these
models are so short that starting their operations would take longer than they do. Elsewhere the
same step is called anew each time.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.checks import check_public
from promptlib.runs import Result, Run
from promptlib.training import Recipe, flushed_denormals
from workflow.lockstep.data import (
    Draw,
    Examples,
    Rows,
    draw,
    looked_at,
    stream_of,
    validated,
)
from workflow.lockstep.groups import group_of, groups, kind_of
from workflow.lockstep.learners import KINDS, Learners

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


class Lockstep:
    """The runs of one group, from their start to the end of their training.

    Parameters
    ----------
    runs : sequence of Run
        All with the same value of `group_of`.
    needs : sequence of sequences of Result
        For each run the results of the runs that it needs.
    device : torch.device, optional
        A GPU if there is one.
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


check_public(__name__)

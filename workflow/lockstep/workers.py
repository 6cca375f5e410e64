"""What do the processor's cores do while the card trains? They draw, and train small runs."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import torch

from promptlib.runs import Result, Run
from workflow.lockstep.data import Drawn, Examples, Stream, draw


class Workers:
    """Processes that draw random numbers and train small runs, while the card works."""

    def __init__(self, cores: int) -> None:
        # Forked from a process that has loaded torch and done nothing else: a copy of this one
        # could wait for ever for threads that it has not.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.pool = ProcessPoolExecutor(cores, context, _one_thread)
        self.drawn: dict[Stream | Examples, Future[Any]] = {}

    def draw_soon(self, wanted: Sequence[Stream | Examples]) -> None:
        """Begin to draw what will be asked for."""
        for one in dict.fromkeys(wanted):
            if one not in self.drawn:
                self.drawn[one] = self.pool.submit(_drawn, one)

    def draw(self, wanted: Stream | Examples) -> Drawn:
        """What was drawn, or is drawn now."""
        future = self.drawn.get(wanted)
        if future is None:
            return draw(wanted)
        tokens, targets = future.result()
        return torch.from_numpy(tokens), torch.from_numpy(targets)

    def close(self) -> None:
        """End the processes, whatever they do."""
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _one_thread() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # runs of the processor stay there


def _drawn(wanted: Stream | Examples) -> tuple[Any, Any]:
    tokens, targets = draw(wanted)
    return tokens.numpy(), targets.numpy()


def train_alone(run: Run, needs: Sequence[Result]) -> tuple[Any, float]:
    """The metrics of a run by its own training function, and the seconds it took."""
    module, _, name = run.train.partition(":")
    started = time.perf_counter()
    result = getattr(importlib.import_module(module), name)(
        run.config, needs, lambda items, label, total=None: items
    )
    return result.metrics, time.perf_counter() - started

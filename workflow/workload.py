"""How long will a training run take on this machine?

From its config follows how often it passes through how many blocks of the model, with how many
floating-point operations. A calibration of some seconds times real training steps, at each width
and precision that is asked for, and turns both into processor seconds.

    python -m workflow.workload 256:4:bfloat16 96:1:float32     times these sizes, prints JSON
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from promptlib.runs import Run
from workflow.command import command
from workflow.environment import clean
from workflow.processes import started
from workflow.sources import ROOT

CHUNK = 1024
"""Sequences of a pass in measuring."""
EVERY_GRADIENT, FROZEN = 3.0, 2.5
"""Passes of a step that trains all weights, and of one that trains what is put into frozen ones:
forward and back once, and what was put in."""
BATCHES, STEPS = (8, 64), 4
"""Of the calibration, which trains `LAYERS` blocks."""
LAYERS, DIGITS, SYMBOLS = 2, 10, 19
"""The tasks' answers, and all that a model reads of one."""


@dataclass(frozen=True)
class Size:
    """Width, heads and precision of a model: what has a speed of its own."""

    width: int
    heads: int
    precision: str

    def __str__(self) -> str:
        return f"{self.width}:{self.heads}:{self.precision}"

    @classmethod
    def read(cls, text: str) -> Size:
        """Of ``"256:4:bfloat16"``."""
        width, heads, precision = text.split(":")
        return cls(int(width), int(heads), precision)


@dataclass(frozen=True)
class Work:
    """Passes through one block, forward or back, and their floating-point operations."""

    size: Size
    passes: float
    operations: float


@dataclass(frozen=True)
class Speed:
    """Seconds that a pass through a block takes however small it is, and those of an operation."""

    seconds_a_pass: float
    seconds_an_operation: float


def works(run: Run) -> list[Work]:
    """What a run computes, training and measuring; nothing if its config tells no model.

    Adapting holds for all runs with a batch size. The cells of a sweep share their passes. The
    other runs seek vectors for strings, at most as often as they may.
    """
    config = run.config
    if "model" not in config:
        return []
    if "batch_size" not in config:
        return [_seeking(config)]
    cells = len(config.get("cells", [0]))
    model, length, batch = config["model"], config.get("length", 0), config["batch_size"]
    answered = DIGITS if "test_sequences" in config else model["block_size"]
    one = _operations(model, model["block_size"], answered, length)
    passes = FROZEN if "cells" in config else EVERY_GRADIENT
    calls = passes * config["steps"] * model["n_layer"]
    trained = passes * config["steps"] * batch * cells * one
    found = [Work(_size(config), calls, trained)]
    if "test_sequences" in config:
        measured = config["test_sequences"] * (len(config.get("evaluate", [0])) + 1)
        measured += config.get("checkpoints", 0) * min(1000, config["test_sequences"])
        measured *= cells
        if "planted_std" in config:  # what is learned is first decoded, digit by digit
            measured += DIGITS * (config["steps"] * batch + 2 * config["test_sequences"])
        calls = model["n_layer"] * math.ceil(measured / CHUNK)
        found.append(Work(_size(config, "float32"), calls, measured * one))
    return found


def _seeking(config: Mapping[str, Any]) -> Work:
    """Of runs that seek vectors for strings, or let a model go on after each pair of symbols."""
    model, longest = config["model"], max([config.get("length", 0), *config.get("lengths", [])])
    sequences, repeated = config.get("strings", model["vocab_size"]), config["steps"]
    for name in ("kinds", "lengths", "cells", "rates"):
        sequences *= len(config.get(name, [0]))
    repeated *= FROZEN * config.get("attempts", 1)
    if "stop_margin" in config:  # few stop early, and they start from two places
        sequences *= 2
    if not config["steps"]:
        sequences, repeated = model["vocab_size"] ** 2, longest
    read = config.get("prompt_length", 1) + longest
    operations = _operations(model, read, read, 0) * sequences * repeated
    return Work(_size(config), repeated * model["n_layer"], operations)


def _size(config: Mapping[str, Any], precision: str | None = None) -> Size:
    model = config["model"]
    return Size(model["n_embd"], model["n_head"], precision or config.get("precision", "float32"))


def _operations(model: Mapping[str, Any], read: int, answered: int, prefix: int) -> float:
    """Of one sequence forward: the last block computes keys and values only, but for answers."""
    width, layers = model["n_embd"], model["n_layer"]
    products = 24 * width**2 * ((layers - 1) * read + answered) + 4 * width**2 * (read - answered)
    attention = 4 * width * (read + prefix) * ((layers - 1) * read + answered)
    return products + attention + 2 * width * model["vocab_size"] * answered


def seconds_of(run: Run, speeds: Mapping[Size, Speed]) -> float:
    """Processor seconds of a run by a calibration."""
    return sum(
        work.passes * speeds[work.size].seconds_a_pass
        + work.operations * speeds[work.size].seconds_an_operation
        for work in works(run)
    )


def calibrated(sizes: Iterable[Size]) -> dict[Size, Speed] | None:
    """Time training steps in a process of their own; None if that fails, which it then says."""
    wanted = sorted(map(str, sizes))
    if not wanted:
        return {}
    command_line = [sys.executable, "-m", __name__, *wanted]
    with started(command_line, cwd=ROOT, env=clean(), stdout=subprocess.PIPE) as process:
        output, _ = process.communicate()
    if process.returncode != 0:
        return None
    return {Size.read(name): Speed(*speed) for name, speed in json.loads(output).items()}


def timed(size: Size) -> Speed:
    """Time training steps of two batch sizes: what does not grow with the batch is a pass's own."""
    import torch

    from promptlib.prefix_tuning.evaluation import sequence_loss
    from promptlib.prefix_tuning.gpt import GPT, GPTConfig
    from promptlib.prefix_tuning.tasks import SORT_ASCENDING, batches
    from promptlib.training import Recipe, products_in, train, weights_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    generator = torch.Generator().manual_seed(0)
    config = GPTConfig(LAYERS, size.heads, size.width, vocab_size=DIGITS + 1, block_size=SYMBOLS)
    model = GPT(config, generator).to(device)

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with products_in(size.precision, device.type):  # type: ignore[arg-type]
            return sequence_loss(model, *batch)

    def seconds_a_step(batch: int) -> float:
        data = [
            (tokens.to(device), targets.to(device))
            for tokens, targets in batches(SORT_ASCENDING, STEPS, batch, generator)
        ]
        begun = clock()
        train([weights_of(model, 1e-3)], loss, data, Recipe(STEPS, 0), progress=_silent)
        return (clock() - begun) / STEPS

    for batch in BATCHES:
        seconds_a_step(batch)  # libraries set themselves up
    small, large = (median(seconds_a_step(batch) for _ in range(3)) for batch in BATCHES)
    one = EVERY_GRADIENT * _operations(vars(config), SYMBOLS, DIGITS, 0)
    an_operation = max(large - small, 0.1 * large) / (one * (BATCHES[1] - BATCHES[0]))
    a_pass = max(small - one * BATCHES[0] * an_operation, 0.0) / (EVERY_GRADIENT * LAYERS)
    return Speed(a_pass, an_operation)


def _silent(items: Iterable[Any], *_: Any, **__: Any) -> Iterable[Any]:
    """Stand in for the progress bar."""
    return items


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    sizes = [Size.read(text) for text in (sys.argv[1:] if arguments is None else arguments)]
    speeds = {str(size): timed(size) for size in sizes}
    print(json.dumps({name: [*vars(speed).values()] for name, speed in speeds.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

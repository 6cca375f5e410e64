"""Would a plan be trained rightly, and how long would it take? What a session does with --check.

Every group is set up in full size with untrained models, trains for some steps, and is forgotten.
Some short runs are trained in lockstep and, by the usual functions, on the processor; their losses
should agree to about 1e-3 with products in float32, and to 1e-2 with products in bfloat16.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from promptlib.prefix_tuning import adapting as alone
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.runs import Result, Run
from workflow.lockstep import groups as lockstep
from workflow.lockstep import kernels as lockstep_kernels
from workflow.lockstep.data import read_by
from workflow.lockstep.model import Stack
from workflow.lockstep.results import train_together
from workflow.lockstep.session import describe, grouped
from workflow.lockstep.store import Planned
from workflow.lockstep.training import PRODUCTS, Lockstep
from workflow.lockstep.workers import Workers

STEPS = 40
"""Of the training of a group."""

COMPARED_STEPS = 30
"""Of the runs that are compared; one core takes a minute for them."""

PROFILED = ("tune_prefixes", "tune_lora", "fine_tune")
"""Kinds of whose largest group the slowest operations are told."""


def check(
    planned: Sequence[Planned], workers: Workers, device: torch.device, deadline: float
) -> int:
    """Time all groups, compare some runs, and print what was found.

    Returns
    -------
    int
        The exit status: 1 if a group could not be set up, or a comparison failed.
    """
    tell_machine(device)
    models = {json.dumps(one.run.config["model"]): one.run for one in planned}
    largest = max(models.values(), key=lambda run: run.config["model"]["n_layer"])
    model = largest.config["model"]
    compared = {
        precision: workers.pool.submit(trained_alone, model, precision) for precision in PRODUCTS
    }
    started, wanted = time.monotonic(), 0
    for one in planned:
        if lockstep.fits(one.run):
            workers.draw_soon(read_by(one.run.config))
            wanted += 1
    draws = list(workers.drawn.values())
    ended: list[float] = []
    for future in draws:
        future.add_done_callback(lambda _: ended.append(time.monotonic()))
    failures = 0
    timed: list[float] = []
    groups = [[one.run for one in group] for group in grouped(planned)]
    for place, group in enumerate(groups):
        if deadline - time.monotonic() < 15:
            print("no time for the other groups", flush=True)
            break
        try:
            timed.append(time_group(group, workers, device, place))
        except Exception:
            failures += 1
            print(f"error: {describe(group)}")
            traceback.print_exc()
    print(f"{sum(timed):.0f} s in all, {len(groups) - len(timed)} groups not timed", flush=True)
    print(f"{len(ended)} of {len(draws)} draws after {max(ended, default=0) - started:.1f} s")
    for precision, future in compared.items():
        try:
            failures += compare(future.result(deadline - time.monotonic()), precision, device)
        except Exception:
            failures += 1
            traceback.print_exc()
    print(f"{failures} failures", flush=True)
    return int(failures > 0)


def tell_machine(device: torch.device) -> None:
    """Print what there is."""
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads", flush=True)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        print(f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    print(f"fused kernels: {lockstep_kernels.available(device)}", flush=True)


def time_group(group: Sequence[Run], workers: Workers, device: torch.device, place: int) -> float:
    """Print how long a group would take, and return the seconds."""
    started = time.monotonic()
    short = [
        replace(run, config={**run.config, "steps": STEPS, "warmup": STEPS // 10}) for run in group
    ]
    for run in short:
        workers.draw_soon(read_by(run.config))
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    needs = [[untrained(json.dumps(one.config["model"]), one.config["seed"])] for one in group]
    training = Lockstep(short, needs, device, workers.draw)
    made = time.monotonic() - started
    training.capture()
    step, measuring = training.seconds_a_step(STEPS), training.seconds_to_measure()
    set_up = time.monotonic() - started
    steps = group[0].config["steps"]
    seconds = step * steps + measuring + set_up
    work = lockstep.work_of(group) / (step * steps) / 1e12
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    rows = len(training.learners.members)
    print(
        f"{place:2} {describe(group)}: {rows} rows, made in {made:.1f} s, set up in "
        f"{set_up:.1f} s, "
        f"{1e3 * step:.3f} ms x {steps} = {step * steps:.0f} s, {measuring:.1f} s to measure, "
        f"{work:.0f} TFLOP/s, {memory:.1f} GiB",
        flush=True,
    )
    if device.type == "cuda" and group[0].config["model"]["n_layer"] > 1:
        kind = lockstep.kind_of(group[0])
        if kind in PROFILED and steps >= 5000:
            try:
                profile(training)
                del training
                with_usual_operations(short, needs, device, workers)
            except Exception as error:  # of the profiler, no fault of the training
                print(f"      no profile: {error!r}")
    return seconds


def with_usual_operations(
    runs: Sequence[Run], needs: Sequence[Sequence[Result]], device: torch.device, workers: Workers
) -> None:
    """Print how long a step takes without the fused kernels."""
    Stack.fusing = False
    try:
        training = Lockstep(runs, needs, device, workers.draw)
        training.capture()
        print(f"      {1e3 * training.seconds_a_step(STEPS):.3f} ms with the usual operations")
    finally:
        Stack.fusing = True


def profile(training: Lockstep) -> None:
    """Print the operations that take most of a step."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(3):
            training._advance(1)
        torch.cuda.synchronize()
    events = sorted(profiler.key_averages(), key=lambda event: -event.device_time_total)
    print(f"      {sum(event.count for event in events) / 3:.0f} operations a step")
    for event in events[:16]:
        each = event.device_time_total / max(event.count, 1)
        print(
            f"      {event.device_time_total / 3:8.0f} us a step, {event.count / 3:5.0f} times "
            f"{each:6.1f} us: {event.key[:70]}",
            flush=True,
        )


@lru_cache(maxsize=64)
def untrained(model: str, seed: int) -> Result:
    """A model of random weights."""
    config = GPTConfig(**json.loads(model))
    return Result({}, dict(GPT(config, torch.Generator().manual_seed(seed)).state_dict()))


def compared_runs(model: Mapping[str, Any], precision: str) -> list[Run]:
    """A short run of each kind; the first is what the others start from."""
    base = planning.pretrain(
        model,
        "mixture",
        seed=0,
        steps=COMPARED_STEPS,
        learning_rate=1e-3,
        evaluate=["add_one"],
        test_sequences=200,
        precision=precision,
    )
    size: dict[str, Any] = {"steps": COMPARED_STEPS, "batch_size": 16}
    cells = planning.cells([0.03, 0.3], [0.1])
    return [
        base,
        planning.tune_prefixes(
            base, "reverse", length=10, parametrisation="shared", sweep=cells, **size
        ),
        planning.tune_prefixes(
            base, "reverse", length=3, parametrisation="free", sweep=cells, **size
        ),
        planning.tune_lora(
            base,
            "reverse",
            rank=4,
            modules=["mlp.expand", "mlp.contract", "attention.query", "attention.project"],
            sweep=planning.cells([0.01], [0.02]),
            **size,
        ),
        planning.fine_tune(base, "reverse", learning_rate=1e-3, **size),
    ]


def trained_alone(model: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Train the compared runs by the usual functions."""
    runs = compared_runs(model, precision)
    found: list[Any] = []
    tensors: dict[str, Any] = {}
    for run in runs:
        function = getattr(alone, lockstep.kind_of(run))
        needs = [Result({}, tensors)] if run.needs else []
        result = function(run.config, needs, lambda items, label, total=None: items)
        tensors = tensors or dict(result.tensors)
        found.append(result.metrics)
    names = {name: tensor.numpy() for name, tensor in tensors.items()}
    return {"model": dict(model), "metrics": found, "tensors": names}


def compare(found: Mapping[str, Any], precision: str, device: torch.device) -> int:
    """Train the same runs in lockstep, print how far the losses are apart; 1 if too far."""
    runs = compared_runs(found["model"], precision)
    base = Result({}, {name: torch.from_numpy(one) for name, one in found["tensors"].items()})
    limit = 1e-3 if precision == "float32" else 2e-2
    failures = 0
    for group in lockstep.groups(runs):
        needs = [[base] for _ in group]
        for run, result in zip(group, train_together(group, needs, device), strict=True):
            if not isinstance(result, Result):
                raise result
            pairs = zip(
                curves(result.metrics), curves(found["metrics"][runs.index(run)]), strict=True
            )
            apart = max(abs(one - other) for one, other in pairs)
            verdict = "agree" if apart <= limit else "DO NOT AGREE"
            failures += apart > limit
            print(
                f"{precision} {lockstep.kind_of(run)}: losses {verdict}, {apart:.1e} apart",
                flush=True,
            )
    return failures


def curves(metrics: Mapping[str, Any]) -> list[float]:
    """All points of all learning curves of a run, and its measured losses."""
    cells = metrics.get("cells", [metrics])
    return [value for cell in cells for value in (*cell["curve"], *cell["loss"].values())]

"""Train the runs of a plan in lockstep, within a number of minutes.

``python -m workflow.lockstep.session --plan FILE --out FOLDER --minutes 10`` needs
torch, numpy, scipy, tqdm and safetensors, and nothing else of the project than ``promptlib``. It
trains group by group, the worthiest runs first, and writes what it measured after each group
(`workflow.lockstep.store`). A group that would not be ready in time is not begun;
half of it is tried instead. At the limit, and at a signal to end, the group in work is given up,
and the command ends as if it were done. Weights are not kept.

With ``--check`` nothing is kept: each group trains for some steps only, to tell how long all would
take, and some short runs are compared with runs that the usual functions train on the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from promptlib.runs import Result, Run, machine
from workflow.lockstep import groups as lockstep
from workflow.lockstep.data import read_by
from workflow.lockstep.results import results
from workflow.lockstep.store import Planned, Shards, read_plan
from workflow.lockstep.training import Lockstep
from workflow.lockstep.workers import Workers, train_alone

RESERVE = 12.0
"""Seconds kept free at the end, for what no estimate knew."""

FASTEST_TIMED = 2
"""Runs that a group must have to be halved when time is short."""

ALONE = ("notebooks.prefix_tuning.new_task.tables:train",)
"""Small runs without a lockstep; the processor trains them one by one, beside the others."""


class OutOfTime(Exception):
    """The limit is reached, or a signal asked for the end."""


class Session:
    """A plan, what is done of it, and the time that is left.

    Parameters
    ----------
    planned : sequence of Planned
        The runs, each after those it needs.
    shards : Shards
    workers : Workers
    device : torch.device
    deadline : float
        When to end, by `time.monotonic`.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        shards: Shards,
        workers: Workers,
        device: torch.device,
        deadline: float,
    ) -> None:
        self.planned, self.shards, self.workers = list(planned), shards, workers
        self.device, self.deadline = device, deadline
        self.by_key = {one.run.key: one for one in planned}
        self.needed = {needed.key for one in planned for needed in one.run.needs}
        self.weights: dict[str, Result] = {}
        self.failed: dict[str, str] = {}
        self.alone: list[tuple[Planned, Future[Any]]] = []
        self.table: list[dict[str, Any]] = []
        self.stopped = False
        self._told = 0.0

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def stop(self, *_: object) -> None:
        """End at the next step that looks at the clock."""
        self.stopped = True

    def pending(self) -> list[list[Planned]]:
        """The groups that are to be trained, in order: those of one worth together.

        A run that is kept already is trained again only where another needs its weights.
        """
        missing = [one.run for one in self.planned if self.shards.find(one.run) is None]
        wanted = {run.key for run in missing} | {
            needed.key for run in missing for needed in run.needs
        }
        return grouped(one for one in self.planned if one.run.key in wanted)

    def run(self) -> None:
        """Train what there is time for."""
        groups = self.pending()
        for group in groups:
            for one in group:
                self.workers.draw_soon(read_by(one.run.config))
        self._begin_alone()
        for place, group in enumerate(groups):
            if self.stopped or self.left < RESERVE:
                break
            try:
                self._group(group, f"{place + 1}/{len(groups)}")
            except OutOfTime:
                print("given up: the time is over", flush=True)
                break
            except Exception:  # other groups do not depend on it
                traceback.print_exc()
                sys.stderr.flush()
                for one in group:
                    self.failed.setdefault(one.run.key, "the group failed; see above")
            self._begin_alone()
            self._collect_alone()
        self._collect_alone(wait=True)

    def _group(self, group: Sequence[Planned], number: str) -> None:
        """Train one group, or half of it, or nothing, as time allows."""
        ready = [
            one for one in group if all(needed.key in self.weights for needed in one.run.needs)
        ]
        for one in group:
            if one not in ready:
                self.failed.setdefault(one.run.key, "a run that it needs is missing")
        while ready:
            started = time.monotonic()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            runs = [one.run for one in ready]
            needs = [[self.weights[needed.key] for needed in run.needs] for run in runs]
            training = Lockstep(runs, needs, self.device, self.workers.draw)
            training.capture()
            step, measuring = training.seconds_a_step(), training.seconds_to_measure()
            steps = training.recipe.steps
            wanted = step * steps + measuring
            label = f"[{number}] {describe(runs)}"
            print(
                f"{label}: set up in {time.monotonic() - started:.1f} s; {1e3 * step:.2f} ms a "
                f"step, {measuring:.1f} s to measure, {wanted:.0f} s in all; "
                f"{self.left:.0f} s left",
                flush=True,
            )
            if wanted <= self.left - RESERVE:
                self._train(training, ready, started, label)
                return
            del training
            if len(ready) < FASTEST_TIMED:
                break
            ready = ready[: len(ready) // 2]
        print(f"[{number}] not begun: there is no time for it", flush=True)

    def _train(
        self,
        training: Lockstep,
        group: Sequence[Planned],
        started: float,
        label: str,
    ) -> None:
        begun = time.monotonic()

        def watch(done: int, steps: int) -> None:
            if self.stopped or self.left < 0:
                raise OutOfTime
            if time.monotonic() - self._told > 15:
                self._told = time.monotonic()
                print(f"{label}: step {done} of {steps}; {self.left:.0f} s left", flush=True)

        training.train(watch)
        trained = time.monotonic() - begun
        trained_runs = results(training, lambda run: run.key in self.needed)
        seconds = time.monotonic() - started
        rows = [len(one.run.config.get("cells", [0])) for one in group]
        kept = []
        for one, result, share in zip(group, trained_runs, rows, strict=True):
            if not isinstance(result, Result):
                self.failed[one.run.key] = str(result)
                print(f"error: {one.run.name} failed: {result}", flush=True)
                continue
            if one.run.key in self.needed:
                self.weights[one.run.key] = result
            before = self.shards.find(one.run)
            if before is None:
                kept.append((one, result, seconds * share / sum(rows)))
            elif before["metrics"] != json.loads(json.dumps(result.metrics)):
                raise RuntimeError(
                    f"{one.run.name} came out otherwise than what is kept in "
                    f"{self.shards.folder}; give an empty folder, so that nothing is mixed"
                )
        self.shards.add(kept)
        work = lockstep.work_of(training.runs)
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        self.table.append(
            {
                "group": describe(training.runs),
                "runs": len(kept),
                "rows": len(training.learners.members),
                "steps": training.recipe.steps,
                "ms": 1e3 * trained / training.recipe.steps,
                "seconds": seconds,
                "TFLOP/s": work / trained / 1e12,
                "GiB": memory,
            }
        )
        print(f"{label}: kept {len(kept)} runs after {seconds:.1f} s", flush=True)

    def _begin_alone(self) -> None:
        """Hand small runs to the processor as soon as what they need is there."""
        begun = {one.run.key for one, _ in self.alone}
        for one in self.planned:
            run = one.run
            if run.train not in ALONE or run.key in begun or self.shards.find(run) is not None:
                continue
            if all(needed.key in self.weights for needed in run.needs):
                needs = [self.weights[needed.key] for needed in run.needs]
                self.alone.append((one, self.workers.pool.submit(train_alone, run, needs)))

    def _collect_alone(self, wait: bool = False) -> None:
        for one, future in self.alone:
            if self.shards.find(one.run) is not None or one.run.key in self.failed:
                continue
            try:
                while wait and not future.done() and self.left > 2 and not self.stopped:
                    time.sleep(0.2)
                if future.done():
                    metrics, seconds = future.result()
                    self.shards.add([(one, Result(metrics), seconds)], alone=True)
            except Exception as error:
                self.failed[one.run.key] = str(error)
                print(f"error: {one.run.name} failed: {error}", flush=True)

    def report(self) -> dict[str, Any]:
        """What was done, what failed, and what is missing."""
        missing = Counter(
            f"{one.chapter}: {lockstep.kind_of(one.run)} {one.run.config.get('task', '')}"
            for one in self.planned
            if self.shards.find(one.run) is None
        )
        failed = {self.by_key[key].run.name: reason for key, reason in self.failed.items()}
        return {"groups": self.table, "failed": failed, "missing": missing}

    def print_report(self) -> None:
        """Print a table of it."""
        print(f"{'group':50} {'runs':>5} {'rows':>5} {'steps':>6} {'ms':>8} {'s':>7} TFLOP/s   GiB")
        for row in self.table:
            print(
                f"{row['group'][:50]:50} {row['runs']:5} {row['rows']:5} {row['steps']:6} "
                f"{row['ms']:8.3f} {row['seconds']:7.1f} {row['TFLOP/s']:7.1f} {row['GiB']:5.1f}"
            )
        report = self.report()
        for name, count in report["missing"].items():
            print(f"missing: {count} of {name}")
        for name, reason in report["failed"].items():
            print(f"failed: {name}: {reason}")
        if not report["missing"]:
            print("nothing is missing")


def grouped(planned: Iterable[Planned]) -> list[list[Planned]]:
    """What can be trained in lockstep, by group and worth, in order."""
    found: dict[Any, list[Planned]] = {}
    for one in planned:
        if lockstep.fits(one.run):
            found.setdefault((one.worth, lockstep.group_of(one.run)), []).append(one)
    return list(found.values())


def describe(runs: Sequence[Run]) -> str:
    """A group in a few words."""
    config = runs[0].config
    model = config["model"]
    tasks = {run.config["task"] for run in runs}
    task = next(iter(tasks)) if len(tasks) == 1 else f"{len(tasks)} tasks"
    size = f"{model['n_layer']}x{model['n_embd']}"
    return f"{lockstep.kind_of(runs[0])} {task}, {len(runs)} runs, {size}"


def card(device: torch.device) -> str:
    """The name of what trains."""
    return torch.cuda.get_device_name() if device.type == "cuda" else machine()["processor"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m workflow.lockstep.session", description=__doc__
    )
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--cores", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--check", action="store_true", help="time all groups, keep nothing")
    options = parser.parse_args(arguments)
    planned, about = read_plan(options.plan)
    workers = Workers(options.cores)
    try:
        name = options.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        set_precision()
        deadline = started + 60 * options.minutes
        if options.check:
            from workflow.lockstep.check import check

            return check(planned, workers, device, deadline)
        shards = Shards(options.out, card(device))
        session = Session(planned, shards, workers, device, deadline)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, session.stop)
        session.run()
        session.print_report()
        options.out.mkdir(parents=True, exist_ok=True)
        report = {"about": about, "machine": shards.machine, **session.report()}
        (options.out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        print(f"{time.monotonic() - started:.0f} s in all", flush=True)
        return 0
    finally:
        workers.close()


def set_precision() -> None:
    """Let products of float32 be products of float32, and sum those of bfloat16 in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


if __name__ == "__main__":
    sys.exit(main())

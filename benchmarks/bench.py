"""Print how long what readers wait for takes: ``python -m benchmarks.bench``.

The table is about training steps of the experiments B3 to B6, at the published sizes and at those
of a small build; below it stand a phase diagram of Part I, and the parts of a cold build as they
were last recorded. ``--record`` keeps the ratios in ``benchmarks/reference.json``; later tables
show them in the column "before".

Ours and the baseline take turns, so that a machine that slows down slows both. Each turn is a
block of steps, data included; the table shows the medians over turns and the median of the ratios
of neighbouring turns. The last columns compare with the machine: which share of its measured
matrix-product rate (the peak, in GFLOP/s) the step reaches in the precision of the row, counting
the products that the step needs.

On one thread the clock is the processor's, which does not run while others use the core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks import baseline
from benchmarks.baseline import Method
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import SORT_ASCENDING, SORT_DESCENDING, batches
from promptlib.prompt_attention.head_price import head_error_map
from promptlib.training import Learner, Precision, Recipe, freeze, products_in, train, weights_of
from workflow.profile_config import load_profile
from workflow.progress import expected_seconds
from workflow.sources import ROOT

REFERENCE = ROOT / "benchmarks" / "reference.json"
POSITIONS = 10
"""Positions of a sequence whose output the loss asks for."""


@dataclass(frozen=True)
class Size:
    """A model, and how it is trained."""

    config: GPTConfig
    prefix_length: int
    precision: Precision
    batch: int = 64


SIZES = {
    "B3": Size(GPTConfig(1, 1, 96, 11, 19), 1, "float32"),
    "B4": Size(GPTConfig(1, 4, 256, 11, 19, first_layer_norm=False), 1, "bfloat16"),
    "B5, B6": Size(GPTConfig(4, 4, 256, 11, 19), 10, "bfloat16"),
    "B4 small": Size(
        GPTConfig(1, 4, 96, 11, 19, first_layer_norm=False, gelu="erf"), 1, "float32", 16
    ),
    "B5, B6 small": Size(GPTConfig(2, 4, 64, 11, 19, gelu="erf"), 10, "float32", 16),
}

TOGETHER = 6
"""Prefixes of a sweep that share their passes."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    size : str
        Key of `SIZES`.
    method : {"pretraining", "prefix", "LoRA"}
    learners : int
        What one step of ours trains at once; its time is divided by it.
    precision : {"float32", "bfloat16"}
        Of ours; the baseline computes in float32.
    """

    size: str
    method: Method
    learners: int
    precision: Precision

    @property
    def key(self) -> str:
        """What the reference calls it."""
        return f"{self.name}, {self.precision}"

    @property
    def name(self) -> str:
        """What the table says."""
        together = f", {self.learners} at once" if self.learners > 1 else ""
        return f"{self.size}: {self.method}{together}"


def rows() -> Iterator[Row]:
    """Yield what is measured: every size in float32, and as it is trained if that differs."""
    for name, size in SIZES.items():
        for precision in dict.fromkeys(("float32", size.precision)):
            for method, learners in (
                ("pretraining", 1),
                ("prefix", 1),
                ("prefix", TOGETHER),
                ("LoRA", 1),
            ):
                yield Row(name, method, learners, precision)  # type: ignore[arg-type]


def silent(items: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Stand in for the progress bar."""
    return items


def ours(row: Row) -> Callable[[int], None]:
    """Return a function that makes a number of training steps with the library."""
    size = SIZES[row.size]
    generator = torch.Generator().manual_seed(0)
    model = GPT(size.config, generator)
    prefix: Prefix | PrefixBatch | None = None
    if row.method == "pretraining":
        learners = [weights_of(model, 5e-4)]
    elif row.method == "LoRA":
        factors = add_lora(model, 1, ["mlp.expand", "mlp.contract"], generator)
        learners = [Learner("LoRA", [], factors, 5e-3)]
    else:
        freeze(model)
        shape = (size.config.n_layer, size.prefix_length, size.config.n_embd)
        prefixes = [Prefix(*shape, 0.1, generator) for _ in range(row.learners)]
        prefix = prefixes[0] if row.learners == 1 else PrefixBatch(prefixes)
        learners = [Learner("prefix", [], [one.vectors], 1e-2) for one in prefixes]
    task = SORT_ASCENDING if row.method == "pretraining" else SORT_DESCENDING

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        with products_in(row.precision):
            return sequence_loss(model, *batch, prefix)

    def run(steps: int) -> None:
        train(
            learners,
            loss,
            batches(task, steps, size.batch, generator),
            Recipe(steps, warmup=0),
            progress=silent,
        )

    return run


def theirs(row: Row) -> Callable[[int], None]:
    """Return a function that makes a number of training steps with the baseline."""
    size = SIZES[row.size]
    step = baseline.training_step(
        size.config, row.method, prefix_length=size.prefix_length, batch_size=size.batch
    )

    def run(steps: int) -> None:
        for _ in range(steps):
            step()

    return run


def milliseconds(run: Callable[[int], None], steps: int) -> float:
    """Time one turn: milliseconds a step."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run(steps)
    return 1e3 * (clock() - start) / steps


def measure(row: Row, turns: int, steps: int) -> tuple[float, float, float]:
    """Return the median milliseconds of ours and of the baseline, and the median ratio."""
    run_ours, run_theirs = ours(row), theirs(row)
    milliseconds(run_ours, 2)
    milliseconds(run_theirs, 2)
    pairs = [
        (milliseconds(run_ours, steps) / row.learners, milliseconds(run_theirs, steps))
        for _ in range(turns)
    ]
    mine, baselines = zip(*pairs, strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(mine), statistics.median(baselines), ratio


def matmul_rate(width: int, precision: Precision) -> float:
    """Measure the machine's matrix products of an MLP's shape, in GFLOP/s."""
    dtype = getattr(torch, precision)
    rows, columns = 64 * 19, 4 * width
    a, b = torch.randn(rows, width, dtype=dtype), torch.randn(columns, width, dtype=dtype)

    def products(n: int) -> None:
        for _ in range(n):
            nn.functional.linear(a, b)

    best = min(milliseconds(products, 20) for _ in range(10))
    return 2 * rows * width * columns / best / 1e6


def needed_gflop(row: Row) -> float:
    """Count the matrix products that one step cannot do without, in GFLOP.

    In every layer but the last: queries, keys, values, output projection and MLP at all positions;
    in the last, keys and values at all positions and the rest at the ten output positions. Forwards
    and backwards: once for activations, once more for weights if they learn. Attention itself is
    left out, and so are queries, keys and values of the first layer, which depend on a token and
    its position only.
    """
    size = SIZES[row.size]
    everywhere, outputs = size.batch * size.config.block_size, size.batch * POSITIONS
    deeper = size.config.n_layer - 1
    maps = 0
    if deeper:
        maps += (9 + 12 * (deeper - 1)) * everywhere  # the first layer, then the middle
        maps += 2 * everywhere + 10 * outputs  # the last
    else:
        maps += 9 * outputs
    forward = 2 * maps * size.config.n_embd**2
    return forward * (3 if row.method == "pretraining" else 2) / 1e9


def table(
    turns: int, steps: int, before: Mapping[str, float]
) -> Iterator[tuple[str, Row | None, float]]:
    """Yield the lines of the table; with those of rows, the row and its ratio.

    Models of more than one layer get a fifth of the steps. ``before`` holds ratios to compare with,
    by `Row.key`.
    """
    yield f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)", None, 0.0
    yield (
        (
            f"{'ms a step':34} {'products':>8} {'ours':>7} {'samples/s':>9} {'baseline':>9} "
            f"{'ratio':>6} {'before':>7} {'of peak':>8} {'peak':>6}"
        ),
        None,
        0.0,
    )
    rates = {}
    for row in rows():
        size = SIZES[row.size]
        of = (size.config.n_embd, row.precision)
        if of not in rates:
            rates[of] = matmul_rate(*of)
        fewer = max(1, steps // (5 if size.config.n_layer > 1 else 1) // row.learners)
        mine, baselines, ratio = measure(row, turns, fewer)
        share = needed_gflop(row) / (mine / 1e3) / rates[of]
        then = f"{before[row.key]:.1f}x" if row.key in before else "-"
        yield (
            (
                f"{row.name:34} {row.precision:>8} {mine:7.2f} {1e3 * size.batch / mine:9.0f} "
                f"{baselines:9.2f} {ratio:5.1f}x {then:>7} {share:8.0%} {rates[of]:6.0f}"
            ),
            row,
            ratio,
        )


def cold_build() -> Iterator[str]:
    """Yield what the parts of a cold build took when the verdicts were last recorded."""
    profile = load_profile("quick")
    wanted = profile.first_wanted
    runs, executing = expected_seconds(wanted, [plan.source.name for plan in profile.notebooks])
    training: Counter[str] = Counter()
    for name, seconds in runs.items():
        training[wanted[name][0]] += seconds  # type: ignore[assignment]  # seconds, not a count
    yield f"{'a cold build, s, as recorded':42} {'training':>9} {'notebook':>9}"
    for name in sorted(executing, key=lambda name: -training[name] - executing[name]):
        yield f"{name:42} {training[name]:9.0f} {executing[name]:9.0f}"
    yield f"{'all':42} {sum(training.values()):9.0f} {sum(executing.values()):9.0f}"


def phase_diagram_seconds(turns: int) -> float:
    """Return the median seconds of a 200 x 200 phase diagram of the ridge formula, in one call."""
    sparsity = torch.arange(1, 201, dtype=torch.float64) / 400
    context_norm = torch.linspace(0, 4, 200, dtype=torch.float64)[:, None]

    def diagrams(count: int) -> None:
        for _ in range(count):
            head_error_map(
                400,
                sparsity=sparsity,
                context_norm=context_norm,
                signal_norm=0.5,
                noise_std=1.0,
                scale=0.5,
                samples_per_dim=2.0,
                ridge=0.05,
            )

    return statistics.median(milliseconds(diagrams, 1) for _ in range(turns)) / 1e3


def main() -> None:
    """Read the options and print the tables, once for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="interleaved turns of each row")
    parser.add_argument("--steps", type=int, default=20, help="training steps in a turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--record", action="store_true", help="keep the ratios as reference")
    options = parser.parse_args()
    before = json.loads(REFERENCE.read_text(encoding="utf-8")) if REFERENCE.is_file() else {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        found = {}
        for line, row, ratio in table(options.turns, options.steps, before.get(str(threads), {})):
            print(line, flush=True)
            if row:
                found[row.key] = round(ratio, 2)
        if options.record:
            before[str(threads)] = found
            REFERENCE.write_text(json.dumps(before, indent=1) + "\n", encoding="utf-8")
        seconds = phase_diagram_seconds(min(options.turns, 5))
        print(f"ridge formula, 200 x 200 cells: {seconds:.2f} s\n", flush=True)
    for line in cold_build():
        print(line)


if __name__ == "__main__":
    main()

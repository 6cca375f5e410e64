"""Print how long what readers wait for takes: ``python -m benchmarks.bench``.

The table is about training steps of experiment B3; below it stands a phase diagram of Part I.

Ours and the baseline take turns, so that a machine that slows down slows both. Each turn is a
block of steps, data included; the table shows the medians over turns and the median of the ratios
of neighbouring turns. The last column compares with the machine: which share of its measured
matrix-product rate the step reaches, counting the products that the step needs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import baseline
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import SORT_ASCENDING, SORT_DESCENDING, batches
from promptlib.prompt_attention.head_price import head_error_map
from promptlib.training import Learner, Recipe, freeze, train, weights_of

B3 = GPTConfig(n_layer=1, n_head=1, n_embd=96, vocab_size=11, block_size=19)
BATCH = 64


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    ours, theirs : callable
        Make the given number of training steps.
    ours_does : int
        Models that one step of ours trains at once; times are divided by it.
    """

    name: str
    ours: Callable[[int], None]
    theirs: Callable[[int], None]
    ours_does: int = 1


def silent(items: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """Stand in for the progress bar."""
    return items


def pretrain(steps: int) -> None:
    """Train all weights of a B3 model."""
    generator = torch.Generator().manual_seed(0)
    model = GPT(B3, generator)
    train(
        [weights_of(model, 5e-4)],
        lambda batch: sequence_loss(model, *batch),
        batches(SORT_ASCENDING, steps, BATCH, generator),
        Recipe(steps, warmup=0),
        progress=silent,
    )


def prefix_tune(n_prefixes: int) -> Callable[[int], None]:
    """Train prefixes of a frozen B3 model, several of them in one pass."""

    def run(steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        model = GPT(B3, generator)
        freeze(model)
        prefixes = [Prefix(1, 1, B3.n_embd, 0.1, generator) for _ in range(n_prefixes)]
        batch_of = prefixes[0] if n_prefixes == 1 else PrefixBatch(prefixes)
        train(
            [Learner("prefix", [], [prefix.vectors], 1e-2) for prefix in prefixes],
            lambda batch: sequence_loss(model, *batch, batch_of),
            batches(SORT_DESCENDING, steps, BATCH, generator),
            Recipe(steps, warmup=0),
            progress=silent,
        )

    return run


def ordinary(with_prefix: bool) -> Callable[[int], None]:
    """Train with the baseline; the model is built once, which favours it."""
    step = baseline.training_step(with_prefix=with_prefix, batch_size=BATCH)

    def run(steps: int) -> None:
        for _ in range(steps):
            step()

    return run


def milliseconds(run: Callable[[int], None], steps: int) -> float:
    """Time one turn: milliseconds a step."""
    start = time.perf_counter()
    run(steps)
    return 1e3 * (time.perf_counter() - start) / steps


def measure(row: Row, turns: int, steps: int) -> tuple[float, float, float]:
    """Return the median milliseconds of ours and of the baseline, and the median ratio."""
    milliseconds(row.ours, 10)
    milliseconds(row.theirs, 10)
    pairs = [
        (milliseconds(row.ours, steps) / row.ours_does, milliseconds(row.theirs, steps))
        for _ in range(turns)
    ]
    ours, theirs = zip(*pairs, strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(ours), statistics.median(theirs), ratio


def matmul_rate() -> float:
    """Measure the machine's float32 matrix products of the MLP's shape, in GFLOP/s."""
    a, b = torch.randn(640, 384), torch.randn(384, 384)
    out = torch.empty(640, 384)

    def products(n: int) -> None:
        for _ in range(n):
            torch.mm(a, b, out=out)

    best = min(milliseconds(products, 50) for _ in range(10))
    return 2 * 640 * 384 * 384 / best / 1e6


def needed_gflop(with_prefix: bool) -> float:
    """Count the matrix products that one step of B3 cannot do without, in GFLOP.

    The MLP and the output projection at the ten output positions, forwards and backwards (once
    for activations, once for weights if they learn). Attention, and queries, keys and values,
    which depend on a token and its position only, are left out.
    """
    positions = BATCH * 10
    forward = 2 * positions * (8 + 1) * B3.n_embd**2
    return forward * (2 if with_prefix else 3) / 1e9


def table(turns: int, steps: int) -> Iterator[str]:
    """Yield the lines of the table."""
    rate = matmul_rate()
    yield f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    yield f"matrix products, float32: {rate:.0f} GFLOP/s"
    yield ""
    yield f"{'B3, batch 64, ms a step':28} {'ours':>7} {'baseline':>9} {'ratio':>7} {'of peak':>8}"
    prefix_baseline = ordinary(with_prefix=True)
    for row, with_prefix in (
        (Row("pretraining", pretrain, ordinary(with_prefix=False)), False),
        (Row("prefix", prefix_tune(1), prefix_baseline), True),
        (Row("prefix, 9 in one pass", prefix_tune(9), prefix_baseline, 9), True),
    ):
        ours, theirs, ratio = measure(row, turns, steps)
        share = needed_gflop(with_prefix) / (ours / 1e3) / rate
        yield f"{row.name:28} {ours:7.2f} {theirs:9.2f} {ratio:6.1f}x {share:7.0%}"


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
    parser.add_argument("--turns", type=int, default=15, help="interleaved turns of each row")
    parser.add_argument("--steps", type=int, default=30, help="training steps in a turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    for threads in options.threads:
        torch.set_num_threads(threads)
        for line in table(options.turns, options.steps):
            print(line, flush=True)
        seconds = phase_diagram_seconds(min(options.turns, 5))
        print(f"ridge formula, 200 x 200 cells: {seconds:.2f} s\n", flush=True)


if __name__ == "__main__":
    main()

"""Everything that was tried on the new task: its plan, its runs, and claims that can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from notebooks.prefix_tuning.new_task import claims as new_task_stream_results
from notebooks.prefix_tuning.new_task import figures_effort as new_task_effort_figures
from notebooks.prefix_tuning.new_task import figures_stream as new_task_stream_figures
from notebooks.prefix_tuning.new_task import plan as new_task_effort
from notebooks.prefix_tuning.new_task import results as new_task_results
from notebooks.prefix_tuning.new_task import results_effort as new_task_effort_results
from notebooks.prefix_tuning.new_task import results_tables as any_prefix_results
from notebooks.prefix_tuning.new_task import stream as new_task_stream
from notebooks.prefix_tuning.new_task.plan import ChapterPlan
from notebooks.prefix_tuning.new_task.results import Measured
from notebooks.prefix_tuning.new_task.results_effort import Way
from promptlib.prefix_tuning import adapting as experiment_training
from promptlib.prefix_tuning import blind
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import Cell, Metrics
from promptlib.runs import Result, Run
from tests.trained_in_memory import TrainedInMemory, silent
from workflow.sources import Source

SMALL: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "pretrain_steps": 12,
    "adapt_steps": 10,
    "learning_rates": [0.1],
    "init_stds": [1.0],
    "weight_rates": [0.003],
    "test_sequences": 30,
    "effort_rates": [0.1, 1.0],
    "lengths": [2, 3],
    "restarts": 3,
    "patience": 2,
    "tried_seeds": 1,
    "table_rates": [0.1, 0.3],
    "table_starts": [0.0],
}


@pytest.fixture(scope="module")
def tried() -> tuple[ChapterPlan, TrainedInMemory, list[Way]]:
    """Return the real plan of the chapter, as short as it still works."""
    torch.set_num_threads(1)
    plan, runs = new_task_effort.plan(**SMALL), TrainedInMemory()
    return plan, runs, new_task_effort_results.collect(plan, runs.get)


def test_the_plan_has_every_way_for_every_seed() -> None:
    plan = new_task_effort.plan(**SMALL)
    runs = list(plan)
    assert len({run.key for run in runs}) == len(runs)
    # Per seed: 5 of the experiment, 2 parametrisations, 2 lengths, tables; for one seed restarts
    # and the long training.
    assert len(runs) == 2 * (5 + 2 + 2 + 1) + 1 + 1
    assert [run.needs for run in plan.tables] == [(base,) for base in plan.experiment.pretrained]
    assert {run.config["steps"] for run in plan.effort.longer} == {20}
    sweep = plan.experiment.prefixes["free"][0].config
    assert all(run.config["cells"] == sweep["cells"] for run in plan.effort.lengths[3])
    table = plan.tables[0].config
    for name in ("seed", "steps", "warmup", "batch_size", "evaluate", "test_sequences", "task"):
        assert table[name] == sweep[name]


def test_the_defaults_of_the_chapter_are_a_plan() -> None:
    list(new_task_effort.plan(**Source("prefix_tuning/new_task").defaults))


def test_the_plan_needs_no_torch() -> None:
    code = (
        "import sys; from notebooks.prefix_tuning.new_task.plan import plan;"
        f"list(plan(**{SMALL!r}));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("restarts", 0, r"restarts .* got 0"),
        ("patience", 1.5, r"patience .* got 1.5"),
        ("lengths", [4, 1], r"lengths\[1\] .* at least 2, got 1"),
        ("effort_rates", [], r"effort_rates .* got \[\]"),
        ("tried_seeds", 0, r"tried_seeds .* got 0"),
        ("table_rates", [0.0], r"table_rates .* got \[0.0\]"),
        ("table_starts", [], r"table_starts must be one or more finite numbers, got \[\]"),
        ("table_starts", [float("inf")], r"table_starts .* got \[inf\]"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_task_effort.plan(**{**SMALL, name: value})


def test_every_trained_prefix_is_counted(
    tried: tuple[ChapterPlan, TrainedInMemory, list[Way]],
) -> None:
    plan, runs, ways = tried
    rows = new_task_effort_results.counts(ways)
    prefix_runs = [
        run
        for run in plan
        if run.train.endswith(":tune_prefixes") and run.config["task"] == "sort_descending"
    ]
    assert sum(row[-1] for row in rows) == sum(len(run.config["cells"]) for run in prefix_runs)
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["free, 3 starts"] == (1, 192, 10, 3)
    assert by_name["free, 2 × steps"] == (1, 192, 20, 1)
    assert by_name["free, 3 vectors"] == (3, 576, 10, 2)
    assert "all" in new_task_effort_results.table_of_counts(ways)
    cell = ways[-1].best[1]
    prefix = new_task_effort_results.prefix_of(cell, runs.get)
    assert prefix.length == 3
    assert not prefix.layer_norm


def test_claims_and_figure_go_through(
    tried: tuple[ChapterPlan, TrainedInMemory, list[Way]],
) -> None:
    import matplotlib.pyplot as plt

    plan, runs, ways = tried
    measured = new_task_results.collect(plan.experiment, runs.get)
    tables = new_task_effort_results.best_tables(plan, runs.get)
    found = new_task_effort_results.claims_of(measured, ways, tables)
    assert {claim.details["seeds"] for claim in found.values()} == {2}
    rates = new_task_effort_results.table_of_rates(
        measured, ways, [runs.get(run).metrics["cells"] for run in plan.tables]
    )
    assert "table              0.1 to 0.3: best at" in rates
    assert "of 1 seeds" not in rates  # the ways with one rate have no ends
    assert "fine-tuning" not in rates
    finetuned = measured.best_finetuned
    figure, alt = new_task_effort_figures.all_ways(ways, {"all weights": (finetuned, "green")}, 0.9)
    assert "free, 3 starts: lowest loss" in alt
    assert "Without looking the loss is 0.9" in alt
    figure.canvas.draw()
    plt.close(figure)


def fake_way(name: str, length: int, *seeds: Sequence[tuple[float, float]]) -> Way:
    """A way with the given accuracies and losses by seed and cell."""

    def cell(accuracy: float, loss: float, index: int) -> Cell:
        metrics: Metrics = {
            "accuracy": {"sort_descending": accuracy},
            "loss": {"sort_descending": loss},
            "validation": {"accuracy": accuracy, "loss": loss},
            "parameters": 96,
        }
        return Cell(Run("a:b", {"steps": 10, "test_sequences": 400}), index, metrics)

    sweeps = [[cell(*pair, index) for index, pair in enumerate(cells)] for cells in seeds]
    return Way(name, length, sweeps)


def test_the_best_of_all_is_the_most_accurate_then_the_least_wrong() -> None:
    ways = [
        fake_way("one", 1, [(0.0, 3.0), (0.0, 2.0)], [(0.0, 1.0)]),
        fake_way("two", 2, [(0.0, 1.0)], [(0.1, 9.0)]),
    ]
    best = new_task_effort_results.best_of_all(ways)
    assert [name for name, _ in best] == ["two", "two"]
    assert best[1][1].loss("sort_descending") == 9.0
    assert ways[0].lowest_losses == [2.0, 1.0]
    assert ways[1].highest_accuracies == [0.0, 10.0]


def test_a_way_of_the_first_seed_counts_for_that_seed_only() -> None:
    ways = [fake_way("one", 1, [(0.0, 3.0)], [(0.0, 3.0)]), fake_way("starts", 1, [(0.0, 2.0)])]
    assert new_task_effort_results.lowest_of_all(ways) == [2.0, 3.0]
    assert [name for name, _ in new_task_effort_results.best_of_all(ways)] == ["starts", "one"]


def two_seeds(name: str, length: int, *cells: tuple[float, float]) -> Way:
    """A way whose two seeds differ by little."""
    return fake_way(name, length, cells, [(share, 1.01 * loss) for share, loss in cells])


def sorters(loss: float) -> Measured:
    """Two sorters with this loss on descending."""
    return Measured({}, [{"loss": {"sort_descending": loss}}] * 2, [], [], {})


@pytest.mark.claim("prefix-tuning/new-task-worse-than-blind")
def test_one_vector_that_sorts_refutes_that_one_vector_fails(
    tried: tuple[ChapterPlan, TrainedInMemory, list[Way]],
) -> None:
    results = new_task_effort_results
    long = two_seeds("long", 8, (0.04, 0.6))
    failed = [two_seeds("free", 1, (0.0, 4.0)), long]
    assert results.worse_than_blind(failed).verdict == "supported"
    # One lucky restart is enough, and what longer prefixes do does not count.
    lucky = [*failed, two_seeds("starts", 1, (0.0, 4.0), (0.3, 0.4))]
    assert results.worse_than_blind(lucky).verdict == "contradicted"
    # The longer ones did not learn: then the code may be to blame.
    broken = results.longer_learns(sorters(12.0), [two_seeds("long", 8, (0.0, 11.0))])
    assert results.worse_than_blind(failed, requires=[broken]).verdict == "uninformative"
    # A model that sorts downwards by itself, in the place of the pretrained one.
    plan, runs, _ways = tried
    sweeps = []
    for run in plan.experiment.prefixes["shared"]:
        sorter = Run(
            "promptlib.prefix_tuning.adapting:pretrain",
            {
                **run.needs[0].config,
                "task": "sort_descending",
                "steps": 300,
                "warmup": 30,
            },
        )
        config = {**run.config, "cells": [{"learning_rate": 1e-3, "init_std": 0.01}]}
        trained = experiment_training.tune_prefixes(config, [runs.get(sorter)], silent)
        sweeps.append([Cell(run, 0, cell) for cell in trained.metrics["cells"]])
    assert results.worse_than_blind([Way("shared", 1, sweeps)]).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/new-task-worse-than-blind")
def test_a_wrong_entropy_changes_what_is_worse_than_not_looking() -> None:
    ways = [two_seeds("one", 1, (0.0, 4.0))]

    def in_bits_and_for_ten() -> float:
        return 10 * blind.blind_sorting_loss() / float(torch.tensor(2.0).log())

    claim = new_task_effort_results.worse_than_blind(ways, blind=in_bits_and_for_ten)
    assert claim.verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/new-task-longer-descending")
@pytest.mark.claim("prefix-tuning/new-task-longer-learns")
def test_longer_prefixes_that_sort_or_do_not_learn_refute_what_they_do() -> None:
    results = new_task_effort_results
    short = two_seeds("one", 1, (0.0, 4.0))
    seen = [short, two_seeds("eight", 8, (0.03, 0.7))]
    assert results.longer_descending(seen).verdict == "supported"
    assert "prefix of 8 vectors" in results.longer_descending(seen).sentence
    sorts = [short, two_seeds("eight", 8, (0.9, 0.1))]
    assert results.longer_descending(sorts).verdict == "contradicted"
    assert results.longer_learns(sorters(12.0), seen).verdict == "supported"
    # A loss measured in sums over the ten outputs.
    summed = [short, two_seeds("eight", 8, (0.03, 7.0))]
    assert results.longer_learns(sorters(12.0), summed).verdict == "contradicted"
    at_limit = [fake_way("eight", 8, [(0.0, 5.9)], [(0.0, 6.1)])]
    assert results.longer_learns(sorters(12.0), at_limit).verdict == "undecided"


def metrics_of(run: Run, share: float, seed: int) -> Result:
    """What a run of the chapter might have measured; no tensors."""
    loss = 2 * (1 - share) + 0.001 * seed
    own = {"accuracy": share, "loss": loss}
    measured: dict[str, Any] = {
        "accuracy": {"sort_ascending": 0.9 if not run.needs else 0.0, "sort_descending": share},
        "loss": {"sort_ascending": 1.0, "sort_descending": loss if run.needs else 12.0},
        "curve": [1.0],
    }
    if not run.needs:
        return Result(measured, {})
    measured["validation"] = own
    if "cells" not in run.config:
        return Result(measured, {})
    cells = [{**cell, **measured, "parameters": 96} for cell in run.config["cells"]]
    return Result({"cells": cells, "combined": measured}, {})


def test_claims_at_the_published_size_need_metrics_only() -> None:
    plan = new_task_effort.plan(**{**SMALL, "test_sequences": 1000})

    def get(run: Run) -> Result:
        kind = run.train.partition(":")[2]
        long = run.config.get("length", 1) > 1
        share = {"pretrain": 0.0, "fine_tune": 0.95, "train": 1.0, "tune_prefixes": 0.0}[kind]
        return metrics_of(run, 0.9 if long else share, run.config["seed"])

    found = new_task_effort_results.claims_at_published_size(plan, get)
    by_id = {claim.id.removeprefix("prefix-tuning/new-task-"): claim for claim in found}
    assert len(by_id) == len(found) == 12
    assert by_id["prefix-descending"].verdict == "supported"
    assert by_id["prefix-descending"].replication == "reproduced"
    assert by_id["best-table"].verdict == "contradicted"
    assert by_id["longer-descending"].verdict == "contradicted"
    measured = new_task_results.collect(plan.experiment, get)
    ways = new_task_effort_results.collect(plan, get)
    tables = new_task_effort_results.best_tables(plan, get)
    on_the_page = new_task_effort_results.claims_of(measured, ways, tables)
    assert list(on_the_page.values()) == found


# The residual stream.


@pytest.fixture(scope="module")
def model() -> GPT:
    generator = torch.Generator().manual_seed(0)
    model = GPT(GPTConfig(1, 2, 14, 11, 19), generator).requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_the_stream_is_what_mlp_and_head_are_given(model: GPT) -> None:
    tokens, _ = new_task_stream.examples(20, "test")
    prefix = Prefix(1, 3, 14, 1.0, torch.Generator().manual_seed(1), separate_values=True)
    table = any_prefix_results.table_of(model, prefix)
    block = model.blocks[0]
    for added in (None, prefix, table):
        stream = new_task_stream.stream_of(model, added)(tokens)
        assert stream.shape == (20, 10, 14)
        logits = model.head(model.norm(stream + block.mlp(block.norm_mlp(stream))))
        expected = model(tokens, None if added is None else prefix, last=10)
        assert torch.allclose(logits, expected, atol=1e-4)


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    def answers(tokens: torch.Tensor) -> torch.Tensor:
        digits = tokens[:, :10].sort(dim=1, descending=True).values
        return torch.nn.functional.one_hot(digits, 8).float() @ torch.eye(8, 11)

    def silent_stream(tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(tokens), 10, 3)

    assert new_task_stream.probe_accuracy(answers, 500, 200) > 99.5  # a rare digit may be unseen
    # The most frequent digit of each output: far above one in eight, far below everything.
    assert 20 < new_task_stream.probe_accuracy(silent_stream, 500, 200) < 60


def test_examples_at_a_pair(model: GPT) -> None:
    tokens, digits = new_task_stream.at_pair(5, 5, 300, "test")
    assert (tokens[:, 13] == 5).all()
    assert (digits <= 5).all()
    assert (tokens[:, :10].sort(dim=1, descending=True).values[:, 4] == digits).all()
    for output in (1, 11):
        with pytest.raises(ValueError, match=f"output from 2 to 10, got {output}"):
            new_task_stream.at_pair(output, 5, 10, "test")
    with pytest.raises(ValueError, match="none of 3 sequences has 0 before output 2; draw more"):
        new_task_stream.at_pair(2, 0, 3, "test")
    features = new_task_stream.stream_of(model)(tokens)[:, 4]
    assert new_task_stream.reading_plane(features, digits).shape == (14, 2)


@pytest.mark.claim("prefix-tuning/new-task-probe")
@pytest.mark.claim("prefix-tuning/new-task-built-probe")
@pytest.mark.claim("prefix-tuning/new-task-finetuned-probe")
def test_a_prefix_that_carried_the_answer_would_be_seen(model: GPT) -> None:
    plain = new_task_stream.stream_of(model)

    def leaking(tokens: torch.Tensor) -> torch.Tensor:
        digits = tokens[:, :10].sort(dim=1, descending=True).values
        stream = plain(tokens)
        stream[..., :8] += 30 * torch.nn.functional.one_hot(digits, 8)
        return stream

    prefix = Prefix(1, 1, 14, 1.0, torch.Generator().manual_seed(1))
    honest = new_task_stream.stream_of(model, prefix)
    without, with_prefix, leaked = (
        new_task_stream.probe_accuracy(stream, 800, 400) for stream in (plain, honest, leaking)
    )
    results = new_task_stream_results
    before, after = [without, without + 0.1], [leaked, leaked]
    sees = results.finetuned_probe_gain(before, after, 400)
    assert sees.verdict == "supported"
    blind = results.finetuned_probe_gain(before, before, 400)
    assert blind.verdict == "contradicted"
    for claim in (results.probe_gain, results.built_probe_gain):
        assert claim(before, before, 400, [sees]).verdict == "supported"
        assert claim(before, after, 400).verdict == "contradicted"
        assert claim(before, [without + 0.9, without + 1.2], 400).verdict == "undecided"
        assert claim(before, before, 400, [blind]).verdict == "uninformative"
    assert "interval" not in results.table_of_probes({"honest": [with_prefix]})
    assert "interval" in results.table_of_probes({"two seeds": [50.0, 52.0]})


@pytest.mark.parametrize("panels", [1, 4])
def test_the_planes_say_how_far_apart_the_digits_are(model: GPT, panels: int) -> None:
    import matplotlib.pyplot as plt

    prefix = Prefix(1, 1, 14, 1.0, torch.Generator().manual_seed(1))
    panel = new_task_stream_figures.Panel
    plain = new_task_stream.stream_of(model)
    drawn = [
        panel("plain", plain, moved=False),
        panel("same", plain, moved=True),
        panel("prefixed", new_task_stream.stream_of(model, prefix), moved=True),
        panel("again", plain, moved=False),
    ][:panels]
    figure, alt = new_task_stream_figures.planes(drawn, output=5, digit=5, n=600)
    assert "output 5 after the digit 5" in alt
    if panels > 1:
        assert "same: the digits lie 100 % as far apart as before" in alt
    figure.canvas.draw()
    plt.close(figure)


def test_results_know_the_task() -> None:
    assert new_task_results.DESCENDING == new_task_effort.TASK

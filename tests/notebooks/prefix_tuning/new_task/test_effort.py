"""Everything that was tried on the new task: its plan, its runs, and claims that can fail."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from notebooks.prefix_tuning.new_task import claims as rows
from notebooks.prefix_tuning.new_task import figures, figures_stream, results, stream, tables_theory
from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.new_task.claims import CHAPTER, PROBES, ROWS
from promptlib import claims
from promptlib.prefix_tuning import adapting, blind
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trials import Plan, Trials, rebuild
from promptlib.runs import Result, Run
from tests.notebooks.prefix_tuning.new_task.fakes import fake, judged, metrics, verdicts
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


Tried = tuple[Plan, TrainedInMemory, Trials]


@pytest.fixture(scope="module")
def tried() -> Tried:
    """Return the real plan of the chapter, as short as it still works."""
    torch.set_num_threads(1)
    plan, runs = new_task.plan(**SMALL), TrainedInMemory()
    return plan, runs, results.measured(plan, runs.get)


def test_the_plan_has_every_way_for_every_seed() -> None:
    plan = new_task.plan(**SMALL)
    runs = list(plan)
    assert len({run.key for run in runs}) == len(runs)
    # Per seed: 5 of the experiment, 2 parametrisations, 2 lengths, tables; for one seed restarts
    # and the long training.
    assert len(runs) == 2 * (5 + 2 + 2 + 1) + 1 + 1
    bases = plan.where(method="pretrained").runs
    tables = plan.where(method="table").runs
    assert [run.needs for run in tables] == [(base,) for base in bases]
    assert [run.config["steps"] for run in plan.where(way="free, 2 × steps")] == [20]
    sweep = plan.where(way="free").runs[0].config
    assert all(run.config["cells"] == sweep["cells"] for run in plan.where(length=3))
    for name in ("seed", "steps", "warmup", "batch_size", "evaluate", "test_sequences", "task"):
        assert tables[0].config[name] == sweep[name]


def test_the_defaults_of_the_chapter_are_a_plan() -> None:
    list(new_task.plan(**Source("prefix_tuning/new_task").defaults))


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
        new_task.plan(**{**SMALL, name: value})


def test_every_trained_prefix_is_counted(tried: Tried) -> None:
    plan, runs, trials = tried
    said = results.table_of_counts(trials).splitlines()
    prefix_runs = [
        run
        for run in plan
        if run.train.endswith(":tune_prefixes") and run.config["task"] == "sort_descending"
    ]
    by_name = {line[:24].strip(): line[24:].split() for line in said}
    assert by_name["all"] == [str(sum(len(run.config["cells"]) for run in prefix_runs))]
    assert by_name["free, 3 starts"] == ["1", "192", "10", "3"]
    assert by_name["free, 2 × steps"] == ["1", "192", "20", "1"]
    assert by_name["free, 3 vectors"] == ["3", "576", "10", "2"]
    assert list(results.ways(trials))[-1] == "free, 3 vectors"
    _, prefix = rebuild(trials.where(length=3).best()[1], runs.get)
    assert prefix is not None
    assert prefix.length == 3
    assert not prefix.layer_norm


def test_claims_and_figure_go_through(tried: Tried) -> None:
    import matplotlib.pyplot as plt

    _, _, trials = tried
    found = claims.check(CHAPTER, ROWS, trials)
    assert {claim.details["seeds"] for claim in found.values()} == {2}
    rates = results.table_of_rates(trials)
    assert "table              0.1 to 0.3: best at" in rates
    assert "of 1 seeds" not in rates  # the ways with one rate have no ends
    assert "fine-tuning" not in rates
    others = {"all weights": (trials.where(method="finetuned").best(), "green")}
    figure, alt = figures.all_ways(results.ways(trials), others, 0.9)
    assert "free, 3 starts: lowest loss" in alt
    assert "Without looking the loss is 0.9" in alt
    figure.canvas.draw()
    plt.close(figure)


def of_loss(*losses: float, share: float = 0.0) -> list[list[dict[str, Any]]]:
    """Cells with these losses, of two seeds that differ by little."""
    return [[metrics(0.0, share, spread * loss) for loss in losses] for spread in (1.0, 1.01)]


def test_the_best_of_all_is_the_most_accurate_then_the_least_wrong() -> None:
    trials = fake(
        {
            "shared": [[metrics(0, 0.0, 3.0), metrics(0, 0.0, 2.0)], [metrics(0, 0.0, 1.0)]],
            "longer": [[metrics(0, 0.0, 1.0)], [metrics(0, 0.1, 9.0)]],
        }
    )
    best = trials.where(method="prefix").best()
    assert [one["way"] for one in best] == ["longer", "longer"]
    assert best[1].loss() == 9.0
    assert results.one_vector(trials).best(by="loss").losses() == [2.0, 1.0]
    assert results.longer(trials).best().percent() == [0.0, 10.0]


def test_a_way_of_the_first_seed_counts_for_that_seed_only() -> None:
    starts = {"shared": [metrics(0, 0, 3.0)] * 2, "starts": [metrics(0, 0, 2.0)]}
    best = results.one_vector(fake(starts)).best(by="loss")
    assert best.losses() == [2.0, 3.0]
    assert [one["way"] for one in best] == ["starts", "shared"]


@pytest.mark.claim("prefix-tuning/new-task-worse-than-blind")
def test_one_vector_that_sorts_refutes_that_one_vector_fails(tried: Tried) -> None:
    name = "worse-than-blind"
    assert verdicts(shared=of_loss(4.0), longer=of_loss(0.6))[name] == "supported"
    # One lucky restart is enough, and what longer prefixes do does not count.
    lucky = [[metrics(0, 0, 4.0), metrics(0, 0.3, 0.4)]] * 2
    found = judged({"shared": of_loss(4.0), "starts": lucky})[name]
    assert found.verdict == "contradicted"
    assert "all 6 prefixes of one vector" in found.sentence
    # The longer ones did not learn: then the code may be to blame.
    assert verdicts(longer=of_loss(11.0))[name] == "uninformative"
    # A model that sorts downwards by itself, in the place of the pretrained one.
    plan, runs, _ = tried
    sweeps = []
    for run in plan.where(way="shared"):
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
        trained = adapting.tune_prefixes(config, [runs.get(sorter)], silent)
        sweeps.append(trained.metrics["cells"])
    assert verdicts(shared=sweeps)[name] == "contradicted"


@pytest.mark.claim("prefix-tuning/new-task-worse-than-blind")
def test_a_wrong_entropy_changes_what_is_worse_than_not_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_bits_and_for_ten() -> float:
        return 10 * blind.blind_sorting_loss() / float(torch.tensor(2.0).log())

    monkeypatch.setattr(rows, "blind_sorting_loss", in_bits_and_for_ten)
    assert verdicts()["worse-than-blind"] == "contradicted"


@pytest.mark.claim("prefix-tuning/new-task-longer-descending")
@pytest.mark.claim("prefix-tuning/new-task-longer-learns")
def test_longer_prefixes_that_sort_or_do_not_learn_refute_what_they_do() -> None:
    found = judged({"longer": of_loss(0.7, share=0.03)})
    assert found["longer-descending"].verdict == "supported"
    assert "prefix of 8 vectors" in found["longer-descending"].sentence
    sorts = of_loss(0.1, share=0.9)
    assert verdicts(longer=sorts)["longer-descending"] == "contradicted"
    assert found["longer-learns"].verdict == "supported"
    # A loss measured in sums over the ten outputs.
    assert verdicts(longer=of_loss(7.0))["longer-learns"] == "contradicted"
    without = [metrics(0.9, 0.0, 12.0)] * 2
    at_limit = [metrics(0.0, 0.0, 5.9), metrics(0.0, 0.0, 6.1)]
    assert verdicts(pretrained=without, longer=at_limit)["longer-learns"] == "undecided"


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
    plan = new_task.plan(**{**SMALL, "test_sequences": 1000})

    def get(run: Run) -> Result:
        kind = run.train.partition(":")[2]
        long = run.config.get("length", 1) > 1
        share = {"pretrain": 0.0, "fine_tune": 0.95, "train": 1.0, "tune_prefixes": 0.0}[kind]
        return metrics_of(run, 0.9 if long else share, run.config["seed"])

    found = rows.claims_at_published_size(plan, get)
    by_id = {claim.id.removeprefix("prefix-tuning/new-task-"): claim for claim in found}
    assert len(by_id) == len(found) == 12
    assert by_id["prefix-descending"].verdict == "supported"
    assert by_id["prefix-descending"].replication == "reproduced"
    assert by_id["best-table"].verdict == "contradicted"
    assert by_id["longer-descending"].verdict == "contradicted"
    on_the_page = claims.check(CHAPTER, ROWS, results.measured(plan, get))
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
    tokens, _ = stream.examples(20, "test")
    prefix = Prefix(1, 3, 14, 1.0, torch.Generator().manual_seed(1), separate_values=True)
    table = tables_theory.table_of(model, prefix)
    block = model.blocks[0]
    for added in (None, prefix, table):
        read = stream.stream_of(model, added)(tokens)
        assert read.shape == (20, 10, 14)
        logits = model.head(model.norm(read + block.mlp(block.norm_mlp(read))))
        expected = model(tokens, None if added is None else prefix, last=10)
        assert torch.allclose(logits, expected, atol=1e-4)


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    def answers(tokens: torch.Tensor) -> torch.Tensor:
        digits = tokens[:, :10].sort(dim=1, descending=True).values
        return torch.nn.functional.one_hot(digits, 8).float() @ torch.eye(8, 11)

    def silent_stream(tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(tokens), 10, 3)

    assert stream.probe_accuracy(answers, 500, 200) > 99.5  # a rare digit may be unseen
    # The most frequent digit of each output: far above one in eight, far below everything.
    assert 20 < stream.probe_accuracy(silent_stream, 500, 200) < 60


def test_examples_at_a_pair(model: GPT) -> None:
    tokens, digits = stream.at_pair(5, 5, 300, "test")
    assert (tokens[:, 13] == 5).all()
    assert (digits <= 5).all()
    assert (tokens[:, :10].sort(dim=1, descending=True).values[:, 4] == digits).all()
    for output in (1, 11):
        with pytest.raises(ValueError, match=f"output from 2 to 10, got {output}"):
            stream.at_pair(output, 5, 10, "test")
    with pytest.raises(ValueError, match="none of 3 sequences has 0 before output 2; draw more"):
        stream.at_pair(2, 0, 3, "test")
    features = stream.stream_of(model)(tokens)[:, 4]
    assert stream.reading_plane(features, digits).shape == (14, 2)


@pytest.mark.claim("prefix-tuning/new-task-probe")
@pytest.mark.claim("prefix-tuning/new-task-built-probe")
@pytest.mark.claim("prefix-tuning/new-task-finetuned-probe")
def test_a_prefix_that_carried_the_answer_would_be_seen(model: GPT) -> None:
    plain = stream.stream_of(model)

    def leaking(tokens: torch.Tensor) -> torch.Tensor:
        digits = tokens[:, :10].sort(dim=1, descending=True).values
        read = plain(tokens)
        read[..., :8] += 30 * torch.nn.functional.one_hot(digits, 8)
        return read

    prefix = Prefix(1, 1, 14, 1.0, torch.Generator().manual_seed(1))
    honest = stream.stream_of(model, prefix)
    without, with_prefix, leaked = (
        stream.probe_accuracy(read, 800, 400) for read in (plain, honest, leaking)
    )
    nothing = [without, without + 0.1]

    def verdicts_of(finetuned: list[float], prefixed: list[float]) -> list[str]:
        measured = {
            "pretrained": nothing,
            "all weights": finetuned,
            "one vector": prefixed,
            "built prefix": prefixed,
            "test_sequences": 400,
        }
        found = claims.check(CHAPTER, PROBES, measured)
        assert list(found) == ["finetuned-probe", "probe", "built-probe"]
        return [claim.verdict for claim in found.values()]

    all_of_it = [leaked, leaked]
    assert verdicts_of(all_of_it, nothing) == ["supported"] * 3
    assert verdicts_of(all_of_it, all_of_it) == ["supported", "contradicted", "contradicted"]
    some = [without + 0.9, without + 1.2]
    assert verdicts_of(all_of_it, some) == ["supported", "undecided", "undecided"]
    assert verdicts_of(nothing, nothing) == ["contradicted", "uninformative", "uninformative"]
    assert "interval" not in results.table_of_probes({"honest": [with_prefix]})
    assert "interval" in results.table_of_probes({"two seeds": [50.0, 52.0]})


@pytest.mark.parametrize("panels", [1, 4])
def test_the_planes_say_how_far_apart_the_digits_are(model: GPT, panels: int) -> None:
    import matplotlib.pyplot as plt

    prefix = Prefix(1, 1, 14, 1.0, torch.Generator().manual_seed(1))
    panel = figures_stream.Panel
    plain = stream.stream_of(model)
    drawn = [
        panel("plain", plain, moved=False),
        panel("same", plain, moved=True),
        panel("prefixed", stream.stream_of(model, prefix), moved=True),
        panel("again", plain, moved=False),
    ][:panels]
    figure, alt = figures_stream.planes(drawn, output=5, digit=5, n=600)
    assert "output 5 after the digit 5" in alt
    if panels > 1:
        assert "same: the digits lie 100 % as far apart as before" in alt
    figure.canvas.draw()
    plt.close(figure)

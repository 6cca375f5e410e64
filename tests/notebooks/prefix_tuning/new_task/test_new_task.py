"""Experiment B3: its plan, its runs, and claims that fail when something is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from notebooks.prefix_tuning.new_task import figures, figures_sweep, results
from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.new_task.claims import CHAPTER, GRADIENT, ROWS
from promptlib import claims
from promptlib.prefix_tuning import adapting, blind, drawing, evaluation, published
from promptlib.prefix_tuning import gpt as gpt_module
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import (
    SORT_ASCENDING,
    SORT_DESCENDING,
    Task,
    read_and_answer,
    sample_digits,
)
from promptlib.prefix_tuning.trials import Plan, Trials, read, rebuild
from promptlib.runs import Result, Run
from tests.notebooks.prefix_tuning.new_task.fakes import fake, judged, metrics, verdicts
from tests.trained_in_memory import TrainedInMemory, silent, train_nothing
from workflow.profile_config import load_profile
from workflow.sources import Source

SMALL: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "pretrain_steps": 12,
    "adapt_steps": 10,
    "learning_rates": [0.1, 1.0],
    "init_stds": [0.1, 0.3, 1.0],
    "weight_rates": [0.001, 0.003],
    "test_sequences": 50,
}


Learned = tuple[Plan, TrainedInMemory, Trials]


@pytest.fixture(scope="module")
def learned() -> Learned:
    """Return the real experiment, as short as it still works: two seeds."""
    torch.set_num_threads(1)
    plan = new_task.first_sweep(2, 0, 300, 100, [0.1], [0.1], [0.003], 400)
    runs = TrainedInMemory()
    return plan, runs, read(plan, runs.get)


def test_the_plan_is_what_the_chapter_says() -> None:
    plan = new_task.first_sweep(**SMALL)
    runs = list(plan)
    assert len(runs) == 2 * (1 + 2 + 1 + 2)
    assert len({run.key for run in runs}) == len(runs)
    bases = plan.where(method="pretrained").runs
    assert [run.config["seed"] for run in bases] == [0, 1]
    adapted = [run for run in runs if run.needs]
    assert {run.config["steps"] for run in adapted} == {SMALL["adapt_steps"]}
    for of_kind in (
        plan.where(method="besides attention"),
        plan.where(method="prefix", parametrisation="shared", way="shared", length=1),
        plan.where(method="prefix", parametrisation="free", way="free", length=1),
    ):
        assert [run.needs for run in of_kind] == [(base,) for base in bases]
    finetuned = plan.where(method="finetuned").runs
    assert [run.needs for run in finetuned] == [(base,) for base in bases for _ in range(2)]
    assert [run.config["learning_rate"] for run in finetuned] == SMALL["weight_rates"] * 2
    assert len(plan.where(way="free").runs[0].config["cells"]) == 6


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_what_is_compared_has_sweeps_of_equal_size(profile: str) -> None:
    given = load_profile(profile).notebook("prefix_tuning/new_task").parameters
    prefixes = len(given["learning_rates"]) * len(given["init_stds"])
    tables = len(given["table_rates"]) * len(given["table_starts"])
    assert len(given["weight_rates"]) == prefixes == tables


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seeds", 0, r"seeds must be a whole number of at least 1, got 0"),
        ("seeds", 1.5, r"seeds .* got 1.5"),
        ("seeds", True, r"seeds .* got True"),
        ("pretrain_steps", 9, r"pretrain_steps .* at least 10, got 9"),
        ("adapt_steps", -1, r"adapt_steps .* got -1"),
        ("weight_rates", [-1.0], r"weight_rates .* got \[-1.0\]"),
        ("test_sequences", 0, r"test_sequences .* got 0"),
        ("learning_rates", [], r"learning_rates must be one or more numbers above 0, got \[\]"),
        ("init_stds", [0.1, 0.0], r"init_stds .* got \[0.1, 0.0\]"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_task.first_sweep(**{**SMALL, name: value})


def test_the_plan_needs_no_torch() -> None:
    code = (
        "import sys; import promptlib.prefix_tuning as wing;"
        "from notebooks.prefix_tuning.new_task.plan import first_sweep as plan;"
        f"list(plan(**{SMALL!r}));"
        "assert 'torch' not in sys.modules; wing.GPT; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_both_chapters_mean_the_same_runs() -> None:
    """Chapters that come before look into the models trained here; each plans them by itself."""
    here = Source("prefix_tuning/new_task").defaults
    there = Source("prefix_tuning/cannot_re_aim").defaults
    names = inspect.signature(new_task.first_sweep).parameters
    planned = {name: here[name] for name in names}
    assert {name: there[name] for name in names} == planned
    new_task.first_sweep(**planned)


def test_every_public_name_is_there() -> None:
    import promptlib.prefix_tuning as wing

    for name in wing.__all__:
        assert getattr(wing, name) is not None
    assert set(wing.__all__) <= set(dir(wing))
    with pytest.raises(AttributeError, match="no attribute 'SORT_SIDEWAYS'"):
        wing.SORT_SIDEWAYS  # noqa: B018


def test_a_run_gives_the_same_numbers_again() -> None:
    plan = new_task.first_sweep(**{**SMALL, "seeds": 1})
    for run in (plan.runs[0], plan.where(way="free").runs[0]):
        first, second = TrainedInMemory().get(run), TrainedInMemory().get(run)
        assert first.metrics == second.metrics
        for name, tensor in first.tensors.items():
            assert torch.equal(tensor, second.tensors[name])


def test_stored_models_and_prefixes_are_rebuilt() -> None:
    plan, runs = new_task.first_sweep(**{**SMALL, "seeds": 1}), TrainedInMemory()
    (run,) = plan.where(way="free")
    model, prefix = rebuild(read(plan, runs.get).where(way="free")[4], runs.get)
    assert prefix is not None
    assert not prefix.layer_norm
    again = adapting.measure(model, run.config, prefix)
    cell = runs.get(run).metrics["cells"][4]
    assert again["accuracy"] == cell["accuracy"]
    assert again["loss"] == pytest.approx(cell["loss"])


def test_frozen_attention_leaves_the_attention_exactly_as_it_was() -> None:
    plan, runs = new_task.first_sweep(**{**SMALL, "seeds": 1}), TrainedInMemory()
    trials = read(plan, runs.get)
    before, after, fine_tuned = (
        rebuild(trials.where(method=method)[0], runs.get)[0]
        for method in ("pretrained", "besides attention", "finetuned")
    )
    tokens = torch.randint(8, (5, 19), generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        before(tokens, return_attention=True)[1], after(tokens, return_attention=True)[1]
    )
    assert (before(tokens) - after(tokens)).abs().max() > 0
    moved = before(tokens, return_attention=True)[1] - fine_tuned(tokens, return_attention=True)[1]
    assert moved.abs().max() > 0


def test_the_best_prefix_has_the_highest_accuracy_then_the_lowest_loss() -> None:
    given = {
        "shared": [[metrics(0, 0.0, 2.0), metrics(0, 0.0, 1.0)], [metrics(0, 0.1, 9.0)]],
        "free": [[metrics(0, 0.0, 1.5)], [metrics(0, 0.0, 0.5)]],
    }
    best = results.one_vector(fake(given)).best()
    assert [(one["way"], one.cell) for one in best] == [("shared", 1), ("shared", 0)]
    assert fake(given).where(way="free").best().losses() == [1.5, 0.5]


def test_the_best_is_chosen_on_the_validation_split() -> None:
    on_test = {**metrics(0, 0.9, 0.1), "validation": {"accuracy": 0.2, "loss": 2.0}}
    on_validation = {**metrics(0, 0.1, 3.0), "validation": {"accuracy": 0.3, "loss": 1.0}}
    both = [[on_test, on_validation]] * 2
    found = judged({"finetuned": both, "shared": both})
    for name in ("finetuned-descending", "prefix-descending"):
        assert found[name].details["values"] == [10.0, 10.0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        (
            {"n_layer": 2, "n_embd": 48, "first_layer_norm": False},
            ["layers 2, not 1", "width 48, not 96", "without the first LayerNorm"],
        ),
    ],
)
def test_only_the_published_size_is_compared_with_what_was_published(
    changed: dict[str, Any], said: list[str]
) -> None:
    rows = fake().rows
    config = {**rows[0].run.config, "model": {**new_task.MODEL, **changed}}
    first = dataclasses.replace(rows[0], run=Run("a:b", config))
    claim = claims.check(CHAPTER, ROWS, Trials((first, *rows[1:])))["pretrained-ascending"]
    assert list(claim.details["published"]["differs"]) == said


# Not looking at the input.


def test_the_probabilities_of_digit_counts_agree_with_sampled_inputs() -> None:
    counts, probabilities = blind.digit_counts(), blind.count_probabilities()
    assert counts.shape == (19_448, 8)
    assert (counts.sum(dim=1) == 10).all()
    assert counts.unique(dim=0).shape == counts.shape
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-12)
    n = 40_000
    inputs = sample_digits(n, "train", torch.Generator().manual_seed(0))
    largest_count = torch.nn.functional.one_hot(inputs, 8).sum(dim=1).amax(dim=1)
    for count in range(2, 8):
        expected = float(probabilities[counts.amax(dim=1) == count].sum())
        share = float((largest_count == count).double().mean())
        assert abs(share - expected) < 4.5 * (expected * (1 - expected) / n) ** 0.5


def test_the_blind_loss_is_that_of_a_table_of_answers_seen() -> None:
    """The first output's entropy, estimated from samples, is part of the exact sum."""
    n = 100_000
    inputs = sample_digits(n, "train", torch.Generator().manual_seed(1))
    counts, probabilities = blind.digit_counts(), blind.count_probabilities()
    smallest = (counts > 0).int().argmax(dim=1)
    exact = torch.zeros(8, dtype=torch.float64).index_add_(0, smallest, probabilities)
    seen = inputs.amin(dim=1).bincount(minlength=8).double() / n
    assert (seen - exact).abs().max() < 4.5 * (0.25 / n) ** 0.5
    assert 0 < blind.blind_sorting_loss() < torch.tensor(8.0).log()


def test_a_model_that_sorts_beats_the_blind_loss_and_one_that_guesses_does_not(
    learned: Learned,
) -> None:
    trials = learned[2]
    blind_loss = blind.blind_sorting_loss()
    assert trials.where(method="pretrained")[0].loss("sort_ascending") < blind_loss
    assert trials.where(method="finetuned").best().losses()[0] < blind_loss
    assert blind_loss < torch.tensor(8.0).log()


# Claims: what holds for the real experiment fails for a wrong one.


def retrained(
    run: Run, runs: TrainedInMemory, needs: Sequence[Result] | None = None
) -> Mapping[str, Any]:
    """Train a run again, under whatever the test has broken."""
    function = getattr(adapting, run.train.partition(":")[2])
    needs = [runs.get(needed) for needed in run.needs] if needs is None else needs
    return function(run.config, needs, silent).metrics


@pytest.mark.claim("prefix-tuning/new-task-pretrained-ascending")
def test_a_model_that_was_not_trained_refutes_that_it_learns(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, trials = learned
    real = [trial.metrics for trial in trials.where(method="pretrained")]
    assert verdicts(pretrained=real)["pretrained-ascending"] == "supported"
    half = [metrics(0.49, 0), metrics(0.51, 0)]
    assert verdicts(pretrained=half)["pretrained-ascending"] == "undecided"
    monkeypatch.setattr(adapting, "train", train_nothing)
    wrong = [retrained(run, runs) for run in plan.where(method="pretrained")]
    claim = judged({"pretrained": wrong})["pretrained-ascending"]
    assert (claim.verdict, claim.replication) == ("contradicted", "weaker")


@pytest.mark.claim("prefix-tuning/new-task-pretrained-descending")
def test_an_accuracy_that_ignores_the_task_refutes_that_the_task_is_new(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs, trials = learned
    pretrained = trials.where(method="pretrained")
    claim = judged({"pretrained": [one.metrics for one in pretrained]})["pretrained-descending"]
    assert (claim.verdict, claim.replication) == ("supported", "reproduced")

    def of_one_task_only(model: GPT, task: Task, *rest: Any) -> tuple[float, float]:
        return evaluation.score(model, SORT_ASCENDING, *rest)

    monkeypatch.setattr(adapting, "score", of_one_task_only)
    wrong = [adapting.measure(rebuild(one, runs.get)[0], one.run.config) for one in pretrained]
    assert verdicts(pretrained=wrong)["pretrained-descending"] == "contradicted"


@pytest.mark.claim("prefix-tuning/new-task-finetuned-descending")
@pytest.mark.claim("prefix-tuning/new-task-finetuned-ascending")
@pytest.mark.claim("prefix-tuning/new-task-frozen-attention")
def test_fine_tuning_that_changes_nothing_refutes_what_it_does(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, _ = learned
    names = ("finetuned-descending", "finetuned-ascending", "frozen-attention")
    reached = {
        "finetuned": [metrics(0.0, 0.8), metrics(0.0, 0.81)],
        "besides_attention": [metrics(0.0, 0.6), metrics(0.0, 0.59)],
    }
    found = verdicts(**reached)
    assert [found[name] for name in names] == ["supported"] * 3
    near = [metrics(0.0, 0.597), metrics(0.0, 0.594)]
    assert verdicts(**reached, longer=near)["frozen-attention"] == "undecided"
    monkeypatch.setattr(adapting, "train", train_nothing)
    finetuned, besides = (
        [retrained(run, runs) for run in plan.where(method=method)]
        for method in ("finetuned", "besides attention")
    )
    found = verdicts(finetuned=finetuned, besides_attention=besides)
    assert [found[name] for name in names] == ["contradicted"] * 3
    nothing_to_forget = [metrics(0, 0)] * 2
    found = verdicts(**reached, pretrained=nothing_to_forget)
    assert found["finetuned-ascending"] == "uninformative"


@pytest.mark.claim("prefix-tuning/new-task-prefix-ascending")
@pytest.mark.claim("prefix-tuning/new-task-prefix-descending")
def test_prefixes_that_do_not_learn_and_prefixes_that_do_refute_what_they_do(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, _ = learned
    broken = [metrics(0.1, 0.0), metrics(0.12, 0.0)]
    found = judged({"shared": broken})
    assert found["prefix-ascending"].verdict == "supported"
    assert found["prefix-descending"].verdict == "supported"
    assert found["prefix-descending"].replication == "reproduced"
    spread = [metrics(0.0, 0.0), metrics(0.9, 0.0), metrics(0.9, 0.0)]
    assert verdicts(shared=spread)["prefix-ascending"] == "undecided"
    failed = [metrics(0, 0)] * 2
    assert verdicts(shared=broken, finetuned=failed)["prefix-descending"] == "uninformative"
    sorts = [metrics(0.0, 0.3), metrics(0.0, 0.31)]
    assert verdicts(shared=sorts)["prefix-descending"] == "contradicted"
    monkeypatch.setattr(adapting, "train", train_nothing)
    # With a starting scale of nothing, so that the untrained prefix leaves the old task alone.
    cells = [{"learning_rate": 0.1, "init_std": 1e-6}]
    untrained = [
        retrained(dataclasses.replace(run, config={**run.config, "cells": cells}), runs)["cells"]
        for run in plan.where(way="free")
    ]
    assert verdicts(shared=untrained)["prefix-ascending"] == "contradicted"


@pytest.mark.claim("prefix-tuning/new-task-prefix-gradient")
@pytest.mark.parametrize("separate_values", [False, True])
def test_a_gradient_that_misses_half_of_the_keys_is_refuted(
    separate_values: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    model = GPT(GPTConfig(1, 3, 21, 11, 19), generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    prefix = Prefix(1, 1, 21, 1.0, generator, separate_values=separate_values).double()
    inputs, targets = SORT_DESCENDING.sample(13, "test", generator)
    batch = model, prefix, read_and_answer(inputs, targets), targets

    def verdict() -> str:
        errors = results.gradient_errors(*batch)
        return claims.check(CHAPTER, GRADIENT, errors)["prefix-gradient"].verdict

    assert verdict() == "holds"
    right = gpt_module.attend

    def half_blind(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, **how: Any) -> Any:
        return right(q, k, v, pk.lerp(pk.detach(), 0.5), pv, **how)

    monkeypatch.setattr(gpt_module, "attend", half_blind)
    assert verdict() == "fails"


# Figures.


def test_the_figures_say_what_they_show(learned: Learned) -> None:
    _, runs, trials = learned
    model, prefix = rebuild(trials.where(way="shared").best()[0], runs.get)
    inputs, _ = SORT_DESCENDING.sample(37, "test", torch.Generator().manual_seed(4))
    drawn = {
        "takes": figures.attention_maps(
            {"pretrained": (model, None), "prefixed": (model, prefix)}, inputs
        ),
        "100 steps": figures.learning_curves(trials, 100, 0.9),
        "highest accuracy": figures_sweep.sweep_maps(
            {"free": [[cell.metrics] for cell in trials.where(way="free")]}, "sort_descending"
        ),
        "91.41 % published": figures.beside_published(trials),
    }
    import matplotlib.pyplot as plt

    for words, (figure, alt) in drawn.items():
        assert words in alt
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize(
    ("n_rates", "n_stds", "seeds"), [(3, 3, 3), (5, 3, 5), (6, 5, 5), (3, 3, 1)]
)
def test_the_numbers_of_a_sweep_stay_inside_their_cells(
    n_rates: int, n_stds: int, seeds: int
) -> None:
    import matplotlib.pyplot as plt

    from promptlib import plotting

    cells = [
        {"learning_rate": 0.1 * rate, "init_std": std, **metrics(0.0, 1.0, 12.34 + rate)}
        for rate in range(1, n_rates + 1)
        for std in range(1, n_stds + 1)
    ]
    plotting.use_theme()
    sweeps = {name: [cells] * seeds for name in ("shared", "free")}
    figure, _ = figures_sweep.sweep_maps(sweeps, "sort_descending")
    figure.canvas.draw()
    texts = [(axes, text) for axes in figure.axes for text in axes.texts]
    assert len(texts) == 2 * n_rates * n_stds
    for axes, text in texts:
        column, row = text.get_position()
        ends = axes.transData.transform([(column - 0.5, row + 0.5), (column + 0.5, row - 0.5)])
        drawn = text.get_window_extent()
        assert (drawn.min > ends[0]).all()
        assert (drawn.max < ends[1]).all()
    plt.close(figure)


def test_columns_are_put_in_order_of_size() -> None:
    inputs = torch.tensor([[3, 1, 3, 0, 7, 1, 1, 5, 0, 3]])
    attention = torch.zeros(1, 10, 20)
    attention[0, :, 0] = 0.5  # the prefix
    attention[0, :, 1 + 4] = 0.5  # the digit 7, the largest
    ordered = drawing.inputs_by_size(attention, inputs)
    assert ordered[0, 0].nonzero().flatten().tolist() == [0, 1 + 9]
    assert figures._peak_rank(ordered[0]) == 10


def test_the_published_figures_are_those_of_the_paper() -> None:
    assert Counter(published.NEW_TASK.values())[0.0] == 3
    assert published.NEW_TASK["finetuned_descending"] == 84.91

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

from notebooks.prefix_tuning.new_task import figures as new_task_figures
from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.new_task import results as new_task_results
from notebooks.prefix_tuning.new_task.plan import NewTaskPlan
from notebooks.prefix_tuning.new_task.results import Measured
from promptlib.prefix_tuning import adapting as experiment_training
from promptlib.prefix_tuning import blind, evaluation, published
from promptlib.prefix_tuning import drawing as experiment_figures
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
from promptlib.runs import Result, Run
from promptlib.training import Learner, Recipe
from tests.trained_in_memory import TrainedInMemory, silent
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


@pytest.fixture(scope="module")
def learned() -> tuple[NewTaskPlan, TrainedInMemory, Measured]:
    """Return the real experiment, as short as it still works: two seeds."""
    torch.set_num_threads(1)
    plan = new_task.first_sweep(2, 0, 300, 100, [0.1], [0.1], [0.003], 400)
    runs = TrainedInMemory()
    return plan, runs, new_task_results.collect(plan, runs.get)


def test_the_plan_is_what_the_chapter_says() -> None:
    plan = new_task.first_sweep(**SMALL)
    runs = list(plan)
    assert len(runs) == 2 * (1 + 2 + 1 + 2)
    assert len({run.key for run in runs}) == len(runs)
    assert [run.config["seed"] for run in plan.pretrained] == [0, 1]
    adapting = [run for run in runs if run.needs]
    assert {run.config["steps"] for run in adapting} == {SMALL["adapt_steps"]}
    bases = [(base,) for base in plan.pretrained]
    for runs_of_kind in (plan.besides_attention, *plan.prefixes.values()):
        assert [run.needs for run in runs_of_kind] == bases
    for rates, needs in zip(plan.finetuned, bases, strict=True):
        assert [run.needs for run in rates] == [needs] * 2
        assert [run.config["learning_rate"] for run in rates] == SMALL["weight_rates"]
    assert len(plan.prefixes["free"][0].config["cells"]) == 6


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
    """The chapter before looks into the models trained here; both plan them by themselves."""
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
    for run in (plan.pretrained[0], plan.prefixes["free"][0]):
        first, second = TrainedInMemory().get(run), TrainedInMemory().get(run)
        assert first.metrics == second.metrics
        for name, tensor in first.tensors.items():
            assert torch.equal(tensor, second.tensors[name])


def test_stored_models_and_prefixes_are_rebuilt() -> None:
    plan, runs = new_task.first_sweep(**{**SMALL, "seeds": 1}), TrainedInMemory()
    run = plan.prefixes["free"][0]
    model = experiment_training.load_model(plan.pretrained[0].config, runs.get(plan.pretrained[0]))
    prefix = experiment_training.load_prefix(run.config, runs.get(run), 4)
    assert not prefix.layer_norm
    again = experiment_training.measure(model, run.config, prefix)
    cell = runs.get(run).metrics["cells"][4]
    assert again["accuracy"] == cell["accuracy"]
    assert again["loss"] == pytest.approx(cell["loss"])


def test_frozen_attention_leaves_the_attention_exactly_as_it_was() -> None:
    plan, runs = new_task.first_sweep(**{**SMALL, "seeds": 1}), TrainedInMemory()
    before = new_task_results.model_of(plan.pretrained[0], runs.get)
    after = new_task_results.model_of(plan.besides_attention[0], runs.get)
    tokens = torch.randint(8, (5, 19), generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        before(tokens, return_attention=True)[1], after(tokens, return_attention=True)[1]
    )
    assert (before(tokens) - after(tokens)).abs().max() > 0
    best = new_task_results.best_finetuned_run(plan.finetuned[0], runs.get)
    fine_tuned = new_task_results.model_of(best, runs.get)
    moved = before(tokens, return_attention=True)[1] - fine_tuned(tokens, return_attention=True)[1]
    assert moved.abs().max() > 0


def metrics(ascending: float, descending: float, loss: float = 1.0) -> dict[str, Any]:
    accuracy = {"sort_ascending": ascending, "sort_descending": descending}
    return {
        "accuracy": accuracy,
        "loss": dict.fromkeys(accuracy, loss),
        "validation": {"accuracy": descending, "loss": loss},
        "curve": [3.0, loss],
    }


BASE: dict[str, Any] = {"model": new_task.MODEL, "test_sequences": 400}


def test_the_best_prefix_has_the_highest_accuracy_then_the_lowest_loss() -> None:
    measured = Measured(
        base=BASE,
        pretrained=[metrics(1, 0)] * 2,
        finetuned=[],
        besides_attention=[],
        sweeps={
            "shared": [[metrics(0, 0.0, 2.0), metrics(0, 0.0, 1.0)], [metrics(0, 0.1, 9.0)]],
            "free": [[metrics(0, 0.0, 1.5)], [metrics(0, 0.0, 0.5)]],
        },
    )
    best = measured.best_prefixes()
    assert [(cell.parametrisation, cell.index) for cell in best] == [("shared", 1), ("shared", 0)]
    assert measured.best_prefix(0, "free").metrics["loss"]["sort_descending"] == 1.5


def test_the_best_prefix_is_chosen_on_the_validation_split() -> None:
    on_test = {**metrics(0, 0.9, 0.1), "validation": {"accuracy": 0.2, "loss": 2.0}}
    on_validation = {**metrics(0, 0.1, 3.0), "validation": {"accuracy": 0.3, "loss": 1.0}}
    measured = Measured(
        base=BASE,
        pretrained=[metrics(1, 0)],
        finetuned=[[on_test, on_validation]],
        besides_attention=[],
        sweeps={"shared": [[on_test, on_validation]]},
    )
    assert measured.best_prefix(0).index == 1
    assert measured.best_finetuned == [on_validation]


def test_only_the_published_size_is_compared_with_what_was_published() -> None:
    assert new_task_results.differs(BASE) == ()
    changed = {"n_layer": 2, "n_embd": 48, "first_layer_norm": False}
    assert new_task_results.differs({"model": {**new_task.MODEL, **changed}}) == (
        "layers 2, not 1",
        "width 48, not 96",
        "without the first LayerNorm",
    )


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
    learned: tuple[NewTaskPlan, TrainedInMemory, Measured],
) -> None:
    measured = learned[2]
    assert measured.pretrained[0]["loss"]["sort_ascending"] < blind.blind_sorting_loss()
    assert measured.best_finetuned[0]["loss"]["sort_descending"] < blind.blind_sorting_loss()
    assert blind.blind_sorting_loss() < torch.tensor(8.0).log()


# Claims: what holds for the real experiment fails for a wrong one.


def train_nothing(
    learners: Sequence[Learner], loss: object, batches: object, recipe: Recipe, **options: object
) -> Tensor:
    """Stand in for the training loop; forgets to train."""
    return torch.zeros(recipe.steps, len(learners))


def retrained(
    run: Run, runs: TrainedInMemory, needs: Sequence[Result] | None = None
) -> Mapping[str, Any]:
    """Train a run again, under whatever the test has broken."""
    function = getattr(experiment_training, run.train.partition(":")[2])
    needs = [runs.get(needed) for needed in run.needs] if needs is None else needs
    return function(run.config, needs, silent).metrics


@pytest.mark.claim("prefix-tuning/new-task-pretrained-ascending")
def test_a_model_that_was_not_trained_refutes_that_it_learns(
    learned: tuple[NewTaskPlan, TrainedInMemory, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, measured = learned
    assert new_task_results.pretrained_ascending(measured).verdict == "supported"
    half = dataclasses.replace(measured, pretrained=[metrics(0.49, 0), metrics(0.51, 0)])
    assert new_task_results.pretrained_ascending(half).verdict == "undecided"
    monkeypatch.setattr(experiment_training, "train", train_nothing)
    wrong = dataclasses.replace(
        measured, pretrained=[retrained(run, runs) for run in plan.pretrained]
    )
    claim = new_task_results.pretrained_ascending(wrong)
    assert (claim.verdict, claim.replication) == ("contradicted", "weaker")


@pytest.mark.claim("prefix-tuning/new-task-pretrained-descending")
def test_an_accuracy_that_ignores_the_task_refutes_that_the_task_is_new(
    learned: tuple[NewTaskPlan, TrainedInMemory, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, measured = learned
    claim = new_task_results.pretrained_descending(measured)
    assert (claim.verdict, claim.replication) == ("supported", "reproduced")

    def of_one_task_only(model: GPT, task: Task, *rest: Any) -> tuple[float, float]:
        return evaluation.score(model, SORT_ASCENDING, *rest)

    monkeypatch.setattr(experiment_training, "score", of_one_task_only)
    wrong = [
        experiment_training.measure(new_task_results.model_of(run, runs.get), run.config)
        for run in plan.pretrained
    ]
    claim = new_task_results.pretrained_descending(dataclasses.replace(measured, pretrained=wrong))
    assert claim.verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/new-task-finetuned-descending")
@pytest.mark.claim("prefix-tuning/new-task-finetuned-ascending")
@pytest.mark.claim("prefix-tuning/new-task-frozen-attention")
def test_fine_tuning_that_changes_nothing_refutes_what_it_does(
    learned: tuple[NewTaskPlan, TrainedInMemory, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, measured = learned
    results = new_task_results
    reached = dataclasses.replace(
        measured,
        finetuned=[[metrics(0.0, 0.8)], [metrics(0.0, 0.81)]],
        besides_attention=[metrics(0.0, 0.6), metrics(0.0, 0.59)],
    )
    assert results.finetuned_descending(reached).verdict == "supported"
    assert results.finetuned_ascending(reached).verdict == "supported"
    assert results.besides_attention(reached, [1.0, 2.0]).verdict == "supported"
    assert results.besides_attention(reached, [59.7, 59.4]).verdict == "undecided"
    monkeypatch.setattr(experiment_training, "train", train_nothing)
    wrong = dataclasses.replace(
        measured,
        finetuned=[[retrained(run, runs) for run in rates] for rates in plan.finetuned],
        besides_attention=[retrained(run, runs) for run in plan.besides_attention],
    )
    assert results.finetuned_descending(wrong).verdict == "contradicted"
    assert results.finetuned_ascending(wrong).verdict == "contradicted"
    assert results.besides_attention(wrong, [3.0, 3.1]).verdict == "contradicted"
    nothing_to_forget = dataclasses.replace(measured, pretrained=[metrics(0, 0)] * 2)
    control = results.pretrained_ascending(nothing_to_forget)
    assert results.finetuned_ascending(reached, [control]).verdict == "uninformative"


@pytest.mark.claim("prefix-tuning/new-task-prefix-ascending")
@pytest.mark.claim("prefix-tuning/new-task-prefix-descending")
def test_prefixes_that_do_not_learn_and_prefixes_that_do_refute_what_they_do(
    learned: tuple[NewTaskPlan, TrainedInMemory, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, measured = learned
    results = new_task_results

    def swept(*seeds: Mapping[str, Any]) -> Measured:
        return dataclasses.replace(
            measured,
            pretrained=[metrics(1, 0)] * len(seeds),
            sweeps={"shared": [[one] for one in seeds]},
        )

    broken = swept(metrics(0.1, 0.0), metrics(0.12, 0.0))
    assert results.prefix_ascending(broken).verdict == "supported"
    assert results.prefix_descending(broken).verdict == "supported"
    assert results.prefix_descending(broken).replication == "reproduced"
    spread = swept(metrics(0.0, 0.0), metrics(0.9, 0.0), metrics(0.9, 0.0))
    assert results.prefix_ascending(spread).verdict == "undecided"
    failed = results.finetuned_descending(
        dataclasses.replace(measured, finetuned=[[metrics(0, 0)]] * 2)
    )
    assert results.prefix_descending(broken, [failed]).verdict == "uninformative"
    sorts = swept(metrics(0.0, 0.3), metrics(0.0, 0.31))
    assert results.prefix_descending(sorts).verdict == "contradicted"
    monkeypatch.setattr(experiment_training, "train", train_nothing)
    # With a starting scale of nothing, so that the untrained prefix leaves the old task alone.
    untrained = [
        retrained(
            dataclasses.replace(
                run,
                config={**run.config, "cells": [{"learning_rate": 0.1, "init_std": 1e-6}]},
            ),
            runs,
        )["cells"]
        for run in plan.prefixes["free"]
    ]
    wrong = dataclasses.replace(measured, sweeps={"shared": untrained})
    assert results.prefix_ascending(wrong).verdict == "contradicted"


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
    assert new_task_results.prefix_gradient(*batch).verdict == "holds"

    right = gpt_module.attend

    def half_blind(q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, **how: Any) -> Any:
        return right(q, k, v, pk.lerp(pk.detach(), 0.5), pv, **how)

    monkeypatch.setattr(gpt_module, "attend", half_blind)
    assert new_task_results.prefix_gradient(*batch).verdict == "fails"


# Figures.


def test_the_figures_say_what_they_show(
    learned: tuple[NewTaskPlan, TrainedInMemory, Measured],
) -> None:
    plan, runs, measured = learned
    model = new_task_results.model_of(plan.pretrained[0], runs.get)
    best = measured.best_prefix(0, "shared")
    prefix = new_task_results.prefix_of(plan, best, 0, runs.get)
    inputs, _ = SORT_DESCENDING.sample(37, "test", torch.Generator().manual_seed(4))
    drawn = {
        "takes": new_task_figures.attention_maps(
            {"pretrained": (model, None), "prefixed": (model, prefix)}, inputs
        ),
        "100 steps": new_task_figures.learning_curves(measured, 100, 0.9),
        "highest accuracy": experiment_figures.sweep_maps(measured.sweeps, "sort_descending"),
        "91.41 % published": new_task_figures.beside_published(measured),
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
    figure, _ = experiment_figures.sweep_maps(sweeps, "sort_descending")
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
    ordered = experiment_figures.inputs_by_size(attention, inputs)
    assert ordered[0, 0].nonzero().flatten().tolist() == [0, 1 + 9]
    assert experiment_figures.peak_rank(ordered[0]) == 10


def test_the_published_figures_are_those_of_the_paper() -> None:
    assert Counter(published.NEW_TASK.values())[0.0] == 3
    assert published.NEW_TASK["finetuned_descending"] == 84.91

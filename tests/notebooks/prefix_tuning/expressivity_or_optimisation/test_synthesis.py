"""The chapter "Expressivity or optimisation?": trials, travel budgets, planted prefixes, claims."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from notebooks.prefix_tuning.expressivity_or_optimisation import figures as synthesis_figures
from notebooks.prefix_tuning.expressivity_or_optimisation import plan as synthesis
from notebooks.prefix_tuning.expressivity_or_optimisation import results as synthesis_results
from notebooks.prefix_tuning.expressivity_or_optimisation import training as planted
from notebooks.prefix_tuning.expressivity_or_optimisation import travel
from notebooks.prefix_tuning.expressivity_or_optimisation.results import (
    Distance,
    Measured,
    Planted,
    Question,
    Trial,
)
from promptlib.prefix_tuning import adapting as experiment_training
from promptlib.prefix_tuning import planning as experiment_runs
from promptlib.prefix_tuning.adapting import new_prefix
from promptlib.prefix_tuning.evaluation import greedy_decode
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import PrefixBatch
from promptlib.prefix_tuning.sweeps import Cell, cells_of
from promptlib.prefix_tuning.tasks import sample_digits
from promptlib.runs import Run
from tests.trained_in_memory import TrainedInMemory, silent
from workflow.sources import Source

CHAPTERS = {
    "new_task": "new_task",
    "eliciting": "eliciting",
    "combining": "combining",
    "prefix_or_lora": "prefix_or_lora",
}


def question(task: str = "add_one", experiment: str = "eliciting", model: str = "") -> Question:
    return Question(experiment, model, task)


def trial(
    percent: float,
    *,
    asked: Question | None = None,
    method: str = "prefix",
    seed: int = 0,
    rate: float = 0.1,
    std: float = 0.1,
    loss: float = 1.0,
) -> Trial:
    return Trial(
        asked or question(),
        method,
        seed,
        f"{method} {rate} {std}",
        rate,
        None if method == "fine-tuning" else std,
        "LayerNorm, one vector" if method == "prefix" else "",
        1 if method == "prefix" else 0,
        percent,
        loss,
        percent,
        loss,
    )


STUDENTS = Planted(
    without=[2.0, 4.0], best=[0.02, 0.08], agreement=[90.0, 80.0], curves=[[1.0, 0.1]] * 2
)


def measured(*trials: Trial, students: Planted = STUDENTS) -> Measured:
    return Measured(tuple(trials), {synthesis.DRAWN: students, "add_one": students}, tested=1000)


def twice(*trials: Trial) -> list[Trial]:
    """The same trials of two seeds."""
    return [dataclasses.replace(one, seed=seed) for seed in (0, 1) for one in trials]


# Parameters


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_chapter_means_the_runs_of_the_chapters_before(name: str) -> None:
    here = Source("prefix_tuning/expressivity_or_optimisation").defaults[name]
    there = Source(f"prefix_tuning/{CHAPTERS[name]}").defaults
    assert here
    assert {key: there[key] for key in here} == here


SMALLEST: dict[str, Any] = {
    "new_task": {
        "seeds": 1,
        "first_seed": 0,
        "pretrain_steps": 10,
        "adapt_steps": 10,
        "learning_rates": [0.1],
        "init_stds": [1.0],
        "weight_rates": [0.003],
        "test_sequences": 5,
        "effort_rates": [0.1],
        "lengths": [2],
        "restarts": 1,
        "patience": 1,
        "tried_seeds": 1,
        "table_rates": [0.1],
        "table_starts": [3.0],
    },
    "eliciting": {
        "seeds": 1,
        "first_seed": 0,
        "width": 8,
        "precision": "float32",
        "pretrain_steps": 10,
        "prefix_steps": 10,
        "learning_rates": [0.1],
        "init_stds": [1.0],
        "test_sequences": 5,
    },
    "combining": {
        "seeds": 2,
        "first_seed": 0,
        "n_layer": 2,
        "width": 8,
        "precision": "float32",
        "pretrain_steps": 10,
        "known_steps": 10,
        "new_steps": 10,
        "learning_rates": [0.1],
        "test_sequences": 5,
        "weight_rates": [0.003],
    },
    "prefix_or_lora": {
        "seeds": 2,
        "first_seed": 0,
        "n_layer": 2,
        "width": 8,
        "precision": "float32",
        "pretrain_steps": 10,
        "adapt_steps": 10,
        "lengths": {"shared": [2], "free": [1]},
        "ranks": {"MLP and projection": [1]},
        "prefix_rates": [0.1],
        "init_stds": [0.1],
        "lora_rates": [0.01],
        "weight_rates": [0.003],
        "test_sequences": 5,
        "checkpoints": 0,
    },
    "planted_steps": 10,
    "planted_std": 1.0,
    "planted_tasks": ["add_one"],
    "planted_rates": [0.1],
}


def test_the_plan_holds_every_run_once_and_its_students() -> None:
    plan = synthesis.plan(**SMALLEST)
    keys = [run.key for run in plan]
    assert len(keys) == len(set(keys))
    assert list(plan.planted) == [synthesis.DRAWN, "add_one"]
    for teacher, runs in plan.planted.items():
        assert [run.config["seed"] for run in runs] == [0, 1]
        assert {run.train for run in runs} == {f"{synthesis.PLANTED}:plant"}
        assert {len(run.needs) for run in runs} == {1 if teacher == synthesis.DRAWN else 2}
    for runs in plan.experiments.values():
        assert {run.key for run in runs} <= set(keys)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("planted_steps", 9, "planted_steps must be .* at least 10, got 9"),
        ("planted_std", 0.0, r"planted_std .* above 0, got \[0.0\]"),
        ("planted_rates", [], r"planted_rates .* got \[\]"),
        ("planted_tasks", ["add_nine"], "planted_tasks has 'add_nine'; there are prefixes for "),
        ("eliciting", {"seeds": 1}, "eliciting must hold the parameters .* missing"),
        ("new_task", {**SMALLEST["new_task"], "sedes": 3}, "new_task must hold .*'sedes'"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesis.plan(**{**SMALLEST, name: value})


def test_real_runs_become_trials_claims_and_figures() -> None:
    plan, runs = synthesis.plan(**SMALLEST), TrainedInMemory()
    found = synthesis_results.collect(plan, runs.get)
    prefixes = [one for one in found.trials if one.method == "prefix"]
    assert {one.method for one in found.trials} == {"prefix", "LoRA", "fine-tuning"}
    assert {one.question.experiment for one in prefixes} == set(synthesis.EXPERIMENTS)
    assert synthesis_results.within_budget(found, runs.get).verdict == "holds"
    distances = synthesis_results.distances(found, runs.get)
    assert all(one.prefix > 0 and one.weights > 0 for one in distances)
    assert {one.question.experiment for one in distances} >= {"a new task", "combining"}
    for figure, alt in (
        synthesis_figures.reach(found, found.questions()),
        synthesis_figures.planted(found, 10),
    ):
        assert len(alt) > 40
        assert figure.axes
    assert len(synthesis_figures.answers(found, found.questions())) == len(found.questions())


# Travel


def test_the_bound_on_a_step_is_reached_and_never_passed() -> None:
    """Gradients that grow as the proof says take Adam's last step to the bound exactly."""
    steps, (beta1, beta2) = 50, travel.BETAS
    bounds = travel.step_bounds(steps)
    assert float(bounds[0]) == pytest.approx(1.0)
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adam = torch.optim.AdamW([parameter], lr=1.0, betas=travel.BETAS, weight_decay=0.0, eps=0)
    for step in range(steps):
        before = parameter.item()
        parameter.grad = torch.tensor([(beta1 / beta2) ** (steps - 1 - step)], dtype=torch.float64)
        adam.step()
        assert abs(parameter.item() - before) <= float(bounds[step]) * (1 + 1e-9)
    assert abs(parameter.item() - before) == pytest.approx(float(bounds[-1]), rel=1e-9)


def test_wild_gradients_stay_within_the_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    bounds = travel.step_bounds(40)
    parameter = nn.Parameter(torch.zeros(5000))
    adam = torch.optim.AdamW([parameter], lr=1.0, betas=travel.BETAS, weight_decay=0.0)
    for step in range(40):
        before = parameter.detach().clone()
        size = torch.exp(3 * torch.randn(5000, generator=generator))
        parameter.grad = size * torch.randn(5000, generator=generator)
        adam.step()
        assert float((parameter.detach() - before).abs().max()) <= float(bounds[step]) + 1e-5


def test_numbers_without_a_budget_are_refused() -> None:
    with pytest.raises(ValueError, match="steps >= 1, got 0"):
        travel.step_bounds(0)
    with pytest.raises(ValueError, match=r"betas.*got \(0.99, 0.9\)"):
        travel.step_bounds(3, (0.99, 0.9))
    with pytest.raises(ValueError, match="learning_rate > 0, got 0"):
        travel.budget(0.0, 10, 1)


def tuned() -> tuple[Run, TrainedInMemory]:
    base = experiment_runs.pretrain(
        experiment_runs.model_of(2, 2, 8),
        "mixture",
        seed=3,
        steps=10,
        learning_rate=3e-3,
        evaluate=["add_one"],
        test_sequences=5,
    )
    run = experiment_runs.tune_prefixes(
        base,
        "add_one",
        steps=12,
        length=3,
        parametrisation="free",
        sweep=experiment_runs.cells([0.3], [0.1, 2.0]),
    )
    return run, TrainedInMemory()


def test_a_start_is_drawn_again_and_moves_are_measured_from_it() -> None:
    run, runs = tuned()
    config = {**run.config, "steps": 1, "warmup": 0}
    one_step = dataclasses.replace(run, config=config)
    for cell in cells_of(one_step, runs.get):
        moves = travel.moves(cell, runs.get)
        assert len(moves) == 2 * 2 * 3 * 8
        assert float(moves.max()) == pytest.approx(0.3, rel=1e-3)  # Adam's first step: the rate
        assert float(moves.max()) <= travel.budget_of(cell) * (1 + 1e-5)


@pytest.mark.claim("prefix-tuning/expressivity-travel-budget")
def test_an_optimiser_that_oversteps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    run, runs = tuned()
    cells = cells_of(run, runs.get)
    trials = [dataclasses.replace(trial(50.0), cell=cell) for cell in cells]
    assert synthesis_results.within_budget(measured(*trials), runs.get).verdict == "holds"
    real = travel.moves
    monkeypatch.setattr(travel, "moves", lambda cell, get: 20 * real(cell, get))
    assert synthesis_results.within_budget(measured(*trials), runs.get).verdict == "fails"


@pytest.mark.claim("prefix-tuning/expressivity-distances")
def test_weights_that_travel_as_far_as_prefixes_refute_the_claim() -> None:
    far = [Distance(question(), seed, 1.0, 0.02) for seed in (0, 1)]
    near = [dataclasses.replace(one, weights=0.5) for one in far]
    assert synthesis_results.prefixes_travel_farther(far).verdict == "supported"
    assert synthesis_results.prefixes_travel_farther(far).value == pytest.approx(50.0)
    assert synthesis_results.prefixes_travel_farther(near).verdict == "contradicted"


# Planted prefixes


def planted_config(**changes: Any) -> dict[str, Any]:
    return {
        "seed": 0,
        "steps": 20,
        "warmup": 2,
        "batch_size": 8,
        "test_sequences": 20,
        "model": experiment_runs.model_of(2, 2, 8),
        "length": 3,
        "layer_norm": False,
        "separate_values": True,
        "planted_std": 1.0,
        "cells": [{"learning_rate": 0.1, "init_std": 0.1}],
        **changes,
    }


def test_the_planted_prefix_has_no_divergence_and_others_have() -> None:
    config = planted_config()
    model = GPT(GPTConfig(**config["model"]), torch.Generator().manual_seed(0))
    prefixes = [new_prefix(config, 50.0, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    inputs = sample_digits(7, "test", torch.Generator().manual_seed(0))
    teacher = planted.answers_of(model, inputs, prefixes[0])
    together = PrefixBatch(prefixes)
    lost = planted.divergence(model, teacher.tokens, teacher.log_probabilities, together).detach()
    assert float(lost[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(lost[1]) > 1e-3
    same, other = planted.measure(model, config, prefixes[0], prefixes)
    assert same["divergence"] == pytest.approx(0.0, abs=1e-6)
    assert same["agreement"] == 1.0
    assert other["agreement"] < 1.0


def test_agreement_is_that_of_whole_decoded_answers() -> None:
    config = planted_config()
    model = GPT(GPTConfig(**config["model"]), torch.Generator().manual_seed(3))
    prefixes = [new_prefix(config, 50.0, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    inputs = sample_digits(
        config["test_sequences"], "test", experiment_training.generator_for(config, "test")
    )
    answers = [greedy_decode(model, inputs, prefix) for prefix in prefixes]
    alike = float((answers[0] == answers[1]).all(dim=-1).double().mean())
    (found,) = planted.measure(model, config, prefixes[0], prefixes[1:])
    assert found["agreement"] == pytest.approx(alike)


def test_students_come_nearer_to_what_is_planted() -> None:
    base = tuned()[0].needs[0]
    runs = TrainedInMemory()
    config = planted_config(steps=60, warmup=6, planted_std=3.0)
    metrics = planted.plant(config, [runs.get(base)], silent).metrics
    assert metrics["cells"][0]["divergence"] < 0.7 * metrics["without"]["divergence"]
    assert planted.plant(config, [runs.get(base)], silent).metrics == metrics
    for one in (metrics["cells"][0], metrics["without"]):
        assert one["validation"]["divergence"] != one["divergence"]


def test_the_best_trial_is_chosen_on_the_validation_split() -> None:
    on_test = dataclasses.replace(trial(95.0), validation_percent=10.0)
    on_validation = dataclasses.replace(trial(20.0, rate=0.3), validation_percent=30.0)
    assert synthesis_results.best_trials([on_test, on_validation]) == [on_validation]
    assert synthesis_results.best_by_seed([on_test, on_validation]) == {0: 20.0}
    assert synthesis_results.done(measured(on_test, on_validation)) == []


@pytest.mark.claim("prefix-tuning/expressivity-planted-found")
def test_students_that_stay_where_they_are_refute_the_claim() -> None:
    assert synthesis_results.planted_is_near(measured()).verdict == "supported"
    lost = dataclasses.replace(STUDENTS, best=STUDENTS.without)
    claim = synthesis_results.planted_is_near(measured(students=lost))
    assert claim.verdict == "contradicted"
    assert claim.value == 0.0


@pytest.mark.claim("prefix-tuning/expressivity-planted-answers")
@pytest.mark.claim("prefix-tuning/expressivity-trained-planted-answers")
def test_near_in_divergence_is_not_found_by_whole_answers() -> None:
    for agreement, verdict in (([99.0, 98.9], "supported"), ([25.0, 24.9], "contradicted")):
        seen = measured(students=dataclasses.replace(STUDENTS, agreement=agreement))
        assert synthesis_results.planted_is_near(seen).verdict == "supported"
        for trained in (False, True):
            assert synthesis_results.planted_answers_alike(seen, trained).verdict == verdict
    alone = Measured((), {synthesis.DRAWN: STUDENTS}, tested=1000)
    with pytest.raises(ValueError, match="planted_tasks"):
        synthesis_results.planted_answers_alike(alone, trained=True)


# Trials


def test_only_tasks_that_a_prefix_does_count_for_what_tuning_loses() -> None:
    wide = measured(
        trial(99.0), trial(3.0, std=3.0), trial(98.0, seed=1), trial(8.0, seed=1, std=3.0)
    )
    assert synthesis_results.lost_by_tuning(wide) == {0: 96.0, 1: 90.0}
    flat = measured(*twice(trial(99.0), trial(95.0, std=3.0)))
    assert synthesis_results.lost_by_tuning(flat) == {0: 4.0, 1: 4.0}
    failing = measured(*twice(trial(50.0), trial(3.0, std=3.0)))
    assert synthesis_results.lost_by_tuning(failing) == {}


@pytest.mark.claim("prefix-tuning/expressivity-no-prefix-for-moved-digits")
def test_a_prefix_that_rotates_refutes_that_none_moves_digits() -> None:
    tasks = synthesis_results.MOVES
    asked = [question(task, "combining") for task in tasks]
    weights = twice(*(trial(99.0, asked=one, method="fine-tuning") for one in asked))
    fixed = twice(*(trial(0.0, asked=one) for one in asked))
    claim = synthesis_results.out_of_reach(measured(*weights, *fixed), tasks, "moved digits")
    assert claim.verdict == "supported"
    assert "Of the 1 settings" in claim.sentence
    lucky = twice(trial(70.0, asked=asked[1], rate=0.2))
    found = measured(*weights, *fixed, *lucky)
    claim = synthesis_results.out_of_reach(found, tasks, "moved digits")
    assert claim.verdict == "contradicted"
    assert "Of the 2 settings" in claim.sentence
    unable = [dataclasses.replace(one, percent=1.0) for one in weights]
    claim = synthesis_results.out_of_reach(measured(*unable, *fixed), tasks, "moved digits")
    assert claim.verdict == "uninformative"


@pytest.mark.claim("prefix-tuning/expressivity-weights-can-move")
def test_a_control_that_fails_on_one_task_refutes_the_control() -> None:
    good = [
        trial(99.0, asked=question(task, "combining"), method="fine-tuning")
        for task in synthesis_results.MOVES
    ]
    assert synthesis_results.weights_can(measured(*twice(*good))).verdict == "supported"
    bad = dataclasses.replace(good[1], percent=3.0)
    claim = synthesis_results.weights_can(measured(*twice(good[0], bad)))
    assert claim.verdict == "contradicted"


def test_a_run_that_trains_some_weights_only_is_no_trial() -> None:
    plan = synthesis.plan(**SMALLEST)
    partly = [
        run for run in plan.experiments["a new task"] if len(run.config.get("learned", [])) > 1
    ]
    assert partly
    found = list(synthesis_results._trials("a new task", partly, TrainedInMemory().get))
    assert found == []


def test_settings_are_equal_for_seeds_and_differ_for_anything_else() -> None:
    run, runs = tuned()
    first, second = cells_of(run, runs.get)
    assert isinstance(first, Cell)
    trials = list(synthesis_results._trials("combining", [run], runs.get))
    assert trials[0].setting != trials[1].setting
    assert math.isclose(trials[0].percent, first.percent("add_one"))
    assert trials[1].init_std == second.init_std == 2.0

"""The chapter "Expressivity or optimisation?": trials, travel budgets, planted prefixes, claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from notebooks.prefix_tuning.expressivity_or_optimisation import figures, results, travel
from notebooks.prefix_tuning.expressivity_or_optimisation import plan as synthesis
from notebooks.prefix_tuning.expressivity_or_optimisation import training as planted
from notebooks.prefix_tuning.expressivity_or_optimisation.claims import CHAPTER, ROWS, TRAVEL
from notebooks.prefix_tuning.expressivity_or_optimisation.plan import DRAWN, Question
from notebooks.prefix_tuning.expressivity_or_optimisation.results import MOVES, Distance
from promptlib import claims
from promptlib.prefix_tuning import adapting, planning
from promptlib.prefix_tuning.adapting import new_prefix
from promptlib.prefix_tuning.evaluation import greedy_decode
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import PrefixBatch
from promptlib.prefix_tuning.tasks import sample_digits
from promptlib.prefix_tuning.trials import Trial, Trials, labelled, read
from promptlib.runs import Run
from tests.trained_in_memory import TrainedInMemory, silent
from workflow.sources import Source

CHAPTERS = ("new_task", "eliciting", "combining", "prefix_or_lora")


def trial(
    percent: float,
    *,
    task: str = "add_one",
    method: str = "prefix",
    seed: int = 0,
    rate: float = 0.1,
    std: float = 0.1,
    validation: float | None = None,
) -> Trial:
    kind = {"layer_norm": True, "separate_values": False, "length": 1} if method == "prefix" else {}
    run = Run("a:b", {"seed": seed, "task": task, "steps": 10, "test_sequences": 1000, **kind})
    metrics = {
        "learning_rate": rate,
        "init_std": None if method == "fine-tuning" else std,
        "accuracy": {task: percent / 100},
        "loss": {task: 1.0},
        "validation": {
            "accuracy": (percent if validation is None else validation) / 100,
            "loss": 1.0,
        },
    }
    labels = {"method": method, "question": Question("combining", "2 layers", task)}
    return Trial(labels, run, None, metrics)


def twice(*trials: Trial) -> list[Trial]:
    """The same trials of two seeds."""
    return [
        dataclasses.replace(one, run=Run("a:b", {**one.run.config, "seed": seed}))
        for seed in (0, 1)
        for one in trials
    ]


def students(
    teacher: str,
    left: Sequence[float] = (0.02, 0.04),
    alike: Sequence[float] = (90.0, 80.0),
) -> list[Trial]:
    """One student a seed: divergence from the teacher, 2 and 4 without a prefix, and agreement."""
    found = []
    for seed, (divergence, share) in enumerate(zip(left, alike, strict=True)):
        run = Run("a:b", {"seed": seed, "test_sequences": 1000})
        best = {"divergence": divergence, "agreement": share / 100, "curve": [1.0, 0.1]}
        cell = {**best, "validation": best}
        before = {"divergence": 2.0 * (seed + 1)}
        found += [
            Trial({"method": "student", "teacher": teacher}, run, 0, cell),
            Trial({"method": "no prefix", "teacher": teacher}, run, None, before),
        ]
    return found


def table(*trials: Trial) -> Trials:
    return Trials(tuple(trials))


def judged(
    weights: Sequence[Trial] | None = None,
    prefixes: Sequence[Trial] | None = None,
    planted: Sequence[Trial] | None = None,
) -> dict[str, claims.Claim]:
    """The claims about what is expected, or what stands in its place."""
    if weights is None:
        weights = twice(*(trial(99.0, task=task, method="fine-tuning") for task in MOVES))
    if prefixes is None:
        prefixes = twice(*(trial(0.0, task=task) for task in MOVES))
    if planted is None:
        planted = [*students(DRAWN), *students("add_one")]
    return claims.check(CHAPTER, ROWS, table(*weights, *prefixes, *planted))


# Parameters


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_chapter_means_the_runs_of_the_chapters_before(name: str) -> None:
    here = Source("prefix_tuning/expressivity_or_optimisation").defaults[name]
    there = Source(f"prefix_tuning/{name}").defaults
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
        "optimiser": "adamw",
        "gelu": "tanh",
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
        "gelu": "tanh",
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
        "gelu": "tanh",
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
    teachers = [labels["teacher"] for _, labels in plan.where(method="student").entries]
    assert teachers == [DRAWN, DRAWN, "add_one", "add_one"]
    for teacher, needs in ((DRAWN, 1), ("add_one", 2)):
        runs = plan.where(teacher=teacher).runs
        assert [run.config["seed"] for run in runs] == [0, 1]
        assert {run.train for run in runs} == {f"{synthesis.PLANTED}:plant"}
        assert {len(run.needs) for run in runs} == {needs}


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
    found = results.measured(plan, runs.get)
    experiments = {"a new task", "eliciting", "combining", "prefix or LoRA"}
    assert {asked.experiment for asked in results.questions(found)} == experiments
    assert {asked.experiment for asked in results.questions(found, "LoRA")} == {"prefix or LoRA"}
    shares = results.budget_shares(found, runs.get)
    distances = results.distances(found, runs.get)
    travelled = {"shares": shares, "distances": distances}
    assert claims.check(CHAPTER, TRAVEL, travelled)["travel-budget"].verdict == "holds"
    assert all(one.prefix > 0 and one.weights > 0 for one in distances)
    assert {one.question.experiment for one in distances} >= {"a new task", "combining"}
    assert len(claims.check(CHAPTER, ROWS, found)) == len(ROWS)
    for figure, alt in (figures.reach(found), figures.planted(found, 10)):
        assert len(alt) > 40
        assert figure.axes
    assert len(figures.answers(found).splitlines()) == 1 + len(results.questions(found))


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
    base = planning.pretrain(
        planning.model_of(2, 2, 8),
        "mixture",
        seed=3,
        steps=10,
        learning_rate=3e-3,
        evaluate=["add_one"],
        test_sequences=5,
    )
    run = planning.tune_prefixes(
        base,
        "add_one",
        steps=12,
        length=3,
        parametrisation="free",
        sweep=planning.cells([0.3], [0.1, 2.0]),
    )
    return run, TrainedInMemory()


def test_a_start_is_drawn_again_and_moves_are_measured_from_it() -> None:
    run, runs = tuned()
    config = {**run.config, "steps": 1, "warmup": 0}
    one_step = dataclasses.replace(run, config=config)
    for one in read(labelled(one_step, method="prefix"), runs.get):
        moves = travel.moves(one, runs.get)
        assert len(moves) == 2 * 2 * 3 * 8
        assert float(moves.max()) == pytest.approx(0.3, rel=1e-3)  # Adam's first step: the rate
        assert float(moves.max()) <= travel.budget_of(one) * (1 + 1e-5)


@pytest.mark.claim("prefix-tuning/expressivity-travel-budget")
def test_an_optimiser_that_oversteps_is_noticed() -> None:
    run, runs = tuned()
    trials = read(labelled(run, method="prefix"), runs.get)

    def oversteps(trial: Trial, get: Any) -> torch.Tensor:
        return 20 * travel.moves(trial, get)

    for moves, verdict in ((travel.moves, "holds"), (oversteps, "fails")):
        assert travelled(results.budget_shares(trials, runs.get, moves))[0].verdict == verdict


def travelled(
    shares: Sequence[float] = (0.5,), found: Sequence[Distance] | None = None
) -> list[claims.Claim]:
    """The claims about travel budget and distances."""
    far = [Distance(Question("eliciting", "", "add_one"), seed, 1.0, 0.02) for seed in (0, 1)]
    given = {"shares": shares, "distances": far if found is None else found}
    return list(claims.check(CHAPTER, TRAVEL, given).values())


@pytest.mark.claim("prefix-tuning/expressivity-distances")
def test_weights_that_travel_as_far_as_prefixes_refute_the_claim() -> None:
    claim = travelled()[1]
    assert claim.verdict == "supported"
    assert claim.value == pytest.approx(50.0)
    near = [Distance(Question("eliciting", "", "add_one"), seed, 1.0, 0.5) for seed in (0, 1)]
    assert travelled(found=near)[1].verdict == "contradicted"


# Planted prefixes


def planted_config(**changes: Any) -> dict[str, Any]:
    return {
        "seed": 0,
        "steps": 20,
        "warmup": 2,
        "batch_size": 8,
        "test_sequences": 20,
        "model": planning.model_of(2, 2, 8),
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
    inputs = sample_digits(config["test_sequences"], "test", adapting.generator_for(config, "test"))
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
    on_test = trial(95.0, validation=10.0)
    on_validation = trial(20.0, rate=0.3, validation=30.0)
    both = table(on_test, on_validation)
    assert list(both.best()) == [on_validation]
    assert results.done(both) == []
    assert min(both, key=results.best_first) == on_validation


@pytest.mark.claim("prefix-tuning/expressivity-planted-found")
def test_students_that_stay_where_they_are_refute_the_claim() -> None:
    assert judged()["planted-found"].verdict == "supported"
    lost = students(DRAWN, left=(2.0, 4.0))
    claim = judged(planted=[*lost, *students("add_one")])["planted-found"]
    assert claim.verdict == "contradicted"
    assert claim.value == 0.0


@pytest.mark.claim("prefix-tuning/expressivity-planted-answers")
@pytest.mark.claim("prefix-tuning/expressivity-trained-planted-answers")
def test_near_in_divergence_is_not_found_by_whole_answers() -> None:
    for alike, verdict in (([99.0, 98.9], "supported"), ([25.0, 24.9], "contradicted")):
        found = judged(planted=[*students(DRAWN, alike=alike), *students("add_one", alike=alike)])
        assert found["planted-found"].verdict == "supported"
        assert found["planted-answers"].verdict == verdict
        assert found["trained-planted-answers"].verdict == verdict
    several = [*students("add_one", alike=[99.0, 25.0]), *students("reverse", alike=[25.0, 99.0])]
    found = judged(planted=[*students(DRAWN), *several])
    assert found["trained-planted-answers"].details["values"] == [25.0, 25.0]
    assert "add one or reverse" in found["trained-planted-answers"].sentence
    with pytest.raises(ValueError, match="planted_tasks"):
        judged(planted=students(DRAWN))


# Trials


def test_only_tasks_that_a_prefix_does_count_for_what_tuning_loses() -> None:
    wide = table(trial(99.0), trial(3.0, std=3.0), trial(98.0, seed=1), trial(8.0, seed=1, std=3.0))
    assert results.lost_by_tuning(wide) == pytest.approx({0: 96.0, 1: 90.0})
    flat = table(*twice(trial(99.0), trial(95.0, std=3.0)))
    assert results.lost_by_tuning(flat) == pytest.approx({0: 4.0, 1: 4.0})
    failing = table(*twice(trial(50.0), trial(3.0, std=3.0)))
    assert results.lost_by_tuning(failing) == {}


@pytest.mark.claim("prefix-tuning/expressivity-no-prefix-for-moved-digits")
def test_a_prefix_that_rotates_refutes_that_none_moves_digits() -> None:
    name = "no-prefix-for-moved-digits"
    fixed = twice(*(trial(0.0, task=task) for task in MOVES))
    claim = judged(prefixes=fixed)[name]
    assert claim.verdict == "supported"
    assert "Of the 1 settings" in claim.sentence
    lucky = twice(trial(70.0, task=MOVES[1], rate=0.2))
    claim = judged(prefixes=[*fixed, *lucky])[name]
    assert claim.verdict == "contradicted"
    assert "Of the 2 settings" in claim.sentence
    unable = twice(*(trial(1.0, task=task, method="fine-tuning") for task in MOVES))
    assert judged(weights=unable)[name].verdict == "uninformative"


@pytest.mark.claim("prefix-tuning/expressivity-weights-can-move")
def test_a_control_that_fails_on_one_task_refutes_the_control() -> None:
    assert judged()["weights-can-move"].verdict == "supported"
    one_fails = [
        trial(percent, task=task, method="fine-tuning")
        for percent, task in zip((99.0, 3.0), MOVES, strict=True)
    ]
    assert judged(weights=twice(*one_fails))["weights-can-move"].verdict == "contradicted"


def test_a_run_that_trains_some_weights_only_is_no_trial() -> None:
    plan = synthesis.plan(**SMALLEST)
    partly = {run for run in plan if len(run.config.get("learned", [])) > 1}
    assert partly
    assert all("method" not in labels for run, labels in plan.entries if run in partly)


def test_settings_are_equal_for_seeds_and_differ_for_anything_else() -> None:
    run, runs = tuned()
    first, second = read(labelled(run, method="prefix"), runs.get)
    assert results.setting(first) != results.setting(second)
    other_seed = Run(run.train, {**run.config, "seed": 9}, run.needs)
    assert results.setting(dataclasses.replace(first, run=other_seed)) == results.setting(first)
    longer = Run(run.train, {**run.config, "length": 4}, run.needs)
    assert results.setting(dataclasses.replace(first, run=longer)) != results.setting(first)

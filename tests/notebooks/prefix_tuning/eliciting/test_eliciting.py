"""Experiment B4: what the runs measured, and claims that fail when something is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from notebooks.prefix_tuning.eliciting import claims as stated
from notebooks.prefix_tuning.eliciting import figures, results
from notebooks.prefix_tuning.eliciting import plan as eliciting
from notebooks.prefix_tuning.eliciting.plan import ARMS, N_HEAD, NORMS, PUBLISHED_ARM, SWEPT
from notebooks.prefix_tuning.eliciting.start import Start
from promptlib import claims
from promptlib.prefix_tuning import adapting, published
from promptlib.prefix_tuning.planning import MIXED, model_of
from promptlib.prefix_tuning.trials import Plan, Trial, Trials, read, sequences_tested
from promptlib.runs import Run
from tests.trained_in_memory import TrainedInMemory, train_nothing

TINY: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "width": 12,
    "precision": "float32",
    "optimiser": "adamw",
    "gelu": "tanh",
    "pretrain_steps": 12,
    "prefix_steps": 10,
    "learning_rates": [0.1, 0.3],
    "init_stds": [3.0],
    "test_sequences": 20,
}
Accuracy = Callable[[str, str, float, str], float]
"""Of a prefix by arm, task and initial scale, on a task."""


@pytest.fixture(scope="module")
def tiny() -> tuple[Plan, TrainedInMemory, Trials]:
    """Return the real experiment, too short to work."""
    torch.set_num_threads(1)
    plan = eliciting.plan(**TINY)
    runs = TrainedInMemory()
    return plan, runs, read(plan, runs.get)


def made_up(
    accuracy: Accuracy, alone: Mapping[str, float] | None = None, seeds: int = 2, width: int = 256
) -> Trials:
    """Make up what an experiment measured."""
    shares = dict.fromkeys(MIXED, 0.24) if alone is None else alone

    def run(task: str, seed: int) -> Run:
        model = model_of(1, N_HEAD, width, first_layer_norm=False)
        numbers = {"learning_rate": 0.1, "steps": 400, "test_sequences": 3200}
        return Run("nothing:nothing", {"seed": seed, "task": task, "model": model, **numbers})

    def prefix(arm: str, task: str, seed: int, cell: int, std: float) -> Trial:
        found = {
            "init_std": std,
            "learning_rate": 0.1,
            "accuracy": {other: accuracy(arm, task, std, other) for other in MIXED},
            "loss": dict.fromkeys(MIXED, 1.0),
            "validation": {"accuracy": accuracy(arm, task, std, task), "loss": 1.0},
            "curve": [1.0, 0.5, 0.02, 0.01],
        }
        return Trial({"arm": arm, "task": task}, run(task, seed), cell, found)

    models = [
        Trial({"norm": norm}, run("mixture", seed), None, {"accuracy": shares})
        for norm in NORMS
        for seed in range(seeds)
    ]
    prefixes = [
        prefix(arm, task, seed, cell, std)
        for arm in ARMS
        for task in MIXED
        for seed in range(seeds)
        for cell, std in enumerate((0.1, 3.0) if arm == PUBLISHED_ARM and task in SWEPT else (0.1,))
    ]
    return Trials((*models, *prefixes))


def as_published(arm: str, task: str, std: float, other: str) -> float:
    if std > 1:
        return 0.0
    own = {"with LayerNorm": 0.5}.get(arm, published.ELICIT["prefix"][task] / 100)
    return own if task == other else 0.004


ALL_ALIKE = made_up(lambda arm, task, std, other: 0.24)
"""What a training that does not train would measure: every prefix leaves the model as it is."""
FINE = made_up(as_published)
NOTHING_KNOWN = made_up(as_published, dict.fromkeys(MIXED, 0.0))
"""A mixture that was not learned: nothing can be elicited."""


def claim(name: str, trials: Trials) -> claims.Claim:
    """Judge one claim and what it requires, by the end of its name."""
    rows = {row.name: row for row in stated.ACCURACIES}
    wanted = (rows[name], *(rows[str(control)] for control in rows[name].requires))
    return claims.check(stated.CHAPTER, wanted, trials)[name]


def verdict(name: str, trials: Trials) -> str:
    return claim(name, trials).verdict


def judged(trials: Trials) -> dict[str, claims.Claim]:
    return claims.check(stated.CHAPTER, stated.ACCURACIES, trials)


# Claims on accuracies.


def test_claims_are_as_published_when_everything_is() -> None:
    found = judged(FINE)
    assert {claim.verdict for claim in found.values()} == {"supported"}
    for task in MIXED:
        assert found[task.replace("_", "-")].replication == "reproduced"
    assert found["mixture-learned"].replication == "reproduced"
    assert found["free-escapes"].replication is None


def test_at_another_size_nothing_is_called_reproduced() -> None:
    small = made_up(as_published, width=96)
    found = {claim.replication for claim in judged(small).values()}
    assert found == {None, "other size"}


def test_one_seed_is_no_verdict() -> None:
    single = judged(made_up(as_published, seeds=1))
    assert single["mixture-learned"].verdict == "single run"


@pytest.mark.claim("prefix-tuning/eliciting-mixture-learned")
def test_a_model_that_was_not_trained_has_not_learned_the_mixture(
    tiny: tuple[Plan, TrainedInMemory, Trials], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, _ = tiny
    monkeypatch.setattr(adapting, "train", train_nothing)
    untrained = read(plan.where(norm="without"), runs.again)
    assert verdict("mixture-learned", untrained) == "contradicted"
    at_the_limit = made_up(as_published, dict.fromkeys(MIXED, 0.125))
    assert verdict("mixture-learned", at_the_limit) == "undecided"


@pytest.mark.claim("prefix-tuning/eliciting-mixture-undecided")
def test_a_model_that_was_told_the_task_refutes_that_it_guesses() -> None:
    told = made_up(as_published, {**dict.fromkeys(MIXED, 0.0), "add_one": 0.99})
    assert verdict("mixture-undecided", told) == "contradicted"


@pytest.mark.claim("prefix-tuning/eliciting-sort-ascending")
@pytest.mark.claim("prefix-tuning/eliciting-sort-descending")
@pytest.mark.claim("prefix-tuning/eliciting-add-one")
@pytest.mark.claim("prefix-tuning/eliciting-add-two")
@pytest.mark.parametrize("task", MIXED)
def test_a_prefix_that_is_not_trained_elicits_nothing(
    task: str, tiny: tuple[Plan, TrainedInMemory, Trials], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, _ = tiny
    name = task.replace("_", "-")
    assert verdict(name, ALL_ALIKE) == "undecided"
    weak = made_up(lambda arm, task, std, other: 0.1)
    assert verdict(name, weak) == "contradicted"
    assert verdict(name, NOTHING_KNOWN) == "uninformative"
    monkeypatch.setattr(adapting, "train", train_nothing)
    untrained = read(plan.where(arm=PUBLISHED_ARM, task=task), runs.again)
    assert verdict(name, untrained + FINE.where(norm="without")) == "contradicted"


@pytest.mark.claim("prefix-tuning/eliciting-other-tasks")
def test_an_accuracy_that_ignores_the_task_refutes_that_others_vanish() -> None:
    wrong = made_up(lambda arm, task, std, other: as_published(arm, task, std, task))
    assert verdict("other-tasks", wrong) == "contradicted"
    leaky = made_up(
        lambda arm, task, std, other: (
            0.4 if (task, other) == ("add_one", "add_two") else as_published(arm, task, std, other)
        )
    )
    assert results.leaks(leaky).tolist() == [40.0, 40.0]
    assert verdict("other-tasks", leaky) == "contradicted"
    assert verdict("other-tasks", NOTHING_KNOWN) == "uninformative"


@pytest.mark.claim("prefix-tuning/eliciting-free-escapes")
def test_a_prefix_that_passes_by_the_layer_norm_everywhere_refutes_that_it_costs() -> None:
    better = made_up(lambda arm, task, std, other: 0.9 if arm == "with LayerNorm" else 0.8)
    found = claim("free-escapes", better)
    assert found.verdict == "contradicted"
    assert found.value == pytest.approx(-10.0)
    assert verdict("free-escapes", ALL_ALIKE) == "undecided"


@pytest.mark.claim("prefix-tuning/eliciting-free-elicits")
def test_free_prefixes_that_are_not_trained_refute_the_control() -> None:
    assert verdict("free-elicits", ALL_ALIKE) == "contradicted"


def test_arms_are_compared_at_the_scale_that_all_of_them_have() -> None:
    rescued = made_up(lambda arm, task, std, other: 0.9 if std > 1 else 0.4)
    found = results.differences(rescued, PUBLISHED_ARM, "with LayerNorm")
    assert found.tolist() == [0.0, 0.0]


@pytest.mark.claim("prefix-tuning/eliciting-init-scale")
def test_a_scale_that_is_not_used_refutes_that_it_decides() -> None:
    unused = made_up(lambda arm, task, std, other: as_published(arm, task, 0.1, other))
    assert verdict("init-scale", unused) == "undecided"
    helps = made_up(lambda arm, task, std, other: 0.9 if std > 1 else 0.6)
    assert verdict("init-scale", helps) == "contradicted"
    lost = results.losses_of_scale(FINE)
    expected = sum(published.ELICIT["prefix"][task] for task in SWEPT) / len(SWEPT)
    assert lost.tolist() == [pytest.approx(expected)] * 2


# What is chosen and counted.


def test_the_best_cell_counts_for_each_scale() -> None:
    best = results.best(FINE, PUBLISHED_ARM, "add_one")[1]
    assert (best.seed, best.init_std, best.percent()) == (1, 0.1, pytest.approx(99.62))
    assert results.best(FINE, PUBLISHED_ARM, "add_one", 3.0).percent() == [0.0, 0.0]
    assert results.init_stds(FINE) == [0.1, 3.0]
    expected = [published.ELICIT["prefix"][task] for task in MIXED]
    assert results.every_task(FINE)[..., 0].diagonal() == pytest.approx(expected)


def test_steps_until_the_loss_stays_low() -> None:
    trial = FINE.where(arm=PUBLISHED_ARM, task="add_one")[0]
    assert results.steps_until(trial) == 300
    assert results.steps_until(trial, loss=0.015) == 400
    assert results.steps_until(trial, loss=0.001) is None
    assert results.steps_until(trial, loss=2.0) == 100


def test_narrow_models_learn_at_higher_rates() -> None:
    assert (
        eliciting.pretrain_rate(eliciting.PUBLISHED_WIDTH, "adamw")
        == eliciting.PRETRAIN_LEARNING_RATE
    )
    assert eliciting.pretrain_rate(64, "adamw") == pytest.approx(8e-3)


# Figures.


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_figures_say_what_they_show(seeds: int) -> None:
    trials = made_up(as_published, seeds=seeds)
    begins = [Start(std, 0.1 * std, 0.05, 1 / std, 2 / std, 1.0) for std in (0.1, 1.0, 3.0)]
    ends = {task: [(0.1, 0.2, 98.0), (3.0, 0.9, 0.0)] for task in SWEPT}
    drawn = {
        "twelve numbers off the diagonal is 0.4": figures.matrix(trials),
        "83.72 % published": figures.beside_published(trials),
        "0.0 at 3": figures.by_init_scale(trials),
        "15 % of the rows are saturated at the smallest": figures.at_the_start(
            {arm: [[dataclasses.replace(one, wiped=one.wiped + 0.09) for one in begins]] * seeds
             for arm in ARMS},
            0.2,
        ),
        "scale 3: shares from 90 to 90 %": figures.where_they_end(trials, ends),
    }  # fmt: skip
    for words, (figure, alt) in drawn.items():
        assert words in alt, alt
        figure.canvas.draw()
        plt.close(figure)


def test_an_archive_without_weights_is_judged_as_the_page_judges(
    tiny: tuple[Plan, TrainedInMemory, Trials],
) -> None:
    plan, runs, trials = tiny
    archived = stated.claims_at_published_size(
        plan, lambda run: dataclasses.replace(runs.get(run), tensors={})
    )
    assert archived == list(judged(trials).values())
    assert all(isinstance(one, claims.Claim) for one in archived)
    assert archived[0].details["seeds"] == 2
    assert results.differs(trials) == ("width 12, not 256",)
    assert sequences_tested(trials) == TINY["test_sequences"]

"""Experiment B4: what the runs measured, and claims that fail when something is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from promptlib import claims
from promptlib.prefix_tuning import (
    elicit,
    elicit_figures,
    elicit_results,
    experiment_training,
    published,
)
from promptlib.prefix_tuning.elicit import ARMS, SWEPT, ElicitPlan
from promptlib.prefix_tuning.elicit_results import PUBLISHED_ARM, Measured
from promptlib.prefix_tuning.elicit_start import Start
from promptlib.prefix_tuning.experiment_results import Cell
from promptlib.prefix_tuning.experiment_runs import MIXED
from promptlib.runs import Run
from tests.prefix_tuning.test_new_task import retrained, train_nothing
from tests.trained_in_memory import TrainedInMemory

TINY: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "width": 12,
    "precision": "float32",
    "pretrain_steps": 12,
    "prefix_steps": 10,
    "learning_rates": [0.1, 0.3],
    "init_stds": [3.0],
    "test_sequences": 20,
}
Accuracy = Callable[[str, str, float, str], float]
"""Of a prefix by arm, task and initial scale, on a task."""


@pytest.fixture(scope="module")
def tiny() -> tuple[ElicitPlan, TrainedInMemory, Measured]:
    """Return the real experiment, too short to work."""
    torch.set_num_threads(1)
    plan = elicit.plan(**TINY)
    runs = TrainedInMemory()
    return plan, runs, elicit_results.collect(plan, runs.get)


def measured_as(
    accuracy: Accuracy, alone: Mapping[str, float] | None = None, seeds: int = 2
) -> Measured:
    """Make up what an experiment measured."""
    shares = dict.fromkeys(MIXED, 0.24) if alone is None else alone

    def sweep(arm: str, task: str) -> list[Cell]:
        return [
            Cell(
                Run("nothing:nothing", {"learning_rate": 0.1}),
                index,
                {
                    "init_std": std,
                    "learning_rate": 0.1,
                    "accuracy": {other: accuracy(arm, task, std, other) for other in MIXED},
                    "loss": dict.fromkeys(MIXED, 1.0),
                    "validation": {"accuracy": accuracy(arm, task, std, task), "loss": 1.0},
                    "curve": [1.0, 0.5, 0.02, 0.01],
                },
            )
            for index, std in enumerate((0.1, 3.0) if task in SWEPT else (0.1,))
        ]

    return Measured(
        pretrained={norm: [{"accuracy": shares}] * seeds for norm in elicit.NORMS},
        cells={arm: {task: [sweep(arm, task)] * seeds for task in MIXED} for arm in ARMS},
    )


def as_published(arm: str, task: str, std: float, other: str) -> float:
    if std > 1:
        return 0.0
    own = {"with LayerNorm": 0.5}.get(arm, published.ELICIT["prefix"][task] / 100)
    return own if task == other else 0.004


ALL_ALIKE = measured_as(lambda arm, task, std, other: 0.24)
"""What a training that does not train would measure: every prefix leaves the model as it is."""
FINE = measured_as(as_published)


# Claims on accuracies.


def test_claims_are_as_published_when_everything_is() -> None:
    for task in MIXED:
        assert elicit_results.own_task(FINE, task).verdict == "reproduced"
    for claim in (
        elicit_results.other_tasks,
        elicit_results.mixture_learned,
        elicit_results.layer_norm_costs,
        elicit_results.free_escapes,
        elicit_results.init_scale_decides,
    ):
        assert claim(FINE).verdict == "reproduced", claim


@pytest.mark.claim("prefix-tuning/eliciting-mixture-learned")
def test_a_model_that_was_not_trained_has_not_learned_the_mixture(
    tiny: tuple[ElicitPlan, TrainedInMemory, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, measured = tiny
    monkeypatch.setattr(experiment_training, "train", train_nothing)
    wrong = dataclasses.replace(
        measured, pretrained={"without": [retrained(plan.pretrained["without"][0], runs)]}
    )
    assert elicit_results.mixture_learned(wrong).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/eliciting-mixture-undecided")
def test_a_model_that_was_told_the_task_refutes_that_it_guesses() -> None:
    told = measured_as(as_published, {**dict.fromkeys(MIXED, 0.0), "add_one": 0.99})
    assert elicit_results.mixture_undecided(told).verdict == "not reproduced"
    assert elicit_results.mixture_undecided(FINE).verdict in ("reproduced", "stronger")


@pytest.mark.claim("prefix-tuning/eliciting-sort-ascending")
@pytest.mark.claim("prefix-tuning/eliciting-sort-descending")
@pytest.mark.claim("prefix-tuning/eliciting-add-one")
@pytest.mark.claim("prefix-tuning/eliciting-add-two")
@pytest.mark.parametrize("task", MIXED)
def test_a_prefix_that_is_not_trained_elicits_nothing(
    task: str,
    tiny: tuple[ElicitPlan, TrainedInMemory, Measured],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, runs, measured = tiny
    assert elicit_results.own_task(ALL_ALIKE, task).verdict == "not reproduced"
    monkeypatch.setattr(experiment_training, "train", train_nothing)
    run = plan.prefixes[PUBLISHED_ARM][task][0]
    cells = [Cell(run, i, cell) for i, cell in enumerate(retrained(run, runs)["cells"])]
    sweeps = {PUBLISHED_ARM: {**measured.cells[PUBLISHED_ARM], task: [cells]}}
    wrong = dataclasses.replace(
        measured, pretrained={"without": measured.pretrained["without"][:1]}, cells=sweeps
    )
    assert elicit_results.own_task(wrong, task).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/eliciting-other-tasks")
def test_an_accuracy_that_ignores_the_task_refutes_that_others_vanish() -> None:
    wrong = measured_as(lambda arm, task, std, other: as_published(arm, task, std, task))
    assert elicit_results.other_tasks(wrong).verdict == "not reproduced"
    leaky = measured_as(
        lambda arm, task, std, other: (
            0.2 if (task, other) == ("add_one", "add_two") else as_published(arm, task, std, other)
        )
    )
    assert elicit_results.leaks(leaky, PUBLISHED_ARM) == [20.0, 20.0]
    assert elicit_results.other_tasks(leaky).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/eliciting-layer-norm-costs")
@pytest.mark.claim("prefix-tuning/eliciting-free-escapes")
def test_a_prefix_that_passes_by_the_layer_norm_everywhere_refutes_that_it_costs() -> None:
    same = measured_as(lambda arm, task, std, other: 0.9 if arm == "with LayerNorm" else 0.8)
    assert elicit_results.layer_norm_costs(same).verdict == "not reproduced"
    assert elicit_results.free_escapes(same).verdict == "not reproduced"
    assert elicit_results.layer_norm_costs(same).value == pytest.approx(-10.0)


@pytest.mark.claim("prefix-tuning/eliciting-init-scale")
def test_a_scale_that_is_not_used_refutes_that_it_decides() -> None:
    unused = measured_as(lambda arm, task, std, other: as_published(arm, task, 0.1, other))
    assert elicit_results.init_scale_decides(unused).verdict == "not reproduced"
    lost = elicit_results.losses_of_scale(FINE, PUBLISHED_ARM)
    expected = sum(published.ELICIT["prefix"][task] for task in SWEPT) / len(SWEPT)
    assert lost == [pytest.approx(expected)] * 2


# What is chosen and counted.


def test_the_best_cell_counts_for_each_scale() -> None:
    best = FINE.best(PUBLISHED_ARM, "add_one", 1)
    assert (best.init_std, best.percent("add_one")) == (0.1, pytest.approx(99.62))
    assert FINE.best(PUBLISHED_ARM, "add_one", 1, 3.0).percent("add_one") == 0.0
    assert FINE.init_stds == [0.1, 3.0]
    rows = FINE.matrix(PUBLISHED_ARM, 0)
    assert [rows[place][place] for place in range(4)] == pytest.approx(
        [published.ELICIT["prefix"][task] for task in MIXED]
    )


def test_steps_until_the_loss_stays_low() -> None:
    cell = FINE.best(PUBLISHED_ARM, "add_one", 0)
    assert elicit_results.steps_until(cell, 400) == 300
    assert elicit_results.steps_until(cell, 400, loss=0.015) == 400
    assert elicit_results.steps_until(cell, 400, loss=0.001) is None
    assert elicit_results.steps_until(cell, 400, loss=2.0) == 100


def test_narrow_models_learn_at_higher_rates() -> None:
    assert elicit.pretrain_rate(elicit.PUBLISHED_WIDTH) == elicit.PRETRAIN_LEARNING_RATE
    assert elicit.pretrain_rate(64) == pytest.approx(8e-3)


# Figures.


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_figures_say_what_they_show(seeds: int) -> None:
    measured = measured_as(as_published, seeds=seeds)
    begins = [Start(std, 0.1 * std, 0.05, 1 / std, 2 / std, 1.0) for std in (0.1, 1.0, 3.0)]
    ends = {task: [(0.1, 0.2, 98.0), (3.0, 0.9, 0.0)] for task in SWEPT}
    drawn = {
        "twelve numbers off the diagonal is 0.4": elicit_figures.matrix(measured),
        "83.72 % published": elicit_figures.beside_published(measured),
        "0.0 at 3": elicit_figures.by_init_scale(measured),
        "15 % of the rows are saturated at the smallest": elicit_figures.at_the_start(
            {arm: [[dataclasses.replace(one, wiped=one.wiped + 0.09) for one in begins]] * seeds
             for arm in ARMS},
            0.2,
        ),
        "scale 3: shares from 90 to 90 %": elicit_figures.where_they_end(measured, ends),
    }  # fmt: skip
    for words, (figure, alt) in drawn.items():
        assert words in alt, alt
        figure.canvas.draw()
        plt.close(figure)


def test_runs_that_are_too_short_go_through_every_claim(
    tiny: tuple[ElicitPlan, TrainedInMemory, Measured],
) -> None:
    measured = tiny[2]
    made = [
        elicit_results.mixture_learned(measured),
        elicit_results.mixture_undecided(measured),
        *(elicit_results.own_task(measured, task) for task in MIXED),
        elicit_results.other_tasks(measured),
        elicit_results.layer_norm_costs(measured),
        elicit_results.free_escapes(measured),
        elicit_results.init_scale_decides(measured),
    ]
    assert len({claim.id for claim in made}) == len(made)
    assert all(isinstance(claim, claims.Claim) for claim in made)
    assert made[0].details["seeds"] == 2

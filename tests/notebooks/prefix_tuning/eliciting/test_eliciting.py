"""Experiment B4: what the runs measured, and claims that fail when something is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from tests.prefix_tuning.test_new_task import retrained, train_nothing

from notebooks.prefix_tuning.eliciting import figures as elicit_figures
from notebooks.prefix_tuning.eliciting import plan as elicit
from notebooks.prefix_tuning.eliciting import results as elicit_results
from notebooks.prefix_tuning.eliciting.plan import ARMS, SWEPT, ElicitPlan
from notebooks.prefix_tuning.eliciting.results import PUBLISHED_ARM, Measured
from notebooks.prefix_tuning.eliciting.start import Start
from promptlib import claims
from promptlib.prefix_tuning import adapting as experiment_training
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.sweeps import Cell
from promptlib.runs import Run
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
    accuracy: Accuracy,
    alone: Mapping[str, float] | None = None,
    seeds: int = 2,
    differs: tuple[str, ...] = (),
) -> Measured:
    """Make up what an experiment measured."""
    shares = dict.fromkeys(MIXED, 0.24) if alone is None else alone

    def sweep(arm: str, task: str) -> list[Cell]:
        larger = arm == PUBLISHED_ARM and task in SWEPT
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
            for index, std in enumerate((0.1, 3.0) if larger else (0.1,))
        ]

    return Measured(
        pretrained={norm: [{"accuracy": shares}] * seeds for norm in elicit.NORMS},
        cells={arm: {task: [sweep(arm, task)] * seeds for task in MIXED} for arm in ARMS},
        trials=3200,
        differs=differs,
    )


def as_published(arm: str, task: str, std: float, other: str) -> float:
    if std > 1:
        return 0.0
    own = {"with LayerNorm": 0.5}.get(arm, published.ELICIT["prefix"][task] / 100)
    return own if task == other else 0.004


ALL_ALIKE = measured_as(lambda arm, task, std, other: 0.24)
"""What a training that does not train would measure: every prefix leaves the model as it is."""
FINE = measured_as(as_published)
NOTHING_KNOWN = measured_as(as_published, dict.fromkeys(MIXED, 0.0))
"""A mixture that was not learned: nothing can be elicited."""


def verdict(name: str, measured: Measured) -> str:
    """Judge one claim, by the end of its name."""
    return elicit_results.claims_of(measured)[name].verdict


# Claims on accuracies.


def test_claims_are_as_published_when_everything_is() -> None:
    found = elicit_results.claims_of(FINE)
    assert {claim.verdict for claim in found.values()} == {"supported"}
    for task in MIXED:
        assert found[task.replace("_", "-")].replication == "reproduced"
    assert found["mixture-learned"].replication == "reproduced"
    assert found["free-escapes"].replication is None


def test_at_another_size_nothing_is_called_reproduced() -> None:
    small = measured_as(as_published, differs=("width 96, not 256",))
    found = {claim.replication for claim in elicit_results.claims_of(small).values()}
    assert found == {None, "other size"}


def test_one_seed_is_no_verdict() -> None:
    single = elicit_results.claims_of(measured_as(as_published, seeds=1))
    assert single["mixture-learned"].verdict == "single run"


@pytest.mark.claim("prefix-tuning/eliciting-mixture-learned")
def test_a_model_that_was_not_trained_has_not_learned_the_mixture(
    tiny: tuple[ElicitPlan, TrainedInMemory, Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, runs, measured = tiny
    monkeypatch.setattr(experiment_training, "train", train_nothing)
    untrained = [retrained(run, runs) for run in plan.pretrained["without"]]
    wrong = dataclasses.replace(measured, pretrained={"without": untrained})
    assert elicit_results.mixture_learned(wrong).verdict == "contradicted"
    at_the_limit = measured_as(as_published, dict.fromkeys(MIXED, 0.125))
    assert elicit_results.mixture_learned(at_the_limit).verdict == "undecided"


@pytest.mark.claim("prefix-tuning/eliciting-mixture-undecided")
def test_a_model_that_was_told_the_task_refutes_that_it_guesses() -> None:
    told = measured_as(as_published, {**dict.fromkeys(MIXED, 0.0), "add_one": 0.99})
    assert verdict("mixture-undecided", told) == "contradicted"


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
    name = task.replace("_", "-")
    assert verdict(name, ALL_ALIKE) == "undecided"
    weak = measured_as(lambda arm, task, std, other: 0.1)
    assert verdict(name, weak) == "contradicted"
    assert verdict(name, NOTHING_KNOWN) == "uninformative"
    monkeypatch.setattr(experiment_training, "train", train_nothing)
    sweeps = [
        [Cell(run, index, cell) for index, cell in enumerate(retrained(run, runs)["cells"])]
        for run in plan.prefixes[PUBLISHED_ARM][task]
    ]
    wrong = dataclasses.replace(
        measured,
        pretrained=FINE.pretrained,
        cells={PUBLISHED_ARM: {**measured.cells[PUBLISHED_ARM], task: sweeps}},
    )
    assert elicit_results.own_task(wrong, task).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/eliciting-other-tasks")
def test_an_accuracy_that_ignores_the_task_refutes_that_others_vanish() -> None:
    wrong = measured_as(lambda arm, task, std, other: as_published(arm, task, std, task))
    assert verdict("other-tasks", wrong) == "contradicted"
    leaky = measured_as(
        lambda arm, task, std, other: (
            0.4 if (task, other) == ("add_one", "add_two") else as_published(arm, task, std, other)
        )
    )
    assert elicit_results.leaks(leaky, PUBLISHED_ARM) == [40.0, 40.0]
    assert verdict("other-tasks", leaky) == "contradicted"
    assert verdict("other-tasks", NOTHING_KNOWN) == "uninformative"


@pytest.mark.claim("prefix-tuning/eliciting-free-escapes")
def test_a_prefix_that_passes_by_the_layer_norm_everywhere_refutes_that_it_costs() -> None:
    better = measured_as(lambda arm, task, std, other: 0.9 if arm == "with LayerNorm" else 0.8)
    found = elicit_results.claims_of(better)
    assert found["free-escapes"].verdict == "contradicted"
    assert found["free-escapes"].value == pytest.approx(-10.0)
    assert verdict("free-escapes", ALL_ALIKE) == "undecided"


@pytest.mark.claim("prefix-tuning/eliciting-free-elicits")
def test_free_prefixes_that_are_not_trained_refute_the_control() -> None:
    assert verdict("free-elicits", ALL_ALIKE) == "contradicted"


def test_arms_are_compared_at_the_scale_that_all_of_them_have() -> None:
    rescued = measured_as(lambda arm, task, std, other: 0.9 if std > 1 else 0.4)
    assert elicit_results.differences(rescued, PUBLISHED_ARM, "with LayerNorm") == [0.0, 0.0]


@pytest.mark.claim("prefix-tuning/eliciting-init-scale")
def test_a_scale_that_is_not_used_refutes_that_it_decides() -> None:
    unused = measured_as(lambda arm, task, std, other: as_published(arm, task, 0.1, other))
    assert verdict("init-scale", unused) == "undecided"
    helps = measured_as(lambda arm, task, std, other: 0.9 if std > 1 else 0.6)
    assert verdict("init-scale", helps) == "contradicted"
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


def test_the_ends_of_a_sweep_are_told() -> None:
    inside = [cell for seed in FINE.cells[PUBLISHED_ARM]["add_one"] for cell in seed]
    assert elicit_results.rates_chosen(inside, [0.03, 0.1, 0.3]) == "0.03: 0, 0.1: 4, 0.3: 0"
    told = elicit_results.rates_chosen(inside, [0.03, 0.1])
    assert told == "0.03: 0, 0.1: 4 (the sweep ends at 0.1: beyond may be better)"


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


def test_an_archive_without_weights_is_judged_as_the_page_judges(
    tiny: tuple[ElicitPlan, TrainedInMemory, Measured],
) -> None:
    plan, runs, measured = tiny
    archived = elicit_results.claims_at_published_size(
        plan, lambda run: dataclasses.replace(runs.get(run), tensors={})
    )
    assert archived == list(elicit_results.claims_of(measured).values())
    assert all(isinstance(claim, claims.Claim) for claim in archived)
    assert archived[0].details["seeds"] == 2
    assert measured.differs == ("width 12, not 256",)
    assert measured.trials == TINY["test_sequences"]

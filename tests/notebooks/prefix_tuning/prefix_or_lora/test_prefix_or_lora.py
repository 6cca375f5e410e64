"""Experiment B6: what the runs measured, and claims that fail when something is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from notebooks.prefix_tuning.prefix_or_lora import figures as budget_figures
from notebooks.prefix_tuning.prefix_or_lora import plan as lora_budget
from notebooks.prefix_tuning.prefix_or_lora import results as budget_results
from notebooks.prefix_tuning.prefix_or_lora.plan import BudgetPlan
from notebooks.prefix_tuning.prefix_or_lora.results import Inside, Measured, Way
from notebooks.prefix_tuning.prefix_or_lora.work import step_work
from promptlib.claims import Claim
from promptlib.prefix_tuning.sweeps import Cell
from promptlib.prefix_tuning.tasks import DOUBLE_HISTOGRAM, read_and_answer
from promptlib.runs import Result, Run
from tests.trained_in_memory import TrainedInMemory
from workflow.sources import Source

TINY: dict[str, Any] = {
    "seeds": 1,
    "first_seed": 0,
    "n_layer": 2,
    "width": 12,
    "precision": "float32",
    "pretrain_steps": 10,
    "adapt_steps": 16,
    "lengths": {"shared": [12], "free": [6]},
    "ranks": {"MLP and projection": [1], "attention": [1]},
    "prefix_rates": [0.1, 0.3],
    "init_stds": [0.1],
    "lora_rates": [0.03],
    "weight_rates": [0.003],
    "test_sequences": 20,
    "checkpoints": 2,
}

Learned = tuple[BudgetPlan, TrainedInMemory, Measured]


@pytest.fixture(scope="module")
def learned() -> Learned:
    torch.set_num_threads(1)
    plan, runs = lora_budget.plan(**TINY), TrainedInMemory()
    return plan, runs, budget_results.collect(plan, runs.get)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return read_and_answer(*DOUBLE_HISTOGRAM.sample(7, "test", generator))


def way(
    family: Any, what: str, size: int, parameters: int, cells: Sequence[tuple[float, float, float]]
) -> Way:
    """Return a way with two equal seeds; cells are rate, accuracy in percent, loss."""
    run = Run("promptlib.prefix_tuning.adapting:fine_tune", {"seed": 0})
    return Way(
        family,
        what,
        size,
        parameters,
        [
            [
                Cell(
                    run,
                    index,
                    {
                        "learning_rate": rate,
                        "accuracy": {"double_histogram": accuracy / 100},
                        "loss": {"double_histogram": loss},
                        "validation": {"accuracy": accuracy / 100, "loss": loss},
                    },
                )
                for index, (rate, accuracy, loss) in enumerate(cells)
            ]
        ]
        * 2,
    )


def as_published(**changes: tuple[float, float]) -> Measured:
    """Return what the paper would have measured; `changes` are accuracy and loss by way."""
    found = {
        "shared": (0.3, 1.4),
        "lora": (92.4, 0.2),
        "attention": (90.0, 0.25),
        "ceiling": (99.0, 0.05),
        **changes,
    }
    budget = 12 * 2 * 10
    named: list[tuple[Any, str, int, int, str]] = [
        ("prefix", "shared", 12, budget, "shared"),
        ("LoRA", "MLP and projection", 1, budget, "lora"),
        ("LoRA", "attention", 1, 160, "attention"),
        ("fine-tuning", "all weights", 0, 5000, "ceiling"),
    ]
    ways = [way(f, w, n, count, [(0.1, *found[key])]) for f, w, n, count, key in named]
    return Measured([{}], ways, budget, trials=3200, differs=())


BLIND = 0.97


@pytest.mark.claim("prefix-tuning/prefix-or-lora-prefix")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-lora")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-ceiling")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-attention-below-prefix")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-ceiling-below-lora")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-prefix-worse-than-blind")
@pytest.mark.parametrize(
    ("claim", "wrong"),
    [
        (budget_results.prefix_accuracy, {"shared": (60.0, 0.5)}),
        (budget_results.lora_accuracy, {"lora": (0.9, 1.3)}),
        (budget_results.ceiling_accuracy, {"ceiling": (0.9, 1.1)}),
        (budget_results.attention_below_prefix, {"attention": (0.9, 1.41)}),
        (budget_results.ceiling_below_lora, {"ceiling": (0.9, 1.1)}),
        (
            lambda measured: budget_results.prefix_worse_than_blind(measured, BLIND),
            {"shared": (0.3, 0.9)},
        ),
    ],
)
def test_another_measurement_refutes_the_claim(claim: Any, wrong: dict[str, Any]) -> None:
    assert claim(as_published()).verdict == "supported"
    assert claim(as_published(**wrong)).verdict == "contradicted"


def test_without_the_control_the_accuracies_say_nothing() -> None:
    short = as_published(ceiling=(0.9, 1.1), lora=(0.9, 1.2))
    for claim in (budget_results.prefix_accuracy, budget_results.lora_accuracy):
        assert claim(short).verdict == "uninformative"
    assert budget_results.prefix_worse_than_blind(short, BLIND).verdict == "uninformative"


def test_the_published_figures_are_compared_at_the_published_size_only() -> None:
    for claim, value in (
        (budget_results.prefix_accuracy, 0.31),
        (budget_results.lora_accuracy, 92.38),
    ):
        full = claim(as_published())
        assert full.details["published"]["value"] == value
        assert full.replication == "reproduced"
        small = dataclasses.replace(as_published(), differs=("width 64, not 256",))
        assert claim(small).replication == "other size"


def test_archived_runs_give_the_claims_that_need_no_weights(learned: Learned) -> None:
    plan, runs, measured = learned

    found = budget_results.claims_at_published_size(plan, lambda run: Result(runs.get(run).metrics))
    assert budget_results.attention_below_prefix(measured) in found
    assert len({claim.id for claim in found}) == len(found) == 6


@pytest.mark.claim("prefix-tuning/prefix-or-lora-first-layer")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-mlp-moves")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-prefix-moves-more")
def test_lora_that_touches_keys_refutes_what_is_said_of_the_others(
    learned: Learned, tokens: torch.Tensor
) -> None:
    _, runs, measured = learned
    inside = budget_results.look_inside(measured, runs.get, tokens)
    assert budget_results.first_layer_still(measured, inside).verdict == "holds"
    on_attention = measured.way("LoRA", "attention", 1)
    assert float(inside[on_attention.label][0].moved[0].max()) > 1e-9
    wrong = {**inside, measured.published_lora.label: inside[on_attention.label]}
    assert budget_results.first_layer_still(measured, wrong).verdict == "fails"

    mlp = measured.published_lora.label
    one = inside[mlp][0]
    shared = "prefix, shared, length 12"
    half = {shared: [dataclasses.replace(one, moved=torch.full_like(one.moved, 0.5))]}
    verdicts = []
    for moved in (0.0, 0.2, 0.6):
        other = dataclasses.replace(one, moved=torch.full_like(one.moved, moved))
        wrong = {**inside, **half, mlp: [other]}
        for claim in (budget_results.mlp_moves_attention, budget_results.prefix_moves_more):
            verdicts.append(claim(measured, wrong).value > claim(measured, wrong).details["limit"])
    assert verdicts == [False, True, True, True, True, False]


def test_real_runs_go_through_all_claims(learned: Learned, tokens: torch.Tensor) -> None:
    _, runs, measured = learned
    inside = budget_results.look_inside(measured, runs.get, tokens)
    shown: list[Claim] = [
        claim(measured)
        for claim in (
            budget_results.prefix_accuracy,
            budget_results.lora_accuracy,
            budget_results.ceiling_accuracy,
            budget_results.attention_below_prefix,
            budget_results.ceiling_below_lora,
        )
    ]
    shown.append(budget_results.mlp_moves_attention(measured, inside))
    assert len({claim.id for claim in shown}) == len(shown)


def test_the_movement_above_the_first_layer_leaves_the_first_out(learned: Learned) -> None:
    model = budget_results.rebuilt(learned[2].ceiling.lowest()[0], learned[1].get)[0]
    deep = Inside(model, model, None, torch.tensor([[0.9, 0.9], [0.1, 0.3], [0.2, 0.2]]))
    assert deep.above_first() == pytest.approx(20.0)
    assert dataclasses.replace(deep, moved=deep.moved[:1]).above_first() == pytest.approx(90.0)


def test_the_models_are_those_of_the_chapter_on_combining() -> None:
    here = Source("prefix_tuning/prefix_or_lora").defaults
    there = Source("prefix_tuning/combining").defaults
    for name in ("seeds", "n_layer", "width", "precision", "pretrain_steps", "test_sequences"):
        assert here[name] == there[name], name


def test_ways_know_their_size_and_where_their_best_rate_lies(learned: Learned) -> None:
    measured = learned[2]
    assert measured.budget == 12 * 2 * 12
    assert {one.label for one in measured.at_budget("prefix")} == {
        "prefix, shared, length 12",
        "prefix, free, length 6",
    }
    assert measured.at_budget("LoRA") == [measured.published_lora]
    assert measured.ceiling.parameters > 10 * measured.budget
    assert measured.way("LoRA", "attention", 1).brackets() == "only"
    cells = [(0.01, 2.0, 1.3), (0.03, 1.0, 1.1), (0.1, 0.0, 1.2)]
    inside = way("LoRA", "MLP", 1, 100, cells)
    assert inside.brackets() == "inside"
    assert way("LoRA", "MLP", 1, 100, cells[:2]).brackets() == "highest"
    assert way("LoRA", "MLP", 1, 100, cells[1:]).brackets() == "lowest"
    assert inside.best_accuracy() == [2.0, 2.0]
    assert inside.lowest_loss() == [1.1, 1.1]


def test_a_comparison_that_the_plan_lacks_is_named(learned: Learned) -> None:
    with pytest.raises(ValueError, match="no LoRA of MLP with size 7"):
        learned[2].way("LoRA", "MLP", 7)
    fewer = dataclasses.replace(learned[2], budget=1)
    with pytest.raises(
        ValueError, match=r"no prefix has 4 parameters, .* shared prefix of length 48"
    ):
        fewer.at_budget("prefix", times=4)


def test_work_is_that_of_the_matrix_products() -> None:
    """One layer, fewer sequences than symbols: every product can be counted by hand."""
    plan = lora_budget.plan(
        **{**TINY, "n_layer": 1, "lengths": {"shared": [3]}, "ranks": {"MLP": [2]}}
    )
    few = {"batch_size": 5}
    tuned, ours, theirs = (
        dataclasses.replace(run, config={**run.config, **few})
        for run in (
            plan.finetuned[0][0],
            plan.prefixes["shared", 3][0][0],
            plan.lora["MLP", 2][0][0],
        )
    )
    b, t, w, d, v = 5, 19, 10, 12, 11

    def products(p: int = 0) -> int:
        linear = w * d * d + 2 * t * d * d + w * d * d + 8 * w * d * d + w * d * v
        return 2 * (b * (linear + 2 * w * (t + p) * d) + 2 * p * d * d)

    forwards = products()
    # Fine-tuning: as much again for the weights and for what they read.
    assert step_work(tuned) == 3 * forwards
    # A prefix and LoRA save the gradients of the weights.
    assert forwards < step_work(theirs) < step_work(tuned)
    assert products(3) < step_work(ours) < step_work(tuned)
    longer = dataclasses.replace(ours, config={**ours.config, "length": 6})
    assert step_work(longer) > step_work(ours)


def test_figures_say_what_they_show(learned: Learned, tokens: torch.Tensor) -> None:
    _, runs, measured = learned
    inside = budget_results.look_inside(measured, runs.get, tokens)
    work = {one.label: step_work(one.seeds[0][0].run) for one in measured.ways}
    drawn = {
        "published budget of 288": budget_figures.against_parameters(measured, BLIND, 1.43),
        "learning rate": budget_figures.sweeps(measured),
        "after 16 steps": budget_figures.over_steps(measured, measured.ways, work, BLIND, 1.43),
        "Movement of relative attention": budget_figures.movement_by_layer(measured, inside),
        "92.38 % published": budget_figures.beside_published(measured),
    }
    for words, (figure, alt) in drawn.items():
        assert words in alt
        figure.canvas.draw()
        plt.close(figure)


def test_without_checkpoints_the_curves_are_drawn_alone(learned: Learned) -> None:
    measured = learned[2]
    work = {one.label: step_work(one.seeds[0][0].run) for one in measured.ways}
    panels = []
    for unwatched in (False, True):
        ways = [
            dataclasses.replace(
                one,
                seeds=[
                    [
                        dataclasses.replace(
                            cell,
                            metrics={
                                name: value
                                for name, value in cell.metrics.items()
                                if not (unwatched and name == "checkpoints")
                            },
                        )
                        for cell in cells
                    ]
                    for cells in one.seeds
                ],
            )
            for one in measured.ways
        ]
        figure, alt = budget_figures.over_steps(measured, ways, work, BLIND, 1.43)
        assert ("accuracy on test sequences against steps" in alt) is not unwatched
        assert alt.startswith("2 panels" if unwatched else "3 panels")
        panels.append(len(figure.axes))
        assert figure.axes[0].get_xlabel() == "training step"
        figure.canvas.draw()
        plt.close(figure)
    assert panels == [3, 2]


def test_the_best_of_several_ways_is_chosen_on_the_validation_split() -> None:
    def chosen(accuracy: float, on_validation: float, loss: float, there: float) -> Way:
        one = way("prefix", "shared", 12, 240, [(0.1, accuracy, loss)])
        (cell,) = one.seeds[0]
        validation = {"accuracy": on_validation, "loss": there}
        metrics = {**cell.metrics, "validation": validation}
        return dataclasses.replace(one, seeds=[[dataclasses.replace(cell, metrics=metrics)]])

    ways = [chosen(90.0, 0.1, 0.1, 2.0), chosen(5.0, 0.2, 1.0, 1.5)]
    assert budget_results._least_of(ways) == [1.0]

"""Experiment B5: yardsticks, probes, real runs, and claims that fail when something is wrong."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from promptlib import claims
from promptlib.prefix_tuning import (
    combine,
    combine_easy,
    combine_evidence,
    combine_figures,
    combine_inside,
    combine_probe,
    combine_reading,
    combine_results,
    experiment_runs,
)
from promptlib.prefix_tuning.combine import CombinePlan
from promptlib.prefix_tuning.combine_evidence import Evidence
from promptlib.prefix_tuning.combine_probe import Probed
from promptlib.prefix_tuning.combine_results import NAMES, Measured
from promptlib.prefix_tuning.experiment_results import Cell
from promptlib.prefix_tuning.experiment_runs import MIXED
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.tasks import (
    REVERSE,
    RUNNING_MAXIMUM,
    SORT_ASCENDING,
    Task,
    read_and_answer,
    sample_digits,
    task_named,
)
from promptlib.runs import Run
from tests.trained_in_memory import TrainedInMemory

SMALL: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "n_layer": 2,
    "width": 8,
    "precision": "float32",
    "pretrain_steps": 10,
    "known_steps": 10,
    "new_steps": 11,
    "learning_rates": [0.1, 0.3],
    "lengths": [1, 10],
    "depths": [1, 2],
    "test_sequences": 30,
    "weight_rates": [0.001],
    "control_seeds": 1,
}


def digits(n: int, seed: int = 0) -> Tensor:
    return sample_digits(n, "train", torch.Generator().manual_seed(seed))


# Yardsticks.


def test_a_table_knows_what_place_and_token_decide() -> None:
    constant = Task("places", lambda x: torch.arange(10).expand_as(x), 10)
    table = combine_easy.without_attention(constant, 500, torch.Generator().manual_seed(0))
    assert table.right(constant, digits(50, 1)).all()
    assert table.loss(constant, digits(50, 1)) < 0.1
    probabilities = table.log_probabilities.exp().sum(dim=-1)
    assert torch.allclose(probabilities, torch.ones_like(probabilities))


def test_a_table_stands_on_the_last_digit_and_then_on_the_answer_before() -> None:
    table = combine_easy.without_attention(REVERSE, 4000, torch.Generator().manual_seed(0))
    right = table.right(REVERSE, digits(500, 1)).double().mean(dim=0)
    assert right[0] == 1.0  # the first answer is the last digit
    assert right[1:].max() < 0.3
    standing, targets = combine_easy.standing_and_targets(RUNNING_MAXIMUM, digits(20))
    assert torch.equal(standing[:, 0], digits(20)[:, -1])
    assert torch.equal(standing[:, 1:], targets[:, :-1])


def test_independent_digits_leave_a_table_with_their_whole_entropy() -> None:
    task = task_named("add_three")
    assert isinstance(task, Task)
    table = combine_easy.without_attention(task, 30_000, torch.Generator().manual_seed(0))
    assert table.loss(task, digits(2000, 1)) == pytest.approx(math.log(8), abs=0.01)


def test_coincidence_counts_sequences_and_symbols() -> None:
    inputs = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 7, 7], [1, 0, 2, 3, 4, 5, 6, 7, 7, 7]])
    found = combine_easy.coincidence(SORT_ASCENDING, RUNNING_MAXIMUM, inputs)
    assert found == combine_easy.Coincidence(sequences=0.5, symbols=0.95)
    near, most = combine_easy.nearest(RUNNING_MAXIMUM, [REVERSE, SORT_ASCENDING], inputs)
    assert (near, most) == (SORT_ASCENDING, found)
    with pytest.raises(ValueError, match="expected digits 0 to 7"):
        combine_easy.coincidence(SORT_ASCENDING, REVERSE, inputs + 1)


def test_no_chain_makes_a_task_of_the_second_list() -> None:
    """A chain is x + c, or a sort and then + c; the inputs of the exercise refuse both."""
    inputs = torch.zeros(4, 10, dtype=torch.int64)
    inputs[0, -1], inputs[1, 0], inputs[2, 1] = 7, 1, 1
    ones = torch.ones(1, 10, dtype=torch.int64)
    for name in combine.INVENTIONS:
        task = combine_evidence.simple(name)
        answers = task.solve(inputs)
        shifts = {tuple((answers[row] - inputs[row]).tolist()) for row in range(3)}
        assert all(len(set(shift)) > 1 for shift in shifts if max(shift) != min(shift))
        assert not (answers[:2] - inputs[:2] == (answers[0] - inputs[0])[0]).all()
        same_when_reordered = torch.equal(answers[1], answers[2])
        same_for_all_digits = torch.equal(answers[3:], task.solve(ones))
        assert not same_when_reordered or same_for_all_digits


# Probes.


def test_the_last_stream_is_what_the_head_reads() -> None:
    model = GPT(GPTConfig(3, 2, 14, 11, 19), torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.norm.bias)
    tokens = torch.randint(8, (5, 19), generator=torch.Generator().manual_seed(1))
    streams = combine_probe.residual_streams(model, tokens)
    assert streams.shape == (4, 5, 10, 14)
    logits = model.head(model.norm.weight * streams[-1] + model.norm.bias)
    assert torch.allclose(logits, model(tokens, last=10), atol=1e-5)
    embedded = (model.token(tokens) + model.position.weight)[:, -10:]
    embedded = torch.nn.functional.layer_norm(embedded, (14,))
    assert torch.allclose(streams[0], embedded, atol=1e-5)


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randint(5, (600, 10), generator=generator)
    features = torch.nn.functional.one_hot(wanted, 5).float()
    features = features + 0.1 * torch.randn(features.shape, generator=generator)
    there = combine_probe.answer_probe(
        (features[:400], wanted[:400]), (features[400:], wanted[400:])
    )
    assert there.accuracy > 0.99
    noise = torch.randn(features.shape, generator=generator)
    absent = combine_probe.answer_probe((noise[:400], wanted[:400]), (noise[400:], wanted[400:]))
    assert absent.accuracy < 0.3
    assert absent.loss > 1.5 > 0.5 > there.loss
    with pytest.raises(ValueError, match=r"features \(4, 3\) and symbols \(5,\)"):
        combine_probe.answer_probe((torch.ones(4, 3), torch.ones(5)), (noise, wanted))


def test_digits_are_read_where_they_are() -> None:
    """Before any block an output knows the token it stands on: first the last digit."""
    model = GPT(GPTConfig(1, 2, 24, 11, 19), torch.Generator().manual_seed(0))
    train, test = digits(800), digits(300, 1)
    known = combine_probe.known_digits(
        model, (train, REVERSE.solve(train)), (test, REVERSE.solve(test)), 0
    )
    assert known.shape == (10, 10)
    for output in range(1, 10):  # reversed answers: output i stands on digit 11 - i of the input
        assert known[output].argmax() == 10 - output
        assert known[output, 10 - output] > 0.99
        others = torch.arange(10) != 10 - output
        assert known[output][others].max() < 0.4


def test_rank_correlation_is_spearmans() -> None:
    first, second = [0.3, 0.1, 0.1, 0.9, -1.0], [5.0, 2.0, 3.0, 3.0, 1.0]
    ours = combine_probe.rank_correlation(first, second)
    assert ours == pytest.approx(float(spearmanr(first, second).statistic), abs=1e-12)
    assert combine_probe.rank_correlation(first, first) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 3, got 2 and 2"):
        combine_probe.rank_correlation([1, 2], [1, 2])
    with pytest.raises(ValueError, match="equal numbers"):
        combine_probe.rank_correlation([1, 1, 1], [1, 2, 3])


# The real chain, as small as it goes.


@pytest.fixture(scope="module")
def real() -> tuple[CombinePlan, TrainedInMemory, Measured, Evidence]:
    torch.set_num_threads(1)
    plan, runs = combine.plan(**SMALL), TrainedInMemory()
    measured = combine_results.collect(plan, runs.get)
    return plan, runs, measured, combine_evidence.look(plan, measured, runs.get, 30)


def all_claims(measured: Measured, evidence: Evidence) -> list[claims.Claim]:
    return [
        *[combine_results.known_task(measured, task) for task in MIXED],
        combine_results.pretrained_composition(measured),
        combine_results.published_composition(measured),
        combine_results.published_invention(measured),
        combine_reading.add_three(measured, evidence),
        combine_results.running_maximum(measured),
        combine_results.lists_overlap(measured),
        combine_results.moving_fails(measured),
        combine_results.finetuning_moves(measured),
        combine_results.length_does_not_count(measured),
        combine_reading.probe_predicts(measured, evidence),
        combine_reading.own_digit(evidence),
        combine_reading.moves_and_fails(evidence),
        combine_reading.fine_tuning_re_aims(evidence),
    ]


def test_real_runs_go_through_to_claims_and_figures(
    real: tuple[CombinePlan, TrainedInMemory, Measured, Evidence],
) -> None:
    _, runs, measured, evidence = real
    stated = all_claims(measured, evidence)
    assert len({claim.id for claim in stated}) == len(stated)
    assert {claim.details["seeds"] for claim in stated} == {1, 2}
    for gains in (
        combine_reading.probe_gains(evidence),
        combine_reading.prefix_gains(measured, evidence),
    ):
        assert all(value < 1 for seeds in gains.values() for value in seeds)
    model, prefix = combine_evidence.adapted(measured.prefixes["reverse"][1], runs.get)
    inputs = digits(6)
    drawn = [
        combine_figures.all_tasks(measured),
        combine_figures.learning_curves(measured, evidence.standing_loss),
        combine_figures.lengths_and_depths(measured),
        combine_inside.known_maps(evidence),
        combine_inside.probes_and_prefixes(measured, evidence),
        combine_inside.right_by_place(evidence),
        combine_inside.attention_by_place({"with": (model, prefix, inputs, REVERSE.solve(inputs))}),
    ]
    assert all(len(alt) >= 40 for _, alt in drawn)
    assert all(name in drawn[0][1] for name in NAMES.values())


def test_evidence_is_of_the_models_that_ran(
    real: tuple[CombinePlan, TrainedInMemory, Measured, Evidence],
) -> None:
    plan, runs, measured, evidence = real
    cell = measured.prefixes["rotate"][1]
    assert combine_evidence.base_of(cell, runs.get).config.n_layer == 2
    moved = evidence.moved["prefix"]["rotate"]
    assert moved.shape == (2, 2)
    assert moved[:, 0].max() < 1e-6  # the first layer of a given content
    assert moved[:, 1].min() > 0
    tuned = evidence.moved["fine-tuned"]["rotate"]
    assert tuned.shape == (1, 2)
    assert tuned.min() > 0
    assert evidence.right["prefix"]["rotate"].shape == (2, 10)
    assert [len(seeds) for seeds in evidence.probes.values()] == [2] * 8
    assert len(evidence.probes["rotate"][0]) == 2
    with pytest.raises(ValueError, match="at least 20 sequences for the probes, got 5"):
        combine_evidence.look(plan, measured, runs.get, 5)


def test_agreements_compare_with_everything() -> None:
    inputs = digits(40)
    found = combine_evidence.agreements(SORT_ASCENDING.solve(inputs), REVERSE, inputs)
    assert found["sort_ascending"] == 1.0
    assert set(found) == {"right", "input", *MIXED}
    assert found["right"] < 0.5


# Claims that turn when something is wrong.

RUN = Run("somewhere:tune", {"seed": 0, "steps": 10})


def cells(task: str, *shares: float, loss: float = 1.0) -> list[Cell]:
    return [
        Cell(
            RUN,
            0,
            {
                "accuracy": {task: share},
                "loss": {task: loss},
                "validation": {"accuracy": share, "loss": loss},
                "curve": [2.0, loss],
            },
        )
        for share in shares
    ]


def measured_as(prefixes: Mapping[str, Sequence[float]], **tuned: Sequence[float]) -> Measured:
    """What the chapter says, unless told otherwise."""
    shares: dict[str, Sequence[float]] = {
        **dict.fromkeys(MIXED, (0.997, 0.99)),
        "ascending_add_one": (0.7, 0.6),
        "descending_add_one": (0.1, 0.2),
        "add_three": (1.0, 0.99),
        "double_histogram": (0.006, 0.01),
        "ascending_histogram": (0.0, 0.0),
        "reverse": (0.0, 0.001),
        "rotate": (0.0, 0.0),
        "running_maximum": (0.9, 0.95),
        **prefixes,
    }
    counting = {"double_histogram": cells("double_histogram", *shares["double_histogram"])}
    composing = {"ascending_add_one": cells("ascending_add_one", 0.1, 0.1)}
    return Measured(
        pretrained=[{"accuracy": {"ascending_add_one": 0.0}}] * 2,
        prefixes={task: cells(task, *values) for task, values in shares.items()},
        finetuned={task: cells(task, *tuned.get(task, (0.99, 0.98))) for task in combine.NEW},
        lengths={1: {**counting, **composing}, 10: {**counting, **composing}},
        depths={},
    )


@pytest.mark.claim("prefix-tuning/combining-known-sort-ascending")
@pytest.mark.claim("prefix-tuning/combining-known-sort-descending")
@pytest.mark.claim("prefix-tuning/combining-known-add-one")
@pytest.mark.claim("prefix-tuning/combining-known-add-two")
@pytest.mark.parametrize("task", MIXED)
def test_prefixes_that_elicit_nothing_refute_that_they_choose(task: str) -> None:
    assert combine_results.known_task(measured_as({}), task).verdict == "reproduced"
    wrong = measured_as({task: (0.3, 0.2)})
    assert combine_results.known_task(wrong, task).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-pretrained-composition")
def test_a_model_that_composes_by_itself_refutes_that_the_task_is_new() -> None:
    claim = combine_results.pretrained_composition
    assert claim(measured_as({})).verdict == "reproduced"
    able = dataclasses.replace(
        measured_as({}), pretrained=[{"accuracy": {"ascending_add_one": 0.2}}]
    )
    assert claim(able).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-ascending-add-one")
@pytest.mark.claim("prefix-tuning/combining-running-maximum")
@pytest.mark.parametrize(
    ("claim", "task", "failing"),
    [
        (combine_results.published_composition, "ascending_add_one", 0.001),
        (combine_results.running_maximum, "running_maximum", 0.4),
    ],
)
def test_prefixes_that_do_not_learn_refute_what_they_reach(
    claim: Any, task: str, failing: float
) -> None:
    assert claim(measured_as({})).verdict == "reproduced"
    assert claim(measured_as({task: (failing, failing)})).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-double-histogram")
@pytest.mark.claim("prefix-tuning/combining-moving-fails")
@pytest.mark.claim("prefix-tuning/combining-length")
def test_prefixes_that_learn_everything_refute_what_they_cannot() -> None:
    able = measured_as({"double_histogram": (0.9, 0.8), "reverse": (0.0, 0.7)})
    for claim in (
        combine_results.published_invention,
        combine_results.moving_fails,
        combine_results.length_does_not_count,
    ):
        assert claim(measured_as({})).verdict == "reproduced"
        assert claim(able).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-lists-overlap")
def test_lists_that_separate_refute_that_they_overlap() -> None:
    claim = combine_results.lists_overlap
    assert claim(measured_as({})).verdict == "reproduced"
    assert claim(measured_as({"running_maximum": (0.0, 0.1)})).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-fine-tuning-moves")
def test_fine_tuning_that_fails_too_refutes_the_control() -> None:
    claim = combine_results.finetuning_moves
    assert claim(measured_as({})).verdict == "reproduced"
    assert claim(measured_as({}, rotate=(0.2, 0.1))).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-probe-predicts")
@pytest.mark.claim("prefix-tuning/combining-own-digit")
@pytest.mark.claim("prefix-tuning/combining-moves-and-fails")
def test_other_insides_refute_what_is_carried(
    real: tuple[CombinePlan, TrainedInMemory, Measured, Evidence],
) -> None:
    evidence = copy.copy(real[3])
    losses = {task: 0.1 + 0.1 * place for place, task in enumerate(combine.NEW)}
    measured = dataclasses.replace(
        real[2], prefixes={task: cells(task, 0.0, 0.0, loss=losses[task]) for task in combine.NEW}
    )

    def probing(order: Sequence[str]) -> Evidence:
        probes = {
            task: [[Probed(9.0, 0.0), Probed(0.1 + 0.1 * place, 0.5)]] * 2
            for place, task in enumerate(order)
        }
        return dataclasses.replace(
            evidence, probes=probes, standing_loss=dict.fromkeys(combine.NEW, 1.0)
        )

    predicts = combine_reading.probe_predicts
    assert predicts(measured, probing(combine.NEW)).value == pytest.approx(1.0)
    backwards = predicts(measured, probing(combine.NEW[::-1]))
    assert backwards.value == pytest.approx(-1.0)
    assert backwards.verdict == "not reproduced"

    aligned = torch.where(torch.eye(10, dtype=torch.bool), 1.0, 0.2).expand(3, 10, 10)
    carried = dataclasses.replace(evidence, known=[aligned, aligned])
    assert combine_reading.own_digit(carried).verdict == "reproduced"
    everywhere = dataclasses.replace(evidence, known=[torch.ones(3, 10, 10)] * 2)
    assert combine_reading.own_digit(everywhere).verdict == "not reproduced"

    def moving(far: float) -> Evidence:
        rows = {task: torch.tensor([[0.0, far]] * 2) for task in combine.NEW}
        return dataclasses.replace(evidence, moved={"prefix": rows})

    assert combine_reading.moves_and_fails(moving(0.3)).verdict == "reproduced"
    assert combine_reading.moves_and_fails(moving(0.01)).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-add-three")
def test_a_prefix_no_better_than_a_table_refutes_that_it_adds_three(
    real: tuple[CombinePlan, TrainedInMemory, Measured, Evidence],
) -> None:
    evidence = dataclasses.replace(real[3], standing_loss=dict.fromkeys(combine.NEW, 2.0))

    def losing(loss: float) -> Measured:
        prefixes = {task: cells(task, 0.0, 0.0, loss=loss) for task in combine.NEW}
        return dataclasses.replace(real[2], prefixes=prefixes)

    assert combine_reading.add_three(losing(0.1), evidence).verdict == "reproduced"
    assert combine_reading.add_three(losing(1.9), evidence).verdict == "not reproduced"


@pytest.mark.claim("prefix-tuning/combining-fine-tuning-re-aims")
def test_fine_tuning_that_leaves_the_first_layer_refutes_that_it_re_aims(
    real: tuple[CombinePlan, TrainedInMemory, Measured, Evidence],
) -> None:
    def moving(first: float) -> Evidence:
        rows = {
            task: torch.tensor([[first if task in combine_results.MOVING else 0.3, 0.5]])
            for task in combine.NEW
        }
        return dataclasses.replace(real[3], moved={"fine-tuned": rows})

    claim = combine_reading.fine_tuning_re_aims
    assert claim(moving(0.6)).verdict == "reproduced"
    assert claim(moving(0.1)).verdict == "not reproduced"


def test_controls_have_the_steps_of_the_prefixes(
    real: tuple[CombinePlan, TrainedInMemory, Measured, Evidence],
) -> None:
    plan = real[0]
    for task in combine.NEW:
        learning = [run for seeds in (plan.prefixes, plan.finetuned) for run in seeds[task][0]]
        assert {run.config["steps"] for run in learning} == {SMALL["new_steps"]}
        assert {run.config["batch_size"] for run in learning} == {experiment_runs.SMALL_BATCH_SIZE}
        assert {run.needs for run in learning} == {(plan.pretrained[2][0],)}
    tokens = read_and_answer(digits(2), REVERSE.solve(digits(2)))
    assert tokens.shape == (2, 19)

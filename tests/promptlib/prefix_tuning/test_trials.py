"""One table of trials: reading a plan, asking for labels, choosing on the validation split."""

from __future__ import annotations

import pytest
import torch

from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.trials import Plan, labelled, rates_chosen, read, rebuild
from promptlib.runs import Result
from tests.trained_in_memory import TrainedInMemory

MODEL = planning.model_of(n_layer=1, n_head=1, n_embd=8)
SIZES = {"steps": 10, "evaluate": ("add_one",), "test_sequences": 4}


def base(seed):
    return planning.pretrain(MODEL, "add_one", seed=seed, learning_rate=1e-3, **SIZES)


def prefixes(run, task="add_one"):
    sweep = planning.cells([0.1, 1.0], [1.0])
    return planning.tune_prefixes(
        run, task, steps=10, length=2, parametrisation="free", sweep=sweep, evaluate=[task]
    )


BASES = [base(seed) for seed in (0, 1)]
PLAN = (
    labelled(BASES, method="pretrained")
    + labelled([prefixes(run) for run in BASES], method="prefix", length=2)
    + labelled(planning.fine_tune(BASES[0], "add_one", steps=10, learning_rate=0.1), method="all")
)


def metrics(accuracy, loss, seed=0):
    of = {"accuracy": accuracy, "loss": loss}
    return {"accuracy": {"add_one": 0.5 + seed}, "loss": {"add_one": loss}, "validation": of}


def get(run):
    """Cells whose validation and test disagree about the best."""
    if run.train.endswith("tune_prefixes"):
        cells = [
            {**metrics(0.5, 2.0), "learning_rate": 0.1, "init_std": 1.0},
            {**metrics(0.5, 1.0), "learning_rate": 1.0, "init_std": 1.0},
        ]
        cells[0]["accuracy"] = {"add_one": 0.9}
        return Result({"cells": cells})
    return Result({"accuracy": {"add_one": 0.25}, "loss": {"add_one": 3.0}})


def test_a_plan_yields_each_run_once_in_order():
    twice = PLAN + labelled(BASES[0], method="again")
    assert list(twice) == [*BASES, *PLAN.where(method="prefix").runs, PLAN.entries[-1][0]]
    assert twice.where(method="again").runs == (BASES[0],)


def test_each_cell_of_a_sweep_is_a_trial_with_the_labels_of_its_run():
    trials = read(PLAN, get)
    assert len(trials) == 2 + 4 + 1
    swept = trials.where(method="prefix")
    assert [(row.seed, row.cell, row["length"]) for row in swept] == [
        (0, 0, 2),
        (0, 1, 2),
        (1, 0, 2),
        (1, 1, 2),
    ]
    assert [row.learning_rate for row in swept[:2]] == [0.1, 1.0]
    assert swept[0].init_std == 1.0
    assert swept[0].task == "add_one"


def test_where_takes_values_collections_and_functions_and_leaves_out_what_has_no_such_label():
    trials = read(PLAN, get)
    assert len(trials.where(method={"prefix", "all"})) == 5
    assert len(trials.where(length=lambda n: n > 1)) == 4
    assert len(trials.where(length=3)) == 0
    assert {row.seed for row in trials.where(seed=1)} == {1}
    assert list(trials.by("method")) == ["pretrained", "prefix", "all"]
    assert [len(rows) for rows in trials.by("seed").values()] == [4, 3]


def test_the_best_of_each_seed_is_chosen_on_the_validation_split():
    best = read(PLAN, get).where(method="prefix").best()
    assert [row.cell for row in best] == [1, 1]  # equal accuracy there, lower loss
    assert best.percent() == [50.0, 50.0]  # though another has 90 % of the test sequences
    assert best.losses("add_one") == [1.0, 1.0]
    assert [row.cell for row in read(PLAN, get).where(method="prefix").best(by="loss")] == [1, 1]


def test_what_has_no_best_is_refused():
    trials = read(PLAN, get)
    with pytest.raises(ValueError, match="nothing was measured on the validation split"):
        trials.where(method="pretrained").best()
    with pytest.raises(ValueError, match="there is no trial to choose from"):
        trials.where(method="nothing").best()
    with pytest.raises(ValueError, match="by must be 'accuracy' or 'loss', got 'speed'"):
        trials.best(by="speed")
    other = labelled(prefixes(BASES[0], "add_two"), method="prefix")
    with pytest.raises(ValueError, match="several tasks have no best one: add_one, add_two"):
        read(PLAN.where(method="prefix") + other, get).best()


def test_the_ends_of_a_sweep_are_told():
    best = read(PLAN, get).where(method="prefix").best()
    assert rates_chosen(best, [0.1, 1.0, 10.0]) == "0.1: 0, 1: 2, 10: 0"
    told = rates_chosen(best, [0.1, 1.0])
    assert told == "0.1: 0, 1: 2 (the sweep ends at 1: beyond may be better)"


def test_models_are_rebuilt_as_they_were_trained():
    runs = TrainedInMemory()
    plan = Plan(PLAN.entries[:3])
    pretrained, _, first, second = read(plan, runs.get)
    model, prefix = rebuild(pretrained, runs.get)
    assert prefix is None
    stored = runs.get(BASES[0]).tensors
    assert torch.equal(model.head.weight, stored["head.weight"])
    for trial, index in ((first, 0), (second, 1)):
        _, prefix = rebuild(trial, runs.get)
        assert torch.equal(prefix.vectors, runs.get(trial.run).tensors[f"{index}.vectors"])

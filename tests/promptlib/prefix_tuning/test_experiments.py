"""Experiments B4 to B6: plans share what they can, and runs do what their configs say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from notebooks.prefix_tuning.combining import plan as combining
from notebooks.prefix_tuning.eliciting import plan as eliciting
from notebooks.prefix_tuning.prefix_or_lora import plan as prefix_or_lora
from promptlib.prefix_tuning import adapting, planning
from promptlib.prefix_tuning.evaluation import sequence_accuracy
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import task_named
from promptlib.runs import Result, Run
from tests.trained_in_memory import silent

ELICIT: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "width": 20,
    "precision": "float32",
    "gelu": "tanh",
    "optimiser": "adamw",
    "pretrain_steps": 10,
    "prefix_steps": 11,
    "learning_rates": [0.01, 0.03],
    "init_stds": [0.1, 1.0, 3.0],
    "test_sequences": 30,
}
COMBINE: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "n_layer": 3,
    "width": 20,
    "precision": "float32",
    "gelu": "tanh",
    "pretrain_steps": 10,
    "known_steps": 11,
    "new_steps": 13,
    "learning_rates": [0.01, 0.03],
    "test_sequences": 30,
    "weight_rates": [0.001],
}
BUDGET: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "n_layer": 3,
    "width": 20,
    "precision": "float32",
    "gelu": "tanh",
    "pretrain_steps": 10,
    "adapt_steps": 12,
    "lengths": {"shared": [12], "free": [6, 3]},
    "ranks": {"MLP": [1, 2], "MLP and projection": [1]},
    "prefix_rates": [0.01, 0.03],
    "init_stds": [0.1, 1.0],
    "lora_rates": [0.01],
    "weight_rates": [0.001, 0.003],
    "test_sequences": 30,
    "checkpoints": 1,
}
PLANS: list[tuple[Any, dict[str, Any]]] = [
    (eliciting, ELICIT),
    (combining, COMBINE),
    (prefix_or_lora, BUDGET),
]


def train(run: Run, *needs: Result) -> Result:
    return getattr(adapting, run.train.partition(":")[2])(run.config, needs, silent)


def base(**changes: Any) -> Run:
    settings: dict[str, Any] = {
        "seed": 3,
        "steps": 10,
        "learning_rate": 3e-3,
        "evaluate": ["add_one", "reverse"],
        "test_sequences": 70,
        **changes,
    }
    return planning.pretrain(planning.model_of(2, 2, 14), "mixture", **settings)


@pytest.mark.parametrize(("module", "parameters"), PLANS)
def test_every_run_is_planned_once_and_after_what_it_needs(
    module: Any, parameters: dict[str, Any]
) -> None:
    runs = list(module.plan(**parameters))
    keys = [run.key for run in runs]
    assert len(set(keys)) == len(keys)
    for place, run in enumerate(runs):
        assert all(needed.key in keys[:place] for needed in run.needs)
        assert {0, 1} >= {run.config["seed"]}
        assert all(needed.config["seed"] == run.config["seed"] for needed in run.needs)


def test_the_plans_hold_what_the_chapters_compare() -> None:
    elicited = eliciting.plan(**ELICIT)
    assert len(elicited.runs) == 2 * 2 + 3 * 4 * 2
    published = elicited.where(norm="without").runs[0].config["model"]
    assert published["first_layer_norm"] is False
    for free in elicited.where(arm="with LayerNorm, free"):
        assert len(free.config["cells"]) == 2  # further scales in the published arm only
        assert free.config["separate_values"] is True

    combined = combining.plan(**COMBINE)
    published = combined.where(method="published prefix")
    ours = combined.where(method="free prefix")
    tuned = combined.where(method="fine-tuned")
    for arm, tasks in (
        (published, combining.PUBLISHED),
        (ours, (*combining.COMPOSITIONS, *combining.INVENTIONS)),
        (tuned, combining.CONTROLLED),
    ):
        assert {labels["task"] for _, labels in arm.entries} == set(tasks)
        for task in tasks:
            assert {run.config["seed"] for run in arm.where(task=task)} == {0, 1}
    assert {run.config["steps"] for run in published.where(task="add_one")} == {11}
    assert {run.config["steps"] for run in ours.where(task="reverse")} == {13}
    # As published: one vector for key and value, through the LayerNorm.
    assert all(run.config["layer_norm"] for run in published.where(task="add_one"))
    assert not any(run.config["layer_norm"] for run in ours.where(task="reverse"))

    budget = prefix_or_lora.plan(**BUDGET)
    pretrained = {"method": "pretrained"}
    assert budget.where(**pretrained).runs == combined.where(**pretrained).runs
    adapted = [run for run in budget if run.needs]
    assert {run.config["steps"] for run in adapted} == {12}
    assert len(adapted) == 2 * (3 + 3 * 1 + 2)  # a prefix run holds its whole sweep


def test_the_published_budgets_are_equal() -> None:
    assert prefix_or_lora.prefix_parameters("shared", 12, 4, 256) == 12_288
    assert prefix_or_lora.prefix_parameters("free", 6, 4, 256) == 12_288
    assert prefix_or_lora.lora_parameters("MLP and projection", 1, 4, 256) == 12_288
    assert prefix_or_lora.lora_parameters("MLP", 1, 4, 256) == 10_240


@pytest.mark.parametrize("modules", prefix_or_lora.MODULES)
def test_counted_parameters_are_those_that_learn(modules: str) -> None:
    model = GPT(GPTConfig(3, 2, 14, 11, 19))
    learned = add_lora(model, 2, prefix_or_lora.MODULES[modules])
    expected = prefix_or_lora.lora_parameters(modules, 2, 3, 14)
    assert sum(parameter.numel() for parameter in learned) == expected
    for name, options in planning.PARAMETRISATIONS.items():
        prefix = Prefix(3, 5, 14, **options)
        expected = prefix_or_lora.prefix_parameters(name, 5, 3, 14)
        assert sum(parameter.numel() for parameter in prefix.parameters()) == expected


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        (eliciting, "seeds", 0, r"seeds must be a whole number of at least 1, got 0"),
        (eliciting, "width", 30, r"width must be a multiple of the 4 heads, got 30"),
        (eliciting, "precision", "half", r"precision must be .*, got 'half'"),
        (eliciting, "optimiser", "sgd", r"optimiser must be .*, got 'sgd'"),
        (eliciting, "gelu", "relu", r"gelu must be .*, got 'relu'"),
        (eliciting, "init_stds", [0.1, -1.0], r"init_stds .* got \[0.1, -1.0\]"),
        (eliciting, "first_seed", -1, r"first_seed must be .* at least 0, got -1"),
        (prefix_or_lora, "checkpoints", -1, r"checkpoints must be .* at least 0, got -1"),
        (combining, "n_layer", 1.5, r"n_layer .* got 1.5"),
        (combining, "learning_rates", [], r"learning_rates must be one or more .* got \[\]"),
        (combining, "first_seed", -1, r"first_seed must be .* at least 0, got -1"),
        (combining, "weight_rates", [0.0], r"weight_rates .* got \[0.0\]"),
        (prefix_or_lora, "adapt_steps", 9, r"adapt_steps .* at least 10, got 9"),
        (prefix_or_lora, "lengths", {"both": [1]}, r"lengths has 'both'; there are shared, free"),
        (prefix_or_lora, "ranks", {"head": [1]}, r"ranks has 'head'; there are MLP and proj"),
        (prefix_or_lora, "ranks", {"MLP": [0]}, r"rank on MLP must be .* got 0"),
        (prefix_or_lora, "lora_rates", [0.0], r"lora_rates .* got \[0.0\]"),
    ],
)
def test_parameters_out_of_range_are_named(
    module: Any, name: str, value: object, message: str
) -> None:
    parameters = dict(PLANS)[module]
    with pytest.raises(ValueError, match=message):
        module.plan(**{**parameters, name: value})


def test_the_plans_need_no_torch() -> None:
    code = (
        "import sys; from notebooks.prefix_tuning.combining import plan as combining;"
        "from notebooks.prefix_tuning.eliciting import plan as eliciting;"
        "from notebooks.prefix_tuning.prefix_or_lora import plan as prefix_or_lora;"
        f"list(eliciting.plan(**{ELICIT!r})); list(combining.plan(**{COMBINE!r}));"
        f"list(prefix_or_lora.plan(**{BUDGET!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lora_learns_its_task_and_comes_back_from_the_store() -> None:
    pretrained = base(steps=40)
    model = train(pretrained)
    run = planning.tune_lora(
        pretrained,
        "add_one",
        steps=40,
        rank=2,
        modules=["mlp.expand", "attention.query"],
        sweep=planning.cells([0.03, 1e-6], [0.1]),
        checkpoints=3,
    )
    result = train(run, model)
    fast, slow = result.metrics["cells"]
    assert fast["parameters"] == slow["parameters"] == 2 * 2 * (5 + 2) * 14
    assert fast["loss"]["add_one"] < slow["loss"]["add_one"] - 0.03
    untrained = model.metrics["loss"]["add_one"]
    assert slow["loss"]["add_one"] == pytest.approx(untrained, abs=1e-3)
    assert fast["checkpoints"]["step"] == [13, 26, 40]
    assert len(fast["checkpoints"]["accuracy"]) == 3
    for cell, measured in enumerate((fast, slow)):
        rebuilt = adapting.load_lora(run.config, model, result, cell)
        again = adapting.measure(rebuilt, run.config)
        assert again == {name: measured[name] for name in again}
    with pytest.raises(ValueError, match="no cell 2; it has 2"):
        adapting.load_lora(run.config, model, result, 2)
    assert not any(name.endswith("base.weight") for name in result.tensors)


def test_prefixes_measured_on_the_way_end_where_they_end() -> None:
    pretrained = base()
    model = train(pretrained)

    def tune(**options: Any) -> Mapping[str, Any]:
        run = planning.tune_prefixes(
            pretrained,
            "add_one",
            steps=12,
            length=3,
            parametrisation="free",
            sweep=planning.cells([0.03], [0.1, 1.0]),
            **options,
        )
        return train(run, model).metrics

    watched, unwatched = tune(checkpoints=2)["cells"], tune()["cells"]
    for one, other in zip(watched, unwatched, strict=True):
        seen = dict(one)
        checkpoints = seen.pop("checkpoints")
        assert seen == other  # looking changes nothing
        assert checkpoints["step"] == [6, 12]
        assert checkpoints["accuracy"][-1] == other["accuracy"]["add_one"]
        assert other["parameters"] == 2 * 2 * 3 * 14


def test_precision_is_that_of_training_only() -> None:
    exact, rounded = train(base()), train(base(precision="bfloat16"))
    assert base().key != base(precision="bfloat16").key
    name = "blocks.1.mlp.expand.weight"
    assert rounded.tensors[name].dtype == torch.float32
    difference = (exact.tensors[name] - rounded.tensors[name]).abs().max()
    assert 0 < difference < 0.05
    model = adapting.load_model(base().config, rounded)
    accuracy = sequence_accuracy(
        model, task_named("reverse"), 70, generator=adapting.generator_for(3, "test")
    )
    assert rounded.metrics["accuracy"]["reverse"] == accuracy

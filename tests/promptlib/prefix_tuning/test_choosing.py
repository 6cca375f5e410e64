"""Settings are chosen on the validation split, and every seed draws its own sequences."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

from notebooks.prefix_tuning.beyond_one_layer import plan as beyond_one_layer
from notebooks.prefix_tuning.cannot_re_aim import plan as cannot_re_aim
from notebooks.prefix_tuning.combining import plan as combining
from notebooks.prefix_tuning.continuous_and_discrete import plan as continuous_and_discrete
from notebooks.prefix_tuning.eliciting import plan as eliciting
from notebooks.prefix_tuning.long_prefixes import plan as long_prefixes
from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.new_task.tables import Tabled, start_table
from notebooks.prefix_tuning.prefix_or_lora import plan as prefix_or_lora
from notebooks.prompt_attention.prompt_or_finetune import plan as prompt_or_finetune
from promptlib.prefix_tuning import adapting, planning, tasks
from promptlib.prefix_tuning.adapting import PURPOSES, STREAMS, generator_for
from promptlib.prefix_tuning.evaluation import greedy_decode, score, sequence_accuracy
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import ADD_ONE, MIXTURE, SORT_ASCENDING
from promptlib.prefix_tuning.trials import labelled, read
from promptlib.runs import Run
from tests.trained_in_memory import TrainedInMemory
from workflow.profile_config import load_profile
from workflow.sources import Source

TASK = "add_one"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(n_layer: int = 2) -> GPT:
    return GPT(GPTConfig(n_layer, 2, 14, 11, 19), seeded(0)).requires_grad_(False)


# One pass for accuracy and loss.


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("n", [5, 1024, 1500])
def test_a_score_is_the_accuracy_and_the_loss_computed_naively(n: int, split: tasks.Split) -> None:
    model = small_model()
    model.head.weight.copy_(model.head.weight * 0)  # always the same answer, right now and then
    model.norm.bias.fill_(1.0)
    model.head.weight[3] = 0.5
    prefix = Prefix(2, 3, 14, 1.0, seeded(1)).requires_grad_(False)
    task = tasks.Task("mostly_three", lambda x: torch.where(x[:, :1] < 4, 3, x + 1), 9)
    accuracy, loss = score(model, task, n, split, prefix, seeded(2))
    inputs, targets = task.sample(n, split, seeded(2))
    decoded = greedy_decode(model, inputs, prefix)
    assert accuracy == float((decoded == targets).all(dim=1).double().mean())
    assert n < 10 or 0 < accuracy < 1
    logits = model(tasks.read_and_answer(inputs, targets), prefix)[:, -10:].double()
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert loss == pytest.approx(float(expected), rel=1e-6)


def test_the_accuracy_is_that_of_the_test_split() -> None:
    model = small_model()
    ours = sequence_accuracy(model, SORT_ASCENDING, 30, None, seeded(3))
    assert ours == score(model, SORT_ASCENDING, 30, "test", None, seeded(3))[0]
    with pytest.raises(ValueError, match=r"split must be one of 'train', .*'test'; got 'dev'"):
        score(model, SORT_ASCENDING, 30, "dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vocab_size=8"):
        score(GPT(GPTConfig(1, 2, 14, 8, 19)), ADD_ONE, 5, "test")


def test_a_table_is_scored_as_a_prefix_is() -> None:
    model = small_model(1)
    silent = cast(GPT, Tabled(model, [start_table(model, -200.0)]))  # takes no attention
    there = score(silent, MIXTURE, 40, "validation", None, seeded(4))
    here = score(model, MIXTURE, 40, "validation", None, seeded(4))
    assert there == pytest.approx(here, rel=1e-6)


# Streams of random numbers.


def test_no_two_seeds_or_purposes_share_a_stream() -> None:
    assert len(PURPOSES) <= STREAMS
    first = {
        (seed, purpose): generator_for(seed, purpose).initial_seed()
        for seed, purpose in itertools.product(range(5), PURPOSES)
    }
    assert len(set(first.values())) == len(first)
    assert generator_for({"seed": 3}, "test").initial_seed() == first[3, "test"]
    with pytest.raises(ValueError, match="no stream is for 'tests'; there are weights, data"):
        generator_for(0, "tests")
    with pytest.raises(ValueError, match="a whole number of at least 0, got -1"):
        generator_for(-1, "test")


def adapted(seed: int) -> dict[str, Run]:
    """Every way to adapt one small model."""
    base = planning.pretrain(
        planning.model_of(1, 2, 14),
        "mixture",
        seed=seed,
        steps=10,
        learning_rate=3e-3,
        evaluate=[TASK],
        test_sequences=40,
    )
    cells = planning.cells([0.03, 0.1], [0.1])
    return {
        "pretrained": base,
        "fine-tuned": planning.fine_tune(base, TASK, steps=10, learning_rate=1e-3),
        "prefixes": planning.tune_prefixes(
            base, TASK, steps=10, length=2, parametrisation="free", sweep=cells
        ),
        "LoRA": planning.tune_lora(
            base, TASK, steps=10, rank=1, modules=["mlp.expand"], sweep=cells
        ),
        "tables": new_task.tune_tables(
            base, TASK, 10, [{"learning_rate": 0.1, "start_logit": 0.0}]
        ),
    }


def test_methods_of_a_seed_share_their_test_sequences_and_seeds_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: dict[tuple[int, str, str], list[torch.Tensor]] = {}
    runs, now = TrainedInMemory(), [0, ""]
    honest = tasks.sample_digits

    def watched(n: int, split: tasks.Split, generator: torch.Generator | None) -> torch.Tensor:
        digits = honest(n, split, generator)
        if split != "train":
            drawn.setdefault((*now, split), []).append(digits)  # type: ignore[arg-type]
        return digits

    monkeypatch.setattr(tasks, "sample_digits", watched)
    for seed in (0, 1):
        for name, run in adapted(seed).items():
            now[:] = seed, name
            runs.get(run)
    for split in ("validation", "test"):
        for seed in (0, 1):
            of_seed = [d for key, many in drawn.items() for d in many if key[::2] == (seed, split)]
            assert len(of_seed) >= 5 if split == "test" else 4
            assert all(torch.equal(one, of_seed[0]) for one in of_seed)
        first, second = (drawn[seed, "LoRA", split][0] for seed in (0, 1))
        assert not torch.equal(first, second)


def test_what_chooses_has_validation_numbers_and_pretraining_has_none() -> None:
    runs = TrainedInMemory()
    for name, run in adapted(2).items():
        for trial in read(labelled(run), runs.get):
            if name == "pretrained":
                assert "validation" not in trial.metrics
                with pytest.raises(ValueError, match="nothing was measured on the validation"):
                    _ = trial.validation
            else:
                assert set(trial.validation) == {"accuracy", "loss"}
                assert 0 <= trial.validation["accuracy"] <= 1
                assert trial.validation["loss"] != trial.loss(TASK)
    run = adapted(2)["fine-tuned"]
    model = adapting.load_model(run.config, runs.get(run))
    generator = generator_for(2, "validation")
    accuracy, loss = score(model, ADD_ONE, 40, "validation", None, generator)
    assert runs.get(run).metrics["validation"] == {"accuracy": accuracy, "loss": loss}


# First seeds.

PLANS: dict[str, Callable[..., Iterable[Run]]] = {
    "prompt_attention/prompt_or_finetune": prompt_or_finetune.plan,
    "prefix_tuning/new_task": new_task.plan,
    "prefix_tuning/cannot_re_aim": cannot_re_aim.chapter_plan,
    "prefix_tuning/beyond_one_layer": beyond_one_layer.plan,
    "prefix_tuning/long_prefixes": long_prefixes.plan,
    "prefix_tuning/eliciting": eliciting.plan,
    "prefix_tuning/combining": combining.plan,
    "prefix_tuning/prefix_or_lora": prefix_or_lora.plan,
    "prefix_tuning/continuous_and_discrete": continuous_and_discrete.plan,
}


def shifted(run: Run, by: int) -> dict[str, Any]:
    """Everything that a run is, with its seed and those of its needs moved."""
    config = {**run.config, "seed": run.config["seed"] + by}
    return {"train": run.train, "config": config, "needs": [shifted(one, by) for one in run.needs]}


def arguments(plan: Callable[..., Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: defaults[name] for name in inspect.signature(plan).parameters if name in defaults}


@pytest.mark.parametrize("name", PLANS)
def test_the_first_seed_moves_the_seed_of_every_run_and_nothing_else(name: str) -> None:
    plan = PLANS[name]
    given = arguments(plan, Source(name).defaults)
    assert given["first_seed"] == 0
    here, there = list(plan(**given)), list(plan(**{**given, "first_seed": 7}))
    assert [shifted(run, 7) for run in here] == [shifted(run, 0) for run in there]
    assert {run.config["seed"] for run in there} == set(range(7, 7 + given["seeds"]))
    with pytest.raises(ValueError, match=r"first_seed must be a whole number .* got -1"):
        plan(**{**given, "first_seed": -1})


def test_the_plan_of_the_table_of_all_trials_takes_first_seeds_too() -> None:
    name = "prefix_tuning/expressivity_or_optimisation"
    from notebooks.prefix_tuning.expressivity_or_optimisation import plan as synthesis

    given = arguments(synthesis.plan, Source(name).defaults)
    moved = {
        key: {**value, "first_seed": 7} if isinstance(value, dict) else value
        for key, value in given.items()
    }
    here, there = list(synthesis.plan(**given)), list(synthesis.plan(**moved))
    assert [shifted(run, 7) for run in here] == [shifted(run, 0) for run in there]


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_chapters_of_a_profile_share_their_base_models(profile: str) -> None:
    notebooks = {plan.source.name: plan for plan in load_profile(profile).notebooks}

    def bases(name: str) -> set[str]:
        runs = notebooks[f"prefix_tuning/{name}"].runs
        return {run.key for run in runs if not run.needs}

    every = bases("expressivity_or_optimisation")
    assert bases("prefix_or_lora") <= bases("combining") <= every
    assert bases("new_task") <= every
    assert bases("eliciting") <= every
    assert bases("new_task") <= bases("cannot_re_aim")
    assert bases("long_prefixes") <= bases("beyond_one_layer")

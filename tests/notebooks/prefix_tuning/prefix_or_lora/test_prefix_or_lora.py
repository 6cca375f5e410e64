"""Experiment B6: what the runs measured, and claims that fail when something is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

from notebooks.prefix_tuning.prefix_or_lora import figures, results
from notebooks.prefix_tuning.prefix_or_lora.claims import (
    CHAPTER,
    MOVED,
    PUBLISHED_MODEL,
    TRAINED,
    claims_at_published_size,
    lowest,
    shared_prefix,
)
from notebooks.prefix_tuning.prefix_or_lora.plan import plan
from notebooks.prefix_tuning.prefix_or_lora.results import (
    above_first,
    at_budget,
    brackets,
    budget,
    by_rate,
    parameters,
    published_lora,
    ways,
)
from notebooks.prefix_tuning.prefix_or_lora.work import step_work
from promptlib.claims import Claim, check
from promptlib.prefix_tuning.tasks import DOUBLE_HISTOGRAM, read_and_answer
from promptlib.prefix_tuning.trials import Plan, Trial, Trials, read
from promptlib.runs import Result, Run
from tests.trained_in_memory import TrainedInMemory
from workflow.sources import Source

TINY: dict[str, Any] = {
    "seeds": 1,
    "first_seed": 0,
    "n_layer": 2,
    "width": 12,
    "precision": "float32",
    "gelu": "tanh",
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

Learned = tuple[Plan, TrainedInMemory, Trials]


@pytest.fixture(scope="module")
def learned() -> Learned:
    torch.set_num_threads(1)
    planned, runs = plan(**TINY), TrainedInMemory()
    return planned, runs, read(planned, runs.get)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return read_and_answer(*DOUBLE_HISTOGRAM.sample(7, "test", generator))


def with_metrics(trial: Trial, **metrics: Any) -> Trial:
    return dataclasses.replace(trial, metrics={**trial.metrics, **metrics})


def way(
    method: str,
    what: str,
    size: int,
    parameters: int,
    cells: Sequence[tuple[float, float, float]],
    model: Any = PUBLISHED_MODEL,
) -> Trials:
    """The sweep of a way with two equal seeds; cells are rate, accuracy in percent, loss."""
    config = {"task": "double_histogram", "model": model, "test_sequences": 3200}
    labels = {"method": method, "what": what, "size": size, "way": f"{method}, {what}, {size}"}
    trials = []
    for seed in range(2):
        run = Run("promptlib.prefix_tuning.adapting:fine_tune", {**config, "seed": seed})
        for index, (rate, accuracy, loss) in enumerate(cells):
            metrics = {
                "learning_rate": rate,
                "parameters": parameters,
                "accuracy": {"double_histogram": accuracy / 100},
                "loss": {"double_histogram": loss},
                "validation": {"accuracy": accuracy / 100, "loss": loss},
            }
            trials.append(Trial(labels, run, index, metrics))
    return Trials(tuple(trials))


def as_published(model: Any = PUBLISHED_MODEL, **changes: tuple[float, float]) -> Trials:
    """What the paper would have measured; `changes` are accuracy and loss by way."""
    found = {
        "shared": (0.3, 1.4),
        "lora": (92.4, 0.2),
        "attention": (90.0, 0.25),
        "ceiling": (99.0, 0.05),
        **changes,
    }
    equal = 12 * model["n_layer"] * model["n_embd"]
    named = [
        ("prefix", "shared", 12, equal, "shared"),
        ("LoRA", "MLP and projection", 1, equal, "lora"),
        ("LoRA", "attention", 1, 2 * equal // 3, "attention"),
        ("fine-tuning", "all weights", 0, 20 * equal, "ceiling"),
    ]
    rows = [
        trial
        for method, what, size, count, key in named
        for trial in way(method, what, size, count, [(0.1, *found[key])], model)
    ]
    return Trials(tuple(rows))


def judged(trials: Trials) -> dict[str, Claim]:
    return check(CHAPTER, TRAINED, trials)


BLIND = 0.97


@pytest.mark.claim("prefix-tuning/prefix-or-lora-prefix")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-lora")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-ceiling")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-attention-below-prefix")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-ceiling-below-lora")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-prefix-worse-than-blind")
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("prefix", {"shared": (60.0, 0.5)}),
        ("lora", {"lora": (0.9, 1.3)}),
        ("ceiling", {"ceiling": (0.9, 1.1)}),
        ("attention-below-prefix", {"attention": (0.9, 1.41)}),
        ("ceiling-below-lora", {"ceiling": (0.9, 1.1)}),
        ("prefix-worse-than-blind", {"shared": (0.3, 0.9)}),
    ],
)
def test_another_measurement_refutes_the_claim(name: str, wrong: dict[str, Any]) -> None:
    assert judged(as_published())[name].verdict == "supported"
    assert judged(as_published(**wrong))[name].verdict == "contradicted"


def test_without_the_control_the_accuracies_say_nothing() -> None:
    short = judged(as_published(ceiling=(0.9, 1.1), lora=(0.9, 1.2)))
    for name in ("prefix", "lora", "prefix-worse-than-blind"):
        assert short[name].verdict == "uninformative"


def test_the_published_figures_are_compared_at_the_published_size_only() -> None:
    small = judged(as_published({**PUBLISHED_MODEL, "n_embd": 64}))
    for name, value in (("prefix", 0.31), ("lora", 92.38)):
        full = judged(as_published())[name]
        assert full.details["published"]["value"] == value
        assert full.replication == "reproduced"
        assert small[name].replication == "other size"
        assert list(small[name].details["published"]["differs"]) == ["width 64, not 256"]


def test_archived_runs_give_the_claims_that_need_no_weights(learned: Learned) -> None:
    planned, runs, trials = learned
    found = claims_at_published_size(planned, lambda run: Result(runs.get(run).metrics))
    assert found == list(judged(trials).values())
    assert len({claim.id for claim in found}) == len(found) == 6


@pytest.mark.claim("prefix-tuning/prefix-or-lora-first-layer")
@pytest.mark.claim("prefix-tuning/prefix-or-lora-mlp-moves")
def test_lora_that_touches_keys_refutes_what_is_said_of_the_others(
    learned: Learned, tokens: torch.Tensor
) -> None:
    _, runs, trials = learned
    seen = results.look_inside(trials, runs.get, tokens)

    def judge(change: Callable[[Trial], Any]) -> dict[str, Claim]:
        changed = (with_metrics(one, moved=change(one)) for one in seen)
        return check(CHAPTER, MOVED, Trials(tuple(changed)))

    assert judge(lambda one: one.metrics["moved"])["first-layer"].verdict == "holds"
    (on_attention,) = results.way(seen, "LoRA", "attention", 1)
    touched = on_attention.metrics["moved"]
    assert float(touched[0].max()) > 1e-9
    (published,) = published_lora(seen)
    wrong = judge(lambda one: touched if one is published else one.metrics["moved"])
    assert wrong["first-layer"].verdict == "fails"

    true = []
    for moved in (0.0, 0.2, 0.6):
        found = judge(
            lambda one, moved=moved: torch.full_like(touched, moved if one is published else 0.5)
        )
        true.append(found["mlp-moves"].value > found["mlp-moves"].details["limit"])
    assert true == [False, True, True]


def test_the_movement_above_the_first_layer_leaves_the_first_out(learned: Learned) -> None:
    moved = torch.tensor([[0.9, 0.9], [0.1, 0.3], [0.2, 0.2]])
    assert above_first(with_metrics(learned[2][0], moved=moved)) == pytest.approx(20.0)
    assert above_first(with_metrics(learned[2][0], moved=moved[:1])) == pytest.approx(90.0)


def test_the_models_are_those_of_the_chapter_on_combining() -> None:
    here = Source("prefix_tuning/prefix_or_lora").defaults
    there = Source("prefix_tuning/combining").defaults
    assert here["seeds"] <= there["seeds"]
    for name in (
        "gelu",
        "n_layer",
        "width",
        "precision",
        "pretrain_steps",
        "test_sequences",
    ):
        assert here[name] == there[name], name


def test_ways_know_their_size_and_where_their_best_rate_lies(learned: Learned) -> None:
    trials = learned[2]
    assert budget(trials) == 12 * 2 * 12
    assert set(ways(at_budget(trials, "prefix"))) == {
        "prefix, shared, length 12",
        "prefix, free, length 6",
    }
    assert at_budget(trials, "LoRA") == published_lora(trials)
    assert parameters(trials.where(method="fine-tuning")[0]) > 10 * budget(trials)
    assert brackets(results.way(trials, "LoRA", "attention", 1)) == "only"
    cells = [(0.01, 2.0, 1.3), (0.03, 1.0, 1.1), (0.1, 0.0, 1.2)]
    inside = way("LoRA", "MLP", 1, 100, cells)
    assert brackets(inside) == "inside"
    assert brackets(way("LoRA", "MLP", 1, 100, cells[:2])) == "highest"
    assert brackets(way("LoRA", "MLP", 1, 100, cells[1:])) == "lowest"
    assert inside.best().percent() == [2.0, 2.0]
    assert list(lowest(inside)) == [1.1, 1.1]
    assert by_rate(inside)[0.1].losses() == [1.2, 1.2]


def test_a_comparison_that_the_plan_lacks_is_named(learned: Learned) -> None:
    with pytest.raises(ValueError, match="no LoRA of MLP with size 7"):
        results.way(learned[2], "LoRA", "MLP", 7)
    with pytest.raises(
        ValueError, match=r"no prefix has 288 parameters, .* shared prefix of length 12"
    ):
        at_budget(learned[2].where(method="LoRA"), "prefix")


def test_work_is_that_of_the_matrix_products() -> None:
    """One layer, fewer sequences than symbols: every product can be counted by hand."""
    planned = plan(**{**TINY, "n_layer": 1, "lengths": {"shared": [3]}, "ranks": {"MLP": [2]}})
    few = {"batch_size": 5}
    tuned, ours, theirs = (
        dataclasses.replace(run, config={**run.config, **few})
        for run in (
            planned.where(method=method).runs[0] for method in ("fine-tuning", "prefix", "LoRA")
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


def works(trials: Trials) -> dict[str, int]:
    return {name: step_work(sweep[0].run) for name, sweep in ways(trials).items()}


def test_figures_say_what_they_show(learned: Learned, tokens: torch.Tensor) -> None:
    _, runs, trials = learned
    seen = results.look_inside(trials, runs.get, tokens)
    drawn = {
        "published budget of 288": figures.against_parameters(trials, BLIND, 1.43),
        "learning rate": figures.sweeps(trials),
        "after 16 steps": figures.over_steps(trials, works(trials), BLIND, 1.43),
        "Movement of relative attention": figures.movement_by_layer(seen),
        "92.38 % published": figures.beside_published(trials),
    }
    for words, (figure, alt) in drawn.items():
        assert words in alt
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize("watched", [True, False])
def test_without_checkpoints_the_curves_are_drawn_alone(learned: Learned, watched: bool) -> None:
    def shown(trial: Trial) -> Trial:
        metrics = {k: v for k, v in trial.metrics.items() if watched or k != "checkpoints"}
        return dataclasses.replace(trial, metrics=metrics)

    trials = Trials(tuple(map(shown, learned[2])))
    figure, alt = figures.over_steps(trials, works(trials), BLIND, 1.43)
    assert ("accuracy on test sequences against steps" in alt) is watched
    assert alt.startswith("3 panels" if watched else "2 panels")
    assert len(figure.axes) == (3 if watched else 2)
    assert figure.axes[0].get_xlabel() == "training step"
    figure.canvas.draw()
    plt.close(figure)


def test_the_best_of_several_ways_is_chosen_on_the_validation_split() -> None:
    def chosen(what: str, accuracy: float, on_validation: float, loss: float, there: float) -> Any:
        equal = 12 * PUBLISHED_MODEL["n_layer"] * PUBLISHED_MODEL["n_embd"]
        (one, _) = way("prefix", what, 12, equal, [(0.1, accuracy, loss)])
        return with_metrics(one, validation={"accuracy": on_validation, "loss": there})

    first, second = chosen("shared", 90.0, 0.1, 0.1, 2.0), chosen("free", 5.0, 0.2, 1.0, 1.5)
    both = Trials((first, second))
    assert list(lowest(at_budget(both, "prefix"))) == [1.0]
    assert at_budget(both, "prefix").best().percent() == [5.0]
    assert list(shared_prefix(both)) == [first]

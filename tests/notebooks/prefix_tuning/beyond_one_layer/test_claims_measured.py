"""Beyond one layer, measured: plan, training, movement, and claims that can fail."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer import figures, paths, plan, results
from notebooks.prefix_tuning.beyond_one_layer.claims import CHAPTER, PATHS, THEORY, TRAINED
from promptlib import claims
from promptlib.attention import attend
from promptlib.prefix_tuning import adapting, movement
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.identities import relative_attention, split
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trials import Get, Trial, Trials, read
from promptlib.runs import Run
from tests.trained_in_memory import TrainedInMemory

SMALL: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "depths": [1, 2],
    "width": 10,
    "n_head": 2,
    "pretrain_steps": 10,
    "pretrain_rate": 0.01,
    "adapt_steps": 11,
    "weight_rates": [0.01, 0.03],
    "lora_rates": [0.01, 0.1],
    "prefix_rates": [0.1, 1.0],
    "lora_rank": 1,
    "prefix_length": 4,
    "test_sequences": 20,
}


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return results.test_tokens(5, 0)


@pytest.fixture(scope="module")
def get() -> Get:
    torch.set_num_threads(1)
    return TrainedInMemory().get


@pytest.fixture(scope="module")
def trained(get: Get) -> Trials:
    return read(plan.plan(**SMALL), get)


@pytest.fixture(scope="module")
def best(trained: Trials, get: Get, tokens: Tensor) -> Trials:
    return results.chosen(trained, get, tokens)


@pytest.fixture(scope="module")
def deepest(best: Trials) -> Trials:
    return best.where(depth=2)


@pytest.fixture(scope="module")
def pair() -> tuple[GPT, Prefix]:
    """A model whose weights are large enough to attend somewhere, and a prefix."""
    generator = torch.Generator().manual_seed(7)
    model = GPT(GPTConfig(3, 2, 14, 11, 19), generator).double().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(10 if parameter.ndim > 1 else 1)
    prefix = Prefix(3, 5, 14, 1.0, generator, separate_values=True, layer_norm=False)
    return model, prefix.double().requires_grad_(False)


def test_the_plan_is_what_the_chapter_says() -> None:
    runs = plan.plan(**SMALL)
    listed = list(runs)
    # For each seed: a base that knows both and its prefixes at two depths; and at the largest depth
    # the other base, its prefixes, its LoRAs and two fine-tunings.
    assert len(listed) == 2 * (2 * 2 + 1 + 1 + 1 + 2)
    assert len({run.key for run in listed}) == len(listed)
    assert {labels.get("method") for _, labels in runs.entries} == {None, *plan.METHODS}
    assert {run.config["steps"] for run in listed if run.needs} == {SMALL["adapt_steps"]}
    for method, knows in (("prefix, elicits", "either way"), ("prefix", "upwards")):
        sweeps = runs.where(method=method, depth=2).runs
        bases = runs.where(knows=knows, depth=2).runs
        assert [run.needs for run in sweeps] == [(base,) for base in bases]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seeds", 0, "seeds must be a whole number of at least 1, got 0"),
        ("depths", [2, 2], r"depths must be different .* got \[2, 2\]"),
        ("depths", [], r"depths must be .* got \[\]"),
        ("n_head", 3, "n_head=3 does not divide width=10"),
        ("adapt_steps", 9, "adapt_steps .* at least 10, got 9"),
        ("pretrain_rate", 0, r"pretrain_rate must be .* above 0, got \[0\]"),
        ("lora_rates", [], r"lora_rates must be .* got \[\]"),
        ("prefix_length", 1.5, "prefix_length must be .* got 1.5"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.plan(**{**SMALL, name: value})


def test_the_plan_needs_no_torch() -> None:
    code = (
        "import sys; from notebooks.prefix_tuning.beyond_one_layer.plan import plan;"
        f"list(plan(**{SMALL!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prefix_and_lora_have_equal_parameters(deepest: Trials, get: Get) -> None:
    prefix = deepest.where(method="prefix")[0]
    lora = deepest.where(method="LoRA on attention")[0]
    assert results.parameters(prefix, get) == results.parameters(lora, get)
    before, after, _ = results.models(prefix, get)
    assert after is before
    fine_tuned = deepest.where(method="fine-tuning")[0]
    assert results.parameters(fine_tuned, get) == sum(p.numel() for p in after.parameters())


def test_the_best_lora_is_rebuilt(deepest: Trials, get: Get) -> None:
    one = deepest.where(method="LoRA on attention")[0]
    _, after, prefix = results.models(one, get)
    assert prefix is None
    again = adapting.measure(after.float(), one.run.config)
    assert again["loss"][results.NEW] == pytest.approx(one.loss(results.NEW), rel=1e-4)
    assert float(one.metrics["moved"].max()) > 0


def test_the_layers_seen_are_those_of_the_model(pair: tuple[GPT, Prefix], tokens: Tensor) -> None:
    model, prefix = pair
    rows, shares = movement.relative_rows(model, tokens, prefix)
    _, attention = model(tokens, prefix, return_attention=True)
    taken, _, to_content = split(attention, prefix.length)
    torch.testing.assert_close(rows, relative_attention(to_content))
    torch.testing.assert_close(shares, taken)
    plain, nothing = movement.relative_rows(model, tokens)
    torch.testing.assert_close(plain, model(tokens, return_attention=True)[1])
    assert (nothing == 0).all()


def test_bias_and_fading_are_the_two_paths(pair: tuple[GPT, Prefix], tokens: Tensor) -> None:
    model, prefix = pair
    silent_values = copy.deepcopy(prefix)
    assert silent_values.value_vectors is not None
    silent_values.value_vectors.zero_()
    for block in model.blocks:
        block.attention.value.bias.zero_()
    # Without values there is no bias: the whole prefix is its fading.
    whole, _ = movement.relative_rows(model, tokens, silent_values)
    fade, _ = movement.relative_rows(model, tokens, silent_values, effect="fade")
    bias, _ = movement.relative_rows(model, tokens, silent_values, effect="bias")
    plain, _ = movement.relative_rows(model, tokens)
    torch.testing.assert_close(whole, fade)
    torch.testing.assert_close(bias, plain)
    assert (whole - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"effect must be one of .* got 'neither'"):
        movement.relative_rows(model, tokens, prefix, effect="neither")  # type: ignore[arg-type]


def leaking(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    queries, keys, values, *prefix = arguments
    if prefix:
        keys = keys * (1 + 0.1 * prefix[0].abs().mean(-2, keepdim=True))
    return attend(queries, keys, values, *prefix, **options)


def theory(name: str, errors: Tensor) -> str:
    return claims.check_each(CHAPTER, THEORY, {name: errors})[name].verdict


@pytest.mark.claim("prefix-tuning/depth-own-layer")
def test_the_own_prefix_moves_nothing(pair: tuple[GPT, Prefix], tokens: Tensor) -> None:
    model, prefix = pair
    good = paths.own_layer_errors(model, tokens, prefix)
    assert theory("own-layer", good) == "holds"
    bad = paths.own_layer_errors(model, tokens, prefix, leaking)
    assert theory("own-layer", bad) == "fails"


@pytest.mark.claim("prefix-tuning/depth-first-layer-still")
def test_the_first_layer_keeps_still(
    pair: tuple[GPT, Prefix], best: Trials, tokens: Tensor
) -> None:
    model, prefix = pair
    good = movement.movement(model, model, tokens, prefix)
    assert good[0].max() < 1e-12 < 1e-3 < good[1:].min()
    of_prefixes = best.where(method=["prefix", "prefix, elicits"])
    trained = [one.metrics["moved"][0] for one in of_prefixes]
    assert theory("first-layer-still", torch.cat([good[0], *trained])) == "holds"
    bad = movement.movement(model, model, tokens, prefix, attend=leaking)
    assert theory("first-layer-still", bad[0]) == "fails"


def trials_of(method: str, *, percent: float = 0.0, moved: float = 0.0) -> Trials:
    """Two seeds that sort so many downwards and moved so much of the deeper attention."""
    config = {"task": results.NEW, "test_sequences": 1000}
    metrics = {
        "accuracy": {results.NEW: percent / 100, results.OLD: 0.0},
        "moved": torch.tensor([[0.0, 0.0], [moved, moved]]),
    }
    labels = {"method": method, "depth": 2}
    runs = [Run("a:b", {**config, "seed": seed}) for seed in range(2)]
    return Trials(tuple(Trial(labels, run, None, metrics) for run in runs))


ABLE = {"prefix": 0.2, "LoRA on attention": 40.0, "fine-tuning": 90.0, "prefix, elicits": 95.0}
"""Accuracies with which every claim about them is supported."""


def judged(name: str, **accuracies: float) -> str:
    """The verdict with these accuracies in the place of those of `ABLE`."""
    names = {
        "prefix": "prefix",
        "lora": "LoRA on attention",
        "tuned": "fine-tuning",
        "elicits": "prefix, elicits",
    }
    changed = ABLE | {names[short]: value for short, value in accuracies.items()}
    best = Trials(())
    for method, percent in changed.items():
        best += trials_of(method, percent=percent, moved=0.4)
    return claims.check(CHAPTER, TRAINED, best)[name].verdict


@pytest.mark.claim("prefix-tuning/depth-prefix-moves-deeper")
def test_moving_deeper_layers() -> None:
    for moved, verdict in ((0.4, "supported"), (0.01, "contradicted")):
        best = trials_of("prefix", moved=moved)
        assert claims.check(CHAPTER, TRAINED[:1], best)["prefix-moves-deeper"].verdict == verdict
    # A movement that is measured in the first layer alone is no deeper movement.
    rows = torch.tensor([[0.9, 0.9], [0.0, 0.0]])
    above = [replace(one, metrics={"moved": rows}) for one in trials_of("prefix")]
    found = claims.check(CHAPTER, TRAINED[:1], Trials(tuple(above)))
    assert found["prefix-moves-deeper"].verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/depth-weights-learn")
def test_weights_that_do_not_learn_refute() -> None:
    for percent, verdict in ((90.0, "supported"), (10.0, "contradicted")):
        assert judged("weights-learn", tuned=percent) == verdict


@pytest.mark.claim("prefix-tuning/depth-prefix-does-not-learn")
def test_a_prefix_that_learns_refutes() -> None:
    for percent, verdict in ((0.2, "supported"), (35.0, "contradicted")):
        assert judged("prefix-does-not-learn", prefix=percent) == verdict
        unable = judged("prefix-does-not-learn", prefix=percent, tuned=0.0)
        assert unable == "uninformative"


@pytest.mark.claim("prefix-tuning/depth-lora-beats-prefix")
def test_a_lora_that_is_no_better_refutes() -> None:
    for percent, verdict in ((40.0, "supported"), (0.5, "contradicted")):
        assert judged("lora-beats-prefix", prefix=0.5, lora=percent) == verdict


@pytest.mark.claim("prefix-tuning/depth-elicits")
def test_a_prefix_that_elicits_nothing_refutes() -> None:
    for percent, verdict in ((95.0, "supported"), (50.0, "contradicted")):
        assert judged("elicits", elicits=percent) == verdict


@pytest.mark.claim("prefix-tuning/depth-bias-path")
def test_the_bias_path(pair: tuple[GPT, Prefix], tokens: Tensor) -> None:
    model, prefix = pair
    loud = copy.deepcopy(prefix)
    assert loud.value_vectors is not None
    loud.value_vectors.mul_(100)
    silent_values = copy.deepcopy(prefix)
    assert silent_values.value_vectors is not None
    silent_values.value_vectors.zero_()
    quiet = copy.deepcopy(model)
    for block in quiet.blocks:
        block.attention.value.bias.zero_()
    known = claims.check(CHAPTER, TRAINED[:1], trials_of("prefix", moved=0.4))
    for used, expected in ((loud, "supported"), (silent_values, "contradicted")):
        left = [results.way_left(quiet, used, tokens)] * 2
        assert claims.check(CHAPTER, PATHS, left, known)["bias-path"].verdict == expected


def test_figures_tell_what_they_show(
    best: Trials, deepest: Trials, get: Get, tokens: Tensor
) -> None:
    one = deepest.where(method="prefix")[0]
    shares = results.path_shares(one, get, tokens)
    for figure, alt, told in (
        (*figures.attention_by_layer(one, get, tokens), "layer 1: 0 %"),
        (*figures.movement_by_layer(best), "prefix, depth 2, layer 1: 0 %."),
        (*figures.moving_and_learning(deepest), "fine-tuning: moved"),
        (*figures.paths({"new": [shares]}), f"new, bias alone: {shares['bias']:.0f} %."),
    ):
        assert told in alt
        plt.close(figure)


def test_a_best_rate_at_an_end_of_its_sweep_has_a_star() -> None:
    def at(rate: float) -> Trials:
        found = trials_of("fine-tuning")
        return Trials(tuple(replace(one, metrics={"learning_rate": rate}) for one in found))

    trained = at(0.01) + at(0.1) + at(1.0)
    for rate, told in ((0.1, "0.1  0.1"), (1.0, "1*  1*")):
        assert results.best_rates(trained, at(rate)) == [f"  fine-tuning, depth 2:  {told}"]


def test_what_has_no_prefix_or_no_deeper_layer_is_refused(
    best: Trials, deepest: Trials, get: Get, tokens: Tensor
) -> None:
    tuned = deepest.where(method="fine-tuning")[0]
    with pytest.raises(ValueError, match="adapted otherwise"):
        results.path_shares(tuned, get, tokens)
    with pytest.raises(ValueError, match="one layer has no deeper layer"):
        results.deeper_movement(best.where(method="prefix, elicits", depth=1)[0])
    with pytest.raises(ValueError, match="has no prefix"):
        figures.attention_by_layer(tuned, get, tokens)


def test_the_best_cell_has_the_lowest_loss(trained: Trials, best: Trials) -> None:
    cells = trained.where(method="prefix", depth=2, seed=0)
    chosen = best.where(method="prefix", depth=2, seed=0)[0]
    expected = min(cells, key=lambda cell: cell.validation["loss"])
    assert (chosen.run, chosen.cell) == (expected.run, expected.cell)
    assert chosen.metrics["loss"] == expected.metrics["loss"]

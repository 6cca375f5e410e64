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

from notebooks.prefix_tuning.beyond_one_layer import claims as statements
from notebooks.prefix_tuning.beyond_one_layer import figures, plan, results
from notebooks.prefix_tuning.beyond_one_layer.results import Adapted, Measured
from promptlib.attention import attend
from promptlib.prefix_tuning import adapting as experiment_training
from promptlib.prefix_tuning import movement
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.identities import relative_attention, split
from promptlib.prefix_tuning.prefix import Prefix
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


RATES = ("weight_rates", "lora_rates", "prefix_rates")


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return results.test_tokens(5, 0)


@pytest.fixture(scope="module")
def measured(tokens: Tensor) -> Measured:
    torch.set_num_threads(1)
    found = results.collect(plan.plan(**SMALL), TrainedInMemory().get, tokens)
    return replace(found, trials=1000)  # so that made-up accuracies are told apart


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
    # For each seed: a base that knows both and its prefixes at two depths; and at the largest depth
    # the other base, its prefixes, its LoRAs and two fine-tunings.
    assert len(list(runs)) == 2 * (2 * 2 + 1 + 1 + 1 + 2)
    assert len({run.key for run in runs}) == len(list(runs))
    assert tuple(runs.ways) == plan.WAYS
    assert {run.config["steps"] for run in runs if run.needs} == {SMALL["adapt_steps"]}
    sweep = runs.ways["prefix, elicits"][2][1][0]
    assert sweep.needs == (runs.either[2][1],)
    assert runs.ways["prefix"][2][1][0].needs == (runs.ascending[2][1],)


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


def test_prefix_and_lora_have_equal_parameters(measured: Measured) -> None:
    prefix = measured.adapted["prefix"][2][0]
    assert prefix.parameters == measured.adapted["LoRA on attention"][2][0].parameters
    assert prefix.after is prefix.before


def test_the_best_lora_is_rebuilt(measured: Measured) -> None:
    one = measured.adapted["LoRA on attention"][2][0]
    assert one.prefix is None
    run = plan.plan(**SMALL).ways["LoRA on attention"][2][0][0]
    again = experiment_training.measure(one.after.float(), run.config)
    assert again["loss"][results.NEW] == pytest.approx(one.loss[results.NEW], rel=1e-4)
    one.after.double()


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


@pytest.mark.claim("prefix-tuning/depth-own-layer")
def test_the_own_prefix_moves_nothing(pair: tuple[GPT, Prefix], tokens: Tensor) -> None:
    model, prefix = pair
    good = movement.own_layer_errors(model, tokens, prefix)
    assert statements.own_layer([good]).verdict == "holds"
    bad = movement.own_layer_errors(model, tokens, prefix, leaking)
    assert statements.own_layer([bad]).verdict == "fails"


@pytest.mark.claim("prefix-tuning/depth-first-layer-still")
def test_the_first_layer_keeps_still(
    pair: tuple[GPT, Prefix], measured: Measured, tokens: Tensor
) -> None:
    model, prefix = pair
    good = movement.movement(model, model, tokens, prefix)
    assert good[0].max() < 1e-12 < 1e-3 < good[1:].min()
    trained = [one.moved for one in measured.with_prefix()]
    assert statements.first_layer_still([good, *trained]).verdict == "holds"
    bad = movement.movement(model, model, tokens, prefix, attend=leaking)
    assert statements.first_layer_still([bad]).verdict == "fails"


def with_seeds(measured: Measured, way: str, **changes: Any) -> Measured:
    """The same, with every seed of a way changed at the largest depth."""
    depth = results.deepest(measured)
    changed = [replace(one, **changes) for one in measured.adapted[way][depth]]
    by_depth = {**measured.adapted[way], depth: changed}
    return replace(measured, adapted={**measured.adapted, way: by_depth})


def right(percent: float) -> dict[str, dict[str, float]]:
    return {"accuracy": {results.NEW: percent / 100, results.OLD: 0.0}}


@pytest.mark.claim("prefix-tuning/depth-prefix-moves-deeper")
def test_moving_deeper_layers(measured: Measured) -> None:
    for moved, verdict in ((0.4, "supported"), (0.01, "contradicted")):
        rows = torch.tensor([[0.0, 0.0], [moved, moved]])
        claim = results.prefix_moves_deeper(with_seeds(measured, "prefix", moved=rows))
        assert claim.verdict == verdict
    # A movement that is measured in the first layer alone is no deeper movement.
    rows = torch.tensor([[0.9, 0.9], [0.0, 0.0]])
    claim = results.prefix_moves_deeper(with_seeds(measured, "prefix", moved=rows))
    assert claim.verdict == "contradicted"


def able(measured: Measured) -> Measured:
    """The same, with both controls as they should be."""
    eliciting = with_seeds(measured, "prefix, elicits", **right(95.0))
    return with_seeds(eliciting, "fine-tuning", **right(90.0))


@pytest.mark.claim("prefix-tuning/depth-weights-learn")
def test_weights_that_do_not_learn_refute(measured: Measured) -> None:
    for percent, verdict in ((90.0, "supported"), (10.0, "contradicted")):
        claim = results.weights_learn(with_seeds(measured, "fine-tuning", **right(percent)))
        assert claim.verdict == verdict


@pytest.mark.claim("prefix-tuning/depth-prefix-does-not-learn")
def test_a_prefix_that_learns_refutes(measured: Measured) -> None:
    for percent, verdict in ((0.2, "supported"), (35.0, "contradicted")):
        seen = with_seeds(able(measured), "prefix", **right(percent))
        assert results.moving_is_not_learning(seen).verdict == verdict
        unable = with_seeds(seen, "fine-tuning", **right(0.0))
        assert results.moving_is_not_learning(unable).verdict == "uninformative"


@pytest.mark.claim("prefix-tuning/depth-lora-beats-prefix")
def test_a_lora_that_is_no_better_refutes(measured: Measured) -> None:
    base = with_seeds(able(measured), "prefix", **right(0.5))
    for percent, verdict in ((40.0, "supported"), (0.5, "contradicted")):
        claim = results.lora_beats_prefix(with_seeds(base, "LoRA on attention", **right(percent)))
        assert claim.verdict == verdict


@pytest.mark.claim("prefix-tuning/depth-elicits")
def test_a_prefix_that_elicits_nothing_refutes(measured: Measured) -> None:
    for percent, verdict in ((95.0, "supported"), (50.0, "contradicted")):
        claim = results.elicits(with_seeds(measured, "prefix, elicits", **right(percent)))
        assert claim.verdict == verdict


@pytest.mark.claim("prefix-tuning/depth-bias-path")
def test_the_bias_path(measured: Measured, pair: tuple[GPT, Prefix], tokens: Tensor) -> None:
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
    for used, expected in ((loud, "supported"), (silent_values, "contradicted")):
        moved = torch.tensor([[0.0, 0.0], [0.4, 0.4]])
        changed = with_seeds(
            measured, "prefix", before=quiet, after=quiet, prefix=used, moved=moved
        )
        assert results.bias_path(changed, tokens).verdict == expected


def test_figures_tell_what_they_show(measured: Measured, tokens: Tensor) -> None:
    one = measured.adapted["prefix"][2][0]
    shares = results.path_shares(one, tokens)
    for figure, alt, told in (
        (*figures.attention_by_layer(one, tokens), "layer 1: 0 %"),
        (*figures.movement_by_layer(measured), "prefix, depth 2, layer 1: 0 %."),
        (*figures.moving_and_learning(measured, 2), "fine-tuning: moved"),
        (*figures.paths({"new": [shares]}), f"new, bias alone: {shares['bias']:.0f} %."),
    ):
        assert told in alt
        plt.close(figure)


def test_a_best_rate_at_an_end_of_its_sweep_has_a_star(measured: Measured) -> None:
    runs = plan.plan(**{**SMALL, **{name: [0.01, 0.1, 1.0] for name in RATES}})
    for rate, told in ((0.1, "0.1  0.1"), (1.0, "1*  1*")):
        changed = with_seeds(measured, "fine-tuning", learning_rate=rate)
        assert f"  fine-tuning, depth 2:  {told}" in results.best_rates(changed, runs)


def test_what_has_no_prefix_or_no_deeper_layer_is_refused(
    measured: Measured, tokens: Tensor
) -> None:
    with pytest.raises(ValueError, match="adapted otherwise"):
        results.path_shares(measured.adapted["fine-tuning"][2][0], tokens)
    with pytest.raises(ValueError, match="one layer has no deeper layer"):
        results.deeper_movement(measured.adapted["prefix, elicits"][1][0])
    with pytest.raises(ValueError, match="there is none"):
        figures.attention_by_layer(measured.adapted["fine-tuning"][2][0], tokens)


def test_the_best_cell_has_the_lowest_loss(tokens: Tensor) -> None:
    runs = TrainedInMemory()
    sweep = plan.plan(**{**SMALL, "seeds": 1}).ways["prefix"][2][0]
    cells = runs.get(sweep[0]).metrics["cells"]
    best: Adapted = results._best(sweep, runs.get, tokens)
    expected = min(cells, key=lambda cell: cell["validation"]["loss"])
    assert best.loss == expected["loss"]
    assert best.learning_rate == expected["learning_rate"]

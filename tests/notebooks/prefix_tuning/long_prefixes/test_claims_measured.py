"""Long prefixes, measured: plan, use, combinations, and claims that can fail."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer.plan import plan as depth_plan
from notebooks.prefix_tuning.beyond_one_layer.results import test_tokens as sample_tokens
from notebooks.prefix_tuning.long_prefixes import claims_measured as results
from notebooks.prefix_tuning.long_prefixes import plan, spread
from notebooks.prefix_tuning.long_prefixes import results as evidence
from notebooks.prefix_tuning.long_prefixes.results import Measured
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from tests.trained_in_memory import TrainedInMemory
from workflow.sources import Source

SMALL: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "n_layer": 2,
    "width": 10,
    "n_head": 2,
    "pretrain_steps": 10,
    "pretrain_rate": 0.01,
    "lengths": [1, 3],
    "tune_steps": 10,
    "learning_rates": [0.1, 1.0],
    "init_stds": [0.1, 1.0],
    "weight_rates": [0.01, 0.03],
    "short_prefixes": 3,
    "short_rate": 0.3,
    "test_sequences": 20,
}


@pytest.fixture(scope="module")
def measured() -> Measured:
    torch.set_num_threads(1)
    found = evidence.collect(plan.plan(**SMALL), TrainedInMemory().get, sample_tokens(5, 0), 20)
    return replace(found, trials=1000)  # so that made-up accuracies are told apart


def prefixes(count: int, length: int = 2) -> list[Prefix]:
    generator = torch.Generator().manual_seed(count)
    return [
        Prefix(2, length, 14, 1.0, generator, separate_values=True, layer_norm=False)
        for _ in range(count)
    ]


def test_the_plan_is_what_the_chapter_says() -> None:
    runs = plan.plan(**SMALL)
    # For each seed: two bases, two lengths of each, two fine-tunings, and the short prefixes.
    assert len(list(runs)) == 2 * (2 + 2 * 2 + 2 + 1)
    assert len({run.key for run in runs}) == len(list(runs))
    sweep = runs.sweeps["new task"][3][1]
    assert sweep.config["length"] == 3
    assert len(sweep.config["cells"]) == 4
    assert sweep.needs == (runs.bases["new task"][1],)
    assert len(runs.short[0].config["cells"]) == 3


def test_both_chapters_start_from_the_same_models() -> None:
    long, deep = (
        Source(f"prefix_tuning/{name}").defaults for name in ("long_prefixes", "beyond_one_layer")
    )
    names = plan.plan.__annotations__
    runs = plan.plan(**{name: long[name] for name in names if name != "return"})
    names = depth_plan.__annotations__
    base = depth_plan(**{name: deep[name] for name in names if name != "return"})
    depth = long["n_layer"]
    assert runs.bases["new task"] == base.ascending[depth]
    assert runs.bases["known task"] == base.either[depth]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lengths", [2, 1], r"lengths must increase from at least 1, got \[2, 1\]"),
        ("lengths", [], r"lengths must increase .* got \[\]"),
        ("short_prefixes", 1, "short_prefixes .* at least 2, got 1"),
        ("short_rate", -1.0, r"short_rate .* got \[-1.0\]"),
        ("n_head", 4, "n_head=4 does not divide width=10"),
        ("tune_steps", True, "tune_steps .* got True"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.plan(**{**SMALL, name: value})


def test_the_plan_needs_no_torch() -> None:
    code = (
        "import sys; from notebooks.prefix_tuning.long_prefixes.plan import plan;"
        f"list(plan(**{SMALL!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_use_is_that_of_the_forward_pass() -> None:
    generator = torch.Generator().manual_seed(5)
    model = GPT(GPTConfig(2, 2, 14, 11, 19), generator).double().requires_grad_(False)
    prefix = prefixes(1, 3)[0].double().requires_grad_(False)
    tokens = sample_tokens(3, 0)
    use = evidence.use_of(model, prefix, tokens)
    _, attention = model(tokens, prefix, return_attention=True)
    rows = attention[1, :, 0, -10:, :3].reshape(-1, 3)
    assert prefix.value_vectors is not None
    values = model.blocks[1].attention.value(prefix.value_vectors[1])[:, :7]
    torch.testing.assert_close(use.number[1, 0], spread.effective_number(rows).mean())
    torch.testing.assert_close(use.rank[1, 0], spread.effective_rank(rows @ values))
    torch.testing.assert_close(use.share[1, 0], rows.sum(-1).mean())
    torch.testing.assert_close(use.weights.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    assert (use.distance <= use.limit).all()


def test_prefixes_are_joined_and_averaged_in_every_layer() -> None:
    three = prefixes(3)
    joined, averaged = evidence.joined(three), evidence.averaged(three)
    assert (joined.length, averaged.length) == (6, 2)
    assert not joined.layer_norm
    for built, part in ((joined.vectors[:, 2:4], three[1].vectors),):
        assert torch.equal(built, part)
    assert joined.value_vectors is not None
    assert three[2].value_vectors is not None
    assert torch.equal(joined.value_vectors[:, 4:], three[2].value_vectors)
    mean = sum(one.vectors for one in three) / 3
    torch.testing.assert_close(averaged.vectors, mean)
    with pytest.raises(ValueError, match="at least 1 prefix, got none"):
        evidence.joined([])


def test_odds_of_joined_prefixes_add_in_the_first_layer_of_the_model() -> None:
    generator = torch.Generator().manual_seed(5)
    model = GPT(GPTConfig(2, 2, 14, 11, 19), generator).double().requires_grad_(False)
    parts = [one.double().requires_grad_(False) for one in prefixes(3)]

    def odds(prefix: Prefix) -> Tensor:
        _, attention = model(sample_tokens(3, 0), prefix, return_attention=True)
        return attention[0, ..., : prefix.length].sum(-1).logit().exp()

    joined, averaged = evidence.joined(parts), evidence.averaged([parts[0], parts[0]])
    torch.testing.assert_close(odds(joined), sum(odds(one) for one in parts))
    torch.testing.assert_close(odds(averaged), odds(parts[0]))


def test_an_untrained_prefix_is_attended_to_evenly_if_it_starts_small(measured: Measured) -> None:
    trained = TrainedInMemory()
    runs = plan.plan(**SMALL).sweeps[results.NEW][3]
    tuned = [replace(one, init_std=1e-9) for one in measured.tuned[results.NEW][3]]
    generator = torch.Generator().manual_seed(7)
    for use in evidence.untrained(runs, tuned, trained.get, sample_tokens(5, 0), generator):
        torch.testing.assert_close(use.number, torch.full((2, 2), 3.0, dtype=torch.float64))
        assert (use.in_use >= use.number - 1e-9).all()


def changed(measured: Measured, question: str, length: int, **changes: Any) -> Measured:
    """The same, with every seed of one length changed."""
    seeds = [replace(one, **changes) for one in measured.tuned[question][length]]
    by_length = {**measured.tuned[question], length: seeds}
    return replace(measured, tuned={**measured.tuned, question: by_length})


def with_use(measured: Measured, question: str, **changes: Tensor) -> Measured:
    use = replace(measured.tuned[question][3][0].use, **changes)
    return changed(measured, question, 3, use=use)


@pytest.mark.claim("prefix-tuning/long-far-from-uniform")
def test_uniform_attention_refutes(measured: Measured) -> None:
    for number, verdict in ((1.1, "supported"), (2.9, "contradicted")):
        table = torch.full((2, 2), number)
        claim = results.far_from_uniform(with_use(measured, results.NEW, number=table))
        assert claim.verdict == verdict


@pytest.mark.claim("prefix-tuning/long-few-directions")
def test_many_directions_refute(measured: Measured) -> None:
    for rank, verdict in ((1.5, "supported"), (9.0, "contradicted")):
        table = torch.full((2, 2), rank)
        both = with_use(with_use(measured, results.NEW, rank=table), results.KNOWN, rank=table)
        assert results.few_directions(both).verdict == verdict


@pytest.mark.claim("prefix-tuning/long-known-task")
def test_one_vector_that_elicits_nothing_refutes(measured: Measured) -> None:
    for accuracy, verdict in ((0.9, "supported"), (0.5, "contradicted"), (0.75, "undecided")):
        claim = results.one_vector_elicits(changed(measured, results.KNOWN, 1, accuracy=accuracy))
        assert claim.verdict == verdict


@pytest.mark.claim("prefix-tuning/long-weights-learn")
def test_weights_that_do_not_learn_refute(measured: Measured) -> None:
    for accuracy, verdict in ((0.5, "supported"), (0.01, "contradicted")):
        claim = results.weights_learn(replace(measured, control=[accuracy] * 2))
        assert claim.verdict == verdict


@pytest.mark.claim("prefix-tuning/long-new-task")
def test_a_length_that_teaches_refutes(measured: Measured) -> None:
    able = replace(measured, control=[0.5, 0.5])
    for accuracy, verdict in ((0.001, "supported"), (0.4, "contradicted")):
        long = changed(able, results.NEW, 3, accuracy=accuracy, validation_loss=0.0)
        assert results.length_does_not_teach(long).verdict == verdict
        unable = replace(long, control=[0.0, 0.0])
        assert results.length_does_not_teach(unable).verdict == "uninformative"


@pytest.mark.claim("prefix-tuning/long-new-task-loss")
def test_a_loss_that_stays_refutes(measured: Measured) -> None:
    base = changed(measured, results.NEW, 1, loss=2.0)
    for loss, verdict in ((1.0, "supported"), (2.0, "contradicted")):
        claim = results.length_lowers_the_loss(changed(base, results.NEW, 3, loss=loss))
        assert claim.verdict == verdict


def combined(measured: Measured, **changes: float) -> Measured:
    able = changed(measured, results.KNOWN, 1, accuracy=0.95)
    return replace(able, combined=[replace(one, **changes) for one in able.combined])


@pytest.mark.claim("prefix-tuning/long-against-ensemble")
def test_a_long_one_that_is_better_refutes(measured: Measured) -> None:
    for value, verdict in ((0.93, "supported"), (0.99, "contradicted")):
        claim = results.long_against_short(combined(measured, ensemble=0.93, trained=value))
        assert claim.verdict == verdict

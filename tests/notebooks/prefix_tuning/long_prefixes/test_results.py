"""Long prefixes, measured: plan, use, combinations, and claims that can fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer.plan import plan as beyond_one_layer
from notebooks.prefix_tuning.long_prefixes import claims as stated
from notebooks.prefix_tuning.long_prefixes import plan as long
from notebooks.prefix_tuning.long_prefixes import results
from notebooks.prefix_tuning.long_prefixes.claims import Trained
from notebooks.prefix_tuning.long_prefixes.plan import KNOWN, NEW
from promptlib import claims
from promptlib.prefix_tuning import geometry
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SORT_DESCENDING, read_and_answer
from promptlib.prefix_tuning.trials import Plan, Trial, Trials, read
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


def sample_tokens(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return read_and_answer(*SORT_DESCENDING.sample(n, "test", generator))


@pytest.fixture(scope="module")
def small() -> TrainedInMemory:
    torch.set_num_threads(1)
    return TrainedInMemory()


@pytest.fixture(scope="module")
def measured(small: TrainedInMemory) -> Trained:
    trials = read(long.plan(**SMALL), small.get)
    uses = results.uses(trials, small.get, sample_tokens(5, 0))
    combined = results.combined(trials, small.get, 20)

    # As if on more sequences, so that made-up accuracies are told apart.
    def tested_more(trial: Trial) -> Trial:
        config = {**trial.run.config, "test_sequences": 1000}
        return replace(trial, run=replace(trial.run, config=config))

    return Trained(Trials(tuple(map(tested_more, trials))), uses, combined)


def prefixes(count: int, length: int = 2) -> list[Prefix]:
    generator = torch.Generator().manual_seed(count)
    return [
        Prefix(2, length, 14, 1.0, generator, separate_values=True, layer_norm=False)
        for _ in range(count)
    ]


def test_the_plan_is_what_the_chapter_says() -> None:
    runs = long.plan(**SMALL)
    # For each seed: two bases, two lengths of each, two fine-tunings, and the short prefixes.
    assert len(runs.runs) == 2 * (2 + 2 * 2 + 2 + 1)
    assert len({run.key for run in runs}) == len(runs.runs)
    sweep = runs.where(question=NEW, length=3).runs[1]
    assert sweep.config["length"] == 3
    assert len(sweep.config["cells"]) == 4
    assert sweep.needs == (runs.where(method="pretraining", question=NEW).runs[1],)
    assert len(runs.where(method="short prefixes").runs[0].config["cells"]) == 3


def test_both_chapters_start_from_the_same_models() -> None:
    def planned(name: str, make: Callable[..., Plan]) -> Plan:
        defaults = Source(f"prefix_tuning/{name}").defaults
        names = make.__annotations__
        return make(**{one: defaults[one] for one in names if one != "return"})

    bases = planned("long_prefixes", long.plan).where(method="pretraining")
    deep = list(planned("beyond_one_layer", beyond_one_layer))
    assert bases.runs
    assert all(run in deep for run in bases)
    tasks = {
        question: {run.config["task"] for run in bases.where(question=question)}
        for question in long.QUESTIONS
    }
    assert tasks == {NEW: {"sort_ascending"}, KNOWN: {"either_sort"}}


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
        long.plan(**{**SMALL, name: value})


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
    use = results.use_of(model, prefix, tokens)
    _, attention = model(tokens, prefix, return_attention=True)
    rows = attention[1, :, 0, -10:, :3].reshape(-1, 3)
    assert prefix.value_vectors is not None
    values = model.blocks[1].attention.value(prefix.value_vectors[1])[:, :7]
    torch.testing.assert_close(use.number[1, 0], geometry.effective_number(rows).mean())
    torch.testing.assert_close(use.rank[1, 0], geometry.effective_rank(rows @ values))
    torch.testing.assert_close(use.share[1, 0], rows.sum(-1).mean())
    torch.testing.assert_close(use.weights.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    assert (use.distance <= use.limit).all()


def test_prefixes_are_joined_and_averaged_in_every_layer() -> None:
    three = prefixes(3)
    joined, averaged = results.joined(three), results.averaged(three)
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
        results.joined([])


def test_odds_of_joined_prefixes_add_in_the_first_layer_of_the_model() -> None:
    generator = torch.Generator().manual_seed(5)
    model = GPT(GPTConfig(2, 2, 14, 11, 19), generator).double().requires_grad_(False)
    parts = [one.double().requires_grad_(False) for one in prefixes(3)]

    def odds(prefix: Prefix) -> Tensor:
        _, attention = model(sample_tokens(3, 0), prefix, return_attention=True)
        return attention[0, ..., : prefix.length].sum(-1).logit().exp()

    joined, averaged = results.joined(parts), results.averaged([parts[0], parts[0]])
    torch.testing.assert_close(odds(joined), sum(odds(one) for one in parts))
    torch.testing.assert_close(odds(averaged), odds(parts[0]))


def test_an_untrained_prefix_is_attended_to_evenly_if_it_starts_small(
    measured: Trained, small: TrainedInMemory
) -> None:
    tuned = results.best(measured.trials, NEW, 3)
    tuned = Trials(tuple(replace(one, metrics={**one.metrics, "init_std": 1e-9}) for one in tuned))
    generator = torch.Generator().manual_seed(7)
    for use in results.untrained(tuned, small.get, sample_tokens(5, 0), generator):
        torch.testing.assert_close(use.number, torch.full((2, 2), 3.0, dtype=torch.float64))
        assert (use.in_use >= use.number - 1e-9).all()


def verdict(name: str, measured: Trained) -> str:
    return claims.check(stated.CHAPTER, stated.TRAINED, measured)[name].verdict


def changed(measured: Trained, metrics: dict[str, Any], **labels: Any) -> Trained:
    """The same, with other metrics of all trials that have these labels."""
    chosen = {id(one) for one in measured.trials.where(**labels)}

    def change(one: Trial) -> Trial:
        return replace(one, metrics={**one.metrics, **metrics}) if id(one) in chosen else one

    return measured._replace(trials=Trials(tuple(change(one) for one in measured.trials)))


def accurate(accuracy: float) -> dict[str, Any]:
    return {"accuracy": {"sort_descending": accuracy}}


def with_use(measured: Trained, questions: tuple[str, ...], **changes: Tensor) -> Trained:
    """The same, with every seed of the longest prefix used in another way."""
    uses = {question: dict(by_length) for question, by_length in measured.uses.items()}
    for question in questions:
        uses[question][3] = [replace(one, **changes) for one in uses[question][3]]
    return measured._replace(uses=uses)


@pytest.mark.claim("prefix-tuning/long-far-from-uniform")
@pytest.mark.parametrize(("number", "expected"), [(1.1, "supported"), (2.9, "contradicted")])
def test_uniform_attention_refutes(measured: Trained, number: float, expected: str) -> None:
    wrong = with_use(measured, (NEW,), number=torch.full((2, 2), number))
    assert verdict("far-from-uniform", wrong) == expected


@pytest.mark.claim("prefix-tuning/long-few-directions")
@pytest.mark.parametrize(("rank", "expected"), [(1.5, "supported"), (9.0, "contradicted")])
def test_many_directions_refute(measured: Trained, rank: float, expected: str) -> None:
    wrong = with_use(measured, (NEW, KNOWN), rank=torch.full((2, 2), rank))
    assert verdict("few-directions", wrong) == expected


@pytest.mark.claim("prefix-tuning/long-known-task")
@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.9, "supported"), (0.5, "contradicted"), (0.75, "undecided")]
)
def test_one_vector_that_elicits_nothing_refutes(
    measured: Trained, accuracy: float, expected: str
) -> None:
    wrong = changed(measured, accurate(accuracy), question=KNOWN, length=1)
    assert verdict("known-task", wrong) == expected


@pytest.mark.claim("prefix-tuning/long-weights-learn")
@pytest.mark.parametrize(("accuracy", "expected"), [(0.5, "supported"), (0.01, "contradicted")])
def test_weights_that_do_not_learn_refute(
    measured: Trained, accuracy: float, expected: str
) -> None:
    wrong = changed(measured, accurate(accuracy), method="fine-tuning")
    assert verdict("weights-learn", wrong) == expected


@pytest.mark.claim("prefix-tuning/long-new-task")
@pytest.mark.parametrize(("accuracy", "expected"), [(0.001, "supported"), (0.4, "contradicted")])
def test_a_length_that_teaches_refutes(measured: Trained, accuracy: float, expected: str) -> None:
    chosen = {**accurate(accuracy), "validation": {"accuracy": accuracy, "loss": 0.0}}
    long = changed(measured, chosen, question=NEW, length=3)
    able = changed(long, accurate(0.5), method="fine-tuning")
    assert verdict("new-task", able) == expected
    unable = changed(long, accurate(0.0), method="fine-tuning")
    assert verdict("new-task", unable) == "uninformative"


@pytest.mark.claim("prefix-tuning/long-new-task-loss")
@pytest.mark.parametrize(("loss", "expected"), [(1.0, "supported"), (2.0, "contradicted")])
def test_a_loss_that_stays_refutes(measured: Trained, loss: float, expected: str) -> None:
    one = changed(measured, {"loss": {"sort_descending": 2.0}}, question=NEW, length=1)
    many = changed(one, {"loss": {"sort_descending": loss}}, question=NEW, length=3)
    assert verdict("new-task-loss", many) == expected


@pytest.mark.claim("prefix-tuning/long-against-ensemble")
@pytest.mark.parametrize(("trained", "expected"), [(0.93, "supported"), (0.99, "contradicted")])
def test_a_long_one_that_is_better_refutes(
    measured: Trained, trained: float, expected: str
) -> None:
    able = changed(measured, accurate(0.95), question=KNOWN, length=1)
    combined = [{**one, "ensemble": 0.93, "trained": trained} for one in able.combined]
    assert verdict("against-ensemble", able._replace(combined=combined)) == expected

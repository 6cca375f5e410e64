"""Experiment B5: yardsticks, probes, real runs, and claims that fail when something is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from notebooks.prefix_tuning.combining import figures, inside, probes, results, yardsticks
from notebooks.prefix_tuning.combining import plan as combining
from notebooks.prefix_tuning.combining.claims import (
    CHAPTER,
    INSIDE,
    PUBLISHED_MODEL,
    TRAINED,
    claims_at_published_size,
)
from notebooks.prefix_tuning.combining.inside import Evidence
from notebooks.prefix_tuning.combining.probes import Probed
from notebooks.prefix_tuning.combining.results import NAMES
from notebooks.prefix_tuning.combining.yardsticks import standing_loss
from promptlib import claims
from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.tasks import (
    REVERSE,
    RUNNING_MAXIMUM,
    SORT_ASCENDING,
    Task,
    sample_digits,
    task_named,
)
from promptlib.prefix_tuning.trials import Plan, Trial, Trials, read, rebuild
from promptlib.runs import Run
from tests.trained_in_memory import TrainedInMemory

SMALL: dict[str, Any] = {
    "seeds": 2,
    "first_seed": 0,
    "n_layer": 2,
    "width": 8,
    "precision": "float32",
    "gelu": "tanh",
    "pretrain_steps": 10,
    "known_steps": 10,
    "new_steps": 11,
    "learning_rates": [0.1, 0.3],
    "test_sequences": 30,
    "weight_rates": [0.001, 0.003],
}


def digits(n: int, seed: int = 0) -> Tensor:
    return sample_digits(n, "train", torch.Generator().manual_seed(seed))


# Yardsticks.


def test_a_table_knows_what_place_and_token_decide() -> None:
    constant = Task("places", lambda x: torch.arange(10).expand_as(x), 10)
    table = yardsticks.without_attention(constant, 500, torch.Generator().manual_seed(0))
    assert table.right(constant, digits(50, 1)).all()
    assert table.loss(constant, digits(50, 1)) < 0.1
    probabilities = table.log_probabilities.exp().sum(dim=-1)
    assert torch.allclose(probabilities, torch.ones_like(probabilities))


def test_a_table_stands_on_the_last_digit_and_then_on_the_answer_before() -> None:
    table = yardsticks.without_attention(REVERSE, 4000, torch.Generator().manual_seed(0))
    right = table.right(REVERSE, digits(500, 1)).double().mean(dim=0)
    assert right[0] == 1.0  # the first answer is the last digit
    assert right[1:].max() < 0.3
    standing, targets = yardsticks.standing_and_targets(RUNNING_MAXIMUM, digits(20))
    assert torch.equal(standing[:, 0], digits(20)[:, -1])
    assert torch.equal(standing[:, 1:], targets[:, :-1])


def test_independent_digits_leave_a_table_with_their_whole_entropy() -> None:
    task = task_named("add_three")
    assert isinstance(task, Task)
    table = yardsticks.without_attention(task, 30_000, torch.Generator().manual_seed(0))
    assert table.loss(task, digits(2000, 1)) == pytest.approx(math.log(8), abs=0.01)


def test_coincidence_counts_sequences_and_symbols() -> None:
    inputs = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 7, 7], [1, 0, 2, 3, 4, 5, 6, 7, 7, 7]])
    found = yardsticks.coincidence(SORT_ASCENDING, RUNNING_MAXIMUM, inputs)
    assert found == yardsticks.Coincidence(sequences=0.5, symbols=0.95)
    with pytest.raises(ValueError, match="expected digits 0 to 7"):
        yardsticks.coincidence(SORT_ASCENDING, REVERSE, inputs + 1)


def test_no_chain_makes_a_task_of_the_second_list() -> None:
    """A chain is x + c, or a sort and then + c; the inputs of the exercise refuse both."""
    inputs = torch.zeros(4, 10, dtype=torch.int64)
    inputs[0, -1], inputs[1, 0], inputs[2, 1] = 7, 1, 1
    ones = torch.ones(1, 10, dtype=torch.int64)
    for name in combining.INVENTIONS:
        task = inside.simple(name)
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
    streams = probes.residual_streams(model, tokens)
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
    there = probes.answer_probe((features[:400], wanted[:400]), (features[400:], wanted[400:]))
    assert there.accuracy > 0.99
    noise = torch.randn(features.shape, generator=generator)
    absent = probes.answer_probe((noise[:400], wanted[:400]), (noise[400:], wanted[400:]))
    assert absent.accuracy < 0.3
    assert absent.loss > 1.5 > 0.5 > there.loss
    with pytest.raises(ValueError, match=r"features \(4, 3\) and symbols \(5,\)"):
        probes.answer_probe((torch.ones(4, 3), torch.ones(5)), (noise, wanted))


def test_a_read_out_is_all_but_the_best() -> None:
    """Against a minimum that a solver finds without knowing the trick with the coordinates."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(-2, 0, 9)  # directions of very different lengths
    features = torch.nn.functional.layer_norm(
        torch.randn(500, 9, generator=generator) * scales, (9,)
    )
    wanted = (3 * features[:, :4]).softmax(dim=1).multinomial(1, generator=generator)[:, 0]

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        fit = torch.nn.functional.cross_entropy(features @ weight + bias, wanted)
        return fit + probes.RIDGE * weight.square().sum()

    best = [torch.zeros(9, 4).requires_grad_(), torch.zeros(4).requires_grad_()]
    optimiser = torch.optim.LBFGS(best, max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        reached = loss(*best)
        reached.backward()
        return reached

    optimiser.step(closure)
    weight, bias = probes.read_out(features, wanted, 4)
    assert (weight.shape, bias.shape) == ((9, 4), (4,))
    lowest = float(loss(*best).detach())
    assert lowest - 1e-5 < float(loss(weight, bias)) < lowest + 0.01


def test_digits_are_read_where_they_are() -> None:
    """Before any block an output knows the token it stands on: first the last digit."""
    model = GPT(GPTConfig(1, 2, 24, 11, 19), torch.Generator().manual_seed(0))
    train, test = digits(800), digits(300, 1)
    every_stream = probes.known_digits(
        model, (train, REVERSE.solve(train)), (test, REVERSE.solve(test))
    )
    assert every_stream.shape == (2, 10, 10)
    known = every_stream[0]
    for output in range(1, 10):  # reversed answers: output i stands on digit 11 - i of the input
        assert known[output].argmax() == 10 - output
        assert known[output, 10 - output] > 0.99
        others = torch.arange(10) != 10 - output
        assert known[output][others].max() < 0.4


def test_rank_correlation_is_spearmans() -> None:
    first, second = [0.3, 0.1, 0.1, 0.9, -1.0], [5.0, 2.0, 3.0, 3.0, 1.0]
    ours = probes.rank_correlation(first, second)
    assert ours == pytest.approx(float(spearmanr(first, second).statistic), abs=1e-12)
    assert probes.rank_correlation(first, first) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 3, got 2 and 2"):
        probes.rank_correlation([1, 2], [1, 2])
    with pytest.raises(ValueError, match="equal numbers"):
        probes.rank_correlation([1, 1, 1], [1, 2, 3])


# The real chain, as small as it goes.


Real = tuple[Plan, TrainedInMemory, Trials, Evidence]


@pytest.fixture(scope="module")
def real() -> Real:
    torch.set_num_threads(1)
    plan, runs = combining.plan(**SMALL), TrainedInMemory()
    trials = read(plan, runs.get)
    return plan, runs, trials, inside.look(trials, runs.get, 30)


def test_real_runs_go_through_to_claims_and_figures(real: Real) -> None:
    _, runs, trials, evidence = real
    trained = claims.check(CHAPTER, TRAINED, trials)
    carried = claims.check(CHAPTER, INSIDE, evidence, known=trained)
    stated = {**trained, **carried}.values()
    assert len({claim.id for claim in stated}) == len(trained) + len(carried)
    assert {claim.details["seeds"] for claim in stated} == {2}
    for gains in (results.probe_gains(evidence), results.prefix_gains(trials)):
        assert all(value < 1 for seeds in gains.values() for value in seeds)
    best = trials.where(method="free prefix", task="reverse").best()[1]
    inputs = digits(6)
    drawn = [
        figures.all_tasks(trials),
        figures.learning_curves(trials),
        figures.known_maps(evidence),
        figures.probes_and_prefixes(evidence),
        figures.right_by_place(evidence),
        figures.attention_by_place(
            {"with": (*rebuild(best, runs.get), inputs, REVERSE.solve(inputs))}
        ),
    ]
    assert all(len(alt) >= 40 for _, alt in drawn)
    assert all(name in drawn[0][1] for name in NAMES.values())


def test_evidence_is_of_the_models_that_ran(real: Real) -> None:
    _, runs, trials, evidence = real
    moved = evidence.moved["prefix"]["rotate"]
    assert moved.shape == (2, 2)
    assert moved[:, 0].max() < 1e-6  # the first layer of a given content
    assert moved[:, 1].min() > 0
    tuned = evidence.moved["fine-tuned"]["rotate"]
    assert tuned.shape == (2, 2)
    assert tuned.min() > 0
    assert set(evidence.moved["fine-tuned"]) == set(combining.CONTROLLED)
    assert evidence.right["prefix"]["rotate"].shape == (2, 10)
    assert [len(seeds) for seeds in evidence.probes.values()] == [2] * 8
    assert len(evidence.probes["rotate"][0]) == 2
    with pytest.raises(ValueError, match="at least 20 sequences for the probes, got 5"):
        inside.look(trials, runs.get, 5)


def test_agreements_compare_with_everything() -> None:
    inputs = digits(40)
    found = inside.agreements(SORT_ASCENDING.solve(inputs), REVERSE, inputs)
    assert found["sort_ascending"] == 1.0
    assert set(found) == {"right", "input", *MIXED}
    assert found["right"] < 0.5


# Claims that turn when something is wrong.

CONFIG: dict[str, Any] = {"model": PUBLISHED_MODEL, "test_sequences": 1000}
Shares = Sequence[float]


def sweep(method: str, task: str, *shares: float, loss: float | Shares = 0.1) -> list[Trial]:
    """Sweeps of one cell, one for each seed; losses are parts of the loss without attention."""
    losses = [loss] * len(shares) if isinstance(loss, float) else loss
    trials = []
    for seed, (share, part) in enumerate(zip(shares, losses, strict=True)):
        run = Run("somewhere:tune", {**CONFIG, "task": task, "seed": seed})
        nats = part * standing_loss(task)
        metrics = {
            "accuracy": {task: share},
            "loss": {task: nats},
            "validation": {"accuracy": share, "loss": nats},
        }
        trials.append(Trial({"method": method, "task": task}, run, None, metrics))
    return trials


def pretrained(mixed: float, composed: float, model: Mapping[str, Any] = PUBLISHED_MODEL) -> Trials:
    metrics = {"accuracy": {**dict.fromkeys(MIXED, mixed), "ascending_add_one": composed}}
    config = {**CONFIG, "model": model, "task": "mixture"}
    runs = [Run("somewhere:pretrain", {**config, "seed": seed}) for seed in range(2)]
    return Trials(tuple(Trial({"method": "pretrained"}, run, None, metrics) for run in runs))


def measured_as(
    prefixes: Mapping[str, Shares],
    *,
    base: Trials | None = None,
    losses: Mapping[str, float | Shares] | None = None,
    **tuned: Shares,
) -> Trials:
    """What the chapter says, unless told otherwise."""
    shares: dict[str, Shares] = {
        **dict.fromkeys(MIXED, (0.997, 0.99)),
        "ascending_add_one": (0.65, 0.7),
        "descending_add_one": (0.1, 0.2),
        "add_three": (1.0, 0.99),
        "double_histogram": (0.006, 0.01),
        "ascending_histogram": (0.0, 0.0),
        "reverse": (0.0, 0.001),
        "rotate": (0.0, 0.0),
        "running_maximum": (0.9, 0.95),
        **prefixes,
    }
    parts = {**dict.fromkeys(combining.NEW, 0.05), "descending_add_one": 0.75, **(losses or {})}
    rows = list(base or pretrained(0.24, 0.0))
    for task in combining.PUBLISHED:
        rows += sweep("published prefix", task, *shares[task])
    for task in combining.NEW:
        rows += sweep("free prefix", task, *shares[task], loss=parts[task])
    for task in combining.CONTROLLED:
        rows += sweep("fine-tuned", task, *tuned.get(task, (0.99, 0.98)))
    return Trials(tuple(rows))


AS_SAID = measured_as({})


def verdict(name: str, trials: Trials) -> str:
    return claims.check(CHAPTER, TRAINED, trials)[name].verdict


def carried(name: str, evidence: Evidence) -> claims.Claim:
    known = claims.check(CHAPTER, TRAINED, evidence.trials)
    rows = [row for row in INSIDE if row.name == name]
    return claims.check(CHAPTER, rows, evidence, known=known)[name]


def test_all_is_supported_when_everything_is_as_the_chapter_says() -> None:
    found = claims.check(CHAPTER, TRAINED, AS_SAID).values()
    assert {claim.verdict for claim in found} == {"supported"}


@pytest.mark.claim("prefix-tuning/combining-mixture-learned")
def test_an_untrained_model_refutes_the_control_and_silences_what_needs_it() -> None:
    wrong = measured_as({}, base=pretrained(0.0, 0.0))
    assert verdict("mixture-learned", wrong) == "contradicted"
    assert verdict("known-add-one", wrong) == "uninformative"
    assert verdict("pretrained-composition", wrong) == "uninformative"


@pytest.mark.claim("prefix-tuning/combining-known-sort-ascending")
@pytest.mark.claim("prefix-tuning/combining-known-sort-descending")
@pytest.mark.claim("prefix-tuning/combining-known-add-one")
@pytest.mark.claim("prefix-tuning/combining-known-add-two")
@pytest.mark.claim("prefix-tuning/combining-ascending-add-one")
@pytest.mark.parametrize(
    ("name", "task", "failing", "between"),
    [
        *((f"known-{task.replace('_', '-')}", task, (0.3, 0.301), (0.3, 0.7)) for task in MIXED),
        ("ascending-add-one", "ascending_add_one", (0.0, 0.0), (0.01, 0.01)),
    ],
)
def test_prefixes_that_do_not_learn_refute_what_they_reach(
    name: str, task: str, failing: Shares, between: Shares
) -> None:
    assert verdict(name, measured_as({task: failing})) == "contradicted"
    assert verdict(name, measured_as({task: between})) == "undecided"


@pytest.mark.claim("prefix-tuning/combining-pretrained-composition")
def test_a_model_that_composes_by_itself_refutes_that_the_task_is_new() -> None:
    wrong = measured_as({}, base=pretrained(0.2, 0.2))
    assert verdict("pretrained-composition", wrong) == "contradicted"
    assert verdict("ascending-add-one", wrong) == "uninformative"


@pytest.mark.claim("prefix-tuning/combining-double-histogram")
@pytest.mark.claim("prefix-tuning/combining-moving-fails")
def test_prefixes_that_learn_everything_refute_what_they_cannot() -> None:
    able = measured_as({"double_histogram": (0.9, 0.9), "reverse": (0.7, 0.7)})
    assert verdict("double-histogram", able) == "contradicted"
    assert verdict("moving-fails", able) == "contradicted"


def losing(**losses: Shares) -> Trials:
    """What the chapter says, but for the test losses of some tasks, by seed; 1 is gain 0."""
    return measured_as(dict.fromkeys(losses, (0.0, 0.0)), losses=losses)


@pytest.mark.claim("prefix-tuning/combining-lists-overlap")
def test_lists_that_separate_refute_that_they_overlap() -> None:
    separate = losing(running_maximum=(0.95, 0.955), descending_add_one=(0.3, 0.305))
    assert verdict("lists-overlap", separate) == "contradicted"
    same = losing(running_maximum=(0.3, 0.305), descending_add_one=(0.305, 0.3))
    assert verdict("lists-overlap", same) == "undecided"


@pytest.mark.claim("prefix-tuning/combining-add-three")
@pytest.mark.claim("prefix-tuning/combining-running-maximum")
@pytest.mark.parametrize("task", ["add_three", "running_maximum"])
def test_a_prefix_no_better_than_a_table_refutes_that_it_gains(task: str) -> None:
    name = task.replace("_", "-")
    assert verdict(name, losing(**{task: (1.05, 1.055)})) == "contradicted"
    assert verdict(name, losing(**{task: (0.05, 1.05)})) == "undecided"


@pytest.mark.claim("prefix-tuning/combining-fine-tuning-moves")
@pytest.mark.claim("prefix-tuning/combining-fine-tuning-counts")
@pytest.mark.parametrize(
    ("task", "control", "silenced"),
    [
        ("rotate", "fine-tuning-moves", "moving-fails"),
        ("double_histogram", "fine-tuning-counts", "double-histogram"),
    ],
)
def test_fine_tuning_that_fails_too_refutes_the_control(
    task: str, control: str, silenced: str
) -> None:
    wrong = measured_as({}, **{task: (0.1, 0.1)})
    assert verdict(control, wrong) == "contradicted"
    assert verdict(silenced, wrong) == "uninformative"


def test_at_another_size_nothing_is_called_reproduced() -> None:
    small = measured_as({}, base=pretrained(0.24, 0.0, {**PUBLISHED_MODEL, "n_embd": 64}))
    found = claims.check(CHAPTER, TRAINED, small)
    assert {claim.replication for claim in found.values()} == {None, "other size"}
    differences = found["mixture-learned"].details["published"]["differs"]
    assert list(differences) == ["width 64, not 256"]


def test_an_archive_without_weights_is_judged_as_the_page_judges(real: Real) -> None:
    plan, runs, trials, _ = real
    archived = claims_at_published_size(
        plan, lambda run: dataclasses.replace(runs.get(run), tensors={})
    )
    assert archived == list(claims.check(CHAPTER, TRAINED, trials).values())


@pytest.mark.claim("prefix-tuning/combining-probe-predicts")
def test_probes_in_another_order_refute_that_they_predict(real: Real) -> None:
    places = {task: 0.1 + 0.1 * place for place, task in enumerate(combining.NEW)}

    def probing(order: Sequence[str]) -> claims.Claim:
        read_out = {
            task: [[Probed(0.01, 0.0, 9.0), Probed(places[other] * standing_loss(task), 0.5, 0.1)]]
            * 2
            for task, other in zip(combining.NEW, order, strict=True)
        }
        trials = measured_as({}, losses=places)
        return carried(
            "probe-predicts", dataclasses.replace(real[3], trials=trials, probes=read_out)
        )

    assert probing(combining.NEW).value == pytest.approx(1.0)
    backwards = probing(combining.NEW[::-1])
    assert backwards.value == pytest.approx(-1.0)
    assert backwards.verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/combining-own-digit")
def test_outputs_that_carry_every_digit_refute_that_they_carry_their_own(real: Real) -> None:
    aligned = torch.where(torch.eye(10, dtype=torch.bool), 1.0, 0.2).expand(3, 10, 10)
    for known, verdict in ((aligned, "supported"), (torch.ones(3, 10, 10), "contradicted")):
        seen = dataclasses.replace(real[3], known=[known, known])
        assert carried("own-digit", seen).verdict == verdict


@pytest.mark.claim("prefix-tuning/combining-moves-and-fails")
def test_attention_that_stays_refutes_that_it_moves(real: Real) -> None:
    for far, verdict in ((0.3, "supported"), (0.01, "contradicted")):
        rows = dict.fromkeys(combining.NEW, torch.tensor([[0.0, far]] * 2))
        seen = dataclasses.replace(real[3], trials=AS_SAID, moved={"prefix": rows})
        assert carried("moves-and-fails", seen).verdict == verdict


@pytest.mark.claim("prefix-tuning/combining-fine-tuning-re-aims")
def test_fine_tuning_that_leaves_the_first_layer_refutes_that_it_re_aims(real: Real) -> None:
    def moving(first: float, trials: Trials = AS_SAID) -> str:
        rows = dict.fromkeys(combining.CONTROLLED, torch.tensor([[first, 0.5]] * 2))
        seen = dataclasses.replace(real[3], trials=trials, moved={"fine-tuned": rows})
        return carried("fine-tuning-re-aims", seen).verdict

    assert moving(0.6) == "supported"
    assert moving(0.5) == "undecided"
    assert moving(0.1) == "contradicted"
    assert moving(0.6, measured_as({}, rotate=(0.1, 0.1))) == "uninformative"


def test_controls_have_the_steps_of_the_prefixes(real: Real) -> None:
    plan = real[0]
    for task in combining.CONTROLLED:
        learning = plan.where(method=("free prefix", "fine-tuned"), task=task).runs
        assert {run.config["steps"] for run in learning} == {SMALL["new_steps"]}
        assert {run.config["batch_size"] for run in learning} == {planning.SMALL_BATCH_SIZE}
        assert {needed for run in learning for needed in run.needs} == set(
            plan.where(method="pretrained")
        )

"""The claims of the chapter on continuous prompts fail when something is wrong; figures say it."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete import claims as evidence
from notebooks.prefix_tuning.continuous_and_discrete import (
    counting,
    decoding,
    figures,
    figures_places,
    forcing,
    places,
    plan,
    results,
    settling,
    training,
    vectors,
)
from notebooks.prefix_tuning.continuous_and_discrete.forcing import Forced
from notebooks.prefix_tuning.continuous_and_discrete.places import Places, Steps
from notebooks.prefix_tuning.continuous_and_discrete.results import Said, Spoken
from promptlib import claims
from promptlib.claims import Claim, decide
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.trials import Get, Plan, Trials, read
from promptlib.runs import Result, Run
from tests.trained_in_memory import TrainedInMemory, silent

SMALL: dict[str, Any] = {
    "seeds": 1,
    "first_seed": 0,
    "layers": 2,
    "width": 32,
    "block": 14,
    "pretrain_steps": 600,
    "batch_size": 12,
    "weight_learning_rate": 0.01,
    "learning_rates": [0.3],
    "init_scales": [1.0],
    "sweep_strings": 3,
    "attempts": 1,
    "force_steps": 120,
    "prompt_lengths": [1, 4],
    "string_lengths": [2, 4],
    "strings": 7,
    "distinct_steps": 30,
    "count_lengths": [4],
    "count_strings": 60,
}

SEEDS = 4
"""Each claim is judged as if so many seeds had given what the one trained here gave."""

Learned = tuple[Plan, TrainedInMemory, Trials]


def trained(run: Run, get: Get) -> Result:
    """Train again, under whatever the test has broken."""
    module, _, function = run.train.partition(":")
    needs = [get(needed) for needed in run.needs]
    return getattr(importlib.import_module(module), function)(run.config, needs, silent)


@pytest.fixture(scope="module")
def learned() -> Learned:
    """Return the real experiment, as small as it still works."""
    torch.set_num_threads(1)
    planned, runs = plan.plan(**SMALL), TrainedInMemory()
    return planned, runs, seeds_alike(read(planned, runs.get))


@pytest.fixture(scope="module")
def spoken(learned: Learned) -> list[Spoken]:
    _, runs, trials = learned
    return results.spoken(trials, runs.get)


@pytest.fixture(scope="module")
def found(learned: Learned) -> list[Places]:
    _, runs, trials = learned
    return places.all_places(trials, runs.get)["token"]


@pytest.fixture(scope="module")
def met(learned: Learned) -> dict[str, Claim]:
    """The controls of other claims, as if they had been met."""
    return {
        name: dataclasses.replace(judge(name, learned[2]), verdict="supported")
        for name in ("one-vector-says-likely-strings", "one-vector-counts", "more-vectors-say-more")
    }


def seeds_alike(trials: Trials) -> Trials:
    """Repeat what one seed gave."""
    sweep = trials.where(method="sweep")
    return sweep + Trials(SEEDS * trials.where(method=lambda one: one != "sweep").rows)


TABLES = (
    evidence.EMBEDDING,
    evidence.TRIALS,
    evidence.SPOKEN,
    evidence.ROUNDED,
    evidence.PLACES,
    evidence.RATES,
    evidence.SAMPLING,
)
ROWS: dict[str, claims.Row] = {row.name: row for table in TABLES for row in table}


def judge(name: str, measured: Any, known: Mapping[str, Claim] | None = None) -> Claim:
    """Judge one row; its controls are known."""
    controls = {other: claim for other, claim in (known or {}).items() if other != name}
    return claims.check("prefix-tuning/", [ROWS[name]], measured, controls)[name]


def forget_to_train(model: GPT, targets: Tensor, start: Tensor, *rest: Any, **more: Any) -> Forced:
    """Stand in for `force`; returns the same vector for every prompt, and says nothing."""
    same = torch.zeros_like(start)
    return Forced(same, torch.full((len(targets),), -1), torch.zeros(len(targets)))


def again(learned: Learned, *methods: str) -> tuple[Trials, Get]:
    """Train the runs of some methods again, under whatever the test has broken; read all."""
    planned, runs, _ = learned
    broken = {run.key: trained(run, runs.get) for run in planned.where(method=methods).runs}

    def get(run: Run) -> Result:
        return broken.get(run.key) or runs.get(run)

    return seeds_alike(read(planned, get)), get


@pytest.mark.claim("prefix-tuning/embedding-is-token")
def test_a_model_that_adds_positions_twice_refutes_that_embeddings_are_tokens(
    spoken: list[Spoken],
) -> None:
    model = copy.deepcopy(spoken[0].model).double()
    tokens = torch.randint(
        model.config.vocab_size, (5, 11), generator=torch.Generator().manual_seed(0)
    )
    right = evidence.token_errors(model, tokens)
    assert judge("embedding-is-token", right).verdict == "holds"

    def twice(model: GPT, embedded: Tensor) -> Tensor:
        return model(embedded + model.position.weight[: embedded.shape[1]])

    wrong = evidence.token_errors(model, tokens, twice)
    assert judge("embedding-is-token", wrong).verdict == "fails"


@pytest.mark.claim("prefix-tuning/forced-strings-decode")
def test_success_without_a_margin_refutes_that_strings_decode(
    learned: Learned, spoken: list[Spoken], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge("forced-strings-decode", spoken).verdict == "holds"
    right = decoding.margins
    monkeypatch.setattr(forcing, "margins", lambda *given: right(*given) + 3.0)
    wrong = results.spoken(*again(learned, "force"))
    assert judge("forced-strings-decode", wrong).verdict == "fails"
    nothing = [spoken[0]._replace(forced={1: []})]
    assert judge("forced-strings-decode", nothing).verdict == "fails"


@pytest.mark.claim("prefix-tuning/distinct-after-tokens")
def test_counting_prompts_refutes_that_tokens_share_completions(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = judge("distinct-after-tokens", learned[2])
    assert claim.verdict == "supported"
    assert claim.replication == "other size"
    assert "2 blocks, not 32" in claim.details["published"]["differs"]
    monkeypatch.setattr(vectors, "count_distinct", len)
    wrong, _ = again(learned, "survey")
    assert judge("distinct-after-tokens", wrong).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/distinct-after-virtual-tokens")
@pytest.mark.claim("prefix-tuning/more-completions-than-tokens")
def test_vectors_that_were_not_trained_refute_that_they_differ(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "force", forget_to_train)
    wrong, _ = again(learned, "different")
    assert wrong.where(method="different")[0].metrics["all"] == 1
    for name in ("distinct-after-virtual-tokens", "more-completions-than-tokens"):
        assert judge(name, wrong).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/random-vectors-differ-too")
def test_random_vectors_that_ignore_their_size_refute_that_they_differ(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge("random-vectors-differ-too", learned[2]).verdict == "supported"

    def small(model: GPT, n: int, k: int, scale: float, generator: torch.Generator) -> Tensor:
        return 1e-3 * torch.randn(n, k, model.config.n_embd, generator=generator)

    monkeypatch.setattr(vectors, "random_vectors", small)
    wrong, _ = again(learned, "survey")
    assert judge("random-vectors-differ-too", wrong).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/tokens-miss-forced-strings")
def test_comparing_one_symbol_refutes_that_tokens_miss_strings(
    spoken: list[Spoken], met: dict[str, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = results.said_by_tokens

    def first_symbol(said: Said, completions: Tensor) -> Tensor:
        return right(Said(said.vectors, said.strings[:, :1]), completions)

    monkeypatch.setattr(results, "said_by_tokens", first_symbol)
    assert judge("tokens-miss-forced-strings", spoken, met).verdict == "contradicted"


def test_what_tokens_say_is_found(spoken: list[Spoken]) -> None:
    one = spoken[0].one_token
    prompts = torch.zeros(len(one), 1, 32)
    assert results.said_by_tokens(Said(prompts, one[:, :4]), one).all()
    other = one[:, :4].clone()
    other[:, 3] = (other[:, 3] + 1) % len(one)
    assert results.said_by_tokens(Said(prompts, other), one).double().mean() < 0.5
    with pytest.raises(ValueError, match=r"completions of 2 symbols .* strings of 4"):
        results.said_by_tokens(Said(prompts, other), one[:, :2])


@pytest.mark.claim("prefix-tuning/one-vector-cannot-say-anything")
def test_success_that_checks_nothing_refutes_that_one_vector_has_limits(
    learned: Learned, met: dict[str, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = decoding.margins
    monkeypatch.setattr(forcing, "margins", lambda *given: right(*given) + 100.0)
    wrong, _ = again(learned, "force")
    assert judge("one-vector-cannot-say-anything", wrong, met).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/more-vectors-say-more")
@pytest.mark.claim("prefix-tuning/one-vector-says-likely-strings")
@pytest.mark.claim("prefix-tuning/one-vector-counts")
def test_forcing_that_trains_nothing_refutes_what_helps_it(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge("more-vectors-say-more", learned[2]).verdict == "supported"
    monkeypatch.setattr(training, "force", forget_to_train)
    wrong, _ = again(learned, "force", "count")
    assert (results.steps(wrong) == -1).all()
    for name in ("more-vectors-say-more", "one-vector-says-likely-strings", "one-vector-counts"):
        assert judge(name, wrong).verdict == "contradicted"


def test_without_its_control_a_search_that_finds_nothing_says_nothing(
    learned: Learned,
    found: list[Places],
    met: dict[str, Claim],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was forced: what one vector cannot say, and what tokens miss, is not known."""
    monkeypatch.setattr(training, "force", forget_to_train)
    wrong, get = again(learned, "force", "count")
    controls = {name: judge(name, wrong) for name in met}
    for name, measured in (
        ("one-vector-cannot-say-anything", wrong),
        ("tokens-miss-forced-strings", results.spoken(wrong, get)),
        ("virtual-tokens-are-far", []),
        ("virtual-tokens-are-far", found),
        ("region-ends-before-token", []),
        ("distance-is-the-learning-rate", []),
        ("rounding-loses-the-string", [{}]),
    ):
        claim = judge(name, measured, controls)
        assert claim.verdict == "uninformative"
        assert decide([*controls.values(), claim])[-1].verdict == "uninformative"


@pytest.mark.claim("prefix-tuning/counting-by-sampling")
def test_a_limit_without_its_deviation_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge("counting-by-sampling", evidence.share_missed(seed=1)).verdict == "holds"
    monkeypatch.setattr(counting, "deviation", lambda k, missed: 0.0)
    assert judge("counting-by-sampling", evidence.share_missed(seed=1)).verdict == "fails"


@pytest.mark.claim("prefix-tuning/virtual-tokens-are-far")
@pytest.mark.claim("prefix-tuning/region-ends-before-token")
def test_vectors_that_never_left_their_tokens_refute_that_they_are_far(
    learned: Learned, spoken: list[Spoken], found: list[Places], met: dict[str, Claim]
) -> None:
    planned, runs, _ = learned
    names = ("virtual-tokens-are-far", "region-ends-before-token")
    assert all(judge(name, found, met).verdict == "supported" for name in names)
    # The token itself in place of what was learned from it: at no distance, and never broken.
    settled = runs.get(planned.where(method="settle").runs[0])
    stayed = Result(
        {"steps": {"token": [1] * len(settled.tensors["strings"])}},
        {**settled.tensors, "vectors.token": settled.tensors["start.token"]},
    )
    with pytest.raises(ValueError, match="every vector must say its string"):
        places.places(spoken[0].model, stayed, "token", torch.Generator())
    near = [
        dataclasses.replace(p, distance=0.1 * p.among_tokens.median() * torch.ones_like(p.distance))
        for p in found
    ]
    assert all(judge(name, near, met).verdict == "contradicted" for name in names)


@pytest.mark.claim("prefix-tuning/region-ends-before-token")
def test_a_search_that_stops_at_the_token_refutes_that_regions_end_early(
    found: list[Places], met: dict[str, Claim]
) -> None:
    """Or one that finds no other completion at all."""
    for breaking in (found[0].distance, torch.full_like(found[0].norms, float("inf"))):
        wrong = [dataclasses.replace(one, breaking=breaking) for one in found]
        assert judge("region-ends-before-token", wrong, met).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/distance-is-the-learning-rate")
def test_steps_of_one_size_refute_that_their_size_decides(
    learned: Learned, met: dict[str, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs, trials = learned
    steps = places.all_steps(trials, runs.get)
    assert len(steps) == SEEDS
    one = steps[0]
    assert 0 < one.common <= SMALL["count_strings"]
    assert one.said.shape == one.distance.shape == one.still_nearest.shape == (len(one.rates),)
    assert ((one.said > 0) & (one.said <= 100)).all()
    figure, alt = figures_places.distance_by_rate(steps)
    assert f"{one.distance[-1]:.2f} at {one.rates[-1]:g}" in alt
    figure.canvas.draw()
    plt.close(figure)
    with pytest.raises(ValueError, match="no string was said with all learning rates"):
        figures_places.distance_by_rate([])

    def same_rate(
        model: GPT, targets: Tensor, start: Tensor, rates: Tensor, *rest: Any, **more: Any
    ) -> Forced:
        return right(model, targets, start, torch.full_like(rates, 0.1), *rest, **more)

    right = settling.force
    monkeypatch.setattr(settling, "force", same_rate)
    wrong = places.all_steps(*again(learned, "rates"))
    assert judge("distance-is-the-learning-rate", wrong, met).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/rounding-loses-the-string")
def test_rounding_that_keeps_the_vectors_is_refuted(
    spoken: list[Spoken], met: dict[str, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = results.survives_rounding(spoken)
    assert judge("rounding-loses-the-string", rounded, met).verdict == "supported"

    def unrounded(model: GPT, prompts: Tensor, strings: Tensor, by_angle: bool = False) -> Tensor:
        said = decoding.complete(model, prompts, strings.shape[1])
        return (said == strings).all(dim=1)

    monkeypatch.setattr(results, "rounded_say", unrounded)
    wrong = results.survives_rounding(spoken)
    assert judge("rounding-loses-the-string", wrong, met).verdict == "contradicted"


N_STRINGS = 40
"""Made-up strings of each kind, length and seed."""


def said_of_made_up(percent: float) -> list[bool]:
    """Which of the made-up strings make so many percent of them."""
    said = round(percent / 100 * N_STRINGS)
    return said * [True] + (N_STRINGS - said) * [False]


def measuring(trials: Trials, metrics: Sequence[Mapping[str, Any]], **labels: Any) -> Trials:
    """Let the runs with these labels, one a seed, have measured something else."""
    chosen = trials.where(**labels)
    changed = [
        dataclasses.replace(trial, metrics=made_up)
        for trial, made_up in zip(chosen, metrics, strict=True)
    ]
    replaced = set(map(id, chosen))
    return Trials((*(row for row in trials if id(row) not in replaced), *changed))


def said_by_length(trials: Trials, shares: Mapping[str, Sequence[tuple[float, float]]]) -> Trials:
    """Let the first and the last prompt length say shares of the strings, the same of each length.

    By kind; for each seed what the two say, in percent. Kinds that are not named are not said.
    """
    shape = (len(plan.KINDS), len(SMALL["string_lengths"]), N_STRINGS)
    for place, n in enumerate(SMALL["prompt_lengths"]):
        steps = np.full((SEEDS, *shape), -1)
        for kind, by_seed in shares.items():
            for seed, percents in enumerate(by_seed):
                steps[seed, plan.KINDS.index(kind), :, said_of_made_up(percents[place])] = 1
        made_up = [{"steps": one.tolist()} for one in steps]
        trials = measuring(trials, made_up, method="force", vectors=n)
    return trials


def said_by_a_token(shares: Sequence[float]) -> list[Spoken]:
    """Let a token say shares, in percent, of the strings forced with one vector."""
    model = GPT(GPTConfig(1, 1, 4, 5, 6))
    strings = torch.arange(4 * N_STRINGS).view(N_STRINGS, 4)
    forced = {1: [Said(torch.zeros(N_STRINGS, 1, 32), strings)]}
    found = []
    for share in shares:
        said = strings[said_of_made_up(share)]
        found.append(Spoken(model, forced, torch.cat([said, torch.full((1, 4), -1)]), said))
    return found


def certifying(limits: Sequence[float]) -> list[dict[str, Any]]:
    """Strings all said and all equally likely, so that the certificates are the limits, in bits."""
    draws = 60
    lost = -math.log2(1 - counting.deviation(draws, counting.MISSED / len(limits)))
    return [{"bits": draws * [bits + lost], "success": draws * [True]} for bits in limits]


def with_sizes(v: int, excess: float) -> dict[str, Any]:
    """Random vectors larger than tokens say so many percent more of the number of tokens."""
    return {
        "tokens": 50,
        "random": [
            {"scale": 0.5, "distinct": 1},
            {"scale": 2.0, "distinct": 50 + (excess - 4) / 100 * v},
            {"scale": 8.0, "distinct": 50 + (excess + 4) / 100 * v},
        ],
    }


@pytest.fixture
def made_up(learned: Learned, found: list[Places]) -> dict[str, Callable[[list[float]], Any]]:
    """What is measured, for each outcome, if its values are those given, one a seed."""
    trials, place = learned[2], found[0]
    v, spacing = results.n_tokens(trials), place.among_tokens.median()
    rates = list(plan.STEP_RATES)

    def at(**fields: Tensor) -> Places:
        return dataclasses.replace(place, **fields)

    def growing(ratio: float) -> Steps:
        nothing = np.zeros(len(rates))
        low, high = evidence.TENFOLD
        power = math.log(ratio) / math.log(high / low)
        return Steps(rates, nothing, np.array(rates) ** power, nothing, nothing, 1)

    return {
        "distinct-after-tokens": lambda x: measuring(
            trials, [{"tokens": one / 100 * v} for one in x], method="survey"
        ),
        "distinct-after-virtual-tokens": lambda x: measuring(
            trials,
            [{"kinds": {"text": {"distinct": one / 100 * v}}} for one in x],
            method="different",
        ),
        "more-completions-than-tokens": lambda x: measuring(
            trials, [{"all": one * v} for one in x], method="different"
        ),
        "random-vectors-differ-too": lambda x: measuring(
            trials, [with_sizes(v, one) for one in x], method="survey"
        ),
        "one-vector-says-likely-strings": lambda x: measuring(
            said_by_length(trials, {"model": [(one, 0) for one in x]}),
            [{"success": said_of_made_up(one)} for one in x],
            method="count",
        ),
        "one-vector-cannot-say-anything": lambda x: said_by_length(
            trials, {"random": [(one, 0) for one in x]}
        ),
        "more-vectors-say-more": lambda x: said_by_length(
            trials, {kind: [(30, 30 + one) for one in x] for kind in evidence.EASIER}
        ),
        "tokens-miss-forced-strings": said_by_a_token,
        "one-vector-counts": lambda x: measuring(trials, certifying(x), method="count"),
        "virtual-tokens-are-far": lambda x: [
            at(distance=one * spacing * torch.ones(3)) for one in x
        ],
        "region-ends-before-token": lambda x: [
            at(distance=torch.full((3,), 2.0), breaking=torch.full((3,), 2 * one)) for one in x
        ],
        "distance-is-the-learning-rate": lambda x: [growing(one) for one in x],
        "rounding-loses-the-string": lambda x: [
            {1: torch.ones(N_STRINGS), 4: torch.tensor(said_of_made_up(one))} for one in x
        ],
    }


AWAY = {
    "distinct-after-tokens": 5,
    "distinct-after-virtual-tokens": 5,
    "more-completions-than-tokens": 0.2,
    "random-vectors-differ-too": 10,
    "one-vector-says-likely-strings": 10,
    "one-vector-cannot-say-anything": 10,
    "more-vectors-say-more": 10,
    "tokens-miss-forced-strings": 20,
    "one-vector-counts": 1,
    "virtual-tokens-are-far": 0.3,
    "region-ends-before-token": 0.2,
    "distance-is-the-learning-rate": 1,
    "rounding-loses-the-string": 20,
}
"""For each outcome, how far from its limit its values are made up."""


@pytest.mark.parametrize("name", AWAY)
def test_values_beyond_the_limit_by_more_than_their_interval_decide(
    made_up: dict[str, Callable[[list[float]], Any]], met: dict[str, Claim], name: str
) -> None:
    """On both sides; around the limit they decide nothing."""

    def judged(values: list[float]) -> Claim:
        return judge(name, made_up[name](values), met)

    limit, away = judged(SEEDS * [1.0]).details["limit"], AWAY[name]
    half = away / 4
    above = judged([limit + away + step for step in (-half, 0, 0, half)])
    below = judged([limit - away + step for step in (0, half, half, 0)])
    around = judged([limit + step for step in (-half, half, half, -half)])
    assert above.id == f"prefix-tuning/{name}"
    assert above.details["interval"][0] > limit
    assert below.details["interval"][1] < limit
    decided = (above.verdict, below.verdict)
    asked = above.details["side"]
    assert decided == (
        ("supported", "contradicted") if asked == "above" else ("contradicted", "supported")
    )
    assert around.details["interval"][0] < limit < around.details["interval"][1]
    assert around.verdict == "undecided"


def test_a_best_setting_at_an_end_of_the_sweep_is_named(learned: Learned) -> None:
    (trial, *_) = learned[2].where(method="sweep")
    cells = [
        {"learning_rate": rate, "init_scale": scale, "success": [s], "right": 0.5}
        for rate, scale, s in ((0.1, 1.0, 0.2), (0.3, 1.0, 0.9), (1.0, 1.0, 0.8), (1.0, 3.0, 0.3))
    ]

    def ends() -> list[str]:
        return results.at_the_ends(
            Trials(tuple(dataclasses.replace(trial, metrics=cell) for cell in cells))
        )

    assert ends() == ["init scale 1"]
    cells[2]["success"] = [1.0]
    assert ends() == ["learning rate 1", "init scale 1"]
    cells.append({"learning_rate": 3.0, "init_scale": 0.3, "success": [0.0], "right": 0.1})
    assert ends() == []


def test_places_are_what_they_say(learned: Learned, found: list[Places]) -> None:
    place = found[0]
    n = len(place.distance)
    assert 0 < n <= SMALL["count_strings"]
    for name in ("norms", "moved", "cosine", "breaking", "random_distance", "random_cosine"):
        assert getattr(place, name).shape == (n,)
    assert (place.moved >= place.distance - 1e-4).all()  # each started at a token
    assert (place.cosine.abs() <= 1 + 1e-6).all()


def test_the_figures_say_what_they_show(
    learned: Learned, spoken: list[Spoken], found: list[Places]
) -> None:
    planned, runs, trials = learned
    model = spoken[0].model
    settled = runs.get(planned.where(method="settle").runs[0])
    string, corners = results.example_place(model, settled)
    assert len(string) == SMALL["count_lengths"][0]
    drawn = {
        "All points of a region": figures_places.slice_of_space(model, corners, 3, 9),
        "likelihood: from": figures.sweep_map(trials),
        "LLaMA-7B 76.3 %": figures.distinct_completions(trials),
        "4 symbols": figures.success_by_length(trials),
        "Median updates": figures.success_by_steps(trials, 4),
        f"{math.log2(results.n_tokens(trials)):.1f} bits a token": figures.bits_of_prompts(trials),
        "median distances": figures_places.where_they_lie(found),
    }
    for words, (figure, alt) in drawn.items():
        assert words in alt
        figure.canvas.draw()
        plt.close(figure)
    line = [(name, i * torch.ones(32)) for i, name in enumerate("abc")]
    with pytest.raises(ValueError, match="three vectors lie on a line"):
        figures_places.slice_of_space(model, line, 3, 9)
    with pytest.raises(ValueError, match="no string was said with one vector"):
        figures_places.where_they_lie([])


def test_one_region_has_one_colour() -> None:
    """A model that always says the same has a map of one region."""
    model = GPT(GPTConfig(1, 1, 4, 5, 6))
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.fill_(1.0)
    corners = [(name, torch.eye(4)[i]) for i, name in enumerate("abc")]
    figure, alt = figures_places.slice_of_space(model, corners, 2, 6)
    assert "into 1 regions" in alt
    plt.close(figure)

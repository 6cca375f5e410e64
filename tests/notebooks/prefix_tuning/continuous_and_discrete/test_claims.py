"""The claims of the chapter on continuous prompts fail when something is wrong; figures say it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
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
    plan,
    pretraining,
    results,
    settling,
    step_size,
)
from notebooks.prefix_tuning.continuous_and_discrete import forcing as forcing_module
from notebooks.prefix_tuning.continuous_and_discrete import training as experiments
from notebooks.prefix_tuning.continuous_and_discrete import vectors as survey
from notebooks.prefix_tuning.continuous_and_discrete.forcing import Forced
from notebooks.prefix_tuning.continuous_and_discrete.plan import LanguagePlan
from notebooks.prefix_tuning.continuous_and_discrete.results import Measured, Places, Said
from notebooks.prefix_tuning.continuous_and_discrete.step_size import Steps
from promptlib.claims import Claim, decide
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
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

MODULES = {
    "pretraining": pretraining,
    "experiments": experiments,
    "settling": settling,
    "survey": survey,
}

SEEDS = 4
"""Each claim is judged as if so many seeds had given what the one trained here gave."""

Learned = tuple[LanguagePlan, TrainedInMemory, Measured]


def trained(run: Run, get: Callable[[Run], Result]) -> Result:
    module, _, function = run.train.rpartition(".")[2].partition(":")
    needs = [get(needed) for needed in run.needs]
    return getattr(MODULES[module], function)(run.config, needs, silent)


@pytest.fixture(scope="module")
def learned() -> Learned:
    """Return the real experiment, as small as it still works."""
    torch.set_num_threads(1)
    planned, runs = plan.plan(**SMALL), TrainedInMemory()
    return planned, runs, seeds_alike(results.collect(planned, runs.get))


@pytest.fixture(scope="module")
def found(learned: Learned) -> list[Places]:
    planned, runs, measured = learned
    (model, *_), (settled,) = measured.models, planned.settled
    place = results.places(model, runs.get(settled), "token", torch.Generator().manual_seed(0))
    assert place is not None
    return SEEDS * [place]


@pytest.fixture(scope="module")
def says_likely(learned: Learned) -> Claim:
    """The control of what is said of one vector, as if it had been met."""
    claim = evidence.one_vector_says_likely_strings(learned[2])
    return dataclasses.replace(claim, verdict="supported")


def seeds_alike(measured: Measured) -> Measured:
    """Repeat what one seed gave."""
    per_seed = (
        "models",
        "bits_held_out",
        "surveyed",
        "distinct",
        "completions",
        "forced",
        "counted",
    )
    repeated = {name: SEEDS * list(getattr(measured, name)) for name in per_seed}
    return dataclasses.replace(measured, **repeated, steps=measured.steps.repeat(SEEDS, axis=0))


def forget_to_train(model: GPT, targets: Tensor, start: Tensor, *rest: Any, **more: Any) -> Forced:
    """Stand in for `force`; returns the same vector for every prompt, and says nothing."""
    same = torch.zeros_like(start)
    return Forced(same, torch.full((len(targets),), -1), torch.zeros(len(targets)))


def again(learned: Learned, *fields: str) -> Measured:
    """Train the runs of some kinds again, under whatever the test has broken; collect all."""
    planned, runs, _ = learned
    broken = [
        run
        for field in fields
        for entry in getattr(planned, field)
        for run in (entry.values() if isinstance(entry, dict) else [entry])
    ]

    def get(run: Run) -> Result:
        return trained(run, runs.get) if run in broken else runs.get(run)

    return seeds_alike(results.collect(planned, get))


@pytest.mark.claim("prefix-tuning/embedding-is-token")
def test_a_model_that_adds_positions_twice_refutes_that_embeddings_are_tokens(
    learned: Learned,
) -> None:
    planned, runs, _ = learned
    run = planned.pretrained[0]
    model = pretraining.load_model(run.config, runs.get(run)).double()
    tokens = torch.randint(
        model.config.vocab_size, (5, 11), generator=torch.Generator().manual_seed(0)
    )
    assert evidence.embedding_is_token(model, tokens).verdict == "holds"

    def twice(model: GPT, embedded: Tensor) -> Tensor:
        return model(embedded + model.position.weight[: embedded.shape[1]])

    assert evidence.embedding_is_token(model, tokens, twice).verdict == "fails"


@pytest.mark.claim("prefix-tuning/forced-strings-decode")
def test_success_without_a_margin_refutes_that_strings_decode(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = learned[2]
    assert evidence.forced_strings_decode(measured.models, measured.forced).verdict == "holds"
    right = decoding.margins
    monkeypatch.setattr(forcing_module, "margins", lambda *given: right(*given) + 3.0)
    wrong = again(learned, "forced")
    assert evidence.forced_strings_decode(wrong.models, wrong.forced).verdict == "fails"
    assert evidence.forced_strings_decode(measured.models[:1], [{1: []}]).verdict == "fails"


@pytest.mark.claim("prefix-tuning/distinct-after-tokens")
def test_counting_prompts_refutes_that_tokens_share_completions(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = evidence.distinct_after_tokens(learned[2])
    assert claim.verdict == "supported"
    assert claim.replication == "other size"
    assert "2 blocks, not 32" in claim.details["published"]["differs"]
    monkeypatch.setattr(survey, "count_distinct", len)
    wrong = again(learned, "surveyed")
    assert evidence.distinct_after_tokens(wrong).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/distinct-after-virtual-tokens")
@pytest.mark.claim("prefix-tuning/more-completions-than-tokens")
def test_vectors_that_were_not_trained_refute_that_they_differ(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims_of = (evidence.distinct_after_virtual_tokens, evidence.more_completions_than_tokens)
    monkeypatch.setattr(experiments, "force", forget_to_train)
    wrong = again(learned, "distinct")
    assert wrong.distinct[0]["all"] == 1
    assert all(claim(wrong).verdict == "contradicted" for claim in claims_of)


@pytest.mark.claim("prefix-tuning/random-vectors-differ-too")
def test_random_vectors_that_ignore_their_size_refute_that_they_differ(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evidence.random_vectors_differ_too(learned[2]).verdict == "supported"

    def small(model: GPT, n: int, k: int, scale: float, generator: torch.Generator) -> Tensor:
        return 1e-3 * torch.randn(n, k, model.config.n_embd, generator=generator)

    monkeypatch.setattr(survey, "random_vectors", small)
    wrong = again(learned, "surveyed")
    assert evidence.random_vectors_differ_too(wrong).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/tokens-miss-forced-strings")
def test_comparing_one_symbol_refutes_that_tokens_miss_strings(
    learned: Learned, says_likely: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = learned[2]
    right = results.said_by_tokens

    def first_symbol(said: Said, completions: Tensor) -> Tensor:
        return right(Said(said.vectors, said.strings[:, :1]), completions)

    monkeypatch.setattr(evidence, "said_by_tokens", first_symbol)
    assert evidence.tokens_miss_forced_strings(measured, says_likely).verdict == "contradicted"


def test_what_tokens_say_is_found(learned: Learned) -> None:
    measured = learned[2]
    one = measured.completions[0][0]
    vectors = torch.zeros(len(one), 1, 32)
    assert results.said_by_tokens(Said(vectors, one[:, :4]), one).all()
    other = one[:, :4].clone()
    other[:, 3] = (other[:, 3] + 1) % measured.n_tokens
    assert results.said_by_tokens(Said(vectors, other), one).double().mean() < 0.5
    with pytest.raises(ValueError, match=r"completions of 2 symbols .* strings of 4"):
        results.said_by_tokens(Said(vectors, other), one[:, :2])


@pytest.mark.claim("prefix-tuning/one-vector-cannot-say-anything")
def test_success_that_checks_nothing_refutes_that_one_vector_has_limits(
    learned: Learned, says_likely: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = decoding.margins
    monkeypatch.setattr(forcing_module, "margins", lambda *given: right(*given) + 100.0)
    wrong = again(learned, "forced")
    assert evidence.one_vector_cannot_say_anything(wrong, says_likely).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/more-vectors-say-more")
@pytest.mark.claim("prefix-tuning/one-vector-says-likely-strings")
def test_forcing_that_trains_nothing_refutes_what_helps_it(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = learned[2]
    assert evidence.more_vectors_say_more(measured).verdict == "supported"
    claims_of = (evidence.more_vectors_say_more, evidence.one_vector_says_likely_strings)
    monkeypatch.setattr(experiments, "force", forget_to_train)
    wrong = again(learned, "forced", "counted")
    assert (wrong.steps == -1).all()
    assert all(claim(wrong).verdict == "contradicted" for claim in claims_of)


def test_without_its_control_a_search_that_finds_nothing_says_nothing(
    learned: Learned, found: list[Places], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was forced: what one vector cannot say, and what tokens miss, is not known."""
    monkeypatch.setattr(experiments, "force", forget_to_train)
    wrong = again(learned, "forced", "counted")
    likely, more = (
        evidence.one_vector_says_likely_strings(wrong),
        evidence.more_vectors_say_more(wrong),
    )
    for claim in (
        evidence.one_vector_cannot_say_anything(wrong, likely),
        evidence.tokens_miss_forced_strings(wrong, likely),
        evidence.far_from_tokens([], likely),
        evidence.far_from_tokens(found, likely),
        evidence.region_ends_early([], likely),
        step_size.distance_is_the_step([], likely),
        evidence.rounding_loses([{}], more),
    ):
        assert claim.verdict == "uninformative"
        assert decide([likely, more, claim])[2].verdict == "uninformative"


@pytest.mark.claim("prefix-tuning/one-vector-counts")
def test_forcing_that_trains_nothing_refutes_that_vectors_count_more(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "force", forget_to_train)
    wrong = again(learned, "counted")
    assert evidence.one_vector_counts(wrong).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/counting-by-sampling")
def test_a_limit_without_its_deviation_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert evidence.limit_is_safe(200, np.random.default_rng(1)).verdict == "holds"
    monkeypatch.setattr(counting, "deviation", lambda k, missed: 0.0)
    assert evidence.limit_is_safe(200, np.random.default_rng(1)).verdict == "fails"


@pytest.mark.claim("prefix-tuning/virtual-tokens-are-far")
@pytest.mark.claim("prefix-tuning/region-ends-before-token")
def test_vectors_that_never_left_their_tokens_refute_that_they_are_far(
    learned: Learned, found: list[Places], says_likely: Claim
) -> None:
    planned, runs, measured = learned
    claims_of = (evidence.far_from_tokens, evidence.region_ends_early)
    assert all(claim(found, says_likely).verdict == "supported" for claim in claims_of)
    # The token itself in place of what was learned from it: at no distance, and never broken.
    settled = runs.get(planned.settled[0])
    stayed = Result(
        {"steps": {"token": [1] * len(settled.tensors["strings"])}},
        {**settled.tensors, "vectors.token": settled.tensors["start.token"]},
    )
    with pytest.raises(ValueError, match="every vector must say its string"):
        results.places(measured.models[0], stayed, "token", torch.Generator())
    near = [
        dataclasses.replace(p, distance=0.1 * p.among_tokens.median() * torch.ones_like(p.distance))
        for p in found
    ]
    assert all(claim(near, says_likely).verdict == "contradicted" for claim in claims_of)


@pytest.mark.claim("prefix-tuning/region-ends-before-token")
def test_a_search_that_stops_at_the_token_refutes_that_regions_end_early(
    found: list[Places], says_likely: Claim
) -> None:
    """Or one that finds no other completion at all."""
    for breaking in ([p.distance for p in found], [torch.full_like(found[0].norms, float("inf"))]):
        wrong = [
            dataclasses.replace(p, breaking=breaking[i % len(breaking)])
            for i, p in enumerate(found)
        ]
        assert evidence.region_ends_early(wrong, says_likely).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/distance-is-the-learning-rate")
def test_steps_of_one_size_refute_that_their_size_decides(
    learned: Learned, says_likely: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, runs, measured = learned

    def of_one_seed(get: Callable[[Run], Result]) -> list[Steps]:
        one = dataclasses.replace(measured, models=measured.models[:1])
        return SEEDS * step_size.all_steps(one, planned, get)

    steps = of_one_seed(runs.get)
    one = steps[0]
    assert 0 < one.common <= SMALL["count_strings"]
    assert one.said.shape == one.distance.shape == one.still_nearest.shape == (len(one.rates),)
    assert ((one.said > 0) & (one.said <= 100)).all()
    figure, alt = step_size.distance_by_rate(steps)
    assert f"{one.distance[-1]:.2f} at {one.rates[-1]:g}" in alt
    figure.canvas.draw()
    plt.close(figure)
    with pytest.raises(ValueError, match="no string was said with all learning rates"):
        step_size.distance_by_rate([])

    def same_rate(
        model: GPT, targets: Tensor, start: Tensor, rates: Tensor, *rest: Any, **more: Any
    ) -> Forced:
        return right(model, targets, start, torch.full_like(rates, 0.1), *rest, **more)

    right = settling.force
    monkeypatch.setattr(settling, "force", same_rate)
    again_ = {run.key: trained(run, runs.get) for run in planned.stepped}
    wrong = of_one_seed(lambda run: again_.get(run.key) or runs.get(run))
    assert step_size.distance_is_the_step(wrong, says_likely).verdict == "contradicted"


@pytest.mark.claim("prefix-tuning/rounding-loses-the-string")
def test_rounding_that_keeps_the_vectors_is_refuted(
    learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = learned[2]
    more = evidence.more_vectors_say_more(measured)
    rounded = results.survives_rounding(measured)
    assert evidence.rounding_loses(rounded, more).verdict == "supported"

    def unrounded(model: GPT, vectors: Tensor, strings: Tensor, by_angle: bool = False) -> Tensor:
        said = decoding.complete(model, vectors, strings.shape[1])
        return (said == strings).all(dim=1)

    monkeypatch.setattr(results, "rounded_say", unrounded)
    wrong = results.survives_rounding(measured)
    assert evidence.rounding_loses(wrong, more).verdict == "contradicted"


N_STRINGS = 40
"""Made-up strings of each kind, length and seed."""


def said_of_made_up(percent: float) -> list[bool]:
    """Which of the made-up strings make so many percent of them."""
    said = round(percent / 100 * N_STRINGS)
    return said * [True] + (N_STRINGS - said) * [False]


def said_by_length(measured: Measured, shares: dict[str, list[tuple[float, float]]]) -> Measured:
    """Let the first and the last prompt length say shares of the strings, the same of each length.

    Parameters
    ----------
    shares
        By kind; for each seed what the first and the last prompt length say, in percent. Kinds
        that are not named are not said.
    """
    steps = np.full((SEEDS, 2, len(plan.KINDS), len(measured.string_lengths), N_STRINGS), -1)
    for kind, by_seed in shares.items():
        for seed, percents in enumerate(by_seed):
            for row, percent in enumerate(percents):
                steps[seed, row, plan.KINDS.index(kind), :, said_of_made_up(percent)] = 1
    return dataclasses.replace(measured, steps=steps)


def said_by_a_token(measured: Measured, shares: list[float]) -> Measured:
    """Let a token say shares, in percent, of the strings forced with one vector."""
    forced, completions = [], []
    for share in shares:
        strings = torch.arange(4 * N_STRINGS).view(N_STRINGS, 4)
        forced.append({1: [Said(torch.zeros(N_STRINGS, 1, 32), strings)]})
        said = strings[said_of_made_up(share)]
        completions.append((torch.cat([said, torch.full((1, 4), -1)]), said))
    return dataclasses.replace(measured, forced=forced, completions=completions)


def certifying(measured: Measured, limits: list[float]) -> Measured:
    """Strings all said and all equally likely, so that the certificates are the limits, in bits."""
    draws = 60
    lost = -math.log2(1 - counting.deviation(draws, counting.MISSED / len(limits)))
    counted = [{1: {"bits": draws * [bits + lost], "success": draws * [True]}} for bits in limits]
    return dataclasses.replace(measured, counted=counted)


def with_sizes(measured: Measured, excesses: list[float]) -> Measured:
    """Random vectors larger than tokens say so many percent more of the number of tokens."""
    surveyed = [
        {
            "tokens": 50,
            "random": [
                {"scale": 0.5, "distinct": 1},
                {"scale": 2.0, "distinct": 50 + (excess - 4) / 100 * measured.n_tokens},
                {"scale": 8.0, "distinct": 50 + (excess + 4) / 100 * measured.n_tokens},
            ],
        }
        for excess in excesses
    ]
    return dataclasses.replace(measured, surveyed=surveyed)


@pytest.fixture
def made_up(
    learned: Learned, found: list[Places], says_likely: Claim
) -> dict[str, Callable[[list[float]], Claim]]:
    """How each outcome of the chapter is judged when its values are those given, one a seed."""
    measured, place = learned[2], found[0]
    v, spacing = measured.n_tokens, found[0].among_tokens.median()
    rates = list(plan.STEP_RATES)

    def changed(**fields: Any) -> Measured:
        return dataclasses.replace(measured, **fields)

    def at(**fields: Tensor) -> Places:
        return dataclasses.replace(place, **fields)

    def growing(ratio: float) -> Steps:
        nothing = np.zeros(len(rates))
        low, high = step_size.TENFOLD
        power = math.log(ratio) / math.log(high / low)
        return Steps(rates, nothing, np.array(rates) ** power, nothing, nothing, 1)

    met = says_likely
    return {
        "distinct-after-tokens": lambda x: evidence.distinct_after_tokens(
            changed(surveyed=[{"tokens": value / 100 * v} for value in x])
        ),
        "distinct-after-virtual-tokens": lambda x: evidence.distinct_after_virtual_tokens(
            changed(distinct=[{"kinds": {"text": {"distinct": one / 100 * v}}} for one in x])
        ),
        "more-completions-than-tokens": lambda x: evidence.more_completions_than_tokens(
            changed(distinct=[{"all": value * v} for value in x])
        ),
        "random-vectors-differ-too": lambda x: evidence.random_vectors_differ_too(
            with_sizes(measured, x)
        ),
        "one-vector-says-likely-strings": lambda x: evidence.one_vector_says_likely_strings(
            dataclasses.replace(
                said_by_length(measured, {"model": [(value, 0) for value in x]}),
                counted=[{1: {"length": 4, "success": said_of_made_up(value)}} for value in x],
            )
        ),
        "one-vector-cannot-say-anything": lambda x: evidence.one_vector_cannot_say_anything(
            said_by_length(measured, {"random": [(value, 0) for value in x]}), met
        ),
        "more-vectors-say-more": lambda x: evidence.more_vectors_say_more(
            said_by_length(
                measured,
                {kind: [(30, 30 + value) for value in x] for kind in ("text", "model", "shuffled")},
            )
        ),
        "tokens-miss-forced-strings": lambda x: evidence.tokens_miss_forced_strings(
            said_by_a_token(measured, x), met
        ),
        "one-vector-counts": lambda x: evidence.one_vector_counts(certifying(measured, x)),
        "virtual-tokens-are-far": lambda x: evidence.far_from_tokens(
            [at(distance=value * spacing * torch.ones(3)) for value in x], met
        ),
        "region-ends-before-token": lambda x: evidence.region_ends_early(
            [at(distance=torch.full((3,), 2.0), breaking=torch.full((3,), 2 * one)) for one in x],
            met,
        ),
        "distance-is-the-learning-rate": lambda x: step_size.distance_is_the_step(
            [growing(value) for value in x], met
        ),
        "rounding-loses-the-string": lambda x: evidence.rounding_loses(
            [
                {
                    1: results.Kept(N_STRINGS, N_STRINGS),
                    4: results.Kept(sum(said_of_made_up(one)), N_STRINGS),
                }
                for one in x
            ],
            met,
        ),
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
    made_up: dict[str, Callable[[list[float]], Claim]], name: str
) -> None:
    """On both sides; around the limit they decide nothing."""
    limit, away = made_up[name](SEEDS * [1.0]).details["limit"], AWAY[name]
    half = away / 4
    above = made_up[name]([limit + away + step for step in (-half, 0, 0, half)])
    below = made_up[name]([limit - away + step for step in (0, half, half, 0)])
    around = made_up[name]([limit + step for step in (-half, half, half, -half)])
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
    cells = [
        {"learning_rate": rate, "init_scale": scale, "success": [s], "right": 0.5}
        for rate, scale, s in ((0.1, 1.0, 0.2), (0.3, 1.0, 0.9), (1.0, 1.0, 0.8), (1.0, 3.0, 0.3))
    ]
    swept = dataclasses.replace(learned[2], sweep=cells)
    assert results.at_the_ends(swept) == ["init scale 1"]
    cells[2]["success"] = [1.0]
    assert results.at_the_ends(swept) == ["learning rate 1", "init scale 1"]
    cells.append({"learning_rate": 3.0, "init_scale": 0.3, "success": [0.0], "right": 0.1})
    assert results.at_the_ends(swept) == []


def test_places_are_what_they_say(learned: Learned, found: list[Places]) -> None:
    place = found[0]
    n = len(place.distance)
    assert 0 < n <= SMALL["count_strings"]
    for name in ("norms", "moved", "cosine", "breaking", "random_distance", "random_cosine"):
        assert getattr(place, name).shape == (n,)
    assert (place.moved >= place.distance - 1e-4).all()  # each started at a token
    assert (place.cosine.abs() <= 1 + 1e-6).all()


def test_the_figures_say_what_they_show(learned: Learned, found: list[Places]) -> None:
    planned, runs, measured = learned
    string, corners = results.example_place(measured, runs.get(planned.settled[0]))
    assert len(string) == SMALL["count_lengths"][0]
    drawn = {
        "All points of a region": figures.slice_of_space(measured.models[0], corners, 3, 9),
        "likelihood: from": figures.sweep_map(measured),
        "LLaMA-7B 76.3 %": figures.distinct_completions(measured),
        "4 symbols": figures.success_by_length(measured),
        "Median updates": figures.success_by_steps(measured, 4),
        f"{math.log2(measured.n_tokens):.1f} bits a token": figures.bits_of_prompts(measured),
        "median distances": figures.where_they_lie(found),
    }
    for words, (figure, alt) in drawn.items():
        assert words in alt
        figure.canvas.draw()
        plt.close(figure)
    line = [(name, i * torch.ones(32)) for i, name in enumerate("abc")]
    with pytest.raises(ValueError, match="three vectors lie on a line"):
        figures.slice_of_space(measured.models[0], line, 3, 9)
    with pytest.raises(ValueError, match="no string was said with one vector"):
        figures.where_they_lie([])


def test_one_region_has_one_colour() -> None:
    """A model that always says the same has a map of one region."""
    model = GPT(GPTConfig(1, 1, 4, 5, 6))
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.fill_(1.0)
    corners = [(name, torch.eye(4)[i]) for i, name in enumerate("abc")]
    figure, alt = figures.slice_of_space(model, corners, 2, 6)
    assert "into 1 regions" in alt
    plt.close(figure)

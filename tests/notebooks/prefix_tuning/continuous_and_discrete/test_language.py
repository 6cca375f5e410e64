"""The parts of the chapter on continuous prompts: text, decoding, forcing, counting, places."""

from __future__ import annotations

import inspect
import math
import platform
import subprocess
import sys
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from notebooks.prefix_tuning.continuous_and_discrete import (
    corpus,
    counting,
    decoding,
    forcing,
    places,
    plan,
    pretraining,
    references,
    strings,
    training,
    vectors,
)
from notebooks.prefix_tuning.continuous_and_discrete.decoding import PAD
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.runs import Result
from promptlib.training import Learner, Recipe, train
from tests.trained_in_memory import silent
from workflow.sources import Source

LETTERS = corpus.Corpus("abcabdabe abc", "abc dab eab", 2, 1, 0, 0, 0)


def small_model(seed: int = 0, vocab_size: int = 7, block: int = 13, layers: int = 2) -> GPT:
    """Return a model with weights large enough that its completions differ; float64."""
    generator = torch.Generator().manual_seed(seed)
    model = GPT(GPTConfig(layers, 2, 10, vocab_size, block), generator).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 1.5 if name.startswith("token") else 0.3
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)


# The corpus.


def test_no_held_out_paragraph_is_trained_on() -> None:
    text = corpus.documentation()
    train, held = (set(part.split("\n\n")) for part in (text.train, text.held_out))
    assert not train & held
    assert len(text.train) > 5 * len(text.held_out) > 50_000
    assert text.topics > 8 * 5
    assert text.shared > 0  # other topics do quote held-out ones: the topic alone would not do
    assert text.train.isascii()
    assert text.held_out.isascii()


def test_the_recorded_text_is_recognised_and_another_one_is_named() -> None:
    text = corpus.documentation()
    if platform.python_version() == corpus.RECORDED_VERSION:
        assert text.digest == corpus.RECORDED_DIGEST
    recorded = text.digest == corpus.RECORDED_DIGEST
    assert ("its digest is the recorded one" in text.provenance) == recorded
    assert "can differ from those of other builds" in LETTERS.provenance
    assert LETTERS.digest[:16] in LETTERS.provenance


def test_the_division_is_the_same_in_every_process() -> None:
    code = (
        "import sys;"
        "from notebooks.prefix_tuning.continuous_and_discrete.corpus import documentation;"
        "assert 'torch' not in sys.modules;print(documentation().digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {corpus.documentation().digest}


def test_quotations_of_held_out_topics_are_dropped_from_training() -> None:
    names = [f"topic {number}" for number in range(40)]
    held = next(name for name in names if corpus.is_held_out(name))
    kept = [name for name in names if not corpus.is_held_out(name)][:2]
    text = corpus.divide(
        {held: "shared\n\nown “text”", kept[0]: "shared\n\nfirst", kept[1]: "first\n\nsecond…"}
    )
    assert text.train == "first\n\nsecond..."
    assert text.held_out == 'shared\n\nown "text"'
    assert (text.repeated, text.shared, text.rewritten) == (len("sharedfirst"), 6, 3)
    assert (text.topics, text.held_out_topics) == (3, 1)
    with pytest.raises(ValueError, match="1 topics leave 0 paragraphs to train on and 1 to test"):
        corpus.divide({held: "alone"})


def test_a_python_without_documentation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.documentation.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match=r"installed without pydoc_data\.topics"):
        corpus.documentation()
    corpus.documentation.cache_clear()


@given(st.text(alphabet="abc xyz", min_size=1))
def test_decoding_undoes_encoding(text: str) -> None:
    alphabet = "abc xyz"
    assert corpus.decode(corpus.encode(text, alphabet), alphabet) == text


def test_text_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(ValueError, match="character 'é' at place 3 of 'café' is not one of the 26"):
        corpus.encode("café", "abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(ValueError, match="the text is empty"):
        corpus.encode("", "abc")
    with pytest.raises(ValueError, match=r"token 3 is outside 0\.\.2"):
        corpus.decode([0, 3], "abc")
    assert corpus.to_ascii("a–b\t☃") == "a-b     ?"


# References.


def test_n_grams_are_witten_and_bells() -> None:
    """By hand: train "aab", test "ab", alphabet of three symbols."""
    first = (2 + 2 / 3) / (3 + 2)  # a: two of three, two kinds seen
    unigram_b = (1 + 2 / 3) / (3 + 2)
    after_a = (1 + 2 * unigram_b) / (2 + 2)  # b follows one of two a's, two kinds follow
    expected = [-(math.log2(first) + math.log2(second)) / 2 for second in (unigram_b, after_a)]
    assert references.n_grams("aab", "ab", 2, 3) == pytest.approx(expected)
    # Nothing follows "b" in the training text, so a context that ends with it tells no more.
    alone, after_b = references.n_grams("aab", "ba", 2, 3)
    assert after_b == pytest.approx(alone)
    assert references.even(8) == 3
    shares = references.compressors("the cat sat. " * 50, "the cat sat. " * 20)
    assert all(0 <= bits < 1 for bits in shares.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "a", 1, 3), "both texts"),
        (("a", "a", 0, 3), "order must be at least 1, got 0"),
        (("ab", "c", 1, 2), "alphabet_size=2, but the texts have 3"),
    ],
)
def test_references_refuse(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        references.n_grams(*arguments)
    with pytest.raises(ValueError, match="both texts"):
        references.compressors("", "a")
    with pytest.raises(ValueError, match="at least 1 symbol, got 0"):
        references.even(0)


# The plan.

DEFAULTS = Source("prefix_tuning/continuous_and_discrete").defaults
PLANNED = {name: DEFAULTS[name] for name in inspect.signature(plan.plan).parameters}


def test_the_plan_names_text_and_needs() -> None:
    planned = plan.plan(**PLANNED)
    runs = planned.runs
    assert len({run.key for run in runs}) == len(runs) == len(planned.entries)
    assert {run.config["corpus"] for run in runs} == {corpus.documentation().digest}
    pretrained = planned.where(method="pretrain").runs
    assert all(run.needs[0] in pretrained for run in runs if run.needs)
    vectors_of = {
        method: {labels["vectors"] for _, labels in planned.where(method=method).entries}
        for method in ("count", "force")
    }
    assert vectors_of["count"] <= vectors_of["force"]
    assert plan.KINDS == strings.KINDS
    assert plan.OBJECTIVES == forcing.OBJECTIVES


def test_the_plan_needs_no_torch() -> None:
    code = (
        "import sys; from notebooks.prefix_tuning.continuous_and_discrete.plan import plan;"
        f"[run.key for run in plan(**{PLANNED!r})]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seeds", 0, "seeds must be a whole number of at least 1, got 0"),
        ("pretrain_steps", 9.5, "pretrain_steps .* at least 10, got 9.5"),
        ("strings", True, "strings .* got True"),
        ("width", 30, "width must be a multiple of 4, got 30"),
        ("weight_learning_rate", 0.0, "weight_learning_rate must be .* above 0"),
        ("learning_rates", [], "learning_rates must be one or more numbers above 0"),
        ("init_scales", [-1.0], "init_scales must be"),
        ("string_lengths", [40, 80], "need 87 positions, but block is 32"),
        ("string_lengths", [0], "each of string_lengths .* got 0"),
        ("prompt_lengths", [], "prompt_lengths must name at least one length"),
        ("count_lengths", [1, 1, 1, 1, 1], "count_lengths has 5 entries"),
        ("attempts", 1000, "attempts must be at most the"),
    ],
)
def test_parameters_out_of_range_are_named(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan.plan(**{**PLANNED, name: value})


# The language model.


def test_every_symbol_is_counted_once_and_in_context() -> None:
    model = small_model(vocab_size=6, block=8)
    text = "abc dab eab cde abcab dee"
    tokens = torch.tensor(corpus.encode(text, " abcde"))
    bits, counted = 0.0, 0
    starts = {0: range(1, 9), 4: range(9, 13), 8: range(13, 17), 12: range(17, 21)}
    starts[16] = range(21, 25)
    for start, known in starts.items():
        logs = F.log_softmax(model(tokens[None, start : start + 8])[0], dim=-1) / math.log(2)
        for place in known:
            bits -= float(logs[place - start - 1, tokens[place]])
            counted += 1
    assert counted == len(tokens) - 1
    assert pretraining.bits_per_symbol(model, text, " abcde") == pytest.approx(bits / counted)
    with pytest.raises(ValueError, match="at least 2 symbols is needed, got 'a'"):
        pretraining.bits_per_symbol(model, "a", " abcde")


def test_a_model_writes_and_refuses() -> None:
    model = small_model(vocab_size=6)
    generator = torch.Generator().manual_seed(0)
    assert len(pretraining.write(model, "abc", 29, " abcde", generator)) == 29
    with pytest.raises(ValueError, match="character 'z'"):
        pretraining.write(model, "z", 3, " abcde", generator)


def test_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match="planned for the text with digest 0000"):
        pretraining.text_of({"corpus": "0" * 64})


# Decoding.


def test_completing_token_embeddings_is_completing_tokens() -> None:
    model = small_model()
    tokens = torch.tensor([[3, 1], [0, 6], [5, 5]])
    said = decoding.complete(model, model.token(tokens), 5)
    for _ in range(5):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(said, tokens[:, 2:])
    assert len(decoding.two_token_prompts(model)) == 49
    assert decoding.count_distinct(torch.tensor([[1, 2], [1, 2], [2, 1]])) == 2


def test_margins_are_positive_exactly_where_decoding_agrees() -> None:
    model = small_model()
    prompts = torch.randn(
        11, 1, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    said = decoding.complete(model, prompts, 4)
    right = decoding.margins(decoding.target_logits(model, prompts, said), said)
    assert (right > 0).all()
    other = said.clone()
    other[:, 2] = (other[:, 2] + 1) % 7
    margin = decoding.margins(decoding.target_logits(model, prompts, other), other)
    assert (margin[:, 2] < 0).all()
    assert (margin[:, :2] > 0).all()
    other[:, 3] = PAD
    assert torch.isinf(
        decoding.margins(decoding.target_logits(model, prompts, other), other)[:, 3]
    ).all()


@pytest.mark.parametrize(
    ("shape", "length", "message"),
    [
        ((3, 1, 9), 2, r"expected prompts \(P, n, 10\)"),
        ((3, 0, 10), 2, r"with n >= 1, got \(3, 0, 10\)"),
        ((3, 1, 10), 0, "at least 1 symbol, got length 0"),
        ((3, 5, 10), 10, "need 14 positions, but the model reads block_size=13; .* to 9 symbols"),
    ],
)
def test_prompts_that_do_not_fit_are_named(
    shape: tuple[int, ...], length: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decoding.complete(small_model(), torch.zeros(shape).double(), length)


# Forcing.


def random_start(n_prompts: int, n: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_prompts, n, 10, generator=generator, dtype=torch.float64)


def test_each_prompt_moves_as_it_would_alone_in_the_training_loop() -> None:
    model = small_model()
    targets = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(3))
    rates, start = torch.tensor([0.03, 0.1, 0.001], dtype=torch.float64), random_start(3, 2)
    recipe = Recipe(11, 0, clip_norm=0.7)
    ours = forcing.force(
        model, targets, start, rates, torch.tensor([False] * 3), recipe, progress=silent
    )
    assert (ours.steps == -1).all()
    vectors = [nn.Parameter(one.clone()) for one in start]

    def loss(_: int) -> torch.Tensor:
        logits = decoding.target_logits(model, torch.stack(list(vectors)), targets)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view(3, 5).mean(dim=1)

    learners = [
        Learner(f"prompt {i}", [], [vector], float(rate))
        for i, (vector, rate) in enumerate(zip(vectors, rates, strict=True))
    ]
    train(learners, loss, range(11), recipe, progress=silent)
    assert torch.allclose(ours.vectors, torch.stack(list(vectors)), atol=1e-10, rtol=0)


def test_prompts_do_not_see_each_other_nor_their_padding() -> None:
    model, start = small_model(), random_start(3, 2)
    parts = [
        torch.randint(7, (1, n), generator=torch.Generator().manual_seed(n)) for n in (2, 3, 5)
    ]
    rates, by_margin = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([True, False, True])
    together = forcing.force(
        model, forcing.pad(parts), start, rates, by_margin, Recipe(7, 0), progress=silent
    )
    for i, part in enumerate(parts):
        alone = forcing.force(
            model,
            part,
            start[i : i + 1],
            rates[i : i + 1],
            by_margin[i : i + 1],
            Recipe(7, 0),
            progress=silent,
        )
        assert torch.allclose(alone.vectors[0], together.vectors[i], atol=1e-10, rtol=0)
        assert alone.steps[0] == together.steps[i]


def test_what_is_said_was_decoded_and_stops() -> None:
    model = small_model()
    targets = torch.arange(7).repeat(3).view(-1, 1)
    found = forcing.force(
        model,
        targets,
        random_start(21, 1),
        torch.full((21,), 0.1),
        torch.arange(21) % 2 == 0,
        Recipe(60, 0),
        progress=silent,
    )
    assert found.success.double().mean() > 0.4
    said = decoding.complete(model, found.vectors, 1)
    assert torch.equal((said == targets).all(dim=1), found.success)
    assert torch.equal(found.right == 1, found.success)
    there = forcing.force(
        model,
        said,
        found.vectors,
        torch.full((21,), 0.1),
        torch.full((21,), True),
        Recipe(9, 0),
        progress=silent,
    )
    stay = there.steps == 0
    assert stay.sum() >= found.success.sum()
    assert torch.equal(there.vectors[stay], found.vectors[stay])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": torch.zeros(0, 2, dtype=torch.int64)}, "at least 1 target string"),
        ({"start": random_start(2, 1)}, "3 targets but 2 entries of start"),
        ({"targets": torch.full((3, 2), PAD)}, "target 0 is empty; give at least 1 symbol"),
        ({"targets": torch.tensor([[1, PAD, 2]] * 3)}, "padding before its end"),
        ({"targets": torch.full((3, 2), 7)}, r"symbol 7 is not a token of the model, 0\.\.6"),
        ({"targets": torch.full((3, 14), 1)}, "need 14 positions, .* shorten the string to 13"),
        ({"learning_rates": torch.zeros(3)}, "learning rates must be above 0, got 0.0"),
        ({"stop_margin": 0.0}, "stop_margin must be at least 0.001, got 0.0"),
    ],
)
def test_forcing_refuses(changes: dict[str, Any], message: str) -> None:
    given_ = {
        "targets": torch.ones(3, 2, dtype=torch.int64),
        "start": random_start(3, 1),
        "learning_rates": torch.ones(3),
        "by_margin": torch.full((3,), True),
        "recipe": Recipe(10, 0),
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        forcing.force(small_model(), **given_)


# Strings.


def test_probabilities_of_all_strings_sum_to_one() -> None:
    model = small_model(vocab_size=6)
    every = torch.tensor(list(product(range(6), repeat=3)))
    for kind in ("model", "random"):
        bits = strings.surprisals(kind, every, model, LETTERS)
        assert float(torch.exp2(-bits).sum()) == pytest.approx(1.0)
    single = strings.surprisals("model", every[:, :1], model, LETTERS)
    counts = torch.tensor([LETTERS.train.count(symbol) for symbol in LETTERS.alphabet])
    assert torch.allclose(torch.exp2(-single[::36]), counts.double() / len(LETTERS.train))
    with pytest.raises(ValueError, match="probabilities of kind 'text' are not known"):
        strings.surprisals("text", every, model, LETTERS)


def test_the_model_s_strings_come_as_often_as_their_probability_says() -> None:
    model, n = small_model(vocab_size=6), 20_000
    drawn = strings.draw("model", n, 2, model, LETTERS, torch.Generator().manual_seed(4))
    every = torch.tensor(list(product(range(6), repeat=2)))
    shares = torch.exp2(-strings.surprisals("model", every, model, LETTERS))
    seen = (drawn[:, 0] * 6 + drawn[:, 1]).bincount(minlength=36) / n
    assert ((seen - shares).abs() <= 4.5 * (shares / n).sqrt() + 1e-9).all()


def test_pieces_of_text_begin_with_a_word() -> None:
    text = "one  two\n three four"
    assert [text[at : at + 5] for at in strings.beginnings(text, 5)] == ["three"]
    assert [text[at : at + 3] for at in strings.beginnings(text, 3)] == ["one", "two", "thr", "fou"]
    model, generator = small_model(vocab_size=6), torch.Generator().manual_seed(5)
    pieces = strings.draw("text", 31, 3, model, LETTERS, generator)
    said = {corpus.decode(piece.tolist(), LETTERS.alphabet) for piece in pieces}
    assert said == {"abc", "dab"}
    mixed = strings.draw("shuffled", 31, 3, model, LETTERS, generator)
    letters = {"".join(sorted(corpus.decode(m.tolist(), LETTERS.alphabet))) for m in mixed}
    assert letters == {"abc", "abd"}
    assert len(strings.different(pieces, 2).unique(dim=0)) == 2


def test_settings_are_chosen_on_other_pieces_than_results_are_read_on() -> None:
    """Both parts together are all pieces, and no piece is in both."""
    model, text = small_model(vocab_size=6), LETTERS.held_out
    drawn = {
        part: {
            corpus.decode(piece.tolist(), LETTERS.alphabet)
            for piece in strings.draw(
                "text", 31, 3, model, LETTERS, torch.Generator().manual_seed(5), part
            )
        }
        for part in strings.PARTS
    }
    assert drawn["validation"] == {"eab"}
    assert drawn["test"] | drawn["validation"] == {
        text[at : at + 3] for at in strings.beginnings(text, 3)
    }
    real = corpus.documentation().held_out
    pieces = {real[at : at + 6] for at in strings.beginnings(real, 6)}
    share = sum(strings.part_of(piece) == "validation" for piece in pieces) / len(pieces)
    assert abs(share - 1 / strings.VALIDATION_EVERY) < 4 * (0.25 * 0.75 / len(pieces)) ** 0.5
    with pytest.raises(ValueError, match=r"part must be one of .* got 'train'"):
        strings.draw("text", 3, 3, model, LETTERS, torch.Generator(), "train")


def test_the_sweep_and_no_other_run_draws_validation_strings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    right = strings.draw

    def draw(*given: Any) -> torch.Tensor:
        asked.append(given[6] if len(given) > 6 else "test")
        return right(*given)

    monkeypatch.setattr(training, "draw", draw)
    planned = plan.plan(
        **{**PLANNED, "layers": 1, "width": 16, "pretrain_steps": 10, "force_steps": 10}
    )
    first = {
        (labels["method"], labels.get("vectors")): run for run, labels in reversed(planned.entries)
    }
    config = {**first["pretrain", None].config, "batch_size": 2}
    base = pretraining.pretrain(config, [], silent)
    swept = training.sweep(first["sweep", None].config, [base], silent)
    assert set(asked) == {"validation"}
    asked.clear()
    training.force_strings(first["force", 1].config, [base, swept], silent)
    training.count_strings(first["count", 1].config, [base, swept], silent)
    assert set(asked) == {"test"}


def test_strings_that_cannot_be_drawn_are_named() -> None:
    model, generator = small_model(vocab_size=6), torch.Generator()
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'odd'"):
        strings.draw("odd", 3, 3, model, LETTERS, generator)
    with pytest.raises(ValueError, match="n=0 and length=3"):
        strings.draw("text", 0, 3, model, LETTERS, generator)
    with pytest.raises(ValueError, match="no piece of length=12"):
        strings.draw("text", 3, 12, model, LETTERS, generator)
    with pytest.raises(ValueError, match="only 1 of 2 strings differ; expected 2"):
        strings.different(torch.tensor([[1, 2], [1, 2]]), 2)


# Unoptimised vectors.


def test_random_vectors_have_the_size_they_name() -> None:
    model, generator = small_model().float(), torch.Generator().manual_seed(6)
    drawn = vectors.random_vectors(model, 997, 3, 5.0, generator)
    size = float(drawn.square().mean().sqrt())
    assert size == pytest.approx(5 * vectors.token_scale(model), rel=0.02)
    between = vectors.between_tokens(model, 53, generator)[:, 0]
    tokens = model.token.weight
    direct = [
        min(
            float((b - tokens[i]).norm() + (b - tokens[j]).norm() - (tokens[i] - tokens[j]).norm())
            for i in range(7)
            for j in range(i)
        )
        for b in between
    ]
    assert max(direct) < 1e-5


# Counting.


@settings(max_examples=50)
@given(st.integers(1, 300), st.integers(1, 12), st.data())
def test_no_more_is_certified_than_there_is(k: int, bits: int, data: st.DataObject) -> None:
    """Of 2^bits even strings at most all can be forced."""
    forced = data.draw(st.lists(st.booleans(), min_size=k, max_size=k))
    limit = counting.certified_bits([float(bits)] * k, forced)
    share = sum(forced) / k - counting.deviation(k)
    assert limit <= bits
    if any(forced):
        expected = max(bits + math.log2(share), 0.0) if share > 0 else 0.0
        assert limit == pytest.approx(expected)
    else:
        assert limit == -math.inf


def test_the_best_threshold_is_found() -> None:
    bits = np.concatenate([np.full(500, 10.0), np.full(500, 30.0)])
    few_high = np.concatenate([np.full(500, True), np.full(100, True), np.full(400, False)])
    expected = 30 + math.log2(0.1 - counting.deviation(1000))
    assert counting.certified_bits(bits, few_high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bits", "forced", "missed", "message"),
    [
        ([], [], 0.05, "at least 1"),
        ([1.0], [True, False], 0.05, "as many surprisals as outcomes"),
        ([-1.0], [True], 0.05, "at least 0, got -1.0"),
        ([1.0], [True], 0.7, r"missed must lie in \(0, 1/2\], got 0.7"),
    ],
)
def test_counting_refuses(
    bits: list[float], forced: list[bool], missed: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        counting.certified_bits(bits, forced, missed)
    with pytest.raises(ValueError, match=r"n_reachable must lie in 0\.\.2, got 3"):
        counting.misses(3, [0.5, 0.5], 1, 1, np.random.default_rng(0))


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 45), (7, 19), (18, 19)])
def test_the_upper_limit_is_where_so_few_successes_have_probability_missed(
    successes: int, trials: int
) -> None:
    limit = counting.share_at_most(successes, trials, 0.03)
    few = sum(
        math.comb(trials, k) * limit**k * (1 - limit) ** (trials - k) for k in range(successes + 1)
    )
    assert few == pytest.approx(0.03)
    assert counting.share_at_most(trials, trials) == 1.0
    with pytest.raises(ValueError, match=r"got 3, 2, 0\.05"):
        counting.share_at_most(3, 2)


@given(st.integers(1, 4), st.floats(0, 50), st.floats(0.01, 5))
def test_balls_on_a_grid_never_exceed_the_volume_bound(
    width: int, reach: float, radius: float
) -> None:
    """A grid with spacing 2 radius inside the cube within the ball is one way to pack them."""
    side = reach / math.sqrt(width)
    packed = (2 * math.floor(side / (2 * radius)) + 1) ** width
    assert math.log2(packed) <= counting.bits_of_precision(width, reach, radius) + 1e-9


def test_precision_refuses() -> None:
    with pytest.raises(ValueError, match=r"radius > 0; got 3, 1\.0, 0\.0"):
        counting.bits_of_precision(3, 1.0, 0.0)


# Where vectors lie.


def test_tokens_are_their_own_nearest_and_rounding_keeps_them() -> None:
    model = small_model()
    tokens = model.token.weight
    found = places.nearest_tokens(1.0001 * tokens, tokens)
    assert found.by_distance.tolist() == found.by_angle.tolist() == list(range(7))
    others = places.nearest_tokens(tokens, tokens, themselves=True)
    assert (others.by_distance != torch.arange(7)).all()
    assert (others.distance > 0).all()
    assert (others.cosine < 1).all()
    pairs = decoding.two_token_prompts(model)
    said = decoding.complete(model, pairs, 3)
    for by_angle in (False, True):
        assert places.rounded_say(model, pairs * 1.001, said, by_angle).all()
    moved = places.rounded_say(model, pairs.flip(0), said)
    assert not moved.all()
    random = places.random_of_same_length(tokens, torch.Generator().manual_seed(7))
    assert torch.allclose(random.norm(dim=1), tokens.norm(dim=1))
    with pytest.raises(ValueError, match=r"expected vectors \(P, D\) and tokens \(V, D\)"):
        places.nearest_tokens(tokens[:, :3], tokens)
    with pytest.raises(ValueError, match="3 vectors are not the 7 tokens"):
        places.nearest_tokens(tokens[:3], tokens, themselves=True)


def test_the_search_for_the_border_beats_random_directions() -> None:
    model = small_model()
    prompts = decoding.one_token_prompts(model)
    said = decoding.complete(model, prompts, 3)
    found = places.breaking_distance(model, prompts, said)
    assert torch.isfinite(found).all()
    assert (found > 0).all()
    generator = torch.Generator().manual_seed(8)
    for _ in range(200):
        direction = torch.randn(prompts.shape, generator=generator, dtype=torch.float64)
        direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1)
        near = prompts + 0.3 * found.view(-1, 1, 1) * direction
        assert places.holds(model, near, said).all()
    with pytest.raises(ValueError, match="every vector must say its string"):
        places.breaking_distance(model, prompts, (said + 1) % 7)


# Settings of the sweep.


def test_settings_are_ranked_by_success_and_tried_in_turn() -> None:
    cells = [
        {"objective": "margin", "learning_rate": rate, "init_scale": 1.0, "success": s, "right": r}
        for rate, s, r in ((1e-9, [0.5, 0.5], 0.9), (0.2, [0.5, 0.4], 1.0), (0.3, [1, 0], 0.1))
    ]
    config = {"attempts": 2, "prompt_length": 1, "steps": 25}
    best = training.best_cells(Result({"cells": cells}), config)
    assert [cell["learning_rate"] for cell in best] == [1e-9, 0.3]
    model, generator = small_model().float(), torch.Generator().manual_seed(9)
    targets = torch.arange(7).view(-1, 1)
    tried = training.try_settings(model, targets, best, config, generator, silent)
    # The first setting hardly moves: it says what its start says. The second does the work.
    first = (tried.steps >= 0) & (tried.steps <= 25)
    assert (tried.steps > 25).any()
    assert first.sum() < tried.success.sum()
    said = decoding.complete(model, tried.vectors, 1)
    assert torch.equal((said == targets).all(dim=1), tried.success)


def test_the_best_token_is_the_likeliest() -> None:
    model = small_model().float()
    targets = torch.randint(7, (5, 3), generator=torch.Generator().manual_seed(10))
    best = training.best_tokens(model, targets)
    for target, token in zip(targets, best, strict=True):
        logs = [
            float(
                F.log_softmax(model(torch.cat([torch.tensor([t]), target[:-1]])[None])[0], -1)
                .gather(1, target[:, None])
                .sum()
            )
            for t in range(7)
        ]
        assert int(np.argmax(logs)) == int(token)

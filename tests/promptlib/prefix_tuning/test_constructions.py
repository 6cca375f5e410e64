"""Virtual tokens say what they should: any sequence, any map, and nothing that is not a symbol."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notebooks.prefix_tuning.one_virtual_token import measuring
from notebooks.prefix_tuning.one_virtual_token.texts import encode
from promptlib.prefix_tuning import conditional_generator, unconditional_generator
from promptlib.prefix_tuning.constructions import bounds
from promptlib.prefix_tuning.constructions.transformer import (
    MLP,
    Attention,
    Layout,
    check_size,
)

# Any sequence, any text, any map.


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_sequence(data):
    vocab_size = data.draw(st.integers(2, 1009))
    symbols = data.draw(st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=13))
    speaker = unconditional_generator(vocab_size, len(symbols))
    assert speaker.generate(speaker.virtual_token(symbols)).tolist() == symbols


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2)]))
def test_any_map(data, shape):
    inputs, responses = shape
    vocab_size = data.draw(st.integers(2, 23 if inputs == 1 else 7))
    count = responses * vocab_size**inputs
    entries = data.draw(st.lists(st.integers(0, vocab_size - 1), min_size=count, max_size=count))
    table = torch.tensor(entries).reshape(
        *[vocab_size] * inputs, *([responses] if responses > 1 else [])
    )
    speaker = conditional_generator(vocab_size, responses, inputs)
    assert torch.equal(measuring.answers(speaker, table[None])[0], table)


def test_maps_as_tensor_dictionary_and_function_are_one():
    speaker = conditional_generator(5, responses=2, inputs=2)
    table = torch.tensor([[[a, (a * b) % 5] for b in range(5)] for a in range(5)])
    pairs = {(a, b): [a, (a * b) % 5] for a in range(5) for b in range(5)}
    tokens = [
        speaker.virtual_token(mapping)
        for mapping in (table, table.tolist(), pairs, lambda a, b: (a, (a * b) % 5))
    ]
    assert all(torch.equal(tokens[0], token) for token in tokens[1:])
    assert tokens[0].shape == (2, 5)
    assert speaker.generate(tokens[0], [3, 4]).tolist() == [3, 2]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16])
def test_short_integers_hold_symbols_of_larger_vocabularies(dtype):
    """The size of the vocabulary does not fit the type of the symbols."""
    speaker = unconditional_generator(70_001, 3)
    symbols = torch.tensor([1, 0, 100], dtype=dtype)
    assert speaker.generate(speaker.virtual_token(symbols)).tolist() == [1, 0, 100]


def test_arrays_and_tensors_inside_a_map():
    speaker = conditional_generator(3, responses=2)
    expected = speaker.virtual_token([[2, 0], [1, 1], [0, 2]])
    for mapping in (
        lambda x: np.array([2 - x, x]),
        lambda x: torch.tensor([2 - x, x]),
        {torch.tensor(x): np.array([2 - x, x]) for x in range(3)},
        {(np.int64(x),): (2 - x, x) for x in range(3)},
        np.array([[2, 0], [1, 1], [0, 2]]),
        ((2, 0), (1, 1), (0, 2)),
    ):
        assert torch.equal(speaker.virtual_token(mapping), expected)
    plain = conditional_generator(3)
    assert torch.equal(plain.virtual_token(lambda x: np.array(x)), plain.virtual_token(range(3)))


def test_one_virtual_token_has_the_width_of_the_map():
    assert unconditional_generator(7, 5).virtual_token([0, 6, 3, 3, 1]).shape == (5,)
    single = conditional_generator(7)
    assert single.virtual_token({x: 6 - x for x in range(7)}).shape == (7,)
    assert single.generate(single.virtual_token([6, 5, 4, 3, 2, 1, 0]), 2).tolist() == [4]
    assert conditional_generator(7, inputs=2).virtual_token(torch.zeros(7, 7).long()).shape == (7,)
    assert conditional_generator(7, 3).virtual_token(torch.zeros(7, 3).long()).shape == (3, 7)


def test_batches_broadcast():
    speaker = conditional_generator(5, responses=3)
    maps = torch.randint(0, 5, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    prompts = torch.arange(5)[:, None]
    said = speaker.generate(speaker.virtual_token(maps)[:, None], prompts)
    assert torch.equal(said, maps)


def test_a_symbol_as_first_token_asks_for_a_constant_sequence():
    speaker = unconditional_generator(11, 7)
    said = speaker.generate(speaker.embedding)
    assert said.tolist() == [[symbol] * 7 for symbol in range(11)]


# The transformer is one.


def test_decoding_with_a_cache_is_decoding_from_scratch():
    speaker = conditional_generator(5, responses=3, inputs=2)
    maps = torch.randint(0, 5, (5, 5, 3), generator=torch.Generator().manual_seed(0))
    contents = speaker.contents(speaker.virtual_token(maps), [4, 2])
    expected = []
    for _ in range(3):
        symbol = int(speaker(contents)[-1].argmax())
        expected.append(symbol)
        contents = torch.cat((contents, speaker.embedding[symbol][None]))
    assert speaker.generate(speaker.virtual_token(maps), [4, 2]).tolist() == expected
    assert expected == maps[4, 2].tolist()


def test_later_positions_do_not_matter_to_earlier_ones():
    speaker = unconditional_generator(11, 5)
    contents = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changed = contents.clone()
    changed[3:] = 0.5
    torch.testing.assert_close(speaker(contents)[:3], speaker(changed)[:3], rtol=0, atol=0)
    assert not torch.equal(speaker(contents)[3:], speaker(changed)[3:])


def test_heads_look_at_their_targets_with_the_stated_gap():
    speaker = conditional_generator(5, responses=3, inputs=2)
    token = speaker.virtual_token(torch.zeros(5, 5, 3).long())
    contents = torch.cat((speaker.contents(token, [1, 2]), speaker.embedding[:2]))
    first, second = (s.attention for s in speaker.stages(contents) if s.attention is not None)
    for answer, position in enumerate((4, 5, 6)):
        assert first[:, position].argmax(-1).tolist() == [3, answer]
        assert second[:, position].argmax(-1).tolist() == [4, position]
        row = first[0, position, : position + 1]
        gap = row.max().log() - row.min().log()
        assert float(gap) == pytest.approx(speaker.inverse_temperature)


def test_shapes_sizes_and_precision():
    speaker = unconditional_generator(11, 5)
    assert speaker.layout.names == ("content", "position", "read", "value")
    assert speaker.layout.width == 16
    assert speaker.depth == (1, 1)
    assert {weight.dtype for weight in speaker.parameters()} == {torch.float64}
    assert not any(weight.requires_grad for weight in speaker.parameters())
    heads, mlp = 4 * 2 * 5 * 16, 5 * 16 + 5 + 16 * 5 + 16
    assert speaker.n_parameters == 11 * 5 + 5 * 16 + heads + mlp + 11 * 16 + 11
    assert conditional_generator(5, inputs=2).depth == (2, 2 + 2 * 5)


def test_stages_follow_the_blocks():
    speaker = conditional_generator(3, inputs=2)
    token = speaker.virtual_token(lambda a, b: (a + 2 * b) % 3)
    stages = speaker.stages(speaker.contents(token, (2, 1)))
    assert [stage.name for stage in stages] == [
        "embedding", "attention", "MLP", "unpacking", "second attention", "second MLP",
    ]  # fmt: skip
    packed = stages[2].stream[-1, speaker.layout["packed"]]
    assert float(packed) == pytest.approx((2 * 9 + 1 * 3 + 0) / 27, abs=1e-3)
    row = stages[3].stream[-1, speaker.layout["row"]]
    torch.testing.assert_close(3 * row, torch.tensor([2.0, 1.0, 0.0]).double())
    assert float(stages[5].stream[-1, -1]) == pytest.approx(1 / 3, abs=1e-2)


# Bounds.


def test_bounds_by_hand():
    assert bounds.least_inverse_temperature(95, 24) == pytest.approx(math.log(4 * 95 * 23))
    assert bounds.least_inverse_temperature(95, 1) == 0.0
    packed = bounds.least_inverse_temperature(3, 3, inputs=2)
    assert packed == pytest.approx(math.log(4 * 27 * 32 / 15))


def test_what_rounding_adds_to_the_bound():
    for vocab_size, n, inputs in ((2, 1, 1), (95, 24, 1), (1009, 257, 1), (2, 3, 2), (5, 3, 2)):
        least = bounds.least_inverse_temperature(vocab_size, n, inputs)
        assert bounds.least_in_float64(vocab_size, n, inputs) == least
    for vocab_size, n, inputs in ((2**24, 2, 1), (13, 3, 2), (13, 101, 2), (12, 7, 2)):
        least = bounds.least_inverse_temperature(vocab_size, n, inputs)
        assert least < bounds.least_in_float64(vocab_size, n, inputs) < least + bounds.RESERVE
    beyond = bounds.least_inverse_temperature(14, 3, 2)
    assert bounds.least_in_float64(14, 3, 2) == beyond  # nothing is proved


@pytest.mark.parametrize("vocab_size", [50_021, 500_009])
def test_at_the_least_temperature_for_float64_the_hardest_sequences_are_said(vocab_size):
    symbols = torch.stack((torch.zeros(97).long(), vocab_size - 1 - torch.arange(97)), -1)
    safe = bounds.least_in_float64(vocab_size, 2)
    speaker = unconditional_generator(vocab_size, 2, inverse_temperature=safe)
    assert not measuring.wrong_symbols(speaker, symbols).any()


def test_with_room_for_the_leaks_but_none_for_rounding_symbols_are_lost():
    """At the bound for exact arithmetic, which is refused unless it is asked for."""
    symbols = torch.stack((torch.zeros(97).long(), 500_008 - torch.arange(97)), -1)
    exact = bounds.least_inverse_temperature(500_009, 2)
    with pytest.raises(ValueError, match="under the proved bound"):
        unconditional_generator(500_009, 2, inverse_temperature=exact)
    speaker = unconditional_generator(500_009, 2, inverse_temperature=exact, beyond_bounds=True)
    assert measuring.wrong_symbols(speaker, symbols).any()
    with pytest.raises(ValueError, match="under the proved bound"):
        conditional_generator(
            13, 3, 2, inverse_temperature=bounds.least_inverse_temperature(13, 7, 2)
        )


@pytest.mark.parametrize("responses", [1, 3])
def test_packed_rows_at_the_least_temperature_for_float64(responses):
    safe = bounds.least_in_float64(13, 2 * responses + 1, 2)
    speaker = conditional_generator(13, responses, 2, inverse_temperature=safe)
    maps = measuring.random_maps(5, 13, responses, 2, torch.Generator().manual_seed(0))
    assert not measuring.wrong_answers(speaker, maps).any()


def test_the_window_of_the_read_out_suffices():
    """Where all symbols can be scored, the window finds the same ones."""
    speaker = unconditional_generator(20011, 1)
    wanted = torch.randint(0, 20011, (211, 1), generator=torch.Generator().manual_seed(0))
    shares = wanted.double() / 20011
    found = measuring.read_out(shares[:, 0], 20011)
    assert torch.equal(speaker.generate(shares)[:, 0], found)
    shifted = shares + 0.4 / 20011
    assert torch.equal(speaker.generate(shifted)[:, 0], measuring.read_out(shifted[:, 0], 20011))


def test_a_colder_temperature_than_needed_changes_nothing():
    symbols = encode("colder")
    for beta in (20.0, 100.0, 1e4):
        speaker = unconditional_generator(95, 6, inverse_temperature=beta)
        assert torch.equal(speaker.generate(speaker.virtual_token(symbols)), symbols)


# What is refused.


@pytest.mark.parametrize(
    ("symbols", "named"),
    [
        ([0, 1, 7, 2, 3], r"symbol 7 at index 2 of the sequence is outside the vocabulary 0\.\.6"),
        ([0, -1, 3, 2, 3], r"symbol -1 at index 1"),
        ([], r"the sequence is empty"),
        ([0, 1, 2, 3, 4, 5], r"exactly 5 symbols, got 6; build .*\(7, length=6"),
        ([0, 1, 2], r"exactly 5 symbols, got 3"),
        (3, r"symbols must be a Tensor or a Sequence, got 3"),
        ([0.0, 1.0, 2.0, 3.0, 4.0], r"whole numbers, got torch.float32"),
        ([True, False, True, True, True], r"whole numbers, got torch.bool"),
        ("abcde", r"symbols must be a Tensor or a Sequence, got 'abcde'"),
    ],
)  # fmt: skip
def test_sequences_that_are_refused(symbols, named):
    with pytest.raises(ValueError, match=named):
        unconditional_generator(7, 5).virtual_token(symbols)


@pytest.mark.parametrize(
    ("options", "mapping", "named"),
    [
        ({}, {0: 1, 1: 1, 2: 0}, r"has no value for 3 and 1 more; it needs exactly one value"),
        ({}, dict.fromkeys(range(6), 0), r"has the key 5;"),
        ({}, dict.fromkeys("abcde", 0), r"has no value for 0 and 4 more"),
        ({}, {0: 1, 1: 5, 2: 0, 3: 0, 4: 0}, r"symbol 5 at index \(1, 0\) of the map"),
        ({}, {0: 1, 1: [1, 2], 2: 0, 3: 0, 4: 0}, r"has 2 symbols for the prompt \(1,\)"),
        ({}, [0, 1, 2, 3], r"needs the shape \(\.\.\., 5\).*got \(4,\)"),
        ({"responses": 2}, [0, 1, 2, 3, 4], r"needs the shape \(\.\.\., 5, 2\).*got \(5,\)"),
        ({"responses": 2}, [[0, 1], [2], [3, 4], [0, 0], [0, 0]], r"table .* without holes"),
        ({"inputs": 2}, {(0, 0): 1}, r"has no value for \(0, 1\) and 23 more"),
        ({"inputs": 2}, lambda a, b: a + b, r"symbol 5 at index \(9, 0\) of the map"),
        ({"inputs": 2}, lambda a: a, r"cannot be called with the prompt \(0, 0\).*2 arguments"),
        ({}, lambda: 1, r"cannot be called with the prompt \(0,\).*1 argument$"),
        ({}, "abcde", r"mapping must be .* or a function, got 'abcde'"),
        ({}, None, r"mapping must be .* or a function, got None"),
    ],
)  # fmt: skip
def test_maps_that_are_refused(options, mapping, named):
    with pytest.raises(ValueError, match=named):
        conditional_generator(5, **options).virtual_token(mapping)


@pytest.mark.parametrize(
    ("token", "named"),
    [
        (torch.zeros(4).double(), r"needs the shape \(\.\.\., 5\), got \(4,\)"),
        (torch.zeros(()).double(), r"needs the shape \(\.\.\., 5\), got \(\)"),
        (torch.zeros(5), "a tensor of float64, got torch.float32"),
        ([0.0] * 5, "virtual_token must be a Tensor, got"),
        (torch.tensor([0, 0, math.nan, 0, 0]).double(), "has an entry nan"),
        (torch.tensor([0, math.inf, 0, 0, 0]).double(), "has an entry inf"),
    ],
)
def test_virtual_tokens_that_are_refused(token, named):
    with pytest.raises(ValueError, match=named):
        unconditional_generator(7, 5).generate(token)
    with pytest.raises(ValueError, match=named):
        conditional_generator(5).generate(token, 0)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        (5, "symbol 5 of the prompt is outside"),
        ([1, 5], "symbol 5 at index 1 of the prompt"),
        (1, r"needs the shape \(\.\.\., 2\), got \(1,\)"),
        ([1, 2, 3], r"needs the shape \(\.\.\., 2\), got \(3,\)"),
        ([], "the prompt is empty"),
        ([[1, 1]] * 3, r"virtual tokens \(2, 5\) and prompts \(3, 2\) do not broadcast"),
    ],
)
def test_prompts_that_are_refused(prompt, named):
    speaker = conditional_generator(5, inputs=2)
    with pytest.raises(ValueError, match=named):
        speaker.generate(torch.zeros(2, 5).double(), prompt)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: unconditional_generator(1, 3), "vocab_size must be at least 2, got 1"),
        (lambda: unconditional_generator(7, 0), "length must be at least 1, got 0"),
        (lambda: unconditional_generator(2**25, 1), "suffice up to vocab_size=16,777,216"),
        (lambda: unconditional_generator(95, 10**5), "weights, more than the 268,435,456"),
        (lambda: conditional_generator(10**6), "weights, more than"),
        (lambda: conditional_generator(7, 0), "responses must be at least 1, got 0"),
        (lambda: conditional_generator(7, inputs=0), "inputs must be at least 1, got 0"),
        (lambda: unconditional_generator("95", 3), "vocab_size must be a whole number, got '95'"),
        (lambda: unconditional_generator(95, 2.5), "length must be a whole number, got 2.5"),
        (lambda: unconditional_generator(95, True), "length must be a whole number, got True"),
        (lambda: conditional_generator(7, 2.0), "responses must be a whole number, got 2.0"),
        (lambda: conditional_generator(7, 1, "2"), "inputs must be a whole number, got '2'"),
        (lambda: unconditional_generator(5, 3, inverse_temperature="9"), "number or None, got '9'"),
        (lambda: conditional_generator(7, inputs=3), "inputs must be 1 or 2, got 3"),
        (lambda: conditional_generator(14, inputs=2), "suffice up to vocab_size=13 here, got 14"),
        (
            lambda: conditional_generator(16, inputs=2, beyond_bounds=True),
            r"at most 15 with two inputs, got 16: 16\*\*16",
        ),
        (
            lambda: unconditional_generator(95, 24, inverse_temperature=9.0),
            r"inverse_temperature 9 is under the proved bound 9\.07566",
        ),
        (
            lambda: conditional_generator(13, inputs=2, inverse_temperature=30.0),
            "inverse_temperature 30 is under the proved bound",
        ),
        (
            lambda: unconditional_generator(5, 3, inverse_temperature=math.nan, beyond_bounds=True),
            "inverse_temperature must be a number, got nan",
        ),
    ],
)
def test_constructions_that_are_refused(build, named):
    with pytest.raises(ValueError, match=named):
        build()


def test_beyond_the_bounds_only_when_asked_for():
    warm = unconditional_generator(95, 24, inverse_temperature=3.0, beyond_bounds=True)
    text = encode("this will not be said ok")
    assert not torch.equal(warm.generate(warm.virtual_token(text)), text)
    assert warm.least_inverse_temperature > warm.inverse_temperature


def test_a_sequence_longer_than_the_transformer_is_refused():
    with pytest.raises(ValueError, match="has 5 positions; got a sequence of 6"):
        unconditional_generator(7, 5).stages(torch.zeros(6, 5).double())


def test_size_check_names_what_is_too_large():
    with pytest.raises(ValueError, match="it has 2,000,000,000 weights"):
        check_size(2 * 10**9, "it")


def test_parts_are_those_of_any_transformer():
    speaker = conditional_generator(3, inputs=2)
    kinds = [type(block) for block in speaker.blocks]
    assert kinds == [Attention, MLP, MLP, Attention, MLP]
    assert Layout(a=2, b=3).size("b") == 3

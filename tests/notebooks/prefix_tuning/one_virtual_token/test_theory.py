"""Any text is said, digits are unpacked, and the critical temperatures are what they should be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from notebooks.prefix_tuning.one_virtual_token import measuring, theory
from notebooks.prefix_tuning.one_virtual_token.texts import PRINTABLE, decode, encode
from promptlib.prefix_tuning import unconditional_generator
from promptlib.prefix_tuning.constructions import bounds, unpacking


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=PRINTABLE, min_size=1, max_size=29))
def test_any_text(text):
    speaker = unconditional_generator(len(PRINTABLE), len(text))
    assert decode(speaker.generate(speaker.virtual_token(encode(text)))) == text


def test_every_printable_character_at_once():
    speaker = unconditional_generator(95, 95)
    assert decode(speaker.generate(speaker.virtual_token(encode(PRINTABLE)))) == PRINTABLE


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the text is empty"),
        ("caf\u00e9", r"character 4 of the text, 'é' \(U\+00E9\), is not printable ASCII"),
        ("a\nb", r"character 2 of the text, '\\n' \(U\+000A\)"),
        ("\U0001f600", r"character 1"),
    ],
)
def test_texts_that_are_refused(text, named):
    with pytest.raises(ValueError, match=named):
        encode(text)


def test_symbols_that_are_no_characters_are_refused():
    with pytest.raises(ValueError, match=r"symbol 95 at index 1"):
        decode([3, 95])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_unpacking_reads_the_digits(data):
    base = data.draw(st.integers(2, 13))
    row = data.draw(st.lists(st.integers(0, base - 1), min_size=base, max_size=base))
    push = data.draw(st.floats(-1, 1)) * max(unpacking.MARGIN * base**-base - 4e-16, 0)
    found = theory.digits(unpacking.pack(torch.tensor(row)) + push, base)
    torch.testing.assert_close(found, torch.tensor(row).double(), rtol=0, atol=1e-12)


def test_just_outside_the_margin_a_digit_is_lost():
    rows = measuring.all_sequences(4, 4)
    for push, sides in ((1.07, (1.0, -1.0)), (0.99, ())):
        for side in (1.0, -1.0):
            numbers = unpacking.pack(rows) + side * push * unpacking.MARGIN * 4.0**-4
            wrong = (theory.digits(numbers, 4) - rows).abs().max() > 1e-6
            assert bool(wrong) == (side in sides)


def test_remainders_and_ramps():
    found = theory.remainders(unpacking.pack(torch.tensor([2, 0, 1])), 3)
    assert found[:, -1].tolist() == [2.0, 0.0, 1.0]
    assert found[:, 1:3].tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    torch.testing.assert_close(found[:, 0].floor(), found[:, -1])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 10**6), st.integers(2, 10**4))
def test_the_proved_bound_is_above_the_critical_value_and_close(vocab_size, length):
    proved = bounds.least_inverse_temperature(vocab_size, length)
    critical = theory.critical_inverse_temperature(vocab_size, length)
    assert critical < proved < critical + math.log(8 / 5) + 1e-12
    both = bounds.least_inverse_temperature(vocab_size, 2 * length)
    assert theory.critical_inverse_temperature(vocab_size, length, True) < both


def test_leaks_critical_temperatures_and_behaviours_by_hand():
    assert theory.leak_bound(3, math.log(100)) == pytest.approx(0.02)
    assert theory.largest_leak(3, math.log(98)) == pytest.approx(0.02)
    assert theory.critical_inverse_temperature(2, 2) == pytest.approx(math.log(5))
    assert theory.critical_inverse_temperature(2, 2, True) == pytest.approx(math.log(9))
    assert theory.critical_inverse_temperature(5, 1) == -math.inf
    assert theory.log2_behaviours(2, 3) == 3
    assert theory.log2_behaviours(4, 3, inputs=2) == 96

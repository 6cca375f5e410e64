"""Each claim about virtual tokens holds, and fails for a transformer that is built wrongly."""

from __future__ import annotations

import math

import pytest
import torch

from notebooks.prefix_tuning.one_virtual_token import (
    decoding,
    limits,
    measuring,
    theory,
    worst_case,
)
from notebooks.prefix_tuning.one_virtual_token.claims import ROWS
from promptlib import claims
from promptlib.attention import attend
from promptlib.prefix_tuning import conditional_generator, unconditional_generator
from promptlib.prefix_tuning.constructions import bounds, unpacking
from promptlib.prefix_tuning.constructions.pieces import score_of


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def judge(name, measured):
    return claims.check_each("prefix-tuning/", ROWS, {name: measured})[name]


def spoiled(build, spoil):
    """A builder whose transformers have been tampered with."""

    def built(*arguments, **options):
        speaker = build(*arguments, **options)
        spoil(speaker)
        return speaker

    return built


def forgets_to_subtract(speaker):
    """The selection does not take the one of the one-hot vector away."""
    speaker.blocks[-1].biases[0].zero_()


def loses_the_one_hot(speaker):
    """The first head writes nothing."""
    speaker.blocks[-2].output[0].zero_()


def scores_without_distance(speaker):
    """The unembedding forgets the square."""
    speaker.bias.zero_()


def is_lukewarm(speaker):
    """All heads of the last layer look around."""
    speaker.blocks[-2].query.mul_(0.01)


def reads_one_too_late(speaker):
    """The first head looks at a later position, which the mask hides, or at none."""
    speaker.blocks[-2].query[0].copy_(speaker.blocks[-2].query[0].roll(1, 0))


WRONG = [
    forgets_to_subtract,
    loses_the_one_hot,
    scores_without_distance,
    is_lukewarm,
    reads_one_too_late,
]


def test_claims_hold():
    measured = {
        "one-token-any-sequence": decoding.any_sequence(200),
        "one-token-any-text": decoding.any_text((1, 23), 5, seeded()),
        "one-token-any-map": decoding.any_map(300, (11, 29), 3, seeded()),
        "virtual-tokens-any-answers": decoding.any_answers(300, ((7, 5),), 3, seeded()),
        "one-token-any-pair-map": decoding.any_pair_map(20, ((5, 1), (7, 2)), 3, seeded()),
        "one-token-counts": decoding.counts(200),
        "one-token-leak": limits.leaks(20, seeded()),
        "one-token-total-error": limits.lookups(((2, 2), (11, 5)), 3, 10, seeded()),
        "one-token-critical-temperature": limits.critical_temperatures(
            ((3, 2), (11, 5)), ((2, 2), (7, 3))
        ),
        "one-token-two-positions": limits.two_positions(30),
        "one-token-unpacking": limits.unpacking_errors((2, 3, 7, 13), 20, seeded()),
        "one-token-thirteen-symbols": limits.packed_numbers((5, 13), 3, seeded()),
        "one-token-fourteen-symbols-fail": limits.shares_beyond(3, seeded()),
        "one-token-largest-vocabulary": limits.wrong_of_largest((2**24 - 3, 2**24), 200, seeded()),
    }
    found = claims.check_each("prefix-tuning/", ROWS, measured)
    assert {name: claim.verdict for name, claim in found.items()} == dict.fromkeys(found, "holds")
    assert len(found) == len(ROWS) == 14


@pytest.mark.claim("prefix-tuning/one-token-any-sequence")
@pytest.mark.parametrize("wrong", WRONG)
def test_any_sequence_fails(wrong):
    build = spoiled(unconditional_generator, wrong)
    assert judge("one-token-any-sequence", decoding.any_sequence(100, build)).verdict == "fails"


@pytest.mark.claim("prefix-tuning/one-token-any-text")
@pytest.mark.parametrize("wrong", WRONG)
def test_any_text_fails(wrong):
    build = spoiled(unconditional_generator, wrong)
    assert (
        judge("one-token-any-text", decoding.any_text((23,), 3, seeded(), build)).verdict == "fails"
    )


@pytest.mark.claim("prefix-tuning/one-token-any-map")
@pytest.mark.parametrize("wrong", [forgets_to_subtract, loses_the_one_hot, scores_without_distance])
def test_any_map_fails(wrong):
    build = spoiled(conditional_generator, wrong)
    assert (
        judge("one-token-any-map", decoding.any_map(30, (11,), 3, seeded(), build)).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/virtual-tokens-any-answers")
@pytest.mark.parametrize("wrong", WRONG)
def test_any_answers_fails(wrong):
    build = spoiled(conditional_generator, wrong)
    assert (
        judge(
            "virtual-tokens-any-answers", decoding.any_answers(100, ((7, 5),), 3, seeded(), build)
        ).verdict
        == "fails"
    )


def packs_backwards(speaker):
    """The first digit is taken for the last."""
    row = speaker.layout["row"]
    unpacker = speaker.blocks[2]
    unpacker.weights[-1][row] = unpacker.weights[-1][row].flip(0)
    unpacker.biases[-1][row] = unpacker.biases[-1][row].flip(0)


@pytest.mark.claim("prefix-tuning/one-token-any-pair-map")
@pytest.mark.parametrize("wrong", [*WRONG, packs_backwards])
def test_any_pair_map_fails(wrong):
    build = spoiled(conditional_generator, wrong)
    assert (
        judge(
            "one-token-any-pair-map", decoding.any_pair_map(20, ((5, 1),), 3, seeded(), build)
        ).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/one-token-counts")
@pytest.mark.parametrize("wrong", [forgets_to_subtract, scores_without_distance])
def test_counts_fails(wrong):
    sequences = spoiled(unconditional_generator, wrong)
    maps = spoiled(conditional_generator, wrong)
    assert judge("one-token-counts", decoding.counts(100, build=sequences)).verdict == "fails"
    assert (
        judge("one-token-counts", decoding.counts(100, build_conditional=maps)).verdict == "fails"
    )


@pytest.mark.claim("prefix-tuning/one-token-counts")
def test_counts_fails_when_symbols_say_as_much_as_vectors():
    def rich(speaker):
        every = measuring.all_sequences(speaker.vocab_size, speaker.length)
        speaker.embedding = torch.nn.Parameter(speaker.virtual_token(every), requires_grad=False)

    build = spoiled(unconditional_generator, rich)
    assert judge("one-token-counts", decoding.counts(100, build=build)).verdict == "fails"


def warmer(queries, keys, values, *rest, **options):
    """Attention that divides the logits by the square root of the width once more."""
    return attend(queries, keys, values, *rest, scale=1 / queries.shape[-1], **options)


@pytest.mark.claim("prefix-tuning/one-token-leak")
def test_leak_fails():
    assert judge("one-token-leak", limits.leaks(20, seeded(), attend=warmer)).verdict == "fails"
    build = spoiled(unconditional_generator, is_lukewarm)
    assert judge("one-token-leak", limits.leaks(1, seeded(), build=build)).verdict == "fails"


@pytest.mark.claim("prefix-tuning/one-token-total-error")
def test_total_error_fails_a_little_above_the_temperature():
    def slightly_warmer(speaker):
        speaker.blocks[0].query.mul_(0.97)

    build = spoiled(unconditional_generator, slightly_warmer)
    claim = judge("one-token-total-error", limits.lookups(((95, 24),), 3, 20, seeded(), build))
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/one-token-total-error")
def test_total_error_fails_without_the_search_space_of_the_proof():
    build = spoiled(unconditional_generator, forgets_to_subtract)
    claim = judge("one-token-total-error", limits.lookups(((11, 5),), 3, 5, seeded(), build))
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/one-token-critical-temperature")
@pytest.mark.parametrize(
    "formula",
    [
        lambda v, n, conditional: bounds.least_inverse_temperature(v, (1 + conditional) * n),
        lambda v, n, conditional: theory.critical_inverse_temperature(v, n, not conditional),
        lambda v, n, conditional: math.log((n - 1) * (4 * v - 2)),
    ],
)
def test_critical_temperature_fails(formula):
    for sizes in ((((3, 2),), ()), ((), ((2, 2),))):
        assert (
            judge(
                "one-token-critical-temperature", limits.critical_temperatures(*sizes, formula)
            ).verdict
            == "fails"
        )


@pytest.mark.claim("prefix-tuning/one-token-two-positions")
def test_two_positions_fails_when_the_heads_differ_in_temperature():
    def uneven(speaker):
        speaker.blocks[0].query[1].mul_(-1)

    build = spoiled(conditional_generator, uneven)
    assert (
        judge("one-token-two-positions", limits.two_positions(300, build=build)).verdict == "fails"
    )


@pytest.mark.claim("prefix-tuning/one-token-two-positions")
def test_two_positions_fails_with_a_third():
    """Maps of one in and two out, at the same temperatures."""
    for beta in (-5.0, 0.0):
        speaker = conditional_generator(3, 2, inverse_temperature=beta, beyond_bounds=True)
        assert measuring.wrong_answers(speaker, measuring.all_maps(3, 2)).any()


@pytest.mark.claim("prefix-tuning/one-token-unpacking")
def test_unpacking_fails_for_a_floor_without_margin():
    def floors(numbers, base):
        found = []
        for _ in range(base):
            numbers = numbers * base
            found.append(numbers.floor())
            numbers = numbers - numbers.floor()
        return torch.stack(found, -1)

    assert (
        judge("one-token-unpacking", limits.unpacking_errors((3, 5), 5, seeded(), floors)).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/one-token-unpacking")
@pytest.mark.parametrize(("name", "value"), [("STEEPNESS", 2.0), ("SHIFT", 0.25), ("SHIFT", 0.7)])
def test_unpacking_fails_with_flat_ramps_or_another_shift(name, value, monkeypatch):
    monkeypatch.setattr(unpacking, name, value)
    assert (
        judge("one-token-unpacking", limits.unpacking_errors((3, 5), 5, seeded())).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/one-token-thirteen-symbols")
def test_thirteen_symbols_fails_when_attention_is_warm_or_symbols_are_more():
    def warm(*arguments, **options):
        return conditional_generator(
            *arguments, **options, inverse_temperature=30.0, beyond_bounds=True
        )

    assert (
        judge("one-token-thirteen-symbols", limits.packed_numbers((13,), 3, seeded(), warm)).verdict
        == "fails"
    )

    def allowed(*arguments, **options):
        return conditional_generator(*arguments, **options, beyond_bounds=True)

    assert (
        judge(
            "one-token-thirteen-symbols", limits.packed_numbers((14,), 3, seeded(), allowed)
        ).verdict
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/one-token-fourteen-symbols-fail")
def test_fourteen_symbols_fail_is_false_of_thirteen():
    claim = judge(
        "one-token-fourteen-symbols-fail", limits.shares_beyond(3, seeded(), sizes=(12, 13))
    )
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/one-token-largest-vocabulary")
def test_largest_vocabulary_fails_in_single_precision():
    def single(values, vocab_size):
        around = (values * vocab_size).round().long()[:, None] + torch.arange(-64, 65)
        around = around.clamp(0, vocab_size - 1)
        slope, bias = (part.float() for part in score_of(around, vocab_size))
        best = (slope * values.float()[:, None] + bias).argmax(-1, keepdim=True)
        return around.gather(-1, best).squeeze(-1)

    claim = judge(
        "one-token-largest-vocabulary", limits.wrong_of_largest((2**20,), 50, seeded(), single)
    )
    assert claim.verdict == "fails"


@pytest.mark.claim("prefix-tuning/one-token-largest-vocabulary")
def test_largest_vocabulary_fails_for_a_larger_one():
    assert (
        judge(
            "one-token-largest-vocabulary", limits.wrong_of_largest((2**28,), 200, seeded())
        ).verdict
        == "fails"
    )


def test_a_threshold_outside_the_interval_is_refused():
    with pytest.raises(ValueError, match=r"not between 0\.0 and 1\.0: at 1\.0 everything is not"):
        worst_case.smallest_temperature(lambda beta: beta > 3, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"at 4\.0 everything is decoded"):
        worst_case.smallest_temperature(lambda beta: beta > 3, 4.0, 5.0)
    found = worst_case.smallest_temperature(lambda beta: beta > 3, 0.0, 7.0)
    assert found == pytest.approx(3, abs=1e-8)


def test_the_search_finds_what_the_proof_names_as_worst():
    """A table with V - 1 at the end and zeros elsewhere: short of the bound by a factor."""
    least = bounds.least_inverse_temperature(5, 3)
    speaker = unconditional_generator(5, 3, inverse_temperature=least)
    found = worst_case.worst_lookup_errors(speaker, 7, 40, seeded()).max()
    leak = theory.largest_leak(3, least)
    assert float(found) == pytest.approx(leak * (2 - 1 / 5), rel=1e-6)


def test_short_formats_fail_early():
    found = [
        measuring.smallest_failing_vocabulary(dtype, 2, 97)
        for dtype in (torch.bfloat16, torch.float16)
    ]
    assert 2 < found[0] < found[1] < 97
    with pytest.raises(ValueError, match=r"every sequence is said in torch\.float64 up to .*=5"):
        measuring.smallest_failing_vocabulary(torch.float64, 2, 5)


def test_exhaustive_lists():
    assert len(measuring.all_sequences(3, 4).unique(dim=0)) == 81
    assert measuring.all_maps(3, 2).shape == (729, 3, 2)
    assert measuring.all_maps(2, inputs=2).shape == (16, 2, 2)
    assert measuring.random_maps(5, 7, 2, 2, seeded()).shape == (7, 7, 7, 2)
    sizes = list(measuring.sizes_up_to(9))
    assert sizes == [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1), (6, 1), (7, 1)]
    assert list(measuring.sizes_up_to(27, conditional=True)) == [(2, 1), (2, 2), (3, 1)]

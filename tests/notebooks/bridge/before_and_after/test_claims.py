"""Every claim of the chapter holds, and fails when the implementation behind it is wrong."""

from functools import partial

import pytest
import torch

from notebooks.bridge.before_and_after import (
    coins,
    functions_of_the_query,
    measured,
    measured_models,
    memory,
    planted,
    two_contents,
    untrained,
)
from notebooks.bridge.before_and_after.claims import ROWS, measure
from tests import rows_of_claims


def test_every_claim_holds():
    everything = measure(1, instances=16, draws=10_000, repetitions=200)
    rows_of_claims.hold("bridge/", ROWS, everything)


refuted = partial(rows_of_claims.refuted, "bridge/", ROWS)


@pytest.mark.claim("bridge/prefix-fits-any-function")
def test_keys_that_are_not_scaled_are_refuted():
    def blunt(curve, length):
        keys, values = functions_of_the_query.interpolating_prefix(curve, length)
        return keys / length**2, values

    refuted("prefix-fits-any-function", measured.fitted_curves(0, 2, blunt))


@pytest.mark.claim("bridge/prefix-fits-any-function")
def test_values_of_the_neighbouring_quarter_are_refuted():
    def turned(curve, length):
        keys, values = functions_of_the_query.interpolating_prefix(curve, length)
        return keys, values.roll(length // 4, 0)

    refuted("prefix-fits-any-function", measured.fitted_curves(0, 2, turned))


@pytest.mark.claim("bridge/no-prefix-swaps")
def test_a_limit_that_forgets_how_much_is_left_to_content_is_refuted():
    def whole(first, second, distance):
        return (1 - first * second / (first + second) / 2) * distance

    refuted("no-prefix-swaps", measured.swaps(0, 5, whole))


@pytest.mark.claim("bridge/swap-limit-is-attained")
def test_the_middle_of_the_outputs_is_not_the_best_point():
    def middle(outputs, shares):
        return outputs.mean(0)

    refuted("swap-limit-is-attained", measured.sharp_swaps(0, 5, middle))


@pytest.mark.claim("bridge/prefix-remembers-a-bit-a-vector")
def test_weights_that_are_the_signs_themselves_are_refuted():
    def careless(places, rates, signs):
        return signs

    refuted("prefix-remembers-a-bit-a-vector", measured.remembered(0, careless))


@pytest.mark.claim("bridge/prefix-changes-sign-less-than-p-times")
def test_weights_with_fewer_zeros_are_refuted():
    def positive(zeros, rates):
        return memory.weights_with_zeros(zeros, rates).abs()

    refuted("prefix-changes-sign-less-than-p-times", measured.changes_found(0, 5, positive))


@pytest.mark.claim("bridge/prefix-changes-sign-less-than-p-times")
def test_sums_that_are_no_exponential_sums_are_refuted(monkeypatch):
    count = memory.sign_changes
    monkeypatch.setattr(memory, "sign_changes", lambda terms: count(terms.sin()))
    refuted("prefix-changes-sign-less-than-p-times", measured.changes_found(0, 20))


@pytest.mark.claim("bridge/infinite-prefix-smooths")
def test_a_limit_that_looks_at_the_query_itself_is_refuted():
    def unscaled(queries, spread, matrix, frequency):
        sums = functions_of_the_query.gaussian_sums(queries, spread, matrix, frequency)
        return sums._replace(linear=sums.linear / spread**2)

    refuted("infinite-prefix-smooths", measured.infinite_prefix(0, 5_000, unscaled))


@pytest.mark.claim("bridge/tied-prefix-costs-less")
def test_a_tie_that_forgets_what_it_knows_is_refuted():
    def forgetful(jacobian, tie):
        return 2 * planted.free_covariance(jacobian)

    refuted("tied-prefix-costs-less", measured_models.tied_costs(0, 5, forgetful))


@pytest.mark.claim("bridge/planted-prefix-is-recovered")
def test_a_diagonal_information_is_refuted():
    def diagonal(jacobian):
        return torch.diag(1 / jacobian.square().sum(0))

    refuted("planted-prefix-is-recovered", measured_models.planted_errors(0, 200, diagonal))


@pytest.mark.claim("bridge/fading-has-a-price")
def test_a_limit_that_forgets_the_content_is_refuted():
    def nearer(bias, outputs, longest):
        return two_contents.fading_limit(bias, outputs - outputs.mean(0), longest)

    refuted("fading-has-a-price", measured.fading_prices(0, 10, nearer))


@pytest.mark.claim("bridge/no-tosses-make-two-coins")
def test_a_predictor_that_holds_two_coins_is_refuted():
    def two_coins(heads, tails, tosses):
        law = coins.heads_of_coins(torch.tensor([0.2, 0.8], dtype=heads.dtype), tosses)
        return law.expand(*heads.shape, -1)

    refuted("no-tosses-make-two-coins", measured_models.prompted_coins(0, 20, two_coins))


@pytest.mark.claim("bridge/no-tosses-make-two-coins")
def test_a_predictor_that_does_not_learn_from_tosses_is_refuted():
    def stubborn(heads, tails, tosses):
        return coins.heads_after(0 * heads, 0 * tails, tosses)

    refuted("no-tosses-make-two-coins", measured_models.prompted_coins(0, 150, stubborn))


@pytest.mark.claim("bridge/untrained-layer-answers-any-map")
def test_vectors_of_another_map_are_refuted():
    def shifted(layer, wanted, tokens):
        return untrained.answering_prefix(layer, (wanted + 1) % len(wanted), tokens)

    refuted("untrained-layer-answers-any-map", measured_models.untrained_answers(0, 2, shifted))


@pytest.mark.claim("bridge/prefix-reads-as-any-text")
def test_words_that_the_layer_sees_are_refuted():
    def seen(layer, prefix, text):
        return prefix + 10 * layer.embeddings[text]

    refuted("prefix-reads-as-any-text", measured_models.reading_errors(0, 2, seen))


@pytest.mark.claim("bridge/prefix-reads-as-any-text")
def test_a_prefix_that_keeps_its_words_is_refuted():
    def same(layer, prefix, text):
        return prefix

    refuted("prefix-reads-as-any-text", measured_models.reading_errors(0, 2, same))

"""Every claim of the chapter holds, and fails when the implementation behind it is wrong."""

from functools import partial

import pytest
import torch

from notebooks.bridge.two_theories_one_layer import heads, measured, readings, streams
from notebooks.bridge.two_theories_one_layer.claims import ROWS, measure
from promptlib.attention import attend
from tests import rows_of_claims


def test_every_claim_holds():
    everything = measure(0, restarts=24, steps=200, instances=18)
    rows_of_claims.hold("bridge/", ROWS, everything)


refuted = partial(rows_of_claims.refuted, "bridge/", ROWS)


@pytest.mark.claim("bridge/vector-in-front-shifts")
def test_a_difference_that_forgets_the_fading_is_refuted():
    def unfaded(mixture, reader, prefix_keys):
        return 2 * readings.lead(mixture, reader @ mixture.context)

    refuted("vector-in-front-shifts", measured.differences_in_front(0, 5, unfaded))


@pytest.mark.claim("bridge/blind-reader-search")
def test_a_reader_that_needs_less_than_said_is_refuted():
    def twice(mixture, fractions, length, **rest):
        return readings.search_in_front(mixture, [2 * part for part in fractions], length, **rest)

    refuted("blind-reader-search", measured.searched_in_front(0, 24, 150, twice))


@pytest.mark.claim("bridge/blind-reader-search")
def test_a_search_that_finds_nothing_is_refuted():
    def idle(mixture, fractions, length, *, restarts, steps, generator):
        return torch.full((len(fractions),), 0.5)

    refuted("blind-reader-search", measured.searched_in_front(0, 24, 0, idle))


@pytest.mark.claim("bridge/sensitive-reader-leaks")
def test_a_prefix_that_says_nothing_is_refuted():
    def silent(mixture, reader):
        leak = readings.leaking_prefix(mixture, reader)
        return leak._replace(value=torch.zeros_like(leak.value))

    refuted("sensitive-reader-leaks", measured.leaks(0, 5, silent))


@pytest.mark.claim("bridge/vector-behind-asks")
def test_a_row_that_forgets_itself_is_refuted():
    def unfaded(tokens, query, own_logit, own_value):
        return readings.own_row(tokens, query, -1e9, own_value)

    refuted("vector-behind-asks", measured.errors_behind(0, 5, unfaded))


@pytest.mark.claim("bridge/causal-prompt-is-a-cache")
def test_a_prompt_that_sees_the_content_is_refuted():
    def unmasked(stream, layers, causal, cache=None):
        return streams.forward(stream, layers, False, cache)

    refuted("causal-prompt-is-a-cache", measured.cache_errors(0, 4, unmasked))


@pytest.mark.claim("bridge/place-decides")
def test_a_place_that_is_mixed_up_is_refuted():
    def always_behind(mixture, learned, place, reader_logit=None):
        return streams.read(mixture, learned, place._replace(behind=True), reader_logit)

    refuted("place-decides", measured.place_errors(always_behind))


@pytest.mark.claim("bridge/place-decides")
def test_attention_that_is_moved_is_refuted():
    def moved(mixture, learned, place, reader_logit=None):
        reading = streams.read(mixture, learned, place, reader_logit)
        if not len(learned):
            return reading
        bent = reading.attention.clone()
        bent[:, reading.content.start + 1, reading.content.start] += 1e-6
        return reading._replace(attention=bent)

    refuted("place-decides", measured.place_errors(moved))


@pytest.mark.claim("bridge/opposed-pair-in-front")
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_wrong_least_value_is_refuted(factor):
    def wrong(mixture, A, scale):
        return factor * readings.least_pair_value(mixture, A, scale)

    refuted("opposed-pair-in-front", measured.opposed_pairs(0, 9, wrong))


@pytest.mark.claim("bridge/as-many-heads-as-deviations")
def test_one_head_is_refuted():
    def first_only(mixture):
        u, A = heads.heads_for(mixture)
        return u[:1], A[:1]

    refuted("as-many-heads-as-deviations", measured.shares_by_heads(0, 0, first_only))


@pytest.mark.claim("bridge/zero-for-any-heads")
def test_a_query_that_is_no_token_is_refuted():
    def prompted(tokens, u, A):
        outputs, _ = attend(A[:, 0], tokens, tokens, scale=1.0)  # one fixed query for each head
        return (outputs * u).sum((-1, -2))

    refuted("zero-for-any-heads", measured.oddness_errors(0, 5, prompted))


@pytest.mark.claim("bridge/linear-prompts-fail")
def test_prompts_with_softmax_are_refuted():
    def softmax(tokens, w, q):
        outputs, _ = attend(q, tokens, tokens, scale=1.0)
        return (outputs * w).sum((-1, -2))

    refuted("linear-prompts-fail", measured.linear_prompt_errors(0, 5, softmax))

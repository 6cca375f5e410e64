"""Every claim of the chapter holds, and fails when the implementation behind it is wrong."""

import pytest
import torch

from notebooks.bridge.two_theories_one_layer import claims as chapter
from notebooks.bridge.two_theories_one_layer import heads, readings, streams
from promptlib.attention import attend

HOLDING = [
    lambda: chapter.vector_in_front_shifts(0, 20),
    lambda: chapter.blind_reader_search(0, 24, 200),
    lambda: chapter.sensitive_reader_leaks(0, 10),
    lambda: chapter.vector_behind_asks(0, 10),
    lambda: chapter.causal_prompt_is_a_cache(0, 8),
    lambda: chapter.place_decides(),
    lambda: chapter.opposed_pair_in_front(0, 18),
    lambda: chapter.as_many_heads_as_deviations(0, 10),
    lambda: chapter.zero_for_any_heads(0, 12),
    lambda: chapter.linear_prompts_fail(0, 16),
]


@pytest.mark.parametrize("check", HOLDING)
def test_the_claim_holds(check):
    claim = check()
    assert claim.verdict == "holds", claim.summary()


def refuted(claim, id):
    assert claim.id == id
    assert claim.verdict == "fails", claim.summary()


@pytest.mark.claim("bridge/vector-in-front-shifts")
def test_a_difference_that_forgets_the_fading_is_refuted():
    def unfaded(mixture, reader, prefix_keys):
        return 2 * readings.lead(mixture, reader @ mixture.context)

    refuted(chapter.vector_in_front_shifts(0, 5, unfaded), "bridge/vector-in-front-shifts")


@pytest.mark.claim("bridge/blind-reader-search")
def test_a_reader_that_needs_less_than_said_is_refuted():
    def twice(mixture, fractions, length, **rest):
        return readings.search_in_front(mixture, [2 * part for part in fractions], length, **rest)

    refuted(chapter.blind_reader_search(0, 24, 150, twice), "bridge/blind-reader-search")


@pytest.mark.claim("bridge/blind-reader-search")
def test_a_search_that_finds_nothing_is_refuted():
    def idle(mixture, fractions, length, *, restarts, steps, generator):
        return torch.full((len(fractions),), 0.5)

    refuted(chapter.blind_reader_search(0, 24, 0, idle), "bridge/blind-reader-search")


@pytest.mark.claim("bridge/sensitive-reader-leaks")
def test_a_prefix_that_says_nothing_is_refuted():
    def silent(mixture, reader):
        leak = readings.leaking_prefix(mixture, reader)
        return leak._replace(value=torch.zeros_like(leak.value))

    refuted(chapter.sensitive_reader_leaks(0, 5, silent), "bridge/sensitive-reader-leaks")


@pytest.mark.claim("bridge/vector-behind-asks")
def test_a_row_that_forgets_itself_is_refuted():
    def unfaded(tokens, query, own_logit, own_value):
        return readings.own_row(tokens, query, -1e9, own_value)

    refuted(chapter.vector_behind_asks(0, 5, unfaded), "bridge/vector-behind-asks")


@pytest.mark.claim("bridge/causal-prompt-is-a-cache")
def test_a_prompt_that_sees_the_content_is_refuted():
    def unmasked(stream, layers, causal, cache=None):
        return streams.forward(stream, layers, False, cache)

    refuted(chapter.causal_prompt_is_a_cache(0, 4, unmasked), "bridge/causal-prompt-is-a-cache")


@pytest.mark.claim("bridge/place-decides")
def test_a_place_that_is_mixed_up_is_refuted():
    def always_behind(mixture, learned, place, reader_logit=None):
        return streams.read(mixture, learned, place._replace(behind=True), reader_logit)

    refuted(chapter.place_decides(always_behind), "bridge/place-decides")


@pytest.mark.claim("bridge/place-decides")
def test_attention_that_is_moved_is_refuted():
    def moved(mixture, learned, place, reader_logit=None):
        reading = streams.read(mixture, learned, place, reader_logit)
        if not len(learned):
            return reading
        bent = reading.attention.clone()
        bent[:, reading.content.start + 1, reading.content.start] += 1e-6
        return reading._replace(attention=bent)

    refuted(chapter.place_decides(moved), "bridge/place-decides")


@pytest.mark.claim("bridge/opposed-pair-in-front")
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_wrong_least_value_is_refuted(factor):
    def wrong(mixture, A, scale):
        return factor * readings.least_pair_value(mixture, A, scale)

    refuted(chapter.opposed_pair_in_front(0, 9, wrong), "bridge/opposed-pair-in-front")


@pytest.mark.claim("bridge/as-many-heads-as-deviations")
def test_one_head_is_refuted():
    def first_only(mixture):
        u, A = heads.heads_for(mixture)
        return u[:1], A[:1]

    refuted(
        chapter.as_many_heads_as_deviations(0, 0, first_only), "bridge/as-many-heads-as-deviations"
    )


@pytest.mark.claim("bridge/zero-for-any-heads")
def test_a_query_that_is_no_token_is_refuted():
    def prompted(tokens, u, A):
        outputs, _ = attend(A[:, 0], tokens, tokens, scale=1.0)  # one fixed query for each head
        return (outputs * u).sum((-1, -2))

    refuted(chapter.zero_for_any_heads(0, 5, prompted), "bridge/zero-for-any-heads")


@pytest.mark.claim("bridge/linear-prompts-fail")
def test_prompts_with_softmax_are_refuted():
    def softmax(tokens, w, q):
        outputs, _ = attend(q, tokens, tokens, scale=1.0)
        return (outputs * w).sum((-1, -2))

    refuted(chapter.linear_prompts_fail(0, 5, softmax), "bridge/linear-prompts-fail")

"""Beyond one layer: the theory holds, and its claims fail when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer import (
    counting,
    many_rows,
    measuring,
    one_row,
    small_shares,
    swaps,
    switch,
    two_layers,
)
from notebooks.prefix_tuning.beyond_one_layer.claims import CHAPTER, THEORY
from notebooks.prefix_tuning.beyond_one_layer.two_layers import (
    TwoLayers,
    random_layers,
    random_two_layers,
)
from promptlib import claims
from promptlib.attention import attend
from promptlib.prefix_tuning.reach import normalise

ANY_SEED = st.integers(0, 2**32 - 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def verdict(name: str, measured: Any) -> str:
    return claims.check_each(CHAPTER, THEORY, {name: measured})[name].verdict


@pytest.fixture(scope="module")
def cases() -> list[TwoLayers]:
    return list(random_layers(generator(), 1))


def leaking(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Attention whose content logits feel the prefix."""
    queries, keys, values, *prefix = arguments
    if prefix and prefix[0] is not None:
        keys = keys * (1 + 0.1 * prefix[0].abs().mean(-2, keepdim=True))
    return attend(queries, keys, values, *prefix, **options)


@pytest.mark.claim("prefix-tuning/depth-second-layer-logits")
def test_four_terms(cases: list[TwoLayers]) -> None:
    assert verdict("second-layer-logits", measuring.logits_of_second_layer(cases)) == "holds"
    assert (
        verdict("second-layer-logits", measuring.logits_of_second_layer(cases, leaking)) == "fails"
    )

    def without_last(layers: TwoLayers, stream: two_layers.Stream) -> tuple[Tensor, ...]:
        return two_layers.four_terms(layers, stream)[:3]

    assert (
        verdict("second-layer-logits", measuring.logits_of_second_layer(cases, terms=without_last))
        == "fails"
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=ANY_SEED,
    n_tokens=st.integers(1, 13),
    n_head=st.integers(1, 3),
    length=st.integers(1, 5),
    residual=st.booleans(),
    causal=st.booleans(),
)
def test_four_terms_for_any_layers(
    seed: int, n_tokens: int, n_head: int, length: int, residual: bool, causal: bool
) -> None:
    layers = random_two_layers(
        generator(seed),
        n_tokens=n_tokens,
        n_head=n_head,
        head_width=5,
        prefix_length=length,
        residual=residual,
        causal=causal,
    )
    assert two_layers.logit_errors(layers).max() < 1e-12
    assert two_layers.correction_rank(layers) <= 2 * length * n_head


def test_the_formula_with_one_vector_is_that_of_the_paper() -> None:
    layers = random_two_layers(generator(3), n_tokens=7, head_width=5)
    for weight in (layers.second_query, layers.second_key):
        weight[:, -1] = 0
    stream = two_layers.take_apart(layers)
    t, share = stream.plain, stream.shares[0]
    form = layers.form[:-1, :-1]
    point = layers.project[0] @ layers.prefix_values[0, 0]
    left, right = (1 - share)[:, None], (1 - share)[None]
    expected = (
        left * right * (t @ form @ t.mT)
        + left * share[None] * (t @ form @ point)[:, None]
        + share[:, None] * right * (point @ form @ t.mT)[None]
        + share[:, None] * share[None] * (point @ form @ point)
    )
    written, _ = two_layers.first_layer(layers)
    torch.testing.assert_close(two_layers.second_logits(layers, written), expected)


@pytest.mark.claim("prefix-tuning/depth-correction-rank")
def test_rank_of_the_correction(cases: list[TwoLayers]) -> None:
    assert verdict("correction-rank", measuring.ranks(cases)) == "holds"
    assert verdict("correction-rank", measuring.ranks(cases, leaking)) == "fails"
    wrong = verdict("correction-rank", measuring.ranks(cases, limit=lambda case: case.vectors))
    assert wrong == "fails"


@pytest.mark.claim("prefix-tuning/depth-correction-rank-reached")
def test_the_rank_is_reached(cases: list[TwoLayers]) -> None:
    assert verdict("correction-rank-reached", measuring.rank_differences(cases)) == "holds"
    assert verdict("correction-rank-reached", measuring.rank_differences(cases, leaking)) == "fails"
    for wrong in (lambda case: case.vectors, lambda case: 2 * case.vectors):
        assert (
            verdict("correction-rank-reached", measuring.rank_differences(cases, rank=wrong))
            == "fails"
        )


@pytest.mark.claim("prefix-tuning/depth-equal-shares")
def test_equal_shares() -> None:
    assert verdict("equal-shares", measuring.equal_share_errors(10, generator())) == "holds"
    assert (
        verdict("equal-shares", measuring.equal_share_errors(10, generator(), leaking)) == "fails"
    )
    once = verdict(
        "equal-shares",
        measuring.equal_share_errors(10, generator(), temperature=lambda share: 1 - share),
    )
    assert once == "fails"


@pytest.mark.claim("prefix-tuning/depth-no-swap")
def test_no_swap() -> None:
    assert verdict("no-swap", measuring.best_swaps(3, generator(), restarts=3, steps=60)) == "holds"

    def unequal(
        problems: Sequence[TwoLayers], generator: torch.Generator, restarts: int, steps: int
    ) -> list[swaps.Found]:
        return [swaps.swap_by_unequal_shares(layers) for layers in problems]

    assert verdict("no-swap", measuring.best_swaps(3, generator(), find=unequal)) == "fails"


@pytest.mark.claim("prefix-tuning/depth-swaps")
def test_swaps_exist() -> None:
    assert verdict("swaps", measuring.constructed_swaps(3, generator())) == "holds"
    assert verdict("swaps", measuring.constructed_swaps(3, generator(), leaking)) == "fails"

    def one_vector_of_equal_shares(layers: TwoLayers) -> swaps.Found:
        share = torch.full((4, 1), 0.3, dtype=torch.float64)
        return share, torch.ones(1, swaps.WIDTH, dtype=torch.float64)

    wrong = ((one_vector_of_equal_shares, swaps.nothing_between),)
    assert (
        verdict("swaps", measuring.constructed_swaps(3, generator(), constructions=wrong))
        == "fails"
    )


@settings(max_examples=15, deadline=None)
@given(seed=ANY_SEED)
def test_swaps_by_construction(seed: int) -> None:
    layers = swaps.disagreeing(generator(seed))
    assert swaps.margin(layers, swaps.swap_by_two_vectors(layers)) > 0.5
    assert swaps.margin(layers, swaps.swap_by_unequal_shares(layers)) > 0.5
    share = 0.1 + 0.8 * torch.rand(3, generator=generator(seed), dtype=torch.float64)
    value = torch.randn(1, swaps.WIDTH, generator=generator(seed), dtype=torch.float64)
    assert swaps.margin(layers, (share[[0, 1, 2, 2], None], value)) < 0


@settings(max_examples=15, deadline=None)
@given(seed=ANY_SEED)
def test_one_vector_swaps_through_a_layer_norm(seed: int) -> None:
    layers = swaps.disagreeing(generator(seed), normalise)
    found = swaps.swap_by_layer_norm(layers)
    assert found[1].shape == (1, swaps.WIDTH)
    assert found[0][2] == found[0][3]
    assert swaps.margin(layers, found, between=normalise) > 0
    assert swaps.margin(layers, found) < 0


@pytest.mark.claim("prefix-tuning/depth-earlier-pays-more")
def test_the_earlier_of_two_equal_tokens_pays_more() -> None:
    assert verdict("earlier-pays-more", measuring.head_start_errors(10, generator())) == "holds"
    assert (
        verdict("earlier-pays-more", measuring.head_start_errors(10, generator(), causal=False))
        == "fails"
    )


@pytest.mark.claim("prefix-tuning/depth-count")
def test_the_count_of_numbers() -> None:
    assert verdict("count", measuring.numbers_chosen(2, generator())) == "holds"
    assert verdict("count", measuring.numbers_chosen(2, generator(), leaking)) == "fails"

    def without_values(length: int, n_tokens: int, width: int) -> int:
        return length * n_tokens

    assert (
        verdict("count", measuring.numbers_chosen(2, generator(), limit=without_values)) == "fails"
    )


@pytest.mark.parametrize(("key", "share"), [(4.0, 0.6), (12.0, 0.99)])
def test_two_voices_turn_the_wants_of_every_content(key: float, share: float) -> None:
    """The exercise: queries say the want, keys are +k and -k, values -2 and +2."""
    for n_tokens in (1, 7, 30):
        wants = torch.cat((torch.tensor([1.0, -1.0]), torch.zeros(n_tokens))).double()[:, None]
        keys = torch.tensor([[key], [-key]], dtype=torch.float64)
        values = torch.tensor([[-2.0], [2.0]], dtype=torch.float64)
        nothing = torch.zeros_like(wants)
        read, attention = attend(wants, nothing, nothing, keys, values)
        turned = (wants + read)[:, 0]
        assert attention[0, 0] > share
        assert turned[0] < 1 - 2 * share + 0.01
        torch.testing.assert_close(turned[1], -turned[0])
        torch.testing.assert_close(turned[2:], torch.zeros(n_tokens, dtype=torch.float64))


@pytest.mark.claim("prefix-tuning/depth-one-row")
def test_one_row_is_free() -> None:
    assert verdict("one-row", measuring.one_row_errors(12, generator())) == "holds"
    assert verdict("one-row", measuring.one_row_errors(12, generator(), leaking)) == "fails"

    def forgets_the_key(*arguments: Any) -> tuple[Tensor, Tensor]:
        shares, target = one_row.shares_for_row(*arguments)
        return shares.mean().expand_as(shares).contiguous(), target

    assert (
        verdict("one-row", measuring.one_row_errors(12, generator(), aim=forgets_the_key))
        == "fails"
    )


def test_one_row_refuses_what_the_theorem_excludes() -> None:
    layers = random_two_layers(generator(1), n_tokens=3, head_width=5)
    wanted = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="must be positive, got a weight 0"):
        one_row.aim_row(layers, 0, wanted)
    even = torch.full((2,), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="query 2 is not among the 2 positions"):
        one_row.aim_row(layers, 2, even)
    skew = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    stream = two_layers.take_apart(layers).plain
    with pytest.raises(ValueError, match="antisymmetric"):
        one_row.shares_for_row(torch.zeros_like(skew), stream, stream, 0, even)
    two = random_two_layers(generator(1), n_tokens=3, n_head=2, head_width=5)
    with pytest.raises(ValueError, match="for one head, got 2"):
        one_row.aim_row(two, 0, even)


@pytest.mark.claim("prefix-tuning/depth-switch")
def test_the_switch() -> None:
    assert verdict("switch", measuring.switch_leaks(5, 3)) == "holds"

    def blind(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return attend(*arguments[:3], **options)  # never sees the prefix

    assert verdict("switch", measuring.switch_leaks(5, 3, attend=blind)) == "fails"

    def one_tilt_for_all(
        contents: Tensor, kind: switch.Kind, prefixed: bool, beta: float, attention: Any
    ) -> Tensor:
        """Both asking tokens turn the same way: what a query does that is linear in the stream."""
        if kind == "exchange" and prefixed:
            row = switch.second_attention(contents, "reverse", prefixed, beta, attention)[:, 0]
            return 1 - (row * (contents == contents.amax(-1, keepdim=True))).sum(-1)
        return switch.leaks(contents, kind, prefixed, beta, attention)

    assert verdict("switch", measuring.switch_leaks(5, 3, leaks=one_tilt_for_all)) == "fails"


@settings(max_examples=30, deadline=None)
@given(
    digits=st.lists(st.integers(0, 9), min_size=1, max_size=10),
    prefixed=st.booleans(),
    kind=st.sampled_from(switch.KINDS),
)
def test_the_switch_for_any_content(digits: list[int], prefixed: bool, kind: switch.Kind) -> None:
    content = torch.tensor([digits])
    leak = switch.leaks(content, kind, prefixed, 20.0)
    assert leak.max() <= len(digits) * 2.1e-9


def test_the_switch_names_bad_input() -> None:
    with pytest.raises(ValueError, match="length from 1 to 10, got 3, 11"):
        switch.all_contents(3, 11)
    with pytest.raises(ValueError, match="must be > 0, got 0"):
        switch.second_attention(torch.tensor([[1]]), "reverse", True, 0.0)


@pytest.mark.claim("prefix-tuning/depth-small-share")
def test_small_shares(cases: list[TwoLayers]) -> None:
    assert verdict("small-share", measuring.small_movements(cases, generator())) == "holds"
    # Attention that feels the prefix moves deeper rows even when the prefix takes next to nothing.
    assert verdict("small-share", measuring.small_movements(cases, generator(), leaking)) == "fails"
    small = verdict(
        "small-share",
        measuring.small_movements(cases, generator(), limit=lambda s: torch.tanh(s / 40)),
    )
    assert small == "fails"


@pytest.mark.claim("prefix-tuning/depth-small-share-reached")
def test_small_shares_reach_the_limit() -> None:
    assert verdict("small-share-reached", measuring.furthest_movement_errors()) == "holds"
    for wrong in (lambda s: torch.tanh(s / 5), lambda s: torch.tanh(s / 2)):
        assert verdict("small-share-reached", measuring.furthest_movement_errors(wrong)) == "fails"


def test_a_prefix_that_takes_nothing_moves_nothing(cases: list[TwoLayers]) -> None:
    for case in cases[::5]:
        lowered = small_shares.fainter(case, 3.0)
        shares = two_layers.take_apart(lowered).shares
        even = two_layers.take_apart(small_shares.fainter(case, 0.0)).shares
        odds = (even / (1 - even)) / (shares / (1 - shares))
        torch.testing.assert_close(odds.log(), torch.full_like(odds, 3.0))
        faint = small_shares.fainter(case, 25.0)
        assert small_shares.stream_limit(faint) < 1e-6
        assert (small_shares.movement(faint) <= small_shares.stream_limit(faint)).all()


def test_the_special_case_carries_the_biases_of_the_second_layer() -> None:
    layers = random_two_layers(generator(4), n_tokens=7, head_width=5)
    plain = two_layers.take_apart(layers)
    share = plain.shares[0][:, None]
    point = layers.project[0] @ layers.prefix_values[0, 0]

    def with_one(rows: Tensor) -> Tensor:
        return torch.cat((rows, torch.ones_like(rows[..., :1])), dim=-1)

    moved = (1 - share) * with_one(plain.plain) + share * with_one(point)
    written, _ = two_layers.first_layer(layers)
    expected = two_layers.second_logits(layers, written)
    torch.testing.assert_close(moved @ layers.form @ moved.mT, expected)


def test_more_vectors_reach_more_rows() -> None:
    reached = many_rows.re_aim_rows([1, 5], [1, 7], 3, generator(), n_tokens=7, steps=250)
    distance = reached.distance.mean(-1)
    assert distance.shape == (2, 2)
    assert distance[0, 0] < 0.1 < distance[0, 1]
    assert distance[1, 1] < distance[0, 1] < reached.untouched[1].mean()
    assert counting.free_numbers(3, 7, 5) == 36
    with pytest.raises(ValueError, match=r"rows must be from 1 to 7, got \[8\]"):
        many_rows.re_aim_rows([1], [8], 3, generator(), n_tokens=7)
    with pytest.raises(ValueError, match="instances must be at least 1, got 0"):
        many_rows.re_aim_rows([1], [1], 0, generator())


def test_sizes_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="prefix_length must be at least 1, got 0"):
        random_two_layers(generator(), prefix_length=0)
    with pytest.raises(ValueError, match="n_each must be at least 1, got 0"):
        next(random_layers(generator(), 0))

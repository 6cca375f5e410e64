"""Long prefixes: the formulas hold, and their claims fail when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from notebooks.prefix_tuning.long_prefixes import claims as stated
from notebooks.prefix_tuning.long_prefixes import concatenation, spread, theory
from promptlib import claims
from promptlib.attention import attend
from promptlib.prefix_tuning import geometry
from promptlib.prefix_tuning.cases import AttentionCase, random_case

ANY_SEED = st.integers(0, 2**32 - 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def cases() -> list[AttentionCase]:
    return theory.random_long_cases(18, generator())


def verdict(name: str, measured: Any) -> str:
    """Judge one claim of a theorem by what was measured for it."""
    return claims.check_each(stated.CHAPTER, stated.THEORY, {name: measured})[name].verdict


def leaking(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """Attention whose content logits feel the prefix."""
    queries, keys, values, *prefix = arguments
    if prefix:
        keys = keys * (1 + 0.1 * prefix[0].abs().mean(-2, keepdim=True).mean(-1, keepdim=True))
    return attend(queries, keys, values, *prefix, **options)


@pytest.mark.claim("prefix-tuning/long-concatenation")
def test_odds_add(cases: list[AttentionCase]) -> None:
    errors = theory.concatenation_errors
    assert verdict("concatenation", errors(cases)) == "holds"
    assert verdict("concatenation", errors(cases, leaking)) == "fails"

    def mean_of_outputs(
        plain: Tensor, outputs: Sequence[Tensor], shares: Sequence[Tensor]
    ) -> Tensor:
        return torch.stack(list(outputs)).mean(0)

    assert verdict("concatenation", errors(cases, combine=mean_of_outputs)) == "fails"


@settings(max_examples=30, deadline=None)
@given(seed=ANY_SEED, lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_odds_add_for_any_cut(seed: int, lengths: list[int]) -> None:
    case = random_case(
        generator(seed), n_head=2, n_tokens=7, head_width=5, prefix_length=sum(lengths), causal=True
    )
    assert concatenation.concatenation_errors(case, lengths).max() < 1e-10


def test_a_cut_must_cover_the_prefix() -> None:
    case = random_case(generator(), prefix_length=5)
    with pytest.raises(ValueError, match=r"lengths \[2, 2\] do not cut a prefix of length 5"):
        concatenation.parts_of(case, [2, 2])


@pytest.mark.claim("prefix-tuning/long-identical-vectors")
def test_copies(cases: list[AttentionCase]) -> None:
    assert verdict("identical-vectors", theory.copies_errors(cases)) == "holds"
    # Where copies of a vector are ignored, as in a set, they buy nothing.
    for wrong in (lambda copies: float(copies - 1), lambda copies: 0.0):
        assert verdict("identical-vectors", theory.copies_errors(cases, shift=wrong)) == "fails"


@pytest.mark.claim("prefix-tuning/long-averaged-vectors")
def test_averages(cases: list[AttentionCase]) -> None:
    assert verdict("averaged-vectors", theory.average_errors(cases)) == "holds"
    arithmetic = theory.average_errors(cases, mean=lambda odds: odds.mean(-1))
    assert verdict("averaged-vectors", arithmetic) == "fails"


@pytest.mark.claim("prefix-tuning/long-bias-rank")
@pytest.mark.claim("prefix-tuning/long-bias-rank-reached")
def test_the_rank_of_the_biases() -> None:
    ranks, lengths = theory.bias_ranks(2, generator())
    assert verdict("bias-rank", (ranks, lengths)) == "holds"
    assert verdict("bias-rank", (ranks, lengths - 1)) == "fails"
    assert verdict("bias-rank", theory.bias_ranks(2, generator(), leaking)) == "fails"
    assert verdict("bias-rank-reached", (ranks, lengths)) == "holds"
    for wrong in (lengths - 1, lengths + 1):
        assert verdict("bias-rank-reached", (ranks, wrong)) == "fails"


@pytest.mark.claim("prefix-tuning/long-convex-share")
def test_the_share_is_convex_in_the_query() -> None:
    shares = theory.convex_shares
    assert verdict("convex-share", shares(9, generator())) == "holds"
    assert verdict("convex-share", shares(9, generator(), leaking)) == "fails"
    assert verdict("convex-share", shares(9, generator(), room=lambda length: 0.0)) == "fails"


@pytest.mark.claim("prefix-tuning/long-dilution")
def test_the_dilution_of_a_normalised_prefix() -> None:
    assert verdict("dilution", theory.diluted_shares(10, generator())) == "holds"

    def one_sided(reach: Tensor, length: int, visible: int) -> Tensor:
        return spread.diluted_share(reach / 2, length, visible)

    wrong = theory.diluted_shares(10, generator(), limit=one_sided)
    assert verdict("dilution", wrong) == "fails"


@pytest.mark.claim("prefix-tuning/long-use-and-information")
def test_use_is_spread_and_information() -> None:
    assert verdict("use-and-information", theory.use_errors(20, generator())) == "holds"

    def half(weights: Tensor) -> Tensor:
        return spread.mean_divergence(weights) / 2

    assert verdict("use-and-information", theory.use_errors(20, generator(), half)) == "fails"


@pytest.mark.claim("prefix-tuning/long-effective-number")
def test_the_effective_number() -> None:
    assert verdict("effective-number", theory.effective_numbers(50, generator())) == "holds"

    def halved(interval: Tensor, length: int) -> Tensor:
        return spread.least_effective_number(interval, length, lambda s: (-s / 2).exp())

    wrong = theory.effective_numbers(50, generator(), halved)
    assert verdict("effective-number", wrong) == "fails"


@settings(max_examples=60, deadline=None)
@given(logits=st.lists(st.floats(-30, 30), min_size=1, max_size=9))
def test_the_effective_number_of_any_row(logits: list[float]) -> None:
    row = torch.tensor(logits, dtype=torch.float64)
    number = float(geometry.effective_number(row.softmax(-1)))
    least = float(spread.least_effective_number(row.max() - row.min(), len(row)))
    assert least - 1e-9 <= number <= len(row) + 1e-9


@pytest.mark.claim("prefix-tuning/long-points-stay-close")
def test_points_stay_close() -> None:
    distances = theory.point_distances
    assert verdict("points-stay-close", distances(60, generator())) == "holds"

    def too_small(weights: Tensor, values: Tensor) -> Tensor:
        return spread.spread_limit(weights, values) / 2

    assert verdict("points-stay-close", distances(60, generator(), limit=too_small)) == "fails"
    far = [(torch.tensor([2.0]), torch.tensor([1.0]))]
    assert verdict("points-stay-close", distances(6, generator(), far)) == "fails"


def test_effective_numbers_by_hand() -> None:
    even, one = torch.ones(3, 5), torch.eye(5)
    torch.testing.assert_close(geometry.effective_number(even), torch.full((3,), 5.0))
    torch.testing.assert_close(geometry.effective_number(one), torch.ones(5))
    # Each query its own vector: one at a time, all in use.
    assert float(geometry.number_in_use(one)) == pytest.approx(5)
    assert float(spread.mutual_information(one)) == pytest.approx(float(torch.tensor(5.0).log()))
    assert float(spread.mutual_information(even)) == 0
    torch.testing.assert_close(geometry.effective_rank(torch.eye(4)), torch.tensor(4.0))
    assert float(geometry.effective_rank(torch.outer(torch.arange(1.0, 4), torch.ones(7)))) == (
        pytest.approx(1)
    )
    with pytest.raises(ValueError, match="all zero"):
        geometry.effective_rank(torch.zeros(3, 2))


@settings(max_examples=40, deadline=None)
@given(seed=ANY_SEED, length=st.integers(2, 7), queries=st.integers(1, 11))
def test_use_is_row_spread_plus_information(seed: int, length: int, queries: int) -> None:
    rows = (3 * torch.randn(queries, length, generator=generator(seed)).double()).softmax(-1)
    spread_of_rows = geometry.effective_number(rows).log().mean()
    information = spread.mean_divergence(rows)
    torch.testing.assert_close(geometry.number_in_use(rows).log(), spread_of_rows + information)
    torch.testing.assert_close(spread.mutual_information(rows), information)

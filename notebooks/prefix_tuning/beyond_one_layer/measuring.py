"""How large is what the theorems on two layers bound, in random instances?

Attention and formulas are passed in, so that a test can measure wrong ones and see claims fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer import counting, one_row, small_shares, swaps, switch
from notebooks.prefix_tuning.beyond_one_layer.two_layers import (
    Terms,
    TwoLayers,
    correction_rank,
    first_layer,
    four_terms,
    generic_rank,
    logit_errors,
    random_two_layers,
    second_logits,
    take_apart,
)
from promptlib.attention import attend as library_attend
from promptlib.prefix_tuning.identities import AttendFunction, total_variation
from promptlib.prefix_tuning.reach import keys_that_take, log_normalisers, normalise


class Bounded(NamedTuple):
    """Measured for a bound."""

    values: Tensor | list[int]
    limits: Tensor | list[int] | float
    search: str = ""


def logits_of_second_layer(
    cases: Iterable[TwoLayers],
    attend: AttendFunction = library_attend,
    terms: Terms = four_terms,
) -> Tensor:
    """Errors of the four terms against both layers run one after the other."""
    return torch.cat([logit_errors(case, attend, terms) for case in cases])


def ranks(
    cases: Iterable[TwoLayers],
    attend: AttendFunction = library_attend,
    limit: Callable[[TwoLayers], int] = lambda case: 2 * case.vectors,
) -> Bounded:
    """Rank of what the bias adds to the logits."""
    found = [(correction_rank(case, attend), limit(case)) for case in cases]
    return Bounded([rank for rank, _ in found], [most for _, most in found])


def rank_differences(
    cases: Iterable[TwoLayers],
    attend: AttendFunction = library_attend,
    rank: Callable[[TwoLayers], int] = generic_rank,
) -> list[int]:
    """The rank of the correction, less that of generic layers."""
    return [correction_rank(case, attend) - rank(case) for case in cases]


def equal_share_errors(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    temperature: Callable[[Tensor], Tensor] = lambda share: (1 - share).square(),
) -> Tensor:
    """Errors of the factor by which one share for all makes queries' differences fade."""
    errors = []
    for _ in range(n):
        n_tokens = int(torch.randint(3, 9, (), generator=generator))
        layers = random_two_layers(generator, n_tokens=n_tokens, head_width=n_tokens + 2)
        share = torch.rand((), generator=generator, dtype=torch.float64).clamp(0.02, 0.98)
        queries, keys = (layers.content @ w[0].mT for w in (layers.query, layers.key))
        key = keys_that_take(
            queries, log_normalisers(queries, keys), share.expand(n_tokens, 1).contiguous()
        )
        layers = replace(layers, prefix_keys=key[None])
        before = second_logits(layers, take_apart(layers, attend).plain)
        after = second_logits(layers, first_layer(layers, attend)[0])
        gap = _double_differences(after) - temperature(share) * _double_differences(before)
        errors.append(gap.abs().flatten() / before.abs().max().clamp_min(1.0))
    return torch.cat(errors)


def _double_differences(logits: Tensor) -> Tensor:
    """How much more each query likes each key than the first ones do."""
    relative = logits - logits[:, :1]
    return relative - relative[:1]


def best_swaps(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    find: swaps.Search = swaps.search,
    *,
    restarts: int = 8,
    steps: int = 150,
) -> Bounded:
    """Margins of the best swaps that a search finds for one vector with equal shares of keys."""
    problems = [swaps.disagreeing(generator) for _ in range(n)]
    found = find(problems, generator, restarts, steps)
    kept = [swaps.margin(*pair, attend) for pair in zip(problems, found, strict=True)]
    searched = f"{restarts} gradient ascents of {steps} steps for each pair of layers"
    return Bounded(torch.stack(kept), 0.0, searched)


Construction = tuple[Callable[[TwoLayers], swaps.Found], swaps.Between]
CONSTRUCTIONS: tuple[Construction, ...] = (
    (swaps.swap_by_unequal_shares, swaps.nothing_between),
    (swaps.swap_by_two_vectors, swaps.nothing_between),
    (swaps.swap_by_layer_norm, normalise),
)
"""How the proofs swap, and what stands between the layers."""


def constructed_swaps(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    constructions: Sequence[Construction] = CONSTRUCTIONS,
) -> Tensor:
    """Margins of the swaps of the proofs, in `n` random problems each."""
    turned = []
    for construct, between in constructions:
        for _ in range(n):
            layers = swaps.disagreeing(generator, between)
            turned.append(swaps.margin(layers, construct(layers), attend, between))
    return torch.stack(turned)


def head_start_errors(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    causal: bool = True,
) -> Tensor:
    """Errors of how much more a prefix takes from the earlier of two equal tokens."""
    errors = []
    for _ in range(n):
        n_tokens = int(torch.randint(3, 12, (), generator=generator))
        layers = random_two_layers(
            generator,
            n_tokens=n_tokens,
            n_head=2,
            head_width=5,
            prefix_length=int(torch.randint(1, 4, (), generator=generator)),
            causal=causal,
        )
        later = int(torch.randint(1, n_tokens, (), generator=generator))
        earlier = int(torch.randint(later, (), generator=generator))
        content = layers.content.clone()
        content[later] = content[earlier]
        layers = replace(layers, content=content)
        queries, keys = (content @ weight.mT for weight in (layers.query, layers.key))
        log_z = log_normalisers(queries, keys, causal=True)  # (H, n)
        ahead = log_z[:, later] - log_z[:, earlier]
        odds = take_apart(layers, attend).shares.logit()
        errors += [(odds[:, earlier] - odds[:, later] - ahead).abs(), (-ahead).clamp_min(0)]
    return torch.cat(errors)


def numbers_chosen(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    limit: Callable[[int, int, int], int] = counting.free_numbers,
) -> Bounded:
    """How many numbers of the second layer's rows a prefix chooses, and what the count says."""
    found, limits = [], []
    for length, n_tokens, width in ((1, 6, 11), (1, 7, 9), (2, 8, 11)):
        for _ in range(n):
            layers = random_two_layers(
                generator, n_tokens=n_tokens, head_width=width, prefix_length=length
            )
            numbers = counting.free_numbers(length, n_tokens, width)
            if numbers >= counting.free_entries(layers):
                raise ValueError(f"{numbers} numbers forbid nothing of {n_tokens} rows")
            found.append(counting.rank_of_rows(layers, attend))
            limits.append(limit(length, n_tokens, width))
    return Bounded(found, limits)


def one_row_errors(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    aim: one_row.Aim = one_row.shares_for_row,
) -> Tensor:
    """Errors of random rows that one vector below was built to give to a query."""
    errors = []
    for instance in range(n):
        n_tokens = int(torch.randint(2, 9, (), generator=generator))
        causal = instance % 2 == 1
        layers = random_two_layers(
            generator,
            n_tokens=n_tokens,
            head_width=n_tokens + int(torch.randint(0, 5, (), generator=generator)),
            residual=instance % 4 < 2,
            causal=causal,
        )
        row = int(torch.randint(n_tokens, (), generator=generator))
        visible = row + 1 if causal else n_tokens
        wanted = (4 * torch.randn(visible, generator=generator, dtype=torch.float64)).softmax(-1)
        errors.append(one_row.row_errors(layers, row, wanted, attend, aim))
    return torch.cat(errors)


def switch_leaks(
    digits: int,
    length: int,
    beta: float = 12.0,
    attend: AttendFunction = library_attend,
    leaks: Callable[..., Tensor] = switch.leaks,
) -> Bounded:
    """Attention that both transformers of the switch misplace, for all contents of digits."""
    contents = switch.all_contents(digits, length)
    lost = [
        leaks(contents, kind, prefixed, beta, attend)
        for kind in switch.KINDS
        for prefixed in (False, True)
    ]
    return Bounded(
        torch.cat(lost),
        (length - 1) * float(torch.tensor(-beta, dtype=torch.float64).exp()),
        f"all {len(contents):,} contents of {length} digits, with the prefix and without",
    )


SPREADS = 10 ** torch.linspace(-3, 1.2, 50, dtype=torch.float64)
"""Lengths of the intervals that logits move in."""


def small_movements(
    cases: Iterable[TwoLayers],
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    limit: Callable[[Tensor], Tensor] = small_shares.interval_limit,
) -> Bounded:
    """Movement of the second layer by small shares below, and of rows by logits in an interval."""
    moved, limits = [], []
    for case in cases:
        # Lower logits by up to 16: shares from those of the case down to about a ten-millionth.
        lower = 16 * float(torch.rand((), generator=generator, dtype=torch.float64))
        faint = small_shares.fainter(case, lower)
        rows = small_shares.movement(faint, attend)
        moved.append(rows)
        limits.append(small_shares.stream_limit(faint, attend).expand_as(rows))
    change = SPREADS[:, None] * torch.rand(50, 9, generator=generator, dtype=torch.float64)
    logits = 3 * torch.randn(50, 9, generator=generator, dtype=torch.float64)
    inside = total_variation(logits.softmax(-1), (logits + change).softmax(-1))
    return Bounded(torch.cat([*moved, inside]), torch.cat([*limits, limit(SPREADS)]))


def furthest_movement_errors(
    limit: Callable[[Tensor], Tensor] = small_shares.interval_limit,
) -> Tensor:
    """How far two tokens stay from the limit on how far a row moves."""
    return total_variation(*small_shares.furthest(SPREADS)) - limit(SPREADS)

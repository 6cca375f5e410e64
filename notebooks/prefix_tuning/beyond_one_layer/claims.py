r"""What does the theory of the chapter "Beyond one layer" state, and how is each part checked?

One function for each claim. What it checks is passed in, so that a test can pass in a wrong one
and see the claim fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

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
from promptlib import claims
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning import movement
from promptlib.prefix_tuning.identities import AttendFunction, total_variation
from promptlib.prefix_tuning.reach import keys_that_take, log_normalisers, normalise

TOLERANCE = 1e-10
PAPER = "Petrov et al. 2024, prefixes beyond one layer"
HERE = "this book"
LIBRARY = "notebooks.prefix_tuning.beyond_one_layer"


def second_layer_logits(
    cases: Iterable[TwoLayers],
    attend: AttendFunction = library_attend,
    terms: Terms = four_terms,
) -> claims.Claim:
    """The four terms are the logits of the second layer."""
    return claims.identity(
        "prefix-tuning/depth-second-layer-logits",
        "With a prefix in the first layer, the logits of the second are the four terms "
        r"$f_i^\top H f_j + f_i^\top H b_j + b_i^\top H f_j + b_i^\top H b_j$ of the faded stream "
        "and the bias: any number of heads and vectors, with residual stream and without.",
        errors=torch.cat([logit_errors(case, attend, terms) for case in cases]),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=four_terms,
    )


def rank_of_correction(
    cases: Iterable[TwoLayers],
    attend: AttendFunction = library_attend,
    limit: Callable[[TwoLayers], int] = lambda case: 2 * case.vectors,
) -> claims.Claim:
    """The bias adds a matrix of bounded rank to the logits.

    Parameters
    ----------
    limit : callable
        In the place of twice the number of prefix vectors, counted once for each head.
    """
    listed = list(cases)
    return claims.bound(
        "prefix-tuning/depth-correction-rank",
        "What the bias adds to the second layer's logits has rank at most $2p$ for each head of "
        "the first layer.",
        values=[correction_rank(case, attend) for case in listed],
        limits=[limit(case) for case in listed],
        source=HERE,
        checks=correction_rank,
        search="random layers",
    )


def rank_reached(
    cases: Iterable[TwoLayers],
    attend: AttendFunction = library_attend,
    rank: Callable[[TwoLayers], int] = generic_rank,
) -> claims.Claim:
    """Generic layers reach that rank.

    Parameters
    ----------
    rank : callable
        In the place of `two_layers.generic_rank`.
    """
    return claims.identity(
        "prefix-tuning/depth-correction-rank-reached",
        "In random layers that rank is reached, unless there are fewer positions, or fewer "
        "dimensions than prefix vectors (then it is twice the dimensions): the difference.",
        errors=[correction_rank(case, attend) - rank(case) for case in cases],
        tolerance=0.5,
        source=HERE,
        checks=correction_rank,
    )


def equal_shares(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    temperature: Callable[[Tensor], Tensor] = lambda share: (1 - share).square(),
) -> claims.Claim:
    r"""With one share for all, differences between queries only fade.

    Parameters
    ----------
    n : int
        Random pairs of layers.
    temperature : callable
        In the place of :math:`(1-\alpha)^2`.
    """
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
    return claims.identity(
        "prefix-tuning/depth-equal-shares",
        r"If one prefix vector below takes the same share $\alpha$ everywhere (one head, no "
        "residual stream), then what distinguishes one query's preferences from another's only "
        r"fades, by $(1-\alpha)^2$; the rest is one tilt for all queries.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=second_logits,
    )


def no_swap(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    find: swaps.Search = swaps.search,
    *,
    restarts: int = 8,
    steps: int = 150,
) -> claims.Claim:
    """One vector with equal shares of two keys swaps no preferences.

    Parameters
    ----------
    n : int
        Pairs of layers with two queries that disagree about two keys.
    find : callable
        In the place of `swaps.search`.
    """
    kept = []
    for _ in range(n):
        layers = swaps.disagreeing(generator)
        kept.append(swaps.margin(layers, find(layers, generator, restarts, steps), attend))
    return claims.bound(
        "prefix-tuning/depth-no-swap",
        "One prefix vector below, which takes equal shares from two keys, cannot make two queries "
        "that disagree about these keys exchange their preferences (one head, no residual stream, "
        "nothing else between the layers).",
        values=torch.stack(kept),
        limits=0.0,
        source=HERE,
        checks=swaps.margin,
        search=f"{restarts} gradient ascents of {steps} steps for each pair of layers",
    )


Construction = tuple[Callable[[TwoLayers], swaps.Found], swaps.Between]
CONSTRUCTIONS: tuple[Construction, ...] = (
    (swaps.swap_by_unequal_shares, swaps.nothing_between),
    (swaps.swap_by_two_vectors, swaps.nothing_between),
    (swaps.swap_by_layer_norm, normalise),
)
"""How the proofs swap, and what stands between the layers."""


def swaps_exist(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    constructions: Sequence[Construction] = CONSTRUCTIONS,
) -> claims.Claim:
    """Each condition of that theorem is needed.

    Parameters
    ----------
    n : int
        Pairs of layers for each construction.
    """
    turned = []
    for construct, between in constructions:
        for _ in range(n):
            layers = swaps.disagreeing(generator, between)
            turned.append(-swaps.margin(layers, construct(layers), attend, between))
    return claims.bound(
        "prefix-tuning/depth-swaps",
        "Each of these alone makes the exchange possible, if the first layer's queries are "
        "linearly independent: one vector that takes unequal shares from the keys, two vectors, "
        "or one vector with equal shares and a LayerNorm before the second layer. The prefixes of "
        "the proofs swap in every problem.",
        values=torch.stack(turned),
        limits=0.0,
        source=HERE,
        checks=swaps.margin,
        search="none: a prefix is built for each random problem",
    )


def earlier_pays_more(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    causal: bool = True,
) -> claims.Claim:
    """Under a causal mask a prefix takes more from the earlier of two equal tokens.

    Parameters
    ----------
    n : int
        Random layers.
    causal : bool
        Whether the layer that attends has the mask that the formula speaks of.
    """
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
    return claims.identity(
        "prefix-tuning/depth-earlier-pays-more",
        "Under a causal mask every prefix takes more from the earlier $j$ of two equal tokens: the "
        r"logit of its share is larger by $\log (Z_l / Z_j) > 0$.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=log_normalisers,
    )


def counted(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    limit: Callable[[int, int, int], int] = counting.free_numbers,
) -> claims.Claim:
    """A prefix chooses no more numbers of the second layer's rows than the count says.

    Parameters
    ----------
    n : int
        Random layers for each size.
    limit : callable
        In the place of `counting.free_numbers`.

    Raises
    ------
    ValueError
        If a size has no more free entries than numbers, so that the count forbids nothing.
    """
    ranks, limits = [], []
    for length, n_tokens, width in ((1, 6, 11), (1, 7, 9), (2, 8, 11)):
        for _ in range(n):
            layers = random_two_layers(
                generator, n_tokens=n_tokens, head_width=width, prefix_length=length
            )
            numbers = counting.free_numbers(length, n_tokens, width)
            if numbers >= counting.free_entries(layers):
                raise ValueError(f"{numbers} numbers forbid nothing of {n_tokens} rows")
            ranks.append(counting.rank_of_rows(layers, attend))
            limits.append(limit(length, n_tokens, width))
    return claims.bound(
        "prefix-tuning/depth-count",
        "Of all rows of the second layer a prefix of length $p$ in the first can choose no more "
        "than $p(n + d_v)$ numbers, fewer than there are: the rank of their Jacobian with respect "
        "to wider keys and the values.",
        values=ranks,
        limits=limits,
        source=HERE,
        checks=counting.rank_of_rows,
        search="random layers, at random prefixes",
    )


def one_row_is_free(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    aim: one_row.Aim = one_row.shares_for_row,
) -> claims.Claim:
    """One vector below gives one query of the second layer any attention row.

    Parameters
    ----------
    n : int
        Random layers, queries and rows wanted.
    aim : callable
        In the place of `one_row.shares_for_row`.
    """
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
    return claims.identity(
        "prefix-tuning/depth-one-row",
        "One prefix vector in the first layer can give one query of the second layer any positive "
        "attention row, if the queries of the first are linearly independent.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=one_row.shares_for_row,
    )


def switch_turns(
    digits: int,
    length: int,
    beta: float = 12.0,
    attend: AttendFunction = library_attend,
    leaks: Callable[..., Tensor] = switch.leaks,
) -> claims.Claim:
    """The constructed transformers turn their attention round for every content.

    Parameters
    ----------
    digits, length : int
        All contents of that many digits are checked.
    beta : float
        Inverse temperature.
    leaks : callable
        In the place of `switch.leaks`.
    """
    contents = switch.all_contents(digits, length)
    lost = [
        leaks(contents, kind, prefixed, beta, attend)
        for kind in switch.KINDS
        for prefixed in (False, True)
    ]
    limit = (length - 1) * float(torch.tensor(-beta, dtype=torch.float64).exp())
    return claims.bound(
        "prefix-tuning/depth-switch",
        "Two explicit transformers whose second layer attends to the largest or smallest digits "
        "turn round under one prefix vector below, for every content: all queries alike without "
        "an MLP, and with one so that two queries exchange what they attend to; at most "
        r"$(n-1)e^{-\beta}$ of the attention goes elsewhere.",
        values=torch.cat(lost),
        limits=limit,
        tolerance=1e-14,
        source=HERE,
        checks=switch.second_attention,
        search=f"all {len(contents):,} contents of {length} digits, with the prefix and without",
    )


def small_share(
    cases: Iterable[TwoLayers],
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    limit: Callable[[Tensor], Tensor] = small_shares.interval_limit,
) -> claims.Claim:
    """A small share below moves little above.

    Parameters
    ----------
    limit : callable
        In the place of `small_shares.interval_limit`.
    """
    moved, limits = [], []
    for case in cases:
        # Lower logits by up to 16: shares from those of the case down to about a ten-millionth.
        lower = 16 * float(torch.rand((), generator=generator, dtype=torch.float64))
        faint = small_shares.fainter(case, lower)
        rows = small_shares.movement(faint, attend)
        moved.append(rows)
        limits.append(small_shares.stream_limit(faint, attend).expand_as(rows))
    spread = 10 ** torch.linspace(-3, 1.2, 50, dtype=torch.float64)
    # Random rows whose logits move within the interval.
    change = spread[:, None] * torch.rand(50, 9, generator=generator, dtype=torch.float64)
    logits = 3 * torch.randn(50, 9, generator=generator, dtype=torch.float64)
    inside = total_variation(logits.softmax(-1), (logits + change).softmax(-1))
    return claims.bound(
        "prefix-tuning/depth-small-share",
        "The relative attention of the second layer moves by at most "
        r"$\tanh(\|H\|(2\eta Y + \eta^2)/2)$ in total variation if the prefix below moves no "
        r"position of the stream by more than $\eta$; and logits that move within an interval of "
        r"length $s$ move a row by at most $\tanh(s/4)$.",
        values=torch.cat([*moved, inside]),
        limits=torch.cat([*limits, limit(spread)]),
        tolerance=1e-12,
        source=HERE,
        checks=small_shares.interval_limit,
        search="random layers with shares of all sizes, and random rows",
    )


def small_share_reached(
    limit: Callable[[Tensor], Tensor] = small_shares.interval_limit,
) -> claims.Claim:
    """Two tokens reach the limit on how far a row moves.

    Parameters
    ----------
    limit : callable
        In the place of `small_shares.interval_limit`.
    """
    spread = 10 ** torch.linspace(-3, 1.2, 50, dtype=torch.float64)
    return claims.identity(
        "prefix-tuning/depth-small-share-reached",
        r"Two tokens with weights $1/(1 + e^{\pm s/2})$ reach $\tanh(s/4)$.",
        errors=total_variation(*small_shares.furthest(spread)) - limit(spread),
        tolerance=1e-12,
        source=HERE,
        checks=small_shares.interval_limit,
    )


def own_layer(
    errors: Iterable[Tensor],
) -> claims.Claim:
    """In a trained model no layer's prefix moves that layer's own relative attention.

    Parameters
    ----------
    errors : iterable of Tensor
        From :func:`promptlib.prefix_tuning.movement.own_layer_errors`.
    """
    return claims.identity(
        "prefix-tuning/depth-own-layer",
        "In trained GPTs, taking a layer's own prefix away moves no relative attention in that "
        "layer: whatever moves there comes from the layers below.",
        errors=torch.cat([error.flatten() for error in errors]),
        tolerance=TOLERANCE,
        source=HERE,
        checks=movement.own_layer_errors,
    )


def first_layer_still(moved: Iterable[Tensor]) -> claims.Claim:
    """In a trained model the first layer's relative attention does not move at all.

    Parameters
    ----------
    moved : iterable of Tensor
        From :func:`promptlib.prefix_tuning.movement.movement`, a row for each layer.
    """
    return claims.identity(
        "prefix-tuning/depth-first-layer-still",
        "In trained GPTs of every depth, trained prefixes in all layers leave the relative "
        "attention of the first layer where it was.",
        errors=torch.cat([rows[0].flatten() for rows in moved]),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=movement.movement,
    )


def _double_differences(logits: Tensor) -> Tensor:
    """How much more each query likes each key than the first ones do."""
    relative = logits - logits[:, :1]
    return relative - relative[:1]


check_public(__name__)

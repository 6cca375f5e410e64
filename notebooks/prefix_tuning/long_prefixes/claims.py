r"""What does the theory of the chapter "Long prefixes" state, and how is each part checked?

One function for each claim. What it checks is passed in, so that a test can pass in a wrong one
and see the claim fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from notebooks.prefix_tuning.long_prefixes import concatenation as combining
from notebooks.prefix_tuning.long_prefixes import spread
from promptlib import claims
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.cases import AttentionCase, random_case
from promptlib.prefix_tuning.identities import AttendFunction, split
from promptlib.prefix_tuning.reach import best_normalised_vector, normalise

TOLERANCE = 1e-10
HERE = "this book"
LIBRARY = "notebooks.prefix_tuning.long_prefixes"

LENGTHS = (1, 3, 2)
"""The prefixes that are put one after another in the checks."""


def random_long_cases(n: int, generator: torch.Generator) -> list[AttentionCase]:
    """Random layers with prefixes of length six, of all kinds, with a mask and without.

    Raises
    ------
    ValueError
        If `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    kinds = ("vector", "LayerNormed vector", "independent key and value")
    return [
        random_case(
            generator,
            n_head=1 + instance % 3,
            n_tokens=int(torch.randint(2, 20, (), generator=generator)),
            head_width=int(torch.randint(2, 12, (), generator=generator)),
            prefix_length=sum(LENGTHS),
            causal=instance % 2 == 1,
            prefix_kind=kinds[instance % 3],  # type: ignore[arg-type]
            logit_scale=(0.1, 1.0, 5.0)[instance // 3 % 3],
        )
        for instance in range(n)
    ]


def concatenation(
    cases: Iterable[AttentionCase],
    attend: AttendFunction = library_attend,
    combine: combining.Combine = combining.concatenated,
) -> claims.Claim:
    """Of prefixes one after another, the odds add.

    Parameters
    ----------
    combine : callable
        In the place of `concatenation.concatenated`.
    """
    return claims.identity(
        "prefix-tuning/long-concatenation",
        "Prefixes one after another: the odds of their shares add, and the output is "
        r"$t'_i = (t_i + \sum_r o_i^r \mu_i^r)/(1 + \sum_r o_i^r)$, which the outputs with each "
        "alone determine.",
        errors=torch.cat(
            [combining.concatenation_errors(case, LENGTHS, attend, combine) for case in cases]
        ),
        tolerance=TOLERANCE,
        source=HERE,
        checks=combining.concatenated,
    )


def identical_vectors(
    cases: Iterable[AttentionCase],
    attend: AttendFunction = library_attend,
    copies: Sequence[int] = (2, 7, 32),
    **options: Callable[[int], float],
) -> claims.Claim:
    """Copies of a vector are one vector with a larger logit.

    Parameters
    ----------
    options
        Passed on to `concatenation.repetition_errors`.
    """
    return claims.identity(
        "prefix-tuning/long-identical-vectors",
        r"$k$ copies of a prefix vector are one vector whose logit is larger by $\log k$.",
        errors=torch.cat(
            [
                combining.repetition_errors(case, number, attend, **options)
                for case in cases
                for number in copies
            ]
        ),
        tolerance=TOLERANCE,
        source=HERE,
        checks=combining.repetition_errors,
    )


def averaged_vectors(
    cases: Iterable[AttentionCase],
    attend: AttendFunction = library_attend,
    mean: Callable[[Tensor], Tensor] = combining.geometric_mean,
) -> claims.Claim:
    """The mean of vectors has the geometric mean of their odds.

    Parameters
    ----------
    mean : callable
        In the place of `concatenation.geometric_mean`.
    """
    measured = [combining.average_errors(case, attend, mean) for case in cases]
    shortfall = torch.cat([(1 - gains).clamp_min(0.0) for _, gains in measured])
    return claims.identity(
        "prefix-tuning/long-averaged-vectors",
        "The mean of $k$ prefix keys has the geometric mean of their odds, so the $k$ vectors one "
        "after another have at least $k$ times these odds.",
        errors=torch.cat([*(errors for errors, _ in measured), shortfall]),
        tolerance=TOLERANCE,
        source=HERE,
        checks=combining.average_errors,
    )


def bias_ranks(
    n: int, generator: torch.Generator, attend: AttendFunction = library_attend
) -> list[tuple[int, int]]:
    """Prefix length, and rank of all biases of that prefix in four contents, for random layers.

    Values have more coordinates than the prefix has vectors.

    Parameters
    ----------
    n : int
        Random layers for each length.
    """
    measured = []
    for length in (1, 2, 3, 5):
        for _ in range(n):
            width = length + int(torch.randint(1, 7, (), generator=generator))
            first = random_case(
                generator, n_tokens=13, head_width=width, prefix_length=length, causal=True
            )
            rows = []
            for _ in range(4):  # other contents, the same prefix
                content = random_case(generator, n_tokens=13, head_width=width, causal=True)
                queries, keys, values = content.queries[0], content.keys[0], content.values[0]
                plain, _ = attend(queries, keys, values, causal=True)
                outputs, attention = attend(
                    queries,
                    keys,
                    values,
                    first.prefix_keys[0],
                    first.prefix_values[0],
                    causal=True,
                )
                taken, _, _ = split(attention, length)
                rows.append(outputs - (1 - taken)[:, None] * plain)
            rank = int(torch.linalg.matrix_rank(torch.cat(rows), rtol=1e-10))
            measured.append((length, rank))
    return measured


def bias_rank(
    measured: Sequence[tuple[int, int]], limit: Callable[[int], int] = lambda length: length
) -> claims.Claim:
    """A prefix of length p gives biases of rank at most p, over all contents and positions.

    Parameters
    ----------
    measured
        From `bias_ranks`.
    limit : callable
        In the place of the length itself.
    """
    return claims.bound(
        "prefix-tuning/long-bias-rank",
        "In one head, the biases that a prefix of length $p$ produces over all positions of all "
        "contents have rank at most $p$.",
        values=[rank for _, rank in measured],
        limits=[limit(length) for length, _ in measured],
        source=HERE,
        checks=library_attend,
        search="random layers, four contents for each prefix",
    )


def bias_rank_reached(
    measured: Sequence[tuple[int, int]], expected: Callable[[int], int] = lambda length: length
) -> claims.Claim:
    """Generic prefixes reach that rank.

    Parameters
    ----------
    measured
        From `bias_ranks`.
    expected : callable
        In the place of the length itself.
    """
    return claims.identity(
        "prefix-tuning/long-bias-rank-reached",
        "Random prefixes reach that rank when the values have more than $p$ coordinates: the "
        "difference.",
        errors=[rank - expected(length) for length, rank in measured],
        tolerance=0.5,
        source=HERE,
        checks=library_attend,
    )


def convex_share(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    room: Callable[[int], float] = math.log,
) -> claims.Claim:
    r"""The log-odds of the share, but for :math:`\log Z_i`, are convex in the query.

    Parameters
    ----------
    n : int
        Random layers for each length.
    room : callable
        In the place of the logarithm of the length.
    """
    values, limits = [], []
    for length in (1, 2, 5, 16):
        for instance in range(n):
            case = random_case(
                generator, n_tokens=6, head_width=5, prefix_length=length,
                prefix_kind="independent key and value", logit_scale=(0.3, 3.0, 20.0)[instance % 3],
            )  # fmt: skip
            keys, prefix = case.keys[0], case.prefix_keys[0]
            ends = torch.randn(2, 5, generator=generator, dtype=torch.float64)
            weight = float(torch.rand((), generator=generator, dtype=torch.float64))
            between = weight * ends[:1] + (1 - weight) * ends[1:]
            queries = torch.cat((ends, between))
            _, attention = attend(queries, keys, keys, prefix, prefix)
            taken, _, to_content = split(attention, length)
            log_z = (queries @ keys.mT * 5**-0.5).logsumexp(-1)
            curve = taken.log() - to_content.sum(-1).log() + log_z
            largest = (queries @ prefix.mT * 5**-0.5).amax(-1)
            chord = weight * curve[0] + (1 - weight) * curve[1]
            values += [curve[2:], largest, curve]
            limits += [chord[None], curve, largest + room(length)]
    return claims.bound(
        "prefix-tuning/long-convex-share",
        r"As a function of the query $\log o_i + \log Z_i$ is convex, and between the largest of "
        r"$p$ linear functions and that plus $\log p$; so it is linear for one vector.",
        values=torch.cat(values),
        limits=torch.cat(limits),
        tolerance=1e-9,
        source=HERE,
        checks=library_attend,
        search="random layers, queries and points between two of them, logits of three sizes",
    )


def dilution(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    limit: Callable[[Tensor, int, int], Tensor] = spread.diluted_share,
) -> claims.Claim:
    """Behind a LayerNorm the visible tokens stand against the number of prefix vectors.

    Parameters
    ----------
    n : int
        Random layers, and as many with the worst prefix and content for a query.
    limit : callable
        In the place of `spread.diluted_share`.
    """
    shares, limits = [], []
    for instance in range(2 * n):
        width, head_width = 12, 4
        n_tokens = int(torch.randint(1, 30, (), generator=generator))
        length = int(torch.randint(1, 9, (), generator=generator))

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        queries, weight = draw(5, head_width), draw(head_width, width) / width**0.5
        gain, shift, bias = 1 + 0.3 * draw(width), draw(width), draw(head_width)
        content, prefix = draw(n_tokens, width), draw(length, width)
        if instance % 2:  # prefix and content at opposite ends of what a LayerNorm lets through
            best = best_normalised_vector(queries[:1], weight, gain)
            content, prefix = -best.expand(n_tokens, -1), best.expand(length, -1)
        keys, prefix_keys = (
            (normalise(rows) * gain + shift) @ weight.mT + bias for rows in (content, prefix)
        )
        _, attention = attend(queries, keys, keys, prefix_keys, prefix_keys)
        pull = (queries @ weight) * gain
        reach = (width / head_width) ** 0.5 * (pull - pull.mean(-1, keepdim=True)).norm(dim=-1)
        shares.append(split(attention, length)[0])
        limits.append(limit(reach, length, n_tokens))
    return claims.bound(
        "prefix-tuning/long-dilution",
        "If prefix and content pass through the same LayerNorm, a prefix of length $p$ takes at "
        r"most $p/(p + |M_i| e^{-2 r_i})$ of a query that sees $|M_i|$ tokens.",
        values=torch.cat(shares),
        limits=torch.cat(limits),
        tolerance=1e-12,
        source=HERE,
        checks=spread.diluted_share,
        search="random layers, and for one query the worst prefix and content, which reach it",
    )


def least_spread(
    n: int,
    generator: torch.Generator,
    limit: Callable[[Tensor, int], Tensor] = spread.least_effective_number,
) -> claims.Claim:
    """Logits within an interval keep attention over the prefix spread.

    Parameters
    ----------
    n : int
        Random rows for each length.
    limit : callable
        In the place of `spread.least_effective_number`.
    """
    numbers, limits = [], []
    for length in (2, 3, 8, 32):
        logits = torch.randn(n, length, generator=generator, dtype=torch.float64)
        logits = logits * 10 ** torch.linspace(-2, 1, n, dtype=torch.float64)[:, None]
        # The worst rows found: one logit at the top of the interval, the others at its bottom.
        peaked = torch.zeros_like(logits)
        peaked[:, 0] = torch.linspace(0, 30, n, dtype=torch.float64)
        for rows in (logits, peaked):
            interval = rows.amax(-1) - rows.amin(-1)
            number = spread.effective_number(rows.softmax(-1))
            numbers += [limit(interval, length), number]
            limits += [number, torch.full_like(number, float(length))]
    return claims.bound(
        "prefix-tuning/long-effective-number",
        r"If the logits of a query to $p$ prefix vectors lie in an interval of length $\Delta$, "
        r"the effective number of vectors it attends to is between $1 + (p-1)e^{-\Delta}$ and $p$.",
        values=torch.cat(numbers),
        limits=torch.cat(limits),
        tolerance=1e-9,
        source=HERE,
        checks=spread.least_effective_number,
        search="random rows of all scales, and rows with one logit at one end and the others at "
        "the other",
    )


def use_and_information(
    n: int,
    generator: torch.Generator,
    information: Callable[[Tensor], Tensor] = spread.mean_divergence,
) -> claims.Claim:
    """The number in use is the number that rows attend to, times the information.

    Parameters
    ----------
    n : int
        Random problems.
    information : callable
        In the place of `spread.mean_divergence`.
    """
    errors = []
    for instance in range(n):
        logits = torch.randn(20, 2 + instance % 31, generator=generator, dtype=torch.float64)
        weights = (10 ** (instance % 4 - 2) * logits).softmax(-1)
        rows = spread.effective_number(weights).log().mean()
        errors.append(spread.number_in_use(weights).log() - rows - information(weights))
    return claims.identity(
        "prefix-tuning/long-use-and-information",
        "The log of the number of prefix vectors in use is the mean log of the number that a row "
        "attends to, plus the mutual information between query and prefix position.",
        errors=torch.stack(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=spread.number_in_use,
    )


def points_stay_close(
    n: int,
    generator: torch.Generator,
    trained: Iterable[tuple[Tensor, Tensor]] = (),
    limit: Callable[[Tensor, Tensor], Tensor] = spread.spread_limit,
) -> claims.Claim:
    """Queries that use the prefix alike aim at points that lie close together.

    Parameters
    ----------
    n : int
        Random problems; half of them have one-dimensional values and two clear groups.
    trained : iterable of pair of Tensor
        Distances and limits measured on trained prefixes.
    limit : callable
        In the place of `spread.spread_limit`.
    """
    distances, limits = [], []
    for instance in range(n):
        length = 2 + instance % 7
        rows = torch.randn(20, length, generator=generator, dtype=torch.float64)
        scale = 10 ** (2 * torch.rand((), generator=generator, dtype=torch.float64) - 1)
        weights = (scale * rows).softmax(-1)
        if instance % 2:
            values = torch.randn(length, 5, generator=generator, dtype=torch.float64)
        else:  # near the worst: two values, and two groups of queries that differ a little
            values = torch.zeros(length, 1, dtype=torch.float64)
            values[0] = 1
            lean = scale * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(10)
            weights = torch.full((20, length), 1e-12, dtype=torch.float64)
            weights[:, 0], weights[:, 1] = torch.sigmoid(lean), torch.sigmoid(-lean)
        distances.append(spread.bias_spread(weights, values).reshape(1))
        limits.append(limit(weights, values).reshape(1))
    for distance, allowed in trained:
        distances.append(distance.flatten())
        limits.append(allowed.flatten())
    return claims.bound(
        "prefix-tuning/long-points-stay-close",
        r"The points $\mu_i$ that a prefix aims at lie on average at most "
        r"$\operatorname{diam}(\bar v)\sqrt{I/2}$ from their mean, where $I$ is the mutual "
        "information between query and prefix position; random prefixes and trained ones.",
        values=torch.cat(distances),
        limits=torch.cat(limits),
        tolerance=1e-9,
        source=HERE,
        checks=spread.spread_limit,
        search="random weights and values, two-valued ones with two groups of queries, and the "
        "trained prefixes of this chapter",
    )


check_public(__name__)

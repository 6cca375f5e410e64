r"""What does the theory of the chapter "Long prefixes" state, and how is each part checked?

One function for each claim. What it checks is passed in, so that a test can pass in a wrong one
and see the claim fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from promptlib import claims
from promptlib.attention import attend as library_attend
from promptlib.prefix_tuning.identities import AttendFunction, split
from promptlib.prefix_tuning.layers import AttentionCase, random_case
from promptlib.prefix_tuning.long import combining, spread

TOLERANCE = 1e-10
HERE = "this book"
LIBRARY = "promptlib.prefix_tuning.long"

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
        In the place of :func:`promptlib.prefix_tuning.long.combining.concatenated`.
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
        checks=f"{LIBRARY}.combining.concatenated",
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
        Passed on to :func:`promptlib.prefix_tuning.long.combining.repetition_errors`.
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
        checks=f"{LIBRARY}.combining.repetition_errors",
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
        In the place of :func:`promptlib.prefix_tuning.long.combining.geometric_mean`.
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
        checks=f"{LIBRARY}.combining.average_errors",
    )


def bias_rank(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    limit: Callable[[int], int] = lambda length: length,
) -> claims.Claim:
    """A prefix of length p gives biases of rank at most p, over all contents and positions.

    Parameters
    ----------
    n : int
        Random layers for each length.
    limit : callable
        In the place of the length itself.
    """
    ranks, limits = [], []
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
            ranks += [rank, limit(length)]
            limits += [limit(length), rank]  # and it is reached
    return claims.bound(
        "prefix-tuning/long-bias-rank",
        "In one head, the biases that a prefix of length $p$ produces over all positions of all "
        "contents have rank at most $p$; generic prefixes reach it when the values have more than "
        "$p$ coordinates.",
        values=ranks,
        limits=limits,
        source=HERE,
        checks="promptlib.attention.attend",
        search="random layers, four contents for each prefix",
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
        In the place of :func:`promptlib.prefix_tuning.long.spread.least_effective_number`.
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
        checks=f"{LIBRARY}.spread.least_effective_number",
        search="random rows of all scales, and rows with one logit at one end and the others at "
        "the other",
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
        In the place of :func:`promptlib.prefix_tuning.long.spread.spread_limit`.
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
        checks=f"{LIBRARY}.spread.spread_limit",
        search="random weights and values, two-valued ones with two groups of queries, and the "
        "trained prefixes of this chapter",
    )

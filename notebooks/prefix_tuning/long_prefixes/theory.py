"""On which random instances are the theorems on several prefixes checked?

Each function returns errors, or values and their limits. What is checked is an argument, so that a
test can pass in a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from notebooks.prefix_tuning.long_prefixes import concatenation, spread
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning import geometry
from promptlib.prefix_tuning.cases import AttentionCase, random_case
from promptlib.prefix_tuning.identities import AttendFunction, split
from promptlib.prefix_tuning.reach import best_normalised_vector, normalise

LENGTHS = (1, 3, 2)
"""The prefixes that are put one after another in the checks."""
COPIES = (2, 7, 32)

Bounded = tuple[Tensor, Tensor]
"""Values, and what they must not exceed."""


def random_long_cases(n: int, generator: torch.Generator) -> list[AttentionCase]:
    """Random layers with prefixes of length six, of all kinds, with a mask and without."""
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


def concatenation_errors(
    cases: Iterable[AttentionCase],
    attend: AttendFunction = library_attend,
    combine: concatenation.Combine = concatenation.concatenated,
) -> Tensor:
    """Of prefixes one after another, whose odds add."""
    return torch.cat(
        [concatenation.concatenation_errors(case, LENGTHS, attend, combine) for case in cases]
    )


def copies_errors(
    cases: Iterable[AttentionCase],
    attend: AttendFunction = library_attend,
    shift: Callable[[int], float] = math.log,
) -> Tensor:
    """Of copies of a vector, which are one with a larger logit; `shift` says by how much."""
    return torch.cat(
        [
            concatenation.repetition_errors(case, number, attend, shift)
            for case in cases
            for number in COPIES
        ]
    )


def average_errors(
    cases: Iterable[AttentionCase],
    attend: AttendFunction = library_attend,
    mean: Callable[[Tensor], Tensor] = concatenation.geometric_mean,
) -> Tensor:
    """Of the mean of vectors, which has the `mean` of their odds, and what it falls short of."""
    pairs = [concatenation.average_errors(case, attend, mean) for case in cases]
    shortfalls = [(1 - gains).clamp_min(0.0) for _, gains in pairs]
    return torch.cat([*(errors for errors, _ in pairs), *shortfalls])


def bias_ranks(
    n: int, generator: torch.Generator, attend: AttendFunction = library_attend
) -> Bounded:
    """Rank of all biases of a prefix in four contents, and its length, for random layers.

    Of each length there are `n` layers, whose values have more coordinates than the prefix vectors.
    """
    ranks, lengths = [], []
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
            ranks.append(int(torch.linalg.matrix_rank(torch.cat(rows), rtol=1e-10)))
            lengths.append(length)
    return torch.tensor(ranks), torch.tensor(lengths)


def convex_shares(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    room: Callable[[int], float] = math.log,
) -> Bounded:
    r"""Log-odds of the share, plus :math:`\log Z_i`, at a query between two others.

    They are compared with their chord, and with the largest logit, which is below them by at most
    `room`.
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
    return torch.cat(values), torch.cat(limits)


def diluted_shares(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    limit: Callable[[Tensor, int, int], Tensor] = spread.diluted_share,
) -> Bounded:
    """Shares of a prefix behind the content's LayerNorm, in half of the layers the worst case."""
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
    return torch.cat(shares), torch.cat(limits)


def effective_numbers(
    n: int,
    generator: torch.Generator,
    limit: Callable[[Tensor, int], Tensor] = spread.least_effective_number,
) -> Bounded:
    """Effective numbers of random rows of all scales, and of the worst rows found."""
    numbers, limits = [], []
    for length in (2, 3, 8, 32):
        logits = torch.randn(n, length, generator=generator, dtype=torch.float64)
        logits = logits * 10 ** torch.linspace(-2, 1, n, dtype=torch.float64)[:, None]
        # The worst rows found: one logit at the top of the interval, the others at its bottom.
        peaked = torch.zeros_like(logits)
        peaked[:, 0] = torch.linspace(0, 30, n, dtype=torch.float64)
        for rows in (logits, peaked):
            interval = rows.amax(-1) - rows.amin(-1)
            number = geometry.effective_number(rows.softmax(-1))
            numbers += [limit(interval, length), number]
            limits += [number, torch.full_like(number, float(length))]
    return torch.cat(numbers), torch.cat(limits)


def use_errors(
    n: int,
    generator: torch.Generator,
    information: Callable[[Tensor], Tensor] = spread.mean_divergence,
) -> Tensor:
    """The number in use against the number that rows attend to, times the information."""
    errors = []
    for instance in range(n):
        logits = torch.randn(20, 2 + instance % 31, generator=generator, dtype=torch.float64)
        weights = (10 ** (instance % 4 - 2) * logits).softmax(-1)
        rows = geometry.effective_number(weights).log().mean()
        errors.append(geometry.number_in_use(weights).log() - rows - information(weights))
    return torch.stack(errors)


def point_distances(
    n: int,
    generator: torch.Generator,
    trained: Iterable[tuple[Tensor, Tensor]] = (),
    limit: Callable[[Tensor, Tensor], Tensor] = spread.spread_limit,
) -> Bounded:
    """Distances of the points aimed at, of random prefixes and of trained ones, and their limits.

    Half of the random ones have one-dimensional values and two clear groups of queries.
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
    return torch.cat(distances), torch.cat(limits)


check_public(__name__)

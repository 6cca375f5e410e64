"""How far are the statements on one head from what attention does?

Every function takes the implementation under test, and draws in float64 from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from notebooks.bridge.before_and_after import (
    functions_of_the_query,
    memory,
    two_contents,
)
from promptlib.attention import attend
from promptlib.prompt_attention.instances import normal

LENGTHS = (4, 16, 64, 256)
"""Of the prefixes that interpolate."""
REMEMBERED = (1, 2, 3, 4, 5, 6)
"""Lengths of the prefixes that remember."""


class Compared(NamedTuple):
    """Values, their limits, and how many instances are behind them."""

    values: list[float]
    limits: list[float]
    instances: int


def curve_errors(
    curve: Callable[[Tensor], Tensor],
    length: int,
    generator: torch.Generator,
    tokens: int = 12,
    build: Callable[..., tuple[Tensor, Tensor]] = functions_of_the_query.interpolating_prefix,
) -> tuple[Tensor, Tensor]:
    """Largest and mean error of one head behind an interpolating prefix, with random content."""
    angles = 2 * math.pi * torch.rand(500, generator=generator, dtype=torch.float64)
    keys, values = unit(normal(generator, tokens, 2)), unit(normal(generator, tokens, 2))
    prefix = build(curve, length)
    read, _ = attend(functions_of_the_query.circle(angles), keys, values, *prefix, scale=1.0)
    errors = (read - curve(angles)).norm(dim=1)
    return errors.max(), errors.mean()


def fitted_curves(
    seed: int,
    instances: int = 20,
    build: Callable[..., tuple[Tensor, Tensor]] = functions_of_the_query.interpolating_prefix,
) -> Compared:
    """Random functions of the query: the error of prefixes of several lengths, and its limit."""
    generator = torch.Generator().manual_seed(seed)
    values, limits, tokens = [], [], 12
    for _ in range(instances):
        curve, slope = functions_of_the_query.random_curve(generator)
        angles = torch.linspace(0, 2 * math.pi, 1000, dtype=torch.float64)
        highest = float(curve(angles).norm(dim=1).max())
        for length in LENGTHS:
            worst, _ = curve_errors(curve, length, generator, tokens, build)
            left = functions_of_the_query.share_left(tokens, 1.0, length)
            values.append(float(worst))
            limits.append(functions_of_the_query.error_limit(slope, length) + left * (1 + highest))
    return Compared(values, limits, instances)


class Pair(NamedTuple):
    """Two contents that one query reads: keys and values of each, and what it reads."""

    query: Tensor  # (1, d)
    keys: Tensor  # (2, n, d)
    values: Tensor  # (2, n, e)
    outputs: Tensor  # (2, e)
    normalisers: Tensor  # (2,), log Z

    def behind(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (2, e) and shares (2,) with a prefix: keys (p, d), values (p, e)."""
        read, attention = attend(self.query, self.keys, self.values, key, value, scale=1.0)
        return read[:, 0], attention[:, 0, : len(key)].sum(-1)


def random_pair(generator: torch.Generator, equal: bool = False) -> Pair:
    """Contents of five tokens; with equal keys, and so equal partition functions, if asked for."""
    query, keys, values = (normal(generator, *shape) for shape in ((1, 4), (2, 5, 4), (2, 5, 3)))
    if equal:
        keys = keys[:1].expand(2, -1, -1)
    outputs, _ = attend(query, keys, values, scale=1.0)
    normalisers = torch.logsumexp((query @ keys.mT)[:, 0], dim=-1)
    return Pair(query, keys, values, outputs[:, 0], normalisers)


def swaps(
    seed: int,
    instances: int = 60,
    limit: Callable[..., Tensor] = two_contents.swap_limit,
) -> Compared:
    """Prefixes that should swap two outputs: random ones, and ones close to the best."""
    generator = torch.Generator().manual_seed(seed)
    values, limits = [], []
    for number in range(instances):
        pair = random_pair(generator)
        apart = (pair.outputs[0] - pair.outputs[1]).norm()
        trials = [
            (normal(generator, 1 + number % 8, 4), 3 * normal(generator, 1 + number % 8, 3))
            for _ in range(20)
        ]
        trials += [
            (key, value + 0.1 * normal(generator, 1, 3))
            for logit in (0.0, 2.0, 4.0, 6.0)
            for key, value in [_best_swap(pair, logit)]
        ]
        for key, value in trials:
            found, shares = pair.behind(key, value)
            worst = (found - pair.outputs.flip(0)).norm(dim=1).max()
            values.append(-float(worst / apart))
            limits.append(-float(limit(shares[0], shares[1], torch.ones_like(apart))))
    return Compared(values, limits, instances)


def sharp_swaps(
    seed: int,
    instances: int = 60,
    point: Callable[..., Tensor] = two_contents.swapping_point,
) -> Tensor:
    """The best prefix against the limit; with a share near 1 the limit is half the distance."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        pair = random_pair(generator)
        apart = (pair.outputs[0] - pair.outputs[1]).norm()
        for logit in (-2.0, 0.0, 2.0, 30.0):
            found, shares = pair.behind(*_best_swap(pair, logit, point))
            worst = (found - pair.outputs.flip(0)).norm(dim=1).max()
            errors.append((worst - two_contents.swap_limit(shares[0], shares[1], apart)) / apart)
            if logit == 30.0:
                errors.append(torch.relu((worst / apart - 0.5).abs() - 1e-9))
    return torch.stack(errors)


def _best_swap(
    pair: Pair, logit: float, point: Callable[..., Tensor] = two_contents.swapping_point
) -> tuple[Tensor, Tensor]:
    """One vector with this logit and the value that swaps best."""
    key = logit * pair.query / pair.query.square().sum()
    shares = torch.sigmoid(logit - pair.normalisers)
    return key, point(pair.outputs, shares)[None]


def fading_prices(
    seed: int,
    instances: int = 60,
    limit: Callable[..., float] = two_contents.fading_limit,
) -> Compared:
    """Prefixes that should add one bias to two outputs, the best of them included."""
    generator = torch.Generator().manual_seed(seed)
    values, limits = [], []
    for number in range(instances):
        pair, longest = random_pair(generator, equal=True), 2.0 + number % 3
        middle, step = pair.outputs.mean(0), pair.outputs[0] - pair.outputs[1]
        if number % 2:  # a content for which the limit is attained: the mean across the step
            moved = -(middle @ step) / (step @ step) * step
            pair = pair._replace(values=pair.values + moved, outputs=pair.outputs + moved)
            bias = -0.4 * pair.outputs.mean(0)
        else:
            bias = longest / 2 * unit(normal(generator, 3))
        trials = []
        for _ in range(20):
            directions = normal(generator, 1 + number % 4, 3)
            lengths = longest * torch.rand(len(directions), 1, generator=generator).double()
            trials.append((normal(generator, len(directions), 4), unit(directions) * lengths))
        share, value = two_contents.least_fading(bias, pair.outputs, longest)
        logit = math.log(share / (1 - share)) + float(pair.normalisers[0])
        trials.append((logit * pair.query / pair.query.square().sum(), value[None]))
        least = limit(bias, pair.outputs, longest)
        for key, value in trials:
            found, _ = pair.behind(key, value)
            values.append(-float((found - pair.outputs - bias).norm(dim=1).max()))
            limits.append(-least)
    return Compared(values, limits, instances)


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1: (..., d) -> (..., d)."""
    return rows / rows.norm(dim=-1, keepdim=True)


def remembered(
    seed: int,
    solve: Callable[..., Tensor] = memory.remembering_weights,
) -> Compared:
    """Every sign pattern at as many places as vectors; the alternating one at one place more."""
    generator = torch.Generator().manual_seed(seed)
    values, limits, count = [], [], 0
    for length in REMEMBERED:
        places = torch.linspace(-2, 2, length, dtype=torch.float64)
        keys = 1.5 * torch.arange(length, dtype=torch.float64) - 0.75 * (length - 1)
        wanted = torch.tensor(list(memory.patterns(length)), dtype=torch.float64)
        queries = torch.stack((torch.ones_like(places), places), dim=1)
        prefix_keys = torch.stack((normal(generator, length), keys), dim=1)
        weights = solve(places, keys, wanted) / prefix_keys[:, 0].exp()  # (patterns, p)
        silent = torch.zeros(3, 1, dtype=torch.float64)  # content that says nothing to the head
        read, _ = attend(
            queries, normal(generator, 3, 2), silent, prefix_keys, weights[..., None], scale=1.0
        )
        right = (read[..., 0] * wanted > 0).all(-1)
        values.append(-float(right.double().mean()))
        limits.append(-1.0)
        count += len(wanted)
    return Compared(values, limits, count)


def changes_found(
    seed: int,
    instances: int = 60,
    solve: Callable[..., Tensor] = memory.weights_with_zeros,
) -> Compared:
    """Sign changes of random prefixes, and of prefixes with as many zeros as they can have."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)
    values, limits = [], []
    for length in REMEMBERED:
        rates, weights = (
            2 * normal(generator, instances, length),
            normal(generator, instances, length),
        )
        alternating = weights.abs() * torch.tensor([1.0, -1.0]).double()[torch.arange(length) % 2]
        for drawn, order in ((weights, rates), (alternating, rates.sort(-1).values)):
            terms = drawn[:, None] * torch.exp(grid[:, None] * order[:, None])
            values += memory.sign_changes(terms).tolist()
        keys = 1.5 * torch.arange(length, dtype=torch.float64)
        zeros = torch.linspace(-2, 2, length + 1, dtype=torch.float64)[1:-1] + 1e-3
        most = memory.sign_changes(solve(zeros, keys) * torch.exp(grid[:, None] * keys))
        values += [float(most), -float(most)]  # no more than p - 1, and no fewer
        limits += [length - 1.0] * (2 * instances + 1) + [1.0 - length]
    return Compared(values, limits, instances)


class Sums(NamedTuple):
    """Means over Gaussian keys, their limits, and the standard errors."""

    formula: Tensor
    measured: Tensor
    standard_errors: Tensor


def infinite_prefix(
    seed: int,
    draws: int = 40_000,
    formula: Callable[..., functions_of_the_query.GaussianSums] = (
        functions_of_the_query.gaussian_sums
    ),
) -> Sums:
    """The three sums of a very long prefix with Gaussian keys, at eight queries."""
    generator = torch.Generator().manual_seed(seed)
    spread, queries = 0.7, unit(normal(generator, 8, 3))
    matrix, frequency = normal(generator, 2, 3), normal(generator, 3)
    keys = spread * normal(generator, draws, 3)
    kernel = torch.exp(queries @ keys.mT)  # (8, draws)
    single = torch.cat(
        (
            kernel[:, None],
            kernel[:, None] * (matrix @ keys.mT),
            (kernel * torch.cos(keys @ frequency))[:, None],
        ),
        dim=1,
    )  # (8, 4, draws)
    limit = formula(queries, spread, matrix, frequency)
    predicted = torch.cat((limit.normaliser[:, None], limit.linear, limit.wave[:, None]), dim=1)
    return Sums(predicted, single.mean(-1), single.std(-1) / math.sqrt(draws))

"""How far are the theorems on one learned vector from what explicit layers do?

Every function takes the implementation under test, and draws in float64 from its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from notebooks.bridge.two_theories_one_layer import heads, readings, streams
from promptlib.attention import attend
from promptlib.prompt_attention.expressivity import self_attention_threshold
from promptlib.prompt_attention.instances import (
    SPARSITIES,
    cell,
    every_case,
    normal,
    random_mixtures,
    share_right,
)
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.population import aligned

SIZES = (6.0, 50.0, 1e4)
"""Deviations Δ at which the vector is turned around the frozen layers."""
EXPECTED = {
    "reader": (4, 4, 4, 4),
    "own row": (0, 6, 6, 6),
    "all content rows": (6, 6, 4, 6),
    "second layer": (0, 6, 6, 6),
}
"""Right of six cases, by what is read: in front causal, in front, behind causal, behind."""


def differences_in_front(
    seed: int,
    instances: int = 80,
    formula: Callable[..., Tensor] = readings.difference_in_front,
) -> Tensor:
    """R1: the two labels at a label-blind reader, with prefixes of 0 to 4 vectors."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for number, mixture in enumerate(random_mixtures(generator, instances)):
        drawn = normal(generator, mixture.dim)
        signal = mixture.signal
        reader = drawn - (drawn @ signal) / (signal @ signal) * signal
        keys, values = (normal(generator, number % 5, mixture.dim) for _ in range(2))
        W_V = normal(generator, mixture.dim, mixture.dim)
        bags, _ = every_case(mixture, generator, copies=1)
        outputs, _ = attend(reader[None], bags.tokens, bags.tokens @ W_V, keys, values, scale=1.0)
        plus, minus = outputs.squeeze(-2).chunk(2)
        predicted = formula(mixture, reader, keys)[:, None] * (signal @ W_V)
        errors.append((plus - minus - predicted).abs().max())
    return torch.stack(errors)


class Searched(NamedTuple):
    """Best shares found, their limits, and what each setting was given."""

    values: list[float]
    limits: list[float]
    restarts: int
    steps: int


def searched_in_front(
    seed: int,
    restarts: int,
    steps: int,
    search: Callable[..., Tensor] = readings.search_in_front,
) -> Searched:
    """R1: a gradient search over prefix, head and intercept, below and above the needed logit."""
    generator = torch.Generator().manual_seed(seed)
    below, above, lengths = [0.0, 0.5, 0.95], [1.05], (1, 2, 3)
    mixture = ContextualMixture(3, 10, 0.2, deviations=aligned(6.0))
    values, limits = [], []
    for length in lengths:
        best = search(
            mixture, below + above, length, restarts=restarts, steps=steps, generator=generator
        )
        values += [*best[: len(below)].tolist(), -float(best[-1])]
        limits += [0.75] * len(below) + [-1.0]
    return Searched(values, limits, restarts, steps)


def leaks(
    seed: int,
    instances: int = 60,
    build: Callable[..., readings.LeakingPrefix] = readings.leaking_prefix,
) -> tuple[list[float], list[float]]:
    """A reader that feels the label a little: no head alone, but one prefix vector and a head."""
    generator = torch.Generator().manual_seed(seed)
    values: list[float] = []
    limits: list[float] = []
    while len(values) < 2 * instances:
        (drawn,) = random_mixtures(generator, 1)
        size = float(1 + 5 * torch.rand((), generator=generator))
        odds = drawn.sparsity / (1 - drawn.sparsity)
        logits = 0.5 * normal(generator, 2)
        if (odds * torch.exp((1 + size) * logits) >= size).any() or logits.diff().abs() < 0.2:
            continue  # some head alone does, or the reader is nearly blind
        mixture = ContextualMixture(
            drawn.dim, drawn.tokens, drawn.sparsity, cosine=drawn.cosine, deviations=aligned(size)
        )
        even, odd = (v / (v @ v) for v in (mixture.context_only, mixture.signal_only))
        reader = logits.mean() * even + (logits[0] - logits[1]) / 2 * odd
        bags, _ = every_case(mixture, generator, copies=1)
        try:
            leak = build(mixture, reader)
        except ValueError:
            continue  # the labels differ by less than rounding
        outputs, _ = attend(
            reader[None], bags.tokens, bags.tokens, leak.key[None], leak.value[None], scale=1.0
        )
        scores = outputs[:, 0] @ leak.head + leak.intercept
        alone, _ = attend(reader[None], bags.tokens, bags.tokens, scale=1.0)
        tried = alone[:, 0] @ normal(generator, mixture.dim, 2000) + normal(generator, 2000)
        best = ((tried * bags.labels[:, None] > 0).double().mean(0)).max()
        values += [-share_right(scores, bags.labels), float(best)]
        limits += [-1.0, 0.75]
    return values, limits


def errors_behind(
    seed: int, instances: int = 60, formula: Callable[..., Tensor] = readings.own_row
) -> Tensor:
    """R2: the row of a vector behind a bag, and the content rows before it, in a causal head."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for mixture in random_mixtures(generator, instances):
        W_Q, W_K, W_V = (normal(generator, mixture.dim, mixture.dim) for _ in range(3))
        p = normal(generator, mixture.dim)
        bags, _ = every_case(mixture, generator, copies=1)
        tokens = bags.tokens
        joined = torch.cat((tokens, p.expand(len(tokens), 1, -1)), dim=1)
        outputs, _ = attend(joined @ W_Q, joined @ W_K, joined @ W_V, causal=True, scale=1.0)
        frozen, _ = attend(tokens @ W_Q, tokens @ W_K, tokens @ W_V, causal=True, scale=1.0)
        query = W_K @ (p @ W_Q)
        predicted = formula(tokens, query, float(p @ query), p) @ W_V
        errors.append((outputs[:, -1] - predicted).abs().max())
        errors.append((outputs[:, :-1] - frozen).abs().max())
    return torch.stack(errors)


def cache_errors(
    seed: int,
    instances: int = 20,
    run: Callable[..., list[streams.Step]] = streams.forward,
) -> Tensor:
    """R3: rows of a prompt recorded on one input serve as keys and values on another."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for number in range(instances):
        width, depth, size = 5 + number % 3, 1 + number % 4, 1 + number % 3
        layers = streams.random_layers(width, depth, generator)
        prompt = normal(generator, size, width)
        first, second = (torch.cat((prompt, normal(generator, 7, width))) for _ in range(2))
        recorded = run(first, layers, True)
        cache = [(step.keys[:size], step.values[:size]) for step in recorded]
        whole = run(second, layers, True)
        content = streams.forward(second[size:], layers, True, cache)
        for one, other, cached in zip(recorded, whole, content, strict=True):
            errors.append((one.stream[:size] - other.stream[:size]).abs().max())
            errors.append((other.stream[size:] - cached.stream).abs().max())
    return torch.stack(errors)


def place_errors(
    read: Callable[..., streams.Reading] = streams.read,
) -> list[float]:
    """R2, R3, R4 in one frozen model: cases right, and relative attention, at every place."""
    errors = []
    for size in SIZES:
        mixture = streams.three_deviations(size)
        nothing = torch.zeros(0, streams.WIDTH, dtype=mixture.dtype)
        frozen = {
            causal: read(mixture, nothing, streams.Place(False, causal, "reader"))
            for causal in (True, False)
        }
        errors += [float(abs(reading.right - 4)) for reading in frozen.values()]
        for number, place in enumerate(streams.PLACES):
            reading = read(mixture, streams.learned_at(mixture, place), place)
            errors.append(float(abs(reading.right - EXPECTED[place.read][number % 4])))
            moved = streams.relative_attention(reading) - streams.relative_attention(
                frozen[place.causal]
            )
            errors.append(float(moved.abs().max()))
    return errors


def opposed_pairs(
    seed: int,
    instances: int = 60,
    least: Callable[..., float] = readings.least_pair_value,
) -> tuple[list[float], list[float], int]:
    """R4: averaged content rows with two vectors in front, just above and below the least value."""
    generator = torch.Generator().manual_seed(seed)
    values, limits = [], []
    for number in range(instances):
        share = SPARSITIES[number % len(SPARSITIES)]
        size = self_attention_threshold(share) * float(1 + 4 * torch.rand((), generator=generator))
        cosine = float(1.6 * torch.rand((), generator=generator) - 0.8)
        mixture = cell(share, aligned(size), cosine)
        A = 0.3 * normal(generator, mixture.dim, mixture.dim)
        bags, _ = every_case(mixture, generator, copies=1)
        u = mixture.signal_only / (mixture.signal_only @ mixture.signal_only)
        scale = readings.pair_scale(mixture, A)
        value = max(least(mixture, A, scale), 0.0)  # at (0, 0) no negative value would do

        def score(factor: float) -> tuple[Tensor, Tensor]:
            keys, vectors = readings.opposed_pair(mixture, scale, factor * value)  # noqa: B023
            return readings.averaged_rows(bags.tokens, u, A, keys, vectors)  # noqa: B023

        plain, frozen = readings.averaged_rows(
            bags.tokens, u, A, bags.tokens[0, :0], bags.tokens[0, :0]
        )
        scores, attention = score(1.001)
        among = attention[..., 2:] / attention[..., 2:].sum(-1, keepdim=True)
        values += [-share_right(scores, bags.labels), share_right(plain, bags.labels)]
        limits += [-1.0, 0.5]
        values += [value * share / (4 * size), float((among - frozen).abs().max())]
        limits += [1.0, 1e-12]
        if value > 0:
            values.append(share_right(score(0.999)[0], bags.labels))
            limits.append(0.75)
    return values, limits, instances


def shares_by_heads(
    seed: int,
    instances: int = 40,
    build: Callable[..., tuple[Tensor, Tensor]] = heads.heads_for,
) -> list[float]:
    """Self-attention with as many heads as deviations, where one head must fail."""
    generator = torch.Generator().manual_seed(seed)
    mixtures = [
        cell(share, aligned(factor * self_attention_threshold(share)), cosine)
        for share in SPARSITIES
        for factor in (1.001, 1.1, 2.0, 10.0)
        for cosine in (0.0, -0.8)
    ]
    for number in range(instances):
        share = (0.1, 0.2, 0.3, 0.7, 0.8)[number % 5]
        steps = 0.5 + 2 * torch.rand(3, generator=generator, dtype=torch.float64)
        signals = 3 * normal(generator, 3)
        pairs = zip(steps.cumsum(0).tolist(), signals.tolist(), strict=True)
        mixtures.append(cell(share, tuple(pairs), 0.3))
    values = []
    for mixture in mixtures:
        bags, _ = every_case(mixture, generator, copies=1)
        values.append(-share_right(heads.heads_score(bags.tokens, *build(mixture)), bags.labels))
    return values


def oddness_errors(
    seed: int, instances: int = 60, score: Callable[..., Tensor] = heads.heads_score
) -> Tensor:
    """Self-attention is odd in the bag, so half of the tokens turned around give zero."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for number in range(instances):
        mixture = ContextualMixture(4, 8, 0.5, cosine=0.4, deviations=((1.0, 1.0),))
        count = 1 + number % 12
        u, A = normal(generator, count, 4), normal(generator, count, 4, 4)
        bags, _ = every_case(mixture, generator, copies=1)
        errors.append(score(bags.tokens, u, A).abs().max() / u.norm())
        tokens = normal(generator, 3, 7, 4)
        errors.append((score(-tokens, u, A) + score(tokens, u, A)).abs().max() / u.norm())
    return torch.stack(errors)


def linear_prompt_errors(
    seed: int, instances: int = 60, score: Callable[..., Tensor] = heads.linear_prompts
) -> Tensor:
    """Linear prompt-attention with 1 to 8 prompts on (0, 0) and (Δ, -Δ)."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for number, drawn in enumerate(random_mixtures(generator, instances)):
        odds = drawn.sparsity / (1 - drawn.sparsity)
        size = float(4 * torch.rand((), generator=generator))
        mixture = ContextualMixture(
            drawn.dim,
            drawn.tokens,
            drawn.sparsity,
            cosine=drawn.cosine,
            deviations=((0.0, 0.0), (size, -size)),
        )
        w, q = (normal(generator, 1 + number % 8, mixture.dim) for _ in range(2))
        bags, _ = every_case(mixture, generator, copies=1)
        plus, minus = score(bags.tokens, w, q).chunk(2)
        core, mirrored = plus - minus
        scale = w.norm() * q.norm() * (1 + size**2)
        errors.append((mirrored - (1 - size**2 / odds) * core).abs() / scale)
    return torch.stack(errors)

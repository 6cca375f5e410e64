"""How far are the statements on learning, on prediction and on an untrained layer from computation?

Every function takes the implementation under test, and draws in float64 from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from notebooks.bridge.before_and_after import coins, planted, untrained
from notebooks.bridge.before_and_after.measured import Compared, Sums, unit
from promptlib.prompt_attention.instances import normal

TOSSES = 20
BIASES = ((0.2, 0.8), (0.1, 0.9), (0.05, 0.7), (0.3, 0.9))
"""Pairs of coins that a prompt is to make of a uniform prior."""
SYMBOLS, HEAD, WIDTH = 8, 10, 32
"""Vocabulary and size of the untrained layer."""


class Tied(NamedTuple):
    """What one vector costs beside a free pair, and beside its limit near the content's output."""

    ratios: Tensor  # tied over free mean squared error, for random instances
    blind: Tensor  # the limit over the free error of a key whose value nears the output


def tied_costs(
    seed: int,
    instances: int = 60,
    tied: Callable[..., Tensor] = planted.tied_covariance,
) -> Tied:
    """Mean squared errors of least squares by the inverse of the information, free and tied."""
    generator = torch.Generator().manual_seed(seed)
    ratios, blind = [], []
    for number in range(instances):
        width, out = 2 + number % 3, 1 + number % 4
        queries, content = normal(generator, 40, width), normal(generator, out)
        vector, matrix = normal(generator, width), normal(generator, out, width)
        tie = torch.cat((torch.eye(width, dtype=torch.float64), matrix))
        jacobian = planted.derivatives(queries, vector, matrix @ vector, content)
        free = planted.free_covariance(jacobian)
        ratios.append(tied(jacobian, tie).trace() / free.trace())
        for gap in (0.1, 0.01):
            direction = unit(normal(generator, out))
            near = planted.derivatives(queries, vector, content + gap * direction, content)
            share = torch.sigmoid(queries @ vector)
            weighted = (share * (1 - share))[:, None] * queries
            least = torch.linalg.inv(weighted.mT @ weighted).trace() / gap**2
            blind.append(least / planted.free_covariance(near)[:width, :width].trace())
    return Tied(torch.stack(ratios), torch.stack(blind))


def planted_errors(
    seed: int,
    repetitions: int = 400,
    covariance: Callable[..., Tensor] = planted.free_covariance,
) -> Sums:
    """A planted prefix, recovered by least squares from noisy outputs: free, and tied."""
    generator = torch.Generator().manual_seed(seed)
    width, out, noise, samples = 3, 3, 0.01, 40
    vector, matrix, content = normal(generator, 3), normal(generator, 3, 3), normal(generator, 3)
    tie = torch.cat((torch.eye(width, dtype=torch.float64), matrix))
    truth = tie @ vector
    queries = normal(generator, samples, width).expand(repetitions, -1, -1)
    clean = planted.predicted(queries, truth[:width], truth[width:], content)
    outputs = clean + noise * normal(generator, repetitions, samples, out)
    jacobian = planted.derivatives(queries[0], truth[:width], truth[width:], content)
    rows = []
    for start, using, errors in (
        (truth, torch.eye(width + out, dtype=torch.float64), covariance(jacobian)),
        (vector, tie, planted.tied_covariance(jacobian, tie)),
    ):
        found = planted.least_squares(queries, outputs, start, using, content)
        squared = (found - truth).square().sum(-1) / noise**2
        rows.append((errors.trace(), squared.mean(), squared.std() / math.sqrt(repetitions)))
    return Sums(*(torch.stack(column) for column in zip(*rows, strict=True)))


def prompted_coins(
    seed: int,
    most: int = 150,
    law: Callable[..., Tensor] = coins.heads_after,
) -> Compared:
    """Every prompt of tosses that is to make two coins of a uniform prior; nothing is drawn."""
    del seed
    counts = torch.arange(most + 1, dtype=torch.float64)
    prompts = torch.cartesian_prod(counts, counts)
    laws = law(prompts[:, 0], prompts[:, 1], TOSSES)
    values, limits = [], []
    for biases in BIASES:
        target = coins.heads_of_coins(torch.tensor(biases, dtype=torch.float64), TOSSES)
        values.append(-float(coins.divergence(target, laws).min()))
        limits.append(-coins.unimodal_limit(target))
    single = coins.heads_of_coins(torch.tensor([0.3], dtype=torch.float64), TOSSES)
    values.append(float(coins.divergence(single, law(0.3 * counts, 0.7 * counts, TOSSES))[-1]))
    limits.append(TOSSES / most)  # one coin is within reach: the excess loss falls like N / length
    return Compared(values, limits, len(prompts))


def untrained_answers(
    seed: int,
    instances: int = 10,
    build: Callable[..., Tensor] = untrained.answering_prefix,
) -> Compared:
    """Random maps asked of random layers: soft vectors, and every prompt of one or two symbols."""
    generator = torch.Generator().manual_seed(seed)
    values, limits = [], []
    single = torch.arange(SYMBOLS)[:, None]
    pairs = torch.cartesian_prod(torch.arange(SYMBOLS), torch.arange(SYMBOLS))
    for _ in range(instances):
        layer = untrained.random_layer(generator, SYMBOLS, WIDTH, HEAD)
        wanted = torch.randint(SYMBOLS, (SYMBOLS,), generator=generator)
        texts = torch.randint(SYMBOLS, (200, 6), generator=generator)
        said = untrained.logits(layer, texts, build(layer, wanted, 6)).argmax(-1)
        hard = max(
            float(
                (untrained.answers(layer, layer.embeddings[prompts]) == wanted)
                .double()
                .mean(-1)
                .max()
            )
            for prompts in (single, pairs)
        )
        values += [-float((said == wanted[texts[:, -1]]).double().mean()), hard]
        limits += [-1.0, 1 - 1 / SYMBOLS]
    return Compared(values, limits, instances)


def reading_errors(
    seed: int,
    instances: int = 20,
    reword: Callable[..., Tensor] = untrained.reworded,
) -> list[float]:
    """One behaviour, another text: outputs of the layer before and after, and what is read."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        layer = untrained.random_layer(generator, SYMBOLS, WIDTH, HEAD)
        prefix = normal(generator, 3, WIDTH)
        texts = torch.randint(SYMBOLS, (20, 6), generator=generator)
        before = untrained.logits(layer, texts, prefix)
        for _ in range(4):
            text = torch.randint(SYMBOLS, (3,), generator=generator)
            other = reword(layer, prefix, text)
            errors.append(float((untrained.logits(layer, texts, other) - before).abs().max()))
            errors.append(float((untrained.read_as(layer, other) != text).sum()))
    return errors

"""Are prefixes tables and tables prefixes, and what do the best ones do to the sorters?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.new_task.tables import Table, Tabled, load_table
from notebooks.prefix_tuning.new_task.tables_theory import log_convexity_excess, prefix_of, table_of
from promptlib.prefix_tuning.adapting import load_model, measure
from promptlib.prefix_tuning.evaluation import CHUNK
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import (
    N_DIGITS,
    SEQUENCE_LENGTH,
    SORT_DESCENDING,
    read_and_answer,
)
from promptlib.prefix_tuning.trials import Get, Trial
from promptlib.runs import Run

OUTPUTS = range(SEQUENCE_LENGTH - 1, 2 * SEQUENCE_LENGTH - 1)
"""Places whose logits are asked for, from 0."""
DIGITS = range(N_DIGITS)
"""Symbols that stand there."""


@dataclass(frozen=True)
class Built:
    """A model, its best table, and the prefix built from it, a vector for each pair of `OUTPUTS`
    and `DIGITS`; in float64. The trial is that of the model with the prefix."""

    model: GPT
    table: Table
    prefix: Prefix
    trial: Trial


def build(run: Run, get: Get) -> Built:
    """Build the prefix of a run's combined table, and measure it as trained prefixes are."""
    model = load_model(run.config, get(run.needs[0])).double()
    table = load_table(get(run)).double()
    prefix = prefix_of(model, table, OUTPUTS, DIGITS)
    trial = Trial({"method": "built prefix"}, run, None, measure(model, run.config, prefix))
    return Built(model, table, prefix, trial)


@torch.no_grad()
def built_errors(built: Built, n: int) -> Tensor:
    """Compare logits at the outputs, with the built prefix and with its table: ``(n, 10)``."""
    inputs, targets = SORT_DESCENDING.sample(n, "test", torch.Generator().manual_seed(9))
    tokens = read_and_answer(inputs, targets)
    with_prefix = built.model(tokens, built.prefix, last=SEQUENCE_LENGTH)
    with_table = Tabled(built.model, [built.table])(tokens, last=SEQUENCE_LENGTH)
    return (with_prefix - with_table).abs().amax(dim=-1)


@torch.no_grad()
def outputs_right(model: GPT, prefix: Prefix | None, n: int) -> Tensor:
    """Return how often each output is right when the right answers are fed, percent: ``(10,)``."""
    inputs, targets = SORT_DESCENDING.sample(n, "test", torch.Generator().manual_seed(8))
    tokens = read_and_answer(inputs, targets)
    said = torch.cat(
        [model(some, prefix, last=SEQUENCE_LENGTH).argmax(dim=-1) for some in tokens.split(CHUNK)]
    )
    return 100 * (said == targets).double().mean(dim=0)


def random_model(generator: torch.Generator, first_layer_norm: bool, n_head: int) -> GPT:
    """Draw a model of one layer with biases, in float64."""
    model = GPT(GPTConfig(1, n_head, 42, 11, 19, first_layer_norm), generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return model


def random_prefixes(model: GPT, length: int, generator: torch.Generator) -> Iterator[Prefix]:
    """Draw a prefix of each parametrisation, with small vectors and large ones, in float64."""
    for separate, normalised, std in (
        (False, True, 1.0),
        (True, True, 1.0),
        (False, False, 0.3),
        (True, False, 3.0),
    ):
        yield Prefix(
            1,
            length,
            model.config.n_embd,
            std,
            generator,
            separate_values=separate,
            layer_norm=normalised,
        ).double()


@torch.no_grad()
def table_errors(
    models: Sequence[GPT],
    lengths: Sequence[int],
    generator: torch.Generator,
    table: Callable[[GPT, Prefix], Table] = table_of,
) -> list[float]:
    """Compare the logits of models with random prefixes and with their tables.

    The largest difference at any position, relative to the largest logit, for each prefix.
    """
    errors = []
    for model in models:
        for length in lengths:
            for prefix in random_prefixes(model, length, generator):
                tokens = torch.randint(11, (23, 19), generator=generator)
                with_prefix = model(tokens, prefix)
                with_table = Tabled(model, [table(model, prefix)])(tokens)
                worst = (with_prefix - with_table).abs().max()
                errors.append(float(worst / with_prefix.abs().max()))
    return errors


SEARCH_STEPS = 30
"""Of `convexity_excesses`."""
SEARCHED_LENGTH = 7


def convexity_excesses(
    instances: int,
    generator: torch.Generator,
    excess: Callable[[Tensor, Tensor, Tensor], Tensor] = log_convexity_excess,
) -> Tensor:
    """Search for prefixes whose logit is not convex in the query, uphill from random ones.

    The excess over the mixture of logits before each step: ``(SEARCH_STEPS, instances)``.
    """
    queries = 2 * torch.randn(instances, 5, 6, generator=generator, dtype=torch.float64)
    keys = torch.randn(instances, SEARCHED_LENGTH, 6, generator=generator, dtype=torch.float64)
    keys = keys * torch.logspace(-1, 1, instances, dtype=torch.float64).view(-1, 1, 1)
    mixed = torch.randn(instances, 5, generator=generator, dtype=torch.float64)
    searched = [part.requires_grad_() for part in (queries, keys, mixed)]
    optimiser = torch.optim.Adam(searched, lr=0.1)
    excesses = []
    for _ in range(SEARCH_STEPS):
        found = excess(queries, keys, F.softmax(mixed, dim=-1))
        excesses.append(found.detach().clone())
        optimiser.zero_grad()
        (-found.sum()).backward()
        optimiser.step()
    return torch.stack(excesses)

"""What can the best of all prefixes do, and what of it does training find?

For the chapter "A new task". Each claim function takes what was measured, or the models that it
measures, and returns the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.new_task.results import DESCENDING, accuracy
from notebooks.prefix_tuning.new_task.tables import Table, Tabled, load_table, train
from notebooks.prefix_tuning.new_task.tables_theory import log_convexity_excess, prefix_of, table_of
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import load_model, measure
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import HERE, Get, Metrics, percent
from promptlib.prefix_tuning.tasks import (
    N_DIGITS,
    SEQUENCE_LENGTH,
    SORT_DESCENDING,
    read_and_answer,
)
from promptlib.runs import Run

OUTPUTS = range(SEQUENCE_LENGTH - 1, 2 * SEQUENCE_LENGTH - 1)
"""Places whose logits are asked for, from 0."""
DIGITS = range(N_DIGITS)
"""Symbols that stand there."""


@dataclass(frozen=True)
class Built:
    """The best table of a seed and the prefix that was built from it; all in float64.

    Attributes
    ----------
    model : GPT
    table : Table
    prefix : Prefix
        One vector for each pair of `OUTPUTS` and `DIGITS`.
    metrics : metrics
        Of the model with the prefix.
    """

    model: GPT
    table: Table
    prefix: Prefix
    metrics: Metrics


def build(run: Run, get: Get) -> Built:
    """Build the prefix of a run's combined table, and measure it as trained prefixes are."""
    model = load_model(run.config, get(run.needs[0])).double()
    table = load_table(get(run)).double()
    prefix = prefix_of(model, table, OUTPUTS, DIGITS)
    return Built(model, table, prefix, measure(model, run.config, prefix))


@torch.no_grad()
def outputs_right(model: GPT, prefix: Prefix | None, n: int) -> Tensor:
    """Return how often each output is right when the right answers are fed, percent: ``(10,)``."""
    inputs, targets = SORT_DESCENDING.sample(n, "test", torch.Generator().manual_seed(8))
    logits = model(read_and_answer(inputs, targets), prefix, last=SEQUENCE_LENGTH)
    return 100 * (logits.argmax(dim=-1) == targets).double().mean(dim=0)


def random_model(generator: torch.Generator, first_layer_norm: bool, n_head: int) -> GPT:
    """Draw a model of one layer with biases, in float64."""
    model = GPT(GPTConfig(1, n_head, 42, 11, 19, first_layer_norm), generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return model


@torch.no_grad()
def table_errors(
    models: Sequence[GPT], lengths: Sequence[int], generator: torch.Generator
) -> list[float]:
    """Compare models with random prefixes and with their tables.

    Each model meets each length with every parametrisation, with small vectors and large ones.

    Returns
    -------
    list of float
        The largest difference of logits at any position, relative to the largest logit.
    """
    errors = []
    for model in models:
        for length in lengths:
            for separate, normalised, std in (
                (False, True, 1.0),
                (True, True, 1.0),
                (False, False, 0.3),
                (True, False, 3.0),
            ):
                prefix = Prefix(
                    1,
                    length,
                    model.config.n_embd,
                    std,
                    generator,
                    separate_values=separate,
                    layer_norm=normalised,
                ).double()
                tokens = torch.randint(11, (23, 19), generator=generator)
                with_prefix = model(tokens, prefix)
                with_table = Tabled(model, [table_of(model, prefix)])(tokens)
                worst = (with_prefix - with_table).abs().max()
                errors.append(float(worst / with_prefix.abs().max()))
    return errors


def prefix_is_table(
    models: Sequence[GPT], lengths: Sequence[int], generator: torch.Generator
) -> claims.Claim:
    """To a model of one layer a prefix is a table."""
    return claims.identity(
        "prefix-tuning/new-task-prefix-is-table",
        "A model of one layer computes the same logits with a prefix of any length and with the "
        "table of that prefix, one logit and one vector for each head and each pair of place and "
        "symbol; errors relative to the largest logit.",
        errors=table_errors(models, lengths, generator),
        tolerance=1e-9,
        source=HERE,
        checks=table_of,
    )


@torch.no_grad()
def built_errors(built: Built, n: int) -> Tensor:
    """Compare logits at the outputs, with the built prefix and with its table: ``(n, 10)``."""
    inputs, targets = SORT_DESCENDING.sample(n, "test", torch.Generator().manual_seed(9))
    tokens = read_and_answer(inputs, targets)
    with_prefix = built.model(tokens, built.prefix, last=SEQUENCE_LENGTH)
    with_table = Tabled(built.model, [built.table])(tokens, last=SEQUENCE_LENGTH)
    return (with_prefix - with_table).abs().amax(dim=-1)


def built_is_table(sorters: Sequence[Built], n: int = 200) -> claims.Claim:
    """Every table at the outputs is nearly that of a prefix: here the best ones."""
    return claims.identity(
        "prefix-tuning/new-task-built-prefix",
        "A prefix with one vector for each pair of output place and digit, built from a trained "
        "table, gives the outputs of the sorter the logits of that table; absolute errors.",
        errors=torch.cat([built_errors(built, n) for built in sorters]).numpy(),
        tolerance=1e-6,
        source=HERE,
        checks=prefix_of,
    )


def log_convexity(instances: int, generator: torch.Generator, steps: int = 30) -> claims.Claim:
    """The logit of a table is convex in the query."""
    queries = 2 * torch.randn(instances, 5, 6, generator=generator, dtype=torch.float64)
    keys = torch.randn(instances, 7, 6, generator=generator, dtype=torch.float64)
    keys = keys * torch.logspace(-1, 1, instances, dtype=torch.float64).view(-1, 1, 1)
    mixed = torch.randn(instances, 5, generator=generator, dtype=torch.float64)
    searched = [part.requires_grad_() for part in (queries, keys, mixed)]
    optimiser = torch.optim.Adam(searched, lr=0.1)
    excesses = []
    for _ in range(steps):
        excess = log_convexity_excess(queries, keys, F.softmax(mixed, dim=-1))
        excesses.append(excess.detach().clone())
        optimiser.zero_grad()
        (-excess.sum()).backward()
        optimiser.step()
    return claims.bound(
        "prefix-tuning/new-task-log-convex",
        "At a mixture of queries, the logit $c$ of a prefix is at most the mixture of its logits "
        "at these queries.",
        values=torch.stack(excesses).numpy(),
        limits=0.0,
        tolerance=1e-12,
        source=HERE,
        checks=log_convexity_excess,
        search=f"{steps} steps uphill from each of {instances} random prefixes of 7 vectors",
    )


def built_descending(
    sorters: Sequence[Metrics], trials: int, requires: Sequence[claims.Claim] = ()
) -> claims.Claim:
    """A prefix that does what no trained vector does.

    Parameters
    ----------
    sorters : sequence of metrics
        Of each seed's model with the built prefix.
    trials : int
        Test sequences of each.
    requires : sequence of Claim
    """
    return accuracy(
        "built-descending",
        "There is a prefix, of 80 vectors built from the best table, with which the pretrained "
        "model sorts more than one sequence in a hundred descending.",
        percent(sorters, DESCENDING),
        limit=1.0,
        side="above",
        trials=trials,
        checks=prefix_of,
        requires=requires,
        note="The limit below which the published prefix stays.",
    )


def best_table(
    tables: Sequence[Metrics], trials: int, requires: Sequence[claims.Claim] = ()
) -> claims.Claim:
    """Even a table does not learn it as fine-tuning does; parameters as in `built_descending`."""
    return accuracy(
        "best-table",
        "Even the best table that training finds, after as many steps as fine-tuning had, sorts "
        "fewer than half of the sequences descending.",
        percent(tables, DESCENDING),
        limit=50.0,
        side="below",
        trials=trials,
        checks=train,
        requires=requires,
    )


def table_gap(trained_losses: Sequence[float], tables: Sequence[Metrics]) -> claims.Claim:
    """Training prefixes finds less than there is."""
    return claims.outcome(
        "prefix-tuning/new-task-table-gap",
        "The best trained prefix of any length has a higher loss on descending than the best "
        "table; the difference is above 0.",
        values=[
            loss - table["loss"][DESCENDING]
            for loss, table in zip(trained_losses, tables, strict=True)
        ],
        limit=0.0,
        side="above",
        source=HERE,
        checks=train,
        unit="nats a symbol",
        note="Also the control of the claim about the best table: its training works better than "
        "that of prefixes.",
    )


check_public(__name__)

"""What does the chapter "Eliciting a learned task" state about attention, and how is it checked?

One function for each claim on the trained models of the chapter, in float64. What is measured is
passed in, so that a test can pass in a wrong implementation and see the claim fail. Claims on
accuracies are in `results`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from notebooks.prefix_tuning.eliciting import box as elicit_attention
from notebooks.prefix_tuning.eliciting import start as elicit_start
from notebooks.prefix_tuning.eliciting.results import HERE, PAPER, Measured
from notebooks.prefix_tuning.eliciting.start import Start
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import inside as trained_attention
from promptlib.prefix_tuning.adapting import load_model, load_prefix
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import Cell, Get

TOLERANCE = 1e-10
"""Largest error that counts as float64 rounding; least squares amplify it."""


@dataclass(frozen=True)
class Trained:
    """A model of the chapter with one of its prefixes, both in float64."""

    model: GPT
    prefix: Prefix
    cell: Cell


def trained(cell: Cell, get: Get) -> Trained:
    """Load a cell of a sweep and the model that it was trained for."""
    run = cell.run
    return Trained(
        model=in_float64(load_model(run.config, get(run.needs[0]))),
        prefix=in_float64(load_prefix(run.config, get(run), cell.index)),
        cell=cell,
    )


def best_of(
    measured: Measured, get: Get, arm: str, seed: int = 0, init_std: float | None = None
) -> dict[str, Trained]:
    """Load the best prefix of each task, by task."""
    return {
        task: trained(measured.best(arm, task, seed, init_std), get) for task in measured.cells[arm]
    }


def relative_attention(
    pairs: Iterable[Trained],
    tokens: Tensor,
    errors: Callable[[GPT, Prefix, Tensor], Tensor] = trained_attention.model_ratio_errors,
) -> claims.Claim:
    """Divided by what the prefix leaves, the attention over content is that without a prefix."""
    return claims.identity(
        "prefix-tuning/eliciting-relative-attention",
        "In the trained models, in all heads, the attention over content with a prefix, divided by "
        r"$1-\alpha_i$, is the attention without it.",
        errors=torch.cat([errors(one.model, one.prefix, tokens) for one in pairs]).numpy(),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=trained_attention.model_ratio_errors,
    )


def outputs_in_box(
    pairs: Iterable[Trained],
    tokens: Tensor,
    outputs: Callable[
        [GPT, Prefix, Tensor], elicit_attention.BlockOutputs
    ] = elicit_attention.block_outputs,
) -> claims.Claim:
    """What the block writes stays in the box, at the point that the shares name."""
    errors = []
    for one in pairs:
        block = outputs(one.model, one.prefix, tokens)
        errors += [elicit_attention.box_errors(block), elicit_attention.corner_errors(block)]
    return claims.identity(
        "prefix-tuning/eliciting-box",
        "In the trained models the prefix moves the output of the attention block to the point "
        r"$y_i + \sum_h \alpha_i^h d_i^h$ of the box whose far corner is the fixed point; "
        "coefficients are found from the outputs alone.",
        errors=torch.cat([error.flatten() for error in errors]).numpy(),
        tolerance=TOLERANCE,
        source=HERE,
        checks=elicit_attention.box_errors,
    )


def gradient_in_parts(
    pairs: Iterable[Trained],
    tokens: Tensor,
    targets: Tensor,
    parts: Callable[
        [GPT, Prefix, Tensor, Tensor], tuple[Tensor, Tensor]
    ] = elicit_start.gradient_parts,
) -> claims.Claim:
    """The gradient has a part through the key and a part through the value, as the formula says."""
    errors = []
    for one in pairs:
        expected = elicit_start.gradient_by_autograd(one.model, one.prefix, tokens, targets)
        for ours, theirs in zip(
            parts(one.model, one.prefix, tokens, targets), expected, strict=True
        ):
            errors.append((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
    return claims.identity(
        "prefix-tuning/eliciting-gradient-parts",
        "For one prefix vector, the gradients of the loss with respect to what the key and the "
        "value projection read equal the sums over heads and positions that carry "
        r"$\alpha(1-\alpha)$ and $\alpha$; errors relative to the longest entry.",
        errors=torch.stack(errors).numpy(),
        tolerance=TOLERANCE,
        source=HERE,
        checks=elicit_start.gradient_parts,
    )


def layer_norm_limit(
    by_model: Sequence[Sequence[Trained]],
    tokens: Tensor,
    generator: torch.Generator,
    *,
    restarts: int,
    steps: int,
    searched: int,
    limit: Callable[[GPT, Tensor], Tensor] = elicit_attention.answering_limits,
) -> claims.Claim:
    """Neither training nor a search finds a normalised vector that takes more than the limit.

    Parameters
    ----------
    by_model : sequence of sequences of Trained
        For each model, its trained prefixes; all pass through the LayerNorm.
    tokens : Tensor of int64, shape (B, T)
    generator : torch.Generator
    restarts, steps : int
        Of the search for each head and answering position.
    searched : int
        Sequences that are searched on.
    """
    taken, limits = [], []
    for pairs in by_model:
        most = limit(pairs[0].model, tokens)
        for one in pairs:
            taken.append(elicit_attention.answering_shares(one.model, one.prefix, tokens))
            limits.append(most)
        few = tokens[:searched]
        taken.append(
            elicit_attention.searched_shares(
                pairs[0].model, few, generator, restarts=restarts, steps=steps
            )
        )
        limits.append(most[:searched])
    count = sum(len(pairs) for pairs in by_model)
    return claims.bound(
        "prefix-tuning/eliciting-layer-norm-limit",
        "In the models with first LayerNorm, no prefix vector that passes through it takes more "
        "attention from any head at any answering position than the limit of the model.",
        values=torch.cat([values.flatten() for values in taken]).numpy(),
        limits=torch.cat([most.flatten() for most in limits]).numpy(),
        tolerance=1e-12,
        source=HERE,
        checks=elicit_attention.answering_limits,
        search=f"{count} prefixes trained by gradient descent, and for each head and position of "
        f"{searched} sequence(s) in {len(by_model)} model(s) {restarts} searches of {steps} steps",
    )


def share_above_limit(pair: Trained, tokens: Tensor) -> float:
    """Part of all heads, positions and inputs where a prefix takes more than the limit, in %."""
    limits = elicit_attention.answering_limits(pair.model, tokens)
    taken = elicit_attention.answering_shares(pair.model, pair.prefix, tokens)
    return 100 * float((taken > limits).double().mean())


def limit_not_needed(
    by_seed: Sequence[Mapping[str, Trained]],
    tokens: Tensor,
    requires: Sequence[claims.Claim] = (),
) -> claims.Claim:
    """A free prefix hardly uses what the limit of single queries forbids.

    Parameters
    ----------
    by_seed : sequence of mappings of Trained
        The best free prefix of each task, in the model with first LayerNorm.
    tokens : Tensor of int64, shape (B, T)
    requires : sequence of Claim
        That free prefixes elicit their tasks: else there is nothing for which it is not needed.
    """
    values = [
        sum(share_above_limit(pair, tokens) for pair in pairs.values()) / len(pairs)
        for pairs in by_seed
    ]
    return claims.outcome(
        "prefix-tuning/eliciting-limit-not-needed",
        "In fewer than 50 % of the rows (head, answering position, input), the best free prefix "
        "takes a larger share than any vector through the LayerNorm could take of that row; mean "
        "over tasks.",
        values=values,
        source=HERE,
        checks=share_above_limit,
        unit="% of rows",
        limit=50.0,
        side="below",
        requires=requires,
        note="The limit was chosen after shares of small models had been seen.",
    )


def start_saturates(small: Sequence[Start], large: Sequence[Start]) -> claims.Claim:
    """A large start saturates attention.

    Parameters
    ----------
    small, large : sequences of Start
        At the smallest and the largest initial scale that was trained from; one for each seed.
    """
    return claims.outcome(
        "prefix-tuning/eliciting-start-saturates",
        "Without first LayerNorm, an untrained prefix of the largest initial scale leaves more "
        "rows with a share below 1 % or above 99 % than one of the smallest: the difference is "
        "above 0.",
        values=[
            100 * (wide.saturated - narrow.saturated)
            for narrow, wide in zip(small, large, strict=True)
        ],
        source=HERE,
        checks=elicit_start.start,
        unit="% of rows",
        limit=0.0,
        side="above",
    )


def gradient_does_not_vanish(small: Sequence[Start], large: Sequence[Start]) -> claims.Claim:
    """A vanishing gradient is not what stops a prefix that starts large.

    Parameters as for `start_saturates`.
    """
    return claims.outcome(
        "prefix-tuning/eliciting-gradient-does-not-vanish",
        "Without first LayerNorm, the gradient of an untrained prefix is longer at the largest "
        "initial scale than at the smallest: the ratio is above 1.",
        values=[wide.gradient / narrow.gradient for narrow, wide in zip(small, large, strict=True)],
        source=HERE,
        checks=elicit_start.start,
        unit="times",
        limit=1.0,
        side="above",
        scale="log",
    )


check_public(__name__)

"""What follows from the measurements of the chapter "Long prefixes"?

Each claim function takes what was measured and returns the claim, so that a test can hand in what
a wrong implementation measures.
"""

from __future__ import annotations

import statistics

from promptlib import claims
from promptlib.prefix_tuning.long.evidence import Measured
from promptlib.prefix_tuning.long.plan import QUESTIONS

HERE = "this book"
PAPER = "Petrov et al. 2024, attention within long prefixes"
LIBRARY = "promptlib.prefix_tuning.long"
NEW, KNOWN = QUESTIONS


def longest(measured: Measured) -> int:
    """The largest length of the plan."""
    return max(measured.tuned[NEW])


def far_from_uniform(measured: Measured) -> claims.Claim:
    """Attention does not spread evenly over a long prefix."""
    length = longest(measured)
    return claims.outcome(
        "prefix-tuning/long-far-from-uniform",
        f"For the new task, attention over a trained prefix of length {length} is far from "
        "uniform: a row that writes the answer attends on average to fewer than half of the "
        "vectors, in effective number.",
        values=[100 * float(one.use.number.mean()) / length for one in measured.tuned[NEW][length]],
        unit="% of the length",
        source=PAPER,
        checks=f"{LIBRARY}.spread.effective_number",
        favours="lower",
        refuted_if=(">", 50.0),
    )


def few_directions(measured: Measured) -> claims.Claim:
    """The biases of a long prefix fill few directions."""
    length = longest(measured)
    return claims.outcome(
        "prefix-tuning/long-few-directions",
        f"A trained prefix of length {length} biases a head along fewer than four directions, in "
        "effective rank; mean over heads and both tasks.",
        values=[
            statistics.fmean(float(one.use.rank.mean()) for one in pair)
            for pair in zip(measured.tuned[NEW][length], measured.tuned[KNOWN][length], strict=True)
        ],
        unit="directions",
        source=HERE,
        checks=f"{LIBRARY}.spread.effective_rank",
        favours="lower",
        refuted_if=(">", 4.0),
    )


def length_does_not_elicit(measured: Measured) -> claims.Claim:
    """For a task that the model knows, more vectors gain nothing."""
    length = longest(measured)
    one, many = measured.best(KNOWN, 1), measured.best(KNOWN, length)
    return claims.outcome(
        "prefix-tuning/long-known-task",
        f"For a task that the model knows, {length} vectors gain less than two percentage points "
        "over a single one; the difference.",
        values=[b - a for a, b in zip(one, many, strict=True)],
        unit="% of sequences",
        source=HERE,
        checks=f"{LIBRARY}.evidence.collect",
        favours="lower",
        refuted_if=(">", 2.0),
    )


def length_does_not_teach(measured: Measured) -> claims.Claim:
    """For a new task, more vectors do not make the answers right."""
    length = longest(measured)
    return claims.outcome(
        "prefix-tuning/long-new-task",
        f"For a new task, none of the lengths tried, up to {length}, makes more than one in twenty "
        "sequences right; the best length of each seed.",
        values=[
            100 * min(lengths, key=lambda one: one.validation_loss).accuracy
            for lengths in zip(*measured.tuned[NEW].values(), strict=True)
        ],
        unit="% of sequences",
        source=HERE,
        checks=f"{LIBRARY}.evidence.collect",
        favours="lower",
        refuted_if=(">", 5.0),
    )


def length_lowers_the_loss(measured: Measured) -> claims.Claim:
    """For a new task, more vectors lower the loss."""
    length = longest(measured)
    pairs = zip(measured.tuned[NEW][1], measured.tuned[NEW][length], strict=True)
    return claims.outcome(
        "prefix-tuning/long-new-task-loss",
        f"For the new task {length} vectors have a lower loss than one, by at least 0.2 nats a "
        "symbol; the difference.",
        values=[one.loss - many.loss for one, many in pairs],
        unit="nats a symbol",
        source=HERE,
        checks=f"{LIBRARY}.evidence.collect",
        refuted_if=("<", 0.2),
    )


def joining_does_not_add_up(measured: Measured) -> claims.Claim:
    """Short prefixes that each work are worse when put one after another."""
    return claims.outcome(
        "prefix-tuning/long-joined-short-ones",
        "Short prefixes that each ask for a known task do so less well, on average, when they are "
        "put one after another without further training (at least one percentage point); the "
        "difference from their mean.",
        values=[100 * (one.concatenated - one.single) for one in measured.combined[KNOWN]],
        unit="% of sequences",
        source=HERE,
        checks=f"{LIBRARY}.evidence.joined",
        favours="lower",
        refuted_if=(">", -1.0),
    )


def long_against_short(measured: Measured) -> claims.Claim:
    """A trained prefix of that length is no better than the ensemble of the short ones."""
    return claims.outcome(
        "prefix-tuning/long-against-ensemble",
        "For a known task, one longer prefix gains less than two percentage points over the mean "
        "prediction of as many single vectors that were trained apart; the difference.",
        values=[100 * (one.trained - one.ensemble) for one in measured.combined[KNOWN]],
        unit="% of sequences",
        source=HERE,
        checks=f"{LIBRARY}.evidence.collect",
        favours="lower",
        refuted_if=(">", 2.0),
    )

"""What follows from the measurements of the chapter "Long prefixes"?

Each claim function takes what was measured and returns the claim, so that a test can hand in what
a wrong implementation measures.
"""

from __future__ import annotations

import statistics

from notebooks.prefix_tuning.long_prefixes import results, spread
from notebooks.prefix_tuning.long_prefixes.plan import KNOWN, NEW
from notebooks.prefix_tuning.long_prefixes.results import Measured
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import adapting
from promptlib.prefix_tuning.sweeps import HERE, UNIT

LIBRARY = "notebooks.prefix_tuning.long_prefixes"


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
        limit=50.0,
        side="below",
        unit="% of the length",
        source=HERE,
        checks=spread.effective_number,
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
        limit=4.0,
        side="below",
        unit="directions",
        source=HERE,
        checks=spread.effective_rank,
    )


def one_vector_elicits(measured: Measured) -> claims.Claim:
    """One vector is enough for a task that the model knows."""
    return claims.outcome(
        "prefix-tuning/long-known-task",
        "A single vector makes the model that knows both directions sort more than three quarters "
        "of the sequences downwards: to choose one of two known tasks needs no length.",
        values=measured.best(KNOWN, 1),
        limit=75.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=results.collect,
        trials=measured.trials,
    )


def weights_learn(measured: Measured) -> claims.Claim:
    """The steps are enough to learn the new task."""
    return claims.outcome(
        "prefix-tuning/long-weights-learn",
        "Control: with as many steps, fine-tuning teaches the same models the new task on more "
        "than one sequence in twenty.",
        values=[100 * accuracy for accuracy in measured.control],
        limit=5.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=measured.trials,
    )


def length_does_not_teach(measured: Measured) -> claims.Claim:
    """For a new task, more vectors do not make the answers right."""
    seeds = zip(*measured.tuned[NEW].values(), strict=True)
    best = [min(lengths, key=lambda one: one.validation_loss) for lengths in seeds]
    return claims.outcome(
        "prefix-tuning/long-new-task",
        f"For a new task, the best of all lengths tried, up to {longest(measured)}, makes fewer "
        "than one in twenty sequences right.",
        values=[100 * one.accuracy for one in best],
        limit=5.0,
        side="below",
        unit=UNIT,
        source=HERE,
        checks=results.collect,
        trials=measured.trials,
        requires=[weights_learn(measured)],
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
        limit=0.2,
        side="above",
        unit="nats a symbol",
        source=HERE,
        checks=results.collect,
    )


def long_against_short(measured: Measured) -> claims.Claim:
    """A trained prefix of that length is no better than the ensemble of the short ones."""
    return claims.outcome(
        "prefix-tuning/long-against-ensemble",
        "For a known task, one longer prefix gains less than two percentage points over the mean "
        "prediction of as many single vectors that were trained apart; the difference.",
        values=[100 * (one.trained - one.ensemble) for one in measured.combined],
        limit=2.0,
        side="below",
        unit=UNIT,
        source=HERE,
        checks=results.collect,
        resolution=100 / measured.trials,
        requires=[one_vector_elicits(measured)],
    )


check_public(__name__)

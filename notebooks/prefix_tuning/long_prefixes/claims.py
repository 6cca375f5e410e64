"""What is claimed of prefixes of many vectors, in theory and as they were trained?

THEORY
    Judged each by its own measurement of `theory`: errors, or values with their limits.
TRAINED
    Judged by `Trained`, what training gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from notebooks.prefix_tuning.long_prefixes import concatenation, results, spread
from notebooks.prefix_tuning.long_prefixes.plan import KNOWN, NEW
from notebooks.prefix_tuning.long_prefixes.results import Use, best, longest
from promptlib import claims
from promptlib.attention import attend
from promptlib.claims import HERE
from promptlib.prefix_tuning import adapting, geometry
from promptlib.prefix_tuning.trials import UNIT, Trials, sequences_tested

CHAPTER = "prefix-tuning/long"
TOLERANCE = 1e-10

THEORY = (
    claims.Identity(
        "identical-vectors",
        r"$k$ copies of a prefix vector are one vector whose logit is larger by $\log k$.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=concatenation.repetition_errors,
    ),
    claims.Identity(
        "concatenation",
        "Prefixes one after another: the odds of their shares add, and the output is "
        r"$t'_i = (t_i + \sum_r o_i^r \mu_i^r)/(1 + \sum_r o_i^r)$, which the outputs with each "
        "alone determine.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=concatenation.concatenated,
    ),
    claims.Identity(
        "averaged-vectors",
        "The mean of $k$ prefix keys has the geometric mean of their odds, so the $k$ vectors one "
        "after another have at least $k$ times these odds.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=concatenation.average_errors,
    ),
    claims.Bound(
        "dilution",
        "If prefix and content pass through the same LayerNorm, a prefix of length $p$ takes at "
        r"most $p/(p + |M_i| e^{-2 r_i})$ of a query that sees $|M_i|$ tokens.",
        values=lambda measured: measured[0],
        limits=lambda measured: measured[1],
        tolerance=1e-12,
        source=HERE,
        checks=spread.diluted_share,
        search="random layers, and for one query the worst prefix and content, which reach it",
    ),
    claims.Bound(
        "convex-share",
        r"As a function of the query $\log o_i + \log Z_i$ is convex, and between the largest of "
        r"$p$ linear functions and that plus $\log p$; so it is linear for one vector.",
        values=lambda measured: measured[0],
        limits=lambda measured: measured[1],
        tolerance=1e-9,
        source=HERE,
        checks=attend,
        search="random layers, queries and points between two of them, logits of three sizes",
    ),
    claims.Bound(
        "bias-rank",
        "In one head, the biases that a prefix of length $p$ produces over all positions of all "
        "contents have rank at most $p$.",
        values=lambda measured: measured[0],
        limits=lambda measured: measured[1],
        source=HERE,
        checks=attend,
        search="random layers, four contents for each prefix",
    ),
    claims.Identity(
        "bias-rank-reached",
        "Random prefixes reach that rank when the values have more than $p$ coordinates: the "
        "difference.",
        errors=lambda measured: measured[0] - measured[1],
        tolerance=0.5,
        source=HERE,
        checks=attend,
    ),
    claims.Bound(
        "effective-number",
        r"If the logits of a query to $p$ prefix vectors lie in an interval of length $\Delta$, "
        r"the effective number of vectors it attends to is between $1 + (p-1)e^{-\Delta}$ and $p$.",
        values=lambda measured: measured[0],
        limits=lambda measured: measured[1],
        tolerance=1e-9,
        source=HERE,
        checks=spread.least_effective_number,
        search="random rows of all scales, and rows with one logit at one end and the others at "
        "the other",
    ),
    claims.Identity(
        "use-and-information",
        "The log of the number of prefix vectors in use is the mean log of the number that a row "
        "attends to, plus the mutual information between query and prefix position.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=geometry.number_in_use,
    ),
    claims.Bound(
        "points-stay-close",
        r"The points $\mu_i$ that a prefix aims at lie on average at most "
        r"$\operatorname{diam}(\bar v)\sqrt{I/2}$ from their mean, where $I$ is the mutual "
        "information between query and prefix position; random prefixes and trained ones.",
        values=lambda measured: measured[0],
        limits=lambda measured: measured[1],
        tolerance=1e-9,
        source=HERE,
        checks=spread.spread_limit,
        search="random weights and values, two-valued ones with two groups of queries, and the "
        "trained prefixes of this chapter",
    ),
)


class Trained(NamedTuple):
    """All trials, how the best prefixes are used, and what combining short ones gives."""

    trials: Trials
    uses: Mapping[str, Mapping[int, list[Use]]]  # by question and length, one for each seed
    combined: list[dict[str, float]]  # for each seed, of `results.combine`

    @property
    def longest(self) -> int:
        """The largest length."""
        return longest(self.trials)

    def of_longest(self, question: str, attribute: str) -> list[float]:
        """A number of the longest prefix, mean over layers and heads, for each seed."""
        ones = self.uses[question][self.longest]
        return [float(getattr(one, attribute).mean()) for one in ones]


def _tested(measured: Trained) -> int:
    return sequences_tested(measured.trials)


TRAINED = (
    claims.Outcome(
        "known-task",
        "A single vector makes the model that knows both directions sort more than three quarters "
        "of the sequences downwards: to choose one of two known tasks needs no length.",
        values=lambda measured: best(measured.trials, KNOWN, 1).percent(),
        above=75.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=_tested,
    ),
    claims.Outcome(
        "new-task-loss",
        lambda measured: (
            f"For the new task {measured.longest} vectors have a lower loss than one, by at least "
            "0.2 nats a symbol; the difference."
        ),
        values=lambda measured: np.subtract(
            best(measured.trials, NEW, 1).losses(),
            best(measured.trials, NEW, measured.longest).losses(),
        ),
        above=0.2,
        unit="nats a symbol",
        source=HERE,
        checks=adapting.tune_prefixes,
    ),
    claims.Outcome(
        "weights-learn",
        "Control: with as many steps, fine-tuning teaches the same models the new task on more "
        "than one sequence in twenty.",
        values=lambda measured: measured.trials.where(method="fine-tuning").best().percent(),
        above=5.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=_tested,
    ),
    claims.Outcome(
        "new-task",
        lambda measured: (
            f"For a new task, the best of all lengths tried, up to {measured.longest}, makes fewer "
            "than one in twenty sequences right."
        ),
        values=lambda measured: best(measured.trials, NEW).percent(),
        below=5.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=_tested,
        requires=("weights-learn",),
    ),
    claims.Outcome(
        "far-from-uniform",
        lambda measured: (
            f"For the new task, attention over a trained prefix of length {measured.longest} is "
            "far from uniform: a row that writes the answer attends on average to fewer than half "
            "of the vectors, in effective number."
        ),
        values=lambda measured: [
            100 * number / measured.longest for number in measured.of_longest(NEW, "number")
        ],
        below=50.0,
        unit="% of the length",
        source=HERE,
        checks=geometry.effective_number,
    ),
    claims.Outcome(
        "few-directions",
        lambda measured: (
            f"A trained prefix of length {measured.longest} biases a head along fewer than four "
            "directions, in effective rank; mean over heads and both tasks."
        ),
        values=lambda measured: np.mean(
            [measured.of_longest(question, "rank") for question in (NEW, KNOWN)], axis=0
        ),
        below=4.0,
        unit="directions",
        source=HERE,
        checks=geometry.effective_rank,
    ),
    claims.Outcome(
        "against-ensemble",
        "For a known task, one longer prefix gains less than two percentage points over the mean "
        "prediction of as many single vectors that were trained apart; the difference.",
        values=lambda measured: [
            100 * (one["trained"] - one["ensemble"]) for one in measured.combined
        ],
        below=2.0,
        unit=UNIT,
        source=HERE,
        checks=results.combine,
        resolution=lambda measured: 100 / _tested(measured),
        requires=("known-task",),
    ),
)

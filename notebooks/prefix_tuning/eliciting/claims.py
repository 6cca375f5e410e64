"""What is claimed of prefixes that call for a known task, trained and untrained?

ACCURACIES
    Judged by all trials, from an archive of metrics, too.
INSIDE
    Judged each by its own measurement, in trained models and of untrained prefixes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from notebooks.prefix_tuning.eliciting import box, results, start
from notebooks.prefix_tuning.eliciting.plan import PUBLISHED_ARM, SWEPT
from notebooks.prefix_tuning.eliciting.results import IN_WORDS
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prefix_tuning import adapting, evaluation, published
from promptlib.prefix_tuning.inside import model_ratio_errors
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.trials import UNIT, Get, Plan, Trials, read, sequences_tested

CHAPTER = "prefix-tuning/eliciting"
PAPER = "Petrov et al. 2024, eliciting a pretrained task"
OTHER_TASKS = 0.66
"""Highest published accuracy, in percent, of a prefix on a task that is not its own."""
GUESSING = 100 / len(MIXED)
"""Accuracy, in percent, on each task of a model that picks one of them at random and does it."""
TOLERANCE = 1e-10
"""Largest error that counts as float64 rounding; least squares amplify it."""


def _published(
    value: float, favours: Literal["higher", "lower"]
) -> Callable[[Trials], claims.Published]:
    return lambda trials: claims.Published(value, favours, differs=results.differs(trials))


def _own_task(task: str) -> claims.Outcome:
    return claims.Outcome(
        task.replace("_", "-"),
        f"With one prefix vector trained for it, the mixture's model does {IN_WORDS[task]} more "
        "often than one that picks among the four tasks at random could: on more than 25 % of the "
        "sequences.",
        values=lambda trials: results.best(trials, PUBLISHED_ARM, task).percent(),
        above=GUESSING,
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=sequences_tested,
        published=_published(published.ELICIT["prefix"][task], "higher"),
        requires=("mixture-learned",),
        note="The limit was 50 % until results of small models had been seen.",
    )


ACCURACIES = (
    claims.Outcome(
        "mixture-learned",
        "Pretrained on the mixture, the model without first LayerNorm does one of the four tasks "
        "on more than half of the inputs: the sum of the four accuracies is above 50 %.",
        values=lambda trials: results.without_prefix(trials).sum(axis=0),
        above=50.0,
        unit=UNIT,
        source=PAPER,
        checks=adapting.pretrain,
        resolution=lambda trials: 100 / sequences_tested(trials),
        published=_published(sum(published.ELICIT["pretrained"].values()), "higher"),
    ),
    claims.Outcome(
        "mixture-undecided",
        "Without a prefix that model does none of the tasks on more than half of the inputs: the "
        "highest of the four accuracies is below 50 %.",
        values=lambda trials: results.without_prefix(trials).max(axis=0),
        below=50.0,
        unit=UNIT,
        source=PAPER,
        checks=evaluation.sequence_accuracy,
        trials=sequences_tested,
        published=_published(max(published.ELICIT["pretrained"].values()), "lower"),
        requires=("mixture-learned",),
    ),
    *(_own_task(task) for task in MIXED),
    claims.Outcome(
        "other-tasks",
        "With the prefix of one task, the model does every other one less often than by picking "
        "among the four at random: the highest of the twelve accuracies is below 25 %.",
        values=results.leaks,
        below=GUESSING,
        unit=UNIT,
        source=PAPER,
        checks=evaluation.sequence_accuracy,
        trials=sequences_tested,
        published=_published(OTHER_TASKS, "lower"),
        requires=("mixture-learned",),
        note="The limit was 5 %, then 10 %, until results of small models had been seen.",
    ),
    claims.Outcome(
        "free-elicits",
        "Control: in the model with first LayerNorm, a free key and value make the model do their "
        "task on more than half of the sequences, mean over the four tasks.",
        values=lambda trials: results.own_task(trials, "with LayerNorm, free").mean(axis=0),
        above=50.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=sequences_tested,
    ),
    claims.Outcome(
        "free-escapes",
        "In the model with first LayerNorm, a key and a value that do not pass through it elicit "
        "more than one vector that does: the difference of the accuracies, mean over the four "
        "tasks, is above 0.",
        values=lambda trials: results.differences(trials, "with LayerNorm, free", "with LayerNorm"),
        above=0.0,
        unit=UNIT,
        source=HERE,
        checks=results.differences,
        resolution=lambda trials: 100 / sequences_tested(trials) / len(MIXED),
    ),
    claims.Outcome(
        "init-scale",
        "Without first LayerNorm, a prefix that starts at the largest initial scale ends below one "
        "that starts at the smallest, each at its best learning rate: the difference of the "
        "accuracies, mean over two tasks, is above 0.",
        values=results.losses_of_scale,
        above=0.0,
        unit=UNIT,
        source=HERE,
        checks=results.losses_of_scale,
        resolution=lambda trials: 100 / sequences_tested(trials) / len(SWEPT),
        note="The limit was 50 points until a third learning rate, which rescues some large "
        "starts, had been tried.",
    ),
)


def claims_at_published_size(plan: Plan, get: Get) -> list[claims.Claim]:
    """Judge an archive of metrics, perhaps without weights, as the page judges its own runs."""
    return list(claims.check(CHAPTER, ACCURACIES, read(plan, get)).values())


INSIDE = (
    claims.Identity(
        "relative-attention",
        "In the trained models, in all heads, the attention over content with a prefix, divided by "
        r"$1-\alpha_i$, is the attention without it.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=model_ratio_errors,
    ),
    claims.Identity(
        "box",
        "In the trained models the prefix moves the output of the attention block to the point "
        r"$y_i + \sum_h \alpha_i^h d_i^h$ of the box whose far corner is the fixed point; "
        "coefficients are found from the outputs alone.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=box.box_errors,
    ),
    claims.Identity(
        "gradient-parts",
        "For one prefix vector, the gradients of the loss with respect to what the key and the "
        "value projection read equal the sums over heads and positions that carry "
        r"$\alpha(1-\alpha)$ and $\alpha$; errors relative to the longest entry.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=start.gradient_parts,
    ),
    claims.Bound(
        "layer-norm-limit",
        "In the models with first LayerNorm, no prefix vector that passes through it takes more "
        "attention from any head at any answering position than the limit of the model.",
        values=lambda tried: tried.values,
        limits=lambda tried: tried.limits,
        tolerance=1e-12,
        source=HERE,
        checks=box.answering_limits,
        search=lambda tried: tried.search,
    ),
    claims.Outcome(
        "limit-not-needed",
        "In fewer than 50 % of the rows (head, answering position, input), the best free prefix "
        "takes a larger share than any vector through the LayerNorm could take of that row; mean "
        "over tasks.",
        values=lambda by_seed: by_seed,
        source=HERE,
        checks=box.share_above_limit,
        unit="% of rows",
        below=50.0,
        requires=("free-elicits",),
        note="The limit was chosen after shares of small models had been seen.",
    ),
    claims.Outcome(
        "start-saturates",
        "Without first LayerNorm, an untrained prefix of the largest initial scale leaves more "
        "rows with a share below 1 % or above 99 % than one of the smallest: the difference is "
        "above 0.",
        values=lambda starts: [
            100 * (large.saturated - small.saturated) for small, large in starts
        ],
        source=HERE,
        checks=start.start,
        unit="% of rows",
        above=0.0,
    ),
    claims.Outcome(
        "gradient-does-not-vanish",
        "Without first LayerNorm, the gradient of an untrained prefix is longer at the largest "
        "initial scale than at the smallest: the ratio is above 1.",
        values=lambda starts: [large.gradient / small.gradient for small, large in starts],
        source=HERE,
        checks=start.start,
        unit="times",
        above=1.0,
        scale="log",
    ),
)

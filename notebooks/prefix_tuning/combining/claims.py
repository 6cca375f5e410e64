"""What is claimed of prefixes for new tasks, and of what the models carried before?

`TRAINED` is judged by the table of trials, `INSIDE` by what was seen in the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from notebooks.prefix_tuning.combining.inside import Evidence, moved_by_layer
from notebooks.prefix_tuning.combining.plan import COMPOSITIONS, INVENTIONS, N_HEAD
from notebooks.prefix_tuning.combining.probes import known_digits, rank_correlation
from notebooks.prefix_tuning.combining.results import NAMES, correlations, prefix_gains
from promptlib.claims import HERE, Claim, Outcome, check
from promptlib.prefix_tuning import adapting, evaluation, movement, published
from promptlib.prefix_tuning.planning import MIXED, model_of
from promptlib.prefix_tuning.published import COMBINE
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH
from promptlib.prefix_tuning.trials import UNIT, Get, Plan, Trials, read, sequences_tested

CHAPTER = "prefix-tuning/combining"
PAPER = "Petrov et al. 2024, combining"
PUBLISHED_MODEL = model_of(4, N_HEAD, 256)
PUBLISHED_COMPOSITION, PUBLISHED_INVENTION = COMPOSITIONS[0], INVENTIONS[0]
MOVING = ("reverse", "rotate")
"""Tasks that bring each digit to another place, whatever the digits are."""
AFTER_LOOKING = (
    "The gain took the place of the accuracy, and 0 that of a higher limit, after results of small "
    "models had been seen; what other seeds say is on the page on reproducibility."
)
"""Note of the claims whose form the first results of this book suggested."""


def best(trials: Trials, method: str, task: str) -> list[float]:
    """Accuracy of the best of its sweep in percent, by seed."""
    return trials.where(method=method, task=task).best().percent()


reported = partial(published.reported, model=PUBLISHED_MODEL)
"""A published accuracy; whether our model is as large is for the trials to say."""


TRAINED = (
    Outcome(
        "mixture-learned",
        "Control: pretrained on the mixture, the model does one of the four tasks on more than "
        "half of the inputs: the sum of the four accuracies is above 50 %.",
        values=lambda trials: [
            sum(one.percent(task) for task in MIXED) for one in trials.where(method="pretrained")
        ],
        above=50.0,
        unit=UNIT,
        source=PAPER,
        checks=adapting.pretrain,
        resolution=lambda trials: 100 / sequences_tested(trials),
        published=reported(sum(COMBINE["pretrained"][task] for task in MIXED), "higher"),
    ),
    *(
        Outcome(
            f"known-{task.replace('_', '-')}",
            f"A prefix makes the model do {NAMES[task]}, one of the four tasks of its mixture, on "
            "more than half of the sequences.",
            values=partial(best, method="published prefix", task=task),
            above=50.0,
            unit=UNIT,
            source=PAPER,
            checks=adapting.tune_prefixes,
            trials=sequences_tested,
            published=reported(COMBINE["prefix"][task], "higher"),
            requires=("mixture-learned",),
        )
        for task in MIXED
    ),
    Outcome(
        "pretrained-composition",
        "Pretrained on the mixture, the model by itself sorts upwards and adds one on less than "
        "1 % of the sequences.",
        values=lambda trials: trials.where(method="pretrained").percent(PUBLISHED_COMPOSITION),
        below=1.0,
        unit=UNIT,
        source=PAPER,
        checks=evaluation.sequence_accuracy,
        trials=sequences_tested,
        published=reported(COMBINE["pretrained"][PUBLISHED_COMPOSITION], "lower"),
        requires=("mixture-learned",),
    ),
    Outcome(
        "ascending-add-one",
        "With a prefix in the published parametrisation the model sorts upwards and adds one on "
        "more than 1 % of the sequences.",
        values=lambda trials: best(trials, "published prefix", PUBLISHED_COMPOSITION),
        above=1.0,
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=sequences_tested,
        published=reported(COMBINE["prefix"][PUBLISHED_COMPOSITION], "higher"),
        requires=("pretrained-composition",),
        note="The limit is the one that the model without a prefix is to stay below. It asks "
        "whether the prefix does anything, not whether it does the task well.",
    ),
    Outcome(
        "fine-tuning-counts",
        "Control: with as many steps, fine-tuning the same model learns the double histogram on "
        "more than half of the sequences.",
        values=lambda trials: best(trials, "fine-tuned", PUBLISHED_INVENTION),
        above=50.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=sequences_tested,
    ),
    Outcome(
        "double-histogram",
        "With a prefix in the published parametrisation the model counts how often each digit "
        "occurs on less than 5 % of the sequences.",
        values=lambda trials: best(trials, "published prefix", PUBLISHED_INVENTION),
        below=5.0,
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=sequences_tested,
        published=reported(COMBINE["prefix"][PUBLISHED_INVENTION], "lower"),
        requires=("fine-tuning-counts",),
    ),
    Outcome(
        "running-maximum",
        "With a free prefix the model writes the running maximum, which no chain of its four tasks "
        "makes, better than any model without attention could: the gain is above 0.",
        values=lambda trials: prefix_gains(trials)["running_maximum"],
        above=0.0,
        unit="dimensionless",
        source=HERE,
        checks=adapting.tune_prefixes,
        note=AFTER_LOOKING,
    ),
    Outcome(
        "lists-overlap",
        "With as many steps a free prefix gets further with the running maximum, no composition, "
        "than with sorting downwards and adding one, a composition of two of the four tasks: the "
        "difference of the gains is above 0.",
        values=lambda trials: difference(
            prefix_gains(trials), "running_maximum", "descending_add_one"
        ),
        above=0.0,
        unit="dimensionless",
        source=HERE,
        checks=adapting.tune_prefixes,
        note=AFTER_LOOKING,
    ),
    Outcome(
        "fine-tuning-moves",
        "Control: with as many steps, fine-tuning the same model learns to reverse and to rotate "
        "on more than half of the sequences; the worse of the two.",
        values=lambda trials: of_moving(min, trials, "fine-tuned"),
        above=50.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=sequences_tested,
    ),
    Outcome(
        "moving-fails",
        "With a free prefix the model reverses its input, or rotates it by one, on less than 1 % "
        "of the sequences; the better of the two.",
        values=lambda trials: of_moving(max, trials, "free prefix"),
        below=1.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=sequences_tested,
        requires=("fine-tuning-moves",),
    ),
    Outcome(
        "add-three",
        "With a free prefix the model adds three, which is add one after add two, better than any "
        "model without attention could: the gain is above 0.",
        values=lambda trials: prefix_gains(trials)["add_three"],
        above=0.0,
        unit="dimensionless",
        source=HERE,
        checks=adapting.tune_prefixes,
        note=AFTER_LOOKING,
    ),
)
"""Claims that need no weights."""


def of_moving(choose: Callable[..., float], trials: Trials, method: str) -> list[float]:
    """The worse (min) or the better (max) of the accuracies on `MOVING`, by seed."""
    return [
        choose(pair) for pair in zip(*(best(trials, method, task) for task in MOVING), strict=True)
    ]


def difference(gains: Mapping[str, list[float]], task: str, other: str) -> list[float]:
    """How much more is gained on the first task, by seed."""
    return [one - two for one, two in zip(gains[task], gains[other], strict=True)]


def own_digits(evidence: Evidence) -> list[float]:
    """How much more often an output has its own digit than another, in percent, by seed."""
    diagonal = torch.eye(SEQUENCE_LENGTH, dtype=torch.bool)
    after = [known[1:].amax(dim=0) for known in evidence.known]
    return [100 * float(one[diagonal].mean() - one[~diagonal].mean()) for one in after]


def moved(evidence: Evidence, way: str) -> torch.Tensor:
    """Share of relative attention moved, mean over the tasks that move digits, ``(seeds, L)``."""
    return torch.stack([evidence.moved[way][task] for task in MOVING]).mean(dim=0)


INSIDE = (
    Outcome(
        "probe-predicts",
        "How much of a new task's answer a linear probe reads in the pretrained model, without a "
        "prefix, goes together with the prefixes' own gains: over the new tasks the rank "
        "correlation of the two is above 0.",
        values=correlations,
        above=0.0,
        unit="dimensionless",
        source=HERE,
        checks=rank_correlation,
        note="All seeds share the eight tasks: the interval says nothing of other tasks. Until it "
        "was repeated with other seeds the limit was 0.7, which some of them miss.",
    ),
    Outcome(
        "own-digit",
        "In the pretrained model output $i$ carries input digit $i$: probes read it on more than "
        "25 % of the sequences more than they read any other input digit on average.",
        values=own_digits,
        above=25.0,
        unit=UNIT,
        source=HERE,
        checks=known_digits,
    ),
    Outcome(
        "moves-and-fails",
        "The prefixes that fail to reverse and to rotate do move the relative attention of the "
        "last layer: by more than 5 % in total variation, mean over heads.",
        values=lambda evidence: [100 * float(last) for last in moved(evidence, "prefix")[:, -1]],
        above=5.0,
        unit="% of the attention",
        source=HERE,
        checks=movement.movement,
        requires=("moving-fails",),
    ),
    Outcome(
        "fine-tuning-re-aims",
        "To reverse and to rotate, fine-tuning moves the relative attention of the first layer, "
        "which no prefix can move, further than that of the last: the difference of the total "
        "variations is above 0.",
        values=lambda evidence: [
            100 * float(layers[0] - layers[-1]) for layers in moved(evidence, "fine-tuned")
        ],
        above=0.0,
        unit="% of the attention",
        source=HERE,
        checks=moved_by_layer,
        requires=("fine-tuning-moves",),
        note="That fine-tuning moves the first layer had been seen before the claim was made; the "
        "comparison with the last layer had not been made.",
    ),
)
"""Claims about the models themselves; they require claims of `TRAINED`."""


def claims_at_published_size(plan: Plan, get: Get) -> list[Claim]:
    """Judge what an archive of metrics holds, as the page judges its own runs."""
    return list(check(CHAPTER, TRAINED, read(plan, get)).values())

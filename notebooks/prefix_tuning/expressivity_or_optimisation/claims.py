"""What would refute that a prefix was missing, not overlooked?

`TRAVEL` judges how far trained entries have moved, `ROWS` what `results.measured` returns.
"""

from __future__ import annotations

import numpy as np

from notebooks.prefix_tuning.expressivity_or_optimisation import results, training, travel
from notebooks.prefix_tuning.expressivity_or_optimisation.plan import DRAWN
from notebooks.prefix_tuning.expressivity_or_optimisation.results import DOES, MOVES
from promptlib.claims import HERE, Bound, Outcome
from promptlib.prefix_tuning import adapting
from promptlib.prefix_tuning.trials import UNIT, Trials, sequences_tested

CHAPTER = "prefix-tuning/expressivity"

# Given `results.budget_shares` and `results.distances`.
TRAVEL = (
    Bound(
        "travel-budget",
        "No entry of any prefix of these chapters has moved farther than the travel budget of its "
        "training; the quotient.",
        values=lambda m: m["shares"],
        limits=1.0,
        source=HERE,
        checks=travel.budget,
        search=lambda m: f"all {len(m['shares'])} trained prefixes",
        tolerance=1e-5,
    ),
    Outcome(
        "distances",
        "The entries of the best prefix have moved more than ten times as far as those of the best "
        "fine-tuned model of the same task; the ratio of root mean squares, geometric mean over "
        "tasks.",
        values=lambda m: list(results.distance_ratios(m["distances"]).values()),
        above=10.0,
        scale="log",
        unit="times",
        source=HERE,
        checks=travel.moves,
        note="how far an entry moves follows its learning rate, and the sweeps of prefixes lie "
        "above those of weights: this describes the best settings found and proves no need",
    ),
)


def best_at_moving(trials: Trials) -> list[float]:
    """Accuracy of each seed's best prefix for any of the tasks that move digits, in percent."""
    by_seed = results.moving(trials, "prefix").by("seed").values()
    return [min(tried, key=results.best_first).percent() for tried in by_seed]


def fine_tuned_to_move(trials: Trials) -> list[float]:
    """Accuracy of fine-tuning on the task that it is worse at, by seed, in percent."""
    by_question = results.moving(trials, "fine-tuning").by("question").values()
    return np.min([tried.best().percent() for tried in by_question], axis=0).tolist()


def trained_answers(trials: Trials) -> str:
    """The sentence on teachers that were trained."""
    teachers = results.trained_teachers(trials)
    tasks = " or ".join(teacher.replace("_", " ") for teacher in teachers)
    return (
        f"Judged by whole sequences, as every other prefix is, a planted prefix is found: one that "
        f"was trained to {tasks} is answered alike on {DOES:g} % of the sequences or more"
        + ("; the lowest of the teachers." if len(teachers) > 1 else ".")
    )


def none_moves(trials: Trials) -> str:
    """The sentence on prefixes that are to move digits."""
    tried = results.moving(trials, "prefix")
    lengths = sorted({trial.run.config["length"] for trial in tried})
    kinds = sorted({results.parametrisation(trial) for trial in tried})
    return (
        f"Of the {len(results.by_setting(tried))} settings of a prefix that were tried (length "
        f"{', '.join(map(str, lengths))}; {' and '.join(kinds)}), none does the moved digits on "
        "more than one sequence in ten; the best, chosen on validation sequences."
    )


ROWS = (
    Outcome(
        "planted-found",
        "A prefix that is trained to answer as a planted one, drawn at random, takes away more "
        "than four fifths of the divergence.",
        values=lambda m: results.closed(m, DRAWN),
        above=80.0,
        unit="% of the divergence",
        source=HERE,
        checks=training.plant,
    ),
    Outcome(
        "planted-answers",
        "Judged by whole sequences, as every other prefix is, a planted prefix is found: one that "
        f"is drawn at random is answered alike on {DOES:g} % of the sequences or more.",
        values=lambda m: results.agreement(m, DRAWN),
        above=DOES,
        unit=UNIT,
        source=HERE,
        checks=training.measure,
        trials=sequences_tested,
        note=f"the accuracy from which on a task counts as done ({DOES:g} %)",
    ),
    Outcome(
        "trained-planted-answers",
        trained_answers,
        values=lambda m: np.min(
            [results.agreement(m, teacher) for teacher in results.trained_teachers(m)], axis=0
        ),
        above=DOES,
        unit=UNIT,
        source=HERE,
        checks=training.measure,
        trials=sequences_tested,
        note=f"the accuracy from which on a task counts as done ({DOES:g} %)",
    ),
    Outcome(
        "no-prefix-for-moved-digits",
        none_moves,
        values=best_at_moving,
        below=10.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_prefixes,
        trials=sequences_tested,
        requires=("weights-can-move",),
    ),
    Outcome(
        "weights-can-move",
        "Control: fine-tuning the same models, with as many steps on batches of the same size, "
        f"does each of {' and '.join(MOVES)} on more than half of the sequences; the lower of "
        "their accuracies.",
        values=fine_tuned_to_move,
        above=50.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=sequences_tested,
    ),
)

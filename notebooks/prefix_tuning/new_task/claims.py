"""What would refute that no prefix teaches the sorter to sort descending?

`ROWS` judge what `results.measured` returns and need no weights, so an archive of metrics is judged
by them too. The other tables judge what their cells of the page compute with models.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from notebooks.prefix_tuning.new_task import results, stream, tables, tables_theory
from notebooks.prefix_tuning.new_task.plan import ASCENDING, DESCENDING, MODEL
from notebooks.prefix_tuning.new_task.results import longer, one_vector
from notebooks.prefix_tuning.new_task.results_tables import (
    SEARCH_STEPS,
    SEARCHED_LENGTH,
    built_errors,
)
from promptlib import claims
from promptlib.claims import HERE, Bound, Identity, Outcome
from promptlib.prefix_tuning import adapting, published
from promptlib.prefix_tuning.blind import blind_sorting_loss
from promptlib.prefix_tuning.evaluation import score, sequence_loss
from promptlib.prefix_tuning.trials import UNIT, Get, Plan, Trials, sequences_tested

CHAPTER = "prefix-tuning/new-task"
PAPER = "Petrov et al. 2024, new task"


ACCURACY: dict[str, Any] = {"unit": UNIT, "trials": sequences_tested}


def paper(name: str, favours: Literal["higher", "lower"]) -> dict[str, Any]:
    """What is common to rows with a published accuracy."""
    return {
        **ACCURACY,
        "source": PAPER,
        "published": published.reported(published.NEW_TASK[name], favours, MODEL),
    }


def shared(m: Trials) -> Trials:
    """The best prefix of each seed in the published parametrisation."""
    return m.where(method="prefix", way="shared").best()


def finetuned(m: Trials) -> Trials:
    """The best fine-tuned model of each seed."""
    return m.where(method="finetuned").best()


ROWS = (
    Outcome(
        "pretrained-ascending",
        "A model of one layer and one head learns to sort more than half of the sequences "
        "ascending.",
        values=lambda m: m.where(method="pretrained").percent(ASCENDING),
        above=50.0,
        checks=adapting.pretrain,
        **paper("pretrained_ascending", "higher"),
    ),
    Outcome(
        "pretrained-descending",
        "Pretrained on ascending alone, it sorts fewer than one sequence in a hundred descending.",
        values=lambda m: m.where(method="pretrained").percent(DESCENDING),
        below=1.0,
        checks=score,
        **paper("pretrained_descending", "lower"),
    ),
    Outcome(
        "finetuned-descending",
        "Fine-tuning all its weights teaches it to sort more than half of the sequences "
        "descending.",
        values=lambda m: finetuned(m).percent(DESCENDING),
        above=50.0,
        checks=adapting.fine_tune,
        **paper("finetuned_descending", "higher"),
    ),
    Outcome(
        "finetuned-ascending",
        "Fine-tuned on descending, it sorts fewer than one sequence in a hundred ascending.",
        values=lambda m: finetuned(m).percent(ASCENDING),
        below=1.0,
        checks=adapting.fine_tune,
        requires=("pretrained-ascending",),
        **paper("finetuned_ascending", "lower"),
    ),
    Outcome(
        "prefix-descending",
        "With the best prefix of one vector in the published parametrisation, after as many steps "
        "as fine-tuning had and with as many cells in its sweep, the pretrained model sorts fewer "
        "than one sequence in a hundred descending.",
        values=lambda m: shared(m).percent(DESCENDING),
        below=1.0,
        checks=adapting.tune_prefixes,
        requires=("finetuned-descending", "longer-learns"),
        **paper("prefix_descending", "lower"),
    ),
    Outcome(
        "prefix-ascending",
        "With the best prefix of one vector in the published parametrisation, trained on "
        "descending, the model sorts fewer than half of the sequences ascending, which it could "
        "without.",
        values=lambda m: shared(m).percent(ASCENDING),
        below=50.0,
        checks=adapting.tune_prefixes,
        requires=("pretrained-ascending",),
        note="What is left depends on the seed and on the cell of the sweep, so the limit is as "
        "wide as half.",
        **paper("prefix_ascending", "lower"),
    ),
    Outcome(
        "longer-descending",
        lambda m: (
            f"With the best prefix of {' or '.join(map(str, sorted(longer(m).by('length'))))} "
            "vectors the pretrained model sorts fewer than half of the sequences descending, after "
            "as many steps as fine-tuning had and with as many cells in the sweep of each length."
        ),
        values=lambda m: longer(m).best().percent(DESCENDING),
        below=50.0,
        source=HERE,
        checks=adapting.tune_prefixes,
        requires=("finetuned-descending", "longer-learns"),
        **ACCURACY,
    ),
    Outcome(
        "worse-than-blind",
        lambda m: (
            f"With the best of all {len(one_vector(m))} prefixes of one vector, whatever their "
            "parametrisation, learning rate, initial scale, start and number of steps, the loss on "
            "descending stays above that of a predictor that does not look at the input "
            f"({blind_sorting_loss():.3f} nats a symbol); the excess is above 0."
        ),
        values=lambda m: (
            np.array(one_vector(m).best(by="loss").losses(DESCENDING)) - blind_sorting_loss()
        ),
        above=0.0,
        unit="nats a symbol",
        source=HERE,
        checks=blind_sorting_loss,
        requires=("finetuned-descending", "longer-learns"),
    ),
    Outcome(
        "longer-learns",
        "Control: on the same models and the same task the same code trains longer prefixes, the "
        "best of which cuts the loss on descending to less than half of that without a prefix.",
        values=lambda m: np.divide(
            longer(m).best(by="loss").losses(DESCENDING),
            m.where(method="pretrained").losses(DESCENDING),
        ),
        below=0.5,
        scale="log",
        unit="times the loss without a prefix",
        source=HERE,
        checks=adapting.tune_prefixes,
        note="The control was first that this loss is below that of a predictor that does not look "
        "at the input. Trials with few steps came out on both sides of that, and whether training "
        "works is another question, so it was replaced; half is simply a lot.",
    ),
    Outcome(
        "frozen-attention",
        "With queries, keys and embeddings frozen, so that every relative attention stays as it "
        "was, training the other weights sorts more sequences descending than the best trained "
        "prefix of any length does after as many steps or more; the difference is above 0.",
        values=lambda m: np.subtract(
            m.where(method="besides attention").percent(DESCENDING),
            m.where(method="prefix").best().percent(DESCENDING),
        ),
        above=0.0,
        unit=f"points, {UNIT}",
        resolution=lambda m: 100 / sequences_tested(m),
        source=HERE,
        checks=adapting.fine_tune,
        note="An earlier edition asked for half of all sequences. How many it gets depends on the "
        "number of steps; what it is there for is this comparison.",
    ),
    Outcome(
        "best-table",
        "Even the best table that training finds, after as many steps as fine-tuning had, sorts "
        "fewer than half of the sequences descending.",
        values=lambda m: m.where(method="best table").percent(DESCENDING),
        below=50.0,
        source=HERE,
        checks=tables.train,
        requires=("finetuned-descending", "table-gap"),
        **ACCURACY,
    ),
    Outcome(
        "table-gap",
        "The best trained prefix of any length has a higher loss on descending than the best "
        "table; the difference is above 0.",
        values=lambda m: np.subtract(
            m.where(method="prefix").best(by="loss").losses(DESCENDING),
            m.where(method="best table").losses(DESCENDING),
        ),
        above=0.0,
        unit="nats a symbol",
        source=HERE,
        checks=tables.train,
        note="Also the control of the claim about the best table: its training works better than "
        "that of prefixes.",
    ),
)


def claims_at_published_size(plan: Plan, get: Get) -> list[claims.Claim]:
    """Judge what an archive of metrics holds, as the page judges its own runs."""
    return list(claims.check(CHAPTER, ROWS, results.measured(plan, get)).values())


# Given `results.gradient_errors`.
GRADIENT = (
    Identity(
        "prefix-gradient",
        "The gradient of the loss with respect to a prefix, as training computes it, equals "
        "central differences of the loss; errors relative to the longest gradient entry.",
        errors=lambda errors: errors.numpy(),
        tolerance=1e-7,
        source=HERE,
        checks=sequence_loss,
    ),
)

# Given `results_tables.table_errors` and `convexity_excesses`.
THEORY = (
    Identity(
        "prefix-is-table",
        "A model of one layer computes the same logits with a prefix of any length and with the "
        "table of that prefix, one logit and one vector for each head and each pair of place and "
        "symbol; errors relative to the largest logit.",
        errors=lambda m: m["errors"],
        tolerance=1e-9,
        source=HERE,
        checks=tables_theory.table_of,
    ),
    Bound(
        "log-convex",
        "At a mixture of queries, the logit $c$ of a prefix is at most the mixture of its logits "
        "at these queries.",
        values=lambda m: m["excesses"].numpy(),
        limits=0.0,
        tolerance=1e-12,
        source=HERE,
        checks=tables_theory.log_convexity_excess,
        search=lambda m: (
            f"{SEARCH_STEPS} steps uphill from each of {m['excesses'].shape[1]} random prefixes of "
            f"{SEARCHED_LENGTH} vectors"
        ),
    ),
)

# Given the `results_tables.Built` of each seed.
BUILT = (
    Identity(
        "built-prefix",
        "A prefix with one vector for each pair of output place and digit, built from a trained "
        "table, gives the outputs of the sorter the logits of that table; absolute errors.",
        errors=lambda sorters: torch.cat([built_errors(one, 200) for one in sorters]).numpy(),
        tolerance=1e-6,
        source=HERE,
        checks=tables_theory.prefix_of,
    ),
    Outcome(
        "built-descending",
        "There is a prefix, of 80 vectors built from the best table, with which the pretrained "
        "model sorts more than one sequence in a hundred descending.",
        values=lambda sorters: [one.trial.percent(DESCENDING) for one in sorters],
        above=1.0,
        unit=UNIT,
        trials=lambda sorters: sequences_tested([one.trial for one in sorters]),
        source=HERE,
        checks=tables_theory.prefix_of,
        note="The limit below which the published prefix stays.",
    ),
)

GAIN: dict[str, Any] = {
    "source": HERE,
    "checks": stream.probe_accuracy,
    "unit": "points, % of digits",
    "resolution": lambda m: 100 / m["test_sequences"],
    "note": "One point is what we call nothing; the digits of one sequence are not independent, "
    "so the resolution is that of whole sequences.",
}

# Given `stream.probe_accuracy` of each seed by the name of the model, and the test sequences.
PROBES = (
    Outcome(
        "finetuned-probe",
        "Fine-tuning adds more than one point to what a linear probe reads of the "
        "downward answer from the residual stream of the sorter.",
        values=lambda m: np.subtract(m["all weights"], m["pretrained"]),
        above=1.0,
        **GAIN,
    ),
    Outcome(
        "probe",
        "The best prefix of one vector adds less than one point to what a linear probe reads of "
        "the downward answer from the residual stream of the sorter.",
        values=lambda m: np.subtract(m["one vector"], m["pretrained"]),
        below=1.0,
        requires=("finetuned-probe",),
        **GAIN,
    ),
    Outcome(
        "built-probe",
        "The prefix built from the best table adds less than one point to what a linear probe "
        "reads there.",
        values=lambda m: np.subtract(m["built prefix"], m["pretrained"]),
        below=1.0,
        requires=("finetuned-probe",),
        **GAIN,
    ),
)

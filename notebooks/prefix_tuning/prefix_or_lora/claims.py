"""What is claimed of prefixes and LoRA of as many parameters, and what would refute it?

`TRAINED` is judged by the table of trials, `MOVED` by the trials that `look_inside` looked into,
and each row of `EXACT` by a measurement of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from notebooks.prefix_tuning.combining.plan import N_HEAD
from notebooks.prefix_tuning.eliciting.plan import PUBLISHED_WIDTH
from notebooks.prefix_tuning.prefix_or_lora import bias, counting
from notebooks.prefix_tuning.prefix_or_lora.blind import blind_histogram_loss
from notebooks.prefix_tuning.prefix_or_lora.plan import lora_parameters
from notebooks.prefix_tuning.prefix_or_lora.results import (
    SCALES,
    above_first,
    at_budget,
    leaves_first_alone,
    published_lora,
    way,
)
from promptlib.claims import HERE, Bound, Claim, Identity, Outcome, check
from promptlib.prefix_tuning import adapting, movement, published
from promptlib.prefix_tuning.planning import model_of
from promptlib.prefix_tuning.trials import UNIT, Get, Plan, Trials, read, sequences_tested

CHAPTER = "prefix-tuning/prefix-or-lora"
PAPER = "Petrov et al. 2024, rank-1 LoRA"
PUBLISHED_MODEL = model_of(4, N_HEAD, PUBLISHED_WIDTH)
LOSS_UNIT = "nats a symbol"
AFTER_LOOKING = (
    "zero; that losses and not accuracies are compared was decided after a first build, in which "
    "hardly anything counted right"
)
"""Note of the claims about losses."""


def lowest(sweep: Trials) -> np.ndarray:
    """Test loss of the lowest validation loss, by seed."""
    return np.array(sweep.best(by="loss").losses())


def shared_prefix(trials: Trials) -> Trials:
    """The prefix of the published parametrisation and budget."""
    return at_budget(trials, "prefix").where(what="shared")


TRAINED = (
    Outcome(
        "prefix",
        "No prefix of the sweep that has the published parametrisation and exactly the published "
        "budget does the double histogram on more than one sequence in ten.",
        values=lambda trials: shared_prefix(trials).best().percent(),
        below=10.0,
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_prefixes,
        trials=sequences_tested,
        published=published.reported(published.LORA_BUDGET["prefix"], "lower", PUBLISHED_MODEL),
        requires=("ceiling",),
    ),
    Outcome(
        "lora",
        "LoRA of rank 1 on the MLPs and the output projections, with exactly as many parameters, "
        "does the double histogram on more than half of the sequences.",
        values=lambda trials: published_lora(trials).best().percent(),
        above=50.0,
        unit=UNIT,
        source=PAPER,
        checks=adapting.tune_lora,
        trials=sequences_tested,
        published=published.reported(published.LORA_BUDGET["lora"], "higher", PUBLISHED_MODEL),
        requires=("ceiling",),
    ),
    Outcome(
        "ceiling",
        "Control: in the same number of steps, fine-tuning all weights does the double histogram "
        "on more than half of the sequences.",
        values=lambda trials: trials.where(method="fine-tuning").best().percent(),
        above=50.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=sequences_tested,
    ),
    Outcome(
        "attention-below-prefix",
        "LoRA of rank 1 on the attention, which re-aims every layer and has a third fewer "
        "parameters, has a lower test loss than the best prefix of the published budget; the "
        "difference is above zero.",
        values=lambda trials: (
            lowest(at_budget(trials, "prefix")) - lowest(way(trials, "LoRA", "attention", 1))
        ),
        above=0.0,
        unit=LOSS_UNIT,
        source=HERE,
        checks=adapting.tune_lora,
        note=AFTER_LOOKING,
    ),
    Outcome(
        "ceiling-below-lora",
        "Fine-tuning all weights has a lower test loss than LoRA of the published budget, after "
        "the same steps; the difference is above zero.",
        values=lambda trials: (
            lowest(published_lora(trials)) - lowest(trials.where(method="fine-tuning"))
        ),
        above=0.0,
        unit=LOSS_UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        note=AFTER_LOOKING,
    ),
    Outcome(
        "prefix-worse-than-blind",
        lambda _: (
            "The best prefix of the published budget has a higher test loss than a predictor that "
            f"sees nothing of the input and only its own outputs so far "
            f"({blind_histogram_loss():.3f} nats a symbol); the excess is above zero."
        ),
        values=lambda trials: lowest(at_budget(trials, "prefix")) - blind_histogram_loss(),
        above=0.0,
        unit=LOSS_UNIT,
        source=HERE,
        checks=blind_histogram_loss,
        requires=("ceiling",),
        note=AFTER_LOOKING,
    ),
)
"""Claims that need no weights."""

MOVED = (
    Identity(
        "first-layer",
        "In the trained models, neither a prefix nor LoRA on MLPs and output projections moves the "
        "relative attention of the first layer; total variation.",
        errors=lambda seen: np.concatenate(
            [one.metrics["moved"][0].numpy() for one in seen if leaves_first_alone(one)]
        ),
        tolerance=1e-10,
        source=HERE,
        checks=movement.movement,
    ),
    Outcome(
        "mlp-moves",
        "LoRA of rank 1 on the MLPs and output projections, which touches no query and no key, "
        "moves more than 1 % of the relative attention above the first layer, in total variation.",
        values=lambda seen: [above_first(one) for one in published_lora(seen)],
        above=1.0,
        unit="% of attention",
        source=HERE,
        checks=movement.movement,
    ),
)

EXACT = (
    Identity(
        "counts",
        "A shared prefix of length 12, a free one of length 6 and LoRA of rank 1 on MLPs and "
        "output projections train equally many numbers, 12,288 at the published size; LoRA on "
        "the MLPs alone trains 10,240. Counts against parameters that exist.",
        errors=lambda errors: errors,
        tolerance=0.5,
        source=PAPER,
        checks=lora_parameters,
    ),
    Identity(
        "numbers",
        "A shared prefix of length $p$ has $L p\\,(d-2)$ numbers that count, and LoRA of rank $r$ "
        "$r$ times (inputs + outputs $- r$) in each layer that it corrects, one output less where "
        "the layer writes to the residual stream; against ranks of Jacobians of random models.",
        errors=lambda counted: [formula - rank for _, _, formula, rank in counted],
        tolerance=0.5,
        source=HERE,
        checks=counting.numbers_seen,
    ),
    Identity(
        "invariance",
        "In the trained models no logit changes when multiples of $\\mathbf 1$ are added to the "
        "vectors of a shared prefix, or to what LoRA writes to the residual stream, or when its "
        "factors are written in another basis; absolute differences.",
        errors=lambda errors: errors,
        tolerance=1e-8,
        source=HERE,
        checks=counting.shift_errors,
    ),
    Bound(
        "scale",
        "Scaling a vector of a trained shared prefix by $a$ moves it behind the LayerNorm by at "
        "most $\\max_k |\\gamma_k|\\,\\sqrt d\\,\\varepsilon\\,(1 - a^{-2})/(2v)$.",
        values=lambda found: found[0],
        limits=lambda found: found[1],
        source=HERE,
        checks=counting.scale_moves,
        search=f"all vectors of the trained prefixes, scaled by {', '.join(map(str, SCALES))}",
        tolerance=1e-12,
    ),
    Identity(
        "bias",
        "Behind a LayerNorm, LoRA of rank 1 adds any fixed vector to what a layer writes, on every "
        "input; random layers, differences relative to the vector.",
        errors=lambda errors: errors,
        tolerance=1e-10,
        source=HERE,
        checks=bias.add_bias_by_lora,
    ),
)


def exact(name: str, measured: Any) -> Claim:
    """Judge one row of `EXACT` by what was measured for it."""
    return check(CHAPTER, [row for row in EXACT if row.name == name], measured)[name]


def claims_at_published_size(plan: Plan, get: Get) -> list[Claim]:
    """Judge what an archive of metrics holds, as the page judges its own runs."""
    return list(check(CHAPTER, TRAINED, read(plan, get)).values())

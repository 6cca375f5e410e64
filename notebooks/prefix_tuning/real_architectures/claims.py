r"""What is claimed of architectures that others wrote, and how is each part checked?

One table for each thing that is measured; `check` judges it. Where nothing was measured, because
the extra is not installed, the rows are stated and not judged. This module loads without the extra,
so the functions that rows speak of, which do not, go by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch

from notebooks.prefix_tuning.real_architectures import extra
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prefix_tuning.trials import Trials

TOLERANCE = 1e-10
"""Largest error that counts as float64 rounding."""

ROTATION_TOLERANCE = 1e-5
"""For rotary positions, whose angles `transformers` computes in float32."""

PAPER = "Petrov et al. 2024, prefixes and relative attention"
ROOM = "notebooks.prefix_tuning.real_architectures"

MODELS = (
    claims.Identity(
        "real-relative-attention",
        "In every head and layer of the GPT-2 and LLaMA of transformers, prefixes in the cache and "
        r"by peft leave relative attention over what the layer reads: $A'_{ij} = "
        r"(1-\alpha_i)A_{ij}$.",
        errors=itemgetter("relative attention"),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=f"{ROOM}.results.relative_errors",
    ),
    claims.Identity(
        "real-output-bias",
        "In every head and layer of the GPT-2 and LLaMA of transformers, prefixes in the cache and "
        r"by peft bias the output: $t'_i = (1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        errors=itemgetter("output bias"),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=f"{ROOM}.results.output_errors",
    ),
    claims.Identity(
        "real-first-layer",
        "A GPT-2 or LLaMA with a prefix and the same model without one agree in the relative "
        "attention of their first layer, if the content stands at the same positions.",
        errors=itemgetter("first layer"),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=f"{ROOM}.results.first_layer_errors",
    ),
    claims.Identity(
        "peft-is-free-keys-and-values",
        "The prefix-tuning of peft gives the logits of the plain model with the same keys and "
        "values in its cache, the content behind them.",
        errors=itemgetter("peft"),
        tolerance=TOLERANCE,
        source=HERE,
        checks=f"{ROOM}.architectures.past_of_peft",
    ),
)
"""Judged by `results.model_errors`."""

SHIFT = (
    claims.Outcome(
        "peft-moves-absolute-positions",
        "The prefix-tuning of peft pushes the content of a GPT-2 to later positions, which by "
        "itself moves more than 10 % of the first layer's relative attention, mean over rows "
        "(random weights).",
        values=lambda moved: [100 * float(one.mean()) for one in moved["GPT-2, peft"]],
        unit="% of the attention",
        above=10.0,
        source=HERE,
        checks=f"{ROOM}.results.shift_movement",
        note="position vectors are drawn as large as those of tokens; smaller ones move less",
    ),
    claims.Identity(
        "rotary-content-stays",
        "In a LLaMA the same push moves no relative attention in the first layer, up to the "
        "float32 in which transformers computes rotations.",
        errors=lambda moved: torch.cat([one.flatten() for one in moved["LLaMA, peft"]]),
        tolerance=ROTATION_TOLERANCE,
        source=HERE,
        checks=f"{ROOM}.results.shift_movement",
    ),
)
"""Judged by `results.shift_movement` of each random model, by architecture."""

ENCODER = (
    claims.Identity(
        "encoder-relative-attention",
        "In every head and layer of a pretrained sentence encoder on real sentences, inserted "
        "prefixes, another sentence among them, leave relative attention over what it reads.",
        errors=itemgetter("relative attention"),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=f"{ROOM}.results.relative_errors",
    ),
    claims.Identity(
        "encoder-output-bias",
        "In every head and layer of a pretrained sentence encoder on real sentences, the output "
        r"with an inserted prefix is $(1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        errors=itemgetter("output bias"),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=f"{ROOM}.results.output_errors",
    ),
)
"""Judged by `results.layer_errors`."""


def reached(trials: Trials, aim: str, crowd: int, when: str = "after") -> list[float]:
    """Mean cosine to the targets before or after training, by seed."""
    found = [one.metrics for one in trials]
    return [sum(m[when]) / crowd for m in found if (m["aim"], m["crowd"]) == (aim, crowd)]


def advantage(trials: Trials) -> list[float]:
    """Mean cosine to one place minus that to own places, of the largest crowd, by seed."""
    crowd = max(one.metrics["crowd"] for one in trials)
    pairs = zip(
        reached(trials, "one place", crowd), reached(trials, "its own place", crowd), strict=True
    )
    return [together - apart for together, apart in pairs]


STEERING = (
    claims.Outcome(
        "one-sentence-moves",
        "In a pretrained sentence encoder a trained prefix brings a sentence, the first of our "
        "list and read alone, to the place of another: it ends with a cosine above 0.5.",
        values=lambda trials: reached(
            trials, "its own place", min(one.metrics["crowd"] for one in trials)
        ),
        unit="cosine",
        above=0.5,
        source=HERE,
        checks=f"{ROOM}.training.steer",
        note="asked of the smallest crowd that was trained",
    ),
    claims.Outcome(
        "one-place-is-easier",
        "In a pretrained sentence encoder a trained prefix brings a crowd of sentences closer to "
        "one place than, in as many steps, each of them to its own: by a mean cosine of more than "
        "0.05.",
        values=advantage,
        unit="mean cosine, difference",
        above=0.05,
        source=HERE,
        checks=f"{ROOM}.training.steer",
        requires=("one-sentence-moves",),
    ),
)
"""Judged by the trials of prefixes of one length."""


def check(rows: Sequence[claims.Row], measured: Any) -> dict[str, claims.Claim]:
    """`claims.check`; of nothing, `None`, the rows as claims that this build did not check."""
    if measured is not None:
        found = claims.check("prefix-tuning/", rows, measured)
        return {name: claims.needing(claim, extra.NAME) for name, claim in found.items()}
    return {
        row.name: claims.not_checked(
            f"prefix-tuning/{row.name}",
            str(row.sentence),
            kind=type(row).__name__.lower(),
            source=row.source,
            checks=row.checks,
            needs=extra.NAME,
        )
        for row in rows
    }

"""What do probes of the pretrained models say about what prefixes can do with them?

The *gain* of a predictor on a task is the part of the loss without attention that it removes:
0 for what a table of place and token could say (`yardsticks`), 1 for a
perfect answer, below 0 for something worse than the table. The gain of a probe of the pretrained
model says what could be read there before any training; the gain of a prefix, what training got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from notebooks.prefix_tuning.combining import inside
from notebooks.prefix_tuning.combining.inside import Evidence
from notebooks.prefix_tuning.combining.plan import NEW
from notebooks.prefix_tuning.combining.probes import Probed, known_digits, rank_correlation
from notebooks.prefix_tuning.combining.results import (
    MOVING,
    Measured,
    finetuning_moves,
    gain,
    moving_fails,
    prefix_gains,
)
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import movement
from promptlib.prefix_tuning.sweeps import HERE, UNIT
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH


def best_probe(levels: Sequence[Probed]) -> Probed:
    """Return the probe with the lowest loss on the sequences that are for choosing."""
    return min(levels, key=lambda probed: probed.choice_loss)


def probe_gains(measured: Measured, evidence: Evidence) -> dict[str, list[float]]:
    """Return the gain of the best probe by new task and seed."""
    return {
        task: [gain(best_probe(one).loss, measured.standing_loss[task]) for one in seeds]
        for task, seeds in evidence.probes.items()
    }


def correlations(
    probes: Mapping[str, Sequence[float]], prefixes: Mapping[str, Sequence[float]]
) -> list[float]:
    """Return the rank correlation over tasks, for each seed."""
    seeds = range(len(next(iter(probes.values()))))
    return [
        rank_correlation(
            [probes[task][seed] for task in NEW], [prefixes[task][seed] for task in NEW]
        )
        for seed in seeds
    ]


def probe_predicts(measured: Measured, evidence: Evidence) -> claims.Claim:
    """What can be read beforehand ranks the tasks by what a prefix gets."""
    return claims.outcome(
        "prefix-tuning/combining-probe-predicts",
        "How much of a new task's answer a linear probe reads in the pretrained model, without a "
        "prefix, ranks the tasks as the prefixes' own gains do, with a rank correlation above 0.7.",
        values=correlations(probe_gains(measured, evidence), prefix_gains(measured)),
        limit=0.7,
        side="above",
        unit="dimensionless",
        source=HERE,
        checks=rank_correlation,
        note="All seeds share the eight tasks: the interval says nothing of other tasks.",
    )


def own_digit(evidence: Evidence) -> claims.Claim:
    """Each output carries the digit of its own place and few others."""
    diagonal = torch.eye(SEQUENCE_LENGTH, dtype=torch.bool)
    after = [known[1:].amax(dim=0) for known in evidence.known]
    return claims.outcome(
        "prefix-tuning/combining-own-digit",
        "In the pretrained model output $i$ carries input digit $i$: probes read it on more than "
        "25 % of the sequences more than they read any other input digit on average.",
        values=[100 * float(one[diagonal].mean() - one[~diagonal].mean()) for one in after],
        limit=25.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=known_digits,
    )


def moves_and_fails(measured: Measured, evidence: Evidence) -> claims.Claim:
    """Where prefixes fail, attention of deeper layers has moved nevertheless."""
    moved = torch.stack([evidence.moved["prefix"][task] for task in MOVING])  # (2, seeds, L)
    return claims.outcome(
        "prefix-tuning/combining-moves-and-fails",
        "The prefixes that fail to reverse and to rotate do move the relative attention of the "
        "last layer: by more than 5 % in total variation, mean over heads.",
        values=[100 * float(value) for value in moved[..., -1].mean(dim=0)],
        limit=5.0,
        side="above",
        unit="% of the attention",
        source=HERE,
        checks=movement.movement,
        requires=[moving_fails(measured)],
    )


def fine_tuning_re_aims(measured: Measured, evidence: Evidence) -> claims.Claim:
    """Fine-tuning changes most what no prefix can change, where prefixes fail."""
    moved = torch.stack([evidence.moved["fine-tuned"][task] for task in MOVING]).mean(dim=0)
    return claims.outcome(
        "prefix-tuning/combining-fine-tuning-re-aims",
        "To reverse and to rotate, fine-tuning moves the relative attention of the first layer, "
        "which no prefix can move, further than that of the last: the difference of the total "
        "variations is above 0.",
        values=[100 * float(first - last) for first, last in moved[:, [0, -1]]],
        limit=0.0,
        side="above",
        unit="% of the attention",
        source=HERE,
        checks=inside.moved_by_layer,
        requires=[finetuning_moves(measured)],
        note="That fine-tuning moves the first layer had been seen before the claim was made; the "
        "comparison with the last layer had not been made.",
    )


check_public(__name__)

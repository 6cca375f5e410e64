"""What do probes of the pretrained models say about what prefixes can do with them?

The *gain* of a predictor on a task is the part of the loss without attention that it removes:
0 for what a table of place and token could say (`promptlib.prefix_tuning.combine_easy`), 1 for a
perfect answer, below 0 for something worse than the table. The gain of a probe of the pretrained
model says what could be read there before any training; the gain of a prefix, what training got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from promptlib import claims
from promptlib.prefix_tuning.combine import COMPOSITIONS, NEW
from promptlib.prefix_tuning.combine_evidence import Evidence
from promptlib.prefix_tuning.combine_probe import Probed, rank_correlation
from promptlib.prefix_tuning.combine_results import MOVING, Measured
from promptlib.prefix_tuning.experiment_results import HERE

LIBRARY = "promptlib.prefix_tuning"


def gain(loss: float, standing: float) -> float:
    """Return the part of the loss without attention that is removed, at most 1."""
    return 1 - loss / standing


def best_probe(levels: Sequence[Probed]) -> Probed:
    """Return the probe with the lowest loss."""
    return min(levels, key=lambda probed: probed.loss)


def probe_gains(evidence: Evidence) -> dict[str, list[float]]:
    """Return the gain of the best probe by new task and seed."""
    return {
        task: [gain(best_probe(one).loss, evidence.standing_loss[task]) for one in seeds]
        for task, seeds in evidence.probes.items()
    }


def prefix_gains(measured: Measured, evidence: Evidence) -> dict[str, list[float]]:
    """Return the gain of the best prefix by new task and seed."""
    return {
        task: [
            gain(cell.loss(task), evidence.standing_loss[task]) for cell in measured.prefixes[task]
        ]
        for task in NEW
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


def add_three(measured: Measured, evidence: Evidence) -> claims.Claim:
    """A composition that a prefix makes the model do."""
    return claims.outcome(
        "prefix-tuning/combining-add-three",
        "With a prefix the model adds three, which is add one after add two: more than half of the "
        "loss without attention is gone; the gain.",
        values=prefix_gains(measured, evidence)["add_three"],
        source=HERE,
        checks=f"{LIBRARY}.experiment_training.tune_prefixes",
        unit="dimensionless",
        refuted_if=("<", 0.5),
    )


def probe_predicts(measured: Measured, evidence: Evidence) -> claims.Claim:
    """What can be read beforehand ranks the tasks by what a prefix gets."""
    return claims.outcome(
        "prefix-tuning/combining-probe-predicts",
        "How much of a new task's answer a linear probe reads in the pretrained model, without a "
        "prefix, ranks the tasks nearly as the prefixes' own gains do; rank correlation.",
        values=correlations(probe_gains(evidence), prefix_gains(measured, evidence)),
        source=HERE,
        checks=f"{LIBRARY}.combine_probe.rank_correlation",
        unit="dimensionless",
        refuted_if=("<", 0.7),
    )


def own_digit(evidence: Evidence) -> claims.Claim:
    """Each output carries the digit of its own place and few others."""
    diagonal = torch.eye(10, dtype=torch.bool)
    after = [known[1:].amax(dim=0) for known in evidence.known]
    return claims.outcome(
        "prefix-tuning/combining-own-digit",
        "In the pretrained model output $i$ carries input digit $i$: probes read it in more "
        "sequences than they read any other input digit on average; the difference.",
        values=[100 * float(one[diagonal].mean() - one[~diagonal].mean()) for one in after],
        source=HERE,
        checks=f"{LIBRARY}.combine_probe.known_digits",
        unit="% of sequences",
        refuted_if=("<", 25.0),
    )


def moves_and_fails(evidence: Evidence) -> claims.Claim:
    """Where prefixes fail, attention of deeper layers has moved nevertheless."""
    moved = torch.stack([evidence.moved["prefix"][task] for task in MOVING])  # (2, seeds, L)
    return claims.outcome(
        "prefix-tuning/combining-moves-and-fails",
        "The prefixes that fail to reverse and to rotate do move the relative attention of the "
        "last layer; total variation, mean over heads.",
        values=[100 * float(value) for value in moved[..., -1].mean(dim=0)],
        source=HERE,
        checks=f"{LIBRARY}.depth.movement.movement",
        unit="% of the attention",
        refuted_if=("<", 5.0),
    )


def fine_tuning_re_aims(evidence: Evidence) -> claims.Claim:
    """Fine-tuning changes what no prefix can change, where prefixes fail."""
    moved = evidence.moved["fine-tuned"]
    first = {task: 100 * moved[task][:, 0] for task in (*MOVING, *COMPOSITIONS)}  # by seed
    failing, composed = (
        torch.stack([first[task] for task in tasks]).mean(dim=0) for tasks in (MOVING, COMPOSITIONS)
    )
    return claims.outcome(
        "prefix-tuning/combining-fine-tuning-re-aims",
        "To reverse and to rotate, fine-tuning moves the relative attention of the first layer, "
        "which no prefix can move, further than for the compositions; the difference of the means.",
        values=(failing - composed).tolist(),
        source=HERE,
        checks=f"{LIBRARY}.combine_evidence.moved_by_layer",
        unit="% of the attention",
        refuted_if=("<", 0.0),
    )

"""How much of the answer can be read where the sorter of "A new task" writes it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from notebooks.prefix_tuning.new_task import stream
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning.sweeps import HERE

LIMIT = 1.0
"""Percent of digits that count as something."""


def finetuned_probe_gain(
    without: Sequence[float], finetuned: Sequence[float], test_sequences: int
) -> claims.Claim:
    """The probe sees what fine-tuning brings: the control of the two claims about prefixes.

    Parameters
    ----------
    without, finetuned : sequences of float
        From `new_task_stream.probe_accuracy`, one for each seed.
    test_sequences : int
        That the probes were tested on.
    """
    return _gain(
        "finetuned-probe",
        "Fine-tuning adds more than one point to what a linear probe reads of the "
        "downward answer from the residual stream of the sorter.",
        "above",
        np.subtract(finetuned, without),
        test_sequences,
    )


def probe_gain(
    without: Sequence[float],
    with_prefix: Sequence[float],
    test_sequences: int,
    requires: Sequence[claims.Claim] = (),
) -> claims.Claim:
    """A trained vector adds nothing to what a linear probe reads."""
    return _gain(
        "probe",
        "The best prefix of one vector adds less than one point to what a linear probe reads of "
        "the downward answer from the residual stream of the sorter.",
        "below",
        np.subtract(with_prefix, without),
        test_sequences,
        requires,
    )


def built_probe_gain(
    without: Sequence[float],
    with_prefix: Sequence[float],
    test_sequences: int,
    requires: Sequence[claims.Claim] = (),
) -> claims.Claim:
    """Nor does the best table."""
    return _gain(
        "built-probe",
        "The prefix built from the best table adds less than one point to what a linear probe "
        "reads there.",
        "below",
        np.subtract(with_prefix, without),
        test_sequences,
        requires,
    )


def _gain(
    name: str,
    sentence: str,
    side: Literal["above", "below"],
    gains: np.ndarray,
    test_sequences: int,
    requires: Sequence[claims.Claim] = (),
) -> claims.Claim:
    return claims.outcome(
        f"prefix-tuning/new-task-{name}",
        sentence,
        values=gains,
        limit=LIMIT,
        side=side,
        source=HERE,
        checks=stream.probe_accuracy,
        unit="points, % of digits",
        resolution=100 / test_sequences,
        requires=requires,
        note="One point is what we call nothing; the digits of one sequence are not independent, "
        "so the resolution is that of whole sequences.",
    )


def table_of_probes(accuracies: Mapping[str, Sequence[float]]) -> str:
    """Return mean and interval of each model as lines, for print."""
    lines = []
    for name, values in accuracies.items():
        ends = claims.interval(values)
        spread = "" if ends is None else f", 95 % interval {ends[0]:.1f} to {ends[1]:.1f}"
        lines.append(f"{name:24}{np.mean(values):6.1f} % of digits{spread}")
    return "\n".join(lines)


check_public(__name__)

"""How much of the answer can be read where the sorter of "A new task" writes it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from promptlib import claims
from promptlib.prefix_tuning.experiment_results import HERE


def probe_gain(without: Sequence[float], with_prefix: Sequence[float]) -> claims.Claim:
    """A trained vector adds nothing to what a linear probe reads.

    Parameters
    ----------
    without, with_prefix : sequences of float
        From `new_task_stream.probe_accuracy`, one for each seed.
    """
    return _gain("new-task-probe", "best prefix of one vector", without, with_prefix)


def built_probe_gain(without: Sequence[float], with_prefix: Sequence[float]) -> claims.Claim:
    """Nor does the best table; parameters as in `probe_gain`."""
    return _gain("new-task-built-probe", "prefix built from the best table", without, with_prefix)


def _gain(
    name: str, which: str, without: Sequence[float], with_prefix: Sequence[float]
) -> claims.Claim:
    return claims.outcome(
        f"prefix-tuning/{name}",
        f"The {which} adds nothing to what a linear probe reads of the downward answer from the "
        "residual stream of the sorter, compared with no prefix; the difference.",
        values=np.subtract(with_prefix, without),
        source=HERE,
        checks="promptlib.prefix_tuning.new_task_stream.probe_accuracy",
        unit="% of digits",
        favours="lower",
        refuted_if=(">", 1.0),
    )


def table_of_probes(accuracies: Mapping[str, Sequence[float]]) -> str:
    """Return mean and interval of each model as lines, for print."""
    lines = []
    for name, values in accuracies.items():
        half = claims.t_half_width(values)
        spread = "" if half is None else f" ± {half:.1f}"
        lines.append(f"{name:34}{np.mean(values):6.1f}{spread} % of digits")
    return "\n".join(lines)

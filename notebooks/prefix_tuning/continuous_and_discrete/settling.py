"""Does the place of a learned vector belong to its string, or to the size of the steps?

Adam moves every coordinate by about the learning rate in an update, however small the gradient is.
So the same strings are forced once more with several learning rates, from the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from notebooks.prefix_tuning.continuous_and_discrete.forcing import force
from notebooks.prefix_tuning.continuous_and_discrete.pretraining import load_model
from promptlib.runs import Result
from promptlib.training import Progress, Recipe


def settle_at_rates(
    config: Mapping[str, Any], needs: Sequence[Result], progress: Progress
) -> Result:
    """Force the strings of a run `settle` again, one vector each, with each of the rates.

    Every vector starts at the token after which its string is likeliest, and stops at the same
    margin.
    """
    model, settled = load_model(config, needs[0]), needs[1]
    strings, rates = settled.tensors["strings"], torch.tensor(config["rates"])
    start = model.token(settled.tensors["best_token"]).unsqueeze(1)
    together = len(rates) * len(strings)
    forced = force(
        model,
        strings.repeat(len(rates), 1),
        start.repeat(len(rates), 1, 1),
        rates.repeat_interleave(len(strings)),
        torch.full((together,), True),
        Recipe(config["steps"], 0),
        stop_margin=config["stop_margin"],
        label=f"one vector, {len(rates)} learning rates",
        progress=progress,
    )
    shape = (len(rates), len(strings))
    return Result(
        {"rates": list(config["rates"]), "steps": forced.steps.view(shape).tolist()},
        {"vectors": forced.vectors.view(*shape, -1)},
    )

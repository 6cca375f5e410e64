"""What do the runs of the chapter "When does a prompt beat fine-tuning?" say, and does the layer
contain the prompt?

The claims of that chapter are decided on the numbers that these functions make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notebooks.prompt_attention.prompt_or_finetune.attention_layer import (
    LayerWeights,
    containing_layer,
    layer_scores,
)
from notebooks.prompt_attention.prompt_or_finetune.plan import FewSamplesPlan
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention.models import prompt_attention

__all__ = [
    "attention_learned",
    "containment_errors",
    "layer_catches_up",
    "mean_over",
    "prompt_wins_on_few",
]

TRAINING = "notebooks.prompt_attention.prompt_or_finetune.training.train_few_samples"
Errors = Mapping[str, NDArray[np.float64]]
"""Test errors by learner, in [0, 1]: arrays of shape (seeds, len(plan.sizes))."""


def containment_errors(
    instances: int,
    generator: torch.Generator,
    *,
    construct: Callable[[Tensor, Tensor], LayerWeights] = containing_layer,
) -> Tensor:
    """Differences between prompt-attention and the layer that is built to equal it.

    Shape (instances, 3).
    """
    rows = []
    for _ in range(instances):
        w, q = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        tokens = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
        rows.append(layer_scores(tokens, construct(w, q)) - prompt_attention(tokens, w, q))
    return torch.stack(rows)


def mean_over(
    plan: FewSamplesPlan, errors: NDArray[np.float64], sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Mean error over some numbers of bags, one value for each seed.

    Shapes: errors (seeds, len(plan.sizes)) -> (seeds,).
    """
    if not sizes:
        raise ValueError("sizes is empty; give at least one size of the plan")
    missing = [size for size in sizes if size not in plan.sizes]
    if missing:
        raise ValueError(f"size {missing[0]} is not in the plan; it has {plan.sizes}")
    columns = [plan.sizes.index(size) for size in sizes]
    return np.asarray(errors, dtype=np.float64)[:, columns].mean(axis=1)


def attention_learned(plan: FewSamplesPlan, errors: Errors, pooled: float) -> Claim:
    """Control: with the most bags, prompt and layer both use attention."""
    worse = np.maximum(*(_at_most_bags(plan, errors, name) for name in ("prompt", "layer")))
    return claims.outcome(
        "prompt-attention/both-learn-attention",
        f"With {max(plan.sizes):,} bags the worse of prompt and whole layer makes fewer mistakes "
        f"than the {100 * pooled:.1f} % of the best head on mean pooling.",
        values=100 * worse,
        limit=100 * pooled,
        side="below",
        trials=_test_bags(plan),
        unit="% of test bags",
        source="this book",
        checks=TRAINING,
        note="a control: a comparison with a learner that never learns says nothing",
    )


def layer_catches_up(plan: FewSamplesPlan, errors: Errors, control: Claim) -> Claim:
    """The layer against the prompt with the most bags; the control is `attention_learned`."""
    bags, dim = max(plan.sizes), _dim(plan)
    return claims.outcome(
        "prompt-attention/layer-catches-up",
        f"With {bags / dim:g} bags per dimension the test error of the whole layer is less than "
        "one percentage point above that of prompt and head.",
        values=100 * (_at_most_bags(plan, errors, "layer") - _at_most_bags(plan, errors, "prompt")),
        limit=1.0,
        side="below",
        resolution=100 / _test_bags(plan),
        requires=[control],
        unit="percentage points more",
        source="this book",
        checks=TRAINING,
        note="one point is this book's measure of as good",
    )


def prompt_wins_on_few(
    plan: FewSamplesPlan, errors: Errors, window: Sequence[int], control: Claim
) -> Claim:
    """The prompt against the layer, averaged over a window of sizes."""
    prompt, layer = (mean_over(plan, errors[name], window) for name in ("prompt", "layer"))
    return claims.outcome(
        "prompt-attention/prompt-wins-on-few-bags",
        f"Between {min(window) / _dim(plan):g} and {max(window) / _dim(plan):g} bags per "
        "dimension prompt and head make fewer mistakes than the whole layer, tuned as widely: the "
        "difference of the mean test errors is above zero.",
        values=100 * (layer - prompt),
        limit=0.0,
        side="above",
        resolution=100 / _test_bags(plan),
        requires=[control],
        unit="percentage points fewer",
        source="this book",
        checks=TRAINING,
        note="the window of bags was chosen after the first runs, as the sizes at which the prompt "
        "is being found",
    )


def _at_most_bags(plan: FewSamplesPlan, errors: Errors, name: str) -> NDArray[np.float64]:
    return mean_over(plan, errors[name], [max(plan.sizes)])


def _test_bags(plan: FewSamplesPlan) -> int:
    return int(next(iter(plan)).config["test_bags"])


def _dim(plan: FewSamplesPlan) -> int:
    return int(next(iter(plan)).config["mixture"]["dim"])


check_public(__name__)

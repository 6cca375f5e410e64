"""What do the runs say of prompt and layer, and does the layer contain the prompt?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notebooks.prompt_attention.prompt_or_finetune.attention_layer import (
    LayerWeights,
    containing_layer,
    layer_scores,
)
from promptlib.prefix_tuning.trials import Trials
from promptlib.prompt_attention.models import prompt_attention


def containment_errors(
    instances: int,
    generator: torch.Generator,
    construct: Callable[[Tensor, Tensor], LayerWeights] = containing_layer,
) -> Tensor:
    """Differences between prompt-attention and the layer that is built to equal it: (instances, 3).

    Heads, prompts and tokens are standard normal, of width 5, with 3 bags of 7 tokens each.
    """
    rows = []
    for _ in range(instances):
        w, q = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        tokens = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
        rows.append(layer_scores(tokens, construct(w, q)) - prompt_attention(tokens, w, q))
    return torch.stack(rows)


def errors(trials: Trials, learner: str, weight_decay: float | None = None) -> NDArray[np.float64]:
    """Test errors in [0, 1] of what validation chose, of all settings or of one weight decay alone.

    One row for each seed, one column for each size.
    """
    tables = [
        trial.metrics["chosen"]
        if weight_decay is None
        else trial.metrics["by_weight_decay"][f"{weight_decay:g}"]
        for trial in trials.where(learner=learner)
    ]
    return np.array([[row["test_error"] for row in rows] for rows in tables])


def mean_over(
    sizes: Sequence[int], errors: NDArray[np.float64], wanted: Sequence[int]
) -> NDArray[np.float64]:
    """Mean error over some of the sizes, one value for each row."""
    if not wanted:
        raise ValueError("give at least one size to average over")
    missing = [size for size in wanted if size not in sizes]
    if missing:
        raise ValueError(f"size {missing[0]} is not in the plan; it has {tuple(sizes)}")
    return errors[:, [list(sizes).index(size) for size in wanted]].mean(axis=1)


class Compared(NamedTuple):
    """Prompt and whole layer on the same bags: what the claims read."""

    prompt: NDArray[np.float64]  # test errors in [0, 1], one row for each seed, a column a size
    layer: NDArray[np.float64]
    sizes: Sequence[int]
    window: Sequence[int]  # sizes at which the prompt is being found
    pooled: float  # error of the best head on mean pooling, in [0, 1]
    dim: int
    test_bags: int

    def excess(self, sizes: Sequence[int]) -> NDArray[np.float64]:
        """Error of the layer above that of the prompt, in percentage points."""
        layer, prompt = (mean_over(self.sizes, one, sizes) for one in (self.layer, self.prompt))
        return 100 * (layer - prompt)

    @property
    def most(self) -> int:
        """The largest number of bags."""
        return max(self.sizes)

    @property
    def worse(self) -> NDArray[np.float64]:
        """The worse of the two with the most bags, in percent."""
        both = (mean_over(self.sizes, one, [self.most]) for one in (self.prompt, self.layer))
        return 100 * np.maximum(*both)

"""What do the runs of the chapter "When does a prompt beat fine-tuning?" say, and does the layer
contain the prompt?

The claims of that chapter are decided on the numbers that these functions make.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from promptlib.prompt_attention.attention_layer import LayerWeights, containing_layer, layer_scores
from promptlib.prompt_attention.few_samples import FewSamplesPlan
from promptlib.prompt_attention.models import prompt_attention

__all__ = ["containment_errors", "mean_over"]


def containment_errors(
    instances: int,
    generator: torch.Generator,
    *,
    construct: Callable[[Tensor, Tensor], LayerWeights] = containing_layer,
) -> Tensor:
    """Differences between prompt-attention and the layer that is built to equal it.

    Parameters
    ----------
    instances : int
        Random heads, prompts and bags of standard normal tokens; width 5, 7 tokens, 3 bags each.
    generator : torch.Generator
    construct : callable
        Turns a head and a prompt into the weights of a layer.

    Returns
    -------
    Tensor, shape (instances, 3)
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

    Parameters
    ----------
    plan : FewSamplesPlan
    errors : array, shape (seeds, len(plan.sizes))
    sizes : sequence of int
        Which sizes to average over; at least one, all of them in the plan.

    Returns
    -------
    array, shape (seeds,)

    Raises
    ------
    ValueError
        If no size is given, or one is not in the plan.
    """
    if not sizes:
        raise ValueError("sizes is empty; give at least one size of the plan")
    missing = [size for size in sizes if size not in plan.sizes]
    if missing:
        raise ValueError(f"size {missing[0]} is not in the plan; it has {plan.sizes}")
    columns = [plan.sizes.index(size) for size in sizes]
    return np.asarray(errors, dtype=np.float64)[:, columns].mean(axis=1)

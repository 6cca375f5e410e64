"""How are many small models trained in the time of one? Their weights are rows of one tensor.

Each row moves as it would alone in `promptlib.training.train`: its own gradient, clipped by its own
norm, its own moments of AdamW without weight decay, and its own learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.training import Recipe, TrainingDiverged, flushed_denormals

__all__ = ["train_rows"]

EPSILON = 1e-8
"""What keeps AdamW from dividing by zero."""


@flushed_denormals()
def train_rows(
    weights: Sequence[Tensor],
    learning_rates: Tensor,
    losses: Iterable[Callable[[], Tensor]],
    recipe: Recipe,
) -> None:
    """Minimise the loss of each row, in place.

    Shapes: weights (*rows, ...) each, with a gradient; learning_rates (*rows). Each of `losses`,
    one for each step, returns (*rows), and the loss of a row depends on no other row's weights.

    Raises
    ------
    TrainingDiverged
        If a loss is not finite.
    ValueError
        If the recipe asks for weight decay.
    """
    if recipe.weight_decay:
        raise ValueError(f"rows are trained without weight decay, got {recipe.weight_decay}")
    rows = learning_rates.shape
    first, second = recipe.betas
    means, squares = ([torch.zeros_like(part) for part in weights] for _ in range(2))
    for step, loss in enumerate(losses):
        now = loss()
        if not now.isfinite().all():
            rate = float(learning_rates[~now.isfinite()][0])
            raise TrainingDiverged(
                f"a loss is not finite at step {step} of {recipe.steps}, with learning rate "
                f"{rate:g}; lower the learning rate"
            )
        gradients = torch.autograd.grad(now.sum(), list(weights))
        norm = torch.stack([part.reshape(*rows, -1).norm(dim=-1) for part in gradients]).norm(dim=0)
        kept = (recipe.clip_norm / (norm + 1e-6)).clamp_max(1.0)
        stride = learning_rates * recipe.schedule(step) / (1 - first ** (step + 1))
        with torch.no_grad():
            for part, gradient, mean, square in zip(
                weights, gradients, means, squares, strict=True
            ):
                wide = (*rows, *(1,) * (part.dim() - len(rows)))
                clipped = gradient * kept.reshape(wide)
                mean.lerp_(clipped, 1 - first)
                square.mul_(second).addcmul_(clipped, clipped, value=1 - second)
                size = (square / (1 - second ** (step + 1))).sqrt_().add_(EPSILON)
                part -= stride.reshape(wide) * mean / size


check_public(__name__)

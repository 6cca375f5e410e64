r"""How far can a prefix move in the training it is given?

Adam divides by the size of the gradients, so how far a parameter moves depends on the learning rate
and the number of steps, and hardly on the loss. In step :math:`t` each entry moves by
:math:`\eta_t\, |\hat m_t| / (\sqrt{\hat v_t} + \epsilon)` with

.. math::

    \hat m_t = \frac{1 - \beta_1}{1 - \beta_1^t} \sum_{i \le t} \beta_1^{t - i} g_i, \qquad
    \hat v_t = \frac{1 - \beta_2}{1 - \beta_2^t} \sum_{i \le t} \beta_2^{t - i} g_i^2 ,

and by the Cauchy-Schwarz inequality, with :math:`r = \beta_1^2 / \beta_2 < 1`,

.. math::

    \frac{|\hat m_t|}{\sqrt{\hat v_t}} \le B_t = \frac{1 - \beta_1}{1 - \beta_1^t}
    \sqrt{\frac{1 - \beta_2^t}{1 - \beta_2} \cdot \frac{1 - r^t}{1 - r}} .

So an entry travels at most :math:`\sum_t \eta_t B_t`, whatever the gradients are and however they
are clipped. Prefixes have no weight decay. The quotient of that budget and the standard deviation
of the untrained entries tells whether training can leave the start behind at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import generator_for, load_prefix, new_prefix
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trials import Get, Trial
from promptlib.training import Recipe

BETAS = Recipe.betas
"""Of all training in the book."""


def step_bounds(steps: int, betas: tuple[float, float] = BETAS) -> Tensor:
    """Return the largest move of an entry in each step, in units of the rate: :math:`B_t`."""
    beta1, beta2 = betas
    if steps < 1:
        raise ValueError(f"expected steps >= 1, got {steps}")
    if not (0 <= beta1 < 1 and 0 < beta2 < 1 and beta1**2 < beta2):
        raise ValueError(f"expected betas in [0, 1) with betas[0]**2 < betas[1], got {betas}")
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    r = beta1**2 / beta2
    first = (1 - beta1) / (1 - beta1**t)
    second = (1 - beta2**t) / (1 - beta2)
    return first * (second * (1 - r**t) / (1 - r)).sqrt()


def budget(
    learning_rate: float, steps: int, warmup: int, betas: tuple[float, float] = BETAS
) -> float:
    """Return how far an entry can travel in a training run with this highest learning rate."""
    if not learning_rate > 0:
        raise ValueError(f"expected learning_rate > 0, got {learning_rate}")
    recipe = Recipe(steps, warmup)
    schedule = torch.tensor([recipe.schedule(step) for step in range(steps)], dtype=torch.float64)
    return learning_rate * float((schedule * step_bounds(steps, betas)).sum())


def budget_of(trial: Trial) -> float:
    """Return the budget of one prefix of a sweep."""
    config = trial.run.config
    return budget(trial.learning_rate, config["steps"], config["warmup"])


@torch.no_grad()
def moves(trial: Trial, get: Get) -> Tensor:
    """Return how far each learned entry has moved from its start.

    The start of a prefix is drawn again from its seed; weights start from those of the run that
    fine-tuning needs.
    """
    config, result = trial.run.config, get(trial.run)
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    if trial.cell is not None:
        before = dict(start(config, trial.cell).named_parameters())
        after = dict(load_prefix(config, result, trial.cell).named_parameters())
    else:
        before, after = dict(get(trial.run.needs[0]).tensors), dict(result.tensors)
    return torch.cat([(after[name] - before[name]).abs().flatten() for name in before])


def start(config: Mapping[str, Any], index: int) -> Prefix:
    """Draw the untrained prefix of a cell again."""
    generator = generator_for(config, "prefix")
    for cell in config["cells"][: index + 1]:
        prefix = new_prefix(config, cell["init_std"], generator)
    return prefix


check_public(__name__)

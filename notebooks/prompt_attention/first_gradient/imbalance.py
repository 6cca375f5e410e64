r"""What if the labels of a step do not balance? The head then learns the context, too.

With a fixed prompt along :math:`q_\star` the head of the third step is
:math:`w_2 = \frac\eta n\sum_i y_i v_i`. Its mean given the labels is
:math:`\eta E[A]\,(w_\star + \bar y\, q_\star)`, with :math:`\bar y` the mean label of the sample:
the context, which every relevant token carries, is cancelled only on average. On a fresh bag the
score is proportional to :math:`y W^2 + \bar y Q^2`, so when :math:`|\bar y| Q^2 > W^2` one of the
two labels is wrong, however many dimensions there are. An intercept, or labels with their mean
subtracted, removes it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.sampled_descent import MEMORY_LIMIT, batches

__all__ = ["imbalance_failure", "measured_imbalance_failure"]


def imbalance_failure(
    n: Tensor | int, context_norm: Tensor | float, signal_norm: Tensor | float
) -> Tensor:
    r"""The probability that a head step on `n` bags fails for its labels alone.

    .. math:: P\bigl(|\bar y| > W^2/Q^2\bigr), \qquad n\,\tfrac{1+\bar y}{2} \sim
              \operatorname{Binomial}(n, \tfrac12)

    about :math:`2\Phi(-\sqrt n\, W^2/Q^2)`: the bags needed grow like :math:`(Q/W)^4`. Core model,
    :math:`\rho = 0`, attention noise neglected. Source: this book.
    """
    from scipy.special import betainc  # not scipy.stats: that takes much longer to import

    count, norm_q, norm_w = (
        np.asarray(value, dtype=np.float64) for value in (n, context_norm, signal_norm)
    )
    for name, value in (("n", count), ("context_norm", norm_q), ("signal_norm", norm_w)):
        if not (np.isfinite(value).all() and (value > 0).all()):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    limit = (norm_w / norm_q) ** 2
    # Fewer than so many bags of the rarer label, strictly.
    rarer = np.ceil(count * (1 - limit) / 2 - 1e-12) - 1
    k = np.maximum(rarer, 0.0)
    share = np.where(rarer < 0, 0.0, betainc(count - k, k + 1, 0.5))  # of a binomial law, up to k
    return torch.as_tensor(np.minimum(1.0, 2 * share))


def measured_imbalance_failure(
    mixture: ContextualMixture,
    scale: float,
    n: int,
    runs: int,
    generator: torch.Generator,
    test_bags: int = 400,
    memory_limit: int = MEMORY_LIMIT,
) -> Tensor:
    """In which runs a head step with the prompt κ q* gets one of the two labels wrong: (runs,).

    That is, more than half of the fresh bags of one label.
    """
    prompt = scale * mixture.context

    def features(tokens: Tensor) -> Tensor:  # (n, T, d) -> (n, d)
        weights = torch.softmax(tokens @ prompt, dim=1)
        return (weights[:, None] @ tokens)[:, 0]

    # At w = 0 a head step is the mean of label times feature.
    signed = [
        bags.labels[:, None] * features(bags.tokens)
        for bags in batches(mixture, runs * n, generator, memory_limit)
    ]
    heads = torch.cat(signed).view(runs, n, mixture.dim).mean(1)
    fresh = mixture.sample(test_bags, generator)
    wrong = (heads @ features(fresh.tokens).T) * fresh.labels <= 0  # (runs, test_bags)
    by_label = [wrong[:, fresh.labels == label].double().mean(1) for label in (1.0, -1.0)]
    return torch.maximum(*by_label) > 0.5


check_public(__name__)

r"""How good can it get, and how bad? What bounds the price of the head, and its simplest head.

``informed_error``
    Bayes: the best that can be learned from the features, even by somebody who is told signal
    ``x`` and noise :math:`\tau` of every sample. With :math:`w_\star` uniformly distributed in
    direction, the posterior is symmetric about :math:`m = \sum_i x_i u_i/\tau_i^2` and falls away
    from it, so the best prediction is the sign of :math:`\langle m, v\rangle`; its error is

    .. math::

        E\,\Phi\!\left(-\frac x\tau \frac{r}{\sqrt{r^2+1/\alpha}}\right),
        \qquad r^2 = E[x^2/\tau^2].

``hard_attention_error``
    An endlessly long prompt, :math:`\kappa\to\infty`: attention falls on the relevant tokens if all
    irrelevant ones have a smaller product with :math:`q_\star`, and on a single irrelevant one
    otherwise. Every sensible head then errs with probability
    :math:`\frac12\big(1-\Phi(Q/\sigma)^{T-m}\big)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import as_parameters, relevant_counts
from promptlib.prompt_attention.feature_law import FeatureLaw
from promptlib.prompt_attention.ridge_head import aligned_error, averaging_cosine

__all__ = ["averaging_error", "hard_attention_error", "informed_error", "known_head_error"]


def informed_error(law: FeatureLaw, samples_per_dim: float | Tensor) -> Tensor:
    r"""The smallest error of any head learned from features; see the top of this module.

    Shape (...).
    """
    (alpha,) = as_parameters(samples_per_dim=samples_per_dim)
    squared = (law.signal / law.noise).square().mean(-1)  # r²
    return aligned_error(law, (squared / (squared + alpha.reciprocal())).sqrt())


def hard_attention_error(
    tokens: int,
    *,
    sparsity: float | Tensor,
    context_norm: float | Tensor,
    noise_std: float | Tensor,
) -> Tensor:
    r"""Error of every head that points along :math:`w_\star` at all, as :math:`\kappa\to\infty`."""
    share, context, sigma = as_parameters(
        sparsity=sparsity, context_norm=context_norm, noise_std=noise_std
    )
    irrelevant = tokens - relevant_counts(share, tokens)
    all_below = torch.special.log_ndtr(context / sigma) * irrelevant
    return -0.5 * torch.special.expm1(all_below)


def averaging_error(law: FeatureLaw, samples_per_dim: float | Tensor) -> Tensor:
    """Test error of the plain average of the labelled features, an endless ridge; (...)."""
    return aligned_error(law, averaging_cosine(law, samples_per_dim))


def known_head_error(law: FeatureLaw) -> Tensor:
    r"""Test error of the head :math:`w_\star` itself, :math:`E\,\Phi(-x/\tau)`, shape (...).

    No function of the projected feature does better: its two class densities differ by the factor
    :math:`e^{2x\langle v, w_\star\rangle/(W\tau^2)}` for every :math:`(x, \tau)`, so the likelier
    class is the sign of :math:`\langle v, w_\star\rangle`.
    """
    return torch.special.ndtr(-law.signal / law.noise).mean(-1)


check_public(__name__)

r"""What does the head cost when every bag is read equally well? Closed forms, and the best prompt.

With many tokens the signal ``x`` and the noise :math:`\tau` of a feature are nearly the same for
every bag, and the error depends on their ratio ``R`` alone:

.. math::

    R^2 = T\,\frac{W^2}{\sigma^2}\,\frac{\zeta^2}{1-\zeta}\,
          e^{2\kappa Q^2 - 2\kappa^2 Q^2\sigma^2},
    \qquad
    \begin{aligned}
    \text{averaging}     &: \Phi\big(-R^2/\sqrt{R^2+1/\alpha}\big) \\
    \text{least squares} &: \Phi\big(-R^2\sqrt{1-\min(\alpha,1/\alpha)}/\sqrt{R^2+1/\alpha}\big) \\
    \text{known head}    &: \Phi(-R).
    \end{aligned}

The exponent is a parabola in the prompt's scale: its top is at :math:`\kappa = 1/(2\sigma^2)`, and
there :math:`R^2` is :math:`e^{Q^2/(2\sigma^2)}` times that of mean pooling, :math:`\kappa = 0`. The
mass on the relevant tokens is largest at :math:`1/\sigma^2`, twice as far out, where :math:`R^2` is
back at its value for mean pooling. After Oymak et al. 2023, contribution (3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import as_parameters
from promptlib.prompt_attention.feature_law import FeatureLaw

__all__ = [
    "best_scale",
    "concentrated_averaging_error",
    "concentrated_known_error",
    "concentrated_law",
    "concentrated_least_squares_error",
    "context_gain",
    "signal_to_noise",
]


def best_scale(noise_std: float | Tensor) -> Tensor:
    r"""The prompt scale of the smallest error for many tokens, :math:`1/(2\sigma^2)`."""
    (sigma,) = as_parameters(noise_std=noise_std)
    return 0.5 / sigma.square()


def context_gain(context_norm: float | Tensor, noise_std: float | Tensor) -> Tensor:
    r"""How many times larger the best prompt makes :math:`R^2`: :math:`e^{Q^2/(2\sigma^2)}`."""
    context, sigma = as_parameters(context_norm=context_norm, noise_std=noise_std)
    return (0.5 * (context / sigma).square()).exp()


def concentrated_law(
    tokens: int | Tensor,
    *,
    sparsity: float | Tensor,
    context_norm: float | Tensor,
    signal_norm: float | Tensor,
    noise_std: float | Tensor,
    scale: float | Tensor,
) -> FeatureLaw:
    r"""The one value that signal and noise take for many tokens.

    .. math::

        x = \frac{W\zeta e^{\kappa Q^2}}{N}, \qquad
        \tau^2 = \frac{\sigma^2 (1-\zeta)}{T}\,\frac{e^{2\kappa^2Q^2\sigma^2}}{N^2}, \qquad
        N = \zeta e^{\kappa Q^2} + (1-\zeta) e^{\kappa^2 Q^2\sigma^2/2}
    """
    count = torch.as_tensor(tokens, dtype=torch.float64)
    if (count < 2).any():
        raise ValueError(f"tokens must be at least 2, got {float(count.min()):g}")
    share, context, signal, sigma, kappa = as_parameters(
        sparsity=sparsity,
        context_norm=context_norm,
        signal_norm=signal_norm,
        noise_std=noise_std,
        scale=scale,
    )
    relevant = share.log() + kappa * context.square()
    spread = (kappa * context * sigma).square()
    irrelevant = (1 - share).log() + 0.5 * spread
    normaliser = torch.logaddexp(relevant, irrelevant)
    x = signal * (relevant - normaliser).exp()
    tau = sigma * (0.5 * ((1 - share) / count).log() + spread - normaliser).exp()
    x, tau = torch.broadcast_tensors(x, tau)
    return FeatureLaw(x[..., None], tau[..., None])


def signal_to_noise(
    tokens: int | Tensor,
    *,
    sparsity: float | Tensor,
    context_norm: float | Tensor,
    signal_norm: float | Tensor,
    noise_std: float | Tensor,
    scale: float | Tensor,
) -> Tensor:
    """``R`` for many tokens; parameters and errors as for :func:`concentrated_law`."""
    law = concentrated_law(
        tokens,
        sparsity=sparsity,
        context_norm=context_norm,
        signal_norm=signal_norm,
        noise_std=noise_std,
        scale=scale,
    )
    return (law.signal / law.noise)[..., 0]


def concentrated_known_error(signal_to_noise: float | Tensor) -> Tensor:
    r"""Error of the known head, :math:`\Phi(-R)`, for ``R`` at least 0."""
    (ratio,) = as_parameters(signal_to_noise=signal_to_noise)
    return torch.special.ndtr(-ratio)


def concentrated_averaging_error(
    signal_to_noise: float | Tensor, samples_per_dim: float | Tensor
) -> Tensor:
    r"""Error of the averaging head, :math:`\Phi(-R^2/\sqrt{R^2+1/\alpha})`."""
    ratio, alpha = as_parameters(signal_to_noise=signal_to_noise, samples_per_dim=samples_per_dim)
    root = (ratio.square() + alpha.reciprocal()).sqrt().clamp_min(1e-300)
    return torch.special.ndtr(-ratio.square() / root)


def concentrated_least_squares_error(
    signal_to_noise: float | Tensor, samples_per_dim: float | Tensor
) -> Tensor:
    r"""Error of least squares (minimum norm for :math:`\alpha < 1`); 1/2 at :math:`\alpha = 1`.

    Parameters and result as for :func:`concentrated_averaging_error`.
    """
    ratio, alpha = as_parameters(signal_to_noise=signal_to_noise, samples_per_dim=samples_per_dim)
    root = (ratio.square() + alpha.reciprocal()).sqrt().clamp_min(1e-300)
    kept = (1 - torch.minimum(alpha, alpha.reciprocal())).sqrt()
    return torch.special.ndtr(-ratio.square() * kept / root)


check_public(__name__)

"""Where does the first prompt point after a long step of the head, under either loss?"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mass import _number
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = ["critical_step", "logistic_prompt_coefficient"]


def critical_step(
    sparsity: Tensor | float,
    signal_norm: Tensor | float,
    noise_std: Tensor | float,
    tokens: Tensor | int,
) -> Tensor:
    r"""The head step beyond which the first prompt points away from the context, squared loss.

    .. math:: \eta_{\text{crit}} = \frac{1}{\zeta\,(\zeta W^2 - \sigma^2/T)}
              \quad\text{if } \zeta W^2 > \sigma^2/T, \text{ else } \infty

    Core model, :math:`\rho = 0`. The longest prompt comes at half of it. Source: this book.

    Parameters and errors as for :func:`first_prompt_coefficients`.
    """
    share = _number("sparsity", sparsity, above=0.0, below=1.0)
    norm_w = _number("signal_norm", signal_norm, above=0.0)
    count = _number("tokens", tokens, above=1.0)
    net = share * norm_w**2 - _number("noise_std", noise_std) ** 2 / count
    return torch.where(net > 0, 1 / (share * net.clamp_min(1e-300)), torch.inf)


def logistic_prompt_coefficient(
    mixture: ContextualMixture, eta: Tensor | float, nodes: int = 64
) -> Tensor:
    r"""The first prompt under logistic loss, along the context, for a prompt step size of one.

    The head is :math:`w_1 = c w_\star` with :math:`c = \frac\eta2 E\alpha_w`. With the logistic
    function ``S`` and, in each case, :math:`Z \sim N\bigl(c\,\alpha_w W^2,\; c^2 (1-\zeta) W^2
    \sigma^2/T\bigr)`, the signed score of a bag,

    .. math:: q_1 = \gamma\, c\,\zeta(1-\zeta) W^2\,
              E_\delta\Bigl[\beta_q \bigl(\beta_w E\,S(-Z) + \tfrac{c\sigma^2}{T} E\,S'(Z)\bigr)
              \Bigr]\, q_\star .

    In the core model both terms are positive for every step size: logistic loss cannot turn the
    prompt around. Assumes :math:`\rho = 0`. Source: this book.

    Shape of `eta`.
    """
    if mixture.cosine != 0:
        raise ValueError(
            f"the formula for logistic loss needs cosine=0, got {mixture.cosine}; "
            f"measure it with three_step_descent(..., loss='logistic')"
        )
    eta = _number("eta", eta)
    share, norm, std = mixture.sparsity, mixture.signal_norm, mixture.noise_std
    table, weights = mixture.deviation_table.double(), mixture.deviation_probabilities.double()
    alpha_w = share - (1 - share) * table[:, 1]
    c = eta * (weights * alpha_w).sum() / 2
    grid, mass = _gauss_hermite(nodes)
    scores = (c[..., None] * alpha_w * norm**2)[..., None] + (
        c.abs() * norm * std * (1 - share) ** 0.5 / mixture.tokens**0.5
    )[..., None, None] * grid  # (..., k, nodes)
    doubt = (torch.sigmoid(-scores) * mass).sum(-1)
    slope = (torch.sigmoid(scores) * torch.sigmoid(-scores) * mass).sum(-1)
    per_case = (1 + table[:, 0]) * (
        (1 + table[:, 1]) * doubt + (c * std**2 / mixture.tokens)[..., None] * slope
    )
    return c * share * (1 - share) * norm**2 * (weights * per_case).sum(-1)


def _gauss_hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the mean over a standard normal variable."""
    from numpy.polynomial.hermite_e import hermegauss

    grid, weights = hermegauss(nodes)
    return torch.as_tensor(grid), torch.as_tensor(weights / weights.sum())


check_public(__name__)

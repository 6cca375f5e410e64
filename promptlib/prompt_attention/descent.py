r"""How far do three steps of gradient descent get, from nothing? Result A2.

After Oymak et al. 2023, contribution (2). The model is prompt-attention
:math:`f(X) = \langle w, X^\top \varphi(Xq) \rangle` on a contextual mixture, the loss
:math:`L(w, q) = \frac{1}{2n}\sum_i (y_i - f(X_i))^2`, the start :math:`w = q = 0`, and every step
sees fresh samples:

.. math::

    w_1 = -\eta \nabla_w L(0, 0), \qquad
    q_1 = -\gamma \nabla_q L(w_1, 0), \qquad
    w_2 = -\eta \nabla_w L(0, q_1).

For the core model with :math:`q_\star \perp w_\star` and infinitely many samples,

.. math::

    w_1 = \eta\zeta\, w_\star, \qquad
    q_1 = \gamma\, c\, \zeta(1-\zeta) W^2 \Bigl[1 - c\bigl(\zeta W^2 - \tfrac{\sigma^2}{T}\bigr)
          \Bigr] q_\star \quad (c = \eta\zeta), \qquad
    w_2 = \eta\, E[A]\, w_\star ,

where ``A`` is the attention on the relevant tokens (:mod:`promptlib.prompt_attention.mass`). The
functions below hold for any deviations and any cosine.

The same steps on samples are in :mod:`promptlib.prompt_attention.sampled_descent`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from promptlib.checks import check_public, same_kind, shape_of
from promptlib.prompt_attention.bag_moments import cases
from promptlib.prompt_attention.mass import _number, attention_moments, limiting_masses
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = [
    "first_head_gain",
    "first_prompt_coefficients",
    "population_descent",
    "population_head",
]

Loss = Literal["squared", "logistic"]


def first_head_gain(
    sparsity: Tensor | float, mean_signal_deviation: Tensor | float = 0.0
) -> Tensor:
    r"""How much of the signal the first head gradient sees.

    .. math:: w_1 = \eta\, a\, w_\star, \qquad a = \zeta - (1-\zeta)\, E\delta_w

    Any cosine. It vanishes at :math:`E\delta_w = \zeta/(1-\zeta)`, where mean pooling fails too,
    and is negative beyond. Source: this book, after Oymak et al. 2023, contribution (2).

    Parameters
    ----------
    sparsity : Tensor or float
        ζ, in (0, 1).
    mean_signal_deviation : Tensor or float
        The mean of δw.

    Returns
    -------
    Tensor
        ``a``, of the broadcast shape.

    Raises
    ------
    ValueError
        If a sparsity lies outside (0, 1) or a number is not finite.
    """
    share = _number("sparsity", sparsity, above=0.0, below=1.0)
    return share - (1 - share) * _number("mean_signal_deviation", mean_signal_deviation)


def first_prompt_coefficients(
    *,
    eta: Tensor | float,
    sparsity: Tensor | float,
    tokens: Tensor | int,
    context_norm: Tensor | float = 1.0,
    signal_norm: Tensor | float = 1.0,
    noise_std: Tensor | float = 0.0,
    cosine: Tensor | float = 0.0,
    deviations: Tensor | None = None,
    probabilities: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The first prompt in the plane of context and signal, for a prompt step size of one.

    With :math:`p = \langle q_\star, w_\star\rangle = \rho QW`, :math:`\alpha_\bullet = \zeta -
    (1-\zeta)\delta_\bullet`, :math:`\beta_\bullet = 1 + \delta_\bullet` and :math:`c = \eta\,
    E\alpha_w`, the population step is :math:`q_1 = \gamma (k_q q_\star + k_w w_\star)` with

    .. math::

        k_q &= c\,\zeta(1-\zeta) \Bigl\{ W^2 E[\beta_q\beta_w]
            - c \bigl( p^2 E[\alpha_q\beta_q^2] + W^4 E[\alpha_w\beta_w\beta_q]
            - \tfrac{\sigma^2}{T} W^2 E\beta_q \bigr) \Bigr\} \\
        k_w &= c\,(1-\zeta)\, p \Bigl\{ \zeta E[\beta_q\beta_w]
            - c \bigl( \zeta W^2 E[\beta_w(\alpha_q\beta_w + \alpha_w\beta_q)]
            + \sigma^2(1-\tfrac1T) E\alpha_q - \tfrac{\sigma^2}{T}\zeta E\beta_q \bigr) \Bigr\}.

    At :math:`\rho = 0` the second vanishes: the prompt points along the context, whatever the
    deviations. In the core model :math:`k_q = c\zeta(1-\zeta)W^2[1 - c(\zeta W^2 - \sigma^2/T)]`.
    Source: this book, after Oymak et al. 2023, contribution (2).

    Parameters
    ----------
    eta : Tensor or float
        Step size of the head.
    sparsity, tokens, context_norm, signal_norm, noise_std, cosine : Tensor or number
        As in :class:`ContextualMixture`; everything broadcasts.
    deviations : Tensor, shape (..., k, 2), optional
        The values of (δq, δw); (0, 0) by default.
    probabilities : Tensor, shape (..., k), optional
        Equally likely by default.

    Returns
    -------
    (Tensor, Tensor)
        :math:`k_q, k_w`, of the broadcast shape.

    Raises
    ------
    ValueError
        If a parameter lies outside its range.
    """
    eta = _number("eta", eta)
    share = _number("sparsity", sparsity, above=0.0, below=1.0)
    count = _number("tokens", tokens, above=1.0)
    norm_q = _number("context_norm", context_norm, above=0.0)
    norm_w = _number("signal_norm", signal_norm, above=0.0)
    std = _number("noise_std", noise_std)
    rho = _number("cosine", cosine, above=-1.0, below=1.0)
    if (std < 0).any():
        raise ValueError(f"noise_std must be >= 0, got {float(std.min())}")
    if deviations is None:
        deviations = torch.zeros(1, 2, dtype=torch.float64)
    table = _number("deviations", deviations)
    if table.shape[-1:] != (2,) or table.dim() < 2:
        raise ValueError(f"deviations must have shape (..., k, 2), got {tuple(table.shape)}")
    if (table[..., 0] < 0).any():
        raise ValueError(f"every δq must be >= 0, got {float(table[..., 0].min())}")
    if probabilities is None:
        probabilities = torch.full(table.shape[:-1], 1 / table.shape[-2], dtype=torch.float64)
    weights = _number("probabilities", probabilities)
    if (weights < 0).any() or ((weights.sum(-1) - 1).abs() > 1e-9).any():
        raise ValueError(f"probabilities must be >= 0 and sum to 1, got {weights.tolist()}")

    def mean(values: Tensor) -> Tensor:
        return (weights * values).sum(-1)

    away_q, away_w = table[..., 0], table[..., 1]
    alpha_q = share[..., None] - (1 - share[..., None]) * away_q
    alpha_w = share[..., None] - (1 - share[..., None]) * away_w
    beta_q, beta_w = 1 + away_q, 1 + away_w
    c = eta * mean(alpha_w)
    overlap = rho * norm_q * norm_w  # p
    per_bag = std**2 / count
    both = mean(beta_q * beta_w)
    along_context = (c * share * (1 - share)) * (
        norm_w**2 * both
        - c
        * (
            overlap**2 * mean(alpha_q * beta_q**2)
            + norm_w**4 * mean(alpha_w * beta_w * beta_q)
            - per_bag * norm_w**2 * mean(beta_q)
        )
    )
    along_signal = (c * (1 - share) * overlap) * (
        share * both
        - c
        * (
            share * norm_w**2 * mean(beta_w * (alpha_q * beta_w + alpha_w * beta_q))
            + std**2 * (1 - 1 / count) * mean(alpha_q)
            - per_bag * share * mean(beta_q)
        )
    )
    return along_context, along_signal


def population_descent(
    mixture: ContextualMixture, eta: Tensor | float, gamma: Tensor | float
) -> tuple[Tensor, Tensor]:
    r"""The first two steps with infinitely many samples, squared loss.

    :func:`first_head_gain` and :func:`first_prompt_coefficients` as vectors:

    .. math:: w_1 = \eta a w_\star, \qquad q_1 = \gamma (k_q q_\star + k_w w_\star).

    Parameters
    ----------
    mixture : ContextualMixture
        Any deviations and any cosine.
    eta, gamma : Tensor or float
        Step sizes of head and prompt; they broadcast.

    Returns
    -------
    w1, q1 : Tensor, shape (..., d)
        ``...`` is the broadcast shape of the step sizes.

    Raises
    ------
    ValueError
        If a step size is not finite.

    Examples
    --------
    >>> mixture = ContextualMixture(dim=2, tokens=10, sparsity=0.5, noise_std=1.0)
    >>> w1, q1 = population_descent(mixture, eta=1.0, gamma=1.0)
    >>> w1.tolist(), [round(x, 4) for x in q1.tolist()]  # 0.125 (1 - 0.5 (0.5 - 0.1))
    ([0.0, 0.5], [0.1, 0.0])
    """
    eta, gamma = torch.broadcast_tensors(_number("eta", eta), _number("gamma", gamma))
    table, weights = mixture.deviation_table, mixture.deviation_probabilities
    gain = first_head_gain(mixture.sparsity, (weights * table[:, 1]).sum())
    along_context, along_signal = first_prompt_coefficients(
        eta=eta,
        sparsity=mixture.sparsity,
        tokens=mixture.tokens,
        context_norm=mixture.context_norm,
        signal_norm=mixture.signal_norm,
        noise_std=mixture.noise_std,
        cosine=mixture.cosine,
        deviations=table,
        probabilities=weights,
    )
    context, signal = mixture.context.double(), mixture.signal.double()
    w1 = (eta * gain)[..., None] * signal
    q1 = (gamma * along_context)[..., None] * context + (gamma * along_signal)[..., None] * signal
    return w1.to(mixture.dtype), q1.to(mixture.dtype)


def population_head(
    mixture: ContextualMixture,
    q: Tensor,
    eta: Tensor | float,
    infinite_tokens: bool = False,
    loss: Loss = "squared",
) -> Tensor:
    r"""The third step with infinitely many samples: a head on the features of any prompt.

    With ``A`` the attention on the relevant tokens in a case :math:`(y,\delta)` and
    :math:`s^2` the sum of the squared weights on the others,

    .. math::

        -\eta\nabla_w L(0, q) = \eta\, E\bigl[y X^\top\varphi(Xq)\bigr] = \eta\,
        E_{y,\delta}\, y \bigl[ E[A]\, r + (1 - E[A])\, i + \sigma^2 (1 - E[A] - E[s^2])\, q \bigr].

    The last term is what attention that follows ``q`` picks from the noise (Stein's lemma). For
    :math:`\rho = 0` and ``q`` along the context, ``A`` and ``s`` do not depend on the label and the
    sum is :math:`\eta\,E[A - (1-A)\delta_w]\,w_\star`. Logistic loss halves the step, because its
    slope at zero is 1/2.

    Parameters
    ----------
    mixture : ContextualMixture
        Any deviations and any cosine.
    q : Tensor, shape (..., d)
        Prompts, fixed or drawn independently of the samples of this step.
    eta : Tensor or float
        Step size, of a shape that broadcasts with the leading dimensions of `q`.
    infinite_tokens : bool
        Use the limit of many tokens in place of the exact moments at this number of tokens.
    loss : {"squared", "logistic"}

    Returns
    -------
    Tensor, shape (..., d)
    """
    kinds = cases(mixture)
    shape_of("q", q, ..., mixture.dim, integer=False)
    same_kind("q", q, "the mixture", kinds.difference)
    gap = q @ kinds.difference.T  # (..., P)
    spread = mixture.noise_std * q.norm(dim=-1, keepdim=True)  # (..., 1)
    if infinite_tokens:
        mass = limiting_masses(mixture, q)
        squares = torch.zeros_like(mass)
    else:
        mass, squares = attention_moments(mixture.tokens, mixture.sparsity, gap, spread)
        mass, squares = mass.to(q.dtype), squares.to(q.dtype)
    signs = kinds.probabilities * kinds.labels
    noise = mixture.noise_std**2 * (signs * (1 - mass - squares)).sum(-1, keepdim=True) * q
    head = (signs * mass) @ kinds.relevant + (signs * (1 - mass)) @ kinds.irrelevant + noise
    return _start_slope(loss) * _number("eta", eta)[..., None].to(head.dtype) * head


def _start_slope(loss: Loss) -> float:
    """Minus the slope of the loss at score 0, for a label +1."""
    slopes = {"squared": 1.0, "logistic": 0.5}
    if loss not in slopes:
        raise ValueError(f"loss must be one of {', '.join(slopes)}, got {loss!r}")
    return slopes[loss]


check_public(__name__)

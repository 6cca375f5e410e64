r"""What is left of a bag once a known prompt has read it? Two numbers, for a head of any kind.

Core model, prompt :math:`q = \kappa q_\star`, features :math:`v = X^\top\varphi(Xq)` projected on
the complement of :math:`q_\star`. Given the attention weights :math:`a_t`,

.. math::

    y\,v = A\,w_\star + \tau h, \qquad h \sim N(0, I_{d-1}), \qquad
    A = \sum_{t\in R} a_t, \qquad \tau = \sigma s, \quad s^2 = \sum_{t\notin R} a_t^2,

because the weights depend on the noise only through its component along :math:`q_\star`, and the
rest of the noise is independent of that component. With ``m`` relevant tokens and
:math:`g_t \sim N(0,1)`,

.. math::

    A = \frac{m e^{\kappa Q^2}}{m e^{\kappa Q^2} + S_1}, \quad
    s = \frac{\sqrt{S_2}}{m e^{\kappa Q^2} + S_1}, \qquad
    S_j = \sum_{t=1}^{T-m} e^{j \kappa Q \sigma g_t}.

The formulas of the next modules need the law of the *signal* ``x = A W`` and of the *noise*
:math:`\tau`, held here as equally likely draws. After Oymak et al. 2023, contribution (3).

Shapes in comments: ``...`` cells of a diagram, ``M`` draws.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import as_parameters, relevant_counts, require_core
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = ["DRAWS", "FeatureLaw", "feature_law", "feature_laws", "standard_normals"]

DRAWS = 2**14
"""Most draws that stand for the law of one bag's features."""

NUMBERS = 2**21
"""Most normal numbers behind them (16 MiB): bags of more tokens vary less, and need fewer draws."""

MEMORY_MIB = 128
"""Largest block of logits in memory at once."""

_SMALLEST_SUM = 1e-300
"""Of exponentials relative to the largest one: keeps the logarithm finite."""

_SMALLEST_SPREAD = 1e-12
"""Attention noise below this share of σ changes no error: it is held here to keep 1/τ² finite."""


class FeatureLaw(NamedTuple):
    r"""Equally likely draws of what a head sees.

    Attributes
    ----------
    signal : Tensor, shape (..., M)
        ``x = A W``: the length of the feature along :math:`w_\star`, at least 0.
    noise : Tensor, shape (..., M)
        :math:`\tau = \sigma s`: the standard deviation of every coordinate of the rest, positive.
    """

    signal: Tensor
    noise: Tensor

    def concentrated(self) -> FeatureLaw:
        r"""The law with its randomness removed: :math:`E[x]` and :math:`\sqrt{E[\tau^2]}`."""
        return FeatureLaw(
            self.signal.mean(-1, keepdim=True),
            self.noise.square().mean(-1, keepdim=True).sqrt(),
        )


def feature_law(
    mixture: ContextualMixture,
    scale: float,
    generator: torch.Generator | None = None,
    draws: int | None = None,
) -> FeatureLaw:
    r"""The features of one mixture under the prompt :math:`\kappa q_\star`.

    Parameters
    ----------
    mixture : ContextualMixture
        Core model with noise.
    scale : float
        :math:`\kappa`.
    generator : torch.Generator, optional
        For independent draws. Without one the draws are a fixed scrambled Sobol set, which
        represents the law better and is the same at every call.
    draws : int, optional
        ``M``, at least 1; by default as many as :data:`DRAWS` and :data:`NUMBERS` allow.

    Returns
    -------
    FeatureLaw
        Tensors of shape (M,); without a generator not to be changed in place, since they are kept.

    Raises
    ------
    ValueError
        If the mixture is not the core model, or a number lies outside its range.
    """
    require_core(mixture)
    irrelevant = mixture.tokens - mixture.relevant_tokens
    if draws is None:
        allowed = max(1, min(DRAWS, NUMBERS // irrelevant))
        draws = 1 << (allowed.bit_length() - 1)  # Sobol sets are balanced at powers of two
    if generator is None:
        # The width plays no part.
        return _fixed_law(replace(mixture, dim=2, dtype=torch.float64), float(scale), draws)
    return _law(mixture, scale, standard_normals(draws, irrelevant, generator))


@lru_cache(maxsize=64)  # a quarter of a megabyte each; a formula asks for one law at many ridges
def _fixed_law(mixture: ContextualMixture, scale: float, draws: int) -> FeatureLaw:
    normals = standard_normals(draws, mixture.tokens - mixture.relevant_tokens)
    return _law(mixture, scale, normals)


def _law(mixture: ContextualMixture, scale: float, normals: Tensor) -> FeatureLaw:
    return feature_laws(
        normals,
        mixture.tokens,
        sparsity=mixture.sparsity,
        context_norm=mixture.context_norm,
        signal_norm=mixture.signal_norm,
        noise_std=mixture.noise_std,
        scale=scale,
    )


def standard_normals(draws: int, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers for the irrelevant tokens.

    Parameters
    ----------
    draws, count : int
        Rows and columns, at least 1.
    generator : torch.Generator, optional
        For independent numbers; otherwise the rows are scrambled Sobol points, always the same.

    Returns
    -------
    Tensor, shape (draws, count), float64
    """
    for name, value in (("draws", draws), ("count", count)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if generator is not None:
        return torch.randn(draws, count, generator=generator, dtype=torch.float64)
    return _sobol_normals(draws, count).clone()


@lru_cache(maxsize=1)  # up to 16 MiB
def _sobol_normals(draws: int, count: int) -> Tensor:
    points = torch.quasirandom.SobolEngine(count, scramble=True, seed=1)
    uniform = points.draw(draws, dtype=torch.float64)
    half_step = 2.0**-31  # points are multiples of 2^-30: keep 0 and 1 out
    return torch.special.ndtri(uniform.clamp(half_step, 1 - half_step))


def feature_laws(
    normals: Tensor,
    tokens: int,
    *,
    sparsity: float | Tensor,
    context_norm: float | Tensor,
    signal_norm: float | Tensor,
    noise_std: float | Tensor,
    scale: float | Tensor,
) -> FeatureLaw:
    r"""The features of many mixtures at once, all made from the same normal numbers.

    Sums over the irrelevant tokens of bags with different sparsities share their beginnings, so a
    cumulative sum serves all of them.

    Parameters
    ----------
    normals : Tensor, shape (M, K)
        From :func:`standard_normals`, with ``K`` at least the largest number of irrelevant tokens.
    tokens : int
        ``T``.
    sparsity, context_norm, signal_norm, noise_std, scale : float or Tensor
        :math:`\zeta, Q, W, \sigma, \kappa`; they broadcast to the shape ``...`` of the result.

    Returns
    -------
    FeatureLaw
        Tensors of shape (..., M).

    Raises
    ------
    ValueError
        If a number lies outside its range, or there are too few normals.
    """
    share, context, signal, noise, kappa = torch.broadcast_tensors(
        *as_parameters(
            sparsity=sparsity,
            context_norm=context_norm,
            signal_norm=signal_norm,
            noise_std=noise_std,
            scale=scale,
        )
    )
    relevant = relevant_counts(share, tokens)
    irrelevant = tokens - relevant  # (...)
    if normals.dim() != 2 or normals.shape[1] < int(irrelevant.max()):
        raise ValueError(
            f"normals must have shape (M, K) with K >= {int(irrelevant.max())}, one for each "
            f"irrelevant token; got {tuple(normals.shape)}"
        )
    spread = kappa * context * noise  # (...), the standard deviation of an irrelevant logit
    first, second = _log_sums(normals, spread, irrelevant)  # (..., M): log S1, log S2
    numerator = (relevant.double().log() + kappa * context.square())[..., None]
    normaliser = torch.logaddexp(numerator, first)
    mass = (numerator - normaliser).exp()
    deviation = (0.5 * second - normaliser).exp().clamp_min(_SMALLEST_SPREAD)
    return FeatureLaw(mass * signal[..., None], deviation * noise[..., None])


def _log_sums(normals: Tensor, spread: Tensor, irrelevant: Tensor) -> tuple[Tensor, Tensor]:
    """log of S1 and S2 for every cell, (..., M); each spread and each count is worked out once."""
    spreads, at_spread = torch.unique(spread, return_inverse=True)
    counts, at_count = torch.unique(irrelevant, return_inverse=True)
    longest, draws = int(counts[-1]), normals.shape[0]
    columns = normals[:, :longest].T.contiguous()  # (longest, M)
    cell = at_spread * len(counts) + at_count  # (...), its row in the tables
    first = normals.new_empty(len(spreads), len(counts), draws)
    second = torch.empty_like(first)
    rows = max(1, int(MEMORY_MIB * 2**20 / (8 * columns.numel())))
    for begin in range(0, len(spreads), rows):
        block = slice(begin, begin + rows)
        logits = spreads[block, None, None] * columns  # (rows, longest, M)
        top = logits.amax(1, keepdim=True)
        weights = logits.sub_(top).exp_()
        for power, table in ((1, first), (2, second)):
            values = weights if power == 1 else weights.square_()
            if len(counts) == 1:
                sums = values.sum(1, keepdim=True)
            else:
                sums = values.cumsum(1).index_select(1, counts - 1)
            # A shorter sum may lack the largest term, but never falls below rounding.
            table[block] = sums.clamp_min_(_SMALLEST_SUM).log_().add_(power * top)
    return tuple(
        table.view(-1, draws).index_select(0, cell.flatten()).view(*cell.shape, draws)
        for table in (first, second)
    )  # type: ignore[return-value]


check_public(__name__)

r"""How much does it cost to learn the head when the prompt is known? One number, or a whole map.

The public face of result A3: the law of the features (``feature_law``) put into the formula of the
ridge head (``ridge_head``), with the averaging head as the end :math:`\lambda = \infty` and the
known head as the end :math:`\alpha = \infty`. After Oymak et al. 2023, contribution (3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import as_parameters, relevant_counts
from promptlib.prompt_attention.feature_law import feature_law, feature_laws, standard_normals
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.ridge_head import ridge_error

__all__ = ["MAP_DRAWS", "head_error", "head_error_map"]

MAP_DRAWS = 256
"""Draws for each cell of a map: errors within about 0.005 of those of :func:`head_error`."""

CELL_BLOCK = 2**17
"""Numbers of a block of cells (cells × draws): small enough for a processor's cache."""


def head_error(
    mixture: ContextualMixture,
    scale: float,
    samples_per_dim: float,
    ridge: float,
    generator: torch.Generator | None = None,
) -> float:
    r"""Test error of a ridge head on the features of the known prompt :math:`\kappa q_\star`.

    Parameters
    ----------
    mixture : ContextualMixture
        Core model with noise: one deviation (0, 0), cosine 0.
    scale : float
        :math:`\kappa`.
    samples_per_dim : float
        :math:`\alpha`: labelled bags per dimension of the complement of :math:`q_\star`, positive;
        ``inf`` is the known head.
    ridge : float
        :math:`\lambda \ge 0` in :math:`(\sum v v^\top + n\lambda I)^{-1}\sum y v`; 0 is least
        squares (minimum norm for :math:`\alpha < 1`), ``inf`` is the averaging head.
    generator : torch.Generator, optional
        Draws the law of the attention weights at random; a fixed quasi-random set by default.

    Returns
    -------
    float
        In [0, 1/2]: the limit of the error as ``n`` and ``d`` grow with :math:`\alpha` fixed, at
        the mixture's own number of tokens.

    Raises
    ------
    ValueError
        If the mixture is not the core model with noise, or a number lies outside its range.

    Examples
    --------
    >>> mixture = ContextualMixture(100, 50, 0.2, context_norm=1.5, signal_norm=0.5, noise_std=1.0)
    >>> round(head_error(mixture, 0.5, 2.0, 0.0), 3), round(head_error(mixture, 0.5, 2.0, 0.1), 3)
    (0.182, 0.102)
    """
    return float(ridge_error(feature_law(mixture, scale, generator), samples_per_dim, ridge))


def head_error_map(
    tokens: int,
    *,
    sparsity: float | Tensor,
    context_norm: float | Tensor,
    signal_norm: float | Tensor,
    noise_std: float | Tensor,
    scale: float | Tensor,
    samples_per_dim: float | Tensor,
    ridge: float | Tensor,
    generator: torch.Generator | None = None,
    draws: int = MAP_DRAWS,
) -> Tensor:
    r"""The formula of :func:`head_error` on tensors of parameters: a phase diagram in one call.

    Parameters
    ----------
    tokens : int
        ``T``, the same in all cells.
    sparsity, context_norm, signal_norm, noise_std, scale, samples_per_dim, ridge : float or Tensor
        :math:`\zeta, Q, W, \sigma, \kappa, \alpha, \lambda`; they broadcast.
    generator : torch.Generator, optional
        As for :func:`head_error`. All cells share their draws, so a map has no speckle.
    draws : int
        Draws of the attention weights for each cell.

    Returns
    -------
    Tensor
        Of the broadcast shape.

    Raises
    ------
    ValueError
        If a number lies outside its range.
    """
    parameters = torch.broadcast_tensors(
        *as_parameters(
            sparsity=sparsity,
            context_norm=context_norm,
            signal_norm=signal_norm,
            noise_std=noise_std,
            scale=scale,
            samples_per_dim=samples_per_dim,
            ridge=ridge,
        )
    )
    shape = parameters[0].shape
    share, context, signal, noise, kappa, alpha, lam = (part.flatten() for part in parameters)
    most = tokens - int(relevant_counts(share, tokens).min())
    normals = standard_normals(draws, most, generator)
    # Cells with one spread of logits stay together: their sums over tokens are shared.
    order = (kappa * context * noise).argsort(stable=True)
    errors = torch.empty_like(alpha)
    for cells in order.split(max(1, CELL_BLOCK // draws)):
        law = feature_laws(
            normals,
            tokens,
            sparsity=share[cells],
            context_norm=context[cells],
            signal_norm=signal[cells],
            noise_std=noise[cells],
            scale=kappa[cells],
        )
        errors[cells] = ridge_error(law, alpha[cells], lam[cells])
    return errors.reshape(shape)


check_public(__name__)

r"""What does a head cost that is the plain average of the labelled features?

One gradient step from zero gives :math:`\hat w = \frac1n \sum_i y_i v_i`, up to a factor that no
sign depends on. With signal ``x``, noise :math:`\tau` (module ``feature_law``) and
:math:`\alpha = n/(d-1)`, as ``n`` and ``d`` grow,

.. math::

    \text{error} = E\,\Phi\!\left(-\frac{x}{\tau}\,
        \frac{\bar x}{\sqrt{\bar x^2 + E[\tau^2]/\alpha}}\right), \qquad \bar x = E[x].

The second fraction is the cosine between :math:`\hat w` and :math:`w_\star`; with endless data it
is 1, the head is known, and the error is :math:`E\,\Phi(-x/\tau)`. After Oymak et al. 2023,
contribution (3); proved in the chapter "The exact price of learning the head".
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.core_model import as_parameters
from promptlib.prompt_attention.feature_law import FeatureLaw

__all__ = ["aligned_error", "averaging_cosine", "averaging_error", "known_head_error"]


def aligned_error(law: FeatureLaw, cosine: Tensor) -> Tensor:
    r"""Error of any head whose cosine with :math:`w_\star` is given: :math:`E\,\Phi(-x c/\tau)`.

    Parameters
    ----------
    law : FeatureLaw
        Tensors of shape (..., M).
    cosine : Tensor, shape (...)
        In [-1, 1].

    Returns
    -------
    Tensor, shape (...)
    """
    return torch.special.ndtr(-law.signal / law.noise * cosine[..., None]).mean(-1)


def averaging_cosine(law: FeatureLaw, samples_per_dim: float | Tensor) -> Tensor:
    r"""Cosine between the averaging head and :math:`w_\star`.

    Parameters
    ----------
    law : FeatureLaw
        Tensors of shape (..., M).
    samples_per_dim : float or Tensor
        :math:`\alpha`, positive, inf allowed; broadcasts with ``...``.

    Returns
    -------
    Tensor, shape (...)
    """
    (alpha,) = as_parameters(samples_per_dim=samples_per_dim)
    mean = law.signal.mean(-1)
    return mean / (mean.square() + law.noise.square().mean(-1) / alpha).sqrt()


def averaging_error(law: FeatureLaw, samples_per_dim: float | Tensor) -> Tensor:
    """Test error of the averaging head; see the top of this module.

    Parameters and result as for :func:`averaging_cosine`.
    """
    return aligned_error(law, averaging_cosine(law, samples_per_dim))


def known_head_error(law: FeatureLaw) -> Tensor:
    r"""Test error of the head :math:`w_\star` itself, :math:`E\,\Phi(-x/\tau)`, shape (...).

    No function of the projected feature does better: its two class densities differ by the factor
    :math:`e^{2x\langle v, w_\star\rangle/(W\tau^2)}` for every :math:`(x, \tau)`, so the likelier
    class is the sign of :math:`\langle v, w_\star\rangle`.
    """
    return torch.special.ndtr(-law.signal / law.noise).mean(-1)


check_public(__name__)

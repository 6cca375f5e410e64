r"""What can no prefix do to two contents that ask the same query?

A prefix takes the shares :math:`\alpha_1, \alpha_2` from the two and adds one and the same point
:math:`\mu`: the outputs are :math:`t'_a = (1-\alpha_a)\,t_a + \alpha_a\,\mu`. Source: this book,
after Wang et al. 2023 (swapping) and Wang et al. 2025 (a bias that does not fade).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = ["fading_limit", "least_fading", "swap_limit", "swapping_point"]


def swap_limit(first: Tensor, second: Tensor, distance: Tensor) -> Tensor:
    r"""The least worst error of a prefix that is to swap two outputs.

    .. math:: \Bigl(1 - \frac{\alpha_1\alpha_2}{\alpha_1+\alpha_2}\Bigr)\lVert t_1-t_2\rVert

    Parameters
    ----------
    first, second : Tensor, shape (...)
        Shares that the prefix takes from the two contents, in (0, 1).
    distance : Tensor, shape (...)
        Of the two outputs without the prefix, at least 0.
    """
    shares = torch.stack(torch.broadcast_tensors(first, second))
    if not ((shares > 0) & (shares < 1)).all():
        raise ValueError(f"shares lie in (0, 1), got {shares.min():g} to {shares.max():g}")
    return (1 - first * second / (first + second)) * distance


def swapping_point(outputs: Tensor, shares: Tensor) -> Tensor:
    r"""The point :math:`(\alpha_1 t_1 + \alpha_2 t_2)/(\alpha_1+\alpha_2)` that attains the limit.

    Shapes: outputs (2, e), shares (2,) -> (e,).
    """
    return shares @ outputs / shares.sum()


def fading_limit(bias: Tensor, outputs: Tensor, longest: float) -> float:
    r"""How far a prefix stays from adding one bias to two outputs of equal partition function.

    .. math:: \frac{\lVert b\rVert\,r}{\sqrt{R^2+r^2}}, \qquad
        r = \tfrac12\lVert t_1-t_2\rVert, \quad R = K + \tfrac12\lVert t_1+t_2\rVert

    Parameters
    ----------
    bias : Tensor, shape (e,)
        What is to be added to both.
    outputs : Tensor, shape (2, e)
        Without the prefix.
    longest
        Bound K on the norm of the prefix values, > 0.
    """
    if not longest > 0:
        raise ValueError(f"longest must be > 0, got {longest}")
    apart = float((outputs[0] - outputs[1]).norm()) / 2
    reach = longest + float(outputs.mean(0).norm())
    return float(bias.norm()) * apart / math.hypot(reach, apart)


def least_fading(bias: Tensor, outputs: Tensor, longest: float) -> tuple[float, Tensor]:
    r"""Share and value of a prefix that attains the limit where the bias points away from content.

    The share is :math:`\lVert b\rVert R/(R^2+r^2)` and the value :math:`K b/\lVert b\rVert`. The
    limit is attained if the bias is orthogonal to :math:`t_1 - t_2` and a negative multiple of
    their mean. The share must be less than 1: the bias must not be too long.
    """
    apart = float((outputs[0] - outputs[1]).norm()) / 2
    reach = longest + float(outputs.mean(0).norm())
    share = float(bias.norm()) * reach / (reach**2 + apart**2)
    if not 0 < share < 1:
        raise ValueError(f"the share would be {share:g}; shorten the bias {float(bias.norm()):g}")
    return share, longest * bias / bias.norm()


check_public(__name__)

"""What does noise do to the constructed prompt? Accuracies, with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.prompt_attention.models import prompt_attention

__all__ = ["AccuracyByScale", "accuracy_by_scale"]


class AccuracyByScale(NamedTuple):
    """Measured accuracies of one mixture.

    Attributes
    ----------
    mean : Tensor, shape (scales,)
    standard_error : Tensor, shape (scales,)
    """

    mean: Tensor
    standard_error: Tensor


def accuracy_by_scale(
    mixture: ContextualMixture, scales: Sequence[float], n: int, generator: torch.Generator
) -> AccuracyByScale:
    r"""The accuracy of the head :math:`w_\perp` with the prompt :math:`\kappa q_\perp`.

    Parameters
    ----------
    mixture : ContextualMixture
        With or without noise.
    scales : sequence of float
        κ; all of them read the same bags.
    n : int
        Bags drawn, at least 2.
    generator : torch.Generator

    Returns
    -------
    AccuracyByScale
    """
    if n < 2:
        raise ValueError(f"n must be at least 2 for a standard error, got {n}")
    bags = mixture.sample(n, generator)
    means = []
    for scale in scales:
        scores = prompt_attention(bags.tokens, mixture.signal_only, scale * mixture.context_only)
        means.append((scores * bags.labels > 0).double().mean())
    mean = torch.stack(means)
    return AccuracyByScale(mean, (mean * (1 - mean) / n).sqrt())


check_public(__name__)

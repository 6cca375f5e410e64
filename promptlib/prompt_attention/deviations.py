"""How far may the largest of many Monte Carlo means lie from its formula by chance?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = ["FALSE_ALARMS", "Comparison", "largest_deviation"]

FALSE_ALARMS = 1e-4
"""How often, at most, a true formula is refuted by chance."""


def largest_deviation(instances: int, runs: int | None = None) -> float:
    r"""The deviation, in standard errors, that the largest of several exceeds by chance only.

    The share of false alarms is shared out over the comparisons (Bonferroni), so it is at most
    `FALSE_ALARMS` whatever their dependence. A standard error from few runs is itself uncertain:
    the deviation then has Student's law.

    Parameters
    ----------
    instances : int
        Comparisons whose largest deviation is judged, at least 1.
    runs : int, optional
        Independent and roughly normal values behind each standard error, at least 2. Left out,
        they are many, and the normal law is used.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is no comparison, or fewer than 2 runs.
    """
    from scipy.special import ndtri, stdtrit  # not scipy.stats: that takes much longer to import

    if instances < 1:
        raise ValueError(f"instances must be at least 1, got {instances}")
    if runs is not None and runs < 2:
        raise ValueError(f"runs must be at least 2 for a standard error, got {runs}")
    tail = FALSE_ALARMS / (2 * instances)
    return float(-ndtri(tail) if runs is None else -stdtrit(runs - 1, tail))


class Comparison(NamedTuple):
    """A formula beside Monte Carlo means: what a `promptlib.claims.Estimate` judges.

    Attributes
    ----------
    formula, measured, standard_errors : Tensor
        Of one shape.
    runs : int or None
        Values behind each standard error, if they are few.
    """

    formula: Tensor
    measured: Tensor
    standard_errors: Tensor
    runs: int | None = None

    @classmethod
    def of(cls, rows: Iterable[tuple[Tensor | float, ...]], runs: int | None = None) -> Comparison:
        """Join (formula, mean, standard error) of several instances, tensors or numbers, flat."""
        formula, measured, standard_errors = (
            torch.cat([torch.as_tensor(part, dtype=torch.float64).reshape(-1) for part in column])
            for column in zip(*rows, strict=True)
        )
        return cls(formula, measured, standard_errors, runs)

    @property
    def deviations(self) -> Tensor:
        """Measured minus formula, in standard errors."""
        return (self.measured - self.formula) / self.standard_errors

    @property
    def chance(self) -> float:
        """What chance explains, in standard errors; see `largest_deviation`."""
        return largest_deviation(self.formula.numel(), self.runs)


check_public(__name__)

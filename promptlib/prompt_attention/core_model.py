r"""Which numbers may the formulas of result A3 be given?

They hold for the *core* contextual mixture: one deviation (0, 0), orthogonal :math:`q_\star` and
:math:`w_\star`, and noise on the irrelevant tokens. A formula works on tensors of parameters that
broadcast against each other; here every number is checked once, by name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = ["as_parameters", "relevant_counts", "require_core"]

_POSITIVE = "a finite number > 0"
_ALLOWED = {
    "sparsity": "a number in (0, 1)",
    "context_norm": "a finite number >= 0",
    "signal_norm": _POSITIVE,
    "noise_std": _POSITIVE,
    "scale": "a finite number",
    "samples_per_dim": "a number > 0, inf for endless data",
    "ridge": "a number >= 0, inf for the averaging head",
    "signal_to_noise": "a number >= 0",
    "attention_mass": "a number in [0, 1]",
}


def as_parameters(**values: float | Tensor) -> list[Tensor]:
    """The values as float64 tensors, each inside its range.

    Parameters
    ----------
    **values : float or Tensor
        Any of the names in the table above, in any order.

    Returns
    -------
    list of Tensor
        In the order given, with their own shapes.

    Raises
    ------
    ValueError
        If a number lies outside its range; names it and says what is allowed.
    """
    tensors = []
    for name, value in values.items():
        tensor = torch.as_tensor(value, dtype=torch.float64)
        if tensor.numel() == 0:
            raise ValueError(f"{name} is an empty tensor; give at least one number")
        bad = tensor[~_inside(name, tensor)]
        if bad.numel():
            raise ValueError(f"{name} must be {_ALLOWED[name]}, got {float(bad.flatten()[0])}")
        tensors.append(tensor)
    return tensors


def require_core(mixture: ContextualMixture) -> None:
    """Refuse a mixture that is not the core model with noise.

    Raises
    ------
    ValueError
        If it has another deviation than (0, 0), a cosine other than 0, or no noise.
    """
    if any(pair != (0.0, 0.0) for pair in mixture.deviations):
        raise ValueError(
            f"the formula is for the core model, deviations=((0.0, 0.0),); got {mixture.deviations}"
        )
    if mixture.cosine != 0:
        raise ValueError(f"the formula needs q* and w* orthogonal, got cosine={mixture.cosine}")
    if not mixture.noise_std > 0:
        raise ValueError(
            f"the formula needs noise_std > 0, got {mixture.noise_std}; "
            f"without noise one sample shows w* and there is no error to compute"
        )


def relevant_counts(sparsity: Tensor, tokens: int) -> Tensor:
    """``m``, the number of relevant tokens, for each sparsity.

    Raises
    ------
    ValueError
        If there are fewer than 2 tokens, or ``sparsity * tokens`` is no integer from 1 to T - 1.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 2:
        raise ValueError(f"tokens must be an integer of at least 2, got {tokens!r}")
    counts = sparsity * tokens
    whole = counts.round()
    bad = ((counts - whole).abs() > 1e-6 * tokens) | (whole < 1) | (whole > tokens - 1)
    if bad.any():
        worst = float(sparsity[bad].flatten()[0])
        nearest = min(max(round(worst * tokens), 1), tokens - 1)
        raise ValueError(
            f"sparsity * tokens must be an integer from 1 to tokens - 1, got {worst:g} * {tokens}; "
            f"the nearest choice is sparsity={nearest}/{tokens}"
        )
    return whole.long()


def _inside(name: str, tensor: Tensor) -> Tensor:
    if name == "sparsity":
        return (tensor > 0) & (tensor < 1)
    if name == "attention_mass":
        return (tensor >= 0) & (tensor <= 1)
    if name == "scale":
        return tensor.isfinite()
    if name == "context_norm":
        return (tensor >= 0) & (tensor < math.inf)
    if name in ("ridge", "signal_to_noise"):
        return tensor >= 0
    if name == "samples_per_dim":
        return tensor > 0
    return (tensor > 0) & (tensor < math.inf)


check_public(__name__)

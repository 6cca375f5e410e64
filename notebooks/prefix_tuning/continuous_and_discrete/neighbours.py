"""Which tokens do learned vectors lie near, and do these say the same?

Shapes: ``P`` vectors of width ``D``, ``V`` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.decoding import complete
from promptlib.prefix_tuning.gpt import GPT


@dataclass(frozen=True)
class Nearest:
    """The nearest token of each vector, by two measures; all ``(P,)``.

    Attributes
    ----------
    by_distance, by_angle : Tensor, int64
        Token with the smallest Euclidean distance, and with the largest cosine.
    distance, cosine : Tensor
        That distance and that cosine.
    """

    by_distance: Tensor
    distance: Tensor
    by_angle: Tensor
    cosine: Tensor


def nearest_tokens(vectors: Tensor, tokens: Tensor, themselves: bool = False) -> Nearest:
    """Find the nearest token of each vector.

    Parameters
    ----------
    vectors : Tensor, ``(P, D)``
    tokens : Tensor, ``(V, D)``
    themselves : bool
        The vectors are the tokens, and each looks for its nearest other one.

    Raises
    ------
    ValueError
        If widths differ, or tokens that look among themselves are not all tokens.
    """
    if vectors.ndim != 2 or tokens.ndim != 2 or vectors.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"expected vectors (P, D) and tokens (V, D), got {tuple(vectors.shape)} and "
            f"{tuple(tokens.shape)}"
        )
    if themselves and len(vectors) != len(tokens):
        raise ValueError(f"{len(vectors)} vectors are not the {len(tokens)} tokens themselves")
    distances = (vectors.unsqueeze(1) - tokens).norm(dim=-1)
    cosines = F.normalize(vectors, dim=-1) @ F.normalize(tokens, dim=-1).T
    if themselves:
        distances.fill_diagonal_(float("inf"))
        cosines.fill_diagonal_(-float("inf"))
    distance, by_distance = distances.min(dim=1)
    cosine, by_angle = cosines.max(dim=1)
    return Nearest(by_distance, distance, by_angle, cosine)


def random_of_same_length(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a random direction for each vector and give it the vector's norm: ``(P, D)``."""
    directions = torch.randn(vectors.shape, generator=generator, dtype=vectors.dtype)
    return F.normalize(directions, dim=-1) * vectors.norm(dim=-1, keepdim=True)


def rounded_say(model: GPT, vectors: Tensor, strings: Tensor, by_angle: bool = False) -> Tensor:
    """Replace each vector by its nearest token; say whether the model still writes the string.

    Parameters
    ----------
    model : GPT
    vectors : Tensor, ``(P, n, D)``
    strings : Tensor, int64, ``(P, L)``
    by_angle : bool
        Nearest by cosine in place of distance.

    Returns
    -------
    Tensor, bool, ``(P,)``
    """
    nearest = nearest_tokens(vectors.flatten(0, 1), model.token.weight.detach())
    tokens = (nearest.by_angle if by_angle else nearest.by_distance).view(vectors.shape[:2])
    said = complete(model, model.token(tokens), strings.shape[1])
    return (said == strings).all(dim=1)

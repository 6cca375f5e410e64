"""Do search and theory agree everywhere? Claims about the map of sparsity and deviation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from notebooks.prompt_attention.softmax_separates import constructions, search
from notebooks.prompt_attention.softmax_separates.threshold_map import MapOfModel
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention.instances import PAPER


def map_agrees(maps: Mapping[str, MapOfModel], margin: float = 0.03, reach: float = 15.0) -> Claim:
    """The whole map: search never exceeds a ceiling, and reaches each, away from the edges.

    Parameters
    ----------
    maps : mapping of str to MapOfModel
    margin : float
        Cells with Δ closer to the threshold than this, relatively, need not be reached.
    reach : float
        Nor cells with Δ beyond this multiple of the threshold.
    """
    found, limits, missing = [], [], []
    for part in maps.values():
        found.append(part.found.reshape(-1))
        limits.append(part.limits.reshape(-1))
        clear = ((part.closeness - 1).abs() > margin) & (part.closeness < reach)
        missing.append((part.limits - part.found)[clear])
    shortfall = torch.cat(missing)
    trials = max(part.trials for part in maps.values())
    return claims.bound(
        "prompt-attention/search-meets-theory",
        "On the map of $(\\zeta,\\Delta)$, the best accuracy that search finds never exceeds the "
        "proved ceiling, and equals it in every cell that is not within 3 % of a threshold (and "
        "not beyond 15 times it).",
        values=torch.cat((*found, shortfall)),
        limits=torch.cat((*limits, torch.zeros_like(shortfall))),
        source=PAPER,
        checks=search.search_accuracy,
        search=f"{trials:,} weights in each cell, random starts improved by Adam",
        tolerance=1e-9,
    )


def prompt_wins_everywhere(constructed: Tensor) -> Claim:
    """The whole map: the constructed prompt in the same cells, on sampled bags."""
    return claims.bound(
        "prompt-attention/prompt-attention-on-the-map",
        "In every cell of the map one constructed prompt is right on every sampled bag of the "
        "three deviations $(0,0)$, $(\\Delta,\\Delta)$ and $(\\Delta,-\\Delta)$ at once.",
        values=1 - constructed.reshape(-1),
        limits=0.0,
        source=PAPER,
        checks=constructions.prompt_weights,
        search="sampled bags of 1000 tokens with random relevant sets, in every cell",
    )


check_public(__name__)

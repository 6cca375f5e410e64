"""How is a ceiling attacked? One search for all three models that fail."""

from __future__ import annotations

from collections.abc import Callable

import torch

from notebooks.prompt_attention.softmax_separates.search import search_mixtures
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention.instances import PAPER, SPARSITIES, cell
from promptlib.prompt_attention.population import PlaneModel


def ceiling_claim(
    id: str,
    sentence: str,
    ceiling: float,
    family: Callable[[float], tuple[tuple[float, float], ...]],
    threshold: Callable[[float], float],
    model: PlaneModel,
    seed: int,
    restarts: int,
    steps: int,
) -> Claim:
    """The best accuracy of a search just beyond a threshold and far, against the proved ceiling.

    Parameters
    ----------
    id, sentence : str
        Of the claim.
    ceiling : float
        The accuracy that no weights exceed.
    family : callable
        Δ -> the values of (δq, δw).
    threshold : callable
        ζ -> the Δ from which on the ceiling holds.
    model : PlaneModel
        Searched.
    seed, restarts, steps : int
        Of the search; see `search.search_accuracy`.
    """
    factors = (1.001, 1.01, 1.1, 2.0, 10.0)
    cells = [
        cell(share, family(factor * threshold(share)), cosine=cosine)
        for share in SPARSITIES
        for factor in factors
        for cosine in (0.0, -0.8)
    ]
    result = search_mixtures(
        model,
        cells,
        restarts=restarts,
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
        label=f"attacking: {model.name}",
    )
    return claims.bound(
        id,
        sentence,
        values=result.accuracy,
        limits=ceiling,
        source=PAPER,
        checks=threshold,
        search=f"{result.trials:,} weights for each of {len(cells)} mixtures, random starts "
        f"improved by Adam, Δ from 0.1 % above the threshold to ten times it",
        tolerance=1e-9,
    )


check_public(__name__)

"""How far from the tokens do vectors end that were learned with small steps, and with large ones?

Reads the runs of `settling`. Strings that the best token says by
itself are left out, as in `results.places`. Distances are compared
over those strings only that every learning rate made the model say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch

from notebooks.prefix_tuning.continuous_and_discrete import settling
from notebooks.prefix_tuning.continuous_and_discrete.decoding import complete
from notebooks.prefix_tuning.continuous_and_discrete.figures import Drawn, band
from notebooks.prefix_tuning.continuous_and_discrete.neighbours import (
    nearest_tokens,
    random_of_same_length,
)
from notebooks.prefix_tuning.continuous_and_discrete.plan import LanguagePlan
from notebooks.prefix_tuning.continuous_and_discrete.results import Get, Measured
from promptlib import claims, plotting
from promptlib.plotting import PALETTE
from promptlib.prefix_tuning.gpt import GPT
from promptlib.runs import Result

TENFOLD = (0.03, 0.3)
"""Two learning rates in the middle of those tried, whose distances are compared."""


@dataclass(frozen=True)
class Steps:
    """What the learning rates of one seed reach; arrays have one entry for each rate.

    Attributes
    ----------
    rates : sequence of float
        Rising.
    said : array
        Percent of the strings.
    distance, random, still_nearest : array
        Over the strings that all rates said: median distance to the nearest token, the same for
        random vectors with the same norms, both in units of the median distance from a token to its
        nearest other one; and percent of the vectors whose nearest token is the one they started
        at.
    common : int
        How many strings these are.
    """

    rates: Sequence[float]
    said: np.ndarray
    distance: np.ndarray
    random: np.ndarray
    still_nearest: np.ndarray
    common: int


def by_step_size(
    model: GPT, settled: Result, stepped: Result, generator: torch.Generator
) -> Steps | None:
    """Look at the vectors of one seed.

    Parameters
    ----------
    settled, stepped : Result
        Of `settle` and of `settle_at_rates`.
    generator : torch.Generator
        For the random vectors.

    Returns
    -------
    Steps, or None if no string was said with all learning rates.
    """
    tokens = model.token.weight.detach()
    strings, best = settled.tensors["strings"], settled.tensors["best_token"]
    by_token = complete(model, tokens[best].unsqueeze(1), strings.shape[1])
    wanted = (by_token != strings).any(dim=1)
    said = torch.tensor(stepped.metrics["steps"]) >= 0  # (rates, strings)
    common = wanted & said.all(dim=0)
    if not common.any():
        return None
    spacing = nearest_tokens(tokens, tokens, themselves=True).distance.median()
    distance, random, still = [], [], []
    for vectors in stepped.tensors["vectors"][:, common]:
        nearest = nearest_tokens(vectors, tokens)
        other = nearest_tokens(random_of_same_length(vectors, generator), tokens)
        distance.append(float(nearest.distance.median() / spacing))
        random.append(float(other.distance.median() / spacing))
        still.append(100 * float((nearest.by_distance == best[common]).double().mean()))
    return Steps(
        rates=stepped.metrics["rates"],
        said=100 * said[:, wanted].double().mean(dim=1).numpy(),
        distance=np.array(distance),
        random=np.array(random),
        still_nearest=np.array(still),
        common=int(common.sum()),
    )


def all_steps(measured: Measured, plan: LanguagePlan, get: Get) -> list[Steps]:
    """Return `by_step_size` of each seed that has any."""
    found = [
        by_step_size(
            model,
            get(settled),
            get(stepped),
            torch.Generator().manual_seed(settled.config["seed"]),
        )
        for model, settled, stepped in zip(measured.models, plan.settled, plan.stepped, strict=True)
    ]
    return [entry for entry in found if entry is not None]


def distance_is_the_step(found: Sequence[Steps], control: claims.Claim) -> claims.Claim:
    """How far a vector ends from the tokens is set by the learning rate.

    Parameters
    ----------
    found : sequence of Steps
        Of each seed that has any.
    control : Claim
        `claims.one_vector_counts`.
    """
    low, high = TENFOLD
    ratios = [
        float(steps.distance[steps.rates.index(high)] / steps.distance[steps.rates.index(low)])
        for steps in found
    ]
    return claims.outcome(
        "prefix-tuning/distance-is-the-learning-rate",
        f"Where the learned vectors end is set by the learning rate more than by their strings: "
        f"for the same strings, a rate of {high:g} in place of {low:g} multiplies the median "
        "distance to the nearest token by more than the root of ten, 3.16.",
        values=ratios or [1.0],  # nothing said with all rates shows nothing
        limit=math.sqrt(high / low),
        side="above",
        unit="times",
        source="this book",
        checks=settling.settle_at_rates,
        scale="log",
        requires=[control],
        note="the rate alone would give 10 times, the string alone 1: the limit is halfway, in "
        "logarithms",
    )


def distance_by_rate(found: Sequence[Steps]) -> Drawn:
    """Draw the distance to the nearest token, and the strings said, against the learning rate.

    Raises
    ------
    ValueError
        If nothing was found.
    """
    if not found:
        raise ValueError("no string was said with all learning rates, so there is nothing to draw")
    rates = found[0].rates
    learned, random, said, still = (
        np.array([getattr(steps, name) for steps in found])
        for name in ("distance", "random", "said", "still_nearest")
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 4.2))
    band(left, rates, random, PALETTE["green"], "random to token", linestyle="--")
    band(left, rates, learned, PALETTE["vermilion"], "learned to token")
    left.axhline(1.0, color=PALETTE["blue"], label="token to token")
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.set(ylabel="distance (token to token = 1)")
    left.legend(fontsize=10, loc="upper left", handlelength=1.6)
    band(right, rates, said, PALETTE["purple"], "strings said")
    band(right, rates, still, PALETTE["ochre"], "start still nearest")
    right.set(ylabel="share (%)", ylim=(-3, 103))
    right.legend(fontsize=10, loc="lower left", handlelength=1.6)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("learning rate")
    alt = (
        "Against the learning rate. Left, median distance to the nearest token in units of that "
        f"between tokens: learned vectors from {learned.mean(axis=0)[0]:.2f} at {rates[0]:g} to "
        f"{learned.mean(axis=0)[-1]:.2f} at {rates[-1]:g}; random vectors with the same norms from "
        f"{random.mean(axis=0)[0]:.2f} to {random.mean(axis=0)[-1]:.2f}. Right, strings said: from "
        f"{said.mean(axis=0)[0]:.0f} to {said.mean(axis=0)[-1]:.0f} %; vectors whose nearest token "
        f"is still the one they started at: from {still.mean(axis=0)[0]:.0f} to "
        f"{still.mean(axis=0)[-1]:.0f} %."
    )
    return figure, alt

"""What would refute what this chapter says of other work? The claims, and what judges them."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch

from notebooks.bridge.before_and_after import (
    coins,
    functions_of_the_query,
    measured,
    measured_models,
    memory,
    planted,
    two_contents,
    untrained,
)
from promptlib import claims
from promptlib.prompt_attention.instances import TOLERANCE

COMPARED: dict[str, Any] = {"values": attrgetter("values"), "limits": attrgetter("limits")}
"""Of a row that judges a `measured.Compared`."""


def after(work: str) -> str:
    """Source of a statement that is this book's, for a question that is another work's."""
    return f"this book, after {work}"


ROWS = (
    claims.Bound(
        "prefix-fits-any-function",
        "One head with the prefix $\\bar k_m = p^2 u_m$, $\\bar v_m = f(u_m)$ at $p$ points of the "
        "circle returns, on queries there and behind any content, a function $f$ of slope $L$ up "
        "to $L\\frac{\\pi}{p}\\sqrt{\\frac{\\pi^2}{4} + \\frac{\\log p}{2}}$ and what it leaves to "
        "content.",
        **COMPARED,
        source=after("Petrov, Torr and Bibi 2024"),
        checks=functions_of_the_query.interpolating_prefix,
        search=lambda met: (
            f"{met.instances} random functions, 500 queries each, prefixes of "
            f"{', '.join(map(str, measured.LENGTHS))} vectors"
        ),
    ),
    claims.Bound(
        "no-prefix-swaps",
        "No prefix in front of two contents that ask the same query swaps their outputs: the worse "
        "of the two errors is at least $1 - \\alpha_1\\alpha_2/(\\alpha_1+\\alpha_2)$ times "
        "$\\lVert t_1 - t_2\\rVert$, more than half.",
        **COMPARED,
        tolerance=1e-9,
        source=after("Wang et al. 2023"),
        checks=two_contents.swap_limit,
        search=lambda met: (
            f"{met.instances} pairs of contents, for each 20 random prefixes of 1 to 8 vectors and "
            "4 near the best"
        ),
    ),
    claims.Identity(
        "swap-limit-is-attained",
        "One vector with the value $(\\alpha_1 t_1 + \\alpha_2 t_2)/(\\alpha_1+\\alpha_2)$ attains "
        "that limit for every share; as the shares go to 1 it becomes half the distance.",
        tolerance=1e-9,
        source=after("Wang et al. 2023"),
        checks=two_contents.swapping_point,
    ),
    claims.Bound(
        "prefix-remembers-a-bit-a-vector",
        "With queries on a line a prefix of $p$ vectors reaches all $2^p$ sign patterns at $p$ "
        "places.",
        **COMPARED,
        source=after("Meyer et al. 2025"),
        checks=memory.remembering_weights,
        search=lambda met: f"all {met.instances} patterns, p from 1 to {measured.REMEMBERED[-1]}",
    ),
    claims.Bound(
        "prefix-changes-sign-less-than-p-times",
        "Along a line of queries what a head reads from $p$ prefix vectors changes its sign at "
        "most $p - 1$ times, so that $p + 1$ alternating places are out of reach; $p - 1$ changes "
        "are reached.",
        **COMPARED,
        source=after("Meyer et al. 2025"),
        checks=memory.weights_with_zeros,
        search=lambda met: (
            f"{2 * met.instances} random prefixes of each length to {measured.REMEMBERED[-1]}, "
            "half of them alternating, and one with p - 1 zeros"
        ),
    ),
    claims.Estimate(
        "infinite-prefix-smooths",
        "Over keys drawn from $\\mathcal N(0, s^2)$ the mean of $e^{\\langle q, k\\rangle} V(k)$ "
        "is $e^{s^2\\lVert q\\rVert^2/2}\\,\\mathrm E\\,V(s^2 q + s g)$: a linear function of the "
        "query for $V(k) = Ck$, a damped wave for a wave.",
        source=after("Liang et al. 2025"),
        checks=functions_of_the_query.gaussian_sums,
    ),
    claims.Bound(
        "tied-prefix-costs-less",
        "If one vector gives key and value, least squares recovers a planted pair with a smaller "
        "mean squared error than if both are free; and a free key costs at least "
        "$\\lVert \\bar v - t\\rVert^{-2}$ times a constant as its value nears what content says.",
        values=lambda met: torch.cat((met.ratios, met.blind)),
        limits=1.0,
        tolerance=1e-9,
        source=after("Le et al. 2025"),
        checks=planted.tied_covariance,
        search=lambda met: f"{len(met.ratios)} random queries, contents and planted prefixes",
    ),
    claims.Estimate(
        "planted-prefix-is-recovered",
        "The mean squared error of least squares for a planted prefix is the trace of the inverse "
        "information, $F^{-1}$ for a free pair and $G(G^\\top F G)^{-1}G^\\top$ for a tied one.",
        source=after("Le et al. 2025"),
        checks=planted.free_covariance,
    ),
    claims.Bound(
        "fading-has-a-price",
        "No prefix with values of norm up to $K$ adds one bias $b$ to two contents with the same "
        "query and partition function: one is off by at least "
        "$\\lVert b\\rVert r/\\sqrt{R^2 + r^2}$ with "
        "$r = \\frac12\\lVert t_1 - t_2\\rVert$, $R = K + \\frac12\\lVert t_1 + t_2\\rVert$.",
        **COMPARED,
        tolerance=1e-9,
        source=after("Wang et al. 2025"),
        checks=two_contents.fading_limit,
        search=lambda met: (
            f"{met.instances} pairs of contents, for each 20 random prefixes of 1 to 4 vectors and "
            "the best one"
        ),
    ),
    claims.Bound(
        "no-tosses-make-two-coins",
        "A Bayesian predictor of coins, uniform before the prompt, comes after no prompt of tosses "
        "nearer to a mixture of two coins than a law with one mode can; to a single coin it comes "
        "within $N/n$ nats over $N$ tosses after $n$ in its proportion.",
        **COMPARED,
        source=after("Genewein et al. 2025"),
        checks=coins.heads_after,
        search=lambda met: f"all {met.instances} prompts of up to 150 heads and 150 tails",
    ),
    claims.Bound(
        "untrained-layer-answers-any-map",
        "In a random layer that was never trained one soft vector for each symbol makes the last "
        "symbol answer by any map, after every content; no prompt of one or two symbols does.",
        **COMPARED,
        source=after("Genewein et al. 2025"),
        checks=untrained.answering_prefix,
        search=lambda met: (
            f"{met.instances} random layers and maps of {measured_models.SYMBOLS} symbols, "
            "200 contents; all prompts of one or two symbols"
        ),
    ),
    claims.Identity(
        "prefix-reads-as-any-text",
        "In a layer that is wide enough every prefix has, for every text of its length, a twin "
        "that acts alike and whose vectors are nearest to the symbols of that text.",
        tolerance=TOLERANCE,
        source=after("Ramati, Gottesman and Geva 2025"),
        checks=untrained.reworded,
    ),
)


def measure(seed: int, instances: int, draws: int, repetitions: int) -> dict[str, Any]:
    """What each row is judged by."""
    few = max(instances // 4, 4)
    return {
        "prefix-fits-any-function": measured.fitted_curves(seed, few),
        "no-prefix-swaps": measured.swaps(seed, instances),
        "swap-limit-is-attained": measured.sharp_swaps(seed, instances),
        "prefix-remembers-a-bit-a-vector": measured.remembered(seed),
        "prefix-changes-sign-less-than-p-times": measured.changes_found(seed, instances),
        "infinite-prefix-smooths": measured.infinite_prefix(seed, draws),
        "tied-prefix-costs-less": measured_models.tied_costs(seed, instances),
        "planted-prefix-is-recovered": measured_models.planted_errors(seed, repetitions),
        "fading-has-a-price": measured.fading_prices(seed, instances),
        "no-tosses-make-two-coins": measured_models.prompted_coins(seed),
        "untrained-layer-answers-any-map": measured_models.untrained_answers(seed, few),
        "prefix-reads-as-any-text": measured_models.reading_errors(seed, few),
    }

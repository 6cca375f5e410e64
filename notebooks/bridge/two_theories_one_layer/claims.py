"""What would refute that both theories speak of one layer? The claims, and what judges them."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from notebooks.bridge.two_theories_one_layer import heads, measured, readings, streams
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prompt_attention.instances import SPARSITIES, TOLERANCE

ROWS = (
    claims.Identity(
        "vector-in-front-shifts",
        "At a reader that is blind to the label, every prefix in front leaves "
        "$t'(y=+1) - t'(y=-1) = 2(1-\\alpha)[A - (1-A)\\delta_w]\\, W_V^\\top w^\\star$, whatever "
        "its values.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=readings.difference_in_front,
    ),
    claims.Bound(
        "blind-reader-search",
        "On $(0,0), (6,6)$ no search finds more than 3 of 4 cases right with a prefix of 1 to 3 "
        "vectors, a head and an intercept when the label-blind reader has 0, 0.5 or 0.95 of the "
        "logit it needs alone; with 1.05 it finds all 4.",
        values=itemgetter(0),
        limits=itemgetter(1),
        tolerance=1e-9,
        source=HERE,
        checks=readings.search_in_front,
        search=lambda met: (
            f"Adam from {met.restarts} random starts for each of {len(met.values)} settings, "
            f"{met.steps} steps, keys, values, head and intercept together"
        ),
    ),
    claims.Bound(
        "sensitive-reader-leaks",
        "A reader whose query feels the label, and with which no head and intercept are right on "
        "$(0,0), (\\Delta,\\Delta)$, is right in all cases with one prefix vector: the label comes "
        "through $\\log Z$.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=HERE,
        checks=readings.leaking_prefix,
        search=lambda sides: (
            f"{len(sides[0]) // 2} random mixtures and readers; without the prefix 2,000 random "
            "heads with intercepts for each"
        ),
    ),
    claims.Identity(
        "vector-behind-asks",
        "Behind a bag, in a causal head, a vector $p$ reads "
        "$(1-\\gamma)\\,W_V^\\top X^\\top\\phi(Xq) + \\gamma\\,W_V^\\top p$ with "
        "$q = W_K W_Q^\\top p$, and no content row changes.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=readings.own_row,
    ),
    claims.Identity(
        "causal-prompt-is-a-cache",
        "Under a causal mask the rows of a prompt in front are the same for all inputs in every "
        "layer, and the content's rows are those with the prompt's keys and values of another "
        "input as a fixed prefix.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=streams.forward,
    ),
    claims.Identity(
        "place-decides",
        "In one frozen model one learned vector, or a pair where all rows are read, is right in 0, "
        "4 or 6 of 6 cases, as the theorems say for where it stands, who is read and what the mask "
        "hides; the relative attention of content never moves.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=streams.read,
    ),
    claims.Bound(
        "opposed-pair-in-front",
        "Where self-attention averaged over all rows is right in at most 2 of 4 cases of "
        "$(0,0), (\\Delta,\\Delta)$, an opposed pair in front is right in all 4 as soon as its "
        "value exceeds $V_0 \\le 4\\Delta/\\zeta$, not below, and moves no relative attention.",
        values=itemgetter(0),
        limits=itemgetter(1),
        tolerance=1e-9,
        source=HERE,
        checks=readings.least_pair_value,
        search=lambda met: (
            f"{met[2]} random frozen heads, sparsities and angles, Δ from Δ* to 5 Δ*, values 0.1 % "
            "above and below the least"
        ),
    ),
    claims.Bound(
        "as-many-heads-as-deviations",
        "Two self-attention heads are right in all cases of $(0,0), (\\Delta,\\Delta)$ with "
        "$\\Delta$ from 1.001 to 10 times $\\Delta^\\star$, where one is right in half; three are "
        "right on three random deviations.",
        limits=-1.0,
        source=HERE,
        checks=heads.heads_for,
        search=lambda shares: (
            f"{len(shares)} mixtures of {len(SPARSITIES)} sparsities, every case (y, δ)"
        ),
    ),
    claims.Identity(
        "zero-for-any-heads",
        "Self-attention with any number of heads is odd, $f(-X) = -f(X)$; so at "
        "$\\zeta = \\frac12$ and $\\delta = (1,1)$, where the bag is its own negative, every score "
        "is zero.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=heads.heads_score,
    ),
    claims.Identity(
        "linear-prompts-fail",
        "With any number of prompts linear prompt-attention tells the labels apart at "
        "$(\\Delta,-\\Delta)$ by $1 - \\Delta^2/D$ times the difference at $(0,0)$: with the wrong "
        "sign or not at all from $\\Delta^2 = D$ on.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=heads.linear_prompts,
    ),
)


def measure(seed: int, restarts: int, steps: int, instances: int) -> dict[str, Any]:
    """What each row is judged by."""
    return {
        "place-decides": measured.place_errors(),
        "vector-in-front-shifts": measured.differences_in_front(seed, instances),
        "blind-reader-search": measured.searched_in_front(seed, restarts, steps),
        "sensitive-reader-leaks": measured.leaks(seed, instances),
        "vector-behind-asks": measured.errors_behind(seed, instances),
        "causal-prompt-is-a-cache": measured.cache_errors(seed, max(instances // 3, 8)),
        "opposed-pair-in-front": measured.opposed_pairs(seed, instances),
        "as-many-heads-as-deviations": measured.shares_by_heads(seed, instances),
        "zero-for-any-heads": measured.oddness_errors(seed, instances),
        "linear-prompts-fail": measured.linear_prompt_errors(seed, instances),
    }

"""What would refute what each model can and cannot separate? The claims, and what judges them."""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import Any

from notebooks.prompt_attention.softmax_separates import (
    constructions,
    data,
    impossible,
    positional,
    possible,
    search,
)
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prompt_attention import expressivity, models
from promptlib.prompt_attention.instances import SPARSITIES, TOLERANCE
from promptlib.prompt_attention.mixture import ContextualMixture

PAPER = "after Oymak et al. 2023, contribution (1)"


def attempts(found: search.SearchResult) -> str:
    """How hard a ceiling was attacked."""
    return (
        f"{found.trials:,} weights for each of {len(found.accuracy)} mixtures, random starts "
        f"improved by Adam, Δ from 0.1 % above the threshold to ten times it"
    )


ROWS = (
    claims.Estimate(
        "sampler-matches-model",
        f"Over {data.BAGS} sampled bags, the share of relevant tokens at each position and the "
        "first two moments of the tokens, plain and multiplied by the label, are those of the "
        "model.",
        max_deviation=lambda met: met.chance,
        source=HERE,
        checks=ContextualMixture.sample,
    ),
    claims.Identity(
        "prompt-is-a-query",
        "Prompt vectors that join only the queries of an attention layer leave what the tokens "
        "read unchanged, and a linear head on what a prompt $p$ reads is prompt-attention with "
        "$q = W_K W_Q^\\top p$.",
        tolerance=TOLERANCE,
        source="after Oymak et al. 2023, the motivation of their model",
        checks=models.prompted_layer,
    ),
    claims.Identity(
        "plane-reduction",
        "Without noise, each model's score of a bag depends on $(y, \\delta)$ alone, whatever the "
        "relevant set, and is computed in the plane of $q^\\star$ and $w^\\star$.",
        tolerance=TOLERANCE,
        source=HERE,
        checks="promptlib.prompt_attention.population.PLANE_MODELS",
    ),
    claims.Identity(
        "mean-pooling-one-deviation",
        "On one deviation the head $\\pm w_\\perp$ gives mean pooling the score "
        "$y\\,|\\zeta-(1-\\zeta)\\delta_w|\\,|w_\\perp|^2$: perfect unless "
        "$\\delta_w = \\zeta/(1-\\zeta)$.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=constructions.mean_pooling_head,
    ),
    claims.Identity(
        "prompt-score",
        "With $q = \\kappa q_\\perp$ and $w = w_\\perp$ prompt-attention's score is "
        "$y|w_\\perp|^2[A-(1-A)\\delta_w]$, where the attention on the relevant tokens has the "
        "odds $A/(1-A) = \\frac{\\zeta}{1-\\zeta} e^{\\kappa|q_\\perp|^2(1+\\delta_q)}$.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=models.prompt_attention,
    ),
    claims.Bound(
        "prompt-attention-is-perfect",
        "The constructed prompt, scaled 0.1 % beyond its bound, makes no mistake on any of seven "
        "deviations with $0 \\le \\delta_q$ and $|\\delta_w|$ up to several hundred.",
        limits=0.0,
        source=PAPER,
        checks=expressivity.prompt_scale_bound,
        search=lambda wrong: (
            f"{len(wrong)} random mixtures with 7 deviations each, every case (y, δ)"
        ),
    ),
    claims.Bound(
        "prompt-scale-bound-is-sharp",
        "At 0.1 % below the bound on $\\kappa$ the constructed prompt gets at least one of the "
        "deviations wrong, for both labels.",
        limits=-1 / 7,
        tolerance=1e-9,
        source=HERE,
        checks=expressivity.prompt_scale_bound,
        search=lambda right: f"{len(right)} random mixtures in which some δw is positive",
    ),
    claims.Identity(
        "self-attention-factor",
        "On aligned bags self-attention's score is $\\langle u,a_y\\rangle\\,g_\\Delta(c)$ with "
        "$c = a_y^\\top A a_y$, and $g_\\Delta(c) = -F_\\Delta(x)/N$ with "
        "$x = e^{(1+\\Delta)c}$ and $N = (1+D)(1+Dx)(D+x^\\Delta)$.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=expressivity.aligned_gain,
    ),
    claims.Bound(
        "self-attention-threshold",
        "On the deviations $(0,0)$ and $(\\Delta,\\Delta)$ with "
        "$\\Delta \\ge \\Delta^\\star(\\zeta)$, no head and no attention matrix lift softmax "
        "self-attention above 50 %.",
        values=attrgetter("accuracy"),
        limits=0.5,
        source=PAPER,
        checks=expressivity.self_attention_threshold,
        search=attempts,
        tolerance=1e-9,
    ),
    claims.Bound(
        "self-attention-threshold-is-sharp",
        "At 0.1 % below $\\Delta^\\star(\\zeta)$ explicit weights make softmax self-attention "
        "perfect.",
        limits=0.0,
        source=HERE,
        checks=expressivity.self_attention_threshold,
        search=f"every case at {len(SPARSITIES)} values of ζ",
    ),
    claims.Identity(
        "self-attention-threshold-two-ways",
        "The threshold from the minimum of the convex function $F_\\Delta$ is the one from its "
        "definition, $\\inf\\{\\Delta : \\sup_c g_\\Delta(c) < 0\\}$ (relative error).",
        tolerance=1e-9,
        source=HERE,
        checks=expressivity.self_attention_threshold,
    ),
    claims.Bound(
        "self-attention-bracket",
        "The threshold is at least $\\max(\\frac{\\zeta}{1-\\zeta}, \\frac{1-\\zeta}{\\zeta})$ and "
        "at most $1/\\min(\\zeta,1-\\zeta)$, which in turn is at most "
        "$\\max\\{(1-\\zeta)^{-2}-1, \\frac{1-\\zeta+\\zeta^2}{\\zeta(1-\\zeta)}\\}$; the first "
        "two differ by the factor $1/\\max(\\zeta,1-\\zeta) \\le 2$.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=HERE,
        checks=expressivity.self_attention_bracket,
        search=lambda sides: f"{len(sides[0]) // 4} values of ζ, evenly in (0, 1)",
        tolerance=1e-9,
    ),
    claims.Bound(
        "heads-by-position",
        "A head for each position does not help against an adversary: at 1 % above "
        "$\\Delta^\\star$ some relevant set makes a label wrong for one of the two deviations.",
        limits=0.0,
        source=PAPER,
        checks=positional.worst_case,
        search=f"{positional.STARTS} starts and {positional.STEPS} steps of Adam over heads "
        f"and logit, for each (T, m) in {positional.SIZES}",
    ),
    claims.Identity(
        "escape-by-position",
        "When the relevant set is uniform instead, heads that differ between the first $k$ "
        "positions and the rest are right exactly when more than $k\\zeta$ of the first $k$ tokens "
        "are relevant, for every $\\Delta$: with $k=1$ that has probability $\\zeta$, with $k=T-1$ "
        "it has $1-\\zeta$.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=positional.escaping_heads,
    ),
    claims.Bound(
        "linear-attention-threshold",
        "On the deviations $(0,0)$ and $(\\Delta,-\\Delta)$ with "
        "$\\Delta^2 \\ge \\zeta/(1-\\zeta)$, no head and no prompt lift linear prompt-attention "
        "above 75 %.",
        values=attrgetter("accuracy"),
        limits=0.75,
        source=PAPER,
        checks=expressivity.linear_attention_threshold,
        search=attempts,
        tolerance=1e-9,
    ),
    claims.Bound(
        "linear-attention-threshold-is-sharp",
        "Explicit weights make linear prompt-attention perfect at 0.1 % below the threshold, and "
        "right in three cases of four at any distance beyond it.",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=HERE,
        checks=constructions.linear_attention_weights,
        search=f"every case at {len(SPARSITIES)} values of ζ and 4 of Δ",
    ),
    claims.Bound(
        "mean-pooling-threshold",
        "On the deviations $(0,0)$ and $(\\Delta,\\Delta)$ with $\\Delta \\ge \\zeta/(1-\\zeta)$, "
        "no head lifts mean pooling above 50 %.",
        values=attrgetter("accuracy"),
        limits=0.5,
        source=PAPER,
        checks=expressivity.mean_pooling_threshold,
        search=attempts,
        tolerance=1e-9,
    ),
    claims.Bound(
        "search-meets-theory",
        "On the map of $(\\zeta,\\Delta)$, the best accuracy that search finds never exceeds the "
        "proved ceiling, and equals it in every cell that is not within 3 % of a threshold (and "
        "not beyond 15 times it).",
        values=itemgetter(0),
        limits=itemgetter(1),
        source=PAPER,
        checks=search.search_accuracy,
        search=lambda met: (
            f"up to {met[2]:,} weights in each cell, random starts improved by Adam until one "
            "makes no mistake"
        ),
        tolerance=1e-9,
    ),
    claims.Bound(
        "prompt-attention-on-the-map",
        "In every cell of the map one constructed prompt is right on every sampled bag of the "
        "three deviations $(0,0)$, $(\\Delta,\\Delta)$ and $(\\Delta,-\\Delta)$ at once.",
        values=lambda accuracies: 1 - accuracies,
        limits=0.0,
        source=PAPER,
        checks=constructions.prompt_weights,
        search="sampled bags of 1000 tokens with random relevant sets, in every cell",
    ),
)


def measure(seed: int, restarts: int, steps: int) -> dict[str, Any]:
    """What each row is judged by, but for those of the map."""
    ceilings = {
        f"{model}-threshold": impossible.attack(model, seed, restarts, steps)
        for model in ("self-attention", "linear-attention", "mean-pooling")
    }
    return {
        "sampler-matches-model": data.sampled_moments(seed),
        "prompt-is-a-query": data.prompted_layer_errors(seed),
        "plane-reduction": data.plane_errors(seed),
        "mean-pooling-one-deviation": possible.mean_pooling_errors(seed),
        "prompt-score": possible.prompt_score_errors(seed),
        "prompt-attention-is-perfect": possible.shares_wrong_beyond(seed),
        "prompt-scale-bound-is-sharp": possible.shares_right_below(seed),
        "self-attention-factor": impossible.factor_errors(seed),
        "self-attention-threshold-is-sharp": impossible.self_attention_below(seed),
        "self-attention-threshold-two-ways": impossible.threshold_errors(),
        "self-attention-bracket": impossible.bracket_sides(),
        "heads-by-position": positional.worst_cases(seed),
        "escape-by-position": positional.escape_errors(),
        "linear-attention-threshold-is-sharp": impossible.linear_attention_around(seed),
        **ceilings,
    }

"""What would refute that a prefix cannot re-aim attention, and that little else would do it?

Each row is judged by what was measured for it (`claims.check_each`).
"""

from __future__ import annotations

from notebooks.prefix_tuning.cannot_re_aim import (
    every_layer,
    kernels,
    one_layer,
    placement,
    positions,
    re_aiming,
    trained_layer,
)
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prefix_tuning import inside, reach

TOLERANCE = 1e-10
"""Largest error that counts as float64 rounding, for logits up to a few thousand."""

PAPER = "Petrov et al. 2024, prefixes and relative attention"

ROWS = (
    claims.Identity(
        "relative-attention",
        "In one attention layer a prefix multiplies the attention over content by one factor per "
        r"query, $A'_{ij} = (1-\alpha_i)A_{ij}$, so all ratios between content positions stay.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=one_layer.ratio_errors,
    ),
    claims.Identity(
        "biased-output",
        "A prefix scales the output of a head and adds a combination of its own values, "
        r"$t'_i = (1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=one_layer.output_errors,
    ),
    claims.Identity(
        "bias-in-hull",
        r"The bias $t'_i - (1-\alpha_i)t_i$ lies in the convex hull of the prefix values "
        r"$\bar v_1, \dots, \bar v_p$, shrunk by $\alpha_i$.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=one_layer.hull_distances,
    ),
    claims.Identity(
        "two-statistics",
        r"Whatever the prefix, the content enters $t'_i$ through $t_i$ and $\log Z_i$ alone: two "
        "contents that agree in both give the same output.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=one_layer.statistics_errors,
    ),
    claims.Identity(
        "attainable-attention",
        "Linearly independent queries can be given any attention to the prefix, and one prefix "
        r"vector only takes shares for which $\mathrm{logit}\,\alpha_i + \log Z_i$ is linear in "
        "the query.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=reach.keys_that_take,
    ),
    claims.Bound(
        "layer-norm-limit",
        r"Prefix vectors that pass through a LayerNorm take at most "
        r"$\sigma(\log p + \bar z_i - \log Z_i)$ of a query's attention, with $\bar z_i$ given by "
        "the query and the weights.",
        values=lambda shares: shares.found,
        limits=lambda shares: shares.limits,
        tolerance=1e-12,
        source=HERE,
        checks=reach.largest_share,
        search=lambda shares: shares.search,
    ),
    claims.Identity(
        "layer-norm-limit-reached",
        "For each query some prefix behind a LayerNorm takes just as much of its attention as this "
        "limit allows.",
        errors=lambda shares: shares.best - shares.limits[: len(shares.best)],
        tolerance=1e-12,
        source=HERE,
        checks=reach.best_normalised_vector,
    ),
    claims.Identity(
        "rank-one-re-aims",
        "A rank-one change of $W_K$ gives one query any positive attention row over linearly "
        "independent tokens.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=re_aiming.rank_one_key_update,
    ),
    claims.Identity(
        "normalised-kernels",
        "It need not be softmax: attention that normalises any positive kernel $f(q_i, k_j)$ "
        "cannot be re-aimed by a prefix either.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=kernels.normalised,
    ),
    claims.Identity(
        "trained-relative-attention",
        "In the GPT trained to sort, a trained prefix multiplies every attention row over content "
        r"by $1-\alpha_i$ and moves no attention from one digit to another.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=inside.model_ratio_errors,
    ),
    claims.Identity(
        "trained-biased-output",
        "In the GPT trained to sort, the output of the head with a trained prefix is "
        r"$(1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=trained_layer.model_output_errors,
    ),
    claims.Bound(
        "trained-layer-norm-limit",
        "In the GPT trained to sort, no trained prefix takes more attention than the model's "
        "LayerNorm and key projection let any prefix take.",
        values=lambda shares: shares.found,
        limits=lambda shares: shares.limits,
        tolerance=1e-12,
        source=HERE,
        checks=inside.largest_shares,
        search=lambda shares: shares.search,
    ),
    claims.Outcome(
        "fine-tuning-re-aims",
        "Fine-tuning a sorter on the opposite order moves more than a tenth of the attention of "
        "the rows that answer from some positions to others.",
        values=lambda moved: [100 * float(rows.mean()) for rows in moved],
        above=10.0,
        unit="% of the attention, mean over rows",
        source=PAPER,
        checks=trained_layer.model_movement,
        note="With a prefix it is 0 by the theorem; a tenth is more than any rounding.",
    ),
    claims.Identity(
        "vectors-anywhere",
        "Learned vectors before, between or behind the content leave the relative attention of "
        "every content row as it was; under a causal mask the rows before them do not change.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=placement.insertion_errors,
    ),
    claims.Identity(
        "suffix-aims-itself",
        "If every query is possible, one learned vector behind the content gives its own row any "
        "positive relative attention over linearly independent keys, and changes no content output "
        "under a causal mask.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=placement.suffix_that_reads,
    ),
    claims.Identity(
        "relative-positions",
        "With rotary positions, ALiBi or a table of distances a prefix may take positions and push "
        "the content on: relative attention and the form of the output stay.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=positions.shift_errors,
    ),
    claims.Identity(
        "every-head-and-layer",
        "In every head and layer of a trained three-layer GPT the prefix vectors of that layer "
        "leave the relative attention over what it reads as it is, and bias its output.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=every_layer.every_layer_errors,
    ),
)

"""What would refute that a prefix re-aims layers above it, and that weights learn more by it?

THEORY
    Judged each by its own measurement, of `measuring` and `paths`.
TRAINED
    Judged by the best trials of the deepest models.
PATHS
    Judged by how far each path alone stays from where the whole prefix of the new task arrives.
"""

from __future__ import annotations

from notebooks.prefix_tuning.beyond_one_layer import (
    counting,
    one_row,
    paths,
    small_shares,
    swaps,
    switch,
)
from notebooks.prefix_tuning.beyond_one_layer.plan import ELICITS, FINE_TUNING, LORA, PREFIX
from notebooks.prefix_tuning.beyond_one_layer.results import NEW, deeper_movement
from notebooks.prefix_tuning.beyond_one_layer.two_layers import (
    correction_rank,
    four_terms,
    second_logits,
)
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prefix_tuning import adapting, movement
from promptlib.prefix_tuning.reach import log_normalisers
from promptlib.prefix_tuning.trials import UNIT, Trials, sequences_tested

CHAPTER = "prefix-tuning/depth"
TOLERANCE = 1e-10
PAPER = "Petrov et al. 2024, prefixes beyond one layer"

THEORY = (
    claims.Identity(
        "second-layer-logits",
        "With a prefix in the first layer, the logits of the second are the four terms "
        r"$f_i^\top H f_j + f_i^\top H b_j + b_i^\top H f_j + b_i^\top H b_j$ of the faded stream "
        "and the bias: any number of heads and vectors, with residual stream and without.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=four_terms,
    ),
    claims.Bound(
        "correction-rank",
        "What the bias adds to the second layer's logits has rank at most $2p$ for each head of "
        "the first layer.",
        values=lambda m: m.values,
        limits=lambda m: m.limits,
        source=HERE,
        checks=correction_rank,
        search="random layers",
    ),
    claims.Identity(
        "correction-rank-reached",
        "In random layers that rank is reached, unless there are fewer positions, or fewer "
        "dimensions than prefix vectors (then it is twice the dimensions): the difference.",
        tolerance=0.5,
        source=HERE,
        checks=correction_rank,
    ),
    claims.Identity(
        "equal-shares",
        r"If one prefix vector below takes the same share $\alpha$ everywhere (one head, no "
        "residual stream), then what distinguishes one query's preferences from another's only "
        r"fades, by $(1-\alpha)^2$; the rest is one tilt for all queries.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=second_logits,
    ),
    claims.Bound(
        "no-swap",
        "One prefix vector below, which takes equal shares from two keys, cannot make two queries "
        "that disagree about these keys exchange their preferences (one head, no residual stream, "
        "nothing else between the layers).",
        values=lambda m: m.values,
        limits=0.0,
        source=HERE,
        checks=swaps.margin,
        search=lambda m: m.search,
    ),
    claims.Bound(
        "swaps",
        "Each of these alone makes the exchange possible, if the first layer's queries are "
        "linearly independent: one vector that takes unequal shares from the keys, two vectors, "
        "or one vector with equal shares and a LayerNorm before the second layer. The prefixes of "
        "the proofs swap in every problem.",
        values=lambda margins: -margins,
        limits=0.0,
        source=HERE,
        checks=swaps.margin,
        search="none: a prefix is built for each random problem",
    ),
    claims.Identity(
        "earlier-pays-more",
        "Under a causal mask every prefix takes more from the earlier $j$ of two equal tokens: the "
        r"logit of its share is larger by $\log (Z_l / Z_j) > 0$.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=log_normalisers,
    ),
    claims.Identity(
        "one-row",
        "One prefix vector in the first layer can give one query of the second layer any positive "
        "attention row, if the queries of the first are linearly independent.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=one_row.shares_for_row,
    ),
    claims.Bound(
        "count",
        "Of all rows of the second layer a prefix of length $p$ in the first can choose no more "
        "than $p(n + d_v)$ numbers, fewer than there are: the rank of their Jacobian with respect "
        "to wider keys and the values.",
        values=lambda m: m.values,
        limits=lambda m: m.limits,
        source=HERE,
        checks=counting.rank_of_rows,
        search="random layers, at random prefixes",
    ),
    claims.Bound(
        "switch",
        "Two explicit transformers whose second layer attends to the largest or smallest digits "
        "turn round under one prefix vector below, for every content: all queries alike without "
        "an MLP, and with one so that two queries exchange what they attend to; at most "
        r"$(n-1)e^{-\beta}$ of the attention goes elsewhere.",
        values=lambda m: m.values,
        limits=lambda m: m.limits,
        tolerance=1e-14,
        source=HERE,
        checks=switch.second_attention,
        search=lambda m: m.search,
    ),
    claims.Bound(
        "small-share",
        "The relative attention of the second layer moves by at most "
        r"$\tanh(\|H\|(2\eta Y + \eta^2)/2)$ in total variation if the prefix below moves no "
        r"position of the stream by more than $\eta$; and logits that move within an interval of "
        r"length $s$ move a row by at most $\tanh(s/4)$.",
        values=lambda m: m.values,
        limits=lambda m: m.limits,
        tolerance=1e-12,
        source=HERE,
        checks=small_shares.interval_limit,
        search="random layers with shares of all sizes, and random rows",
    ),
    claims.Identity(
        "small-share-reached",
        r"Two tokens with weights $1/(1 + e^{\pm s/2})$ reach $\tanh(s/4)$.",
        tolerance=1e-12,
        source=HERE,
        checks=small_shares.interval_limit,
    ),
    claims.Identity(
        "first-layer-still",
        "In trained GPTs of every depth, trained prefixes in all layers leave the relative "
        "attention of the first layer where it was.",
        tolerance=TOLERANCE,
        source=PAPER,
        checks=movement.movement,
    ),
    claims.Identity(
        "own-layer",
        "In trained GPTs, taking a layer's own prefix away moves no relative attention in that "
        "layer: whatever moves there comes from the layers below.",
        tolerance=TOLERANCE,
        source=HERE,
        checks=paths.own_layer_errors,
    ),
)


def percent(best: Trials, method: str) -> list[float]:
    """Accuracy of a method on the new task, by seed."""
    return best.where(method=method).percent(NEW)


TRAINED = (
    claims.Outcome(
        "prefix-moves-deeper",
        "A prefix trained for the new task moves more than a tenth of the relative attention of "
        "the layers above the first, in the deepest models trained here.",
        values=lambda best: [deeper_movement(one) for one in best.where(method=PREFIX)],
        above=10.0,
        unit="% of the attention, mean over rows",
        source=HERE,
        checks=movement.movement,
    ),
    claims.Outcome(
        "weights-learn",
        "Control: with as many steps, fine-tuning teaches the deepest sorter to sort more than "
        "half of the sequences the other way.",
        values=lambda best: percent(best, FINE_TUNING),
        above=50.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=sequences_tested,
    ),
    claims.Outcome(
        "elicits",
        "Control: of a model that has learned both directions, the same prefix with the same steps "
        "makes one that sorts more than three quarters of the sequences downwards.",
        values=lambda best: percent(best, ELICITS),
        above=75.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.pretrain,
        trials=sequences_tested,
    ),
    claims.Outcome(
        "prefix-does-not-learn",
        "The best prefix of the sweep, with as many parameters as LoRA on the attention and as "
        "many steps, sorts less than a quarter of the sequences the other way, in the deepest "
        "sorter.",
        values=lambda best: percent(best, PREFIX),
        below=25.0,
        unit=UNIT,
        source=HERE,
        checks=percent,
        trials=sequences_tested,
        requires=("weights-learn", "elicits"),
    ),
    claims.Outcome(
        "lora-beats-prefix",
        "With equal parameters and steps, LoRA on the attention sorts more sequences the other way "
        "than the prefix, by over ten points, in the deepest models; the difference.",
        values=lambda best: [
            lora - prefix
            for lora, prefix in zip(percent(best, LORA), percent(best, PREFIX), strict=True)
        ],
        above=10.0,
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_lora,
        resolution=lambda best: 100 / sequences_tested(best),
        requires=("elicits",),
    ),
)

PATHS = (
    claims.Outcome(
        "bias-path",
        "The bias alone, with nothing faded, brings the relative attention of the deeper layers "
        "nearer to where the whole prefix of the new task brings it than the fading alone, by more "
        "than 5 % of the way; by how much less of it is left.",
        values=lambda left: [rest["fade"] - rest["bias"] for rest in left],
        above=5.0,
        unit="% of the prefix's movement",
        source=HERE,
        checks=paths.from_whole,
        requires=("prefix-moves-deeper",),
    ),
)

"""Claims about the three steps beside full training.

Every function takes test errors, or differences of them, in percentage points, one for each round
of data and training, and the number of test bags behind each.
"""

from __future__ import annotations

from torch import Tensor

from notebooks.prompt_attention.first_gradient import full_training
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention.instances import BOOK

AFTER = "this book, after Oymak et al. 2023, contribution (2)"


def training_attends(errors: Tensor, bags: int, pooled: float, test_bags: int) -> Claim:
    """Control: full training has found the relevant tokens.

    Parameters
    ----------
    errors : Tensor, shape (seeds,)
        Test errors of trained prompt-attention, percent.
    bags : int
        Training bags.
    pooled : float
        Percent of errors of the best head on mean pooling.
    test_bags : int
        Test bags of each seed.
    """
    return claims.outcome(
        "prompt-attention/training-finds-the-prompt",
        f"With {bags:,} training bags, trained prompt-attention makes fewer errors than the "
        f"{pooled:.1f} % of the best head on mean pooling.",
        values=errors,
        limit=pooled,
        side="below",
        trials=test_bags,
        source=BOOK,
        checks=full_training.train_model,
        unit="% of test bags",
        note="a control: without it, that three steps come close to training says nothing",
    )


def rivals_learn(errors: Tensor, bags: int, pooled: float, test_bags: int) -> Claim:
    """Control: the best of the trained rivals learned something.

    Parameters as for :func:`training_attends`; the errors are those of the best rival of each seed.
    """
    return claims.outcome(
        "prompt-attention/rivals-learn",
        f"With {bags:,} training bags, the best of self-attention, linear prompt-attention and "
        f"mean pooling makes fewer errors than the {pooled:.1f} % of the best head on mean "
        "pooling.",
        values=errors,
        limit=pooled,
        side="below",
        trials=test_bags,
        source=BOOK,
        checks=full_training.train_model,
        unit="% of test bags",
        note="a control: it is no feat to beat models that did not learn",
    )


def close_to_training(gaps: Tensor, bags: int, test_bags: int, control: Claim) -> Claim:
    """Three steps (labels centred) minus trained prompt-attention.

    Parameters
    ----------
    gaps : Tensor, shape (seeds,)
        Difference of the test errors, in percentage points.
    bags : int
        Training bags of both.
    test_bags : int
        Test bags of each seed.
    control : Claim
        :func:`training_attends`.
    """
    return claims.outcome(
        "prompt-attention/three-steps-reach-training",
        f"With {bags:,} training bags, the test error of three steps with centred labels is less "
        "than 2 percentage points above that of prompt-attention trained on the same bags and "
        "stopped by validation.",
        values=gaps,
        limit=2.0,
        side="below",
        resolution=100 / test_bags,
        requires=[control],
        source=AFTER,
        checks=full_training.three_steps,
        unit="percentage points",
        note="the two points are this book's measure of close; the paper states no such comparison",
    )


def training_uses_fewer_bags(ratios: Tensor, bags: int) -> Claim:
    """The ratio of the same two errors with few bags, where training should win.

    Parameters
    ----------
    ratios : Tensor, shape (seeds,)
        Test error of three steps (labels centred) divided by that of trained prompt-attention.
    bags : int
        Training bags of both.
    """
    return claims.outcome(
        "prompt-attention/training-needs-fewer-bags",
        f"With {bags:,} training bags, three steps make more errors than prompt-attention trained "
        "on the same bags: the ratio of the test errors is above 1.",
        values=ratios,
        limit=1.0,
        side="above",
        scale="log",
        source=BOOK,
        checks=full_training.train_model,
        unit="times",
        note="a ratio, because in some rounds the steps fail altogether: their difference of up to "
        "40 points would decide alone; the difference was claimed until these rounds had been seen",
    )


def attention_beats_its_rivals(gaps: Tensor, bags: int, test_bags: int, control: Claim) -> Claim:
    """The best trained rival minus the three steps (labels centred), percentage points.

    Parameters as for :func:`close_to_training`; the control is :func:`rivals_learn`.
    """
    return claims.outcome(
        "prompt-attention/three-steps-beat-rivals",
        f"With {bags:,} training bags, three steps of prompt-attention with centred labels have a "
        "lower test error than the best of self-attention, linear prompt-attention and mean "
        "pooling, trained on the same bags.",
        values=gaps,
        limit=0.0,
        side="above",
        resolution=100 / test_bags,
        requires=[control],
        source=BOOK,
        checks=full_training.compare,
        unit="percentage points",
    )


check_public(__name__)

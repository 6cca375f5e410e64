"""Are three steps worth anything beside full training? The claims, of the errors of all rounds."""

from __future__ import annotations

from notebooks.prompt_attention.first_gradient import full_training
from promptlib import claims
from promptlib.claims import HERE

AFTER = "this book, after Oymak et al. 2023, contribution (2)"

ROWS = (
    claims.Outcome(
        "training-finds-the-prompt",
        lambda met: (
            f"With {met.most:,} training bags, trained prompt-attention makes fewer errors than "
            f"the {met.pooled:.1f} % of the best head on mean pooling."
        ),
        values=lambda met: met.prompt,
        below=lambda met: met.pooled,
        trials=lambda met: met.test_bags,
        source=HERE,
        checks=full_training.train_model,
        unit="% of test bags",
        note="a control: without it, that three steps come close to training says nothing",
    ),
    claims.Outcome(
        "rivals-learn",
        lambda met: (
            f"With {met.most:,} training bags, the best of self-attention, linear "
            f"prompt-attention and mean pooling makes fewer errors than the {met.pooled:.1f} % of "
            "the best head on mean pooling."
        ),
        values=lambda met: met.rival,
        below=lambda met: met.pooled,
        trials=lambda met: met.test_bags,
        source=HERE,
        checks=full_training.train_model,
        unit="% of test bags",
        note="a control: it is no feat to beat models that did not learn",
    ),
    claims.Outcome(
        "three-steps-reach-training",
        lambda met: (
            f"With {met.most:,} training bags, the test error of three steps with centred labels "
            "is less than 2 percentage points above that of prompt-attention trained on the same "
            "bags and stopped by validation."
        ),
        values=lambda met: met.excess,
        below=2.0,
        resolution=lambda met: 100 / met.test_bags,
        requires=["training-finds-the-prompt"],
        source=AFTER,
        checks=full_training.three_steps,
        unit="percentage points",
        note="the two points are this book's measure of close; the paper states no such comparison",
    ),
    claims.Outcome(
        "training-needs-fewer-bags",
        lambda met: (
            f"With {met.fewest:,} training bags, three steps make more errors than "
            "prompt-attention trained on the same bags: the ratio of the test errors is above 1."
        ),
        values=lambda met: met.ratio,
        above=1.0,
        scale="log",
        source=HERE,
        checks=full_training.train_model,
        unit="times",
        note="a ratio, because in some rounds the steps fail altogether: their difference of up to "
        "40 points would decide alone; the difference was claimed until these rounds had been seen",
    ),
    claims.Outcome(
        "three-steps-beat-rivals",
        lambda met: (
            f"With {met.most:,} training bags, three steps of prompt-attention with centred "
            "labels have a lower test error than the best of self-attention, linear "
            "prompt-attention and mean pooling, trained on the same bags."
        ),
        values=lambda met: met.lead,
        above=0.0,
        resolution=lambda met: 100 / met.test_bags,
        requires=["rivals-learn"],
        source=HERE,
        checks=full_training.compare,
        unit="percentage points",
    ),
)

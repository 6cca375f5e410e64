"""What would refute that a prompt needs fewer bags than a layer?"""

from __future__ import annotations

from notebooks.prompt_attention.prompt_or_finetune.attention_layer import layer_scores
from notebooks.prompt_attention.prompt_or_finetune.training import train_few_samples
from promptlib import claims
from promptlib.claims import HERE

CONTAINS = claims.Identity(
    "layer-contains-prompt",
    "The attention layer with a query bias equals prompt-attention when its query matrix is zero, "
    "its key and value matrices are the identity, and its bias is the prompt.",
    tolerance=1e-10,
    source=HERE,
    checks=layer_scores,
)

ROWS = (
    claims.Outcome(
        "both-learn-attention",
        lambda met: (
            f"With {met.most:,} bags the worse of prompt and whole layer makes fewer mistakes than "
            f"the {100 * met.pooled:.1f} % of the best head on mean pooling."
        ),
        values=lambda met: met.worse,
        below=lambda met: 100 * met.pooled,
        trials=lambda met: met.test_bags,
        unit="% of test bags",
        source=HERE,
        checks=train_few_samples,
        note="a control: a comparison with a learner that never learns says nothing",
    ),
    claims.Outcome(
        "prompt-wins-on-few-bags",
        lambda met: (
            f"Between {min(met.window) / met.dim:g} and {max(met.window) / met.dim:g} bags per "
            "dimension prompt and head make fewer mistakes than the whole layer, tuned as widely: "
            "the difference of the mean test errors is above zero."
        ),
        values=lambda met: met.excess(met.window),
        above=0.0,
        resolution=lambda met: 100 / met.test_bags,
        requires=["both-learn-attention"],
        unit="percentage points fewer",
        source=HERE,
        checks=train_few_samples,
        note="the window of bags was chosen after the first runs, as the sizes at which the prompt "
        "is being found",
    ),
    claims.Outcome(
        "layer-catches-up",
        lambda met: (
            f"With {met.most / met.dim:g} bags per dimension the test error of the whole layer is "
            "less than one percentage point above that of prompt and head."
        ),
        values=lambda met: met.excess([met.most]),
        below=1.0,
        resolution=lambda met: 100 / met.test_bags,
        requires=["both-learn-attention"],
        unit="percentage points more",
        source=HERE,
        checks=train_few_samples,
        note="one point is this book's measure of as good",
    ),
)

"""Claims about the three steps beside full training."""

from __future__ import annotations

from torch import Tensor

from promptlib import claims
from promptlib.claims import Claim
from promptlib.prompt_attention.first_gradient.instances import BOOK, LIBRARY, PAPER


def close_to_training(gaps: Tensor, bags: int) -> Claim:
    """Three steps (labels centred) minus fully trained prompt-attention, percentage points.

    Parameters
    ----------
    gaps : Tensor, shape (seeds,)
        Difference of the test errors, in percentage points.
    bags : int
        Training bags of both.
    """
    return claims.outcome(
        "prompt-attention/three-steps-reach-training",
        f"With {bags:,} training bags, three steps with centred labels come within 2 percentage "
        f"points "
        "of prompt-attention trained to the end.",
        values=gaps,
        source=PAPER,
        checks=f"{LIBRARY}.full_training.three_steps",
        unit="percentage points",
        refuted_if=(">", 2.0),
    )


def training_uses_fewer_bags(gaps: Tensor, bags: int) -> Claim:
    """The same difference with few bags, where training should win.

    Parameters and units as for :func:`close_to_training`.
    """
    return claims.outcome(
        "prompt-attention/training-needs-fewer-bags",
        f"With {bags:,} training bags, prompt-attention trained to the end has a lower test error "
        f"than "
        "three steps: the steps find the direction, not the best use of few samples.",
        values=gaps,
        source=BOOK,
        checks=f"{LIBRARY}.full_training.train_model",
        unit="percentage points",
        refuted_if=("<", 0.0),
    )


def attention_beats_its_rivals(gaps: Tensor, bags: int) -> Claim:
    """The best fully trained rival minus the three steps (labels centred), percentage points.

    Parameters and units as for :func:`close_to_training`.
    """
    return claims.outcome(
        "prompt-attention/three-steps-beat-rivals",
        f"With {bags:,} training bags, three steps of prompt-attention with centred labels have a "
        f"lower "
        "test error than self-attention, linear prompt-attention and mean pooling trained to the "
        "end.",
        values=gaps,
        source=BOOK,
        checks=f"{LIBRARY}.full_training.compare",
        unit="percentage points",
        refuted_if=("<", 0.0),
    )

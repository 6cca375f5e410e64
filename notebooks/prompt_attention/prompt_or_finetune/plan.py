"""Which learners get the same few bags and the same effort? The experiment, as data.

Three learners get the same labelled bags and the same effort of tuning:

``prompt``
    a prompt and a head; the layer stays as it is: 2d numbers;
``layer``
    all weights of the layer, from the same start: 3d² + 2d numbers;
``layer, random start``
    all weights of the layer, from the usual random start.

Of the ``n`` bags a quarter is kept for validation. Each learner is trained once for every learning
rate and weight decay of its grid, and looked at every ``check_every`` steps; the setting and the
step with the smallest validation loss are what it hands in. This module does not load torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from promptlib.checks import check_public
from promptlib.prefix_tuning.trials import Plan, labelled
from promptlib.runs import Run

__all__ = ["LEARNERS", "plan"]

LEARNERS = ("prompt", "layer", "layer, random start")

LEARNING_RATES = {
    "prompt": (0.03, 0.1, 0.3),
    "layer": (0.01, 0.03, 0.1),
    "layer, random start": (0.01, 0.03, 0.1),
}
"""Three for each learner; the chapter shows which of them validation chose."""

WEIGHT_DECAYS = {
    "prompt": (0.0, 0.1, 1.0),
    "layer": (0.0, 1.0, 3.0),
    "layer, random start": (0.0, 1.0, 3.0),
}
"""Three for each learner: what moves farther at a smaller learning rate needs more."""

TRAIN = "notebooks.prompt_attention.prompt_or_finetune.training:train_few_samples"


def plan(
    *,
    dim: int = 16,
    tokens: int = 20,
    sparsity: float = 0.1,
    context_norm: float = 2.0,
    signal_norm: float = 1.0,
    noise_std: float = 1.0,
    sizes: Sequence[int] = (64, 128, 192, 256, 512, 1024),
    seeds: int = 6,
    first_seed: int = 0,
    steps: int = 240,
    batch: int = 32,
    check_every: int = 20,
    test_bags: int = 4000,
) -> Plan:
    """The runs for one mixture, one for each ``learner`` and seed: each learns from all sizes."""
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if isinstance(first_seed, bool) or not isinstance(first_seed, int) or first_seed < 0:
        raise ValueError(f"first_seed must be a whole number of at least 0, got {first_seed!r}")
    if not sizes or min(sizes) < 8:
        raise ValueError(f"sizes must be numbers of at least 8 bags, got {tuple(sizes)}")
    if steps < 1 or check_every < 1 or steps % check_every:
        raise ValueError(f"steps must be a multiple of check_every, got {steps} and {check_every}")
    mixture = {
        "dim": dim,
        "tokens": tokens,
        "sparsity": sparsity,
        "context_norm": context_norm,
        "signal_norm": signal_norm,
        "noise_std": noise_std,
    }
    runs = Plan(())
    for learner in LEARNERS:
        shared = {
            "learner": learner,
            "mixture": mixture,
            "sizes": list(sizes),
            "learning_rates": list(LEARNING_RATES[learner]),
            "weight_decays": list(WEIGHT_DECAYS[learner]),
            "steps": steps,
            "batch": batch,
            "check_every": check_every,
            "test_bags": test_bags,
        }
        numbers = range(first_seed, first_seed + seeds)
        runs += labelled([Run(TRAIN, {**shared, "seed": one}) for one in numbers], learner=learner)
    return runs


check_public(__name__)

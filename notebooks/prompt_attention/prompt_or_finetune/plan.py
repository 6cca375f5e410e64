"""When does a prompt beat fine-tuning? The experiment of that chapter, as data.

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
from dataclasses import dataclass
from typing import Any

from promptlib.checks import check_public
from promptlib.runs import Run, RunStore

__all__ = ["LEARNERS", "FewSamplesPlan", "plan"]

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


@dataclass(frozen=True)
class FewSamplesPlan:
    """All runs of the experiment."""

    runs: dict[tuple[str, int], Run]  # One run for each learner and seed
    sizes: tuple[int, ...]  # Numbers of labelled bags

    def __iter__(self) -> Any:
        return iter(self.runs.values())

    def errors(self, learner: str, store: RunStore | None = None) -> list[list[float]]:
        """Test errors of a learner: one row for each seed, one column for each size."""
        return [
            [row["test_error"] for row in self.chosen(learner, seed, store)]
            for name, seed in self.runs
            if name == learner
        ]

    def chosen(
        self, learner: str, seed: int, store: RunStore | None = None
    ) -> list[dict[str, Any]]:
        """What validation chose for each size: setting, step, validation loss, test error."""
        result = (store or RunStore.default()).get(self.runs[learner, seed])
        return list(result.metrics["chosen"])

    def errors_at_decay(
        self, learner: str, weight_decay: float, store: RunStore | None = None
    ) -> list[list[float]]:
        """Test errors had the learner been tuned with this weight decay only; as :meth:`errors`."""
        store = store or RunStore.default()
        return [
            [
                row["test_error"]
                for row in store.get(run).metrics["by_weight_decay"][f"{weight_decay:g}"]
            ]
            for (name, _), run in self.runs.items()
            if name == learner
        ]


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
) -> FewSamplesPlan:
    """The runs for one mixture."""
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if isinstance(first_seed, bool) or not isinstance(first_seed, int) or first_seed < 0:
        raise ValueError(f"first_seed must be a whole number of at least 0, got {first_seed!r}")
    if not sizes or min(sizes) < 8:
        raise ValueError(f"sizes must be numbers of at least 8 bags, got {tuple(sizes)}")
    if steps < 1 or check_every < 1 or steps % check_every:
        raise ValueError(f"steps must be a multiple of check_every, got {steps} and {check_every}")
    runs = {
        (learner, seed): Run(
            TRAIN,
            {
                "learner": learner,
                "seed": seed,
                "mixture": {
                    "dim": dim,
                    "tokens": tokens,
                    "sparsity": sparsity,
                    "context_norm": context_norm,
                    "signal_norm": signal_norm,
                    "noise_std": noise_std,
                },
                "sizes": list(sizes),
                "learning_rates": list(LEARNING_RATES[learner]),
                "weight_decays": list(WEIGHT_DECAYS[learner]),
                "steps": steps,
                "batch": batch,
                "check_every": check_every,
                "test_bags": test_bags,
            },
        )
        for learner in LEARNERS
        for seed in range(first_seed, first_seed + seeds)
    }
    return FewSamplesPlan(runs, tuple(sizes))


check_public(__name__)

"""What the claims of the chapter *The first gradient finds the prompt* share."""

from __future__ import annotations

import torch

from promptlib.checks import check_public
from promptlib.prompt_attention.mixture import ContextualMixture

PAPER = "Oymak et al. 2023, contribution (2)"


def random_mixture(generator: torch.Generator, **fixed: object) -> ContextualMixture:
    """A mixture with random parameters; `fixed` ones are kept."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    tokens = int(torch.randint(2, 40, (), generator=generator))
    kinds = int(torch.randint(1, 4, (), generator=generator))
    weights = [uniform(0.1, 1.0) for _ in range(kinds)]
    parameters: dict[str, object] = {
        "dim": int(torch.randint(2, 9, (), generator=generator)),
        "tokens": tokens,
        "sparsity": int(torch.randint(1, tokens, (), generator=generator)) / tokens,
        "context_norm": uniform(0.3, 3.0),
        "signal_norm": uniform(0.3, 3.0),
        "noise_std": uniform(0.0, 2.0),
        "cosine": uniform(-0.95, 0.95),
        "deviations": tuple((uniform(0.0, 3.0), uniform(-3.0, 3.0)) for _ in range(kinds)),
        "probabilities": tuple(weight / sum(weights) for weight in weights),
    }
    return ContextualMixture(**{**parameters, **fixed})  # type: ignore[arg-type]


check_public(__name__)

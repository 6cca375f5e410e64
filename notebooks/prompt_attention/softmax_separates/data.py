"""Is the data what the chapter says, and are the models?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from promptlib.prompt_attention import models
from promptlib.prompt_attention.deviations import Comparison
from promptlib.prompt_attention.instances import (
    every_case,
    normal,
    random_mixtures,
)
from promptlib.prompt_attention.mixture import Bags, ContextualMixture
from promptlib.prompt_attention.population import (
    PLANE_MODELS,
    PlaneModel,
    Population,
)

BAGS = 20_000
"""Sampled bags behind the moments."""


def token_moments(mixture: ContextualMixture) -> dict[str, Tensor]:
    r"""Expectations over bags, averaged over positions, from the definition of the mixture."""
    share, q, w = mixture.sparsity, mixture.context, mixture.signal
    delta_q, delta_w = mixture.deviation_table.T
    weights = mixture.deviation_probabilities
    squares = [(weights * product).sum() for product in (delta_q**2, delta_w**2, delta_q * delta_w)]
    qq, ww, qw = torch.outer(q, q), torch.outer(w, w), torch.outer(q, w)
    noise = mixture.noise_std**2 * torch.eye(mixture.dim, dtype=mixture.dtype)
    return {
        "share": torch.tensor(share, dtype=mixture.dtype),
        "mean": (share - (1 - share) * (weights * delta_q).sum()) * q,
        "signed mean": (share - (1 - share) * (weights * delta_w).sum()) * w,
        "second": share * (qq + ww) + (1 - share) * (squares[0] * qq + squares[1] * ww + noise),
        "signed second": (share + (1 - share) * squares[2]) * (qw + qw.T),
    }


def sampled_moments(
    seed: int,
    n: int = BAGS,
    sample: Callable[[ContextualMixture, int, torch.Generator], Bags] = ContextualMixture.sample,
) -> Comparison:
    """The moments of sampled bags against the model's, in standard errors."""
    mixture = ContextualMixture(
        dim=3,
        tokens=10,
        sparsity=0.3,
        context_norm=1.2,
        signal_norm=0.8,
        noise_std=0.7,
        cosine=0.4,
        deviations=((0.0, 0.0), (1.5, 0.5), (0.5, -1.0)),
        probabilities=(0.5, 0.2, 0.3),
    )
    bags = sample(mixture, n, torch.Generator().manual_seed(seed))
    tokens, labels = bags.tokens, bags.labels
    second = torch.einsum("nti,ntj->nij", tokens, tokens) / mixture.tokens
    statistics = {
        "share": bags.relevant.to(tokens.dtype),  # one for each position
        "mean": tokens.mean(dim=1),
        "signed mean": labels[:, None] * tokens.mean(dim=1),
        "second": second,
        "signed second": labels[:, None, None] * second,
    }
    rows = []
    for name, expected in token_moments(mixture).items():
        draws = statistics[name].reshape(n, -1)
        predicted = expected.expand(statistics[name].shape[1:]).reshape(-1)
        rows.append((predicted, draws.mean(dim=0), draws.std(dim=0) / n**0.5))
    return Comparison.of(rows)


def prompted_layer_errors(
    seed: int,
    instances: int = 50,
    layer: Callable[..., tuple[Tensor, Tensor]] = models.prompted_layer,
    model: Callable[..., Tensor] = models.prompt_attention,
) -> Tensor:
    """A layer with prompts among its queries: the frozen part, and prompt-attention beside it."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for _ in range(instances):
        X, P = normal(generator, 3, 7, 5), normal(generator, 2, 5)
        W_Q, W_K, W_V = (normal(generator, 5, width) for width in (11, 11, 13))
        head = normal(generator, 13)
        read, frozen = layer(X, P, W_Q, W_K, W_V)
        untouched = torch.softmax(X @ W_Q @ (X @ W_K).mT, dim=-1) @ X @ W_V
        errors.append((frozen - untouched).abs().max())
        for row in range(2):
            score = model(X, W_V @ head, W_K @ W_Q.T @ P[row])
            errors.append((read[:, row] @ head - score).abs().max())
    return torch.stack(errors)


def plane_errors(
    seed: int,
    instances: int = 60,
    plane_models: Mapping[str, PlaneModel] = PLANE_MODELS,
) -> Tensor:
    """Scores of whole bags against the scores that the two kinds of token determine."""
    full: dict[str, Callable[..., Tensor]] = {
        "prompt-attention": models.prompt_attention,
        "self-attention": models.self_attention,
        "linear-attention": models.linear_attention,
        "mean-pooling": models.mean_pooling,
    }
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for mixture in random_mixtures(generator, instances):
        bags, case = every_case(mixture, generator)
        for name, model in full.items():
            weights = {
                key: normal(generator, *(mixture.dim for _ in shape)) / mixture.dim ** len(shape)
                for key, shape in plane_models[name].sizes.items()
            }
            # The plane of q* and w* is that of the first two axes.
            inside = {key: weight[(slice(2),) * weight.dim()] for key, weight in weights.items()}
            reading = plane_models[name].read(Population.of(mixture), **inside)
            scores = model(bags.tokens, *weights.values())
            errors.append((scores - reading.scores[case]).abs().max())
    return torch.stack(errors)

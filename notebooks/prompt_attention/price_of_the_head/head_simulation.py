r"""What does the learned head cost when one simply learns it? The reference for the formulas.

Two simulations, from the data upwards:

``simulate_on_tokens``
    bags of the contextual mixture, softmax attention with the prompt :math:`\kappa q_\star`, a
    ridge head on the pooled features, mistakes counted on fresh bags. Nothing of the theory is in
    it but the projection on the complement of :math:`q_\star`, which can be left out.
``simulate_on_features``
    the features drawn from their exact law (module ``feature_law``), and the error of the learned
    head by its Gaussian tail: the same expectation with less noise and a hundredth of the work.

Bags are drawn in batches, so that their tokens never take more than a stated amount of memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptlib.attention import attend
from promptlib.checks import check_public
from promptlib.progress import progress_bar
from promptlib.prompt_attention.core_model import require_core
from promptlib.prompt_attention.feature_law import feature_law
from promptlib.prompt_attention.mixture import ContextualMixture

__all__ = [
    "MEMORY_MIB",
    "SimulatedErrors",
    "learned_heads",
    "pooled_features",
    "simulate_on_features",
    "simulate_on_tokens",
]

MEMORY_MIB = 64.0
"""Default limit for the tokens of one batch of bags."""

Progress = Callable[..., Iterable[Any]]


class SimulatedErrors(NamedTuple):
    """Test errors of learned heads."""

    errors: Tensor  # (repetitions, heads): one row for each training set, one column for each ridge

    @property
    def mean(self) -> Tensor:
        """Mean over training sets, shape (heads,)."""
        return self.errors.mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of :attr:`mean`, shape (heads,)."""
        return self.errors.std(0) / math.sqrt(len(self.errors))


def learned_heads(features: Tensor, ridges: Sequence[float]) -> Tensor:
    r"""Ridge heads on labelled features, all ridges from one decomposition.

    .. math:: \hat w = \Big(\sum_i u_i u_i^\top + n\lambda I\Big)^{-1} \sum_i u_i,
        \qquad u_i = y_i v_i

    Ridge 0 is the minimum-norm least-squares head, inf the average of the rows.
    Shapes: features (n, p) -> (len(ridges), p).
    """
    samples, dim = features.shape
    wide = samples < dim
    gram = (features @ features.T if wide else features.T @ features) / samples
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    target = features.new_ones(samples) if wide else features.mean(0)
    turned = vectors.T @ target
    heads = []
    for ridge in ridges:
        if not ridge >= 0:
            raise ValueError(f"ridge must be a number >= 0, got {ridge}")
        if math.isinf(ridge):
            heads.append(features.mean(0))
            continue
        kept = values > values.max() * samples * 1e-14 if ridge == 0 else values >= 0
        inverse = torch.where(kept, 1 / (values + ridge).clamp_min(1e-300), 0.0)
        solved = vectors @ (inverse * turned)
        heads.append(features.T @ solved / samples if wide else solved)
    return torch.stack(heads)


def pooled_features(tokens: Tensor, prompt: Tensor, away_from: Tensor | None = None) -> Tensor:
    r"""What prompt-attention hands to its head: :math:`X^\top \varphi(Xq)`.

    Shapes: tokens (n, T, d), prompt (d,), away_from (d,), optional -> (n, d).
    """
    pooled, _ = attend(prompt[None, :], tokens, tokens, scale=1.0)  # (n, 1, d)
    pooled = pooled[:, 0]
    if away_from is not None:
        direction = away_from / away_from.norm()
        pooled = pooled - (pooled @ direction)[:, None] * direction
    return pooled


def simulate_on_tokens(
    mixture: ContextualMixture,
    scale: float,
    samples: int,
    ridges: Sequence[float],
    repetitions: int,
    generator: torch.Generator,
    *,
    test_bags: int = 1000,
    project: bool = True,
    memory_mib: float = MEMORY_MIB,
    progress: Progress = progress_bar,
) -> SimulatedErrors:
    r"""Learn the head from bags, and count its mistakes on other bags."""
    _check(mixture, samples, repetitions)
    bytes_per_bag = mixture.dtype.itemsize * mixture.tokens * mixture.dim
    batch = int(memory_mib * 2**20 / bytes_per_bag)
    if batch < 1:
        raise ValueError(
            f"one bag of {mixture.tokens} tokens of width {mixture.dim} does not fit into "
            f"memory_mib={memory_mib}"
        )
    prompt = scale * mixture.context
    away_from = mixture.context if project else None

    def labelled(count: int) -> Tensor:
        parts = []
        while count > 0:
            bags = mixture.sample(min(count, batch), generator)
            parts.append(bags.labels[:, None] * pooled_features(bags.tokens, prompt, away_from))
            count -= len(bags.labels)
        return torch.cat(parts).double()

    rows = []
    for _ in progress(range(repetitions), "learning heads on bags", total=repetitions):
        heads = learned_heads(labelled(samples), ridges)
        # A score of exactly zero is a coin toss.
        margins = labelled(test_bags) @ heads.T
        rows.append(((margins < 0) + 0.5 * (margins == 0)).to(heads.dtype).mean(0))
    return SimulatedErrors(torch.stack(rows))


def simulate_on_features(
    mixture: ContextualMixture,
    scale: float,
    samples: int,
    ridges: Sequence[float],
    repetitions: int,
    generator: torch.Generator,
    *,
    test_draws: int = 1000,
    memory_mib: float = MEMORY_MIB,
    progress: Progress = progress_bar,
) -> SimulatedErrors:
    r"""Learn the head from features drawn from their exact law in :math:`d-1` dimensions.

    Parameters and errors as for :func:`simulate_on_tokens`. ``test_draws`` is the number of fresh
    attention weights for each training set, over which the error
    :math:`\Phi(-x\,\hat w_1/(\tau|\hat w|))` is averaged; ``memory_mib`` limits features and
    logits.
    """
    _check(mixture, samples, repetitions)
    dim = mixture.dim - 1
    needed = 8 * (samples * dim + max(samples, test_draws) * mixture.tokens) / 2**20
    if needed > memory_mib:
        raise ValueError(
            f"{samples} features of width {dim} with {mixture.tokens} tokens take "
            f"{needed:.0f} MiB, more than memory_mib={memory_mib}"
        )
    rows = []
    for _ in progress(range(repetitions), "learning heads on features", total=repetitions):
        law = feature_law(mixture, scale, generator, samples)
        noise = torch.randn(samples, dim, generator=generator, dtype=torch.float64)
        features = law.noise[:, None] * noise
        features[:, 0] += law.signal
        heads = learned_heads(features, ridges)  # (heads, d - 1)
        cosine = heads[:, 0] / heads.norm(dim=1)
        fresh = feature_law(mixture, scale, generator, test_draws)
        arguments = -(fresh.signal / fresh.noise)[:, None] * cosine
        rows.append(torch.special.ndtr(arguments).mean(0))
    return SimulatedErrors(torch.stack(rows))


def _check(mixture: ContextualMixture, samples: int, repetitions: int) -> None:
    require_core(mixture)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if repetitions < 2:
        raise ValueError(f"repetitions must be at least 2 for a standard error, got {repetitions}")


check_public(__name__)

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

CACHED_MIB = 1.0
"""Training sets drawn together take no more: what a processor keeps at hand."""

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
    r"""Ridge heads on labelled features, for many training sets and ridges at once.

    .. math:: \hat w = \Big(\sum_i u_i u_i^\top + n\lambda I\Big)^{-1} \sum_i u_i,
        \qquad u_i = y_i v_i

    Ridge 0 is the minimum-norm least-squares head, inf the average of the rows.
    Shapes: features (..., n, p) -> (..., len(ridges), p).
    """
    for ridge in ridges:
        if not ridge >= 0:
            raise ValueError(f"ridge must be a number >= 0, got {ridge}")
    average = features.mean(-2)
    finite = [ridge for ridge in ridges if not math.isinf(ridge)]
    solved = iter(_ridge_heads(features, average, finite).unbind(-2) if finite else ())
    heads = [average if math.isinf(ridge) else next(solved) for ridge in ridges]
    return torch.stack(heads, dim=-2)


def _ridge_heads(features: Tensor, average: Tensor, ridges: Sequence[float]) -> Tensor:
    """Finite ridges: (..., n, p) and (..., p) -> (..., len(ridges), p)."""
    samples, dim = features.shape[-2:]
    wide = samples < dim
    gram = (features @ features.mT if wide else features.mT @ features) / samples
    strengths = features.new_tensor(ridges)[:, None]
    shifted = gram.unsqueeze(-3) + torch.diag_embed(strengths.expand(-1, gram.shape[-1]))
    target = torch.ones_like(features[..., 0]) if wide else average
    target = target[..., None, :, None].expand(*shifted.shape[:-1], 1)
    factors, failed = torch.linalg.cholesky_ex(shifted)
    solved = torch.cholesky_solve(target, factors)
    pivots = factors.diagonal(dim1=-2, dim2=-1).square()
    smallest = samples * 1e-14  # relative to the largest: below is rounding
    singular = (failed > 0) | ~(pivots.amin(-1) > smallest * pivots.amax(-1))
    if singular.any():
        inverses = torch.linalg.pinv(shifted[singular], rtol=smallest, hermitian=True)
        solved[singular] = inverses @ target[singular]
    solved = solved[..., 0]
    return solved @ features / samples if wide else solved


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
    if bytes_per_bag > memory_mib * 2**20:
        raise ValueError(
            f"one bag of {mixture.tokens} tokens of width {mixture.dim} does not fit into "
            f"memory_mib={memory_mib}"
        )
    batch = max(1, int(min(memory_mib, CACHED_MIB) * 2**20 / bytes_per_bag))
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
    test_draws: int = 300,
    memory_mib: float = MEMORY_MIB,
    progress: Progress = progress_bar,
) -> SimulatedErrors:
    r"""Learn the head from features drawn from their exact law in :math:`d-1` dimensions.

    Parameters and errors as for :func:`simulate_on_tokens`. ``test_draws`` is the number of fresh
    attention weights for each training set, over which the error
    :math:`\Phi(-x\,\hat w_1/(\tau|\hat w|))` is averaged: more would not help, since heads differ
    more than these averages do; ``memory_mib`` limits features and
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
    at_once = max(1, int(CACHED_MIB / needed))
    blocks = [min(at_once, repetitions - begin) for begin in range(0, repetitions, at_once)]
    rows = []
    for sets in progress(blocks, "learning heads on features", total=len(blocks)):
        law = feature_law(mixture, scale, generator, sets * samples)
        shape = (sets, samples, dim)
        features = torch.randn(shape, generator=generator, dtype=torch.float64)
        features *= law.noise.view(sets, samples, 1)
        features[..., 0] += law.signal.view(sets, samples)
        heads = learned_heads(features, ridges)  # (sets, heads, d - 1)
        cosine = heads[..., 0] / heads.norm(dim=-1)
        fresh = feature_law(mixture, scale, generator, sets * test_draws)
        ratio = (fresh.signal / fresh.noise).view(sets, 1, test_draws)
        rows.append(torch.special.ndtr(-ratio * cosine[..., None]).mean(-1))
    return SimulatedErrors(torch.cat(rows))


def _check(mixture: ContextualMixture, samples: int, repetitions: int) -> None:
    require_core(mixture)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if repetitions < 2:
        raise ValueError(f"repetitions must be at least 2 for a standard error, got {repetitions}")


check_public(__name__)

r"""What does the data look like when only some tokens matter, and a context vector says which?

The contextual mixture of Part I, after Oymak et al. 2023. A sample is a bag of ``T`` tokens in
:math:`\mathbb R^d`, the rows of ``X``, with a label :math:`y = \pm 1`, both equally likely. A set
``R`` of :math:`m = \zeta T` tokens is relevant:

.. math::

    x_t = \begin{cases}
        q^\star + y\, w^\star & t \in R, \\
        -\delta_q q^\star - \delta_w y\, w^\star + z_t, \quad z_t \sim N(0, \sigma^2 I_d)
            & t \notin R.
    \end{cases}

Symbols: context vector :math:`q^\star` of norm ``Q``, signal vector :math:`w^\star` of norm ``W``,
their cosine :math:`\rho`, sparsity :math:`\zeta`, noise :math:`\sigma`, and the deviations
:math:`(\delta_q, \delta_w)`, drawn once for each sample from a finite set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = ["Bags", "ContextualMixture"]


class Bags(NamedTuple):
    """Samples of a :class:`ContextualMixture`.

    Attributes
    ----------
    tokens : Tensor, shape (n, T, d)
    labels : Tensor, shape (n,)
        Each +1 or -1, in the dtype of the tokens.
    relevant : Tensor of bool, shape (n, T)
        True on the ``m`` relevant tokens of each bag.
    """

    tokens: Tensor
    labels: Tensor
    relevant: Tensor


@dataclass(frozen=True)
class ContextualMixture:
    r"""The distribution of bags described at the top of this module.

    Parameters
    ----------
    dim : int
        Width ``d`` of a token, at least 2.
    tokens : int
        Tokens in a bag, ``T``.
    sparsity : float
        Share :math:`\zeta` of relevant tokens, in (0, 1); ``sparsity * tokens`` is an integer.
    context_norm, signal_norm : float
        ``Q`` and ``W``, positive.
    noise_std : float
        :math:`\sigma \ge 0`, the noise on each coordinate of an irrelevant token.
    cosine : float
        :math:`\rho`, the cosine of the angle between :math:`q^\star` and :math:`w^\star`, in
        (-1, 1).
    deviations : tuple of pairs
        The values that :math:`(\delta_q, \delta_w)` takes; every :math:`\delta_q \ge 0`.
    probabilities : tuple of float, optional
        Their probabilities; equally likely by default.
    dtype : torch.dtype
        Of everything that the mixture returns.

    Raises
    ------
    ValueError
        If a parameter lies outside its range; the message names the value and the remedy.

    Notes
    -----
    Coordinates are chosen so that :math:`q^\star` lies along the first axis and :math:`w^\star` in
    the plane of the first two. No model of this book prefers an axis, so nothing is lost.

    The *core* model has the one deviation (0, 0); the *discrete* model has ``noise_std = 0``.

    Examples
    --------
    >>> mixture = ContextualMixture(dim=3, tokens=4, sparsity=0.25, deviations=((2.0, 1.0),))
    >>> bags = mixture.sample(1, torch.Generator().manual_seed(0))
    >>> bags.labels.tolist(), bags.relevant.tolist()
    ([-1.0], [[False, False, False, True]])
    >>> bags.tokens[0].tolist()  # q* - w* where relevant, -2 q* + w* elsewhere
    [[-2.0, 1.0, 0.0], [-2.0, 1.0, 0.0], [-2.0, 1.0, 0.0], [1.0, -1.0, 0.0]]
    """

    dim: int
    tokens: int
    sparsity: float
    context_norm: float = 1.0
    signal_norm: float = 1.0
    noise_std: float = 0.0
    cosine: float = 0.0
    deviations: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    probabilities: tuple[float, ...] | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        _require_integer("dim", self.dim, least=2, why="q* and w* need two directions")
        _require_integer("tokens", self.tokens, least=2, why="a bag holds both kinds of token")
        for name in ("sparsity", "context_norm", "signal_norm", "noise_std", "cosine"):
            _require_finite(name, getattr(self, name))
        if not 0 < self.sparsity < 1:
            raise ValueError(
                f"sparsity must lie in (0, 1), got {self.sparsity}; it is the share of relevant "
                f"tokens, such as 1/{self.tokens} for one in {self.tokens}"
            )
        count = self.sparsity * self.tokens
        whole = abs(count - round(count)) <= 1e-9 * self.tokens
        if not whole or not 1 <= round(count) <= self.tokens - 1:
            nearest = min(max(round(count), 1), self.tokens - 1)
            raise ValueError(
                f"sparsity * tokens must be an integer between 1 and tokens - 1, got "
                f"{self.sparsity} * {self.tokens} = {count:g}; the nearest choice is "
                f"sparsity={nearest}/{self.tokens}"
            )
        for name in ("context_norm", "signal_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.noise_std < 0:
            raise ValueError(f"noise_std must be >= 0, got {self.noise_std}")
        if not -1 < self.cosine < 1:
            raise ValueError(
                f"cosine must lie in (-1, 1), got {self.cosine}; at -1 and 1 the context says "
                f"nothing that the signal does not say"
            )
        if not self.dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {self.dtype}")
        object.__setattr__(self, "deviations", _checked_deviations(self.deviations))
        if self.probabilities is not None:
            checked = _checked_probabilities(self.probabilities, len(self.deviations))
            object.__setattr__(self, "probabilities", checked)

    @property
    def relevant_tokens(self) -> int:
        """``m``, the number of relevant tokens in a bag."""
        return round(self.sparsity * self.tokens)

    @property
    def context(self) -> Tensor:
        """The context vector q*, shape (d,)."""
        return self._vector(self.context_norm, 0.0)

    @property
    def signal(self) -> Tensor:
        """The signal vector w*, shape (d,)."""
        sine = math.sqrt((1.0 - self.cosine) * (1.0 + self.cosine))
        return self._vector(self.signal_norm * self.cosine, self.signal_norm * sine)

    @property
    def context_only(self) -> Tensor:
        """The part of q* orthogonal to w*, shape (d,); its squared norm is Q²(1 - ρ²)."""
        return _remainder(self.context, self.signal)

    @property
    def signal_only(self) -> Tensor:
        """The part of w* orthogonal to q*, shape (d,); its squared norm is W²(1 - ρ²)."""
        return _remainder(self.signal, self.context)

    @property
    def deviation_table(self) -> Tensor:
        """The values of (δq, δw), shape (k, 2)."""
        return torch.tensor(self.deviations, dtype=self.dtype)

    @property
    def deviation_probabilities(self) -> Tensor:
        """The probability of each row of :attr:`deviation_table`, shape (k,)."""
        count = len(self.deviations)
        shares = self.probabilities if self.probabilities is not None else (1.0 / count,) * count
        return torch.tensor(shares, dtype=self.dtype)

    def sample(self, n: int, generator: torch.Generator) -> Bags:
        """Draw independent bags; labels, relevant sets and deviations anew for each.

        Parameters
        ----------
        n : int
            Number of bags, at least 1.
        generator : torch.Generator
            Where the randomness comes from; the bags live on its device.

        Returns
        -------
        Bags
            tokens (n, T, d), labels (n,) of ±1, relevant (n, T) of bool.
        """
        _require_integer("n", n, least=1, why="a sample needs a bag")
        if not isinstance(generator, torch.Generator):
            raise ValueError(
                f"generator must be a torch.Generator, got {generator!r}; "
                f"use torch.Generator().manual_seed(0)"
            )
        device = generator.device
        labels = 2.0 * torch.randint(0, 2, (n,), generator=generator, device=device) - 1.0
        # A uniform permutation of the positions; the first m ranks are relevant.
        ranks = torch.rand(n, self.tokens, generator=generator, device=device).argsort(dim=1)
        chosen = torch.multinomial(
            self.deviation_probabilities.to(device), n, replacement=True, generator=generator
        )
        noise = None
        if self.noise_std > 0:
            shape = (n, self.tokens, self.dim)
            noise = self.noise_std * torch.randn(
                shape, generator=generator, device=device, dtype=self.dtype
            )
        labels = labels.to(self.dtype)
        relevant = ranks < self.relevant_tokens
        deviations = self.deviation_table.to(device)[chosen]
        return Bags(self.compose(labels, relevant, deviations, noise), labels, relevant)

    def compose(
        self, labels: Tensor, relevant: Tensor, deviations: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The tokens of bags whose randomness is given, for an adversary to choose.

        Parameters
        ----------
        labels : Tensor, shape (n,)
            Each +1 or -1.
        relevant : Tensor of bool, shape (n, T)
        deviations : Tensor, shape (n, 2)
            (δq, δw) of each bag.
        noise : Tensor, shape (n, T, d), optional
            Added to the irrelevant tokens only.

        Returns
        -------
        Tensor, shape (n, T, d)
        """
        context, signal = self.context.to(labels.device), self.signal.to(labels.device)
        signed = labels.to(self.dtype)[:, None] * signal  # (n, d), y w*
        shift = deviations.to(self.dtype)
        attractive = context + signed  # (n, d)
        repelled = -shift[:, :1] * context - shift[:, 1:] * signed  # (n, d)
        irrelevant = repelled[:, None, :]  # (n, 1, d)
        if noise is not None:
            irrelevant = irrelevant + noise
        return torch.where(relevant[:, :, None], attractive[:, None, :], irrelevant)

    def _vector(self, first: float, second: float) -> Tensor:
        vector = torch.zeros(self.dim, dtype=self.dtype)
        vector[0], vector[1] = first, second
        return vector


def _remainder(vector: Tensor, direction: Tensor) -> Tensor:
    return vector - (vector @ direction) / (direction @ direction) * direction


def _require_integer(name: str, value: object, least: int, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least} ({why}), got {value!r}")


def _require_finite(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def _checked_deviations(deviations: object) -> tuple[tuple[float, float], ...]:
    advice = "give pairs, such as deviations=((0.0, 0.0), (2.0, 2.0))"
    if not isinstance(deviations, (tuple, list)) or not deviations:
        raise ValueError(f"deviations must be a non-empty tuple, got {deviations!r}; {advice}")
    checked = []
    for pair in deviations:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"each deviation is a pair (δq, δw), got {pair!r}; {advice}")
        _require_finite("δq of a deviation", pair[0])
        _require_finite("δw of a deviation", pair[1])
        if pair[0] < 0:
            raise ValueError(
                f"δq must be >= 0, got {pair[0]} in {pair!r}; a negative δq puts the context into "
                f"irrelevant tokens, and then it no longer tells which tokens are relevant"
            )
        checked.append((float(pair[0]), float(pair[1])))
    return tuple(checked)


def _checked_probabilities(probabilities: object, count: int) -> tuple[float, ...]:
    if not isinstance(probabilities, (tuple, list)) or len(probabilities) != count:
        raise ValueError(
            f"probabilities must give one number for each of the {count} deviations, "
            f"got {probabilities!r}"
        )
    for share in probabilities:
        _require_finite("each probability", share)
        if share < 0:
            raise ValueError(f"probabilities must be >= 0, got {share} in {probabilities!r}")
    total = math.fsum(probabilities)
    if abs(total - 1.0) > 1e-9:
        raise ValueError(
            f"probabilities must sum to 1, got {probabilities!r} with sum {total:g}; divide by it"
        )
    return tuple(float(share) for share in probabilities)


check_public(__name__)

"""Where do learned vectors lie, seen from the tokens, and how far does what they say reach?

Where all margins are positive they stay so nearby, because logits are continuous: the vectors that
say one string form an open set. `breaking_distance` searches for the nearest point outside. It
follows the linearised margins to their nearest zero, again and again, and bisects the last way.
What it finds does break the completion, so the true distance is at most that; it may be less.

Shapes as in `decoding`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.decoding import (
    complete,
    margins,
    one_token_prompts,
    target_logits,
)
from notebooks.prefix_tuning.continuous_and_discrete.pretraining import load_model
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.trials import Get, Trials
from promptlib.runs import Result

OVERSHOOT = 1.02
"""How much further than to the linearised border each move goes."""

RIVALS = 3
"""Symbols that are considered to take the place of each symbol."""


@dataclass(frozen=True)
class Nearest:
    """The nearest token of each vector, by distance and by cosine; all ``(P,)``."""

    by_distance: Tensor
    distance: Tensor
    by_angle: Tensor
    cosine: Tensor


def nearest_tokens(vectors: Tensor, tokens: Tensor, themselves: bool = False) -> Nearest:
    """Find the nearest token ``(V, D)`` of each vector ``(P, D)``.

    If the vectors are the tokens `themselves`, each looks for its nearest other one.
    """
    if vectors.ndim != 2 or tokens.ndim != 2 or vectors.shape[1] != tokens.shape[1]:
        raise ValueError(
            f"expected vectors (P, D) and tokens (V, D), got {tuple(vectors.shape)} and "
            f"{tuple(tokens.shape)}"
        )
    if themselves and len(vectors) != len(tokens):
        raise ValueError(f"{len(vectors)} vectors are not the {len(tokens)} tokens themselves")
    distances = (vectors.unsqueeze(1) - tokens).norm(dim=-1)
    cosines = F.normalize(vectors, dim=-1) @ F.normalize(tokens, dim=-1).T
    if themselves:
        distances.fill_diagonal_(float("inf"))
        cosines.fill_diagonal_(-float("inf"))
    distance, by_distance = distances.min(dim=1)
    cosine, by_angle = cosines.max(dim=1)
    return Nearest(by_distance, distance, by_angle, cosine)


def random_of_same_length(vectors: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a random direction for each vector and give it the vector's norm: ``(P, D)``."""
    directions = torch.randn(vectors.shape, generator=generator, dtype=vectors.dtype)
    return F.normalize(directions, dim=-1) * vectors.norm(dim=-1, keepdim=True)


def rounded_say(model: GPT, vectors: Tensor, strings: Tensor, by_angle: bool = False) -> Tensor:
    """Does the model still write each string after the nearest tokens of its prompt: ``(P,)``?"""
    nearest = nearest_tokens(vectors.flatten(0, 1), model.token.weight.detach())
    tokens = (nearest.by_angle if by_angle else nearest.by_distance).view(vectors.shape[:2])
    said = complete(model, model.token(tokens), strings.shape[1])
    return (said == strings).all(dim=1)


def holds(model: GPT, vectors: Tensor, strings: Tensor) -> Tensor:
    """Does the model write each string after its prompt: bool, ``(P,)``?"""
    with torch.no_grad():
        return (margins(target_logits(model, vectors, strings), strings) > 0).all(dim=1)


def breaking_distance(
    model: GPT, vectors: Tensor, strings: Tensor, moves: int = 12, halvings: int = 12
) -> Tensor:
    """Search for the shortest move of each prompt that changes its completion.

    Distances ``(P,)`` to prompts with another completion, infinite where none was found.
    """
    if not holds(model, vectors, strings).all():
        raise ValueError("every vector must say its string before it is moved")
    moved = vectors.clone()
    for _ in range(moves):
        intact = holds(model, moved, strings).nonzero().flatten()
        if len(intact) == 0:
            break
        moved[intact] += OVERSHOOT * _to_nearest_border(model, moved[intact], strings[intact])
    broken = ~holds(model, moved, strings)
    inside = torch.zeros(len(vectors), dtype=vectors.dtype)
    outside = torch.ones_like(inside)
    for _ in range(halvings):
        middle = (inside + outside) / 2
        at = torch.lerp(vectors, moved, middle.view(-1, 1, 1))
        still = holds(model, at, strings)
        inside, outside = torch.where(still, middle, inside), torch.where(still, outside, middle)
    distance = outside * (moved - vectors).flatten(1).norm(dim=1)
    return distance.masked_fill(~broken, float("inf"))


@dataclass(frozen=True)
class Places:
    """Where the learned vectors of one seed lie, those that the best token does not make needless.

    First of the tokens ``(V,)``: from each to its nearest other one, its norm, and a distance at
    which its completion changes. Then of the vectors ``(P,)``: norm, way from the start, nearest
    token, and the distance at which the completion changes; and random ones with the same norms.
    """

    among_tokens: Tensor
    among_tokens_cosine: Tensor
    token_norms: Tensor
    token_breaking: Tensor
    norms: Tensor
    moved: Tensor
    distance: Tensor
    cosine: Tensor
    breaking: Tensor
    random_distance: Tensor
    random_cosine: Tensor

    @property
    def spacings_away(self) -> float:
        """Median distance to the nearest token, in units of that between tokens."""
        return float(self.distance.median() / self.among_tokens.median())

    @property
    def region_ends(self) -> float:
        """Distance to another completion, in units of that to the nearest token; median."""
        return float((self.breaking / self.distance).median())


def places(
    model: GPT,
    settled: Result,
    start: str,
    generator: torch.Generator,
    token_breaking: Tensor | None = None,
) -> Places | None:
    """Look at the vectors of a run `settle` that began at a ``"token"`` or a ``"random"`` vector.

    `token_breaking` of another start is the same, and need not be searched again. None if no string
    was said.
    """
    tokens = model.token.weight.detach()
    said = torch.tensor(settled.metrics["steps"][start]) >= 0
    wanted = said & _beyond_tokens(model, settled)
    if not wanted.any():
        return None
    strings = settled.tensors["strings"][wanted]
    vectors = settled.tensors[f"vectors.{start}"][wanted]
    started = settled.tensors[f"start.{start}"][wanted]
    learned = vectors[:, 0]
    nearest, among = nearest_tokens(learned, tokens), nearest_tokens(tokens, tokens, True)
    random = nearest_tokens(random_of_same_length(learned, generator), tokens)
    if token_breaking is None:
        prompts = one_token_prompts(model)
        token_breaking = breaking_distance(
            model, prompts, complete(model, prompts, strings.shape[1])
        )
    return Places(
        among_tokens=among.distance,
        among_tokens_cosine=among.cosine,
        token_norms=tokens.norm(dim=1),
        token_breaking=token_breaking,
        norms=learned.norm(dim=1),
        moved=(learned - started[:, 0]).norm(dim=1),
        distance=nearest.distance,
        cosine=nearest.cosine,
        breaking=breaking_distance(model, vectors, strings),
        random_distance=random.distance,
        random_cosine=random.cosine,
    )


def all_places(trials: Trials, get: Get) -> dict[str, list[Places]]:
    """By start, ``"token"`` or ``"random"``: the places of each seed that has any."""
    found: dict[str, list[Places]] = {"token": [], "random": []}
    for trial in trials.where(method="settle"):
        model = load_model(trial.run.config, get(trial.run.needs[0]))
        token_breaking = None
        for start, before in found.items():
            generator = torch.Generator().manual_seed(trial.seed)
            entry = places(model, get(trial.run), start, generator, token_breaking)
            if entry is not None:
                before.append(entry)
                token_breaking = entry.token_breaking
    return found


@dataclass(frozen=True)
class Steps:
    """What the learning rates of one seed reach, rising; arrays have one entry for each rate.

    Strings said in percent; over the strings that all rates said, of which there are ``common``:
    median distance to the nearest token and that of random vectors with the same norms, both in
    units of the median distance from a token to its nearest other one, and percent of the vectors
    whose nearest token is the one they started at.
    """

    rates: list[float]
    said: np.ndarray
    distance: np.ndarray
    random: np.ndarray
    still_nearest: np.ndarray
    common: int

    def ratio(self, low: float, high: float) -> float:
        """How much further from the tokens the higher of two rates ends."""
        return float(self.distance[self.rates.index(high)] / self.distance[self.rates.index(low)])


def by_step_size(
    model: GPT, settled: Result, stepped: Result, generator: torch.Generator
) -> Steps | None:
    """Look at what runs `settle` and `settle_at_rates` learned; None if all rates said nothing."""
    tokens, best = model.token.weight.detach(), settled.tensors["best_token"]
    wanted = _beyond_tokens(model, settled)
    said = torch.tensor(stepped.metrics["steps"]) >= 0  # (rates, strings)
    common = wanted & said.all(dim=0)
    if not common.any():
        return None
    spacing = nearest_tokens(tokens, tokens, themselves=True).distance.median()
    distance, random, still = [], [], []
    for vectors in stepped.tensors["vectors"][:, common]:
        nearest = nearest_tokens(vectors, tokens)
        other = nearest_tokens(random_of_same_length(vectors, generator), tokens)
        distance.append(float(nearest.distance.median() / spacing))
        random.append(float(other.distance.median() / spacing))
        still.append(100 * float((nearest.by_distance == best[common]).double().mean()))
    return Steps(
        rates=stepped.metrics["rates"],
        said=100 * said[:, wanted].double().mean(dim=1).numpy(),
        distance=np.array(distance),
        random=np.array(random),
        still_nearest=np.array(still),
        common=int(common.sum()),
    )


def all_steps(trials: Trials, get: Get) -> list[Steps]:
    """What the learning rates reach, of each seed that has strings said by all."""
    found = []
    for trial in trials.where(method="rates"):
        base, settled = map(get, trial.run.needs)
        model = load_model(trial.run.config, base)
        generator = torch.Generator().manual_seed(trial.seed)
        found.append(by_step_size(model, settled, get(trial.run), generator))
    return [entry for entry in found if entry is not None]


def _beyond_tokens(model: GPT, settled: Result) -> Tensor:
    """Which strings the token that makes them likeliest does not say by itself."""
    strings = settled.tensors["strings"]
    token = model.token(settled.tensors["best_token"]).unsqueeze(1)
    return (complete(model, token, strings.shape[1]) != strings).any(dim=1)


def _to_nearest_border(model: GPT, vectors: Tensor, strings: Tensor) -> Tensor:
    """The shortest move to where a linearised margin is zero: ``(P, n, D)``."""
    read = vectors.detach().requires_grad_()
    logits = target_logits(model, read, strings)  # (P, L, V)
    index = strings.unsqueeze(-1)
    own = logits.gather(-1, index)
    others = logits.scatter(-1, index, float("-inf"))
    gaps = (own - others.topk(RIVALS, dim=-1).values).flatten(1)  # (P, L RIVALS)
    best = torch.full((len(vectors),), float("inf"), dtype=vectors.dtype)
    move = torch.zeros_like(vectors)
    for place in range(gaps.shape[1]):
        gap = gaps[:, place]
        (slope,) = torch.autograd.grad(gap.sum(), read, retain_graph=True)
        steepness = slope.flatten(1).norm(dim=1).clamp_min(1e-12)
        distance = gap.detach() / steepness
        closer = distance < best
        best = torch.where(closer, distance, best)
        candidate = -slope * (distance / steepness).view(-1, 1, 1)
        move = torch.where(closer.view(-1, 1, 1), candidate, move)
    return move

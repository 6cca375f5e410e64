"""What did the runs of the chapter measure?

`collect` reads the runs of a plan; the claims in `evidence` and the figures take what it returns,
so that a test can hand in what a wrong implementation measures. Sequences have one entry for each
seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.corpus import decode, documentation
from notebooks.prefix_tuning.continuous_and_discrete.decoding import complete, one_token_prompts
from notebooks.prefix_tuning.continuous_and_discrete.forcing import PAD
from notebooks.prefix_tuning.continuous_and_discrete.neighbours import (
    nearest_tokens,
    random_of_same_length,
    rounded_say,
)
from notebooks.prefix_tuning.continuous_and_discrete.plan import KINDS, LanguagePlan
from notebooks.prefix_tuning.continuous_and_discrete.pretraining import load_model
from notebooks.prefix_tuning.continuous_and_discrete.survival import breaking_distance
from notebooks.prefix_tuning.continuous_and_discrete.training import best_first
from promptlib.prefix_tuning.gpt import GPT
from promptlib.runs import Result, Run

SHORTEST = 4
"""Fewest symbols of a string that is compared with what tokens say; shorter ones are common."""

Metrics = Mapping[str, Any]
Get = Callable[[Run], Result]


@dataclass(frozen=True)
class Said:
    """Prompts and the strings that they were found to say.

    Attributes
    ----------
    vectors : Tensor, ``(P, n, D)``
    strings : Tensor, int64, ``(P, L)``
        All of one length.
    """

    vectors: Tensor
    strings: Tensor


@dataclass(frozen=True)
class Measured:
    """The metrics of all runs.

    Attributes
    ----------
    models : sequence of GPT
    bits_held_out : sequence of float
        Bits a symbol.
    sweep : sequence of metrics
        One for each setting.
    surveyed, distinct : sequences of metrics
    completions : sequence of pair of Tensor
        Distinct completions after one token, all of them, and after two.
    prompt_lengths, string_lengths : sequences of int
    steps : array, ``(seeds, prompt lengths, kinds, string lengths, strings)``
        Updates until a string was said, -1 if it never was.
    forced : sequence of mapping of list of Said
        By prompt length; what was said, in parts of one string length each. The strings that are
        counted with are among them.
    counted : sequence of mapping of metrics
        By prompt length; "length" is how many symbols the strings have.
    """

    models: Sequence[GPT]
    bits_held_out: Sequence[float]
    sweep: Sequence[Metrics]
    surveyed: Sequence[Metrics]
    distinct: Sequence[Metrics]
    completions: Sequence[tuple[Tensor, Tensor]]
    prompt_lengths: Sequence[int]
    string_lengths: Sequence[int]
    steps: np.ndarray
    forced: Sequence[Mapping[int, Sequence[Said]]]
    counted: Sequence[Mapping[int, Metrics]]

    @property
    def n_tokens(self) -> int:
        """Size of the alphabet."""
        return self.models[0].config.vocab_size

    def success(self, kind: str) -> np.ndarray:
        """Return percent of strings said: ``(seeds, prompt lengths, string lengths)``."""
        return 100 * (self.steps[:, :, KINDS.index(kind)] >= 0).mean(axis=-1)


def collect(plan: LanguagePlan, get: Get) -> Measured:
    """Read all runs of `plan`; `get` is the ``get`` of a run store."""
    pretrained = [get(run) for run in plan.pretrained]
    surveyed = [get(run) for run in plan.surveyed]
    first = next(iter(plan.forced[0].values()))
    forced = [{n: get(run) for n, run in runs.items()} for runs in plan.forced]
    counted = [{n: get(run) for n, run in runs.items()} for runs in plan.counted]
    return Measured(
        models=[
            load_model(run.config, result)
            for run, result in zip(plan.pretrained, pretrained, strict=True)
        ],
        bits_held_out=[result.metrics["bits_held_out"] for result in pretrained],
        sweep=get(plan.sweep).metrics["cells"],
        surveyed=[result.metrics for result in surveyed],
        distinct=[get(run).metrics for run in plan.distinct],
        completions=[(result.tensors["one"], result.tensors["two"]) for result in surveyed],
        prompt_lengths=list(plan.forced[0]),
        string_lengths=first.config["lengths"],
        steps=np.array(
            [[result.metrics["steps"] for result in by_length.values()] for by_length in forced]
        ),
        forced=[
            {
                n: [
                    said
                    for found in (result, counts.get(n))
                    if found is not None
                    for said in said_strings(found)
                ]
                for n, result in by_length.items()
            }
            for by_length, counts in zip(forced, counted, strict=True)
        ],
        counted=[
            {
                n: {**result.metrics, "length": result.tensors["strings"].shape[1]}
                for n, result in counts.items()
            }
            for counts in counted
        ],
    )


def at_the_ends(measured: Measured) -> list[str]:
    """Name the numbers of the sweep's best setting that lie at an end of what was tried.

    Returns
    -------
    list of str
        Such as ``"learning rate 1"``; a number of which only one value was tried is named too.
    """
    best = best_first(measured.sweep)[0]
    found = []
    for name in ("learning_rate", "init_scale"):
        tried = {cell[name] for cell in measured.sweep}
        if best[name] in (min(tried), max(tried)):
            found.append(f"{name.replace('_', ' ')} {best[name]:g}")
    return found


def said_strings(result: Result) -> list[Said]:
    """Return what the prompts of a run say, one entry for each length of which any was said.

    Parameters
    ----------
    result : Result
        Of `force_strings` or of `count_strings`.
    """
    vectors, strings = result.tensors["vectors"], result.tensors["strings"]
    if "success" in result.metrics:
        said = torch.tensor(result.metrics["success"])
    else:
        said = torch.tensor(result.metrics["steps"]).flatten() >= 0
    lengths = (strings != PAD).sum(dim=1)
    return [
        Said(vectors[chosen], strings[chosen, :length])
        for length in lengths.unique().tolist()
        if (chosen := said & (lengths == length)).any()
    ]


@dataclass(frozen=True)
class Places:
    """Where the learned vectors of one seed lie, those that the best token does not make needless.

    Attributes
    ----------
    among_tokens, among_tokens_cosine : Tensor, ``(V,)``
        From each token to its nearest other one.
    token_norms, token_breaking : Tensor, ``(V,)``
        Norm of each token, and a distance at which its completion changes.
    norms, moved, distance, cosine, breaking : Tensor, ``(P,)``
        Of the learned vectors: norm, way from the start, distance and cosine to the nearest token,
        and a distance at which the completion changes.
    random_distance, random_cosine : Tensor, ``(P,)``
        The same for random vectors with the same norms.
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


def places(model: GPT, settled: Result, start: str, generator: torch.Generator) -> Places | None:
    """Look at the vectors of a run `settle`.

    Parameters
    ----------
    model : GPT
    settled : Result
    start : {"token", "random"}
        Where the vectors began.
    generator : torch.Generator
        For the random vectors.

    Returns
    -------
    Places, or None if no string was said.
    """
    steps = torch.tensor(settled.metrics["steps"][start])
    strings = settled.tensors["strings"]
    tokens = model.token.weight.detach()
    by_token = complete(
        model, model.token(settled.tensors["best_token"]).unsqueeze(1), strings.shape[1]
    )
    wanted = (steps >= 0) & (by_token != strings).any(dim=1)
    if not wanted.any():
        return None
    vectors, strings = settled.tensors[f"vectors.{start}"][wanted], strings[wanted]
    started = settled.tensors[f"start.{start}"][wanted]
    learned = vectors[:, 0]
    nearest, among = nearest_tokens(learned, tokens), nearest_tokens(tokens, tokens, True)
    random = nearest_tokens(random_of_same_length(learned, generator), tokens)
    prompts = one_token_prompts(model)
    return Places(
        among_tokens=among.distance,
        among_tokens_cosine=among.cosine,
        token_norms=tokens.norm(dim=1),
        token_breaking=breaking_distance(
            model, prompts, complete(model, prompts, strings.shape[1])
        ),
        norms=learned.norm(dim=1),
        moved=(learned - started[:, 0]).norm(dim=1),
        distance=nearest.distance,
        cosine=nearest.cosine,
        breaking=breaking_distance(model, vectors, strings),
        random_distance=random.distance,
        random_cosine=random.cosine,
    )


def all_places(measured: Measured, plan: LanguagePlan, get: Get, start: str) -> list[Places]:
    """Return `places` of each seed that has any."""
    found = [
        places(model, get(run), start, torch.Generator().manual_seed(run.config["seed"]))
        for model, run in zip(measured.models, plan.settled, strict=True)
    ]
    return [entry for entry in found if entry is not None]


@dataclass(frozen=True)
class Kept:
    """How many strings are still said after rounding.

    Attributes
    ----------
    kept, tried : int
        ``0 <= kept <= tried`` and ``tried >= 1``.
    """

    kept: int
    tried: int

    @property
    def percent(self) -> float:
        """Percent of the strings that were tried."""
        return 100 * self.kept / self.tried


def survives_rounding(measured: Measured) -> list[dict[int, Kept]]:
    """Round the vectors of all forced strings to their nearest tokens, and let the model write.

    Strings of at least `SHORTEST` symbols count.

    Returns
    -------
    list of dict of Kept
        For each seed, by prompt length: strings that the nearest tokens still say, by distance or
        by angle. Prompt lengths that forced nothing are left out.
    """
    found = []
    for model, forced in zip(measured.models, measured.forced, strict=True):
        by_length = {}
        for n, parts in forced.items():
            kept = [
                rounded_say(model, said.vectors, said.strings)
                | rounded_say(model, said.vectors, said.strings, by_angle=True)
                for said in parts
                if said.strings.shape[1] >= SHORTEST
            ]
            if kept:
                together = torch.cat(kept)
                by_length[n] = Kept(int(together.sum()), len(together))
        found.append(by_length)
    return found


def model_written_said(measured: Measured) -> list[np.ndarray]:
    """Say which strings of the model's own a prompt of the first length was made to say.

    Strings of at least `SHORTEST` symbols count, those that are counted with among them.

    Returns
    -------
    list of array of bool
        One entry for each string; as many for each seed.
    """
    long = np.array(measured.string_lengths) >= SHORTEST
    found = []
    for steps, counts in zip(measured.steps, measured.counted, strict=True):
        said = [(steps[0, KINDS.index("model")][long] >= 0).ravel()]
        counted = counts[measured.prompt_lengths[0]]
        if counted["length"] >= SHORTEST:
            said.append(np.array(counted["success"]))
        found.append(np.concatenate(said))
    return found


def said_by_tokens(said: Said, completions: Tensor) -> Tensor:
    """Say for each string whether some discrete prompt completes to it: bool, ``(P,)``.

    Parameters
    ----------
    completions : Tensor, int64, ``(C, L')`` with ``L' >= L``
        Completions of all prompts; their beginnings are compared.
    """
    length = said.strings.shape[1]
    if completions.shape[1] < length:
        raise ValueError(
            f"completions of {completions.shape[1]} symbols cannot be compared with strings of "
            f"{length}"
        )
    starts = completions[:, :length]
    return (said.strings.unsqueeze(1) == starts).all(dim=-1).any(dim=1)


def example_place(measured: Measured, settled: Result) -> tuple[str, list[tuple[str, Tensor]]]:
    """Choose a string of the first seed, the token that says it best, and what was learned from it.

    The first string is taken that was said with a vector started at that token, but not by the
    token itself; without one, the first of all.

    Returns
    -------
    string : str
    corners : list of pair of str and Tensor ``(D,)``
        The token, a token that is not it, and the vector, each with its symbol or a name.
    """
    model, alphabet = measured.models[0], documentation().alphabet
    steps = settled.metrics["steps"]["token"]
    index = next((i for i, taken in enumerate(steps) if taken > 0), 0)
    tokens = model.token.weight.detach()
    best = int(settled.tensors["best_token"][index])
    other = int((tokens - tokens[best]).norm(dim=1).argmax())
    string = decode(settled.tensors["strings"][index].tolist(), alphabet)
    return string, [
        (f"token {alphabet[best]!r}", tokens[best]),
        (f"token {alphabet[other]!r}", tokens[other]),
        ("learned vector", settled.tensors["vectors.token"][index, 0]),
    ]

"""What did the runs of the chapter measure, and what do the vectors that they left make models say?

Functions of the trials of a plan; arrays and lists have one entry for each seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete.corpus import decode, documentation
from notebooks.prefix_tuning.continuous_and_discrete.counting import MISSED, certified_bits
from notebooks.prefix_tuning.continuous_and_discrete.decoding import complete
from notebooks.prefix_tuning.continuous_and_discrete.forcing import PAD
from notebooks.prefix_tuning.continuous_and_discrete.places import rounded_say
from notebooks.prefix_tuning.continuous_and_discrete.plan import KINDS
from notebooks.prefix_tuning.continuous_and_discrete.pretraining import load_model
from notebooks.prefix_tuning.continuous_and_discrete.training import best_first
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.trials import Get, Trials
from promptlib.runs import Result

SHORTEST = 4
"""Fewest symbols of a string that is compared with what tokens say; shorter ones are common."""


def n_tokens(trials: Trials) -> int:
    """Size of the alphabet."""
    return int(trials[0].run.config["model"]["vocab_size"])


def prompt_lengths(trials: Trials) -> list[int]:
    """Numbers of vectors with which strings were forced."""
    return list(trials.where(method="force").by("vectors"))


def string_lengths(trials: Trials) -> np.ndarray:
    """Symbols of the strings that were forced."""
    return np.array(trials.where(method="force")[0].run.config["lengths"])


def steps(trials: Trials) -> np.ndarray:
    """Updates until a string was said, -1 if it never was.

    ``(seeds, prompt lengths, KINDS, string lengths, strings)``
    """
    by_vectors = trials.where(method="force").by("vectors").values()
    found = np.array([[one.metrics["steps"] for one in seeds] for seeds in by_vectors])
    return found.swapaxes(0, 1)


def success(trials: Trials, kind: str) -> np.ndarray:
    """Percent of strings said: ``(seeds, prompt lengths, string lengths)``."""
    return 100 * (steps(trials)[:, :, KINDS.index(kind)] >= 0).mean(axis=-1)


def n_strings(trials: Trials, shortest: int = 1) -> int:
    """How many strings of a kind, of so many symbols or more, are forced with a prompt length."""
    return int(steps(trials)[0, 0, 0, string_lengths(trials) >= shortest].size)


def gain_of_more(trials: Trials, kinds: Sequence[str]) -> np.ndarray:
    """Strings said with the most vectors less those with the fewest, in points."""
    shares = np.mean([success(trials, kind) for kind in kinds], axis=0)
    return (shares[:, -1] - shares[:, 0]).mean(axis=1)


def large_scales(trials: Trials) -> list[float]:
    """Scales of random vectors that are larger than tokens."""
    random = trials.where(method="survey")[0].metrics["random"]
    return sorted(cell["scale"] for cell in random if cell["scale"] > 1)


def excess_of_large(trials: Trials) -> np.ndarray:
    """Mean distinct completions after larger random vectors, less those after tokens."""
    return np.array(
        [
            np.mean([cell["distinct"] for cell in one.metrics["random"] if cell["scale"] > 1])
            - one.metrics["tokens"]
            for one in trials.where(method="survey")
        ]
    )


def counted(trials: Trials) -> Trials:
    """The strings that are counted with, for the fewest vectors."""
    by_vectors = trials.where(method="count").by("vectors")
    return by_vectors[min(by_vectors)]


def bits_of_tokens(trials: Trials) -> float:
    """Log2 of the number of prompts of as many tokens as `counted` has vectors."""
    return float(counted(trials)[0]["vectors"] * math.log2(n_tokens(trials)))


def certificates(trials: Trials) -> list[float]:
    """Lower limits of the number of strings `counted` with, in bits, right for all seeds at once.

    Nothing forced certifies nothing: one completion there always is.
    """
    missed = MISSED / len(counted(trials))
    return [
        max(certified_bits(one.metrics["bits"], one.metrics["success"], missed), 0.0)
        for one in counted(trials)
    ]


def model_written_said(trials: Trials) -> list[np.ndarray]:
    """Which strings of the model's own a prompt of the first length was made to say.

    Those of at least `SHORTEST` symbols, the strings that are counted with among them.
    """
    long = string_lengths(trials) >= SHORTEST
    first = trials.where(method="count", vectors=prompt_lengths(trials)[0])
    found = []
    for forced, counts in zip(steps(trials)[:, 0, KINDS.index("model")], first, strict=True):
        said = [(forced[long] >= 0).ravel()]
        if counts.run.config["length"] >= SHORTEST:
            said.append(np.array(counts.metrics["success"]))
        found.append(np.concatenate(said))
    return found


def at_the_ends(trials: Trials) -> list[str]:
    """Name the numbers of the sweep's best setting that lie at an end of what was tried."""
    cells = [trial.metrics for trial in trials.where(method="sweep")]
    best = best_first(cells)[0]
    found = []
    for name in ("learning_rate", "init_scale"):
        tried = {cell[name] for cell in cells}
        if best[name] in (min(tried), max(tried)):
            found.append(f"{name.replace('_', ' ')} {best[name]:g}")
    return found


class Said(NamedTuple):
    """Prompts ``(P, n, D)`` and the strings ``(P, L)``, all of one length, that they say."""

    vectors: Tensor
    strings: Tensor


class Spoken(NamedTuple):
    """What prompts make one model say.

    By number of vectors what was forced, in parts of one string length each, the strings that are
    counted with among them; and the completions of all tokens and of all pairs of tokens.
    """

    model: GPT
    forced: Mapping[int, Sequence[Said]]
    one_token: Tensor
    two_tokens: Tensor

    def long(self, vectors: int) -> Iterator[Said]:
        """Of so many vectors, the parts with strings of at least `SHORTEST` symbols."""
        return (said for said in self.forced[vectors] if said.strings.shape[1] >= SHORTEST)


def spoken(trials: Trials, get: Get) -> list[Spoken]:
    """Read from the store what prompts make each model say."""
    found = []
    for seed, survey in enumerate(trials.where(method="survey")):
        forced: dict[int, list[Said]] = {}
        for method in ("force", "count"):
            for n, seeds in trials.where(method=method).by("vectors").items():
                forced.setdefault(n, []).extend(said_strings(get(seeds[seed].run)))
        model = load_model(survey.run.config, get(survey.run.needs[0]))
        listed = get(survey.run).tensors
        found.append(Spoken(model, forced, listed["one"], listed["two"]))
    return found


def said_strings(result: Result) -> list[Said]:
    """What the prompts of a run say, one entry for each length of which any was said."""
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


def wrong_symbols(
    spoken: Sequence[Spoken], decode: Callable[[GPT, Tensor, int], Tensor] = complete
) -> Tensor:
    """Wrong symbols of each forced string, of all seeds, when the model reads its own output."""
    wrong = [
        (decode(one.model, said.vectors, said.strings.shape[1]) != said.strings).sum(dim=1)
        for one in spoken
        for parts in one.forced.values()
        for said in parts
    ]
    return torch.cat(wrong).double() if wrong else torch.zeros(0)


def said_by_tokens(said: Said, completions: Tensor) -> Tensor:
    """Is each string how some completion ``(C, L')``, ``L' >= L``, begins: bool, ``(P,)``?"""
    length = said.strings.shape[1]
    if completions.shape[1] < length:
        raise ValueError(
            f"completions of {completions.shape[1]} symbols cannot be compared with strings of "
            f"{length}"
        )
    starts = completions[:, :length]
    return (said.strings.unsqueeze(1) == starts).all(dim=-1).any(dim=1)


def also_said(one: Spoken, completions: Tensor) -> Tensor:
    """Which long strings forced with the fewest vectors some completion begins with; bool."""
    found = [said_by_tokens(said, completions) for said in one.long(min(one.forced))]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)


def said_by_one_token(spoken: Sequence[Spoken]) -> list[Tensor]:
    """The same of the completions of tokens, for seeds that forced any."""
    found = [also_said(one, one.one_token) for one in spoken]
    return [said for said in found if len(said)]


def survives_rounding(spoken: Sequence[Spoken]) -> list[dict[int, Tensor]]:
    """Which long strings the nearest tokens still say, by distance or by angle; bool.

    For each seed, by number of vectors; those that forced nothing are left out.
    """
    found = []
    for one in spoken:
        kept = {
            n: [
                rounded_say(one.model, *said) | rounded_say(one.model, *said, by_angle=True)
                for said in one.long(n)
            ]
            for n in one.forced
        }
        found.append({n: torch.cat(parts) for n, parts in kept.items() if parts})
    return found


def kept_of_several(rounded: Sequence[Mapping[int, Tensor]]) -> list[Tensor]:
    """What survives of all prompts of several vectors together, for seeds that have any.

    Prompts of one vector are left out if there are others: most of their strings no token says, so
    that no rounding could keep them.
    """
    chosen = [
        [kept for n, kept in by_vectors.items() if n > 1 or len(by_vectors) == 1]
        for by_vectors in rounded
    ]
    return [torch.cat(parts) for parts in chosen if parts]


def example_place(model: GPT, settled: Result) -> tuple[str, list[tuple[str, Tensor]]]:
    """A string, and three named vectors: the token that says it best, another, and the learned one.

    The first string that was said with a vector started at its token, but not by the token itself.
    """
    alphabet, tokens = documentation().alphabet, model.token.weight.detach()
    steps = settled.metrics["steps"]["token"]
    index = next((i for i, taken in enumerate(steps) if taken > 0), 0)
    best = int(settled.tensors["best_token"][index])
    other = int((tokens - tokens[best]).norm(dim=1).argmax())
    string = decode(settled.tensors["strings"][index].tolist(), alphabet)
    return string, [
        (f"token {alphabet[best]!r}", tokens[best]),
        (f"token {alphabet[other]!r}", tokens[other]),
        ("learned vector", settled.tensors["vectors.token"][index, 0]),
    ]

"""What does the chapter "Continuous says more than discrete" state, and how is each part checked?

One function for each claim. What it judges is passed in, so that a test can pass in something wrong
and see the verdict change. The published shares are of another model, LLaMA-7B with 32,000 tokens
and 10-token completions; ours has about a hundred tokens, each a character.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from promptlib import claims
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.language.counting import MISSED, certified_bits, misses
from promptlib.prefix_tuning.language.decoding import complete
from promptlib.prefix_tuning.language.results import (
    SHORTEST,
    Measured,
    Places,
    Said,
    said_by_tokens,
)

PACKAGE = "promptlib.prefix_tuning.language"
PAPER = "Petrov et al. 2024, continuous against discrete"
HERE = "this book"
CHARACTERS = "% of prompts"

PUBLISHED_TOKENS = 100 * 24_426 / 32_000
"""Percent of LLaMA-7B's tokens whose 10-token completion is distinct."""

PUBLISHED_VIRTUAL = 100 * 46_812 / 48_218
"""The same for optimised virtual tokens."""

OTHER_MODEL = 15.0
"""Points by which two models may differ before we read anything into it."""

SCALE = 8.0
"""Random vectors of this many times the size of token embeddings are compared."""

NOTHING_SAID = [100.0]
"""Stands for a share that cannot be measured because nothing was forced; it refutes."""

Complete = Callable[[GPT, Tensor, int], Tensor]


def embedding_is_token(
    model: GPT,
    tokens: Tensor,
    read: Callable[[GPT, Tensor], Tensor] = lambda model, x: model(x),
) -> claims.Claim:
    """A token is one of the vectors that a prompt may hold.

    Parameters
    ----------
    model : GPT
        In float64.
    tokens : Tensor, int64, ``(B, T)``
    read : callable
        Maps model and embeddings to logits.
    """
    errors = (read(model, model.token(tokens)) - model(tokens)).abs().detach()
    return claims.identity(
        "prefix-tuning/embedding-is-token",
        "A prompt of vectors that are token embeddings gives the logits that the tokens give.",
        errors=errors.flatten().numpy(),
        tolerance=1e-10,
        source=HERE,
        checks="promptlib.prefix_tuning.gpt.GPT.forward",
    )


def forced_strings_decode(
    models: Sequence[GPT],
    forced: Sequence[Mapping[int, Iterable[Said]]],
    decode: Complete = complete,
) -> claims.Claim:
    """What was forced with the string as input is what decoding writes by itself."""
    wrong = [
        (decode(model, said.vectors, said.strings.shape[1]) != said.strings).sum(dim=1)
        for model, by_length in zip(models, forced, strict=True)
        for parts in by_length.values()
        for said in parts
    ]
    return claims.identity(
        "prefix-tuning/forced-strings-decode",
        "Every string that counts as said while its symbols are fed to the model is written again, "
        "symbol by symbol, when the model reads only its own output; wrong symbols of a string.",
        errors=torch.cat(wrong).double().numpy() if wrong else NOTHING_SAID,
        tolerance=0.5,
        source=HERE,
        checks=f"{PACKAGE}.forcing.force",
    )


def distinct_after_tokens(measured: Measured) -> claims.Claim:
    """Tokens share completions."""
    return _outcome(
        "distinct-after-tokens",
        "Different tokens share completions: the distinct greedy completions of 10 symbols after "
        "all one-token prompts, in percent of the tokens. Published for another model.",
        [100 * entry["tokens"] / measured.n_tokens for entry in measured.surveyed],
        "survey.survey",
        CHARACTERS,
        ("<=", 95.0),
        published=PUBLISHED_TOKENS,
        tolerance=OTHER_MODEL,
        favours="lower",
    )


def distinct_after_virtual_tokens(measured: Measured) -> claims.Claim:
    """Optimised vectors hardly share completions."""
    return _outcome(
        "distinct-after-virtual-tokens",
        "As many vectors as there are tokens, each optimised towards a held-out string of its own, "
        "hardly share completions: distinct ones, in percent. Published for another model and with "
        f"other targets, so a difference of {OTHER_MODEL:g} points is not counted.",
        [
            100 * entry["kinds"]["text"]["distinct"] / measured.n_tokens
            for entry in measured.distinct
        ],
        "experiments.say_different",
        CHARACTERS,
        (">=", 80.0),
        published=PUBLISHED_VIRTUAL,
        tolerance=OTHER_MODEL,
    )


def more_completions_than_tokens(measured: Measured) -> claims.Claim:
    """Vectors have more completions than there are tokens."""
    return _outcome(
        "more-completions-than-tokens",
        "Twice as many optimised vectors as tokens have more distinct completions than one-token "
        "prompts can have at all; distinct completions divided by the number of tokens.",
        [entry["all"] / measured.n_tokens for entry in measured.distinct],
        "experiments.say_different",
        "times the number of tokens",
        (">=", 1.0),
    )


def random_vectors_differ_too(measured: Measured) -> claims.Claim:
    """The count needs no optimisation."""
    excess = []
    for entry in measured.surveyed:
        (random,) = (cell["distinct"] for cell in entry["random"] if cell["scale"] == SCALE)
        excess.append(100 * (random - entry["tokens"]) / measured.n_tokens)
    return _outcome(
        "random-vectors-differ-too",
        f"As many random vectors, {SCALE:g} times as large as tokens and not optimised at all, "
        "have more distinct completions than the tokens; the excess.",
        excess,
        "survey.random_vectors",
        "points of a percentage",
        (">=", 10.0),
    )


def tokens_miss_forced_strings(measured: Measured) -> claims.Claim:
    """What one vector is made to say, tokens mostly do not say."""
    shares = []
    for (one, _), forced in zip(measured.completions, measured.forced, strict=True):
        found = [
            said_by_tokens(said, one)
            for said in forced[min(forced)]
            if said.strings.shape[1] >= SHORTEST
        ]
        if found:
            shares.append(100 * float(torch.cat(found).double().mean()))
    return _outcome(
        "tokens-miss-forced-strings",
        f"Of the strings of at least {SHORTEST} symbols that were forced with one vector, less "
        "than half are said after some one-token prompt too; their share.",
        shares or NOTHING_SAID,
        "results.said_by_tokens",
        "% of forced strings",
        ("<=", 50.0),
        favours="lower",
    )


def one_vector_cannot_say_anything(measured: Measured) -> claims.Claim:
    """A trained model does not obey one vector as the construction does."""
    lengths = np.array(measured.string_lengths) >= SHORTEST
    one = measured.success("random")[:, 0][:, lengths]
    return _outcome(
        "one-vector-cannot-say-anything",
        f"One vector, over all settings tried, makes the trained model say at most one in ten of "
        f"the random strings of at least {SHORTEST} symbols; strings said.",
        one.mean(axis=1),
        "experiments.force_strings",
        "% of strings",
        ("<=", 10.0),
        favours="lower",
    )


def more_vectors_say_more(measured: Measured) -> claims.Claim:
    """Longer prompts say more."""
    success = np.mean([measured.success(kind) for kind in ("text", "model", "shuffled")], axis=0)
    return _outcome(
        "more-vectors-say-more",
        f"{measured.prompt_lengths[-1]} vectors make the model say more strings than "
        f"{measured.prompt_lengths[0]}, over held-out, model-written and shuffled strings of all "
        "lengths tried; the gain.",
        (success[:, -1] - success[:, 0]).mean(axis=1),
        "experiments.force_strings",
        "points of a percentage",
        (">=", 10.0),
    )


def likely_strings_are_easier(measured: Measured) -> claims.Claim:
    """What the model finds likely is easier to force."""
    gain = measured.success("text") - measured.success("random")
    return _outcome(
        "likely-strings-are-easier",
        "Held-out text is said more often than random strings of the same length by prompts of the "
        "same length; the gain over all lengths.",
        gain.mean(axis=(1, 2)),
        "experiments.force_strings",
        "points of a percentage",
        (">=", 10.0),
    )


def one_vector_counts(measured: Measured) -> claims.Claim:
    """One vector can be made to say more strings than there are tokens."""
    first = min(measured.counted[0])
    limit = first * math.log2(measured.n_tokens)
    missed = MISSED / len(measured.counted)  # so that the limits of all seeds hold at once
    return _outcome(
        "one-vector-counts",
        f"Prompts of {first} vector{'s' * (first > 1)} can be made to say more strings than there "
        f"are prompts of as many tokens, $2^{{{limit:.2f}}}$; a lower limit of the base-2 "
        "logarithm of their number, for all seeds at once right with probability "
        f"{100 * (1 - MISSED):g} %.",
        [
            # Nothing forced certifies nothing: one completion there always is.
            max(certified_bits(entry[first]["bits"], entry[first]["success"], missed), 0.0)
            for entry in measured.counted
        ],
        "counting.certified_bits",
        "bits",
        (">=", limit),
    )


def limit_is_safe(
    repetitions: int,
    generator: np.random.Generator,
    certify: Callable[..., float] = certified_bits,
) -> claims.Claim:
    """The lower limit is right as often as it says, where the number is known."""
    found = [
        misses(n_reachable, shares, draws, repetitions, generator, certify)
        for shares in (np.full(4096, 1 / 4096), _zipf(4096))
        for n_reachable in (3, 64, 3000)
        for draws in (10, 60)
    ]
    slack = 3 * math.sqrt(MISSED * (1 - MISSED) / repetitions)
    return claims.bound(
        "prefix-tuning/counting-by-sampling",
        "The lower limit for the number of strings that can be forced is too high in at most "
        f"{100 * MISSED:g} % of experiments in which the number is known, up to three standard "
        "errors.",
        values=found,
        limits=MISSED,
        tolerance=slack,
        source=HERE,
        checks=f"{PACKAGE}.counting.certified_bits",
        search=f"{len(found)} cases, {repetitions} experiments each",
    )


def far_from_tokens(places: Sequence[Places]) -> claims.Claim:
    """Learned vectors do not lie near tokens."""
    return _outcome(
        "virtual-tokens-are-far",
        "With the learning rate that forces most strings, a vector that was started at a token and "
        "made to say a string ends further from the nearest token than tokens are from their "
        "nearest other one; ratio of the median distances.",
        [float(p.distance.median() / p.among_tokens.median()) for p in places] or [0.0],
        "neighbours.nearest_tokens",
        "times",
        (">=", 1.0),
    )


def rounding_loses(shares: Sequence[Mapping[int, float]]) -> claims.Claim:
    """The nearest tokens do not say what the vectors say.

    Parameters
    ----------
    shares : sequence of mapping
        From `results.survives_rounding`. Prompts of one vector are left out if there are others:
        most of their strings no token says, so that no rounding could keep them.
    """
    kept = [
        [share for n, share in by_length.items() if n > 1 or len(by_length) == 1]
        for by_length in shares
    ]
    return _outcome(
        "rounding-loses-the-string",
        f"When the vectors that were made to say a string of at least {SHORTEST} symbols are "
        "replaced by their nearest tokens, by distance or by angle, at least three in four of the "
        "strings are lost; strings still said, mean over prompts of several vectors.",
        [float(np.mean(values)) for values in kept if values] or NOTHING_SAID,
        "neighbours.rounded_say",
        "% of strings",
        ("<=", 25.0),
        favours="lower",
    )


def region_ends_early(places: Sequence[Places]) -> claims.Claim:
    """The region of a completion ends long before the nearest token."""
    return _outcome(
        "region-ends-before-token",
        "With the learning rate that forces most strings, a search finds a vector with another "
        "completion within half the distance to the nearest token; median of the ratio of the two "
        "distances.",
        [float((p.breaking / p.distance).median()) for p in places] or NOTHING_SAID,
        "survival.breaking_distance",
        "dimensionless",
        ("<=", 0.5),
        favours="lower",
    )


def _zipf(n: int) -> np.ndarray:
    shares = 1 / np.arange(1, n + 1)
    return shares / shares.sum()


def _outcome(
    name: str,
    sentence: str,
    values: Any,
    checks: str,
    unit: str,
    holds_if: tuple[Literal["<=", ">="], float],
    published: float | None = None,
    tolerance: float = 0.0,
    favours: Literal["higher", "lower"] = "higher",
) -> claims.Claim:
    return claims.outcome(
        f"prefix-tuning/{name}",
        sentence,
        values=values,
        source=HERE if published is None else PAPER,
        checks=f"{PACKAGE}.{checks}",
        unit=unit,
        published=published,
        tolerance=tolerance,
        favours=favours,
        refuted_if=(">" if holds_if[0] == "<=" else "<", holds_if[1]),
    )

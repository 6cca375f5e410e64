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

from notebooks.prefix_tuning.continuous_and_discrete import (
    forcing,
    neighbours,
    results,
    survival,
    training,
    vectors,
)
from notebooks.prefix_tuning.continuous_and_discrete.counting import MISSED, certified_bits, misses
from notebooks.prefix_tuning.continuous_and_discrete.decoding import complete
from notebooks.prefix_tuning.continuous_and_discrete.results import (
    SHORTEST,
    Kept,
    Measured,
    Places,
    Said,
    model_written_said,
    said_by_tokens,
)
from promptlib import claims
from promptlib.prefix_tuning.gpt import GPT

PACKAGE = "notebooks.prefix_tuning.continuous_and_discrete"
PAPER = "Petrov et al. 2024, continuous against discrete"
HERE = "this book"
CHARACTERS = "% of prompts"

PUBLISHED_TOKENS = 100 * 24_426 / 32_000
"""Percent of LLaMA-7B's tokens whose 10-token completion is distinct."""

PUBLISHED_VIRTUAL = 100 * 46_812 / 48_218
"""The same for optimised virtual tokens."""

HALFWAY = round((PUBLISHED_TOKENS + PUBLISHED_VIRTUAL) / 2)
"""Percent between the two: shares below it are like those of tokens."""

WHY_HALFWAY = (
    f"{HALFWAY} % is halfway between the published shares, {PUBLISHED_TOKENS:.1f} % after tokens "
    f"and {PUBLISHED_VIRTUAL:.1f} % after virtual tokens; nothing seen here went into it"
)

PUBLISHED_SIZE = {"n_layer": 32, "n_embd": 4096, "vocab_size": 32_000}
"""LLaMA-7B: blocks, width and tokens."""

SIZES = {"n_layer": "{} blocks", "n_embd": "width {}", "vocab_size": "{} tokens"}

NOTHING_SAID = [100.0]
"""Stands for a share that cannot be measured because nothing was forced."""

NOT_FOUND = 100.0
"""Stands for the ratio of two distances where the search for the first found nothing."""

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
        checks=GPT.forward,
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
        checks=forcing.force,
    )


def distinct_after_tokens(measured: Measured) -> claims.Claim:
    """Tokens share completions."""
    return _outcome(
        "distinct-after-tokens",
        "Different tokens share completions: the one-token prompts have fewer distinct greedy "
        f"completions of 10 symbols than {HALFWAY} % of the tokens.",
        [100 * entry["tokens"] / measured.n_tokens for entry in measured.surveyed],
        vectors.survey,
        CHARACTERS,
        ("below", HALFWAY),
        resolution=100 / measured.n_tokens,
        published=claims.Published(PUBLISHED_TOKENS, "lower", differs=_differs(measured)),
        note=WHY_HALFWAY,
    )


def distinct_after_virtual_tokens(measured: Measured) -> claims.Claim:
    """Optimised vectors hardly share completions."""
    targets = "targets from Python's documentation"
    return _outcome(
        "distinct-after-virtual-tokens",
        "As many vectors as there are tokens, each optimised towards a held-out string of its own, "
        f"have more distinct greedy completions of 10 symbols than {HALFWAY} % of their number.",
        [
            100 * entry["kinds"]["text"]["distinct"] / measured.n_tokens
            for entry in measured.distinct
        ],
        training.say_different,
        CHARACTERS,
        ("above", HALFWAY),
        resolution=100 / measured.n_tokens,
        published=claims.Published(
            PUBLISHED_VIRTUAL, "higher", differs=(*_differs(measured), targets)
        ),
        note=WHY_HALFWAY,
    )


def more_completions_than_tokens(measured: Measured) -> claims.Claim:
    """Vectors have more completions than there are tokens."""
    return _outcome(
        "more-completions-than-tokens",
        "Twice as many optimised vectors as tokens have more distinct completions than one-token "
        "prompts can have at all: more than 1 for each token.",
        [entry["all"] / measured.n_tokens for entry in measured.distinct],
        training.say_different,
        "times the number of tokens",
        ("above", 1.0),
        scale="log",
        resolution=1 / measured.n_tokens,
    )


def random_vectors_differ_too(measured: Measured) -> claims.Claim:
    """The count needs no optimisation."""
    sizes = sorted(cell["scale"] for cell in measured.surveyed[0]["random"] if cell["scale"] > 1)
    excess = [
        np.mean([cell["distinct"] for cell in entry["random"] if cell["scale"] > 1])
        - entry["tokens"]
        for entry in measured.surveyed
    ]
    return _outcome(
        "random-vectors-differ-too",
        "As many random vectors, larger than tokens and not optimised at all, have more distinct "
        "completions than the tokens, on average over the sizes tried: the excess is above 0, in "
        "percent of the number of tokens.",
        100 * np.array(excess) / measured.n_tokens,
        vectors.random_vectors,
        "points of a percentage",
        ("above", 0.0),
        resolution=100 / measured.n_tokens,
        note=f"0 is no difference; sizes: {', '.join(f'{size:g}' for size in sizes)} times that of "
        "tokens; stated so after an excess of 10 % at 8 times it had been undecided",
    )


def one_vector_says_likely_strings(measured: Measured) -> claims.Claim:
    """The search with one vector works where the model helps it; a control for other claims."""
    said = model_written_said(measured)
    return _outcome(
        "one-vector-says-likely-strings",
        f"One vector makes the trained model say more than one in ten of the strings of at least "
        f"{SHORTEST} symbols that the model wrote itself.",
        [100 * float(one.mean()) for one in said],
        training.force_strings,
        "% of strings",
        ("above", 10.0),
        trials=len(said[0]),
        note="limit and search are those for random strings; the strings that are counted with are "
        "among these, so that they are shorter on average than the random ones; stated so after "
        "held-out text had been judged with them, at the same limit, and the outcome was undecided",
    )


def one_vector_cannot_say_anything(measured: Measured, control: claims.Claim) -> claims.Claim:
    """A trained model does not obey one vector as the construction does.

    Parameters
    ----------
    measured : Measured
    control : Claim
        `one_vector_says_likely_strings`.
    """
    long = _long_enough(measured)
    return _outcome(
        "one-vector-cannot-say-anything",
        f"One vector, over all settings tried, makes the trained model say less than one in ten of "
        f"the random strings of at least {SHORTEST} symbols.",
        measured.success("random")[:, 0][:, long].mean(axis=1),
        training.force_strings,
        "% of strings",
        ("below", 10.0),
        trials=int(long.sum()) * measured.steps.shape[-1],
        requires=[control],
    )


def tokens_miss_forced_strings(measured: Measured, control: claims.Claim) -> claims.Claim:
    """What one vector is made to say, tokens mostly do not; `control` is `one_vector_counts`."""
    found = []
    for (one, _), forced in zip(measured.completions, measured.forced, strict=True):
        parts = [
            said_by_tokens(said, one)
            for said in forced[min(forced)]
            if said.strings.shape[1] >= SHORTEST
        ]
        if parts:
            found.append(torch.cat(parts).double())
    return _outcome(
        "tokens-miss-forced-strings",
        f"Of the strings of at least {SHORTEST} symbols that were forced with one vector, less "
        "than half are said after some one-token prompt too.",
        [100 * float(said.mean()) for said in found] or NOTHING_SAID,
        results.said_by_tokens,
        "% of forced strings",
        ("below", 50.0),
        trials=min((len(said) for said in found), default=1),
        requires=[control],
    )


def more_vectors_say_more(measured: Measured) -> claims.Claim:
    """Longer prompts say more."""
    kinds = ("text", "model", "shuffled")
    success = np.mean([measured.success(kind) for kind in kinds], axis=0)
    return _outcome(
        "more-vectors-say-more",
        f"{measured.prompt_lengths[-1]} vectors make the model say more strings than "
        f"{measured.prompt_lengths[0]}, by more than 10 points, over held-out, model-written and "
        "shuffled strings of all lengths tried.",
        (success[:, -1] - success[:, 0]).mean(axis=1),
        training.force_strings,
        "points of a percentage",
        ("above", 10.0),
        resolution=100 / (len(kinds) * len(measured.string_lengths) * measured.steps.shape[-1]),
    )


def one_vector_counts(measured: Measured) -> claims.Claim:
    """One vector can be made to say more strings than there are tokens."""
    first = min(measured.counted[0])
    limit = first * math.log2(measured.n_tokens)
    missed = MISSED / len(measured.counted)  # so that the certificates of all seeds hold at once
    draws = len(measured.counted[0][first]["bits"])
    return _outcome(
        "one-vector-counts",
        f"A sample of {draws} strings certifies that {first} vector{'s' * (first > 1)} can be made "
        "to say more strings than there are prompts of as many tokens: the certified lower limit "
        f"lies above $2^{{{limit:.2f}}}$. Base-2 logarithm of the lower limit; those of all models "
        f"are right at once with probability {100 * (1 - MISSED):g} %.",
        [
            # Nothing forced certifies nothing: one completion there always is.
            max(certified_bits(entry[first]["bits"], entry[first]["success"], missed), 0.0)
            for entry in measured.counted
        ],
        certified_bits,
        "bits",
        ("above", limit),
        note="judged is the certificate; one that is too low does not show that there are fewer "
        "strings",
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
        checks=certified_bits,
        search=f"{len(found)} cases, {repetitions} experiments each",
    )


def far_from_tokens(places: Sequence[Places], control: claims.Claim) -> claims.Claim:
    """Learned vectors do not lie near tokens.

    Parameters
    ----------
    places : sequence of Places
        Of each seed that has any.
    control : Claim
        `one_vector_counts`: one vector is made to say strings at all.
    """
    return _outcome(
        "virtual-tokens-are-far",
        "With the learning rate that forced most validation strings, a vector that was started at "
        "a token and made to say a string ends further from the nearest token than tokens are from "
        "their nearest other one: the ratio of the median distances is above 1.",
        [float(p.distance.median() / p.among_tokens.median()) for p in places] or [1.0],
        neighbours.nearest_tokens,
        "times",
        ("above", 1.0),
        scale="log",
        requires=[control],
    )


def rounding_loses(rounded: Sequence[Mapping[int, Kept]], control: claims.Claim) -> claims.Claim:
    """The nearest tokens do not say what the vectors say.

    Parameters
    ----------
    rounded : sequence of mapping
        From `results.survives_rounding`. Prompts of one vector are left out if there are others:
        most of their strings no token says, so that no rounding could keep them.
    control : Claim
        `more_vectors_say_more`.
    """
    chosen = [
        [found for n, found in by_length.items() if n > 1 or len(by_length) == 1]
        for by_length in rounded
    ]
    totals = [
        Kept(sum(one.kept for one in found), sum(one.tried for one in found))
        for found in chosen
        if found
    ]
    return _outcome(
        "rounding-loses-the-string",
        f"When the vectors that were made to say a string of at least {SHORTEST} symbols are "
        "replaced by their nearest tokens, by distance or by angle, less than one in four of the "
        "strings is still said; over all prompts of several vectors.",
        [total.percent for total in totals] or NOTHING_SAID,
        neighbours.rounded_say,
        "% of strings",
        ("below", 25.0),
        trials=min((total.tried for total in totals), default=1),
        requires=[control],
    )


def region_ends_early(places: Sequence[Places], control: claims.Claim) -> claims.Claim:
    """The region of a completion ends long before the nearest token; as `far_from_tokens`."""
    ratios = [float((p.breaking / p.distance).median()) for p in places]
    return _outcome(
        "region-ends-before-token",
        "With the learning rate that forced most validation strings, a search finds a vector with "
        "another completion within half the distance to the nearest token: the median of the ratio "
        "of the two distances is below 0.5.",
        [min(ratio, NOT_FOUND) for ratio in ratios] or [NOT_FOUND],
        survival.breaking_distance,
        "dimensionless",
        ("below", 0.5),
        scale="log",
        requires=[control],
    )


def _long_enough(measured: Measured) -> np.ndarray:
    return np.array(measured.string_lengths) >= SHORTEST


def _differs(measured: Measured) -> tuple[str, ...]:
    """How the models differ from LLaMA-7B."""
    ours = measured.models[0].config
    return (
        "a model trained here, not LLaMA-7B",
        *(
            f"{SIZES[name].format(f'{getattr(ours, name):,}')}, not {published:,}"
            for name, published in PUBLISHED_SIZE.items()
            if getattr(ours, name) != published
        ),
    )


def _zipf(n: int) -> np.ndarray:
    shares = 1 / np.arange(1, n + 1)
    return shares / shares.sum()


def _outcome(
    name: str,
    sentence: str,
    values: Any,
    checks: Callable[..., object],
    unit: str,
    asked: tuple[Literal["above", "below"], float],
    published: claims.Published | None = None,
    **more: Any,
) -> claims.Claim:
    side, limit = asked
    return claims.outcome(
        f"prefix-tuning/{name}",
        sentence,
        values=values,
        limit=limit,
        side=side,
        unit=unit,
        source=HERE if published is None else PAPER,
        checks=checks,
        published=published,
        **more,
    )

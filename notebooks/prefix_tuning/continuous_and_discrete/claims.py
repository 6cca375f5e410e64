"""What is claimed of strings that vectors make a model say, and how is each part checked?

One table for each thing that is measured: the trials, what prompts say, what of it survives
rounding, where vectors lie, and what learning rates reach. The published shares are of another
model, LLaMA-7B with 32,000 tokens and 10-token completions; ours has about a hundred tokens, each a
character.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from notebooks.prefix_tuning.continuous_and_discrete import results, settling, training, vectors
from notebooks.prefix_tuning.continuous_and_discrete.counting import MISSED, certified_bits, misses
from notebooks.prefix_tuning.continuous_and_discrete.forcing import force
from notebooks.prefix_tuning.continuous_and_discrete.places import (
    breaking_distance,
    nearest_tokens,
    rounded_say,
)
from notebooks.prefix_tuning.continuous_and_discrete.results import (
    SHORTEST,
    model_written_said,
    n_tokens,
    prompt_lengths,
    string_lengths,
)
from promptlib import claims
from promptlib.claims import HERE
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.trials import Trials

PAPER = "Petrov et al. 2024, continuous against discrete"

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

TENFOLD = (0.03, 0.3)
"""Two learning rates in the middle of those tried, whose distances are compared."""

REPETITIONS = 400
"""Experiments in which the number of strings is known, for each distribution and sample."""

EASIER = ("text", "model", "shuffled")
"""Kinds of strings that more vectors are asked for; random ones may be beyond all."""


def differs(trials: Trials) -> tuple[str, ...]:
    """How the models differ from LLaMA-7B."""
    ours = trials[0].run.config["model"]
    return (
        "a model trained here, not LLaMA-7B",
        *(
            f"{SIZES[name].format(f'{ours[name]:,}')}, not {published:,}"
            for name, published in PUBLISHED_SIZE.items()
            if ours[name] != published
        ),
    )


def token_errors(
    model: GPT,
    tokens: Tensor,
    read: Callable[[GPT, Tensor], Tensor] = lambda model, embeddings: model(embeddings),
) -> Tensor:
    """Between the logits after tokens ``(B, T)`` and after their embeddings, read as vectors."""
    return (read(model, model.token(tokens)) - model(tokens)).abs().detach()


EMBEDDING = (
    claims.Identity(
        "embedding-is-token",
        "A prompt of vectors that are token embeddings gives the logits that the tokens give.",
        errors=lambda errors: errors.numpy(),
        tolerance=1e-10,
        source=HERE,
        checks=GPT.forward,
    ),
)
"""Judged by `token_errors` of a model in float64."""


def counts_sentence(trials: Trials) -> str:
    """What the certificate of a sample says."""
    first, limit = results.counted(trials)[0], results.bits_of_tokens(trials)
    n, draws = first["vectors"], len(first.metrics["bits"])
    return (
        f"A sample of {draws} strings certifies that {n} vector{'s' * (n > 1)} can be made "
        "to say more strings than there are prompts of as many tokens: the certified lower limit "
        f"lies above $2^{{{limit:.2f}}}$. Base-2 logarithm of the lower limit; those of all models "
        f"are right at once with probability {100 * (1 - MISSED):g} %."
    )


TRIALS = (
    claims.Outcome(
        "distinct-after-tokens",
        "Different tokens share completions: the one-token prompts have fewer distinct greedy "
        f"completions of 10 symbols than {HALFWAY} % of the tokens.",
        values=lambda trials: [
            100 * one.metrics["tokens"] / n_tokens(trials) for one in trials.where(method="survey")
        ],
        unit="% of prompts",
        below=HALFWAY,
        source=PAPER,
        checks=vectors.survey,
        resolution=lambda trials: 100 / n_tokens(trials),
        published=lambda trials: claims.Published(
            PUBLISHED_TOKENS, "lower", differs=differs(trials)
        ),
        note=WHY_HALFWAY,
    ),
    claims.Outcome(
        "distinct-after-virtual-tokens",
        "As many vectors as there are tokens, each optimised towards a held-out string of its own, "
        f"have more distinct greedy completions of 10 symbols than {HALFWAY} % of their number.",
        values=lambda trials: [
            100 * one.metrics["kinds"]["text"]["distinct"] / n_tokens(trials)
            for one in trials.where(method="different")
        ],
        unit="% of prompts",
        above=HALFWAY,
        source=PAPER,
        checks=training.say_different,
        resolution=lambda trials: 100 / n_tokens(trials),
        published=lambda trials: claims.Published(
            PUBLISHED_VIRTUAL,
            "higher",
            differs=(*differs(trials), "targets from Python's documentation"),
        ),
        note=WHY_HALFWAY,
    ),
    claims.Outcome(
        "more-completions-than-tokens",
        "Twice as many optimised vectors as tokens have more distinct completions than one-token "
        "prompts can have at all: more than 1 for each token.",
        values=lambda trials: [
            one.metrics["all"] / n_tokens(trials) for one in trials.where(method="different")
        ],
        unit="times the number of tokens",
        above=1.0,
        source=HERE,
        checks=training.say_different,
        scale="log",
        resolution=lambda trials: 1 / n_tokens(trials),
    ),
    claims.Outcome(
        "random-vectors-differ-too",
        "As many random vectors, larger than tokens and not optimised at all, have more distinct "
        "completions than the tokens, on average over the sizes tried: the excess is above 0, in "
        "percent of the number of tokens.",
        values=lambda trials: 100 * results.excess_of_large(trials) / n_tokens(trials),
        unit="points of a percentage",
        above=0.0,
        source=HERE,
        checks=vectors.random_vectors,
        resolution=lambda trials: 100 / n_tokens(trials),
        note=lambda trials: (
            "0 is no difference; sizes: "
            f"{', '.join(f'{size:g}' for size in results.large_scales(trials))} times that of "
            "tokens; stated so after an excess of 10 % at 8 times it had been undecided"
        ),
    ),
    claims.Outcome(
        "one-vector-says-likely-strings",
        "One vector makes the trained model say more than one in ten of the strings of at least "
        f"{SHORTEST} symbols that the model wrote itself.",
        values=lambda trials: [100 * float(said.mean()) for said in model_written_said(trials)],
        unit="% of strings",
        above=10.0,
        source=HERE,
        checks=training.force_strings,
        trials=lambda trials: len(model_written_said(trials)[0]),
        note="limit and search are those for random strings; the strings that are counted with are "
        "among these, so that they are shorter on average than the random ones; stated so after "
        "held-out text had been judged with them, at the same limit, and the outcome was undecided",
    ),
    claims.Outcome(
        "one-vector-cannot-say-anything",
        "One vector, over all settings tried, makes the trained model say less than one in ten of "
        f"the random strings of at least {SHORTEST} symbols.",
        values=lambda trials: results.success(trials, "random")[
            :, 0, string_lengths(trials) >= SHORTEST
        ].mean(axis=1),
        unit="% of strings",
        below=10.0,
        source=HERE,
        checks=training.force_strings,
        trials=lambda trials: results.n_strings(trials, SHORTEST),
        requires=("one-vector-says-likely-strings",),
    ),
    claims.Outcome(
        "more-vectors-say-more",
        lambda trials: (
            f"{prompt_lengths(trials)[-1]} vectors make the model say more strings than "
            f"{prompt_lengths(trials)[0]}, by more than 10 points, over held-out, model-written "
            "and shuffled strings of all lengths tried."
        ),
        values=lambda trials: results.gain_of_more(trials, EASIER),
        unit="points of a percentage",
        above=10.0,
        source=HERE,
        checks=training.force_strings,
        resolution=lambda trials: 100 / (len(EASIER) * results.n_strings(trials)),
    ),
    claims.Outcome(
        "one-vector-counts",
        counts_sentence,
        values=results.certificates,
        unit="bits",
        above=results.bits_of_tokens,
        source=HERE,
        checks=certified_bits,
        note="judged is the certificate; one that is too low does not show that there are fewer "
        "strings",
    ),
)
"""Judged by the trials of a plan."""


SPOKEN = (
    claims.Identity(
        "forced-strings-decode",
        "Every string that counts as said while its symbols are fed to the model is written again, "
        "symbol by symbol, when the model reads only its own output; wrong symbols of a string.",
        errors=lambda spoken: results.wrong_symbols(spoken).tolist() or NOTHING_SAID,
        tolerance=0.5,
        source=HERE,
        checks=force,
    ),
    claims.Outcome(
        "tokens-miss-forced-strings",
        f"Of the strings of at least {SHORTEST} symbols that were forced with one vector, less "
        "than half are said after some one-token prompt too.",
        values=lambda spoken: (
            [100 * float(said.double().mean()) for said in results.said_by_one_token(spoken)]
            or NOTHING_SAID
        ),
        unit="% of forced strings",
        below=50.0,
        source=HERE,
        checks=results.said_by_tokens,
        trials=lambda spoken: min(map(len, results.said_by_one_token(spoken)), default=1),
        requires=("one-vector-counts",),
    ),
)
"""Judged by what prompts say, from `results.spoken`."""


ROUNDED = (
    claims.Outcome(
        "rounding-loses-the-string",
        f"When the vectors that were made to say a string of at least {SHORTEST} symbols are "
        "replaced by their nearest tokens, by distance or by angle, less than one in four of the "
        "strings is still said; over all prompts of several vectors.",
        values=lambda rounded: (
            [100 * int(kept.sum()) / len(kept) for kept in results.kept_of_several(rounded)]
            or NOTHING_SAID
        ),
        unit="% of strings",
        below=25.0,
        source=HERE,
        checks=rounded_say,
        trials=lambda rounded: min(map(len, results.kept_of_several(rounded)), default=1),
        requires=("more-vectors-say-more",),
    ),
)
"""Judged by what survives, from `results.survives_rounding`."""


PLACES = (
    claims.Outcome(
        "virtual-tokens-are-far",
        "With the learning rate that forced most validation strings, a vector that was started at "
        "a token and made to say a string ends further from the nearest token than tokens are from "
        "their nearest other one: the ratio of the median distances is above 1.",
        values=lambda places: [one.spacings_away for one in places] or [1.0],
        unit="times",
        above=1.0,
        source=HERE,
        checks=nearest_tokens,
        scale="log",
        requires=("one-vector-counts",),
    ),
    claims.Outcome(
        "region-ends-before-token",
        "With the learning rate that forced most validation strings, a search finds a vector with "
        "another completion within half the distance to the nearest token: the median of the ratio "
        "of the two distances is below 0.5.",
        values=lambda places: [min(one.region_ends, NOT_FOUND) for one in places] or [NOT_FOUND],
        unit="dimensionless",
        below=0.5,
        source=HERE,
        checks=breaking_distance,
        scale="log",
        requires=("one-vector-counts",),
    ),
)
"""Judged by where vectors lie, from `places.all_places`."""


RATES = (
    claims.Outcome(
        "distance-is-the-learning-rate",
        "Where the learned vectors end is set by the learning rate more than by their strings: "
        f"for the same strings, a rate of {TENFOLD[1]:g} in place of {TENFOLD[0]:g} multiplies the "
        "median distance to the nearest token by more than the root of ten, 3.16.",
        # Nothing said with all rates shows nothing.
        values=lambda steps: [one.ratio(*TENFOLD) for one in steps] or [1.0],
        unit="times",
        above=math.sqrt(TENFOLD[1] / TENFOLD[0]),
        source=HERE,
        checks=settling.settle_at_rates,
        scale="log",
        requires=("one-vector-counts",),
        note="the rate alone would give 10 times, the string alone 1: the limit is halfway, in "
        "logarithms",
    ),
)
"""Judged by what learning rates reach, from `places.all_steps`."""


def share_missed(certify: Callable[..., float] = certified_bits, seed: int = 0) -> list[float]:
    """How often a lower limit is too high where the number is known, by distribution and sample."""
    generator = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, 4097)
    return [
        misses(n_reachable, shares, draws, REPETITIONS, generator, certify)
        for shares in (np.full(4096, 1 / 4096), zipf / zipf.sum())
        for n_reachable in (3, 64, 3000)
        for draws in (10, 60)
    ]


SAMPLING = (
    claims.Bound(
        "counting-by-sampling",
        "The lower limit for the number of strings that can be forced is too high in at most "
        f"{100 * MISSED:g} % of experiments in which the number is known, up to three standard "
        "errors.",
        values=lambda missed: missed,
        limits=MISSED,
        tolerance=3 * math.sqrt(MISSED * (1 - MISSED) / REPETITIONS),
        source=HERE,
        checks=certified_bits,
        search=lambda missed: f"{len(missed)} cases, {REPETITIONS} experiments each",
    ),
)
"""Judged by `share_missed`."""

"""Which training runs answer the question of the chapter "Continuous says more than discrete"?

A small language model learns real text. Then it is frozen, and vectors are sought that, put in the
place of a token, make it say given strings: a sweep finds out how best to seek; one run for each
prompt length forces strings of four kinds and several lengths; one looks for as many different
completions as there are tokens; one counts, from strings drawn with known probabilities, how many
strings can be forced at all; one forces strings with a margin, to see where the vectors lie, and
one does so again with smaller and larger steps.

Plain data, no torch: the workflow reads this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from notebooks.prefix_tuning.continuous_and_discrete.corpus import documentation
from promptlib.prefix_tuning.planning import check_counts, check_positive
from promptlib.runs import Run

PACKAGE = "notebooks.prefix_tuning.continuous_and_discrete"

N_HEAD = 4
WARMUP_SHARE = 0.1

COMPLETION = 10
"""Symbols of a completion when completions are counted: the published length."""

KINDS = ("text", "model", "shuffled", "random")
OBJECTIVES = ("likelihood", "margin")

SWEEP_LENGTH = 6
SWEEP_KINDS = ("text", "shuffled")
"""The sweep asks two vectors for strings that are neither easy nor hopeless."""

STOP_MARGIN = 0.5
"""Margin of the vectors whose place is looked at, in logits."""

STEP_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Learning rates with which the same strings are said again, to see where the vectors end."""

STEP_PATIENCE = 2
"""Small steps need more of them: so many times the updates of an attempt."""

RANDOM_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Scales of random vectors, in units of the root mean square entry of the token embeddings."""


@dataclass(frozen=True)
class LanguagePlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    pretrained, surveyed, distinct, settled, stepped : tuple of Run
        One for each seed.
    sweep : Run
        On the model of the first seed.
    forced, counted : tuple of dict of Run
        One for each seed, by the number of vectors of a prompt.
    """

    pretrained: tuple[Run, ...]
    surveyed: tuple[Run, ...]
    sweep: Run
    distinct: tuple[Run, ...]
    forced: tuple[dict[int, Run], ...]
    counted: tuple[dict[int, Run], ...]
    settled: tuple[Run, ...]
    stepped: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        yield from self.pretrained
        yield self.sweep
        for runs in (*self.forced, *self.counted):
            yield from runs.values()
        yield from self.distinct
        yield from self.settled
        yield from self.stepped
        yield from self.surveyed


def plan(
    seeds: int,
    first_seed: int,
    layers: int,
    width: int,
    block: int,
    pretrain_steps: int,
    batch_size: int,
    weight_learning_rate: float,
    learning_rates: Sequence[float],
    init_scales: Sequence[float],
    sweep_strings: int,
    attempts: int,
    force_steps: int,
    prompt_lengths: Sequence[int],
    string_lengths: Sequence[int],
    strings: int,
    distinct_steps: int,
    count_lengths: Sequence[int],
    count_strings: int,
) -> LanguagePlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Language models, at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    layers, width, block : int
        Size of the model: blocks, width (a multiple of 4), and symbols that it reads at once.
    pretrain_steps, force_steps, distinct_steps : int
        Training steps of the model, and most updates of a prompt in one attempt, when strings are
        forced and when completions are counted; at least 10.
    batch_size : int
        Windows of text in a training step, at least 1.
    weight_learning_rate : float
        Highest learning rate of the model's weights, above 0.
    learning_rates, init_scales : sequences of float
        The sweep is over all pairs, with both objectives. Scales are in units of the root mean
        square entry of the token embeddings.
    sweep_strings : int
        Strings of each of two kinds for each cell of the sweep, at least 1.
    attempts : int
        How many cells of the sweep, from the best on, a string is tried with before it counts as
        not said; at least 1.
    prompt_lengths, string_lengths : sequences of int
        Vectors of a prompt and symbols of a string; all pairs are tried.
    strings : int
        Strings of each kind for each pair, at least 1.
    count_lengths : sequence of int
        Symbols of the strings from which is counted, one for each of the first prompt lengths.
    count_strings : int
        How many such strings, at least 10; and how many are forced to look at where their vectors
        lie.

    Raises
    ------
    ValueError
        If a number is out of its range, or a string does not fit the model.
    """
    check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        layers=(layers, 1),
        block=(block, COMPLETION),
        pretrain_steps=(pretrain_steps, 10),
        batch_size=(batch_size, 1),
        sweep_strings=(sweep_strings, 1),
        attempts=(attempts, 1),
        force_steps=(force_steps, 10),
        strings=(strings, 1),
        distinct_steps=(distinct_steps, 10),
        count_strings=(count_strings, 10),
    )
    if width < N_HEAD or width % N_HEAD:
        raise ValueError(f"width must be a multiple of {N_HEAD}, got {width!r}")
    check_positive(
        weight_learning_rate=[weight_learning_rate],
        learning_rates=learning_rates,
        init_scales=init_scales,
    )
    for name, sizes in (
        ("prompt_lengths", prompt_lengths),
        ("string_lengths", string_lengths),
        ("count_lengths", count_lengths),
    ):
        if not sizes:
            raise ValueError(f"{name} must name at least one length, got {sizes!r}")
        for size in sizes:
            check_counts(**{f"each of {name}": (size, 1)})
    if len(count_lengths) > len(prompt_lengths):
        raise ValueError(
            f"count_lengths has {len(count_lengths)} entries, more than prompt_lengths with "
            f"{len(prompt_lengths)}"
        )
    longest = (
        max(*prompt_lengths, 1) + max(*string_lengths, *count_lengths, COMPLETION, SWEEP_LENGTH) - 1
    )
    if longest > block:
        raise ValueError(
            f"{max(prompt_lengths)} vectors and the longest string need {longest} positions, but "
            f"block is {block}; shorten the strings or raise block"
        )
    cells = [
        {"objective": objective, "learning_rate": rate, "init_scale": scale}
        for objective in OBJECTIVES
        for rate in learning_rates
        for scale in init_scales
    ]
    if attempts > len(cells):
        raise ValueError(f"attempts must be at most the {len(cells)} cells of the sweep")

    corpus = documentation()
    model = {
        "n_layer": layers,
        "n_head": N_HEAD,
        "n_embd": width,
        "vocab_size": len(corpus.alphabet),
        "block_size": block,
    }

    def config(seed: int, steps: int, **more: Any) -> dict[str, Any]:
        return {"seed": seed, "steps": steps, "model": model, "corpus": corpus.digest, **more}

    pretrained = tuple(
        Run(
            f"{PACKAGE}.pretraining:pretrain",
            config(
                seed,
                pretrain_steps,
                warmup=int(WARMUP_SHARE * pretrain_steps),
                batch_size=batch_size,
                learning_rate=weight_learning_rate,
            ),
        )
        for seed in range(first_seed, first_seed + seeds)
    )
    sweep = Run(
        f"{PACKAGE}.training:sweep",
        config(
            first_seed,
            force_steps,
            cells=cells,
            prompt_length=2,
            length=SWEEP_LENGTH,
            kinds=list(SWEEP_KINDS),
            strings=sweep_strings,
        ),
        needs=(pretrained[0],),
    )

    def seeking(function: str, base: Run, steps: int, **more: Any) -> Run:
        return Run(
            f"{PACKAGE}.training:{function}",
            config(base.config["seed"], steps, attempts=attempts, **more),
            needs=(base, sweep),
        )

    settled = tuple(
        Run(
            f"{PACKAGE}.training:settle",
            config(
                run.config["seed"],
                force_steps,
                length=count_lengths[0],
                strings=count_strings,
                stop_margin=STOP_MARGIN,
            ),
            needs=(run, sweep),
        )
        for run in pretrained
    )
    return LanguagePlan(
        pretrained=pretrained,
        surveyed=tuple(
            Run(
                f"{PACKAGE}.vectors:survey",
                {**config(run.config["seed"], 0), "length": COMPLETION, "scales": RANDOM_SCALES},
                needs=(run,),
            )
            for run in pretrained
        ),
        sweep=sweep,
        distinct=tuple(
            seeking(
                "say_different", run, distinct_steps, length=COMPLETION, kinds=["text", "random"]
            )
            for run in pretrained
        ),
        forced=tuple(
            {
                n: seeking(
                    "force_strings",
                    run,
                    force_steps,
                    prompt_length=n,
                    lengths=list(string_lengths),
                    kinds=list(KINDS),
                    strings=strings,
                )
                for n in prompt_lengths
            }
            for run in pretrained
        ),
        settled=settled,
        stepped=tuple(
            Run(
                f"{PACKAGE}.settling:settle_at_rates",
                config(
                    run.config["seed"],
                    STEP_PATIENCE * force_steps,
                    rates=list(STEP_RATES),
                    stop_margin=STOP_MARGIN,
                ),
                needs=(run, place),
            )
            for run, place in zip(pretrained, settled, strict=True)
        ),
        counted=tuple(
            {
                n: seeking(
                    "count_strings",
                    run,
                    force_steps,
                    prompt_length=n,
                    length=length,
                    strings=count_strings,
                )
                for n, length in zip(prompt_lengths, count_lengths, strict=False)
            }
            for run in pretrained
        ),
    )

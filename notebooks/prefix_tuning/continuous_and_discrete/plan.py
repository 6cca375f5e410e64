"""Which vectors are sought, on which models, and for which strings?

A small language model learns real text. Then it is frozen, and vectors are sought that, put in the
place of a token, make it say given strings. The runs of one `Plan` are labelled by ``method``:

==========  ======================================================================================
pretrain    the model of each seed
sweep       how best to seek, on the model of the first seed: a trial for each setting
force       strings of four kinds and several lengths, a run for each number of ``vectors``
count       strings with known probabilities, to count how many can be forced; by ``vectors``
different   as many different completions as there are tokens
settle      strings with a margin, to see where the vectors lie
rates       the same with smaller and larger steps
survey      vectors that nobody optimised
==========  ======================================================================================

Plain data, no torch: the workflow reads this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from notebooks.prefix_tuning.continuous_and_discrete.corpus import documentation
from promptlib.prefix_tuning.planning import check_counts, check_positive
from promptlib.prefix_tuning.trials import Plan, labelled
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
) -> Plan:
    """Plan the runs of the chapter; the first cell of its page says what each parameter is."""
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
    _check_lengths(
        block,
        prompt_lengths=prompt_lengths,
        string_lengths=string_lengths,
        count_lengths=count_lengths,
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

    def run(function: str, seed: int, steps: int, *needs: Run, **more: Any) -> Run:
        config = {"seed": seed, "steps": steps, "model": model, "corpus": corpus.digest, **more}
        return Run(f"{PACKAGE}.{function}", config, needs)

    pretrained = [
        run(
            "pretraining:pretrain",
            seed,
            pretrain_steps,
            warmup=int(WARMUP_SHARE * pretrain_steps),
            batch_size=batch_size,
            learning_rate=weight_learning_rate,
        )
        for seed in range(first_seed, first_seed + seeds)
    ]
    sweep = run(
        "training:sweep",
        first_seed,
        force_steps,
        pretrained[0],
        cells=cells,
        prompt_length=2,
        length=SWEEP_LENGTH,
        kinds=list(SWEEP_KINDS),
        strings=sweep_strings,
    )

    def seek(base: Run, function: str, steps: int = force_steps, **more: Any) -> Run:
        """Plan to seek with the best settings of the sweep."""
        return run(f"training:{function}", base.config["seed"], steps, base, sweep, **more)

    forced = [
        labelled(
            seek(
                base,
                "force_strings",
                attempts=attempts,
                prompt_length=n,
                lengths=list(string_lengths),
                kinds=list(KINDS),
                strings=strings,
            ),
            method="force",
            vectors=n,
        )
        for base in pretrained
        for n in prompt_lengths
    ]
    counted = [
        labelled(
            seek(
                base,
                "count_strings",
                attempts=attempts,
                prompt_length=n,
                length=length,
                strings=count_strings,
            ),
            method="count",
            vectors=n,
        )
        for base in pretrained
        for n, length in zip(prompt_lengths, count_lengths, strict=False)
    ]
    different = [
        seek(
            base,
            "say_different",
            distinct_steps,
            attempts=attempts,
            length=COMPLETION,
            kinds=["text", "random"],
        )
        for base in pretrained
    ]
    settled = [
        seek(
            base,
            "settle",
            length=count_lengths[0],
            strings=count_strings,
            stop_margin=STOP_MARGIN,
        )
        for base in pretrained
    ]
    rated = [
        run(
            "settling:settle_at_rates",
            base.config["seed"],
            STEP_PATIENCE * force_steps,
            base,
            place,
            rates=list(STEP_RATES),
            stop_margin=STOP_MARGIN,
        )
        for base, place in zip(pretrained, settled, strict=True)
    ]
    surveyed = [
        run("vectors:survey", base.config["seed"], 0, base, length=COMPLETION, scales=RANDOM_SCALES)
        for base in pretrained
    ]
    return sum(
        (
            labelled(sweep, method="sweep"),
            *forced,
            *counted,
            labelled(different, method="different"),
            labelled(settled, method="settle"),
            labelled(rated, method="rates"),
            labelled(surveyed, method="survey"),
        ),
        start=labelled(pretrained, method="pretrain"),
    )


def _check_lengths(block: int, **lengths: Sequence[int]) -> None:
    """Raise a ValueError unless there are lengths and all prompts fit with their strings."""
    for name, sizes in lengths.items():
        if not sizes:
            raise ValueError(f"{name} must name at least one length, got {sizes!r}")
        for size in sizes:
            check_counts(**{f"each of {name}": (size, 1)})
    prompts, strings, counted = lengths.values()
    if len(counted) > len(prompts):
        raise ValueError(
            f"count_lengths has {len(counted)} entries, more than prompt_lengths with "
            f"{len(prompts)}"
        )
    longest = max(prompts) + max(*strings, *counted, COMPLETION, SWEEP_LENGTH) - 1
    if longest > block:
        raise ValueError(
            f"{max(prompts)} vectors and the longest string need {longest} positions, but "
            f"block is {block}; shorten the strings or raise block"
        )

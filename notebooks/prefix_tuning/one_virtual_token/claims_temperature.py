r"""How cold must attention be? The claims about leaks, one function each.

As in `claims_decoding`, what is judged is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from notebooks.prefix_tuning.one_virtual_token import measuring, worst_case
from notebooks.prefix_tuning.one_virtual_token.claims_decoding import (
    EXACT,
    Conditional,
    Unconditional,
)
from promptlib import claims
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions import bounds, pieces
from promptlib.prefix_tuning.constructions.conditional import conditional_generator
from promptlib.prefix_tuning.constructions.unconditional import unconditional_generator
from promptlib.prefix_tuning.identities import AttendFunction

HERE = "this book"

_HOME = "promptlib.prefix_tuning.constructions"


def leak(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    build: Unconditional = unconditional_generator,
) -> claims.Claim:
    """The attention that misses its target is bounded, in any layer and in ours.

    Parameters
    ----------
    n : int
        Random queries, each with a key that leads all others, and as many for which the others are
        pushed up to where the lead is just as stated.
    """
    values, limits = [], []
    for instance in range(n):
        positions = int(torch.randint(2, 40, (), generator=generator))
        beta, width = 12 * torch.rand((), generator=generator, dtype=torch.float64), 5
        others = torch.rand(positions - 1, generator=generator, dtype=torch.float64) * 10 + beta
        if instance % 2:
            others = torch.full_like(others, float(beta))  # all others as close as allowed
        keys = torch.zeros(positions, width).double()
        keys[1:, 0] = -others * width**0.5
        query = torch.eye(width, dtype=torch.float64)[:1]
        _, attention = attend(query, keys, keys)
        values.append(attention[0, 1:].sum())
        limits.append(torch.tensor(bounds.leak_bound(positions, float(beta))))
    for vocab_size, length in ((2, 2), (95, 24), (1000, 7)):
        speaker = build(vocab_size, length)
        contents = torch.rand(length, length, generator=generator, dtype=torch.float64)
        reading = speaker.stages(contents)[1]
        assert reading.attention is not None
        for head, target in enumerate((range(length), [0] * length)):
            for query_at in range(1, length):
                row = reading.attention[head, query_at].clone()
                row[target[query_at]] = 0.0
                values.append(row.sum())
                bound = bounds.leak_bound(query_at + 1, speaker.inverse_temperature)
                limits.append(torch.tensor(bound))
    return claims.bound(
        "prefix-tuning/one-token-leak",
        r"A head with a logit ahead of all others by $\beta$ gives the others at most "
        r"$(n-1)e^{-\beta}$ of its attention.",
        values=torch.stack(values),
        limits=torch.stack(limits),
        tolerance=1e-15,
        source=HERE,
        checks=pieces.read_positions,
        search=f"{n} random layers, half of them with all other keys as close as allowed; and "
        "every row of three constructions",
    )


def total_error(
    sizes: Sequence[tuple[int, int]],
    restarts: int,
    steps: int,
    generator: torch.Generator,
    build: Unconditional = unconditional_generator,
) -> claims.Claim:
    """What the lookup finds is wrong by less than half the distance of two symbols.

    Parameters
    ----------
    sizes : sequence of (V, N)
        With ``N`` >= 2; each at the least inverse temperature that is proved.
    restarts, steps : int
        Of the gradient search for tables and contents.
    """
    values = []
    for vocab_size, length in sizes:
        least = bounds.least_inverse_temperature(vocab_size, length)
        speaker = build(vocab_size, length, inverse_temperature=least)
        found = worst_case.worst_lookup_errors(speaker, restarts, steps, generator)
        values.append(found / bounds.margin(vocab_size))
    return claims.bound(
        "prefix-tuning/one-token-total-error",
        r"At $\beta = \log(4V(N-1))$ the number that a lookup finds is wrong by at most $1/(2V)$, "
        "whatever the table and the other positions hold (in units of that margin).",
        values=torch.cat(values),
        limits=1.0,
        tolerance=1e-12,
        source=HERE,
        checks=bounds.least_inverse_temperature,
        search=f"{restarts} gradient searches of {steps} steps for each of {len(sizes)} sizes",
    )


def critical_temperature(
    sizes: Sequence[tuple[int, int]],
    conditional_sizes: Sequence[tuple[int, int]],
    formula: Callable[[int, int, bool], float] = bounds.critical_inverse_temperature,
) -> claims.Claim:
    """Below the critical inverse temperature something is decoded wrongly, above it nothing.

    Parameters
    ----------
    sizes, conditional_sizes : sequence of (V, N)
        With ``N`` >= 2. All sequences or maps where there are at most 4,000, else the worst.
    """
    errors = []
    for conditional, chosen in ((False, sizes), (True, conditional_sizes)):
        for vocab_size, length in chosen:
            measured = worst_case.measured_threshold(vocab_size, length, conditional)
            errors.append(abs(measured - formula(vocab_size, length, conditional)))
    return claims.identity(
        "prefix-tuning/one-token-critical-temperature",
        r"All sequences are decoded if $\beta > \log((N-1)(4V-3))$, and some sequence is not if "
        r"$\beta$ is smaller; one in and $N$ out likewise with $\log((4V-2)(2N-2)-(2N-1))$. "
        "Measured on all sequences and maps of small sizes, on the hardest ones of larger sizes.",
        errors=errors,
        tolerance=1e-8,
        source=HERE,
        checks=bounds.critical_inverse_temperature,
    )


def two_positions(
    most: int,
    temperatures: Iterable[float] = (-5.0, 0.0, 1e-3, 1.0, 20.0, 300.0),
    build: Conditional = conditional_generator,
) -> claims.Claim:
    """One in and one out: the leaks of the two heads cancel, whatever the temperature.

    Parameters
    ----------
    most : int
        Vocabularies with at most so many maps are exhausted.
    temperatures : iterable of float
        Inverse temperatures, the negative ones included.
    """
    small = [v for v, n in measuring.sizes_up_to(most, conditional=True) if n == 1]
    wrong = [
        measuring.wrong_answers(
            build(v, inverse_temperature=beta, beyond_bounds=True), measuring.all_maps(v)
        )
        for v in small
        for beta in temperatures
    ]
    return claims.identity(
        "prefix-tuning/one-token-two-positions",
        "With one symbol in and one out the leaks of the two heads cancel: every map is answered "
        "at every inverse temperature, zero and below included.",
        errors=torch.cat(wrong),
        tolerance=EXACT,
        source=HERE,
        checks=conditional_generator,
    )


check_public(__name__)

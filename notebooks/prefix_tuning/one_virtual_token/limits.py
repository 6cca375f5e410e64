r"""How near do leaks and rounding come to what each construction tolerates?

What is judged is passed in, so that a test can pass in a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from notebooks.prefix_tuning.one_virtual_token import measuring, theory, worst_case
from notebooks.prefix_tuning.one_virtual_token.decoding import Conditional, Unconditional
from notebooks.prefix_tuning.one_virtual_token.measuring import Found
from promptlib.attention import attend as library_attend
from promptlib.prefix_tuning.constructions import bounds, unpacking
from promptlib.prefix_tuning.constructions.conditional import conditional_generator
from promptlib.prefix_tuning.constructions.unconditional import unconditional_generator
from promptlib.prefix_tuning.identities import AttendFunction


def leaks(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    build: Unconditional = unconditional_generator,
) -> Found:
    """Attention that misses its target, in random layers and in every row of ours."""
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
        limits.append(torch.tensor(theory.leak_bound(positions, float(beta))))
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
                bound = theory.leak_bound(query_at + 1, speaker.inverse_temperature)
                limits.append(torch.tensor(bound))
    return Found(
        torch.stack(values),
        torch.stack(limits),
        f"{n} random layers, half of them with all other keys as close as allowed; and "
        "every row of three constructions",
    )


def lookups(
    sizes: Sequence[tuple[int, int]],
    restarts: int,
    steps: int,
    generator: torch.Generator,
    build: Unconditional = unconditional_generator,
) -> Found:
    """Worst errors of lookups at the least temperatures, in margins, by gradient search."""
    values = []
    for vocab_size, length in sizes:
        least = bounds.least_inverse_temperature(vocab_size, length)
        speaker = build(vocab_size, length, inverse_temperature=least)
        found = worst_case.worst_lookup_errors(speaker, restarts, steps, generator)
        values.append(found / bounds.margin(vocab_size))
    return Found(
        torch.cat(values),
        search=f"{restarts} gradient searches of {steps} steps for each of {len(sizes)} sizes",
    )


def critical_temperatures(
    sizes: Sequence[tuple[int, int]],
    conditional_sizes: Sequence[tuple[int, int]],
    formula: Callable[[int, int, bool], float] = theory.critical_inverse_temperature,
) -> list[float]:
    """Errors of the temperatures from which on everything is decoded, at sizes (V, N)."""
    errors = []
    for conditional, chosen in ((False, sizes), (True, conditional_sizes)):
        for vocab_size, length in chosen:
            measured = worst_case.measured_threshold(vocab_size, length, conditional)
            errors.append(abs(measured - formula(vocab_size, length, conditional)))
    return errors


def two_positions(
    most: int,
    temperatures: Iterable[float] = (-5.0, 0.0, 1e-3, 1.0, 20.0, 300.0),
    build: Conditional = conditional_generator,
) -> Tensor:
    """Wrong answers of one in and one out, at any temperature, negative ones included."""
    small = [v for v, n in measuring.sizes_up_to(most, conditional=True) if n == 1]
    wrong = [
        measuring.wrong_answers(
            build(v, inverse_temperature=beta, beyond_bounds=True), measuring.all_maps(v)
        )
        for v in small
        for beta in temperatures
    ]
    return torch.cat(wrong)


def unpacking_errors(
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    digits: Callable[[Tensor, int], Tensor] = theory.digits,
) -> Tensor:
    """Errors of digits read from packed numbers that are wrong by up to the margin."""
    errors = []
    for v in sizes:
        every = measuring.all_sequences(v, v) if v <= 5 else None
        rows = measuring.random_maps(samples, v, 1, 1, generator) if every is None else every
        # Three roundings, of the number and inside the network, stay free.
        reach = max(unpacking.MARGIN * float(v) ** -v - 3 * 2.0**-53, 0.0)
        for push in (-1.0, -0.5, 0.0, 0.5, 1.0):
            found = digits(unpacking.pack(rows) + push * reach, v)
            errors.append((found - rows).abs().amax(-1))
    return torch.cat(errors)


def packed_numbers(
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> Found:
    """Errors of packed numbers that are looked up, in margins of the unpacking."""
    values = []
    for vocab_size in sizes:
        maps = measuring.random_maps(samples, vocab_size, 1, 2, generator)
        errors = worst_case.packed_errors(build(vocab_size, inputs=2), maps)
        values.append(errors.flatten() / unpacking.MARGIN)
    return Found(
        torch.cat(values),
        search=f"{samples} random maps and two extreme ones of each size, all pairs",
        largest=sizes[-1],
    )


def shares_beyond(
    samples: int,
    generator: torch.Generator,
    sizes: Sequence[int] = (14, 15),
    build: Conditional = conditional_generator,
) -> Found:
    """Share of wrong answers of vocabularies that float64 cannot pack, above 0.01."""
    shares = []
    for vocab_size in sizes:
        maps = measuring.random_maps(samples, vocab_size, 1, 2, generator)
        speaker = build(vocab_size, inputs=2, beyond_bounds=True)
        shares.append(float((measuring.answers(speaker, maps) != maps).double().mean()))
    return Found(
        [0.01 for _ in shares], shares, search=f"{samples} random maps of each size, all pairs"
    )


def wrong_of_largest(
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    read_out: Callable[[Tensor, int], Tensor] = measuring.read_out,
) -> Tensor:
    """Wrong symbols of random sequences of two over vocabularies up to millions."""
    wrong = []
    for vocab_size in sizes:
        wanted, said = measuring.texts_beyond(vocab_size, 2, samples, generator, read_out)
        wrong.append((wanted != said).sum(-1))
    return torch.cat(wrong)

r"""How much does float64 hold? The claims about packed numbers and large vocabularies.

As in `claims_decoding`, what is judged is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from notebooks.prefix_tuning.one_virtual_token import measuring, worst_case
from notebooks.prefix_tuning.one_virtual_token.claims_decoding import EXACT, Conditional
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning.constructions import bounds, pieces, unpacking
from promptlib.prefix_tuning.constructions.conditional import conditional_generator

HERE = "this book"

_HOME = "promptlib.prefix_tuning.constructions"

ReadOut = Callable[[Tensor, int], Tensor]


def unpacking_exact(
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    digits: Callable[[Tensor, int], Tensor] = unpacking.digits,
) -> claims.Claim:
    """The network reads the digits of a number, up to the edge of its margin.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of symbols ``V``; up to 5 all rows are taken, then random ones.
    samples : int
        Random rows of each larger size.
    """
    errors = []
    for v in sizes:
        every = measuring.all_sequences(v, v) if v <= 5 else None
        rows = measuring.random_maps(samples, v, 1, 1, generator) if every is None else every
        # Three roundings, of the number and inside the network, stay free.
        reach = max(unpacking.MARGIN * float(v) ** -v - 3 * 2.0**-53, 0.0)
        for push in (-1.0, -0.5, 0.0, 0.5, 1.0):
            found = digits(unpacking.pack(rows) + push * reach, v)
            errors.append((found - rows).abs().amax(-1))
    return claims.identity(
        "prefix-tuning/one-token-unpacking",
        r"A network of ReLUs reads all $V$ digits of a packed number that is wrong by up to "
        r"$\frac{15}{32}V^{-V}$.",
        errors=torch.cat(errors),
        tolerance=1e-9,
        source=HERE,
        checks=unpacking.unpack,
    )


def thirteen_symbols(
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    build: Conditional = conditional_generator,
) -> claims.Claim:
    """In float64 the packed number stays inside the margin of the unpacking network.

    Parameters
    ----------
    sizes : sequence of int
        Vocabularies, up to 13.
    samples : int
        Random maps of each size.
    """
    values = []
    for vocab_size in sizes:
        maps = measuring.random_maps(samples, vocab_size, 1, 2, generator)
        errors = worst_case.packed_errors(build(vocab_size, inputs=2), maps)
        values.append(errors.flatten() / unpacking.MARGIN)
    return claims.bound(
        "prefix-tuning/one-token-thirteen-symbols",
        f"With {sizes[-1]} symbols, and with fewer, the packed number that is looked up is wrong "
        "by less than the margin of the unpacking, rounding included (in units of the margin).",
        values=torch.cat(values),
        limits=1.0,
        source=HERE,
        checks=bounds.check_vocabulary,
        search=f"{samples} random maps and two extreme ones of each size, all pairs",
    )


def fourteen_symbols_fail(
    samples: int,
    generator: torch.Generator,
    sizes: Sequence[int] = (14, 15),
    build: Conditional = conditional_generator,
) -> claims.Claim:
    """With fourteen symbols the last digits are lost.

    Parameters
    ----------
    samples : int
        Random maps of each size.
    sizes : sequence of int
        Vocabularies.
    """
    shares = []
    for vocab_size in sizes:
        maps = measuring.random_maps(samples, vocab_size, 1, 2, generator)
        speaker = build(vocab_size, inputs=2, beyond_bounds=True)
        shares.append(float((measuring.answers(speaker, maps) != maps).double().mean()))
    return claims.bound(
        "prefix-tuning/one-token-fourteen-symbols-fail",
        "With 14 or 15 symbols float64 cannot hold the packed rows: more than 1 % of the answers "
        "are wrong.",
        values=[0.01 for _ in shares],
        limits=shares,
        source=HERE,
        checks=bounds.check_vocabulary,
        search=f"{samples} random maps of each size, all pairs",
    )


def largest_vocabulary(
    sizes: Sequence[int],
    samples: int,
    generator: torch.Generator,
    read_out: ReadOut = measuring.read_out,
) -> claims.Claim:
    """Millions of symbols are still told apart in float64.

    Parameters
    ----------
    sizes : sequence of int
        Vocabularies, up to 2**24.
    samples : int
        Random sequences of two symbols, for each.
    """
    wrong = []
    for vocab_size in sizes:
        wanted, said = measuring.texts_beyond(vocab_size, 2, samples, generator, read_out)
        wrong.append((wanted != said).sum(-1))
    return claims.identity(
        "prefix-tuning/one-token-largest-vocabulary",
        "Float64 tells apart at least $2^{24}$ symbols: random sequences over vocabularies up to "
        "that size are decoded without a wrong symbol.",
        errors=torch.cat(wrong),
        tolerance=EXACT,
        source=HERE,
        checks=pieces.nearest_symbol,
    )


check_public(__name__)

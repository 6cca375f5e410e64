r"""What does the chapter "A prefix cannot re-aim attention" state beyond a prefix in front?

Learned vectors at another place, content that the vectors push on, and every layer of a deep model.
As in `claims`, one function for each claim; what it measures is
passed in, so that a test can pass in a wrong one and see the claim fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from notebooks.prefix_tuning.cannot_re_aim import every_layer, placement, positions
from notebooks.prefix_tuning.cannot_re_aim.claims import HERE, PAPER, TOLERANCE
from notebooks.prefix_tuning.cannot_re_aim.positions import RELATIVE, Scheme
from promptlib import claims
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning.cases import AttentionCase, random_case
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import AttendFunction
from promptlib.prefix_tuning.prefix import Prefix


def vectors_anywhere(
    cases: Iterable[AttentionCase],
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
) -> claims.Claim:
    """Before, between or behind the content: no content row is re-aimed.

    Parameters
    ----------
    cases : iterable of AttentionCase
    generator : torch.Generator
        Draws the queries of the learned vectors.
    attend : attention function
    """
    errors = []
    for case in cases:
        n_tokens = case.keys.shape[-2]
        shape = case.prefix_keys.shape
        for place in sorted({0, n_tokens // 2, n_tokens}):
            queries = torch.randn(shape, generator=generator, dtype=case.queries.dtype)
            errors.append(placement.insertion_errors(case, place, queries, attend))
    return claims.identity(
        "prefix-tuning/vectors-anywhere",
        "Learned vectors before, between or behind the content leave the relative attention of "
        "every content row as it was; under a causal mask the rows before them do not change.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=placement.insertion_errors,
    )


def suffix_aims_itself(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    errors: Callable[..., Tensor] = placement.aiming_errors,
) -> claims.Claim:
    """The row of a learned vector behind the content can be any row.

    Parameters
    ----------
    n : int
        Random heads, contents and rows wanted.
    generator : torch.Generator
    attend : attention function
    errors : callable
        In the place of `placement.aiming_errors`.
    """
    found = []
    for _ in range(n):
        n_tokens = _integer(2, 8, generator)
        head_width = n_tokens + _integer(0, 8, generator)
        width = head_width + _integer(0, 5, generator)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        wanted = (2 * draw(n_tokens)).softmax(-1)
        query = _well_conditioned(draw(head_width, width))
        # Short key weights and long content: the suffix must not take all the attention itself.
        key = 0.1 * _well_conditioned(draw(head_width, width))
        value = draw(head_width, width) / width**0.5
        content = _well_conditioned(draw(n_tokens, head_width)) @ torch.linalg.pinv(key.mT)
        found.append(errors(content, (query, key, value), wanted, attend))
    return claims.identity(
        "prefix-tuning/suffix-aims-itself",
        "If every query is possible, one learned vector behind the content gives its own row any "
        "positive relative attention over linearly independent keys, and changes no content output "
        "under a causal mask.",
        errors=torch.cat(found),
        tolerance=TOLERANCE,
        source=HERE,
        checks=placement.suffix_that_reads,
    )


def relative_positions(
    n: int,
    generator: torch.Generator,
    schemes: Mapping[str, Scheme] = RELATIVE,
    attend: AttendFunction = library_attend,
) -> claims.Claim:
    """A prefix that takes positions moves no attention where positions count by difference.

    Parameters
    ----------
    n : int
        Random layers for every scheme, mask and start.
    generator : torch.Generator
    schemes : mapping of str to Scheme
    attend : attention function
    """
    errors = []
    for scheme in schemes.values():
        for causal in (False, True):
            for start in (0, 1, 1000):
                for _ in range(n):
                    case = random_case(
                        generator,
                        n_head=_integer(1, 4, generator),
                        n_tokens=_integer(2, 24, generator),
                        head_width=2 * _integer(1, 8, generator),
                        prefix_length=_integer(1, 7, generator),
                        causal=causal,
                        prefix_kind="independent key and value",
                        logit_scale=3.0,
                    )
                    errors.append(positions.shift_errors(case, scheme, start, attend))
    return claims.identity(
        "prefix-tuning/relative-positions",
        "With rotary positions, ALiBi or a table of distances a prefix may take positions and push "
        "the content on: relative attention and the form of the output stay.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=positions.shift_errors,
    )


def every_head_and_layer(
    pairs: Sequence[tuple[GPT, Prefix]],
    tokens: Tensor,
    errors: Callable[[GPT, Prefix, Tensor], Tensor] = every_layer.every_layer_errors,
) -> claims.Claim:
    """In a deep trained model every layer obeys, on the input that it gets.

    Parameters
    ----------
    pairs : sequence of (GPT, Prefix)
        In float64.
    tokens : Tensor of int64, shape (B, T)
    errors : callable
        In the place of `every_layer.every_layer_errors`.
    """
    return claims.identity(
        "prefix-tuning/every-head-and-layer",
        "In every head and layer of a trained three-layer GPT the prefix vectors of that layer "
        "leave the relative attention over what it reads as it is, and bias its output.",
        errors=torch.cat([errors(model, prefix, tokens) for model, prefix in pairs]),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=every_layer.every_layer_errors,
    )


def _well_conditioned(matrix: Tensor) -> Tensor:
    """The same with singular values between 1 and 2, so that solving loses no digits."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ torch.diag(1 + values / values.max()) @ right


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


check_public(__name__)

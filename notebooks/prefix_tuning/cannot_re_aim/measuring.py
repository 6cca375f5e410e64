"""How far is what the theorems on one layer state from what layers compute?

Attention and formulas are passed in, so that a test can measure wrong ones and see claims fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from notebooks.prefix_tuning.cannot_re_aim import (
    kernels,
    one_layer,
    placement,
    positions,
    re_aiming,
)
from notebooks.prefix_tuning.cannot_re_aim.positions import RELATIVE, Scheme
from promptlib.attention import attend as library_attend
from promptlib.prefix_tuning import inside, reach
from promptlib.prefix_tuning.cases import AttentionCase, random_case
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import AttendFunction
from promptlib.prefix_tuning.prefix import Prefix


def errors(
    check: Callable[[AttentionCase, AttendFunction], Tensor],
    cases: Iterable[AttentionCase],
    attend: AttendFunction = library_attend,
) -> Tensor:
    """What an identity of `one_layer` is off by, in all cases."""
    return torch.cat([check(case, attend) for case in cases])


def relative_attention(case: AttentionCase, attend: AttendFunction = library_attend) -> Tensor:
    """Errors of the rescaled rows and of the ratios within them."""
    return torch.cat(
        (one_layer.rescaling_errors(case, attend), one_layer.ratio_errors(case, attend))
    )


def statistics_errors(
    cases: Iterable[AttentionCase],
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
) -> Tensor:
    """Differences of outputs between contents that agree in what a head can learn of them."""
    return torch.cat([one_layer.statistics_errors(case, generator, attend) for case in cases])


def attainment_errors(
    n: int, generator: torch.Generator, attend: AttendFunction = library_attend
) -> Tensor:
    """Errors of both directions of the theorem on which shares can be taken, in `n` instances."""
    found = []
    for instance in range(n):
        width = _integer(3, 16, generator)
        n_queries = _integer(1, (width + 1) // 2, generator)
        length = _integer(1, 5, generator)
        queries, keys = (_gaussian(generator, n_queries, width) for _ in range(2))
        wanted = (3 * _gaussian(generator, n_queries, length + 1)).softmax(-1)[:, :length]
        causal = instance % 2 == 1
        found.append(one_layer.attainment_errors(queries, keys, wanted, causal, attend))
        crowded = random_case(
            generator,
            n_head=2,
            n_tokens=width + 5,
            head_width=width,
            causal=causal,
            logit_scale=3.0,
        )
        found.append(one_layer.unreachable_errors(crowded, attend))
    return torch.cat(found)


@dataclass(frozen=True)
class Shares:
    """What prefixes take of each query, in random layers or in a trained model."""

    found: Tensor  # by the vectors that a search or training found
    limits: Tensor  # the largest share, by the theorem
    search: str  # how hard was searched
    best: Tensor | None = None  # by the vector that the proof names


def normalised_shares(
    n: int,
    generator: torch.Generator,
    *,
    restarts: int = 4,
    steps: int = 60,
    limit: Callable[..., Tensor] = reach.largest_share,
    attend: AttendFunction = library_attend,
) -> Shares:
    """What prefixes that pass a LayerNorm take of each query of `n` random layers."""
    taken: tuple[list[Tensor], list[Tensor]] = [], []
    limits = []
    for _ in range(n):
        head_width = _integer(2, 8, generator)
        width = head_width * _integer(1, 3, generator) + 1
        n_tokens = _integer(2, 12, generator)
        queries, keys = (_gaussian(generator, n_tokens, head_width) for _ in range(2))
        weight = _gaussian(generator, head_width, width) / width**0.5
        bias = 0.3 * _gaussian(generator, head_width)
        gain, shift = 1 + 0.3 * _gaussian(generator, width), 0.3 * _gaussian(generator, width)
        length = _integer(1, 4, generator)
        searched = reach.climb(
            queries, weight, gain, shift, generator, restarts=restarts, steps=steps
        )
        best = reach.best_normalised_vector(queries, weight, gain)
        normaliser = reach.log_normalisers(queries, keys)
        limits.append(limit(queries, normaliser, weight, gain, shift, bias, length))
        for vectors, shares in zip((searched, best), taken, strict=True):
            prefix_keys = (vectors * gain + shift) @ weight.mT + bias  # one for each query
            # Each query faces copies of its own best vector, so it goes in as its own batch entry.
            own = prefix_keys[:, None].expand(-1, length, -1)
            _, attention = attend(queries[:, None], keys.expand(n_tokens, -1, -1), keys, own, own)
            shares.append(attention[:, 0, :length].sum(-1))
    searched_shares, best_shares = (torch.cat(shares) for shares in taken)
    return Shares(
        found=torch.cat((searched_shares, best_shares)),
        limits=torch.cat(limits).repeat(2),
        search=f"{restarts} gradient climbs of {steps} steps for every query, and the vector that "
        "the proof names",
        best=best_shares,
    )


def trained_shares(
    pairs: Sequence[tuple[GPT, Prefix]],
    tokens: Tensor,
    limit: Callable[[GPT, Tensor, int], Tensor] = inside.largest_shares,
) -> Shares:
    """What trained prefixes that pass a LayerNorm take of the attention of their models."""
    return Shares(
        found=torch.stack([inside.shares_taken(model, prefix, tokens) for model, prefix in pairs]),
        limits=torch.stack([limit(model, tokens, prefix.length) for model, prefix in pairs]),
        search=f"{len(pairs)} prefixes trained by gradient descent",
    )


def rank_one_errors(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    update: Callable[..., tuple[Tensor, Tensor]] = re_aiming.rank_one_key_update,
) -> Tensor:
    """Errors of random rows that a rank-one change of the key projection was built to give."""
    found = []
    for _ in range(n):
        n_tokens, head_width = _integer(2, 8, generator), _integer(2, 8, generator)
        width = 2 * n_tokens
        wanted = (4 * _gaussian(generator, n_tokens)).softmax(-1)
        weight = _gaussian(generator, head_width, width) / width**0.5
        content, query = _gaussian(generator, n_tokens, width), _gaussian(generator, head_width)
        found.append(re_aiming.rank_one_errors(content, query, weight, wanted, attend, update))
    return torch.cat(found)


def kernel_errors(
    cases: Sequence[AttentionCase], functions: Mapping[str, AttendFunction] | None = None
) -> Tensor:
    """Errors of all identities with other normalised kernels, `kernels.POSITIVE_KERNELS`."""
    if functions is None:
        functions = {
            name: kernels.normalised(kernel) for name, kernel in kernels.POSITIVE_KERNELS.items()
        }
    checks = (relative_attention, one_layer.output_errors)
    return torch.cat(
        [errors(check, cases, function) for function in functions.values() for check in checks]
    )


def insertion_errors(
    cases: Iterable[AttentionCase],
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
) -> Tensor:
    """Errors of content rows with learned vectors before, amid and behind the content."""
    found = []
    for case in cases:
        n_tokens = case.keys.shape[-2]
        shape = case.prefix_keys.shape
        for place in sorted({0, n_tokens // 2, n_tokens}):
            queries = torch.randn(shape, generator=generator, dtype=case.queries.dtype)
            found.append(placement.insertion_errors(case, place, queries, attend))
    return torch.cat(found)


def suffix_errors(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    errors: Callable[..., Tensor] = placement.aiming_errors,
) -> Tensor:
    """Errors of random rows that a learned vector behind the content was built to give itself."""
    found = []
    for _ in range(n):
        n_tokens = _integer(2, 8, generator)
        head_width = n_tokens + _integer(0, 8, generator)
        width = head_width + _integer(0, 5, generator)
        wanted = (2 * _gaussian(generator, n_tokens)).softmax(-1)
        query = _well_conditioned(_gaussian(generator, head_width, width))
        # Short key weights and long content: the suffix must not take all the attention itself.
        key = 0.1 * _well_conditioned(_gaussian(generator, head_width, width))
        value = _gaussian(generator, head_width, width) / width**0.5
        content = _gaussian(generator, n_tokens, head_width)
        content = _well_conditioned(content) @ torch.linalg.pinv(key.mT)
        found.append(errors(content, (query, key, value), wanted, attend))
    return torch.cat(found)


def shift_errors(
    n: int,
    generator: torch.Generator,
    schemes: Mapping[str, Scheme] = RELATIVE,
    attend: AttendFunction = library_attend,
) -> Tensor:
    """Errors where a prefix takes positions: `n` layers for every scheme, mask and start."""
    found = []
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
                    found.append(positions.shift_errors(case, scheme, start, attend))
    return torch.cat(found)


def _gaussian(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _well_conditioned(matrix: Tensor) -> Tensor:
    """The same with singular values between 1 and 2, so that solving loses no digits."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ torch.diag(1 + values / values.max()) @ right


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))

r"""What does the chapter "A prefix cannot re-aim attention" state, and how is each part checked?

One function for each claim. It measures, decides and returns the claim; what it measures is passed
in (the attention function, a limit, a model), so that a test can pass in a wrong one and see the
claim fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from notebooks.prefix_tuning.cannot_re_aim import kernels, re_aiming
from promptlib import claims
from promptlib.attention import attend as library_attend
from promptlib.checks import check_public
from promptlib.prefix_tuning import identities, reach
from promptlib.prefix_tuning import inside as trained_attention
from promptlib.prefix_tuning.cases import AttentionCase, random_case
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.identities import AttendFunction
from promptlib.prefix_tuning.prefix import Prefix

TOLERANCE = 1e-10
"""Largest error that counts as float64 rounding, for logits up to a few thousand."""

PAPER = "Petrov et al. 2024, prefixes and relative attention"
HERE = "this book"


def relative_attention(
    cases: Iterable[AttentionCase], attend: AttendFunction = library_attend
) -> claims.Claim:
    """Relative attention over content is the same with and without a prefix."""
    errors = [
        check(case, attend)
        for case in cases
        for check in (identities.rescaling_errors, identities.ratio_errors)
    ]
    return claims.identity(
        "prefix-tuning/relative-attention",
        "In one attention layer a prefix multiplies the attention over content by one factor per "
        r"query, $A'_{ij} = (1-\alpha_i)A_{ij}$, so all ratios between content positions stay.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=identities.ratio_errors,
    )


def biased_output(
    cases: Iterable[AttentionCase], attend: AttendFunction = library_attend
) -> claims.Claim:
    """The output is shrunk towards a combination of the prefix values."""
    return claims.identity(
        "prefix-tuning/biased-output",
        "A prefix scales the output of a head and adds a combination of its own values, "
        r"$t'_i = (1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        errors=torch.cat([identities.output_errors(case, attend) for case in cases]),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=identities.output_errors,
    )


def bias_in_hull(
    cases: Iterable[AttentionCase], attend: AttendFunction = library_attend
) -> claims.Claim:
    """The bias lies in the convex hull of the prefix values, scaled by what was taken."""
    return claims.identity(
        "prefix-tuning/bias-in-hull",
        r"The bias $t'_i - (1-\alpha_i)t_i$ lies in the convex hull of the prefix values "
        r"$\bar v_1, \dots, \bar v_p$, shrunk by $\alpha_i$.",
        errors=torch.cat([identities.hull_distances(case, attend) for case in cases]),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=identities.hull_distances,
    )


def two_statistics(
    cases: Iterable[AttentionCase],
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
) -> claims.Claim:
    """With a prefix, a head still learns only two things about its content."""
    errors = [identities.statistics_errors(case, generator, attend) for case in cases]
    return claims.identity(
        "prefix-tuning/two-statistics",
        r"Whatever the prefix, the content enters $t'_i$ through $t_i$ and $\log Z_i$ alone: two "
        "contents that agree in both give the same output.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=identities.statistics_errors,
    )


def attainable_attention(
    n: int, generator: torch.Generator, attend: AttendFunction = library_attend
) -> claims.Claim:
    """Which shares can be taken from several queries: the theorem is sharp.

    Parameters
    ----------
    n : int
        Random instances of each direction.
    """
    errors = []
    for instance in range(n):
        width = _integer(3, 16, generator)
        n_queries = _integer(1, (width + 1) // 2, generator)
        length = _integer(1, 5, generator)
        queries, keys = (
            torch.randn(n_queries, width, generator=generator, dtype=torch.float64)
            for _ in range(2)
        )
        scores = 3 * torch.randn(n_queries, length + 1, generator=generator, dtype=torch.float64)
        wanted = scores.softmax(-1)[:, :length]
        causal = instance % 2 == 1
        errors.append(reach.attainment_errors(queries, keys, wanted, causal, attend))
        crowded = random_case(
            generator,
            n_head=2,
            n_tokens=width + 5,
            head_width=width,
            causal=causal,
            logit_scale=3.0,
        )
        errors.append(reach.unreachable_errors(crowded, attend))
    return claims.identity(
        "prefix-tuning/attainable-attention",
        "Linearly independent queries can be given any attention to the prefix, and one prefix "
        r"vector only takes shares for which $\mathrm{logit}\,\alpha_i + \log Z_i$ is linear in "
        "the query.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=reach.keys_that_take,
    )


@dataclass(frozen=True)
class NormalisedShares:
    """What prefixes behind a LayerNorm take, one entry for each query of each random layer.

    Attributes
    ----------
    searched, best : Tensor
        By the vectors that a gradient search found, and by the vector that the proof names.
    limits : Tensor
        The largest share, by the theorem.
    search : str
        How hard was searched.
    """

    searched: Tensor
    best: Tensor
    limits: Tensor
    search: str


def normalised_shares(
    n: int,
    generator: torch.Generator,
    *,
    restarts: int = 4,
    steps: int = 60,
    limit: Callable[..., Tensor] = reach.largest_share,
    attend: AttendFunction = library_attend,
) -> NormalisedShares:
    """Measure what prefixes that pass a LayerNorm take of each query of random layers.

    Parameters
    ----------
    n : int
        Random layers, each with several queries.
    restarts, steps : int
        Of the gradient search in each layer.
    limit : callable
        In the place of :func:`promptlib.prefix_tuning.reach.largest_share`.
    """
    taken: tuple[list[Tensor], list[Tensor]] = [], []
    limits = []
    for _ in range(n):
        head_width = _integer(2, 8, generator)
        width = head_width * _integer(1, 3, generator) + 1
        n_tokens = _integer(2, 12, generator)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        queries, keys = draw(n_tokens, head_width), draw(n_tokens, head_width)
        weight, bias = draw(head_width, width) / width**0.5, 0.3 * draw(head_width)
        gain, shift = 1 + 0.3 * draw(width), 0.3 * draw(width)
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
    return NormalisedShares(
        searched=torch.cat(taken[0]),
        best=torch.cat(taken[1]),
        limits=torch.cat(limits),
        search=f"{restarts} gradient climbs of {steps} steps for every query, and the vector that "
        "the proof names",
    )


def layer_norm_limit(shares: NormalisedShares) -> claims.Claim:
    """A prefix that passes a LayerNorm takes a limited share."""
    return claims.bound(
        "prefix-tuning/layer-norm-limit",
        r"Prefix vectors that pass through a LayerNorm take at most "
        r"$\sigma(\log p + \bar z_i - \log Z_i)$ of a query's attention, with $\bar z_i$ given by "
        "the query and the weights.",
        values=torch.cat((shares.searched, shares.best)),
        limits=shares.limits.repeat(2),
        tolerance=1e-12,
        source=HERE,
        checks=reach.largest_share,
        search=shares.search,
    )


def layer_norm_limit_reached(shares: NormalisedShares) -> claims.Claim:
    """The limit is the least possible."""
    return claims.identity(
        "prefix-tuning/layer-norm-limit-reached",
        "For each query some prefix behind a LayerNorm takes just as much of its attention as this "
        "limit allows.",
        errors=shares.best - shares.limits,
        tolerance=1e-12,
        source=HERE,
        checks=reach.best_normalised_vector,
    )


def rank_one_re_aims(
    n: int,
    generator: torch.Generator,
    attend: AttendFunction = library_attend,
    update: Callable[..., tuple[Tensor, Tensor]] = re_aiming.rank_one_key_update,
) -> claims.Claim:
    """A rank-one change of the key projection makes an attention row whatever is wanted.

    Parameters
    ----------
    n : int
        Random layers, contents and rows wanted.
    """
    errors = []
    for _ in range(n):
        n_tokens, head_width = _integer(2, 8, generator), _integer(2, 8, generator)
        width = 2 * n_tokens

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        wanted = (4 * draw(n_tokens)).softmax(-1)
        weight = draw(head_width, width) / width**0.5
        content, query = draw(n_tokens, width), draw(head_width)
        errors.append(re_aiming.rank_one_errors(content, query, weight, wanted, attend, update))
    return claims.identity(
        "prefix-tuning/rank-one-re-aims",
        "A rank-one change of $W_K$ gives one query any positive attention row over linearly "
        "independent tokens.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=re_aiming.rank_one_key_update,
    )


def normalised_kernels(
    cases: Sequence[AttentionCase],
    functions: Mapping[str, AttendFunction] | None = None,
) -> claims.Claim:
    """The theorem holds for all weights that see one query and one key and are then normalised.

    Parameters
    ----------
    cases : sequence of AttentionCase
    functions : mapping of str to attention function, optional
        All of `kernels.POSITIVE_KERNELS` by default.
    """
    if functions is None:
        functions = {
            name: kernels.normalised(kernel) for name, kernel in kernels.POSITIVE_KERNELS.items()
        }
    checks = (identities.rescaling_errors, identities.ratio_errors, identities.output_errors)
    errors = [
        check(case, function)
        for function in functions.values()
        for case in cases
        for check in checks
    ]
    return claims.identity(
        "prefix-tuning/normalised-kernels",
        "It need not be softmax: attention that normalises any positive kernel $f(q_i, k_j)$ "
        "cannot be re-aimed by a prefix either.",
        errors=torch.cat(errors),
        tolerance=TOLERANCE,
        source=HERE,
        checks=kernels.normalised,
    )


def trained_relative_attention(
    pairs: Sequence[tuple[GPT, Prefix]],
    tokens: Tensor,
    errors: Callable[[GPT, Prefix, Tensor], Tensor] = trained_attention.model_ratio_errors,
) -> claims.Claim:
    """Trained prefixes leave the relative attention of the trained GPT where it was.

    Parameters
    ----------
    pairs : sequence of (GPT, Prefix)
        In float64.
    tokens : Tensor of int64, shape (B, T)
    """
    return claims.identity(
        "prefix-tuning/trained-relative-attention",
        "In the GPT trained to sort, a trained prefix multiplies every attention row over content "
        r"by $1-\alpha_i$ and moves no attention from one digit to another.",
        errors=torch.cat([errors(model, prefix, tokens) for model, prefix in pairs]),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=trained_attention.model_ratio_errors,
    )


def trained_biased_output(
    pairs: Sequence[tuple[GPT, Prefix]],
    tokens: Tensor,
    errors: Callable[[GPT, Prefix, Tensor], Tensor] = trained_attention.model_output_errors,
) -> claims.Claim:
    """Trained prefixes move the output of the trained GPT's head towards their own value.

    Parameters as for :func:`trained_relative_attention`.
    """
    return claims.identity(
        "prefix-tuning/trained-biased-output",
        "In the GPT trained to sort, the output of the head with a trained prefix is "
        r"$(1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        errors=torch.cat([errors(model, prefix, tokens) for model, prefix in pairs]),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=trained_attention.model_output_errors,
    )


def trained_layer_norm_limit(
    pairs: Sequence[tuple[GPT, Prefix]],
    tokens: Tensor,
    limit: Callable[[GPT, Tensor, int], Tensor] = trained_attention.largest_shares,
) -> claims.Claim:
    """Trained prefixes stay below the limit that the LayerNorm of their model sets.

    Parameters as for :func:`trained_relative_attention`; the prefixes pass through the LayerNorm.
    """
    shares = partial(trained_attention.shares_taken, tokens=tokens)
    return claims.bound(
        "prefix-tuning/trained-layer-norm-limit",
        "In the GPT trained to sort, no trained prefix takes more attention than the model's "
        "LayerNorm and key projection let any prefix take.",
        values=torch.stack([shares(model, prefix) for model, prefix in pairs]),
        limits=torch.stack([limit(model, tokens, prefix.length) for model, prefix in pairs]),
        tolerance=1e-12,
        source=HERE,
        checks=trained_attention.largest_shares,
        search=f"{len(pairs)} prefixes trained by gradient descent",
    )


def fine_tuning_re_aims(
    models: Sequence[tuple[GPT, GPT]],
    tokens: Tensor,
    movement: Callable[..., Tensor] = trained_attention.model_movement,
) -> claims.Claim:
    """Fine-tuning on the reverse order moves the relative attention of the rows that answer.

    Parameters
    ----------
    models : sequence of (GPT, GPT)
        Pretrained and fine-tuned, one pair for each seed.
    tokens : Tensor of int64, shape (B, T)
    """
    moved = [100 * float(movement(before, after, tokens).mean()) for before, after in models]
    return claims.outcome(
        "prefix-tuning/fine-tuning-re-aims",
        "Fine-tuning a sorter on the opposite order moves more than a tenth of the attention of "
        "the rows that answer from some positions to others.",
        values=moved,
        limit=10.0,
        side="above",
        unit="% of the attention, mean over rows",
        source=PAPER,
        checks=trained_attention.model_movement,
        note="With a prefix it is 0 by the theorem; a tenth is more than any rounding.",
    )


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


check_public(__name__)

"""Can self-attention do it? Claims about statement c and its remarks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from notebooks.prompt_attention.softmax_separates import constructions, positional
from notebooks.prompt_attention.softmax_separates.attack import ceiling_claim
from promptlib import claims
from promptlib.checks import check_public
from promptlib.claims import Claim
from promptlib.prompt_attention import expressivity, models
from promptlib.prompt_attention.instances import (
    BOOK,
    PAPER,
    SPARSITIES,
    TOLERANCE,
    cell,
    every_case,
    normal,
    random_mixtures,
    share_right,
    with_deviations,
)
from promptlib.prompt_attention.population import (
    PLANE_MODELS,
    PlaneModel,
    aligned,
)


def self_attention_factor(
    seed: int,
    instances: int = 60,
    gain: Callable[[Tensor, float, float], Tensor] = expressivity.aligned_gain,
    sign: Callable[[Tensor, float, float], Tensor] = expressivity.sign_function,
) -> Claim:
    """Statement c, its algebra: the score on aligned bags, and the function that has its sign."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for mixture in random_mixtures(generator, instances, deviations=1):
        size = float(3 * torch.rand((), generator=generator))
        strayed = with_deviations(mixture, aligned(size))
        u, A = normal(generator, mixture.dim), 0.3 * normal(generator, mixture.dim, mixture.dim)
        bags, case = every_case(strayed, generator)
        heading = strayed.context + bags.labels[:, None] * strayed.signal  # a_y, (n, d)
        c = ((heading @ A) * heading).sum(dim=-1)
        factor = torch.stack([gain(c, 0.0, mixture.sparsity), gain(c, size, mixture.sparsity)])
        factor = factor.gather(0, (case % 2)[None])[0]
        score = models.self_attention(bags.tokens, u, A)
        errors.append((score - (heading @ u) * factor).abs().max())

        c = normal(generator, 20)
        x, odds = torch.exp((1 + size) * c), mixture.sparsity / (1 - mixture.sparsity)
        denominator = (1 + odds) * (1 + odds * x) * (odds + x**size)
        quotient = -sign(x, size, mixture.sparsity) / denominator
        errors.append((gain(c, size, mixture.sparsity) - quotient).abs().max())
    return claims.identity(
        "prompt-attention/self-attention-factor",
        "On aligned bags self-attention's score is $\\langle u,a_y\\rangle\\,g_\\Delta(c)$ with "
        "$c = a_y^\\top A a_y$, and $g_\\Delta(c) = -F_\\Delta(x)/N$ with "
        "$x = e^{(1+\\Delta)c}$ and $N = (1+D)(1+Dx)(D+x^\\Delta)$.",
        errors=torch.stack(errors),
        tolerance=TOLERANCE,
        source=PAPER,
        checks=expressivity.aligned_gain,
    )


def self_attention_threshold(
    seed: int,
    restarts: int,
    steps: int,
    threshold: Callable[[float], float] = expressivity.self_attention_threshold,
    model: PlaneModel = PLANE_MODELS["self-attention"],
) -> Claim:
    """Statement c: the search against the ceiling of 50 %, just above the threshold and far."""
    return ceiling_claim(
        "prompt-attention/self-attention-threshold",
        "On the deviations $(0,0)$ and $(\\Delta,\\Delta)$ with "
        "$\\Delta \\ge \\Delta^\\star(\\zeta)$, no head and no attention matrix lift softmax "
        "self-attention above 50 %.",
        0.5,
        aligned,
        threshold,
        model,
        seed,
        restarts,
        steps,
    )


def self_attention_sharp(
    seed: int,
    threshold: Callable[[float], float] = expressivity.self_attention_threshold,
    shortfall: float = 1e-3,
) -> Claim:
    """Statement c, sharpness: the constructed weights just below the threshold."""
    generator = torch.Generator().manual_seed(seed)
    wrong = []
    for share in SPARSITIES:
        size = threshold(share) * (1 - shortfall)
        c = constructions.best_gain_argument(size, share)
        mixture = cell(share, aligned(size), cosine=0.5)
        bags, _ = every_case(mixture, generator)
        scores = models.self_attention(
            bags.tokens, *constructions.self_attention_weights(mixture, c)
        )
        wrong.append(1 - share_right(scores, bags.labels))
    return claims.bound(
        "prompt-attention/self-attention-threshold-is-sharp",
        "At 0.1 % below $\\Delta^\\star(\\zeta)$ explicit weights make softmax self-attention "
        "perfect.",
        values=wrong,
        limits=0.0,
        source=BOOK,
        checks=expressivity.self_attention_threshold,
        search=f"every case at {len(SPARSITIES)} values of ζ",
    )


def threshold_two_ways(
    threshold: Callable[[float], float] = expressivity.self_attention_threshold,
) -> Claim:
    """Statement c, its number: the threshold from the convex function and from the definition."""
    errors = []
    for share in SPARSITIES:
        low, high = 0.5 * max(share / (1 - share), 1.0), 1.1 / min(share, 1 - share)
        for _ in range(40):
            middle = (low + high) / 2
            if expressivity.aligned_gain_supremum(middle, share, points=801) < 0:
                high = middle
            else:
                low = middle
        errors.append(threshold(share) / high - 1)
    return claims.identity(
        "prompt-attention/self-attention-threshold-two-ways",
        "The threshold from the minimum of the convex function $F_\\Delta$ is the one from its "
        "definition, $\\inf\\{\\Delta : \\sup_c g_\\Delta(c) < 0\\}$ (relative error).",
        errors=errors,
        tolerance=1e-9,
        source=BOOK,
        checks=expressivity.self_attention_threshold,
    )


def self_attention_bracket(
    bracket: Callable[[float], tuple[float, float]] = expressivity.self_attention_bracket,
    points: int = 199,
) -> Claim:
    """Statement c, in closed form: the threshold between two simple functions."""
    shares = [(place + 1) / (points + 1) for place in range(points)]
    thresholds = [expressivity.self_attention_threshold(share) for share in shares]
    lower, upper = zip(*(bracket(share) for share in shares), strict=True)
    apart = [low / max(share, 1 - share) for low, share in zip(lower, shares, strict=True)]
    # The paper's form of the sufficient condition lies above ours.
    printed = [
        max((1 - share) ** -2 - 1, (1 - share + share**2) / (share * (1 - share)))
        for share in shares
    ]
    return claims.bound(
        "prompt-attention/self-attention-bracket",
        "The threshold is at least $\\max(\\frac{\\zeta}{1-\\zeta}, \\frac{1-\\zeta}{\\zeta})$ and "
        "at most $1/\\min(\\zeta,1-\\zeta)$, which in turn is at most "
        "$\\max\\{(1-\\zeta)^{-2}-1, \\frac{1-\\zeta+\\zeta^2}{\\zeta(1-\\zeta)}\\}$; the first "
        "two differ by the factor $1/\\max(\\zeta,1-\\zeta) \\le 2$.",
        values=[*lower, *thresholds, *upper, *upper],
        limits=[*thresholds, *upper, *printed, *apart],
        source=BOOK,
        checks=expressivity.self_attention_bracket,
        search=f"{points} values of ζ, evenly in (0, 1)",
        tolerance=1e-9,
    )


def heads_by_position(
    seed: int,
    restarts: int = 128,
    steps: int = 150,
    search: Callable[..., float] = positional.search_worst_case,
    excess: float = 1.01,
) -> Claim:
    """Remark to c: one head for each position, against an adversary who places the tokens."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 1), (5, 2), (7, 5), (11, 3)]
    values = [
        search(
            excess * expressivity.self_attention_threshold(chosen / count),
            count,
            chosen,
            restarts=restarts,
            steps=steps,
            generator=generator,
        )
        for count, chosen in sizes
    ]
    return claims.bound(
        "prompt-attention/heads-by-position",
        "A head for each position does not help against an adversary: at 1 % above "
        "$\\Delta^\\star$ some relevant set makes a label wrong for one of the two deviations.",
        values=values,
        limits=0.0,
        source=PAPER,
        checks=positional.worst_case,
        search=f"{restarts} starts and {steps} steps of Adam over heads and logit, for each "
        f"(T, m) in {sizes}",
    )


def escape_by_position(
    heads: Callable[[int, int], Tensor] = positional.escaping_heads,
    accuracy: Callable[..., float] = positional.positional_accuracy,
) -> Claim:
    """Remark to c, its limit: with a random relevant set a head for each position does help."""
    errors = [
        accuracy(heads(count, raised), c, size, chosen)
        - positional.escaping_accuracy(count, chosen, raised)
        for count, chosen in ((3, 1), (5, 2), (7, 3), (7, 5), (11, 3))
        for raised in range(1, count)
        for c in (0.01, 1.0)
        for size in (0.5, 500.0)
    ]
    return claims.identity(
        "prompt-attention/escape-by-position",
        "When the relevant set is uniform instead, heads that differ between the first $k$ "
        "positions and the rest are right exactly when more than $k\\zeta$ of the first $k$ tokens "
        "are relevant, for every $\\Delta$: with $k=1$ that has probability $\\zeta$, with $k=T-1$ "
        "it has $1-\\zeta$.",
        errors=errors,
        tolerance=TOLERANCE,
        source=BOOK,
        checks=positional.escaping_heads,
    )


check_public(__name__)

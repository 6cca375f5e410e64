"""Claims of "Prefix against LoRA at an equal budget" that are mathematics, and their inputs.

Each takes what was computed and returns the claim, so that a test can hand in something wrong.
What training reached is in `results`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.prefix_or_lora import bias
from notebooks.prefix_tuning.prefix_or_lora import counting as budget_counting
from notebooks.prefix_tuning.prefix_or_lora import plan as lora_budget
from notebooks.prefix_tuning.prefix_or_lora.results import BUDGET_VECTORS, Measured, rebuilt
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import HERE, Get

LIBRARY = "promptlib.prefix_tuning"
PUBLISHED_SIZE = (4, 256)
"""Layers and width of the published model."""
CASES = (
    ("prefix", 3, 2, 8),
    ("prefix", 2, 1, 10),
    ("MLP", 1, 2, 8),
    ("MLP", 2, 1, 10),
    ("MLP and projection", 1, 2, 8),
)
"""What, length or rank, layers and width of the models whose Jacobians are computed."""
SCALES = (0.1, 0.5, 2.0, 10.0, 1000.0)

Counted = tuple[str, int, int, int]
Count = Callable[[str, int, int, int], int]


def table_of_budgets(n_layer: int, width: int) -> list[tuple[str, int, int]]:
    """List what each way trains, at the published size and at another."""
    sizes = (PUBLISHED_SIZE, (n_layer, width))
    prefixes = (("shared", BUDGET_VECTORS), ("free", BUDGET_VECTORS // 2))
    rows = [
        (
            f"{name} prefix of length {n}",
            *(lora_budget.prefix_parameters(name, n, *s) for s in sizes),
        )
        for name, n in prefixes
    ]
    rows += [
        (f"LoRA of rank 1, {name}", *(lora_budget.lora_parameters(name, 1, *s) for s in sizes))
        for name in lora_budget.MODULES
    ]
    return rows  # type: ignore[return-value]


def counts_match(
    measured: Measured,
    n_layer: int,
    width: int,
    prefix_count: Count = lora_budget.prefix_parameters,
    lora_count: Count = lora_budget.lora_parameters,
) -> claims.Claim:
    """The counts of the table are those of real parameters, trained here or at full size."""
    errors = []
    for way in measured.ways:
        if way.family != "fine-tuning":
            count = prefix_count if way.family == "prefix" else lora_count
            errors.append(count(way.what, way.size, n_layer, width) - way.parameters)
    for name, length in (("shared", BUDGET_VECTORS), ("free", BUDGET_VECTORS // 2)):
        prefix = Prefix(
            PUBLISHED_SIZE[0], length, PUBLISHED_SIZE[1], separate_values=name == "free"
        )
        there = sum(parameter.numel() for parameter in prefix.parameters())
        errors.append(prefix_count(name, length, *PUBLISHED_SIZE) - there)
    for name, modules in lora_budget.MODULES.items():
        model = GPT(GPTConfig(PUBLISHED_SIZE[0], 4, PUBLISHED_SIZE[1], 11, 19))
        there = sum(parameter.numel() for parameter in add_lora(model, 1, modules))
        errors.append(lora_count(name, 1, *PUBLISHED_SIZE) - there)
    return claims.identity(
        "prefix-tuning/prefix-or-lora-counts",
        "A shared prefix of length 12, a free one of length 6 and LoRA of rank 1 on MLPs and "
        "output projections train equally many numbers, 12,288 at the published size; LoRA on "
        "the MLPs alone trains 10,240. Counts against parameters that exist.",
        errors=errors,
        tolerance=0.5,
        source="Petrov et al. 2024, rank-1 LoRA",
        checks=lora_budget.lora_parameters,
    )


def count_numbers(
    generator: torch.Generator, cases: Sequence[tuple[str, int, int, int]] = CASES
) -> list[Counted]:
    """Name, numbers trained, formula and rank for each case."""
    counted = []
    for what, size, n_layer, width in cases:
        formula, rank = budget_counting.numbers_seen(what, size, n_layer, width, generator)
        if what == "prefix":
            name, trained = f"prefix of length {size}", size * n_layer * width
        else:
            name = f"LoRA of rank {size}, {what}"
            trained = lora_budget.lora_parameters(what, size, n_layer, width)
        counted.append((name, trained, formula, rank))
    return counted


def numbers_that_count(counted: Sequence[Counted]) -> claims.Claim:
    """The formulas of the theorem are the ranks of Jacobians."""
    return claims.identity(
        "prefix-tuning/prefix-or-lora-numbers",
        "A shared prefix of length $p$ has $L p\\,(d-2)$ numbers that count, and LoRA of rank $r$ "
        "$r$ times (inputs + outputs $- r$) in each layer that it corrects, one output less where "
        "the layer writes to the residual stream; against ranks of Jacobians of random models.",
        errors=[formula - rank for _, _, formula, rank in counted],
        tolerance=0.5,
        source=HERE,
        checks=budget_counting.numbers_seen,
    )


def nothing_changes(
    measured: Measured, get: Get, tokens: Tensor, generator: torch.Generator
) -> claims.Claim:
    """Shifts of trained shared prefixes and other factors of trained LoRA change no logit."""
    errors = []
    for way in measured.ways:
        for cell in way.lowest():
            if way.family == "prefix" and way.what == "shared":
                model, _, prefix = rebuilt(cell, get)
                assert prefix is not None
                errors.append(budget_counting.shift_errors(model, prefix, tokens, generator))
            elif way.family == "LoRA" and way.what in budget_counting.COUNTED:
                _, model, _ = rebuilt(cell, get)
                errors.append(budget_counting.gauge_errors(model, tokens, generator))
    return unchanged(errors)


def unchanged(errors: Sequence[Tensor]) -> claims.Claim:
    """The claim of `nothing_changes`, from changes of logits."""
    return claims.identity(
        "prefix-tuning/prefix-or-lora-invariance",
        "In the trained models no logit changes when multiples of $\\mathbf 1$ are added to the "
        "vectors of a shared prefix, or to what LoRA writes to the residual stream, or when its "
        "factors are written in another basis; absolute differences.",
        errors=torch.cat(list(errors)).numpy(),
        tolerance=1e-8,
        source=HERE,
        checks=budget_counting.shift_errors,
    )


def scale_hardly_matters(measured: Measured, get: Get, generator: torch.Generator) -> claims.Claim:
    """Scaled vectors of trained shared prefixes move behind the LayerNorm as little as proved."""
    moves, limits = [], []
    for way in measured.of("prefix"):
        for cell in way.lowest() if way.what == "shared" else ():
            model, _, prefix = rebuilt(cell, get)
            assert prefix is not None
            for layer, block in enumerate(model.blocks):
                norm = block.norm_attention
                assert isinstance(norm, nn.LayerNorm)
                vectors = prefix.vectors[layer]
                for scale in SCALES:
                    found = budget_counting.scale_moves(
                        norm, vectors, torch.full((len(vectors),), scale, dtype=vectors.dtype)
                    )
                    moves.append(found[0])
                    limits.append(found[1])
    return moves_within(moves, limits)


def moves_within(moves: Sequence[Tensor], limits: Sequence[Tensor]) -> claims.Claim:
    """The claim of `scale_hardly_matters`, from moves and their limits."""
    return claims.bound(
        "prefix-tuning/prefix-or-lora-scale",
        "Scaling a vector of a trained shared prefix by $a$ moves it behind the LayerNorm by at "
        "most $\\max_k |\\gamma_k|\\,\\sqrt d\\,\\varepsilon\\,(1 - a^{-2})/(2v)$.",
        values=torch.cat(list(moves)).numpy(),
        limits=torch.cat(list(limits)).numpy(),
        source=HERE,
        checks=budget_counting.scale_moves,
        search=f"all vectors of the trained prefixes, scaled by {', '.join(map(str, SCALES))}",
        tolerance=1e-12,
    )


def bias_for_nothing(errors: Tensor) -> claims.Claim:
    """LoRA of rank one behind a LayerNorm adds any bias."""
    return claims.identity(
        "prefix-tuning/prefix-or-lora-bias",
        "Behind a LayerNorm, LoRA of rank 1 adds any fixed vector to what a layer writes, on every "
        "input; random layers, differences relative to the vector.",
        errors=errors.numpy(),
        tolerance=1e-10,
        source=HERE,
        checks=bias.add_bias_by_lora,
    )


check_public(__name__)

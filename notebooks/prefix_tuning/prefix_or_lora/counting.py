r"""How many numbers do a prefix and LoRA of equal parameter counts really have?

Some changes of the parameters change nothing in the model. Behind a LayerNorm without its
:math:`\varepsilon`, a prefix vector :math:`s` and :math:`a s + b \mathbf 1`, :math:`a > 0`, are the
same: two numbers of each vector are lost. A correction :math:`BA` of rank :math:`r` is the same for
:math:`B G, G^{-1} A` with any invertible :math:`G`: :math:`r^2` numbers are lost. And what a
corrected layer writes to the residual stream in the direction :math:`\mathbf 1` is removed by every
LayerNorm that reads it: :math:`r` more for each layer that writes there.

The rank of the Jacobian of a model's logits with respect to what was trained says that nothing
else is lost: near almost every point the model depends on as many numbers as the rank.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.prefix_or_lora.plan import MODULES
from promptlib.checks import check_public
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import LoRALinear, add_lora
from promptlib.prefix_tuning.prefix import Prefix

WRITERS = ("mlp.contract", "attention.project")
"""Layers whose output is added to the residual stream."""

COUNTED = ("MLP", "MLP and projection")
"""Sets of layers that `lora_numbers` counts."""


def prefix_numbers(length: int, n_layer: int, width: int) -> int:
    """Count what a shared prefix behind LayerNorms has: ``length * n_layer * (width - 2)``."""
    return length * n_layer * (width - 2)


def lora_numbers(modules: str, rank: int, n_layer: int, width: int) -> int:
    """Count what LoRA on the MLPs, with or without the output projections, has.

    For each layer rank x (inputs + outputs - rank), with one output less where it writes to the
    residual stream. Queries, keys and values lose other numbers.
    """
    if modules not in COUNTED:
        raise ValueError(f"counted are {', '.join(COUNTED)}, got {modules!r}")
    numbers = 0
    for name in MODULES[modules]:
        sides = 2 if name.startswith("attention") else 5
        numbers += rank * (sides * width - rank - (name in WRITERS))
    return n_layer * numbers


def shifted(prefix: Prefix, generator: torch.Generator) -> Prefix:
    """The prefix with a random multiple of all ones added to each vector."""
    other = copy.deepcopy(prefix)
    with torch.no_grad():
        for vectors in other.parameters():
            shifts = torch.randn(vectors.shape[:2], generator=generator, dtype=torch.float64)
            vectors.add_(shifts.to(vectors).unsqueeze(-1))
    return other


def regauged(model: GPT, generator: torch.Generator) -> GPT:
    """The model with other numbers in its LoRA that mean the same.

    Factors are multiplied by a random invertible matrix and its inverse, and those that write to
    the residual stream get random multiples of all ones.
    """
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in other.named_modules():
            if not isinstance(module, LoRALinear):
                continue
            rank = len(module.down)
            noise = torch.randn(rank, rank, generator=generator, dtype=torch.float64)
            mix = torch.linalg.qr(noise).Q.to(module.up) * 1.5
            module.up.copy_(module.up @ mix)
            module.down.copy_(torch.linalg.solve(mix, module.down))
            if name.endswith(WRITERS):
                module.up.add_(torch.randn(1, rank, generator=generator).to(module.up))
    return other


@torch.no_grad()
def shift_errors(model: GPT, prefix: Prefix, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """How much the logits change when a shared prefix is shifted, absolute; in float64."""
    return (model(tokens, prefix) - model(tokens, shifted(prefix, generator))).abs().flatten()


@torch.no_grad()
def gauge_errors(model: GPT, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """How much the logits change when LoRA is written in other numbers, absolute; in float64."""
    return (model(tokens) - regauged(model, generator)(tokens)).abs().flatten()


@torch.no_grad()
def scale_moves(norm: nn.LayerNorm, vectors: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    r"""How far vectors behind a LayerNorm move when they are scaled, and the most they can.

    Of ``(n, d)`` vectors, none constant, and as many factors above 0. The limits are
    :math:`\max_k |\gamma_k| \, \sqrt d\, \varepsilon\, |1 - a^{-2}| / (2 v)` for :math:`a \ge 1`,
    with :math:`v` the variance of :math:`s`; for :math:`a < 1` with :math:`a s` in the place of
    :math:`s` and :math:`1/a` in the place of :math:`a`.
    """
    moves = (norm(vectors * scales.unsqueeze(-1)) - norm(vectors)).norm(dim=-1)
    smaller = torch.minimum(scales, torch.ones_like(scales))
    variance = vectors.var(dim=-1, correction=0) * smaller**2
    up = torch.maximum(scales, 1 / scales)
    limits = norm.weight.abs().max() * norm.eps * (1 - up**-2) / (2 * variance)
    return moves, limits * vectors.shape[-1] ** 0.5


def jacobian_rank(model: GPT, learned: Sequence[Tensor], tokens: Tensor, **inputs: Prefix) -> int:
    """On how many numbers the logits depend, near where a model in float64 is.

    There must be tokens enough for as many logits as numbers.
    """
    logits = model(tokens, **inputs).flatten()
    one_each = torch.eye(len(logits), dtype=logits.dtype)
    parts = torch.autograd.grad(logits, learned, one_each, is_grads_batched=True)
    jacobian = torch.cat([part.flatten(1) for part in parts], dim=1)
    # Columns of one length: only directions count, and parts of a model differ in scale.
    jacobian = jacobian / jacobian.norm(dim=0)
    return int(torch.linalg.matrix_rank(jacobian, rtol=1e-10))


def random_model(n_layer: int, width: int, generator: torch.Generator, eps: float = 1e-5) -> GPT:
    """A model of two heads with weights, biases and gains far from special, in float64."""
    model = GPT(GPTConfig(n_layer, 2, width, 11, 19), generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    return model


def numbers_seen(
    what: str, size: int, n_layer: int, width: int, generator: torch.Generator
) -> tuple[int, int]:
    """Count by the formula, and by the rank of a Jacobian, for a random model without epsilon.

    What is counted is ``"prefix"`` or one of `COUNTED`; its size is a length or a rank.
    """
    model = random_model(n_layer, width, generator, eps=1e-30)
    inputs: dict[str, Prefix] = {}
    if what == "prefix":
        model.requires_grad_(False)
        prefix = Prefix(n_layer, size, width, 1.0, generator).double()
        learned, inputs = list(prefix.parameters()), {"prefix": prefix}
        formula, named = prefix_numbers(size, n_layer, width), size * n_layer * width
    else:
        learned = add_lora(model, size, MODULES[what], generator, init_std=0.5)
        formula = lora_numbers(what, size, n_layer, width)
        named = sum(part.numel() for part in learned)
        with torch.no_grad():
            for part in learned:
                noise = torch.randn(part.shape, generator=generator, dtype=torch.float64)
                part.add_(0.3 * noise)
    length = 10
    sequences = 2 + named // 20  # ten positions with at most width - 1 free logits each: plenty
    tokens = torch.randint(8, (sequences, length), generator=generator)
    return formula, jacobian_rank(model, learned, tokens, **inputs)


check_public(__name__)

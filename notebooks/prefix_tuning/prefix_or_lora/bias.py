r"""What of a prefix can LoRA imitate in one layer?

One prefix vector makes a head read :math:`(1 - \alpha_i) t_i + \alpha_i \bar v`: it fades what was
read and adds a bias. A correction :math:`BA` of rank one adds a multiple of one vector. It is a
bias if :math:`A` has the same value on everything that the layer reads. Behind a LayerNorm
:math:`x \mapsto \Gamma \hat x + \beta` that is possible: with

.. math:: A = \frac{\mathbf 1^\top \Gamma^{-1}}{\mathbf 1^\top \Gamma^{-1} \beta}

:math:`A(\Gamma \hat x + \beta) = 1` for all :math:`x`, because :math:`\hat x` has mean zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from promptlib.checks import check_public
from promptlib.prefix_tuning.lora import LoRALinear

Reader = Callable[[nn.LayerNorm], Tensor]
TOKENS = 7
"""That each random layer reads."""


def constant_reader(norm: nn.LayerNorm) -> Tensor:
    """The row vector that is 1 on everything behind `norm`, ``(d,)``."""
    if (norm.weight == 0).any():
        raise ValueError("a gain of the LayerNorm is 0, so its output has a coordinate less")
    total = (norm.bias / norm.weight).detach().sum()
    if float(total.abs()) < 1e-12:
        raise ValueError(f"biases over gains sum to {float(total):.1e}; no vector reads a constant")
    return 1 / norm.weight.detach() / total


@torch.no_grad()
def add_bias_by_lora(
    norm: nn.LayerNorm, layer: nn.Linear, bias: Tensor, reader: Reader = constant_reader
) -> LoRALinear:
    """`layer`, which reads what `norm` writes, with a correction that adds `bias`."""
    corrected = LoRALinear(layer, 1)
    corrected.down.copy_(reader(norm).unsqueeze(0))
    corrected.up.copy_(bias.unsqueeze(1))
    return corrected


@torch.no_grad()
def bias_errors(
    instances: int, generator: torch.Generator, reader: Reader = constant_reader
) -> Tensor:
    """How far a correction of rank one is from a bias, on random layers, relative to the bias.

    One entry for each instance, token and coordinate.
    """
    errors = []
    for _ in range(instances):
        width, outputs = (int(torch.randint(5, 24, (1,), generator=generator)) for _ in range(2))
        norm, layer = nn.LayerNorm(width).double(), nn.Linear(width, outputs).double()
        for parameter in (norm.bias, layer.weight, layer.bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # Gains have either sign and stay away from zero, where rounding would grow.
        gains = torch.rand(width, generator=generator) + 0.5
        signs = 2 * torch.randint(2, (width,), generator=generator) - 1
        norm.weight.copy_(gains * signs)
        if float((norm.bias / norm.weight).sum().abs()) < 0.1:
            norm.bias.add_(norm.weight)  # moves the sum by the width
        bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
        x = norm(3 * torch.randn(TOKENS, width, generator=generator, dtype=torch.float64))
        added = add_bias_by_lora(norm, layer, bias, reader)(x) - layer(x)
        errors.append(((added - bias) / bias.norm()).abs().flatten())
    return torch.cat(errors)


check_public(__name__)

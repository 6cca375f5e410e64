r"""Low-rank adaptation: the method a prefix is compared with.

A linear layer :math:`Wx + b` becomes :math:`Wx + BAx + b` with :math:`A` of `rank` rows and
:math:`B` of `rank` columns. :math:`B` starts at zero, so the model starts unchanged. Unlike a
prefix it changes the weights, and with those of queries and keys the relative attention.

Source: Hu et al., ICLR 2022, with their factor alpha / rank left out: the learning rate stands in
for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from promptlib.checks import check_public
from promptlib.prefix_tuning.gpt import GPT

INIT_STD = 0.02
"""Standard deviation of the initial entries of `LoRALinear.down`, unless another is asked for."""


class LoRALinear(nn.Module):
    """A linear layer and a learned correction of low rank.

    Attributes
    ----------
    base : nn.Linear
        The layer as it was; frozen.
    down : Parameter, ``(rank, n_in)``
        The paper's A, from N(0, `init_std`²).
    up : Parameter, ``(n_out, rank)``
        The paper's B, zero at first.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        generator: torch.Generator | None = None,
        init_std: float = INIT_STD,
    ) -> None:
        super().__init__()
        _check_size(base, rank)
        if not 0 < init_std < math.inf:
            raise ValueError(f"expected init_std > 0 and finite, got {init_std}")
        noise = torch.randn(rank, base.in_features, generator=generator)
        self.down = nn.Parameter((init_std * noise).to(base.weight))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank).to(base.weight))
        self.base = base.requires_grad_(False)
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer and correction: ``(…, n_in) -> (…, n_out)``."""
        return self.base(x) + x @ self.down.T @ self.up.T

    @torch.no_grad()
    def merge(self) -> None:
        """Make the correction part of the weights of `base`."""
        self.base.weight.add_(self.up @ self.down)


def add_lora(
    model: GPT,
    rank: int,
    modules: Sequence[str],
    generator: torch.Generator | None = None,
    init_std: float = INIT_STD,
) -> list[nn.Parameter]:
    """Give linear layers of `model` a low-rank correction, in place.

    Parameters
    ----------
    model : GPT
        All of its own parameters are frozen, until `remove_lora`.
    rank : int
        At least 1.
    modules : sequence of str
        Ends of the names of the layers, whole parts: ``"mlp.expand"``, ``"mlp.contract"``,
        ``"attention.query"``, ``"attention.key"``, ``"attention.value"``, ``"attention.project"``.
        In every block.
    generator : torch.Generator, optional
        Source of the initial entries.
    init_std : float
        Standard deviation of the initial entries of the factors that do not start at zero, above 0.

    Returns
    -------
    list of Parameter
        What there is to learn.

    Raises
    ------
    ValueError
        If a name fits no linear layer, the rank is larger than a layer, or a layer is corrected
        already. The model is then as it was.
    """
    linear: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            raise ValueError(f"{name} has a correction already; call remove_lora first")
        if isinstance(module, nn.Linear):
            linear[name] = module
    chosen = []
    for ending in modules:
        fitting = [name for name in linear if f".{name}".endswith(f".{ending}")]
        if not fitting:
            known = sorted({name.split(".", 2)[-1] for name in linear})
            raise ValueError(f"no linear layer is called {ending!r}; there are {', '.join(known)}")
        chosen += [name for name in fitting if name not in chosen]
    if not chosen:
        raise ValueError("expected at least 1 module to correct, got none")
    for name in chosen:  # before anything changes or is drawn
        _check_size(linear[name], rank)
    before = _Before(
        requires_grad={name: part.requires_grad for name, part in model.named_parameters()},
        training={name: module.training for name, module in model.named_modules()},
    )
    corrections = {name: LoRALinear(linear[name], rank, generator, init_std) for name in chosen}
    model.requires_grad_(False)
    for name, corrected in corrections.items():
        _replace(model, name, corrected)
    model.__dict__[_MEMORY] = before
    return [part for one in corrections.values() for part in (one.down, one.up)]


def remove_lora(model: GPT, merge: bool = False) -> None:
    """Take the corrections of `add_lora` away again, in place.

    Layers, the modes of all modules and what requires a gradient are those that `add_lora` found.
    A model without corrections stays as it is.

    Parameters
    ----------
    model : GPT
    merge : bool
        Keep what was learned, as part of the weights; otherwise these are as they were, too.
    """
    corrected = [
        (name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear)
    ]
    for name, module in corrected:
        if merge:
            module.merge()
        _replace(model, name, module.base)
    before: _Before | None = model.__dict__.pop(_MEMORY, None)
    if before is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.requires_grad[name])
        for name, part in model.named_modules():
            part.training = before.training[name]


class _LoRABatch(nn.Module):
    """A linear layer with ``C`` corrections, all applied in one pass.

    What comes before all corrections, ``(B, T, n_in)``, is the same for all; what follows one,
    ``(C, B, T, n_in)``, is not. The result is ``(C, B, T, n_out)`` either way.
    """

    def __init__(self, corrected: Sequence[LoRALinear]) -> None:
        super().__init__()
        self.base = corrected[0].base
        self.down = nn.ParameterList(one.down for one in corrected)
        self.up = nn.ParameterList(one.up for one in corrected)

    def forward(self, x: Tensor) -> Tensor:
        down, up = torch.stack(list(self.down)), torch.stack(list(self.up))  # (C, r, n_in), …
        rows = x.flatten(-3, -2)  # (B T, n_in) or (C, B T, n_in)
        if x.ndim == 3:
            inner = (rows @ down.flatten(0, 1).T).unflatten(-1, (len(down), -1)).movedim(1, 0)
            answers = self.base(rows).expand(len(down), -1, -1)
        else:
            inner, answers = torch.bmm(rows, down.mT), self.base(rows)
        return torch.baddbmm(answers, inner, up.mT).unflatten(1, x.shape[-3:-1])


def share_pass(models: Sequence[GPT]) -> GPT:
    """Return one model that answers for several that differ in their corrections alone.

    What comes before the first correction is computed once, and the frozen layers meet all cells
    in one product. Each correction gets the outputs and gradients that it would get alone, but for
    rounding. What the corrections of `models` learn this way is theirs.

    Parameters
    ----------
    models : sequence of GPT
        ``C`` models with the same weights, corrected by `add_lora` with one rank and modules.

    Returns
    -------
    GPT
        Called without a prefix and `return_attention`, it returns logits ``(C, B, …)``.

    Raises
    ------
    ValueError
        If there is no model, one has no corrections, or their ranks or modules differ.
    """
    found = [
        {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}
        for model in models
    ]
    shapes = [{name: part.down.shape for name, part in one.items()} for one in found]
    if not shapes or not shapes[0] or any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "expected models with corrections of one rank on the same modules; got ranks "
            + ", ".join(str({name: shape[0] for name, shape in one.items()}) for one in shapes)
        )
    together = copy.deepcopy(models[0]).requires_grad_(False)
    for name in shapes[0]:
        _replace(together, name, _LoRABatch([one[name] for one in found]))
    return together


class _Before(NamedTuple):
    """What `add_lora` found, by the names of parameters and modules."""

    requires_grad: dict[str, bool]
    training: dict[str, bool]


_MEMORY = "_before_lora"
"""Attribute of a corrected model; copies of the model have it, too."""


def _check_size(layer: nn.Linear, rank: int) -> None:
    largest = min(layer.in_features, layer.out_features)
    if not 1 <= rank <= largest:
        raise ValueError(
            f"expected a rank from 1 to {largest} for a layer "
            f"{layer.in_features} -> {layer.out_features}, got rank={rank}"
        )


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


check_public(__name__)

"""How is anything in the book trained? By this loop; methods differ in what they hand to it.

Pretraining and full fine-tuning hand over all parameters of a model, prefix-tuning the vectors of
a prefix, LoRA its factors. The rest is common: AdamW, a learning rate that rises linearly and falls
along half a cosine to zero, gradients clipped by their norm. Nothing stops early. Pretraining may
ask for Muon (Jordan et al., 2024) for the matrices inside a model: it needs a third of the steps.

Several learners, such as the prefixes of a sweep over learning rates, can share the passes through
one frozen model. Each has its own learning rate, its own clipping and its own moments, so it moves
as it would alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from promptlib.checks import check_public, whole_number
from promptlib.progress import progress_bar

Batch = TypeVar("Batch")
Progress = Callable[..., Iterable[Any]]
Precision = Literal["float32", "bfloat16"]
Optimiser = Literal["adamw", "muon"]

ADAMW_BESIDE_MUON = 0.2
"""Learning rate of what AdamW trains beside Muon, as a share of Muon's."""


@dataclass(frozen=True)
class Recipe:
    """How long and how to train; the learning rate belongs to the `Learner`.

    Attributes
    ----------
    steps : int
        Updates, at least 1.
    warmup : int
        Steps over which the learning rate rises linearly, below `steps`.
    weight_decay : float
        Decoupled decay of weight matrices (not of biases, gains, embeddings or prefixes).
    betas : pair of float
        Decay rates of AdamW's moments.
    clip_norm : float
        Longest gradient of a learner; longer ones are scaled down to it.
    """

    steps: int
    warmup: int
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"expected steps >= 1, got {self.steps}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"expected 0 <= warmup < steps={self.steps}, got {self.warmup}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"expected weight_decay >= 0 and finite, got {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas in [0, 1), got {self.betas}")
        if not self.clip_norm > 0:
            raise ValueError(f"expected clip_norm > 0, got {self.clip_norm}")

    def schedule(self, step: int) -> float:
        """Return the factor of the learning rate at `step`, counted from 0: in (0, 1].

        Raises
        ------
        ValueError
            If there is no such step.
        """
        whole_number("step", step, at_most=self.steps - 1)
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / (self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Learner:
    """Parameters that learn together, apart from all other learners.

    Attributes
    ----------
    name : str
        Used in error messages.
    decayed, undecayed : sequences of parameters
        Those with weight decay and those without.
    learning_rate : float
        The highest of the schedule, above 0.
    orthogonalised : sequence of parameters
        Matrices for Muon, with weight decay; the others then learn at `ADAMW_BESIDE_MUON` of the
        rate.
    """

    name: str
    decayed: Sequence[nn.Parameter]
    undecayed: Sequence[nn.Parameter]
    learning_rate: float
    orthogonalised: Sequence[nn.Parameter] = ()

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"expected learning_rate > 0 and finite, got {self.learning_rate}")
        if not self.parameters:
            raise ValueError(f"learner {self.name!r} has no parameters")

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the learner."""
        return [*self.orthogonalised, *self.decayed, *self.undecayed]


class TrainingDiverged(RuntimeError):
    """A loss became infinite or not a number."""


def weights_of(model: nn.Module, learning_rate: float, optimiser: Optimiser = "adamw") -> Learner:
    """Hand over the parameters of `model` that are not frozen; matrices of linear layers decay.

    With "muon" it learns these matrices, but for that of the layer called ``head``.

    Raises
    ------
    ValueError
        If the optimiser is neither "adamw" nor "muon".
    """
    if optimiser not in ("adamw", "muon"):
        raise ValueError(f"expected optimiser 'adamw' or 'muon', got {optimiser!r}")
    linear = {name: m.weight for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    matrices = {id(weight) for weight in linear.values()}
    inner = {id(weight) for name, weight in linear.items() if name != "head"}
    if optimiser == "adamw":
        inner = set()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Learner(
        "the model",
        decayed=[p for p in learned if id(p) in matrices - inner],
        undecayed=[p for p in learned if id(p) not in matrices],
        learning_rate=learning_rate,
        orthogonalised=[p for p in learned if id(p) in inner],
    )


def freeze(model: nn.Module) -> None:
    """Make `model` constant: no parameter of it requires a gradient any more."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Round numbers below 1.2e-38 to zero for a while.

    The tanh of a large activation passes through such numbers, and processors take up to six
    times as long for them. Nothing here depends on them. Afterwards they are treated as before.
    """
    smallest = sys.float_info.min
    before = smallest / 2 == 0  # torch sets this mode of the processor, but does not tell it
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def products_in(precision: Precision, device_type: str = "cpu") -> Iterator[None]:
    """Compute the matrix products of a while in this precision.

    With "bfloat16" the factors of linear layers are rounded to 8 significant bits and their
    products are summed in float32. Parameters, moments, residual streams, LayerNorms and losses
    stay in float32. On processors with matrix units a step of a wide model takes about half as
    long; results differ from those of float32 as those of another seed do.

    Raises
    ------
    ValueError
        If `precision` is neither "float32" nor "bfloat16".
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"expected precision 'float32' or 'bfloat16', got {precision!r}")
    with torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


@flushed_denormals()
def train(
    learners: Sequence[Learner],
    loss: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    recipe: Recipe,
    *,
    label: str = "training",
    progress: Progress = progress_bar,
) -> Tensor:
    """Minimise the losses of `learners`, in place.

    Parameters
    ----------
    learners : sequence of Learner
    loss : callable
        Maps a batch to one loss for each learner: ``(len(learners),)``, or a scalar for a single
        learner. The loss of a learner depends on no other learner's parameters.
    batches : iterable
        One batch for each of ``recipe.steps`` steps.
    recipe : Recipe
    label : str
        What the progress bar says.
    progress : callable
        Called as ``progress(iterable, label, total=steps)``; yields the same items.

    Returns
    -------
    Tensor, ``(steps, len(learners))``
        The loss of each step, before its update.

    Raises
    ------
    TrainingDiverged
        If a loss is not finite; names learner, step and learning rate.
    ValueError
        If there are no learners, too few batches, or not one loss for each learner.
    """
    if not learners:
        raise ValueError("expected at least 1 learner, got none")
    optimisers = _optimisers(learners, recipe)
    curve = torch.empty(recipe.steps, len(learners))
    steps_done = 0
    for step, batch in enumerate(progress(batches, label, total=recipe.steps)):
        losses = loss(batch).reshape(-1)
        if len(losses) != len(learners):
            raise ValueError(f"expected {len(learners)} losses, one a learner, got {len(losses)}")
        curve[step] = losses.detach()
        if not curve[step].isfinite().all():
            _report_divergence(learners, curve[step], step, recipe)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        for learner in learners:
            nn.utils.clip_grad_norm_(learner.parameters, recipe.clip_norm, foreach=True)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * recipe.schedule(step)
            optimiser.step()
        steps_done += 1
    if steps_done != recipe.steps:
        raise ValueError(f"expected {recipe.steps} batches, got {steps_done}")
    return curve


def _optimisers(learners: Sequence[Learner], recipe: Recipe) -> list[torch.optim.Optimizer]:
    adamw: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []
    for learner in learners:
        beside = ADAMW_BESIDE_MUON if learner.orthogonalised else 1.0
        for groups, parameters, decay, share in (
            (adamw, learner.decayed, recipe.weight_decay, beside),
            (adamw, learner.undecayed, 0.0, beside),
            (muon, learner.orthogonalised, recipe.weight_decay, 1.0),
        ):
            rate = share * learner.learning_rate
            group = {"params": list(parameters), "weight_decay": decay, "lr": rate, "peak": rate}
            if parameters:
                groups.append(group)
    optimisers: list[torch.optim.Optimizer] = []
    if adamw:
        optimisers.append(torch.optim.AdamW(adamw, betas=recipe.betas, fused=True))
    if muon:
        optimisers.append(torch.optim.Muon(muon))
    return optimisers


def _report_divergence(
    learners: Sequence[Learner], losses: Tensor, step: int, recipe: Recipe
) -> None:
    worst = int((~losses.isfinite()).nonzero()[0])
    rate = learners[worst].learning_rate
    raise TrainingDiverged(
        f"the loss of {learners[worst].name} is {float(losses[worst])} at step {step} of "
        f"{recipe.steps}, with learning rate {rate:g} (now {rate * recipe.schedule(step):.3g}); "
        "lower the learning rate"
    )


check_public(__name__)

"""What do many learners in lockstep learn, and from where do they start?

Three kinds, as in `promptlib.prefix_tuning.adapting`: weights of models, prefixes, LoRA.
What learns lies in one or two matrices with a row for each learner, so that an update of all takes
a handful of operations. Prefixes of several lengths and LoRA of several ranks and sets of layers
fill their rows with zeros; the gradient of the filling is zero, so it stays.

Starts are drawn on the CPU, from the streams of random numbers that the runs would use alone.
Shapes as in `workflow.lockstep.model`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from promptlib.prefix_tuning.adapting import generator_for, new_prefix
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import add_lora, remove_lora
from promptlib.prefix_tuning.tasks import SEQUENCE_LENGTH
from promptlib.runs import Result, Run
from workflow.lockstep.model import (
    ALIGNED,
    Prefixes,
    Stack,
    is_product,
    rounded,
)

N_TOKENS = 2 * SEQUENCE_LENGTH - 1
"""Of a sequence that a model reads and answers."""

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """A learner of a group.

    Attributes
    ----------
    run, cell : int
        Places of its run in the group, and of its cell in the run; 0 where there are no cells.
    config : mapping
        Of its run.
    learning_rate : float
    """

    run: int
    cell: int
    config: Mapping[str, Any]
    learning_rate: float


class Learners(Protocol):
    """What learns together.

    Attributes
    ----------
    members : list of Member
        A row each. Some may be there twice, to fill a rectangle; the first counts.
    decayed, undecayed : Tensor, ``(L, P)``, or None
        What they learn, with weight decay and without.
    """

    members: list[Member]
    decayed: Tensor | None
    undecayed: Tensor | None

    def logits(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Answer ``(L, B, 19)`` with ``(L, B, 10, V)``, products in `dtype`."""

    def parameters(self, row: int) -> int:
        """How many numbers a learner learns."""

    def tensors(self, row: int) -> Named:
        """What a learner has learned, by the names of its run's result."""


class Layout:
    """Where tensors of given shapes lie in a matrix with a row for each learner."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]

    def pack(self, rows: Sequence[Mapping[str, Tensor]], device: torch.device) -> Tensor | None:
        """The matrix of what learners start from; None if there is nothing."""
        if not self.shapes:
            return None
        packed = [torch.cat([row[name].reshape(-1) for name in self.shapes]) for row in rows]
        return torch.stack(packed).to(device).requires_grad_()

    def unpack(self, matrix: Tensor | None) -> Named:
        """Its parts by name, with the learners in front."""
        if matrix is None:
            return {}
        parts = matrix.split(self.sizes, dim=1)
        return {
            name: part.view(-1, *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


class WeightLearners:
    """All weights of new models, or some of trained ones."""

    def __init__(
        self, runs: Sequence[Run], needs: Sequence[Sequence[Result]], device: torch.device
    ) -> None:
        self.members = [
            Member(place, 0, run.config, run.config["learning_rate"])
            for place, run in enumerate(runs)
        ]
        starts = [_start(run, found) for run, found in zip(runs, needs, strict=True)]
        self.config = GPTConfig(**runs[0].config["model"])
        parts = runs[0].config.get("learned", [""])
        learned = [name for name in starts[0] if any(part in name for part in parts)]
        matrices = _linear_weights(self.config)
        shapes = {name: starts[0][name].shape for name in learned}
        self._decayed = Layout({name: shapes[name] for name in learned if name in matrices})
        self._undecayed = Layout({name: shapes[name] for name in learned if name not in matrices})
        self.decayed = self._decayed.pack(starts, device)
        self.undecayed = self._undecayed.pack(starts, device)
        self.names = list(starts[0])
        self.constant = {
            name: torch.stack([start[name] for start in starts]).to(device)
            for name in self.names
            if name not in learned
        }

    def logits(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """See `Learners`."""
        decayed = None if self.decayed is None else self.decayed.to(dtype)  # all linear weights
        learned = {**self._decayed.unpack(decayed), **self._undecayed.unpack(self.undecayed)}
        weights = rounded({**self.constant, **learned}, dtype)
        return Stack(self.config, weights, 1, N_TOKENS)(tokens, SEQUENCE_LENGTH)

    def parameters(self, row: int) -> int:
        """See `Learners`."""
        return sum(self._decayed.sizes) + sum(self._undecayed.sizes)

    def tensors(self, row: int) -> Named:
        """See `Learners`."""
        found = {
            **self.constant,
            **self._decayed.unpack(self.decayed),
            **self._undecayed.unpack(self.undecayed),
        }
        return {name: found[name][row].detach().cpu().clone() for name in self.names}


class _OnFrozen:
    """What prefixes and LoRA have in common: several learners for each frozen model."""

    def __init__(
        self, runs: Sequence[Run], needs: Sequence[Sequence[Result]], device: torch.device
    ) -> None:
        self.device = device
        self.config = GPTConfig(**runs[0].config["model"])
        self.decayed: Tensor | None = None
        bases: dict[str, Result] = {}
        of_base: dict[str, list[Member]] = {}
        for place, (run, found) in enumerate(zip(runs, needs, strict=True)):
            key = run.needs[0].key
            bases[key] = found[0]
            of_base.setdefault(key, []).extend(
                Member(place, cell, run.config, numbers["learning_rate"])
                for cell, numbers in enumerate(run.config["cells"])
            )
        self.each = max(map(len, of_base.values()))
        self.members = [
            member
            for members in of_base.values()
            for member in members + members[:1] * (self.each - len(members))
        ]
        models = [result.tensors for result in bases.values()]
        self.frozen = {
            name: torch.stack([model[name] for model in models]).to(device) for name in models[0]
        }
        self.stacks: dict[torch.dtype, Stack] = {}

    def stack(self, dtype: torch.dtype) -> Stack:
        """The frozen models, with products in a dtype."""
        if dtype not in self.stacks:
            with torch.no_grad():
                self.stacks[dtype] = Stack(
                    self.config, rounded(self.frozen, dtype), self.each, N_TOKENS, constant=True
                )
        return self.stacks[dtype]


class PrefixLearners(_OnFrozen):
    """A prefix for each cell."""

    def __init__(
        self, runs: Sequence[Run], needs: Sequence[Sequence[Result]], device: torch.device
    ) -> None:
        super().__init__(runs, needs, device)
        configs = [member.config for member in self.members]
        self.lengths = [config["length"] for config in configs]
        slots = max(self.lengths)
        slots += -slots % ALIGNED
        self.separate = [config["separate_values"] for config in configs]
        shape = (self.config.n_layer, slots, self.config.n_embd)
        names = ("vectors", "value_vectors") if any(self.separate) else ("vectors",)
        self.layout = Layout({name: shape for name in names})
        drawn = {place: _prefixes(run.config) for place, run in enumerate(runs)}
        starts = []
        for member in self.members:
            row = {name: torch.zeros(shape) for name in names}
            for name, vectors in drawn[member.run][member.cell].items():
                row[name][:, : member.config["length"]] = vectors
            starts.append(row)
        self.undecayed = self.layout.pack(starts, device)

        def column(flags: Iterable[bool]) -> Tensor:
            return torch.tensor(list(flags), device=device).view(-1, 1, 1)

        self.is_separate = column(self.separate)
        self.is_normalised = column(config["layer_norm"] for config in configs)
        lengths = torch.tensor(self.lengths, device=device)
        self.hidden = torch.arange(slots, device=device) >= lengths.unsqueeze(1)

    def logits(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """See `Learners`."""
        found = self.layout.unpack(self.undecayed)
        prefixes = Prefixes(
            found["vectors"],
            found.get("value_vectors"),
            self.is_normalised,
            self.is_separate,
            self.hidden,
        )
        return self.stack(dtype)(tokens, SEQUENCE_LENGTH, prefixes=prefixes)

    def parameters(self, row: int) -> int:
        """See `Learners`."""
        return sum(tensor.numel() for tensor in self.tensors(row).values())

    def tensors(self, row: int) -> Named:
        """See `Learners`."""
        cell, length = self.members[row].cell, self.lengths[row]
        return {
            f"{cell}.{name}": vectors[row, :, :length].detach().cpu().clone()
            for name, vectors in self.layout.unpack(self.undecayed).items()
            if name == "vectors" or self.separate[row]
        }


class LoRALearners(_OnFrozen):
    """A LoRA for each cell."""

    def __init__(
        self, runs: Sequence[Run], needs: Sequence[Sequence[Result]], device: torch.device
    ) -> None:
        super().__init__(runs, needs, device)
        drawn = {place: _corrections(run.config) for place, run in enumerate(runs)}
        rank = max(run.config["rank"] for run in runs)
        rank += -rank % ALIGNED
        shapes: dict[str, tuple[int, ...]] = {}
        for cells in drawn.values():
            for name, factor in cells[0].items():
                n_in_or_out = factor.shape[1] if name.endswith(".down") else factor.shape[0]
                down = name.endswith(".down")
                shapes[name] = (rank, n_in_or_out) if down else (n_in_or_out, rank)
        self.layout = Layout(shapes)
        starts = []
        for member in self.members:
            row = {name: torch.zeros(shape) for name, shape in shapes.items()}
            for name, factor in drawn[member.run][member.cell].items():
                row[name][: factor.shape[0], : factor.shape[1]] = factor
            starts.append(row)
        self.drawn = drawn
        self.undecayed = self.layout.pack(starts, device)

    def logits(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """See `Learners`."""
        assert self.undecayed is not None
        found = self.layout.unpack(self.undecayed.to(dtype))
        corrections = {
            name.removesuffix(".down"): (factor, found[f"{name.removesuffix('.down')}.up"])
            for name, factor in found.items()
            if name.endswith(".down")
        }
        return self.stack(dtype)(tokens, SEQUENCE_LENGTH, corrections=corrections)

    def parameters(self, row: int) -> int:
        """See `Learners`."""
        return sum(tensor.numel() for tensor in self.tensors(row).values())

    def tensors(self, row: int) -> Named:
        """See `Learners`."""
        member = self.members[row]
        found = self.layout.unpack(self.undecayed)
        return {
            f"{member.cell}.{name}": found[name][row, : factor.shape[0], : factor.shape[1]]
            .detach()
            .cpu()
            .clone()
            for name, factor in self.drawn[member.run][member.cell].items()
        }


KINDS: dict[str, Any] = {
    "pretrain": WeightLearners,
    "fine_tune": WeightLearners,
    "tune_prefixes": PrefixLearners,
    "tune_lora": LoRALearners,
}
"""By training function."""


def _start(run: Run, needs: Sequence[Result]) -> Named:
    """The weights that a run starts from."""
    if run.needs:
        return dict(needs[0].tensors)
    config = GPTConfig(**run.config["model"])
    return dict(GPT(config, generator_for(run.config, "weights")).state_dict())


def _linear_weights(config: GPTConfig) -> set[str]:
    """Names of the weights that decay: matrices of linear layers."""
    names = GPT(GPTConfig(**{**vars(config), "n_embd": config.n_head})).state_dict()
    return {name for name in names if is_product(name) and name.endswith(".weight")}


def _prefixes(config: Mapping[str, Any]) -> list[Named]:
    generator = generator_for(config, "prefix")
    return [
        dict(new_prefix(config, cell["init_std"], generator).state_dict())
        for cell in config["cells"]
    ]


@lru_cache(maxsize=1)
def _any_model(config: GPTConfig) -> GPT:
    """A model of some weights: those of LoRA do not depend on them."""
    return GPT(config)


def _corrections(config: Mapping[str, Any]) -> list[Named]:
    model = _any_model(GPTConfig(**config["model"]))
    drawn = []
    for cell in config["cells"]:
        generator = generator_for(config, "lora")  # a cell starts as it would alone
        add_lora(model, config["rank"], config["modules"], generator, init_std=cell["init_std"])
        found = model.state_dict()
        drawn.append(
            {name: found[name].clone() for name in found if name.endswith((".down", ".up"))}
        )
        remove_lora(model)
    return drawn

"""What did the runs of "Prefix against LoRA at an equal budget" measure, and what follows?

`collect` reads the runs of a plan; `look_inside` measures how far the best of each way moved the
attention. Each claim function takes what was measured and returns the claim, so that a test can
hand in what a wrong implementation measures.

A *way* is a method with its size, such as LoRA of rank 1 on the MLPs. The best of its sweep, or of
several ways, is chosen on the validation split, seed by seed and for all ways alike: by accuracy
where a claim is about accuracies, by loss where it is about losses or about what happened inside.
What is reported of it was measured on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from promptlib import claims
from promptlib.prefix_tuning import published
from promptlib.prefix_tuning.depth import movement
from promptlib.prefix_tuning.experiment_results import (
    HERE,
    Cell,
    Get,
    Metrics,
    accuracy_claim,
    best_cell,
    cells_of,
    lowest_loss_cell,
)
from promptlib.prefix_tuning.experiment_training import load_lora, load_model, load_prefix
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.lora_budget import ATTENTION, MODULES, TASK, BudgetPlan
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trained_attention import in_float64
from promptlib.runs import Run

PAPER = "Petrov et al. 2024, rank-1 LoRA"
BUDGET_VECTORS = 12
"""The published budget: twelve numbers for each layer and coordinate of the width."""
LOSS_UNIT = "nats a symbol"

Family = Literal["prefix", "LoRA", "fine-tuning"]


@dataclass(frozen=True)
class Way:
    """One method at one size, with its sweep.

    Attributes
    ----------
    family : str
    what : str
        Parametrisation of the prefix, set of modules of LoRA, "all weights".
    size : int
        Length or rank; 0 for fine-tuning.
    parameters : int
        Numbers that learn.
    seeds : sequence of sequence of Cell
        The cells of the sweep, by seed.
    """

    family: Family
    what: str
    size: int
    parameters: int
    seeds: Sequence[Sequence[Cell]]

    @property
    def label(self) -> str:
        """Its name on figures."""
        if self.family == "fine-tuning":
            return "fine-tuning"
        size = f"rank {self.size}" if self.family == "LoRA" else f"length {self.size}"
        return f"{self.family}, {self.what}, {size}"

    def best_accuracy(self) -> list[float]:
        """Test accuracy of the best cell of the sweep, in percent, by seed."""
        return [best_cell(cells, TASK).percent(TASK) for cells in self.seeds]

    def lowest(self) -> list[Cell]:
        """The cell of the lowest validation loss, by seed."""
        return [lowest_loss_cell(cells) for cells in self.seeds]

    def lowest_loss(self) -> list[float]:
        """Test loss of `lowest`, by seed."""
        return [cell.loss(TASK) for cell in self.lowest()]

    def mean_by_rate(self) -> dict[float, float]:
        """Mean test loss over seeds by learning rate; of several init scales the best counts."""
        return {
            rate: float(np.mean([cell.loss(TASK) for cell in cells]))
            for rate, cells in self._by_rate().items()
        }

    def best_rate(self) -> float:
        """The learning rate with the lowest mean validation loss over seeds."""
        means = {
            rate: float(np.mean([cell.validation_loss for cell in cells]))
            for rate, cells in self._by_rate().items()
        }
        return min(means, key=lambda rate: means[rate])

    def brackets(self) -> str:
        """Where `best_rate` lies: ``"inside"``, ``"lowest"``, ``"highest"`` or ``"only"``."""
        rates = list(self._by_rate())
        if len(rates) == 1:
            return "only"
        return {rates[0]: "lowest", rates[-1]: "highest"}.get(self.best_rate(), "inside")

    def _by_rate(self) -> dict[float, list[Cell]]:
        """By learning rate, from the lowest: of each seed the cell of the best init scale."""
        rates = sorted({cell.learning_rate for cells in self.seeds for cell in cells})
        return {
            rate: [
                lowest_loss_cell([cell for cell in cells if cell.learning_rate == rate])
                for cells in self.seeds
            ]
            for rate in rates
        }


@dataclass(frozen=True)
class Measured:
    """All ways, and the models that they start from.

    Attributes
    ----------
    pretrained : sequence of metrics
        One for each seed.
    ways : sequence of Way
        Prefixes, then LoRA, then fine-tuning.
    budget : int
        The published budget at this size.
    """

    pretrained: Sequence[Metrics]
    ways: Sequence[Way]
    budget: int

    def of(self, family: Family) -> list[Way]:
        """The ways of one family."""
        return [way for way in self.ways if way.family == family]

    def way(self, family: Family, what: str, size: int) -> Way:
        """One way; ValueError if the plan has none such."""
        for way in self.ways:
            if (way.family, way.what, way.size) == (family, what, size):
                return way
        raise ValueError(
            f"the plan has no {family} of {what} with size {size}, which a claim compares; "
            "add it to `lengths` or `ranks`"
        )

    def at_budget(self, family: Family, times: int = 1) -> list[Way]:
        """The ways of a family whose parameters are exactly so many budgets; ValueError if none."""
        budget = times * self.budget
        found = [way for way in self.of(family) if way.parameters == budget]
        if not found:
            raise ValueError(
                f"no {family} has {budget} parameters, which a claim compares; a shared prefix of "
                f"length {times * BUDGET_VECTORS}, or rank {times} on MLP and projection, would"
            )
        return found

    @property
    def published_lora(self) -> Way:
        """LoRA as published: rank 1 on the MLPs and the output projections."""
        return self.way("LoRA", "MLP and projection", 1)

    @property
    def ceiling(self) -> Way:
        """Fine-tuning of all weights."""
        return self.of("fine-tuning")[0]


def collect(plan: BudgetPlan, get: Get) -> Measured:
    """Read the metrics of all runs of `plan`; `get` is the ``get`` of a run store."""
    model = plan.pretrained[0].config["model"]

    def way(
        family: Family, what: str, size: int, sweeps: Sequence[Sequence[Run]], parameters: int = 0
    ) -> Way:
        seeds = [cells_of(runs, get) for runs in sweeps]
        counted = seeds[0][0].metrics.get("parameters", parameters)
        return Way(family, what, size, counted, seeds)

    weights = sum(tensor.numel() for tensor in get(plan.finetuned[0][0]).tensors.values())
    return Measured(
        pretrained=[get(run).metrics for run in plan.pretrained],
        ways=[
            *(way("prefix", name, n, runs) for (name, n), runs in plan.prefixes.items()),
            *(way("LoRA", name, n, runs) for (name, n), runs in plan.lora.items()),
            way("fine-tuning", "all weights", 0, plan.finetuned, weights),
        ],
        budget=BUDGET_VECTORS * model["n_layer"] * model["n_embd"],
    )


# Inside the models.


@dataclass(frozen=True)
class Inside:
    """One adapted model, in float64, and how far it moved relative attention.

    Attributes
    ----------
    before, after : GPT
        The same if a prefix was trained.
    prefix : Prefix or None
    moved : Tensor, shape (layers, heads)
        From `promptlib.prefix_tuning.depth.movement.movement`, in [0, 1].
    """

    before: GPT
    after: GPT
    prefix: Prefix | None
    moved: Tensor

    def above_first(self) -> float:
        """Mean movement over the layers above the first, in percent; of all if there is one."""
        layers = self.moved[1:] if len(self.moved) > 1 else self.moved
        return 100 * float(layers.mean())


def rebuilt(cell: Cell, get: Get) -> tuple[GPT, GPT, Prefix | None]:
    """Return the model before, the model after, and the prefix, of one cell."""
    run = cell.run
    base, result = get(run.needs[0]), get(run)
    before = in_float64(load_model(run.config, base))
    if run.train.endswith(":tune_prefixes"):
        return before, before, in_float64(load_prefix(run.config, result, cell.index))
    if run.train.endswith(":tune_lora"):
        return before, in_float64(load_lora(run.config, base, result, cell.index)), None
    return before, in_float64(load_model(run.config, result)), None


def look_inside(measured: Measured, get: Get, tokens: Tensor) -> dict[str, list[Inside]]:
    """Measure movement on `tokens`, ``(B, 19)``, of the lowest loss of each way and seed.

    Returns
    -------
    dict of list of Inside
        By label of the way, one for each seed.
    """
    seen: dict[str, list[Inside]] = {}
    for way in measured.ways:
        seen[way.label] = []
        for cell in way.lowest():
            before, after, prefix = rebuilt(cell, get)
            moved = movement.movement(before, after, tokens, prefix)
            seen[way.label].append(Inside(before, after, prefix, moved))
    return seen


def leaves_first_alone(way: Way) -> bool:
    """Whether a theorem says that the first layer's relative attention stays."""
    if way.family == "LoRA":
        return not set(MODULES[way.what]) & set(ATTENTION[:2])
    return way.family == "prefix"


# Claims.


def prefix_accuracy(measured: Measured) -> claims.Claim:
    """A prefix of the budget does not learn the double histogram."""
    ways = measured.at_budget("prefix")
    return accuracy_claim(
        "prefix-or-lora-prefix",
        "No prefix of the sweeps that has exactly the published budget learns the double "
        "histogram; the best of all cells, over both parametrisations, is counted.",
        _best_of(ways),
        checks="experiment_training.tune_prefixes",
        refuted_if=(">", 10.0),
        favours="lower",
        published=published.LORA_BUDGET["prefix"],
        source=PAPER,
        tolerance=1.0,
    )


def lora_accuracy(measured: Measured) -> claims.Claim:
    """LoRA of the budget learns it, in the published size and with enough steps."""
    return accuracy_claim(
        "prefix-or-lora-lora",
        "LoRA of rank 1 on the MLPs and the output projections, with exactly as many parameters, "
        "learns the double histogram.",
        measured.published_lora.best_accuracy(),
        checks="experiment_training.tune_lora",
        refuted_if=("<", 50.0),
        published=published.LORA_BUDGET["lora"],
        source=PAPER,
        tolerance=1.0,
    )


def ceiling_accuracy(measured: Measured) -> claims.Claim:
    """Fine-tuning in the same steps: whether the steps are enough for anything."""
    return accuracy_claim(
        "prefix-or-lora-ceiling",
        "In the same number of steps, fine-tuning all weights learns the double histogram.",
        measured.ceiling.best_accuracy(),
        checks="experiment_training.fine_tune",
        refuted_if=("<", 50.0),
    )


def lora_below_prefix(measured: Measured) -> claims.Claim:
    """At the budget, LoRA ends at a lower loss."""
    prefixes = _least_of(measured.at_budget("prefix"))
    return _loss_claim(
        "lora-below-prefix",
        "At the published budget and after the same steps, the best LoRA of rank 1 on MLPs and "
        "output projections has a lower test loss than the best prefix of either "
        "parametrisation; the difference.",
        prefixes,
        measured.published_lora.lowest_loss(),
        "experiment_training.tune_lora",
        PAPER,
    )


def attention_below_prefix(measured: Measured) -> claims.Claim:
    """LoRA on the attention, with two thirds of the budget, ends lower than a prefix."""
    prefixes = _least_of(measured.at_budget("prefix"))
    return _loss_claim(
        "attention-below-prefix",
        "LoRA of rank 1 on the attention, which re-aims every layer and has a third fewer "
        "parameters, has a lower test loss than the best prefix of the published budget; the "
        "difference.",
        prefixes,
        measured.way("LoRA", "attention", 1).lowest_loss(),
        "experiment_training.tune_lora",
    )


def four_budgets(measured: Measured) -> claims.Claim:
    """At four times the budget, LoRA that spares queries and keys ends lower than prefixes."""
    prefixes = measured.at_budget("prefix", times=4)
    return _loss_claim(
        "more-numbers",
        "Given four times the budget, LoRA on MLPs and output projections has a lower test loss "
        "than the best prefix with as many parameters, after the same steps; the difference.",
        _least_of(prefixes),
        measured.way("LoRA", "MLP and projection", 4).lowest_loss(),
        "experiment_training.tune_lora",
    )


def ceiling_below_lora(measured: Measured) -> claims.Claim:
    """Fine-tuning ends lower than LoRA of the budget."""
    return _loss_claim(
        "ceiling-below-lora",
        "Fine-tuning all weights has a lower test loss than LoRA of the published budget, after "
        "the same steps; the difference.",
        measured.published_lora.lowest_loss(),
        measured.ceiling.lowest_loss(),
        "experiment_training.fine_tune",
    )


def prefix_worse_than_blind(measured: Measured, blind: float) -> claims.Claim:
    """A prefix of the budget predicts worse than not to look at the input."""
    lowest = _least_of(measured.at_budget("prefix"))
    return _loss_claim(
        "prefix-worse-than-blind",
        "The best prefix of the published budget has a higher test loss than a predictor that "
        f"sees nothing of the input and only its own outputs so far ({blind:.3f} nats a symbol); "
        "the excess.",
        lowest,
        [blind] * len(lowest),
        "budget_blind.blind_histogram_loss",
    )


def first_layer_still(measured: Measured, inside: Mapping[str, Sequence[Inside]]) -> claims.Claim:
    """Prefixes and LoRA that spares queries and keys leave the first layer's attention."""
    moved = [
        one.moved[0].numpy()
        for way in measured.ways
        if leaves_first_alone(way)
        for one in inside[way.label]
    ]
    return claims.identity(
        "prefix-tuning/prefix-or-lora-first-layer",
        "In the trained models, neither a prefix nor LoRA on MLPs and output projections moves the "
        "relative attention of the first layer; total variation.",
        errors=np.concatenate(moved),
        tolerance=1e-10,
        source=HERE,
        checks="promptlib.prefix_tuning.depth.movement.movement",
    )


def mlp_moves_attention(measured: Measured, inside: Mapping[str, Sequence[Inside]]) -> claims.Claim:
    """LoRA on the MLPs alone changes what later layers attend to."""
    one = measured.way("LoRA", "MLP", 1)
    return claims.outcome(
        "prefix-tuning/prefix-or-lora-mlp-moves",
        "LoRA of rank 1 on the MLPs alone, which touches no weight of any attention, moves "
        "relative attention above the first layer: more than 1 % in total variation.",
        values=[adapted.above_first() for adapted in inside[one.label]],
        source=HERE,
        checks="promptlib.prefix_tuning.depth.movement.movement",
        unit="% of attention",
        refuted_if=("<", 1.0),
    )


def prefix_moves_more(measured: Measured, inside: Mapping[str, Sequence[Inside]]) -> claims.Claim:
    """The prefix moves more attention than LoRA on the MLPs."""
    shared = [way for way in measured.at_budget("prefix") if way.what == "shared"]
    prefixes = inside[shared[0].label]
    mlp = inside[measured.way("LoRA", "MLP", 1).label]
    return claims.outcome(
        "prefix-tuning/prefix-or-lora-prefix-moves-more",
        "Above the first layer the best shared prefix of the published budget moves more relative "
        "attention than LoRA of rank 1 on the MLPs does; the difference.",
        values=[a.above_first() - b.above_first() for a, b in zip(prefixes, mlp, strict=True)],
        source=HERE,
        checks="promptlib.prefix_tuning.depth.movement.movement",
        unit="% of attention",
        refuted_if=("<", 0.0),
    )


def _loss_claim(
    name: str,
    sentence: str,
    higher: Sequence[float],
    lower: Sequence[float],
    checks: str,
    source: str = HERE,
) -> claims.Claim:
    return claims.outcome(
        f"prefix-tuning/prefix-or-lora-{name}",
        sentence,
        values=[a - b for a, b in zip(higher, lower, strict=True)],
        source=source,
        checks=f"promptlib.prefix_tuning.{checks}",
        unit=LOSS_UNIT,
        refuted_if=("<", 0.0),
    )


def _best_of(ways: Sequence[Way]) -> list[float]:
    """Test accuracy of the best cell of all the ways, in percent, by seed."""
    return [best_cell(cells, TASK).percent(TASK) for cells in _together(ways)]


def _least_of(ways: Sequence[Way]) -> list[float]:
    """Test loss of the cell with the lowest validation loss of all the ways, by seed."""
    return [lowest_loss_cell(cells).loss(TASK) for cells in _together(ways)]


def _together(ways: Sequence[Way]) -> list[list[Cell]]:
    """The cells of all the ways, by seed."""
    by_seed = zip(*(way.seeds for way in ways), strict=True)
    return [[cell for cells in sweeps for cell in cells] for sweeps in by_seed]

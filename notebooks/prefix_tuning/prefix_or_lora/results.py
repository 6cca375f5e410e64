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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from notebooks.prefix_tuning.combining.plan import N_HEAD
from notebooks.prefix_tuning.eliciting.plan import PUBLISHED_WIDTH
from notebooks.prefix_tuning.prefix_or_lora.blind import blind_histogram_loss
from notebooks.prefix_tuning.prefix_or_lora.plan import ATTENTION, MODULES, TASK, BudgetPlan
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import adapting, movement, published
from promptlib.prefix_tuning.adapting import load_lora, load_model, load_prefix
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.planning import model_of
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import (
    HERE,
    UNIT,
    Cell,
    Get,
    Metrics,
    best_cell,
    cells_of,
    differs,
    lowest_loss_cell,
)
from promptlib.runs import Run

PAPER = "Petrov et al. 2024, rank-1 LoRA"
BUDGET_VECTORS = 12
"""The published budget: twelve numbers for each layer and coordinate of the width."""
PUBLISHED_MODEL = model_of(4, N_HEAD, PUBLISHED_WIDTH)
LOSS_UNIT = "nats a symbol"
AFTER_LOOKING = (
    "zero; that losses and not accuracies are compared was decided after a first build, in which "
    "hardly anything counted right"
)
"""Note of the claims about losses."""

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
    trials : int
        Test sequences behind each accuracy.
    differs : tuple of str
        How the models differ from the published one.
    """

    pretrained: Sequence[Metrics]
    ways: Sequence[Way]
    budget: int
    trials: int
    differs: tuple[str, ...]

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

    weights = sum(parameter.numel() for parameter in GPT(GPTConfig(**model)).parameters())
    return Measured(
        pretrained=[get(run).metrics for run in plan.pretrained],
        ways=[
            *(way("prefix", name, n, runs) for (name, n), runs in plan.prefixes.items()),
            *(way("LoRA", name, n, runs) for (name, n), runs in plan.lora.items()),
            way("fine-tuning", "all weights", 0, plan.finetuned, weights),
        ],
        budget=BUDGET_VECTORS * model["n_layer"] * model["n_embd"],
        trials=plan.pretrained[0].config["test_sequences"],
        differs=differs(model, PUBLISHED_MODEL),
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
        From `promptlib.prefix_tuning.movement.movement`, in [0, 1].
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
    way = next(way for way in measured.at_budget("prefix") if way.what == "shared")
    return _accuracy_claim(
        measured,
        "prefix",
        "No prefix of the sweep that has the published parametrisation and exactly the published "
        "budget does the double histogram on more than one sequence in ten.",
        way,
        10.0,
        "below",
        adapting.tune_prefixes,
        claims.Published(published.LORA_BUDGET["prefix"], "lower", differs=measured.differs),
        [ceiling_accuracy(measured)],
    )


def lora_accuracy(measured: Measured) -> claims.Claim:
    """LoRA of the budget learns it, in the published size and with enough steps."""
    return _accuracy_claim(
        measured,
        "lora",
        "LoRA of rank 1 on the MLPs and the output projections, with exactly as many parameters, "
        "does the double histogram on more than half of the sequences.",
        measured.published_lora,
        50.0,
        "above",
        adapting.tune_lora,
        claims.Published(published.LORA_BUDGET["lora"], "higher", differs=measured.differs),
        [ceiling_accuracy(measured)],
    )


def ceiling_accuracy(measured: Measured) -> claims.Claim:
    """Fine-tuning in the same steps: whether the steps are enough for anything."""
    return _accuracy_claim(
        measured,
        "ceiling",
        "Control: in the same number of steps, fine-tuning all weights does the double histogram "
        "on more than half of the sequences.",
        measured.ceiling,
        50.0,
        "above",
        adapting.fine_tune,
    )


def _accuracy_claim(
    measured: Measured,
    name: str,
    sentence: str,
    way: Way,
    limit: float,
    side: Literal["above", "below"],
    trained: Callable[..., object],
    published: claims.Published | None = None,
    requires: Sequence[claims.Claim] = (),
) -> claims.Claim:
    return claims.outcome(
        f"prefix-tuning/prefix-or-lora-{name}",
        sentence,
        values=way.best_accuracy(),
        limit=limit,
        side=side,
        unit=UNIT,
        source=HERE if published is None else PAPER,
        checks=trained,
        trials=measured.trials,
        published=published,
        requires=requires,
    )


def attention_below_prefix(measured: Measured) -> claims.Claim:
    """LoRA on the attention, with two thirds of the budget, ends lower than a prefix."""
    return _loss_claim(
        "attention-below-prefix",
        "LoRA of rank 1 on the attention, which re-aims every layer and has a third fewer "
        "parameters, has a lower test loss than the best prefix of the published budget; the "
        "difference is above zero.",
        _least_of(measured.at_budget("prefix")),
        measured.way("LoRA", "attention", 1).lowest_loss(),
        adapting.tune_lora,
    )


def ceiling_below_lora(measured: Measured) -> claims.Claim:
    """Fine-tuning ends lower than LoRA of the budget."""
    return _loss_claim(
        "ceiling-below-lora",
        "Fine-tuning all weights has a lower test loss than LoRA of the published budget, after "
        "the same steps; the difference is above zero.",
        measured.published_lora.lowest_loss(),
        measured.ceiling.lowest_loss(),
        adapting.fine_tune,
    )


def prefix_worse_than_blind(measured: Measured, blind: float) -> claims.Claim:
    """A prefix of the budget predicts worse than not to look at the input."""
    lowest = _least_of(measured.at_budget("prefix"))
    return _loss_claim(
        "prefix-worse-than-blind",
        "The best prefix of the published budget has a higher test loss than a predictor that "
        f"sees nothing of the input and only its own outputs so far ({blind:.3f} nats a symbol); "
        "the excess is above zero.",
        lowest,
        [blind] * len(lowest),
        blind_histogram_loss,
        [ceiling_accuracy(measured)],
    )


def claims_at_published_size(plan: BudgetPlan, get: Get) -> list[claims.Claim]:
    """The claims of the chapter that the metrics of its runs decide, for archived runs."""
    measured = collect(plan, get)
    return [
        prefix_accuracy(measured),
        lora_accuracy(measured),
        ceiling_accuracy(measured),
        attention_below_prefix(measured),
        ceiling_below_lora(measured),
        prefix_worse_than_blind(measured, blind_histogram_loss()),
    ]


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
        checks=movement.movement,
    )


def mlp_moves_attention(measured: Measured, inside: Mapping[str, Sequence[Inside]]) -> claims.Claim:
    """LoRA that spares queries and keys changes what later layers attend to."""
    return claims.outcome(
        "prefix-tuning/prefix-or-lora-mlp-moves",
        "LoRA of rank 1 on the MLPs and output projections, which touches no query and no key, "
        "moves more than 1 % of the relative attention above the first layer, in total variation.",
        values=[adapted.above_first() for adapted in inside[measured.published_lora.label]],
        limit=1.0,
        side="above",
        unit="% of attention",
        source=HERE,
        checks=movement.movement,
    )


def prefix_moves_more(measured: Measured, inside: Mapping[str, Sequence[Inside]]) -> claims.Claim:
    """The prefix moves more attention than LoRA of the same budget."""
    shared = next(way for way in measured.at_budget("prefix") if way.what == "shared")
    pairs = zip(inside[shared.label], inside[measured.published_lora.label], strict=True)
    return claims.outcome(
        "prefix-tuning/prefix-or-lora-prefix-moves-more",
        "Above the first layer the best shared prefix of the published budget moves more relative "
        "attention than LoRA of rank 1 on MLPs and output projections does; the difference is "
        "above zero.",
        values=[prefix.above_first() - lora.above_first() for prefix, lora in pairs],
        limit=0.0,
        side="above",
        unit="% of attention",
        source=HERE,
        checks=movement.movement,
    )


def _loss_claim(
    name: str,
    sentence: str,
    higher: Sequence[float],
    lower: Sequence[float],
    checks: Callable[..., object],
    requires: Sequence[claims.Claim] = (),
) -> claims.Claim:
    return claims.outcome(
        f"prefix-tuning/prefix-or-lora-{name}",
        sentence,
        values=[a - b for a, b in zip(higher, lower, strict=True)],
        limit=0.0,
        side="above",
        unit=LOSS_UNIT,
        source=HERE,
        checks=checks,
        requires=requires,
        note=AFTER_LOOKING,
    )


def _least_of(ways: Sequence[Way]) -> list[float]:
    """Test loss of the cell with the lowest validation loss of all the ways, by seed."""
    return [lowest_loss_cell(cells).loss(TASK) for cells in _together(ways)]


def _together(ways: Sequence[Way]) -> list[list[Cell]]:
    """The cells of all the ways, by seed."""
    by_seed = zip(*(way.seeds for way in ways), strict=True)
    return [[cell for cells in sweeps for cell in cells] for sweeps in by_seed]


check_public(__name__)

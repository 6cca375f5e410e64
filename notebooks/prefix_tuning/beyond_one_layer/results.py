"""What did the runs of the chapter "Beyond one layer" measure, and what follows from it?

`collect` reads the runs of a plan and looks into the models. Each claim function takes what was
measured and returns the claim, so that a test can hand in what a wrong implementation measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from notebooks.prefix_tuning.beyond_one_layer.plan import DepthPlan
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import adapting, movement
from promptlib.prefix_tuning.adapting import load_lora, load_model, load_prefix
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.movement import Effect
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import HERE, UNIT, cells_of, lowest_loss_cell
from promptlib.runs import Result, Run

LIBRARY = "notebooks.prefix_tuning.beyond_one_layer"

OLD, NEW = "sort_ascending", "sort_descending"
Get = Callable[[Run], Result]


@dataclass(frozen=True)
class Adapted:
    """The best of a sweep: one way to adapt one base model.

    Attributes
    ----------
    before, after : GPT
        In float64. The same model if a prefix was trained.
    prefix : Prefix or None
    accuracy, loss : mapping of float
        On test sequences, by task; accuracy in [0, 1].
    learning_rate : float
        Of the best cell.
    parameters : int
        Numbers that were trained.
    moved : Tensor, shape (layers, heads)
        From `promptlib.prefix_tuning.movement.movement`.
    """

    before: GPT
    after: GPT
    prefix: Prefix | None
    accuracy: Mapping[str, float]
    loss: Mapping[str, float]
    learning_rate: float
    parameters: int
    moved: Tensor


@dataclass(frozen=True)
class Measured:
    """Everything, by way, then depth, then seed.

    Attributes
    ----------
    adapted : mapping of mapping of sequence of Adapted
    bases : mapping of mapping of sequence of mapping
        Accuracy and loss of the base models ``"ascending"`` and ``"either"``.
    trials : int
        Test sequences behind each accuracy.
    """

    adapted: Mapping[str, Mapping[int, Sequence[Adapted]]]
    bases: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
    trials: int

    def with_prefix(self) -> list[Adapted]:
        """Every adapted model that has a prefix."""
        return [
            one
            for by_depth in self.adapted.values()
            for seeds in by_depth.values()
            for one in seeds
            if one.prefix is not None
        ]


def collect(plan: DepthPlan, get: Get, tokens: Tensor) -> Measured:
    """Read all runs of `plan` and measure movement on `tokens`; `get` is that of a run store.

    Of each sweep the cell with the lowest validation loss counts, for every way alike. Accuracy
    would not do: where all cells are near zero, it picks one by chance.
    """
    adapted: dict[str, dict[int, list[Adapted]]] = {}
    for way, by_depth in plan.ways.items():
        adapted[way] = {
            depth: [_best(runs, get, tokens) for runs in seeds] for depth, seeds in by_depth.items()
        }
    bases = {
        name: {depth: [get(run).metrics for run in runs] for depth, runs in runs_by_depth.items()}
        for name, runs_by_depth in (("ascending", plan.ascending), ("either", plan.either))
    }
    return Measured(adapted, bases, trials=next(iter(plan)).config["test_sequences"])


def _best(runs: Sequence[Run], get: Get, tokens: Tensor) -> Adapted:
    best = lowest_loss_cell(cells_of(runs, get))
    run, index, cell = best.run, best.index, best.metrics
    base, result = get(run.needs[0]), get(run)
    before = in_float64(load_model(run.config, base))
    after, prefix = before, None
    if run.train.endswith(":tune_prefixes"):
        prefix = in_float64(load_prefix(run.config, result, index))
        parameters = sum(parameter.numel() for parameter in prefix.parameters())
    elif run.train.endswith(":tune_lora"):
        after = in_float64(load_lora(run.config, base, result, index))
        parameters = int(cell["parameters"])
    else:
        after = in_float64(load_model(run.config, result))
        parameters = sum(parameter.numel() for parameter in after.parameters())
    return Adapted(
        before=before,
        after=after,
        prefix=prefix,
        accuracy=cell["accuracy"],
        loss=cell["loss"],
        learning_rate=best.learning_rate,
        parameters=parameters,
        moved=movement.movement(before, after, tokens, prefix),
    )


def accuracies(seeds: Sequence[Adapted], task: str = NEW) -> list[float]:
    """Accuracy of each seed, in percent."""
    return [100 * one.accuracy[task] for one in seeds]


def deeper_movement(one: Adapted) -> float:
    """Movement above the first layer, mean over layers and heads, in percent of the attention.

    Raises
    ------
    ValueError
        If the model has one layer.
    """
    if len(one.moved) < 2:
        raise ValueError("a model of one layer has no deeper layer; choose a depth of at least 2")
    return 100 * float(one.moved[1:].mean())


def path_shares(one: Adapted, tokens: Tensor) -> dict[Effect, float]:
    """Deeper movement by the prefix, by its bias alone and by its fading alone, in percent."""
    paths = movement.by_path(one.before, tokens, _prefix_of(one))
    return {effect: 100 * float(moved[1:].mean()) for effect, moved in paths.items()}


def way_left(one: Adapted, tokens: Tensor) -> dict[Effect, float]:
    """How far from where the whole prefix brings deeper attention each path alone leaves it.

    In percent of the whole movement: 0 has arrived, 100 is as far away as without a prefix.
    """
    prefix = _prefix_of(one)
    whole = movement.movement(one.before, one.before, tokens, prefix)[1:].mean()
    apart = movement.from_whole(one.before, tokens, prefix)
    return {effect: 100 * float(rest[1:].mean() / whole) for effect, rest in apart.items()}


def _prefix_of(one: Adapted) -> Prefix:
    if one.prefix is None:
        raise ValueError("only a prefix has a bias and a fading; this model was adapted otherwise")
    return one.prefix


def deepest(measured: Measured) -> int:
    """The largest depth of the plan."""
    return max(measured.adapted["prefix"])


def best_rates(measured: Measured, runs: DepthPlan) -> list[str]:
    """Best learning rates by way and depth, a line each; a star marks an end of the sweep."""
    lines = []
    for way, by_depth in measured.adapted.items():
        for depth, seeds in by_depth.items():
            swept = [
                cell["learning_rate"]
                for run in runs.ways[way][depth][0]
                for cell in run.config.get("cells", [run.config])
            ]
            ends = {min(swept), max(swept)}
            best = "  ".join(
                f"{one.learning_rate:g}{'*' * (one.learning_rate in ends)}" for one in seeds
            )
            lines.append(f"  {way}, depth {depth}:  {best}")
    return lines


def prefix_moves_deeper(measured: Measured) -> claims.Claim:
    """A trained prefix does move relative attention above the first layer."""
    seeds = measured.adapted["prefix"][deepest(measured)]
    return claims.outcome(
        "prefix-tuning/depth-prefix-moves-deeper",
        "A prefix trained for the new task moves more than a tenth of the relative attention of "
        "the layers above the first, in the deepest models trained here.",
        values=[deeper_movement(one) for one in seeds],
        limit=10.0,
        side="above",
        unit="% of the attention, mean over rows",
        source=HERE,
        checks=movement.movement,
    )


def weights_learn(measured: Measured) -> claims.Claim:
    """The steps are enough to learn the new task."""
    seeds = measured.adapted["fine-tuning"][deepest(measured)]
    return claims.outcome(
        "prefix-tuning/depth-weights-learn",
        "Control: with as many steps, fine-tuning teaches the deepest sorter to sort more than "
        "half of the sequences the other way.",
        values=accuracies(seeds),
        limit=50.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.fine_tune,
        trials=measured.trials,
    )


def moving_is_not_learning(measured: Measured) -> claims.Claim:
    """The prefix moves deeper attention and still does not learn the new task."""
    seeds = measured.adapted["prefix"][deepest(measured)]
    return claims.outcome(
        "prefix-tuning/depth-prefix-does-not-learn",
        "The best prefix of the sweep, with as many parameters as LoRA on the attention and as "
        "many steps, sorts less than a quarter of the sequences the other way, in the deepest "
        "sorter.",
        values=accuracies(seeds),
        limit=25.0,
        side="below",
        unit=UNIT,
        source=HERE,
        checks=accuracies,
        trials=measured.trials,
        requires=[weights_learn(measured), elicits(measured)],
    )


def lora_beats_prefix(measured: Measured) -> claims.Claim:
    """LoRA on the attention learns more of the new task."""
    depth = deepest(measured)
    pairs = zip(
        measured.adapted["LoRA on attention"][depth], measured.adapted["prefix"][depth], strict=True
    )
    return claims.outcome(
        "prefix-tuning/depth-lora-beats-prefix",
        "With equal parameters and steps, LoRA on the attention sorts more sequences the other way "
        "than the prefix, by over ten points, in the deepest models; the difference.",
        values=[a - b for a, b in (accuracies(pair) for pair in pairs)],
        limit=10.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.tune_lora,
        resolution=100 / measured.trials,
        requires=[elicits(measured)],
    )


def elicits(measured: Measured) -> claims.Claim:
    """Where the model knows both directions, the same prefix succeeds."""
    seeds = measured.adapted["prefix, elicits"][deepest(measured)]
    return claims.outcome(
        "prefix-tuning/depth-elicits",
        "Control: of a model that has learned both directions, the same prefix with the same steps "
        "makes one that sorts more than three quarters of the sequences downwards.",
        values=accuracies(seeds),
        limit=75.0,
        side="above",
        unit=UNIT,
        source=HERE,
        checks=adapting.pretrain,
        trials=measured.trials,
    )


def bias_path(measured: Measured, tokens: Tensor) -> claims.Claim:
    """The bias alone brings deeper attention nearer to the whole prefix's than the fading alone."""
    seeds = measured.adapted["prefix"][deepest(measured)]
    left = [way_left(one, tokens) for one in seeds]
    return claims.outcome(
        "prefix-tuning/depth-bias-path",
        "The bias alone, with nothing faded, brings the relative attention of the deeper layers "
        "nearer to where the whole prefix of the new task brings it than the fading alone, by more "
        "than 5 % of the way; by how much less of it is left.",
        values=[rest["fade"] - rest["bias"] for rest in left],
        limit=5.0,
        side="above",
        unit="% of the prefix's movement",
        source=HERE,
        checks=movement.from_whole,
        requires=[prefix_moves_deeper(measured)],
    )


def test_tokens(n: int, seed: int) -> Tensor:
    """Test sequences of the new task as models read them, shape (n, 19)."""
    from promptlib.prefix_tuning.tasks import SORT_DESCENDING, read_and_answer

    inputs, targets = SORT_DESCENDING.sample(n, "test", torch.Generator().manual_seed(seed))
    return read_and_answer(inputs, targets)


check_public(__name__)

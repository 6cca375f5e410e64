"""Which training runs answer the question of "Prefix against LoRA at an equal budget"?

Experiment B6: the model of the chapter "Combining, not inventing" is to learn the double histogram.
Prefixes of two parametrisations and several lengths and LoRA of several ranks on several sets of
layers each have a sweep of their own, of equal size and with as many steps for all. Full
fine-tuning, also swept, is the ceiling.

This module holds plain data and imports no torch, so that the workflow can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from notebooks.prefix_tuning.combining import plan as combine
from notebooks.prefix_tuning.combining.plan import N_HEAD
from promptlib.checks import check_public
from promptlib.prefix_tuning import planning as experiment_runs
from promptlib.prefix_tuning.planning import PARAMETRISATIONS, SMALL_BATCH_SIZE
from promptlib.runs import Run

TASK = "double_histogram"
EVALUATED = (TASK,)

MLP = ("mlp.expand", "mlp.contract")
ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.project")

MODULES: dict[str, tuple[str, ...]] = {
    "MLP and projection": (*MLP, "attention.project"),
    "MLP": MLP,
    "attention": ATTENTION,
    "MLP and attention": (*MLP, *ATTENTION),
}
"""Sets of layers that LoRA corrects. The published experiment says MLP and used the first."""

LORA_INIT_STD = 0.02
"""Of the factor that does not start at zero."""

Sweep = tuple[Run, ...]
"""Runs of one way to adapt and one seed: one a learning rate, or one with a cell for each."""


@dataclass(frozen=True)
class BudgetPlan:
    """The runs of the chapter; iterating yields all of them.

    Attributes
    ----------
    pretrained : tuple of Run
        One for each seed.
    prefixes : mapping of tuple of Sweep
        By parametrisation and length; one for each seed. One run holds all cells.
    lora : mapping of tuple of Sweep
        By set of modules (`MODULES`) and rank; one for each seed.
    finetuned : tuple of Sweep
        One for each seed.
    """

    pretrained: tuple[Run, ...]
    prefixes: Mapping[tuple[str, int], tuple[Sweep, ...]]
    lora: Mapping[tuple[str, int], tuple[Sweep, ...]]
    finetuned: tuple[Sweep, ...]

    def __iter__(self) -> Iterator[Run]:
        yield from self.pretrained
        for seeds in (*self.prefixes.values(), *self.lora.values(), self.finetuned):
            for sweep in seeds:
                yield from sweep


def prefix_parameters(parametrisation: str, length: int, n_layer: int, width: int) -> int:
    """Count what a prefix learns."""
    vectors = 2 if PARAMETRISATIONS[parametrisation]["separate_values"] else 1
    return vectors * n_layer * length * width


def lora_parameters(modules: str, rank: int, n_layer: int, width: int) -> int:
    """Count what LoRA learns: rank x (inputs + outputs) for each layer that it corrects.

    The attention's maps go from the width to the width, the MLP's to four times the width and back.
    """
    sides = [5 if name in MLP else 2 for name in MODULES[modules]]
    return rank * n_layer * width * sum(sides)


def plan(
    seeds: int,
    first_seed: int,
    n_layer: int,
    width: int,
    precision: str,
    pretrain_steps: int,
    adapt_steps: int,
    lengths: Mapping[str, Sequence[int]],
    ranks: Mapping[str, Sequence[int]],
    prefix_rates: Sequence[float],
    init_stds: Sequence[float],
    lora_rates: Sequence[float],
    weight_rates: Sequence[float],
    test_sequences: int,
    checkpoints: int,
) -> BudgetPlan:
    """Plan the runs of the chapter.

    Parameters
    ----------
    seeds : int
        Independent repetitions, from pretraining on; at least 1.
    first_seed : int
        Number of the first of them, at least 0.
    n_layer, width, precision, pretrain_steps
        Of the models, as in the plan of `combining`: equal numbers mean that the two chapters share
        them.
    adapt_steps : int
        Training steps of every way to adapt a model; at least 10.
    lengths : mapping of sequences of int
        Lengths of the prefixes of each parametrisation, ``"shared"`` or ``"free"``.
    ranks : mapping of sequences of int
        Ranks for each set of modules, keys of `MODULES`.
    prefix_rates, init_stds : sequences of float
        The sweep of the prefixes is over all pairs.
    lora_rates, weight_rates : sequences of float
        The sweeps of LoRA and of fine-tuning, each no longer than that of the prefixes.
    test_sequences : int
        Sequences that each accuracy is measured on, at least 1.
    checkpoints : int
        Times that the accuracy is measured while a model is adapted, at least 0.

    Raises
    ------
    ValueError
        If a number is out of its range, or a name is unknown.
    """
    experiment_runs.check_counts(
        seeds=(seeds, 1),
        first_seed=(first_seed, 0),
        pretrain_steps=(pretrain_steps, 10),
        adapt_steps=(adapt_steps, 10),
        test_sequences=(test_sequences, 1),
        checkpoints=(checkpoints, 0),
        **{f"length of {name}": (n, 1) for name, numbers in lengths.items() for n in numbers},
        **{f"rank on {name}": (n, 1) for name, numbers in ranks.items() for n in numbers},
    )
    experiment_runs.check_positive(
        prefix_rates=prefix_rates,
        init_stds=init_stds,
        lora_rates=lora_rates,
        weight_rates=weight_rates,
    )
    cells = len(prefix_rates) * len(init_stds)
    if max(len(lora_rates), len(weight_rates)) > cells:
        raise ValueError(
            f"the sweep of the prefixes has {cells} cells, fewer than that of LoRA "
            f"({len(lora_rates)}) or fine-tuning ({len(weight_rates)}), so a prefix that fails "
            "would prove nothing"
        )
    experiment_runs.check_precision(precision)
    experiment_runs.check_model(n_layer, width, N_HEAD)
    for what, given, known in (
        ("lengths", lengths, PARAMETRISATIONS),
        ("ranks", ranks, MODULES),
    ):
        for name in given:
            if name not in known:
                raise ValueError(f"{what} has {name!r}; there are {', '.join(known)}")

    pretrained = tuple(
        combine.base_model(seed, n_layer, width, precision, pretrain_steps, test_sequences)
        for seed in range(first_seed, first_seed + seeds)
    )

    def prefixes(base: Run, parametrisation: str, length: int) -> Sweep:
        run = experiment_runs.tune_prefixes(
            base,
            TASK,
            steps=adapt_steps,
            length=length,
            parametrisation=parametrisation,
            sweep=experiment_runs.cells(prefix_rates, init_stds),
            evaluate=EVALUATED,
            batch_size=SMALL_BATCH_SIZE,
            checkpoints=checkpoints,
        )
        return (run,)

    def lora(base: Run, modules: str, rank: int) -> Sweep:
        return tuple(
            experiment_runs.tune_lora(
                base,
                TASK,
                steps=adapt_steps,
                rank=rank,
                modules=MODULES[modules],
                sweep=experiment_runs.cells([rate], [LORA_INIT_STD]),
                evaluate=EVALUATED,
                batch_size=SMALL_BATCH_SIZE,
                checkpoints=checkpoints,
            )
            for rate in lora_rates
        )

    def fine_tune(base: Run) -> Sweep:
        return tuple(
            experiment_runs.fine_tune(
                base,
                TASK,
                steps=adapt_steps,
                learning_rate=rate,
                evaluate=EVALUATED,
                batch_size=SMALL_BATCH_SIZE,
                checkpoints=checkpoints,
            )
            for rate in weight_rates
        )

    return BudgetPlan(
        pretrained=pretrained,
        prefixes={
            (name, length): tuple(prefixes(base, name, length) for base in pretrained)
            for name, numbers in lengths.items()
            for length in numbers
        },
        lora={
            (name, rank): tuple(lora(base, name, rank) for base in pretrained)
            for name, numbers in ranks.items()
            for rank in numbers
        },
        finetuned=tuple(fine_tune(base) for base in pretrained),
    )


check_public(__name__)

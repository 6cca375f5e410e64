"""Which trained models does the chapter "A prefix cannot re-aim attention" look into?

Those of the chapter "A new task", from the run store: for each seed a GPT that sorts upwards, the
same fine-tuned to sort downwards, and every prefix of the sweep that tried to make the frozen one
do it.
"""

from __future__ import annotations

from dataclasses import dataclass

from promptlib.checks import check_public
from promptlib.prefix_tuning.adapting import load_model, load_prefix
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import best_first, validation_of
from promptlib.prefix_tuning.trials import Plan
from promptlib.runs import RunStore

__all__ = ["TrainedSorter", "trained_sorters"]


@dataclass(frozen=True)
class TrainedSorter:
    """What one seed left behind, in float64 and without gradients.

    Attributes
    ----------
    pretrained : GPT
        Sorts upwards.
    fine_tuned : GPT
        The same with all weights trained further, to sort downwards: the best on the validation
        split.
    normalised : tuple of Prefix
        The sweep with one vector for key and value that passes through the LayerNorm.
    free : tuple of Prefix
        The sweep with independent keys and values and no LayerNorm.
    best : Prefix
        The normalised prefix with the lowest validation loss on sorting downwards.
    """

    pretrained: GPT
    fine_tuned: GPT
    normalised: tuple[Prefix, ...]
    free: tuple[Prefix, ...]
    best: Prefix


def trained_sorters(plan: Plan, store: RunStore) -> list[TrainedSorter]:
    """The models and prefixes of every seed of the plan, trained now if they are not stored.

    Parameters
    ----------
    plan : Plan
        From :func:`notebooks.prefix_tuning.new_task.plan.first_sweep`.
    store : RunStore
    """
    sorters = []
    for index, base in enumerate(plan.where(method="pretrained")):
        rates = [run for run in plan.where(method="finetuned") if run.needs == (base,)]
        tuned = min(rates, key=lambda run: best_first(store.get(run).metrics))
        sweeps = {}
        for kind in ("shared", "free"):
            run = plan.where(method="prefix", parametrisation=kind).runs[index]
            result = store.get(run)
            cells = result.metrics["cells"]
            prefixes = tuple(
                in_float64(load_prefix(run.config, result, cell)) for cell in range(len(cells))
            )
            losses = [validation_of(cell)["loss"] for cell in cells]
            sweeps[kind] = prefixes, losses.index(min(losses))
        normalised, best = sweeps["shared"]
        sorters.append(
            TrainedSorter(
                pretrained=in_float64(load_model(base.config, store.get(base))),
                fine_tuned=in_float64(load_model(tuned.config, store.get(tuned))),
                normalised=normalised,
                free=sweeps["free"][0],
                best=normalised[best],
            )
        )
    return sorters


check_public(__name__)

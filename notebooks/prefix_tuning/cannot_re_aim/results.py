"""Which trained sorters does the chapter look into, and what do they do with a prefix?

Those of the chapter "A new task": for each seed a GPT that sorts upwards, the same fine-tuned to
sort downwards, and every prefix of the sweep that tried to make the frozen one do it.
"""

from __future__ import annotations

from dataclasses import dataclass

from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.inside import in_float64
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.trials import Get, Trial, Trials, rebuild


@dataclass(frozen=True)
class TrainedSorter:
    """What one seed left behind, in float64 and without gradients."""

    pretrained: GPT  # sorts upwards
    fine_tuned: GPT  # the same, trained further to sort downwards: the best on validation
    normalised: tuple[Prefix, ...]  # one vector for key and value that passes the LayerNorm
    free: tuple[Prefix, ...]  # independent keys and values, no LayerNorm
    best: Prefix  # the normalised prefix with the lowest validation loss


def trained_sorters(trials: Trials, get: Get) -> list[TrainedSorter]:
    """The models and prefixes of every seed."""
    sorters = []
    for seed, base in trials.where(method="pretrained").by("seed").items():
        of_seed = trials.where(seed=seed)
        normalised, free = (
            of_seed.where(method="prefix", parametrisation=kind) for kind in ("shared", "free")
        )
        prefixes = tuple(with_prefix(trial, get)[1] for trial in normalised)
        best = normalised.best(by="loss")[0]
        sorters.append(
            TrainedSorter(
                pretrained=in_float64(rebuild(base[0], get)[0]),
                fine_tuned=in_float64(rebuild(of_seed.where(method="finetuned").best()[0], get)[0]),
                normalised=prefixes,
                free=tuple(with_prefix(trial, get)[1] for trial in free),
                best=prefixes[list(normalised).index(best)],
            )
        )
    return sorters


def with_prefix(trial: Trial, get: Get) -> tuple[GPT, Prefix]:
    """A model and its prefix, in float64."""
    model, prefix = rebuild(trial, get)
    if prefix is None:
        raise ValueError(f"a {trial['method']} model has no prefix")
    return in_float64(model), in_float64(prefix)

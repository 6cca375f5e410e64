"""What did the paper report?

Percent of 3,200 test sequences with all ten outputs right; each experiment is shown with one run.
Source: the notebooks that Petrov, Torr and Bibi published with "When Do Prompting and Prefix-Tuning
Work?", ICLR 2024, arXiv 2310.19698. Facts only; none of their code is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from promptlib.checks import check_public
from promptlib.claims import Published
from promptlib.prefix_tuning.trials import Trials

NEW_TASK: dict[str, float] = {
    "pretrained_ascending": 91.41,
    "pretrained_descending": 0.0,
    "finetuned_ascending": 0.0,
    "finetuned_descending": 84.91,
    "prefix_ascending": 0.09,
    "prefix_descending": 0.0,
}
"""One layer, one head, width 96: pretrained to sort ascending, then adapted to descending.

Fine-tuning changed all weights; the prefix was one vector.
"""

ELICIT: dict[str, dict[str, float]] = {
    "pretrained": {
        "sort_ascending": 31.4,
        "sort_descending": 19.2,
        "add_one": 30.0,
        "add_two": 15.6,
    },
    "prefix": {
        "sort_ascending": 94.09,
        "sort_descending": 83.72,
        "add_one": 99.62,
        "add_two": 99.78,
    },
}
"""One layer, four heads, width 256, no first LayerNorm; one prefix vector for each task.

The mixture's model scores each task that it draws, so the four add up to about 100 at best.
With its prefix the other tasks stay at or below 0.66.
"""

COMBINE: dict[str, dict[str, float]] = {
    "pretrained": {
        "sort_ascending": 5.9,
        "sort_descending": 27.8,
        "add_one": 39.7,
        "add_two": 22.8,
        "ascending_add_one": 0.0,
    },
    "prefix": {
        "sort_ascending": 99.69,
        "sort_descending": 99.59,
        "add_one": 100.0,
        "add_two": 99.97,
        "ascending_add_one": 71.59,
        "double_histogram": 0.62,
    },
}
"""Four layers, four heads, width 256; ten prefix vectors in each layer."""

LORA_BUDGET: dict[str, float] = {
    "prefix": 0.31,
    "lora": 92.38,
}
"""The double histogram by 12,288 parameters: twelve prefix vectors in each layer, or LoRA.

LoRA has rank 1 on the MLPs and on the output projections of the attention.
"""


def differs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how a model differs from the published one, such as ``"width 96, not 256"``.

    Length and parametrisation of the prefixes of a published arm are the published ones; numbers of
    steps and learning rates are ours at every size.

    Parameters
    ----------
    ours, theirs : mappings
        Configs of the two models, of `promptlib.prefix_tuning.planning.model_of`.
    """
    words = {"n_layer": "layers", "n_head": "heads", "n_embd": "width"}
    found = [
        f"{word} {ours[name]}, not {theirs[name]}"
        for name, word in words.items()
        if ours[name] != theirs[name]
    ]
    if ours["first_layer_norm"] != theirs["first_layer_norm"]:
        found.append(f"with{'' if ours['first_layer_norm'] else 'out'} the first LayerNorm")
    return tuple(found)


def reported(
    value: float, favours: Literal["higher", "lower"], model: Mapping[str, Any]
) -> Callable[[Trials], Published]:
    """Return a published accuracy as a row of claims takes it.

    Parameters
    ----------
    value : float
        In percent of sequences.
    favours : {"higher", "lower"}
        As of `promptlib.claims.Published`.
    model : mapping
        Config of the published model; how ours differs, the first trial tells.
    """
    return lambda trials: Published(
        value, favours, differs=differs(trials[0].run.config["model"], model)
    )


check_public(__name__)

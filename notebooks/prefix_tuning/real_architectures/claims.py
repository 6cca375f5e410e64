r"""What does the chapter on real architectures state, and how is each part checked?

One function for each claim, which decides on what was measured. Handed ``None``, because the extra
is not installed, it returns the claim as one that this build did not check: stated, and not judged.
Every claim is marked as needing the extra.

This module loads without the extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from notebooks.prefix_tuning.real_architectures import extra
from promptlib import claims

if TYPE_CHECKING:
    from notebooks.prefix_tuning.real_architectures.layer_checks import Removal
    from notebooks.prefix_tuning.real_architectures.recording import LayerCall
    from notebooks.prefix_tuning.real_architectures.results import Comparison

TOLERANCE = 1e-10
"""Largest error that counts as float64 rounding."""

ROTATION_TOLERANCE = 1e-5
"""For rotary positions, whose angles `transformers` computes in float32."""

PAPER = "Petrov et al. 2024, prefixes and relative attention"
HERE = "this book"
CHECKS = "notebooks.prefix_tuning.real_architectures"

Runs = Sequence[tuple[Sequence["LayerCall"], int]]
"""Calls of a run with a prefix, and the prefix's length."""


def runs_of(comparisons: Sequence[Comparison]) -> Runs:
    """The runs with a prefix, each with the prefix's length."""
    return [(one.prefixed, one.length) for one in comparisons]


def relative_attention(runs: Runs | None, remove: Removal | None = None) -> claims.Claim:
    """No head of GPT-2 or LLaMA is re-aimed over what it reads.

    Parameters
    ----------
    runs : sequence of (calls, length), or None
        None if the extra is not installed.
    remove : callable, optional
        In the place of `recording.without_prefix`.
    """
    return _identity(
        "prefix-tuning/real-relative-attention",
        "In every head and layer of the GPT-2 and LLaMA of transformers, prefixes in the cache and "
        r"by peft leave relative attention over what the layer reads: $A'_{ij} = "
        r"(1-\alpha_i)A_{ij}$.",
        lambda: _every_layer("relative_errors", runs, remove),
        runs,
        source=PAPER,
        checks="notebooks.prefix_tuning.real_architectures.layer_checks.relative_errors",
    )


def output_bias(runs: Runs | None, remove: Removal | None = None) -> claims.Claim:
    """The outputs of their heads are biased as the formula says; parameters as above."""
    return _identity(
        "prefix-tuning/real-output-bias",
        "In every head and layer of the GPT-2 and LLaMA of transformers, prefixes in the cache and "
        r"by peft bias the output: $t'_i = (1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        lambda: _every_layer("output_errors", runs, remove),
        runs,
        source=PAPER,
        checks="notebooks.prefix_tuning.real_architectures.layer_checks.output_errors",
    )


def first_layer(comparisons: Sequence[Comparison] | None) -> claims.Claim:
    """Two whole models, one with a prefix, agree in their first layer's relative attention."""

    def errors() -> Tensor:
        from notebooks.prefix_tuning.real_architectures.results import first_layer_errors

        assert comparisons is not None
        return first_layer_errors(comparisons)

    return _identity(
        "prefix-tuning/real-first-layer",
        "A GPT-2 or LLaMA with a prefix and the same model without one agree in the relative "
        "attention of their first layer, if the content stands at the same positions.",
        errors,
        comparisons,
        source=PAPER,
        checks="notebooks.prefix_tuning.real_architectures.results.first_layer_errors",
    )


def peft_is_past(comparisons: Sequence[Comparison] | None) -> claims.Claim:
    """What peft trains is a cache: free keys and values, and nothing else."""
    return _identity(
        "prefix-tuning/peft-is-free-keys-and-values",
        "The prefix-tuning of peft gives the logits of the plain model with the same keys and "
        "values in its cache, the content behind them.",
        lambda: [one.logits_gap for one in comparisons or () if one.logits_gap is not None],
        comparisons,
        source=HERE,
        checks="notebooks.prefix_tuning.real_architectures.architectures.past_of_peft",
    )


def peft_moves_content(movements: Sequence[Tensor] | None) -> claims.Claim:
    """In GPT-2 the positions that peft gives to the prefix move attention.

    Parameters
    ----------
    movements : sequence of Tensor, or None
        Total variation between the first layer's relative attention with peft's prefix, and without
        prefix at positions 0, 1, …; one tensor for each random GPT-2.
    """
    return _outcome(
        "prefix-tuning/peft-moves-absolute-positions",
        "The prefix-tuning of peft pushes the content of a GPT-2 to later positions, which by "
        "itself moves more than 10 % of the first layer's relative attention, mean over rows "
        "(random weights).",
        lambda: [100 * float(one.mean()) for one in movements or ()],
        movements,
        limit=10.0,
        unit="% of the attention",
        source=HERE,
        checks="notebooks.prefix_tuning.real_architectures.results.shift_movement",
        note="position vectors are drawn as large as those of tokens; smaller ones move less",
    )


def rotary_content_stays(movements: Sequence[Tensor] | None) -> claims.Claim:
    """In LLaMA the same shift moves nothing but the last digits of float32."""
    return _identity(
        "prefix-tuning/rotary-content-stays",
        "In a LLaMA the same push moves no relative attention in the first layer, up to the "
        "float32 in which transformers computes rotations.",
        lambda: torch.cat([one.flatten() for one in movements or ()]),
        movements,
        source=HERE,
        checks="notebooks.prefix_tuning.real_architectures.results.shift_movement",
        tolerance=ROTATION_TOLERANCE,
    )


def encoder_relative_attention(runs: Runs | None, remove: Removal | None = None) -> claims.Claim:
    """A pretrained encoder, real sentences: no head is re-aimed; parameters as above."""
    return _identity(
        "prefix-tuning/encoder-relative-attention",
        "In every head and layer of a pretrained sentence encoder on real sentences, inserted "
        "prefixes, another sentence among them, leave relative attention over what it reads.",
        lambda: _every_layer("relative_errors", runs, remove),
        runs,
        source=PAPER,
        checks="notebooks.prefix_tuning.real_architectures.layer_checks.relative_errors",
    )


def encoder_output_bias(runs: Runs | None, remove: Removal | None = None) -> claims.Claim:
    """A pretrained encoder, real sentences: outputs are biased; parameters as above."""
    return _identity(
        "prefix-tuning/encoder-output-bias",
        "In every head and layer of a pretrained sentence encoder on real sentences, the output "
        r"with an inserted prefix is $(1-\alpha_i)t_i + \sum_m A'_{im}\bar v_m$.",
        lambda: _every_layer("output_errors", runs, remove),
        runs,
        source=PAPER,
        checks="notebooks.prefix_tuning.real_architectures.layer_checks.output_errors",
    )


def one_sentence_moves(results: Sequence[Mapping[str, Any]] | None) -> claims.Claim:
    """A prefix learns to bring one sentence to a place of its own; control of the next claim.

    Parameters
    ----------
    results : sequence of mappings, or None
        Metrics of the runs of `plan.plan` with one prefix
        length, one for each seed.
    """
    return _outcome(
        "prefix-tuning/one-sentence-moves",
        "In a pretrained sentence encoder a trained prefix brings a sentence, the first of our "
        "list and read alone, to the place of another: it ends with a cosine above 0.5.",
        lambda: [
            reached(one, "its own place", min(cell["crowd"] for cell in one["cells"]))
            for one in results or ()
        ],
        results,
        limit=0.5,
        unit="cosine",
        source=HERE,
        checks="notebooks.prefix_tuning.real_architectures.training.steer",
        note="asked of the smallest crowd that was trained",
    )


def one_place_is_easier(results: Sequence[Mapping[str, Any]] | None) -> claims.Claim:
    """Pulling many sentences to one place works better than each to its own; argument as above."""
    return _outcome(
        "prefix-tuning/one-place-is-easier",
        "In a pretrained sentence encoder a trained prefix brings a crowd of sentences closer to "
        "one place than, in as many steps, each of them to its own: by a mean cosine of more than "
        "0.05.",
        lambda: [advantage(one) for one in results or ()],
        results,
        limit=0.05,
        unit="mean cosine, difference",
        source=HERE,
        checks="notebooks.prefix_tuning.real_architectures.training.steer",
        requires=lambda: [one_sentence_moves(results)],
    )


def advantage(metrics: Mapping[str, Any]) -> float:
    """Mean cosine to one place minus that to own places, for the largest crowd of a run."""
    crowd = max(cell["crowd"] for cell in metrics["cells"])
    return reached(metrics, "one place", crowd) - reached(metrics, "its own place", crowd)


def reached(metrics: Mapping[str, Any], aim: str, crowd: int) -> float:
    """Mean cosine to the targets after training, for one aim and crowd of a run."""
    (cell,) = (cell for cell in metrics["cells"] if cell["aim"] == aim and cell["crowd"] == crowd)
    after: list[float] = cell["after"]
    return sum(after) / crowd


def _every_layer(check: str, runs: Runs | None, remove: Removal | None) -> Tensor:
    from notebooks.prefix_tuning.real_architectures import layer_checks, recording

    measure = getattr(layer_checks, check)
    remove = recording.without_prefix if remove is None else remove
    return torch.cat([measure(calls, length, remove) for calls, length in runs or ()])


def _identity(
    id: str,
    sentence: str,
    errors: Callable[[], Any],
    measured: object,
    *,
    source: str,
    checks: str,
    tolerance: float = TOLERANCE,
) -> claims.Claim:
    if measured is None:
        return _not_checked(id, sentence, "identity", source, checks)
    claim = claims.identity(
        id, sentence, errors=errors(), tolerance=tolerance, source=source, checks=checks
    )
    return claims.needing(claim, extra.NAME)


def _outcome(
    id: str,
    sentence: str,
    values: Callable[[], list[float]],
    measured: object,
    *,
    limit: float,
    unit: str,
    source: str,
    checks: str,
    requires: Callable[[], list[claims.Claim]] = list,
    note: str = "",
) -> claims.Claim:
    """Ask whether the mean lies above the limit."""
    if measured is None:
        return _not_checked(id, sentence, "outcome", source, checks)
    claim = claims.outcome(
        id,
        sentence,
        values=values(),
        limit=limit,
        side="above",
        unit=unit,
        source=source,
        checks=checks,
        requires=requires(),
        note=note,
    )
    return claims.needing(claim, extra.NAME)


def _not_checked(id: str, sentence: str, kind: str, source: str, checks: str) -> claims.Claim:
    return claims.not_checked(
        id, sentence, kind=kind, source=source, checks=checks, needs=extra.NAME
    )

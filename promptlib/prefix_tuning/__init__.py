"""Part II: what a prefix can and cannot make a transformer do.

Source: A. Petrov, P. H. S. Torr, A. Bibi, "When Do Prompting and Prefix-Tuning Work? A Theory of
Capabilities and Limitations", ICLR 2024, arXiv 2310.19698.

The names below are the public ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptlib.lazy import public_names

if TYPE_CHECKING:
    from promptlib.attention import attend
    from promptlib.prefix_tuning.constructions.conditional import conditional_generator
    from promptlib.prefix_tuning.constructions.unconditional import unconditional_generator
    from promptlib.prefix_tuning.evaluation import greedy_decode, sequence_accuracy, sequence_loss
    from promptlib.prefix_tuning.gpt import GPT, GPTConfig
    from promptlib.prefix_tuning.lora import add_lora, remove_lora
    from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
    from promptlib.prefix_tuning.tasks import (
        ADD_ONE,
        ADD_TWO,
        ASCENDING_ADD_ONE,
        DOUBLE_HISTOGRAM,
        MIXTURE,
        SORT_ASCENDING,
        SORT_DESCENDING,
    )

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "promptlib.attention": ["attend"],
        ".constructions.conditional": ["conditional_generator"],
        ".constructions.unconditional": ["unconditional_generator"],
        ".evaluation": ["greedy_decode", "sequence_accuracy", "sequence_loss"],
        ".gpt": ["GPT", "GPTConfig"],
        ".lora": ["add_lora", "remove_lora"],
        ".prefix": ["Prefix", "PrefixBatch"],
        ".tasks": [
            "ADD_ONE",
            "ADD_TWO",
            "ASCENDING_ADD_ONE",
            "DOUBLE_HISTOGRAM",
            "MIXTURE",
            "SORT_ASCENDING",
            "SORT_DESCENDING",
        ],
    },
)

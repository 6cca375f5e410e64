"""Part II: what a prefix can and cannot make a transformer do.

Source: A. Petrov, P. H. S. Torr, A. Bibi, "When Do Prompting and Prefix-Tuning Work? A Theory of
Capabilities and Limitations", ICLR 2024, arXiv 2310.19698.

The names below are the public ones. Each is imported when it is first used, so that importing the
package is cheap and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

__all__ = [
    "ADD_ONE",
    "ADD_TWO",
    "ASCENDING_ADD_ONE",
    "DOUBLE_HISTOGRAM",
    "GPT",
    "MIXTURE",
    "SORT_ASCENDING",
    "SORT_DESCENDING",
    "GPTConfig",
    "Prefix",
    "PrefixBatch",
    "add_lora",
    "attend",
    "conditional_generator",
    "greedy_decode",
    "remove_lora",
    "sequence_accuracy",
    "sequence_loss",
    "unconditional_generator",
]

_HOME = {
    "attend": "promptlib.attention",
    "conditional_generator": "promptlib.prefix_tuning.constructions.conditional",
    "unconditional_generator": "promptlib.prefix_tuning.constructions.unconditional",
    "greedy_decode": "promptlib.prefix_tuning.evaluation",
    "sequence_accuracy": "promptlib.prefix_tuning.evaluation",
    "sequence_loss": "promptlib.prefix_tuning.evaluation",
    "GPT": "promptlib.prefix_tuning.gpt",
    "GPTConfig": "promptlib.prefix_tuning.gpt",
    "add_lora": "promptlib.prefix_tuning.lora",
    "remove_lora": "promptlib.prefix_tuning.lora",
    "Prefix": "promptlib.prefix_tuning.prefix",
    "PrefixBatch": "promptlib.prefix_tuning.prefix",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module; capitals without a home are tasks."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOME.get(name, "promptlib.prefix_tuning.tasks"))
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

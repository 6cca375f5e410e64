"""What does a prefix, a soft prompt or a LoRA do inside its model? The numbers and the words.

A public part with a door of its own: every training run reaches the list of names of
`promptlib.prefix_tuning`, and looking into a model must not retrain it.
"""

from promptlib.prefix_tuning.diagnosis.measuring import diagnose
from promptlib.prefix_tuning.diagnosis.report import Diagnosis

__all__ = ["Diagnosis", "diagnose"]

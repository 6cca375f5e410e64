"""What did the paper report?

Percent of 3,200 test sequences with all ten outputs right, one seed. Source: the notebooks that
Petrov, Torr and Bibi published with "When Do Prompting and Prefix-Tuning Work?", ICLR 2024,
arXiv 2310.19698. Facts only; none of their code is used.
"""

from __future__ import annotations

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

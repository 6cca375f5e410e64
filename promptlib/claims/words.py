"""Which words and numbers do all claims share?"""

from __future__ import annotations

MIME_TYPE = "application/vnd.promptlib.claim+json"
KINDS = ("identity", "bound", "estimate", "outcome")
VERDICTS = (
    "holds",
    "fails",
    "supported",
    "contradicted",
    "undecided",
    "single run",
    "uninformative",
    "not checked",
)
"""The first two of mathematical claims, the next five of outcomes, the last of either."""
REPLICATIONS = ("reproduced", "stronger", "weaker", "undecided", "other size")
"""What an outcome is beside a published figure."""
LEVEL = 0.95
"""Coverage of the interval that a sentence is judged by."""
HERE = "this book"
"""Source of a claim that no paper makes."""

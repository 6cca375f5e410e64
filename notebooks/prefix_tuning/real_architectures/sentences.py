"""Which sentences does the encoder read? These, written for it."""

from __future__ import annotations

__all__ = ["ANCHOR", "SENTENCES", "TO_DRAW"]

SENTENCES = (
    "The kettle whistles while the bread is in the oven.",
    "A small boat crosses the lake before sunrise.",
    "The train to the coast was late again.",
    "She tuned the old piano with great patience.",
    "Bees return to the same meadow every spring.",
    "The doctor asked how long the cough had lasted.",
    "Snow covered the vineyard overnight.",
    "He repaired the bicycle with a borrowed wrench.",
    "The court will publish its ruling on Monday.",
    "Two players were sent off in the second half.",
    "Prices of wheat fell after a good harvest.",
    "The telescope found a planet with two moons.",
    "My grandmother keeps her letters in a tin box.",
    "The programmer forgot to close the file.",
    "Children paint the fence in bright colours.",
    "The violin would not fit into the case because it was too small.",
)
"""Sixteen sentences about sixteen things."""

TO_DRAW = SENTENCES[-1]
"""Whose attention is drawn: a pronoun, and two nouns that it could stand for."""

ANCHOR = "An empty theatre smells of dust and velvet."
"""The one place to which a prefix is trained to pull other sentences."""

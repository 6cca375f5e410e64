"""Between the parts: one frozen layer in which both theories are theorems about one learned vector.

- :mod:`~promptlib.bridge.readings`: the vector in front of a bag, and behind it; two in front;
- :mod:`~promptlib.bridge.streams`: masks and depth, and an explicit frozen model of two layers;
- :mod:`~promptlib.bridge.heads`: how many self-attention heads replace one prompt;
- :mod:`~promptlib.bridge.two_theories`: the claims of the chapter *Two theories, one layer*;
- :mod:`~promptlib.bridge.figures`: its figure.
"""

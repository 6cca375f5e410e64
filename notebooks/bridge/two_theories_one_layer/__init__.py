"""Between the parts: one frozen layer in which both theories are theorems about one learned vector.

- `readings`: the vector in front of a bag, and behind it; two in front;
- `streams`: masks and depth, and an explicit frozen model of two layers;
- `heads`: how many self-attention heads replace one prompt;
- `claims`: the claims of the chapter *Two theories, one layer*;
- `figures`: its figure.
"""

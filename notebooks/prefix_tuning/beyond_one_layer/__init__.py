"""Chapter "Beyond one layer": what a prefix can do to the attention of deeper layers.

Modules
-------
two_layers
    Two attention layers with a prefix in the first, and the logits of the second in closed form.
one_row, swaps, switch, small_shares
    One theorem each: the formula, its construction or adversary, and its errors.
many_rows
    The search for prefixes that re-aim several queries at once.
plan, training
    The training runs; the plan needs no torch.
movement
    Relative attention of trained models, layer by layer.
statements, results, figures
    The claims and figures of the chapter.
"""

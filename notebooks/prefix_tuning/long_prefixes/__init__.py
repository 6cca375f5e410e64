"""Chapter "Long prefixes": what more vectors buy.

Modules
-------
combining
    Concatenated, repeated and averaged prefixes, in closed form.
spread
    Effective number of prefix positions, effective rank of the biases, and their bounds.
plan, evidence
    The training runs, and what is measured on them; the plan needs no torch.
statements, results, figures
    The claims and figures of the chapter.
"""

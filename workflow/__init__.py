"""From notebook sources to the published site; see ``Snakefile`` for the steps and ``build`` for the
command behind ``make book``."""

"""From notebook sources to the published site.

``Snakefile`` has the steps, ``build`` is the command behind ``make book``.
"""

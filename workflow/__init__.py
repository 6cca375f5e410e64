"""From notebook sources to the published site.

``Snakefile`` has the steps, ``build`` is the command behind ``make book``.
"""

import sys

# If this package is there (JupyterLab brings it), jsonschema compiles its grammars at every start,
# for a second of each step of the workflow, which never checks an internationalised address.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

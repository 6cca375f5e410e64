"""Which code decides a result?

- :mod:`~promptlib.digests.text`: a piece of source without what decides nothing;
- :mod:`~promptlib.digests.modules`: the modules of the project, and what they import;
- :mod:`~promptlib.digests.names` and :mod:`~promptlib.digests.definitions`: what a module defines,
  and what each definition names;
- :mod:`~promptlib.digests.reach`: all that a training function reaches.
"""

from promptlib.digests.modules import (
    PACKAGE,
    code_digest,
    import_closure,
    imported_modules,
    source_path,
)
from promptlib.digests.reach import Reached, reached

__all__ = [
    "PACKAGE",
    "Reached",
    "code_digest",
    "import_closure",
    "imported_modules",
    "reached",
    "source_path",
]

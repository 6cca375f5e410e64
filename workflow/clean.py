"""``python -m workflow.clean MODULE …`` runs ``python -m MODULE …`` in the clean environment.

For what is not of this package: tests and types.
"""

from __future__ import annotations

import runpy
import sys

from workflow.command import BuildError, command


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        raise BuildError(
            "say which module to run: python -m workflow.clean pytest tests/promptlib/test_runs.py"
        )
    sys.argv[:] = given  # the module's own name is put in place by runpy
    try:
        runpy.run_module(given[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise BuildError(end.code) from None
        return end.code or 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

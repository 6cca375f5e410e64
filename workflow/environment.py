"""What may the reader's own settings change? Nothing: every command runs in a clean environment.

A plotting style in the home folder, a start-up file of IPython, a variable that Python reads, a
number of threads: each would change figures or numbers silently, or stop the build. So each process
of the workflow gets the variables that are allowed here, with the book's own values where a value
matters, and a home folder of its own below ``_build``, in which tools find no settings and may keep
their caches, whether or not the reader's home can be written to.

``python -m workflow.<command>`` enters it before anything else is imported (see ``__init__``).
This module loads the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "_build" / ".home"

KEPT = frozenset(
    {
        # where programs, libraries and room for temporary files are
        *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP"),
        # the terminal, for the line that says how far the build is
        "TERM",
        # which hardware, and which of its instructions: `make robust` varies them
        *("CUDA_VISIBLE_DEVICES", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
        *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
        # the project's own
        *("PROMPTLIB_RUNS", "PROMPTBOOK_SITE", "TQDM_DISABLE", "PYTHONUNBUFFERED"),
    }
)
"""Variables that pass. So do those of git, which say where the history is and whom to trust."""

FIXED = {
    "HOME": str(HOME),
    "LOGNAME": "book",  # a user without an entry in /etc/passwd has no other name
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "1",  # sums depend on how they are divided; and it is one process a core
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONPATH": str(ROOT),  # kernels start elsewhere
}
"""Variables that are the same for everyone."""

_ENTERED = "PROMPTBOOK_ENTERED"


def clean(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process of the workflow.

    Parameters
    ----------
    given
        The reader's variables; those of this process by default.

    Returns
    -------
    dict
        The allowed ones of ``given``, and the book's own values. Cleaning again changes nothing.
    """
    given = os.environ if given is None else given
    kept = {name: value for name, value in given.items() if _passes(name)}
    home = given.get("HOME")
    if home is not None and home != FIXED["HOME"] and "GIT_CONFIG_GLOBAL" not in given:
        kept |= _git_settings(Path(home), given.get("XDG_CONFIG_HOME"))
    return kept | FIXED


def enter(module: str, arguments: list[str]) -> None:
    """Go on as ``python -m module arguments`` in the clean environment, unless this is it.

    Raises
    ------
    OSError
        If the book's home folder cannot be made.
    """
    for stream in range(3):  # one that is closed would give its number to the next file opened
        with contextlib.suppress(OSError):
            os.fstat(stream)
            continue
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    HOME.mkdir(parents=True, exist_ok=True)
    # Some systems add variables to whatever is given, so the mark decides, for this process only.
    wanted = clean()
    if os.environ.pop(_ENTERED, None) is None and dict(os.environ) != wanted:
        os.execve(
            sys.executable,
            [sys.executable, "-m", module, *arguments],
            {**wanted, _ENTERED: "1"},
        )


def _passes(name: str) -> bool:
    return name in KEPT or name.startswith("GIT_")


def _git_settings(home: Path, configuration: str | None) -> dict[str, str]:
    """The reader's settings of git, which would be looked for at home."""
    places = (home / ".gitconfig", Path(configuration or home / ".config") / "git" / "config")
    found = [str(place) for place in places if os.access(place, os.R_OK)]
    return {"GIT_CONFIG_GLOBAL": found[0]} if found else {}

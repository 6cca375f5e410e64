"""Is the published site already what the sources say?

After a successful build, the digests of everything that went in (sources by content, training runs
by their checksums, optional extras by their versions) and came out are recorded. While they still
agree there is nothing to do, and no workflow engine needs to be started to find that out. Whatever
differs, the engine decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from workflow import extras

INPUTS = (
    "_config.yml",
    "archive",
    "book",
    "config",
    "constraints.txt",
    "notebooks",
    "promptlib",
    "pyproject.toml",
    "tests",
    "workflow",
)
PASSING = {"__pycache__", ".ipynb_checkpoints"}


def is_fresh(record: Path, root: Path) -> bool:
    """True when all files that :func:`record_build` noted are there with the same bytes."""
    try:
        noted = json.loads(record.read_bytes())
        found = {name: extras.versions(name, root) for name in noted["extras"]}
        return noted["extras"] == found and noted["files"] == _digests(root, noted["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def record_build(
    record: Path, root: Path, outputs: Iterable[Path], needed: Iterable[str] = ()
) -> None:
    """Note what is there now: the inputs below ``root``, and the given files and folders.

    ``needed`` names the optional extras that notebooks of the build ask for. Paths are noted
    relative to ``root`` where they lie inside, so that a project may be moved.
    """
    places = [
        str(path.relative_to(root) if path.is_relative_to(root) else path) for path in outputs
    ]
    versions = {name: extras.versions(name, root) for name in sorted(set(needed))}
    noted = {"outputs": places, "extras": versions, "files": _digests(root, places)}
    partial = record.with_name(f".{record.name}.partial")
    partial.write_text(json.dumps(noted))
    partial.replace(record)


def _digests(root: Path, outputs: Iterable[str]) -> dict[str, str]:
    found = {}
    for place in (*INPUTS, *outputs):
        path = root / place
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file() and not PASSING.intersection(file.parts):
                name = f"{place}/{file.relative_to(path).as_posix()}"
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found

"""Is the published site already what the sources say?

After a successful build, the digests of everything that went in (sources by content, training runs
by their checksums) and came out are recorded. While they still agree there is nothing to do, and
no workflow engine needs to be started to find that out. Whatever differs, the engine decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

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


def is_fresh(record: Path) -> bool:
    """True when all files that :func:`record_build` noted are there with the same bytes."""
    try:
        noted = json.loads(record.read_bytes())
        return noted["files"] == _digests(Path(noted["root"]), map(Path, noted["folders"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def record_build(record: Path, root: Path, outputs: Iterable[Path]) -> None:
    """Note what is there now: the inputs below ``root``, and the given folders or files."""
    folders = [root / name for name in INPUTS] + list(outputs)
    noted = {
        "root": str(root),
        "folders": [str(path) for path in folders],
        "files": _digests(root, folders),
    }
    partial = record.with_name(f".{record.name}.partial")
    partial.write_text(json.dumps(noted))
    partial.replace(record)


def _digests(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    found = {}
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file() and not PASSING.intersection(file.parts):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                found[str(file.relative_to(root) if file.is_relative_to(root) else file)] = digest
    return found

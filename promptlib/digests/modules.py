"""Which modules are ours, where do they lie, and which of them does one import?

Modules are ours when they lie in the package ``promptlib``, or in the folder ``notebooks`` of the
project around it, where chapters keep code of their own: ``notebooks.prefix_tuning.new_task.plan``
is the file ``notebooks/prefix_tuning/new_task/plan.py``. Folders there need no ``__init__.py``. An
installed ``promptlib`` without the project has no ``notebooks``.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from promptlib.digests.text import source_digest

PACKAGE = Path(__file__).parents[1]
CHAPTERS = "notebooks"
"""Folder beside the package in which chapters keep their code."""
BYSTANDERS = ("runs", "digests", "registry", "progress", "checks", "kinds")
"""Modules of the package that hand numbers over or refuse them and decide none, with all that lies
inside them: editing them never retrains."""


def code_digest(module: str) -> str:
    """Digest of a module's source and of all sources of ours that it imports, transitively.

    Docstrings, comments and layout do not count, nor do :data:`BYSTANDERS`, nor the version of
    Python.

    Parameters
    ----------
    module
        Dotted name of a module of ours.

    Raises
    ------
    ValueError
        If there is no such module.
    """
    digest = hashlib.sha256()
    for name in import_closure(module):
        if is_bystander(name):
            continue
        digest.update(f"{name}\n{source_digest(_source(name))}\n".encode())
    return digest.hexdigest()


def import_closure(*modules: str) -> tuple[str, ...]:
    """Sorted names of the modules of ours that the given ones reach by imports.

    Imports inside functions count. A package's ``__init__`` counts when a name is imported from
    the package itself, not when the import names a module inside it.

    Raises
    ------
    ValueError
        If a module is missing.
    """
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            path = source_path(name)
            seen.add(name)
            waiting.extend(imported_modules(path.read_text(encoding="utf-8"), _home(name, path)))
    return tuple(sorted(seen))


def imported_modules(source: str, package: str = "") -> tuple[str, ...]:
    """Names of the modules of ours that a piece of source imports directly.

    Parameters
    ----------
    source
        Python.
    package
        What ``.`` means in its imports; without it, such imports name nothing.
    """
    return _imported(source, package, PACKAGE)


@lru_cache(maxsize=1024)
def _imported(source: str, package: str, _: Path) -> tuple[str, ...]:
    found: set[str] = set()
    for node in nested_statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if is_ours(alias.name)]
        elif isinstance(node, ast.ImportFrom) and is_ours(home := imported_from(node, package)):
            inner = [f"{home}.{alias.name}" for alias in node.names]
            names = [name if exists(name) else home for name in inner]
        else:
            continue
        found |= {name for name in names if not is_bare_folder(name)}
    return tuple(sorted(found))


def nested_statements(body: Iterable[Any], without: tuple[type, ...] = ()) -> Iterator[ast.AST]:
    """All statements, those inside others too, but not those inside nodes of some types.

    It need not walk through expressions, which takes most of the time of `ast.walk`.
    """
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, without):
            for name in ("body", "orelse", "finalbody", "handlers", "cases"):
                waiting += getattr(node, name, ())


def imported_from(node: ast.ImportFrom, package: str) -> str:
    """The module that a ``from … import …`` in a module of `package` names, in full."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    above = parents[: len(parents) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def is_ours(module: str) -> bool:
    """Whether a module would lie in one of our folders, there or not."""
    return _root(module.partition(".")[0]) is not None


def is_bystander(module: str) -> bool:
    """Whether a module, or something in it, is of the `BYSTANDERS`."""
    parts = module.split(".")
    return parts[0] == PACKAGE.name and len(parts) > 1 and parts[1] in BYSTANDERS


def exists(module: str) -> bool:
    """Whether there is such a module of ours, be it a folder without ``__init__.py``."""
    return _path(module) is not None or is_bare_folder(module)


def is_bare_folder(module: str) -> bool:
    """Whether a name is that of a folder of ours without ``__init__.py``: nothing runs there."""
    folder = _place(module)
    return folder is not None and _is_there(folder, os.path.isdir) and _path(module) is None


def source_path(module: str) -> Path:
    """The file of a module of ours; ValueError if there is none."""
    path = _path(module)
    if path is None:
        raise ValueError(f"{module!r} is not a module of {PACKAGE.name} or {CHAPTERS}")
    return path


def package_of(module: str) -> str:
    """What ``.`` means in the imports of a module of ours."""
    return _home(module, source_path(module))


def _home(module: str, path: Path) -> str:
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def _root(name: str) -> Path | None:
    """Our folder for what imports begin with, if it is one."""
    if name == PACKAGE.name:
        return PACKAGE
    folder = PACKAGE.parent / CHAPTERS
    # Beside an installed package there may be anything.
    beside = name == CHAPTERS and (PACKAGE.parent / "pyproject.toml").is_file()
    return folder if beside and folder.is_dir() else None


def _place(module: str) -> str | None:
    """Where a module of ours would lie, without an ending; None if it is not ours."""
    first, *others = module.split(".")
    root = _root(first)
    return os.path.join(root, *others) if root is not None and all(others) else None


def _path(module: str) -> Path | None:
    inside = _place(module)
    if inside is None:
        return None
    for candidate in (os.path.join(inside, "__init__.py"), f"{inside}.py"):
        if _is_there(candidate, os.path.isfile):
            return Path(candidate)
    return None


def _is_there(path: str, exists: Callable[[str], bool]) -> bool:
    """Some file systems would take Prefix.py, a name of a class, for prefix.py."""
    return exists(path) and os.path.basename(path) in os.listdir(os.path.dirname(path))


def _source(module: str) -> str:
    return source_path(module).read_text(encoding="utf-8")

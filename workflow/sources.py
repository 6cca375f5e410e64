"""What does a chapter's page say: its cells, its parameters, and the code that decides its results?

Each chapter has a folder ``notebooks/<wing>/<chapter>``, with its page ``<chapter>.md`` and the
code that serves it alone. Pages are jupytext MyST files. Prose and captions never decide a result,
so a notebook is executed again only when its *code key* changes, and its outputs are woven into the
current prose otherwise.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from promptlib.digests import import_closure, imported_modules, source_path
from workflow.command import BuildError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Source:
    """A notebook source.

    Attributes
    ----------
    name
        Path of its folder below ``notebooks``: ``"prefix_tuning/new_task"``.
    root
        The repository.
    """

    name: str
    root: Path = ROOT

    @property
    def folder(self) -> Path:
        """Everything that serves the chapter alone."""
        return self.root / "notebooks" / self.name

    @property
    def path(self) -> Path:
        return self.folder / f"{self.folder.name}.md"

    @property
    def code(self) -> list[Path]:
        """The modules in the chapter's folder."""
        return sorted(path for path in self.folder.glob("*.py") if path.name != "__init__.py")

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        """The source as a notebook without outputs, cell ids numbered."""
        if not self.path.is_file():
            known = names()
            raise BuildError(
                f"there is no notebook {self.name!r}{suggestion(self.name, known)}; "
                f"there are: {', '.join(known)}"
            )
        try:
            notebook = jupytext.read(self.path)
        except (yaml.YAMLError, ValueError) as error:
            raise BuildError(f"{self.path} is no notebook in MyST: {error}") from None
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"
        return notebook

    @cached_property
    def code_cells(self) -> tuple[str, ...]:
        return tuple(cell.source for cell in self.notebook.cells if cell.cell_type == "code")

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Parameters and their default values, read from the cell tagged ``parameters``."""
        tagged = [
            cell.source
            for cell in self.notebook.cells
            if "parameters" in cell.metadata.get("tags", [])
        ]
        if len(tagged) != 1:
            raise BuildError(
                f"{self.path}: one cell must be tagged 'parameters', found {len(tagged)}"
            )
        values: dict[str, Any] = {}
        try:
            statements = ast.parse(tagged[0]).body
        except SyntaxError as error:
            raise BuildError(
                f"{self.path}: the parameters cell is not Python, line {error.lineno}: "
                f"{(error.text or '').strip()}"
            ) from None
        for statement in statements:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    try:
                        values[name] = ast.literal_eval(value)
                        continue
                    except ValueError:
                        pass
            raise BuildError(
                f"{self.path}: the parameters cell may only assign literals to names, "
                f"found: {ast.unparse(statement)}"
            )
        return values

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """The modules of the library and of chapters that the notebook's code reaches."""
        code = "\n".join(
            line for cell in self.code_cells for line in cell.splitlines() if line[:1] not in "%!"
        )
        try:
            return import_closure(*imported_modules(code))
        except SyntaxError as error:
            raise BuildError(
                f"{self.path}, or a module that it reaches, is not Python: "
                f"{(error.text or '').strip()}"
            ) from None

    @property
    def dependencies(self) -> list[Path]:
        """Files of modules whose change makes the results stale."""
        return [source_path(module) for module in self.modules]

    def code_key(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the notebook's outputs, apart from :attr:`dependencies`."""
        digest = hashlib.sha256(json.dumps(self.code_cells).encode()).hexdigest()
        return {"notebook": self.name, "code_cells": digest, "parameters": dict(parameters)}

    def check_parameters(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """All parameters of the notebook, with ``given`` in place of defaults.

        Raises
        ------
        BuildError
            If a name is not a parameter of the notebook or a value has another type than its
            default; the message names both and the remedy.
        """
        for name, value in given.items():
            if name not in self.defaults:
                raise BuildError(
                    f"{where}: {self.name} has no parameter {name!r}"
                    f"{suggestion(name, self.defaults)}; it has: {', '.join(self.defaults)}"
                )
            if not _same_type(value, self.defaults[name]):
                raise BuildError(
                    f"{where}: parameter {name!r} of {self.name} must be "
                    f"{_type_name(self.defaults[name])} like its default "
                    f"{self.defaults[name]!r}, got {value!r}"
                )
        return {**self.defaults, **given}


def names() -> list[str]:
    """All notebook names, sorted."""
    return sorted(
        path.parent.relative_to(NOTEBOOKS).as_posix()
        for path in NOTEBOOKS.glob("*/*/*.md")
        if path.stem == path.parent.name
    )


def name_of(text: str) -> str:
    """The notebook that a command line means: its name, its folder or its file."""
    name = text.rstrip("/").removeprefix("notebooks/").removesuffix(".md")
    folder, _, last = name.rpartition("/")
    return folder if folder.endswith(f"/{last}") else name


def suggestion(name: str, known: Any) -> str:
    """``" (did you mean 'x'?)"`` when something known is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def weave(source: Source, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The current prose with the outputs (and the injected parameters) of the executed notebook.

    Raises
    ------
    BuildError
        If the executed code is not the source's code.
    """
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    if tuple(cell.source for cell in ran if not _is_injected(cell)) != source.code_cells:
        raise BuildError(f"{source.name} was executed with other code; run make book again")
    woven = nbformat.from_dict(source.notebook)
    cells = []
    for cell in woven.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            done = ran.pop(0)
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
            while ran and _is_injected(ran[0]):
                cells.append(ran.pop(0))
    woven.cells = cells
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    woven.metadata["language_info"] = executed.metadata.get("language_info", {})
    return woven


def _is_injected(cell: nbformat.NotebookNode) -> bool:
    return "injected-parameters" in cell.metadata.get("tags", [])


def write_if_changed(path: Path, content: bytes) -> bool:
    """Write a file only when its bytes differ, so that an unchanged file keeps its time."""
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
    return True


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and (
            not default or all(_same_type(item, default[0]) for item in value)
        )
    return default is None or isinstance(value, type(default))


def _type_name(default: Any) -> str:
    if isinstance(default, list | tuple):
        return f"a list of {type(default[0]).__name__}" if default else "a list"
    return {"str": "text", "float": "a number", "int": "a whole number", "bool": "true or false"}[
        type(default).__name__
    ]

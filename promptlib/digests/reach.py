"""Which code decides a run? The definitions that its training function reaches, and no others.

From the training function on, a definition reaches those that it names: by name, as attribute of an
imported module, or through re-exports. What a module does when it is imported, other than to bind
names, is reached as soon as the module is executed at all, because something reached imports it:
calls that stand alone, loops, conditions, assignments into something, and definitions that call or
decorate with what changes a variable of a module, as a list of everything that was decorated.

- Functions and classes are reached whole, assignments with all that their right sides name.
- Annotations lead nowhere (`promptlib.digests.names`).
- Of a `promptlib.registry.Registry` only the entries that the config names are reached.
- Where names cannot be followed, whole modules are reached, with all that they import: for modules
  handed around as values (``getattr(module, name)``), for names that a module does not visibly have
  (a module's ``__getattr__``), for ``import *``, and from code that asks for ``globals()``, for
  ``sys.modules``, for an import by string or for the evaluation of a string.

What is not seen: an object that enters itself into a list of its class through ``self``, or into
one of a module through a function that is handed the list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptlib.digests import modules
from promptlib.digests.definitions import Definitions, Statement, definitions
from promptlib.digests.modules import (
    exists,
    import_closure,
    is_bare_folder,
    is_bystander,
    is_ours,
    package_of,
    source_path,
)
from promptlib.digests.names import MUTATING, Chain, Imported, Uses
from promptlib.digests.text import source_digest

_UNFOLLOWED = (
    "builtins",
    "importlib.import_module",
    "importlib.machinery",
    "importlib.reload",
    "importlib.util.module_from_spec",
    "inspect.getmodule",
    "pkgutil",
    "runpy",
    "sys.modules",
)
_UNFOLLOWED_BUILTINS = {"__import__", "eval", "exec", "globals", "locals"}


@dataclass(frozen=True)
class Reached:
    """The code that decides a run.

    Attributes
    ----------
    digest
        Of all of it.
    definitions
        Names in it, such as ``"promptlib.training:train"``; of modules that are reached whole only
        ``"promptlib.training"``.
    entries
        Names of the entries of registries in it.
    """

    digest: str
    definitions: frozenset[str]
    entries: frozenset[str]


@dataclass(frozen=True)
class _Known:
    """What was found, and what to look at to tell whether it still holds."""

    reached: Reached
    asked: frozenset[str]
    found: frozenset[str]
    files: Mapping[Path, bytes]

    def holds_for(self, names: frozenset[str]) -> bool:
        return names & self.asked == self.found

    def is_fresh(self) -> bool:
        try:
            return all(path.read_bytes() == content for path, content in self.files.items())
        except OSError:
            return False


_known: dict[tuple[Path, str], list[_Known]] = {}


def reached(train: str, config: Any) -> Reached:
    """The code that a training function reaches, as the files are now.

    Parameters
    ----------
    train
        ``"package.module:function"``.
    config
        Of the run, JSON-able; every string in it may name an entry of a registry.

    Raises
    ------
    ValueError
        If a module of ours is missing.
    """
    names = frozenset(_strings(config))
    known = _known.setdefault((modules.PACKAGE, train), [])
    for one in known:
        if one.holds_for(names):
            if one.is_fresh():
                return one.reached
            known.remove(one)
            break
    walk = _Walk(_Sources(), names)
    module, _, function = train.partition(":")
    walk.attribute(module, (function,))
    walk.finish()
    found = Reached(walk.digest(), frozenset(walk.definitions()), frozenset(walk.covered))
    asked = frozenset(walk.asked)
    known.append(_Known(found, asked, names & asked, walk.sources.files))
    return found


def _strings(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for name, value in data.items():
            yield from _strings(name)
            yield from _strings(value)
    elif isinstance(data, Iterable):
        for value in data:
            yield from _strings(value)


class _Sources:
    """The modules of ours, each read once."""

    def __init__(self) -> None:
        self.files: dict[Path, bytes] = {}
        self._there: dict[str, bool] = {}
        self._taken_apart: dict[str, Definitions] = {}

    def exists(self, module: str) -> bool:
        if module not in self._there:
            self._there[module] = exists(module)
        return self._there[module]

    def text(self, module: str) -> str:
        path = source_path(module)
        if path not in self.files:
            self.files[path] = path.read_bytes()
        return self.files[path].decode()

    def definitions(self, module: str) -> Definitions:
        """A module, taken apart; in a folder without ``__init__.py`` there is nothing."""
        if module not in self._taken_apart:
            self._taken_apart[module] = (
                Definitions([], {}, {})
                if is_bare_folder(module)
                else definitions(self.text(module), package_of(module))
            )
        return self._taken_apart[module]


class _Walk:
    """From definition to definition.

    Parameters
    ----------
    sources
        Of what is walked through.
    names
        Entries of registries that the run may look up.
    executing
        Whether what modules do when they are imported is reached.
    """

    def __init__(
        self, sources: _Sources, names: frozenset[str] = frozenset(), executing: bool = True
    ) -> None:
        self.sources, self.names, self.executing = sources, names, executing
        self.reached: set[tuple[str, int]] = set()
        self.reached_entries: set[tuple[str, int, str]] = set()
        self.wholes: set[str] = set()
        self.asked: set[str] = set()
        self.covered: set[str] = set()
        self._strings: set[str] = set()
        self._waiting: list[tuple[str, int]] = []
        self._registries: set[tuple[str, int]] = set()
        self._effects: set[tuple[str, int]] = set()
        self._executed: set[str] = set()
        self._followed: set[tuple[str, Chain]] = set()
        self._changing: dict[tuple[str, Chain], bool] = {}

    def attribute(self, module: str, chain: Chain) -> None:
        """Reach ``module.a.b.c``, or the module itself if the chain is empty."""
        if is_bystander(module) or (module, chain) in self._followed:
            return
        self._followed.add((module, chain))
        self._execute(module)
        found = self.sources.definitions(module)
        if not chain:
            self._whole(module)
        elif chain[0] in found.binders or chain[0] in found.imports:
            self._name(module, chain)
        elif self.sources.exists(f"{module}.{chain[0]}"):
            self.attribute(f"{module}.{chain[0]}", chain[1:])
        else:
            self._whole(module)

    def finish(self) -> None:
        """Follow all that was reached to its end."""
        while self._waiting or self._choose():
            while self._waiting:
                module, number = self._waiting.pop()
                self._execute(module)
                statement = self._statement(module, number)
                self._follow(module, statement.uses)
                if statement.entries is not None:
                    self._registries.add((module, number))
                    self.asked |= set(statement.entries)

    def digest(self) -> str:
        """Of all that was reached, by module and in the order of the source."""
        lines = [f"{name} {source_digest(self.sources.text(name))}" for name in sorted(self.wholes)]
        for module, number in sorted(self.reached):
            lines.append(f"{module} {self._statement(module, number).text}")
        for module, number, name in sorted(self.reached_entries):
            text, _ = self._entries(module, number)[name]
            lines.append(f"{module} {name!a} {text}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def definitions(self) -> Iterator[str]:
        """Names of what was reached."""
        yield from self.wholes
        for module, number in self.reached:
            for name in self._statement(module, number).uses.binds:
                yield f"{module}:{name}"

    def _statement(self, module: str, number: int) -> Statement:
        return self.sources.definitions(module).statements[number]

    def _entries(self, module: str, number: int) -> Mapping[str, tuple[str, Uses]]:
        return self._statement(module, number).entries or {}

    def _reach(self, module: str, number: int) -> None:
        if (module, number) not in self.reached:
            self.reached.add((module, number))
            self._waiting.append((module, number))

    def _choose(self) -> bool:
        """Reach the entries that are asked for; all of a registry of which none is."""
        chosen: set[tuple[str, int, str]] = set()
        untouched: set[tuple[str, int, str]] = set()
        names = self.names | self._strings
        for place in self._registries:
            entries = {(*place, name) for name in self._entries(*place)}
            asked = {one for one in entries if one[2] in names or place in self._effects}
            chosen |= asked
            if not asked and not entries & self.reached_entries:
                untouched |= entries
        chosen -= self.reached_entries
        new = chosen or untouched
        for module, number, name in sorted(new):
            _, uses = self._entries(module, number)[name]
            self.covered.add(name)
            self._follow(module, uses)
        self.reached_entries |= new
        return bool(new)

    def _follow(self, module: str, uses: Uses) -> None:
        self._strings |= uses.strings
        for imported in uses.imports:
            self._load(imported)
        for chain in uses.chains:
            self._name(module, chain, uses.imports)

    def _name(self, module: str, chain: Chain, local: Iterable[Imported] = ()) -> None:
        """Reach what a chain means in a module: all that its first name may be bound to."""
        found = self.sources.definitions(module)
        imports = [
            *found.imports.get(chain[0], ()),
            *(one for one in local if one.name == chain[0]),
        ]
        for imported in imports:
            if imported.of_bystander:
                continue
            if is_ours(imported.module):
                inside = () if imported.attribute is None else (imported.attribute,)
                self.attribute(imported.module, (*inside, *chain[1:]))
            elif _unfollowed(".".join([imported.full, *chain[1:]])):
                self._whole(module)
        numbers = found.binders.get(chain[0], [])
        for number in numbers:
            bound = self._statement(module, number).imported
            if bound is None or not bound.of_bystander:
                self._reach(module, number)
        if not imports and not numbers and chain[0] in _UNFOLLOWED_BUILTINS:
            self._whole(module)

    def _whole(self, module: str) -> None:
        if is_bare_folder(module):
            return
        for name in import_closure(module):
            if not is_bystander(name) and name not in self.wholes:
                self.wholes.add(name)
                self._execute(name)
                for statement in self.sources.definitions(name).statements:
                    self.covered |= set(statement.entries or {})

    def _load(self, imported: Imported) -> None:
        """Execute what an import loads."""
        if not is_ours(imported.loads) or is_bystander(imported.loads):
            return
        self._execute(imported.loads)
        bound = self.sources.definitions(imported.loads)
        inner = f"{imported.loads}.{imported.attribute}"
        if imported.attribute is None or imported.attribute in bound.binders:
            return
        if self.sources.exists(inner):
            self._execute(inner)

    def _execute(self, module: str) -> None:
        """Reach what importing a module does, other than to bind names."""
        if not self.executing or is_bystander(module) or module in self._executed:
            return
        self._executed.add(module)
        if "." in module:
            self._execute(module.rpartition(".")[0])
        found = self.sources.definitions(module)
        for imported in (one for some in found.imports.values() for one in some):
            self._load(imported)
            if imported.name == "*" and is_ours(imported.module):
                self._whole(imported.module)
        for number, statement in enumerate(found.statements):
            if statement.effect or any(self._changes(module, one) for one in statement.at_import):
                self._effects.add((module, number))
                self._reach(module, number)

    def _changes(self, module: str, chain: Chain) -> bool:
        """Whether a call may change a variable of a module of ours."""
        if chain[-1] in MUTATING and self._is_variable(module, chain[:-1], ()):
            return True
        if (module, chain) not in self._changing:
            walk = _Walk(self.sources, executing=False)
            walk._name(module, chain)
            walk.finish()
            self._changing[module, chain] = bool(walk.wholes) or any(
                self._is_variable(inner, changed, uses.imports)
                for inner, uses in walk._all_uses()
                for changed in uses.changed
            )
        return self._changing[module, chain]

    def _all_uses(self) -> Iterator[tuple[str, Uses]]:
        for module, number in self.reached:
            yield module, self._statement(module, number).uses
        for module, number, name in self.reached_entries:
            yield module, self._entries(module, number)[name][1]

    def _is_variable(self, module: str, chain: Chain, local: Iterable[Imported]) -> bool:
        """Whether a chain begins with something of ours, not of another library or of Python."""
        if not chain:
            return False
        found = self.sources.definitions(module)
        imports = [
            *found.imports.get(chain[0], ()),
            *(one for one in local if one.name == chain[0]),
        ]
        if imports:
            return any(is_ours(one.module) and not one.of_bystander for one in imports)
        return chain[0] in found.binders


def _unfollowed(full: str) -> bool:
    """Whether something of another library may lead anywhere, or is a module that has it."""
    return any(
        f"{full}.".startswith(f"{one}.") or one.startswith(f"{full}.") for one in _UNFOLLOWED
    )

"""What does a module define at its top, and what does each definition name?

A module is taken apart into its top-level statements. Of each there is its text (without
docstrings, comments and layout), the names that it binds, and what it may look at: names with the
attributes asked of them, imports inside it, and strings. Nothing is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from promptlib.digests.names import (
    FUNCTIONS,
    Chain,
    Imported,
    Uses,
    bare,
    called_at_import,
    chain_of,
    imported_names,
    imports_outside_functions,
    uses_of,
)
from promptlib.digests.text import does_nothing, written

REGISTRY = "promptlib.registry.Registry"


@dataclass
class Statement:
    """A statement at the top of a module.

    Attributes
    ----------
    text
        What is digested.
    uses
        What it names anywhere inside, and binds.
    imported
        What a name of an import stands for.
    effect
        Whether it clearly does more than to bind names.
    at_import
        Chains that are called when the module is imported, by what otherwise only binds names.
    entries
        Of a `promptlib.registry.Registry`: text and uses of each entry, by name.
    """

    text: str
    uses: Uses
    effect: bool = False
    at_import: frozenset[Chain] = frozenset()
    imported: Imported | None = None
    entries: Mapping[str, tuple[str, Uses]] | None = None


@dataclass
class Definitions:
    """A module, taken apart.

    Attributes
    ----------
    statements
        In the order of the source; of an import, one for each name.
    binders
        Numbers of the statements that bind a name.
    imports
        What imports outside functions bind, by name.
    """

    statements: list[Statement]
    binders: dict[str, list[int]]
    imports: dict[str, list[Imported]]


@lru_cache(maxsize=1024)
def definitions(source: str, package: str = "") -> Definitions:
    """Take a module apart.

    Parameters
    ----------
    source
        Python.
    package
        What ``.`` means in its imports.
    """
    body = list(_running(ast.parse(source).body))
    imports: dict[str, list[Imported]] = {}
    for node in body:
        for imported in imports_outside_functions(node, package):
            imports.setdefault(imported.name, []).append(imported)
    statements = [statement for node in body for statement in _statements(node, package, imports)]
    used = [statement.uses for statement in statements]
    used += [uses for one in statements for _, uses in (one.entries or {}).values()]
    named = {chain[0] for uses in used for chain in uses.chains}
    binders: dict[str, list[int]] = {}
    for number, statement in enumerate(statements):
        # A module that nobody names was imported for what it does.
        if statement.imported is not None and statement.imported.attribute is None:
            statement.effect = statement.imported.name not in named
        for name in statement.uses.binds:
            binders.setdefault(name, []).append(number)
    return Definitions(statements, binders, imports)


def _running(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that may do something, without those that only type checkers see."""
    for node in body:
        if isinstance(node, ast.If) and chain_of(node.test)[-1:] == ("TYPE_CHECKING",):
            yield from _running(node.orelse)
        elif not (
            does_nothing(node)
            or (isinstance(node, ast.AnnAssign) and node.value is None)
            or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        ):
            yield node


def _statements(
    node: ast.stmt, package: str, imports: Mapping[str, list[Imported]]
) -> Iterator[Statement]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        for imported in imported_names(node, package):
            verb = "import" if imported.attribute is None else "from"
            text = f"{verb} {imported.loads} {imported.full} as {imported.name}"
            uses = Uses(binds={imported.name})
            yield Statement(text, uses, effect=imported.name == "*", imported=imported)
        return
    if _calls_bystander(node, imports):
        return
    effect, at_import = not _only_binds(node), frozenset(called_at_import(node))
    entries = _take_entries(node, package, imports)
    uses = uses_of(node, package)
    yield Statement(written(bare(node)), uses, effect, at_import, entries=entries)


def _calls_bystander(node: ast.stmt, imports: Mapping[str, list[Imported]]) -> bool:
    """Whether a statement is a call such as ``check_public(__name__)``."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    called = imports.get((chain_of(node.value.func) or ("",))[0], [])
    plain = all(isinstance(argument, ast.Name | ast.Constant) for argument in node.value.args)
    return bool(called) and plain and all(imported.of_bystander for imported in called)


def _only_binds(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = (ast.Name, ast.Tuple, ast.List, ast.Starred, ast.expr_context)
        return all(isinstance(part, names) for target in targets for part in ast.walk(target))
    # Python 3.11 does not know TypeAlias.
    return isinstance(node, (*FUNCTIONS, ast.ClassDef)) or type(node).__name__ == "TypeAlias"


def _take_entries(
    node: ast.stmt, package: str, imports: Mapping[str, list[Imported]]
) -> dict[str, tuple[str, Uses]] | None:
    """Take the entries out of a `Registry` that is written out; None for anything else."""
    match node:
        case ast.Assign(targets=[ast.Name()]) | ast.AnnAssign(target=ast.Name()):
            call = node.value
        case _:
            return None
    match call:
        case ast.Call(func=function, args=[ast.Constant(), ast.Dict() as display], keywords=[]):
            root, *rest = chain_of(function) or ("",)
        case _:
            return None
    meant = {".".join([imported.full, *rest]) for imported in imports.get(root, [])}
    keys = [key.value for key in display.keys if isinstance(key, ast.Constant)]
    written_out = len(keys) == len(display.keys) and all(isinstance(key, str) for key in keys)
    if meant != {REGISTRY} or not written_out or len(set(keys)) < len(keys):
        return None
    entries: dict[str, tuple[str, Uses]] = {}
    for key, value in zip(keys, display.values, strict=True):
        uses = uses_of(value, package)
        entries[str(key)] = (written(bare(value)), uses)
    display.keys, display.values = [], []
    return entries

"""What does a piece of code name, change, import and call? Nothing is executed to find out.

Annotations name nothing here: nobody evaluates them (``from __future__ import annotations``). They
are part of the text where something could read them: in classes, whose fields they make, and
below decorators.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from promptlib.digests.modules import imported_from, is_bystander, nested_statements
from promptlib.digests.text import does_nothing, joined

Chain = tuple[str, ...]
"""A name and the attributes asked of it: ``a.b.c`` is ``("a", "b", "c")``."""

MUTATING = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem"),
    *("register", "remove", "reverse", "setdefault", "sort", "update"),
}
"""Methods that change what they are asked of."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_UPON_SUBCLASSES = {"__init_subclass__", "__set_name__"}


@dataclass(frozen=True)
class Imported:
    """A name that an import binds: to `module`, or to its `attribute`; `loads` is executed."""

    name: str
    module: str
    attribute: str | None
    loads: str

    @property
    def full(self) -> str:
        """What the name stands for, such as ``torch.nn.functional``."""
        return self.module if self.attribute is None else f"{self.module}.{self.attribute}"

    @property
    def of_bystander(self) -> bool:
        """Whether it is a bystander, or something of one."""
        return is_bystander(self.module) or is_bystander(self.full)


@dataclass
class Uses:
    """What a piece of code may look at when it runs.

    Attributes
    ----------
    chains
        Names that are not the local variables of a function.
    changed
        Chains whose value is changed: assigned into, or asked for a method of `MUTATING`.
    binds
        Names that it binds, or that a function in it assigns as ``global``.
    imports
        Inside functions too.
    strings
        All but docstrings.
    """

    chains: set[Chain] = field(default_factory=set)
    changed: set[Chain] = field(default_factory=set)
    binds: set[str] = field(default_factory=set)
    imports: list[Imported] = field(default_factory=list)
    strings: set[str] = field(default_factory=set)


def uses_of(node: ast.AST, package: str) -> Uses:
    """What a node, and all inside it, may look at.

    Parameters
    ----------
    node
        A statement or an expression at the top of a module.
    package
        What ``.`` means in its imports.
    """
    reader = _Reader(package)
    scope = _Scope()
    reader.read(node, scope)
    binds = scope.bound | reader.globals
    return Uses(scope.chains, scope.changed, binds, reader.imports, reader.strings)


class _Scope:
    """Names seen so far in a function, a class, a comprehension, or at the top."""

    def __init__(self, holds_walrus: _Scope | None = None) -> None:
        self.chains: set[Chain] = set()
        self.changed: set[Chain] = set()
        self.bound: set[str] = set()
        self.visible: set[str] = set()
        self.holds_walrus = holds_walrus or self

    def close(self, inner: _Scope, local: set[str]) -> None:
        """Take over what an inner scope names, its local variables aside.

        What is imported or declared ``global`` in it stays visible, in outer functions, too.
        """
        self.visible |= inner.visible
        hidden = local - inner.visible
        self.chains |= {chain for chain in inner.chains if chain[0] not in hidden}
        self.changed |= {chain for chain in inner.changed if chain[0] not in hidden}


class _Reader:
    def __init__(self, package: str) -> None:
        self.package = package
        self.imports: list[Imported] = []
        self.strings: set[str] = set()
        self.globals: set[str] = set()

    def read(self, node: ast.AST, scope: _Scope) -> None:
        scope.changed |= {chain for chain in _changed(node) if chain}
        chain = chain_of(node)
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                scope.bound.add(node.id)
                return
            case _ if chain:
                scope.chains.add(chain)
                return
            case ast.Constant(value=str(text)):
                self.strings.add(text)
            case ast.JoinedStr():
                self._read_all(joined(node), scope)
                return
            case ast.Import() | ast.ImportFrom():
                imported = list(imported_names(node, self.package))
                self.imports += imported
                scope.visible |= {one.name for one in imported}
            case ast.Global(names=names):
                self.globals |= set(names)
                scope.visible |= set(names)
                scope.chains |= {(name,) for name in names}
            case ast.AugAssign(target=ast.Name(id=name)):
                scope.chains.add((name,))
            case ast.NamedExpr(target=ast.Name(id=name)):
                scope.holds_walrus.bound.add(name)
                self.read(node.value, scope)
                return
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                scope.bound.add(name)
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                scope.bound.add(name)
        self._read_parts(node, scope)

    def _read_parts(self, node: ast.AST, scope: _Scope) -> None:
        inner = _Scope()
        if isinstance(node, (*FUNCTIONS, ast.Lambda)):
            self._read_all(executed_with(node), scope)
            if isinstance(node, ast.Lambda):
                self.read(node.body, inner)
            else:
                scope.bound.add(node.name)
                self._read_all(node.body, inner)
            # Not by ast.walk: a default may be a lambda with arguments of its own.
            parts = (part for part in ast.iter_child_nodes(node.args) if isinstance(part, ast.arg))
            scope.close(inner, inner.bound | {part.arg for part in parts})
        elif isinstance(node, ast.ClassDef):
            self._read_all([*node.decorator_list, *node.bases, *node.keywords], scope)
            self._read_all(node.body, inner)
            # As attributes they may be asked for by any name.
            inner.chains |= {
                (one.name,)
                for part in node.body
                for one in imports_outside_functions(part, self.package)
            }
            scope.bound.add(node.name)
            scope.close(inner, set())  # what a class binds is no variable of its methods
        elif isinstance(node, _COMPREHENSIONS):
            inner.holds_walrus = scope.holds_walrus
            first, *others = node.generators
            self.read(first.iter, scope)
            self._read_all([first.target, *first.ifs, *others], inner)
            generators = set(node.generators)
            self._read_all((x for x in ast.iter_child_nodes(node) if x not in generators), inner)
            scope.close(inner, inner.bound)
        elif isinstance(node, ast.AnnAssign):
            self._read_all([node.target, *([node.value] if node.value else [])], scope)
        else:
            self._read_all(ast.iter_child_nodes(node), scope)

    def _read_all(self, nodes: Iterable[ast.AST], scope: _Scope) -> None:
        for node in nodes:
            if not does_nothing(node):
                self.read(node, scope)


def imported_names(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[Imported]:
    """The names that an import in a module of `package` binds."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            module = imported_from(node, package)
            yield Imported(alias.asname or alias.name, module, alias.name, module)
        else:
            name = alias.asname or alias.name.partition(".")[0]
            yield Imported(name, alias.name if alias.asname else name, None, alias.name)


def imports_outside_functions(node: ast.AST, package: str) -> Iterator[Imported]:
    """The names that a statement binds by imports when its module is imported."""
    for inner in nested_statements([node], without=FUNCTIONS):
        if isinstance(inner, ast.Import | ast.ImportFrom):
            yield from imported_names(inner, package)


def executed_with(node: Any) -> list[ast.AST]:
    """What is evaluated when a function is defined: decorators and defaults."""
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return [*decorators, *node.args.defaults, *(one for one in node.args.kw_defaults if one)]


def chain_of(node: ast.AST | None) -> Chain:
    """A name with attributes; empty for any other expression."""
    if isinstance(node, ast.Attribute):
        before = chain_of(node.value)
        return (*before, node.attr) if before else ()
    return (node.id,) if isinstance(node, ast.Name) else ()


def _owner(node: ast.AST) -> Chain:
    """What is changed when the expression is: ``a.b`` for ``a.b[0].c``."""
    while not chain_of(node):
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return ()
    return chain_of(node)


def _changed(node: ast.AST) -> Iterator[Chain]:
    """What a node, not those inside it, assigns into or changes by a method."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        if not isinstance(node.ctx, ast.Load):
            yield _owner(node.value)
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
            yield _owner(node.func.value)
    elif isinstance(node, ast.Global):
        yield from ((name,) for name in node.names)
    elif isinstance(node, ast.ClassDef) and any(
        isinstance(part, FUNCTIONS) and part.name in _UPON_SUBCLASSES for part in node.body
    ):
        yield (node.name,)


def called_at_import(node: ast.AST) -> Iterator[Chain]:
    """What is called, or told of a subclass, when a definition is executed, not when it is used."""
    called: list[ast.AST] = []
    parts: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, (*FUNCTIONS, ast.Lambda)):
        called += [] if isinstance(node, ast.Lambda) else node.decorator_list
        parts = executed_with(node)
    elif isinstance(node, ast.ClassDef):
        called += [*node.decorator_list, *node.bases]
        metaclasses = [_owner(keyword.value) for keyword in node.keywords]
        yield from ((*chain, "register") for chain in metaclasses if chain)
    elif isinstance(node, ast.AnnAssign):
        parts = [node.value] if node.value else []
    elif isinstance(node, ast.Call):
        called.append(node.func)
    if not isinstance(node, ast.Call):
        yield from ((*chain, "update") for chain in _changed(node) if chain)
    yield from filter(None, map(_owner, called))
    for part in parts:
        yield from called_at_import(part)


def bare(node: Any, in_class: bool = False) -> Any:
    """Take away the annotations that nothing reads when the code runs, in place."""
    if isinstance(node, FUNCTIONS):
        in_class = False
        if not node.decorator_list:
            node.returns = None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
    elif isinstance(node, ast.ClassDef):
        in_class = True
    elif isinstance(node, ast.AnnAssign) and not in_class:
        if node.value is not None:
            return ast.Assign([node.target], node.value)
        node.annotation = ast.Constant(None)
    if not isinstance(node, ast.expr):  # no statement is inside an expression
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inside = getattr(node, name, None)
            if inside:
                setattr(node, name, [bare(part, in_class) for part in inside])
    return node

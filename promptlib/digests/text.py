"""Which code is this, whatever its docstrings, comments, layout, and the Python that reads it?"""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=512)
def source_digest(source: str) -> str:
    """Digest of source without docstrings, comments and layout, the same under every Python.

    The syntax tree is written out here: the text of `ast.unparse` and of `ast.dump` changes from
    one version of Python to the next.
    """
    return hashlib.sha256(written(ast.parse(source)).encode()).hexdigest()


_LAYOUT = {"ctx", "kind", "type_comment"}
"""Fields of syntax nodes that decide nothing, or nothing that another field does not say."""


def written(part: Any) -> str:
    """A part of a syntax tree as text: classes, and the fields that are not empty, by name."""
    if isinstance(part, list):
        return f"[{','.join(written(item) for item in part if not does_nothing(item))}]"
    if not isinstance(part, ast.AST):  # a name, a number of the grammar, None in a list
        return ascii(part)  # not repr: what it escapes depends on the version of Unicode
    if isinstance(part, ast.Constant):
        return f"{type(part.value).__name__}:{part.value!a}"
    if isinstance(part, ast.JoinedStr):
        return f"JoinedStr{written(joined(part))}"
    fields = {
        name: written(value)
        for name, value in ast.iter_fields(part)
        if name not in _LAYOUT and value is not None
    }
    # Absent and empty are one: versions differ in what they leave out.
    empty = {"format_spec": "JoinedStr[]"}
    kept = sorted((name, text) for name, text in fields.items() if text != empty.get(name, "[]"))
    return f"{type(part).__name__}({','.join(f'{name}={text}' for name, text in kept)})"


def joined(string: ast.JoinedStr) -> list[ast.expr]:
    """The pieces of an f-string; versions differ in where they cut its text and nest it."""
    pieces: list[ast.expr] = []
    for value in string.values:
        for piece in joined(value) if isinstance(value, ast.JoinedStr) else [value]:
            last = pieces[-1] if pieces else None
            if not isinstance(piece, ast.Constant):
                pieces.append(piece)
            elif isinstance(last, ast.Constant):
                pieces[-1] = ast.Constant(str(last.value) + str(piece.value))
            elif piece.value:
                pieces.append(piece)
    return pieces


def does_nothing(node: Any) -> bool:
    """Whether a statement is a docstring, another bare string, or `pass`."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

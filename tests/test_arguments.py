"""Every public function refuses what it does not mean, and says which argument that is.

The first part finds the public functions itself and takes wrong arguments from their annotations,
so that it holds for functions that do not exist yet. The second goes through what annotations
cannot say: shapes, ranges, dtypes.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import promptlib

ELSEWHERE = ("claims", "language", "real", "runs", "checks", "progress", "plotting")
"""Parts of the package with refusals, and tests of them, of their own."""


def modules() -> list[str]:
    found = pkgutil.walk_packages(promptlib.__path__, "promptlib.")
    return [module.name for module in found if not set(module.name.split(".")) & set(ELSEWHERE)]


def is_result(part: type) -> bool:
    return issubclass(part, tuple | BaseException)


def is_protocol(annotation: Any) -> bool:
    return isinstance(annotation, type) and bool(vars(annotation).get("_is_protocol"))


def public(module: str) -> list[tuple[str, Any, bool]]:
    """Functions, constructors and methods: name, what to call, whether `self` comes first."""
    names = vars(importlib.import_module(module))
    exported = names.get("__all__", [name for name in names if not name.startswith("_")])
    found: list[tuple[str, Any, bool]] = []
    for name in exported:
        part = names.get(name)
        if getattr(part, "__module__", None) != module:
            continue
        if inspect.isfunction(part):
            found.append((name, part, False))
        elif isinstance(part, type) and not is_result(part) and not is_protocol(part):
            found.append((name, part, False))
            found += [
                (f"{name}.{method}", function, True)
                for method, function in vars(part).items()
                if inspect.isfunction(function) and not method.startswith("_")
            ]
    return found


def meaning(function: Any, annotation: Any) -> Any:
    """The object that an annotation stands for, or Any if only a type checker knows it."""
    if isinstance(annotation, str):
        plain = function.__init__ if isinstance(function, type) else function
        try:
            return eval(annotation, inspect.unwrap(plain).__globals__)
        except NameError:
            return Any
    return annotation


class Nothing:
    """No function of the book wants one."""


SOME: dict[type, Any] = {
    torch.Tensor: torch.zeros(2, 2),
    torch.dtype: torch.float32,
    torch.device: torch.device("cpu"),
    torch.Generator: torch.Generator(),
    np.ndarray: np.zeros(2),
    Path: Path("somewhere"),
}


def options(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def good(annotation: Any) -> Any:
    """Some value of the right kind; bodies never see it."""
    annotation = options(annotation)[0]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float, str, bool):
        return annotation(1)
    if origin is typing.Literal:
        return inner[0]
    if origin is tuple and inner[-1] is not ...:
        return tuple(good(part) for part in inner)
    if origin is collections.abc.Callable:
        return lambda *_: None
    if is_protocol(annotation):
        return type("Double", (), dict.fromkeys([*annotation.__annotations__, "__call__"]))()
    kind = origin or annotation
    if not isinstance(kind, type):
        return Nothing()
    if issubclass(kind, collections.abc.Mapping):
        return {}
    if issubclass(kind, collections.abc.Iterable) and inspect.isabstract(kind):
        return []
    if kind in SOME:
        return SOME[kind]
    return tuple.__new__(kind) if issubclass(kind, tuple) else object.__new__(kind)


def bad(annotation: Any) -> list[Any]:
    """Values that no parameter with this annotation means."""
    parts = options(annotation)
    values: list[Any] = [Nothing()]
    if not {None, type(None)} & set(parts):
        values.append(None)
    if int in parts:
        values += [-1] if float not in parts else []
    if {int, float} & set(parts):
        values += [math.nan, np.float64("nan"), "1" if str not in parts else Nothing()]
        values += [] if bool in parts else [True, np.True_]
        values += [] if float in parts else [1.5, 2.0, np.float32(2.0)]
        values += [] if {float, torch.Tensor} & set(parts) else [torch.tensor(2.0)]
    for part in parts:
        origin = typing.get_origin(part)
        if part is bool:
            values += [2, "yes", np.zeros(2, dtype=bool)]
        elif part is torch.Tensor:
            values += ["text"]
            values += [[1.0], np.ones(2)] if len(parts) == 1 else []
        elif origin is typing.Literal:
            values += ["nonsense", 0.5]
        elif origin in (collections.abc.Sequence, collections.abc.Iterable, list, tuple):
            values += ["text"] if str not in parts else []
            values += [3] if not {int, float} & set(parts) else []
            inner = typing.get_args(part)[0]
            if origin is not collections.abc.Iterable and inner is not Any:
                values += [[Nothing()]]
    return values


@pytest.mark.parametrize("module", modules())
def test_arguments_of_another_kind_are_refused_by_name(module: str) -> None:
    for title, function, is_method in public(module):
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[is_method:]
        meanings = {one.name: meaning(function, one.annotation) for one in parameters}
        for parameter in parameters:
            if meanings[parameter.name] is Any or parameter.kind is parameter.VAR_KEYWORD:
                continue
            if isinstance(meanings[parameter.name], typing.TypeVar):
                continue
            for value in bad(meanings[parameter.name]):
                passed = {
                    one.name: value if one is parameter else good(meanings[one.name])
                    for one in parameters
                    if one.kind is not one.VAR_KEYWORD
                }
                for one in parameters:
                    if one.kind is one.VAR_POSITIONAL:
                        passed[one.name] = (passed[one.name],)
                if is_method:  # refused before `self` is looked at
                    passed = {next(iter(signature.parameters)): None, **passed}
                call = inspect.BoundArguments(signature, OrderedDict(passed))
                with pytest.raises((TypeError, ValueError)) as refusal:
                    function(*call.args, **call.kwargs)
                message = str(refusal.value)
                assert re.search(rf": {parameter.name}\b.* must ", message), (title, message)

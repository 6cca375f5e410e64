"""Is an argument what a function means by it? If not, say which argument, and what to pass.

A module that ends in ``check_public(__name__)`` lets its public functions and classes refuse,
before their bodies run, what their annotations do not say: no ``True`` for a number, no ``3.0`` for
a count, no string for a tensor, no NaN. Whole numbers of every type (Python, NumPy, a tensor
without dimensions) become `int`, and are not negative. What annotations cannot say (shapes, ranges)
a function checks itself, with `whole_number`, `shape_of` and the others where they fit.

Checks look at types and shapes only and never read a tensor, so a training step may call them.
This module decides no number and loads neither torch nor numpy.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal, TypeVar, Union

from promptlib.kinds import (
    Check,
    WrongKind,
    dtype_of,
    one_of,
    real_number,
    same_kind,
    shape_of,
    whole_number,
    with_article,
    wrong_kind,
)

__all__ = [
    "WrongKind",
    "check_public",
    "checked",
    "one_of",
    "real_number",
    "same_kind",
    "shape_of",
    "whole_number",
]


def check_public(module: str) -> None:
    """Apply `checked` to what a module exports; the last line of the module.

    That is what ``__all__`` names, or else the functions and classes that it defines without a
    leading underscore. Exceptions and named tuples, which hold results, are left alone.
    """
    names = vars(sys.modules[module])
    for name in names.get("__all__", [name for name in names if not name.startswith("_")]):
        part = names[name]
        if getattr(part, "__module__", None) == module and _takes_arguments(part):
            names[name] = checked(part)


def _takes_arguments(part: Any) -> bool:
    if isinstance(part, type):
        return not issubclass(part, tuple | BaseException) and not _is_protocol(part)
    return inspect.isfunction(part)


F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Let a function refuse arguments that are not what their annotations say.

    Of a class, the constructor and the public methods.

    Examples
    --------
    >>> @checked
    ... def draw(n: int, share: float = 0.5) -> str:
    ...     return f"{share:.0%} of {n}"
    >>> draw(3)
    '50% of 3'
    >>> try:
    ...     draw(True)
    ... except TypeError as error:
    ...     print(error)
    draw: n must be a whole number, got True (bool)
    """
    if not isinstance(function, type):
        return _checked_function(function, method=False)
    for name, part in list(vars(function).items()):
        if name == "__init__" or (inspect.isfunction(part) and not name.startswith("_")):
            setattr(function, name, _checked_function(part, method=True))
        elif isinstance(part, classmethod) and not name.startswith("_"):
            inner = _checked_function(part.__func__, method=True)
            setattr(function, name, classmethod(inner))
    return function


def _checked_function(function: Any, method: bool) -> Any:
    kinds = inspect.Parameter
    title = function.__qualname__.removesuffix(".__init__")
    positional: list[tuple[str, Check]] = []
    by_name: dict[str, Check] = {}
    many: tuple[str, Check] | None = None
    read = False

    def read_annotations() -> None:
        """On the first call: only then are all names of the annotations defined."""
        nonlocal many, read
        parameters = list(inspect.signature(function).parameters.values())
        for parameter in parameters:
            label = f"{title}: {parameter.name}"
            check = _check_of(_annotation(parameter, function))
            if parameter.kind is kinds.VAR_POSITIONAL:
                many = (label, check)
            elif parameter.kind is not kinds.VAR_KEYWORD:
                by_name[parameter.name] = check
                if parameter.kind is not kinds.KEYWORD_ONLY:
                    positional.append((label, check))
        if method:
            positional[0] = (title, _anything)
        read = True

    @functools.wraps(function)
    def refusing(*arguments: Any, **named: Any) -> Any:
        if not read:
            read_annotations()
        passed = [
            check(label, value)
            for (label, check), value in zip(positional, arguments, strict=False)
        ]
        for value in arguments[len(passed) :]:
            passed.append(value if many is None else many[1](many[0], value))
        for name in named:
            check = by_name.get(name)
            if check is not None:
                named[name] = check(f"{title}: {name}", named[name])
        return function(*passed, **named)

    return refusing


def _annotation(parameter: inspect.Parameter, function: Any) -> Any:
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            return eval(annotation, inspect.unwrap(function).__globals__)
        except NameError:  # imported for type checkers only
            return Any
    return annotation


def _anything(_: str, value: Any) -> Any:
    return value


def _check_of(annotation: Any) -> Check:
    """The check that an annotation stands for; `_anything` if it stands for none."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:  # a class, from Python 3.11 on
        return _anything
    if annotation is int:
        return whole_number
    if annotation is float:
        return real_number
    if annotation is bool:
        return _truth
    if origin is Literal:
        return functools.partial(_literal, allowed=inner)
    if origin is Union or origin is types.UnionType:
        plain = tuple(
            part
            for part in inner
            if type(part) is type and part not in (int, float) and not _is_tensor(part)
        )
        numbers_too = bool({int, float} & set(inner))
        options = [
            functools.partial(_tensor, kind=part, of_numbers=numbers_too)
            if _is_tensor(part)
            else _check_of(part)
            for part in sorted(inner, key=_is_tensor, reverse=True)
        ]
        wanted = _named(annotation)
        return functools.partial(_any_of, plain=plain, options=options, wanted=wanted)
    if annotation in (collections.abc.Callable, typing.Callable) or origin is (
        collections.abc.Callable
    ):
        return functools.partial(_such_that, holds=callable, wanted="a function")
    kind = origin if isinstance(origin, type) else annotation
    if annotation is None:
        kind = type(None)
    if not isinstance(kind, type) or kind is object or annotation is inspect.Parameter.empty:
        return _anything
    if issubclass(kind, collections.abc.Iterable) and not issubclass(kind, str | bytes):
        check = _collection_check(kind, inner)
        if check is not None:
            return check
    if _is_tensor(kind):
        return functools.partial(_tensor, kind=kind)
    if _is_protocol(kind):
        members = [*vars(kind).get("__annotations__", {}), *kind.__dict__.keys() & {"__call__"}]
        fits = functools.partial(_has_all, members=members)
        return functools.partial(_such_that, holds=fits, wanted=_named(annotation))
    return functools.partial(_instance, kind=kind)


def _collection_check(kind: type, inner: tuple[Any, ...]) -> Check | None:
    abc = collections.abc
    if issubclass(kind, abc.Mapping):
        return functools.partial(_instance, kind=abc.Mapping)
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        parts = [_check_of(part) for part in inner]
        return functools.partial(_sequence, each=parts)
    if kind in (list, tuple, abc.Sequence):
        each = _check_of(inner[0]) if inner else _anything
        return functools.partial(_sequence, each=each)
    if kind in (abc.Iterable, abc.Iterator, abc.Collection, abc.Generator):
        return functools.partial(
            _such_that, holds=_is_iterable, wanted="a collection, such as a list"
        )
    return None  # a class of its own that can be iterated over


def _truth(name: str, value: Any) -> bool:
    if value is True or value is False:
        return value
    if type(value).__module__ == "numpy" and "bool" in dtype_of(value) and not value.ndim:
        return bool(value)
    raise wrong_kind(name, value, "True or False")


def _instance(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, kind):
        return value
    raise wrong_kind(name, value, with_article(kind.__name__))


def _tensor(name: str, value: Any, kind: type, of_numbers: bool = False) -> Any:
    """A tensor, not complex; in the place of a number not empty and not of truth values."""
    if not isinstance(value, kind):
        raise wrong_kind(name, value, "a Tensor")
    dtype, shape = dtype_of(value), getattr(value, "shape", ())
    if "complex" in dtype or (of_numbers and "bool" in dtype):
        raise ValueError(f"{name} must hold real numbers, got {dtype}; use .double()")
    if of_numbers and 0 in shape:
        raise ValueError(f"{name} must hold at least 1 number, got an empty tensor")
    return value


def _is_tensor(kind: Any) -> bool:
    return getattr(kind, "__name__", "") == "Tensor" and kind.__module__.startswith("torch")


def _such_that(name: str, value: Any, holds: Callable[[Any], bool], wanted: str) -> Any:
    if holds(value):
        return value
    raise wrong_kind(name, value, wanted)


def _literal(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if type(value) not in {type(one) for one in allowed}:
        raise wrong_kind(name, value, f"one of {', '.join(map(repr, allowed))}")
    return one_of(name, value, allowed)


def _any_of(
    name: str, value: Any, plain: tuple[type, ...], options: list[Check], wanted: str
) -> Any:
    if isinstance(value, plain) and type(value) is not bool:
        return value
    for option in options:
        try:
            return option(name, value)
        except WrongKind:
            continue
    raise wrong_kind(name, value, wanted)


def _sequence(name: str, value: Any, each: Check | list[Check]) -> Any:
    sized = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if not sized or isinstance(value, str | bytes | collections.abc.Mapping):
        raise wrong_kind(name, value, "a sequence, such as a list")
    if each is _anything or hasattr(value, "dtype"):
        return value
    if isinstance(each, list):
        if len(value) != len(each):
            raise ValueError(f"{name} must have {len(each)} entries, got {value!r}")
        checks: Iterator[Check] = iter(each)
    else:
        checks = itertools.repeat(each)
    for place, (part, check) in enumerate(zip(value, checks, strict=False)):
        check(f"{name}[{place}]", part)
    return value


def _is_protocol(kind: Any) -> bool:
    return bool(vars(kind).get("_is_protocol", False))


def _has_all(value: Any, members: Collection[str]) -> bool:
    return all(hasattr(value, member) for member in members)


def _is_iterable(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)


def _named(annotation: Any) -> str:
    """An annotation in words, such as "a Tensor, a number or None"."""
    if annotation is int:
        return "a whole number"
    if annotation is float:
        return "a number"
    if annotation is None or annotation is type(None):
        return "None"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(map(repr, inner))
    if origin is Union or origin is types.UnionType:
        *first, last = [_named(part) for part in inner]
        return f"{', '.join(first)} or {last}"
    if origin is collections.abc.Callable:
        return "a function"
    return with_article(getattr(origin or annotation, "__name__", str(annotation)))

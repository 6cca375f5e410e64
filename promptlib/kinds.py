"""Of what kind is an argument, and what should it have been?

The checks that a function calls itself, for what annotations cannot say; see `promptlib.checks`.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Collection
from typing import Any

Check = Callable[[str, Any], Any]
"""``check(name, value)`` returns the value to go on with, or raises with the name in its message:
a `WrongKind` if the value is of another kind, a ValueError if it is out of range."""


class WrongKind(TypeError, ValueError):
    """An argument is of another kind; a ValueError, too, as functions say of all bad arguments."""


def whole_number(name: str, value: Any, *, at_least: int = 0, at_most: int | None = None) -> int:
    """Return `value` as an int; WrongKind unless whole, ValueError outside the range."""
    wanted = f"a whole number of at least {at_least}"
    if at_most is not None:
        wanted = f"a whole number from {at_least} to {at_most}"
    number = value
    if type(value) is not int:
        kind = wanted if at_least else "a whole number"
        if isinstance(value, bool) or "bool" in dtype_of(value) or has_dimensions(value):
            raise wrong_kind(name, value, kind)
        try:
            number = operator.index(value)
        except TypeError:
            raise wrong_kind(name, value, kind) from None
    if number < at_least or (at_most is not None and number > at_most):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


def real_number(name: str, value: Any, *, above: float | None = None) -> Any:
    """Return `value`; WrongKind unless one number, ValueError if NaN or not above the bound."""
    wanted = "a number" if above is None else f"a number above {above}"
    if type(value) is not float:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number and not is_scalar_tensor(value):
            raise wrong_kind(name, value, wanted)
        if hasattr(value, "item") and not hasattr(value, "requires_grad"):
            value = value.item()  # of NumPy
    if math.isnan(value) or (above is not None and not value > above):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return value


def one_of(name: str, value: Any, allowed: Collection[Any]) -> Any:
    """Return `value`; ValueError unless it is one of `allowed`."""
    try:
        known = value in allowed
    except (TypeError, ValueError, RuntimeError):  # unhashable, or a tensor of many numbers
        known = False
    if not known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
    return value


def shape_of(name: str, tensor: Any, *sizes: Any, integer: bool | None = None) -> None:
    """Raise a ValueError unless a tensor has these sizes.

    Parameters
    ----------
    name : str
    tensor : Tensor
    sizes : int, str or Ellipsis
        One for each dimension: the number it has to be, or a letter for any number of at least 1.
        An Ellipsis before the others stands for any leading dimensions.
    integer : bool, optional
        Whether its entries have to be int64, or have to be floating.
    """
    shape = tuple(tensor.shape)
    leading = len(shape) - len(sizes) + 1 if sizes[0] is ... else 0
    last = sizes[1:] if sizes[0] is ... else sizes
    fits = leading >= 0 and len(shape) - leading == len(last)
    fits = fits and all(
        size >= 1 if isinstance(wanted, str) else size == wanted
        for size, wanted in zip(shape[leading:], last, strict=True)
    )
    if not fits:
        named = ", ".join("..." if size is ... else str(size) for size in sizes)
        comma = "," if len(sizes) == 1 else ""
        raise ValueError(f"{name} must have shape ({named}{comma}), got {shape}")
    if integer is not None:
        of_kind = str(tensor.dtype) == "torch.int64" if integer else tensor.is_floating_point()
        if not of_kind:
            wanted = "int64; use .long()" if integer else "floating; use .double() or .float()"
            raise ValueError(f"{name} must be {wanted}; got {tensor.dtype}")


def same_kind(name: str, tensor: Any, other_name: str, other: Any) -> None:
    """Raise a ValueError unless two tensors have one dtype and lie on one device."""
    for what in ("dtype", "device"):
        found, wanted = getattr(tensor, what), getattr(other, what)
        if found != wanted:
            raise ValueError(
                f"{name} has {what} {found}, but {other_name} has {wanted}; "
                f"convert one of them, such as with .to({what}={str(wanted)!r})"
                if what == "device"
                else f"{name} has dtype {found}, but {other_name} has {wanted}; "
                f"convert one of them, such as with .to({wanted})"
            )


def is_scalar_tensor(value: Any) -> bool:
    """True for a floating tensor without dimensions; torch need not be loaded to ask."""
    return hasattr(value, "requires_grad") and value.ndim == 0 and "float" in dtype_of(value)


def has_dimensions(value: Any) -> bool:
    """True for an array or tensor of one dimension or more."""
    return bool(getattr(value, "ndim", 0))


def dtype_of(value: Any) -> str:
    """The dtype's name; empty if there is none."""
    return str(getattr(value, "dtype", ""))


def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'AEIOaeio' else 'a'} {noun}"


def wrong_kind(name: str, value: Any, wanted: str) -> WrongKind:
    """The refusal of an argument: its name, what it has to be, and what was given."""
    shape = getattr(value, "shape", None)
    shown = repr(value) if shape is None else f"shape {tuple(shape)}"
    if len(shown) > 60 or "\n" in shown:
        shown = "an object"
    return WrongKind(f"{name} must be {wanted}, got {shown} ({type(value).__name__})")

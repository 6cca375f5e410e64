"""Which symbols and maps may be asked for?

Symbols are numbered from 0 to ``V - 1``. Whatever else is passed in is refused with a message that
says which entry it was. Maps come as a tensor or nested lists, as a dictionary, or as a function.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from promptlib.checks import check_public

__all__ = [
    "as_symbols",
    "as_table",
]


SymbolMap = Tensor | Sequence[Any] | Mapping[Any, Any] | Callable[..., Any]


def as_symbols(symbols: Tensor | Sequence[Any] | int, vocab_size: int, what: str) -> Tensor:
    """Check that every entry is a symbol.

    Parameters
    ----------
    symbols : Tensor, sequence or int
        Whole numbers, any shape.
    vocab_size : int
        ``V``.
    what : str
        What they are, for the message.

    Returns
    -------
    Tensor of int64

    Raises
    ------
    ValueError
        If there are none, they are not whole numbers, or one is outside 0..V-1.
    """
    try:
        found = torch.as_tensor(symbols)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the {what} must be whole numbers, got {symbols!r}") from error
    if found.numel() == 0:
        raise ValueError(f"the {what} is empty; give at least one symbol")
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise ValueError(
            f"the {what} must be whole numbers, got {found.dtype}; symbols are numbered from 0 "
            f"to {vocab_size - 1}"
        )
    found = found.long()  # before comparing: a size beyond the range of int8 would wrap around
    wrong = (found < 0) | (found >= vocab_size)
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        at = f" at index {place[0] if len(place) == 1 else place}" if place else ""
        raise ValueError(
            f"symbol {int(found[wrong][0])}{at} of the {what} is outside the vocabulary "
            f"0..{vocab_size - 1}"
        )
    return found


def as_table(mapping: SymbolMap, vocab_size: int, inputs: int, responses: int) -> Tensor:
    """A map from prompts to responses as a table.

    Parameters
    ----------
    mapping : Tensor, nested sequence, mapping or callable
        Values for every prompt: a tensor of shape (..., V[, V][, N]), where the last dimension is
        left out for one response; a dictionary whose keys are symbols, or pairs of symbols for two
        inputs; or a function of `inputs` symbols. Values are symbols, or sequences of `responses`.
    vocab_size, inputs, responses : int
        ``V``, 1 or 2, and ``N``.

    Returns
    -------
    Tensor of int64, shape (..., V[, V], N)

    Raises
    ------
    ValueError
        If a prompt is missing, there is one too many, or a value is not a symbol.
    """
    prompts = list(itertools.product(range(vocab_size), repeat=inputs))
    if isinstance(mapping, Mapping):
        given = {_prompt(key): value for key, value in mapping.items()}
        _check_keys(given, prompts)
        entries: Any = [_response(given[prompt], prompt, responses) for prompt in prompts]
    elif callable(mapping):
        entries = [_response(_called(mapping, prompt), prompt, responses) for prompt in prompts]
    else:
        return _checked_table(mapping, vocab_size, inputs, responses)
    table = as_symbols(entries, vocab_size, "map")
    return table.reshape(*[vocab_size] * inputs, responses)


def _prompt(key: Any) -> Any:
    """Keys of a dictionary as tuples of symbols; others stay, to be named as extra."""
    if isinstance(key, Tensor):  # two tensors are never one key, whatever they hold
        key = key.tolist()
    if isinstance(key, Sequence) and not isinstance(key, str):
        return tuple(key)
    return (key,)


def _called(mapping: Callable[..., Any], prompt: tuple[int, ...]) -> Any:
    """What a function says to a prompt, if it takes that many symbols."""
    try:
        inspect.signature(mapping).bind(*prompt)
    except TypeError as error:
        raise ValueError(
            f"the map, a function, cannot be called with the prompt {prompt}: {error}; it needs "
            f"{len(prompt)} argument{'s' if len(prompt) > 1 else ''}"
        ) from error
    except ValueError:
        pass  # a builtin that does not tell what it takes
    return mapping(*prompt)


def _check_keys(given: dict[Any, Any], prompts: list[tuple[int, ...]]) -> None:
    missing = [prompt for prompt in prompts if prompt not in given]
    extra = [key for key in given if key not in set(prompts)]
    for problem, keys in (("has no value for", missing), ("has the key", extra)):
        if keys:
            first = keys[0][0] if len(keys[0]) == 1 else keys[0]
            others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(
                f"the map {problem} {first!r}{others}; it needs exactly one value for each of "
                f"the {len(prompts)} prompts {prompts[0]} to {prompts[-1]}"
            )


def _response(value: Any, prompt: tuple[int, ...], responses: int) -> list[Any]:
    if hasattr(value, "tolist"):  # tensors, and arrays
        value = value.tolist()
    listed = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(listed) != responses:
        raise ValueError(
            f"the map has {len(listed)} symbols for the prompt {prompt}; it needs {responses}"
        )
    return listed


def _checked_table(mapping: Any, vocab_size: int, inputs: int, responses: int) -> Tensor:
    expected = [vocab_size] * inputs + ([responses] if responses > 1 else [])
    try:
        table = torch.as_tensor(mapping)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the map must be a table of whole numbers without holes, a dictionary or a function; "
            f"got {_short(mapping)} ({error})"
        ) from error
    if list(table.shape[table.dim() - len(expected) :]) != expected or table.dim() < len(expected):
        raise ValueError(
            f"the map needs the shape (..., {', '.join(map(str, expected))}), one value for each "
            f"prompt; got {tuple(table.shape)}"
        )
    table = as_symbols(table, vocab_size, "map")
    return table if responses > 1 else table.unsqueeze(-1)


def _short(value: Any) -> str:
    """What was given, in not more than a line."""
    whole = repr(value)
    return whole if len(whole) <= 60 else whole[:57] + "..."


check_public(__name__)

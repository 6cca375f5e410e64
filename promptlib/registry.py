"""Things that runs look up by a name in their config, so that each run depends on its own only.

A training function that asks an ordinary dict for a task reaches every task in it, and a further
task would rename every run. Of a :class:`Registry` a run's key covers only the entries whose names
are in the run's config, or are written in the code that it reaches; all entries if there is none of
either. While a run is trained, a lookup of any other entry is an error, so that no result can
depend on what its key leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")

_covered: ContextVar[frozenset[str] | None] = ContextVar("covered", default=None)


class Registry(Generic[T]):
    """Entries by name, looked up one at a time.

    It stands at the top of a module, written out, so that the entries can be told apart without
    running it: ``_BY_NAME = Registry("task", {"reverse": REVERSE, "rotate": ROTATE})``. In a
    training run no other works.

    Parameters
    ----------
    kind
        What the entries are, for messages.
    entries
        By name.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]) -> None:
        self._kind, self._entries = kind, dict(entries)

    __iter__ = None  # would look at every entry

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises
        ------
        ValueError
            If there is none.
        RuntimeError
            If a run that is being trained has a key that does not cover the entry.
        """
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise ValueError(f"no {self._kind} is called {name!r}; there are {known}")
        covered = _covered.get()
        if covered is not None and name not in covered:
            raise RuntimeError(
                f"the run's key does not cover the {self._kind} {name!r}; write this name, in one "
                "piece, into the run's config, and the registry at the top of its module"
            )
        return self._entries[name]


@contextmanager
def covering(names: frozenset[str]) -> Iterator[None]:
    """While a run is trained: refuse the entries that its key does not cover.

    Parameters
    ----------
    names
        The entries that it covers: those of `promptlib.digests.Reached`.
    """
    token = _covered.set(names)
    try:
        yield
    finally:
        _covered.reset(token)

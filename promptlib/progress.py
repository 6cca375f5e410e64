"""How long work shows that it is alive: one progress bar, the same in terminal and notebook.

The environment variable ``TQDM_DISABLE=1`` silences every bar (tqdm itself reads it in a terminal
only, so it is handed over here); the workflow sets it, so that an executed notebook holds results
and no traces of how fast they came.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def progress_bar(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` while a bar with ``label`` shows how far it has come.

    Parameters
    ----------
    items
        What to go through; its length is used when it has one.
    label
        What is being done, such as ``"pretraining, seed 0"``.
    total
        Number of items, for iterables that do not know their length.

    Yields
    ------
    The items, unchanged and in order.
    """
    silent = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    yield from tqdm(items, desc=label, total=total, leave=False, dynamic_ncols=True, disable=silent)

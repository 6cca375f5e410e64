"""Which training runs share a process, and which process goes first?

To start a job costs up to a second, or several where it imports torch itself; a short run costs
little more. So runs of one notebook that do not wait for each other are trained one after the other
in one process. What leads to the most work still to come goes first, so that no processor is idle
while the last jobs run.

Only runs that are not in the store are put into batches. What is stored stays out of the workflow's
rules, so neither a failed batch nor another division ever touches it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise

from promptlib.runs import Run

BATCH_SECONDS = 12.0
"""So much work a batch holds at most, unless it is one run."""


def batches(
    plans: Iterable[Sequence[Run]],
    missing: Container[str],
    limit: int,
    cores: int,
    seconds: Mapping[str, float],
) -> list[list[str]]:
    """Names of the missing runs, divided into batches that can each be trained in one process.

    Parameters
    ----------
    plans
        The runs of each notebook, each after the runs it needs. A run that several notebooks want
        belongs to the first.
    missing
        Names of the runs to train.
    limit
        Most runs of a batch, >= 1.
    cores
        Processes at a time, >= 1.
    seconds
        Expected, of the missing runs by name.

    Returns
    -------
    list of list of str
        Plan by plan, in each the runs that wait for nothing first. No run needs another of its
        batch, and batches never wait for each other in a circle: each waits for lower levels only.
    """
    levels: dict[str, int] = {}
    found = []
    for runs in plans:
        groups: dict[int, list[str]] = {}
        for run in runs:
            if run.name in missing and run.name not in levels:
                level = 1 + max((levels.get(needed.name, -1) for needed in run.needs), default=-1)
                levels[run.name] = level
                groups.setdefault(level, []).append(run.name)
        for level in sorted(groups):
            names = groups[level]
            work = sum(seconds[name] for name in names)
            few = min(len(names), max(cores, math.ceil(work / BATCH_SECONDS)))
            found += divided(names, limit, few)
    return found


def priorities(
    batches: Sequence[Sequence[str]],
    plans: Iterable[Sequence[Run]],
    seconds: Mapping[str, float],
    notebooks: Sequence[float],
) -> list[float]:
    """Seconds from the start of each batch to the end of the longest chain that waits for it.

    Parameters
    ----------
    batches
        As `batches` returns them.
    plans
        The runs of each notebook.
    seconds
        Expected, of the missing runs by name.
    notebooks
        Expected seconds of each notebook, in the order of ``plans``.
    """
    batch_of = {name: number for number, batch in enumerate(batches) for name in batch}
    after = [0.0] * len(batches)
    waiting: list[set[int]] = [set() for _ in batches]
    for runs, notebook in zip(plans, notebooks, strict=True):
        for run in runs:
            own = batch_of.get(run.name)
            if own is not None:
                after[own] = max(after[own], notebook)
            for needed in run.needs:
                if own is not None and needed.name in batch_of:
                    waiting[batch_of[needed.name]].add(own)

    @cache
    def chain(number: int) -> float:
        longest = max([after[number], *map(chain, waiting[number])])
        return longest + sum(seconds[name] for name in batches[number])

    return [chain(number) for number in range(len(batches))]


def divided(names: Sequence[str], limit: int, least: int) -> list[list[str]]:
    """One name or more in order, in parts of nearly equal size: none above the limit, and at least
    so many parts, if the names go so far.
    """
    parts = max(-(-len(names) // limit), min(least, len(names)))
    ends = [len(names) * part // parts for part in range(parts + 1)]
    return [list(names[start:end]) for start, end in pairwise(ends)]

"""Which training runs share a process?

Starting a process costs seconds, most of them to import torch; a short run costs little more. So
runs of one notebook that do not wait for each other are trained one after the other in one process.

Only runs that are not in the store are put into batches. What is stored stays out of the workflow's
rules, so neither a failed batch nor another division ever touches it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import pairwise

from promptlib.runs import Run


def batches(
    plans: Iterable[Sequence[Run]], missing: Container[str], limit: int, cores: int
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
            found += divided(groups[level], limit, cores)
    return found


def divided(names: Sequence[str], limit: int, cores: int) -> list[list[str]]:
    """One name or more in order, in parts of nearly equal size: none above the limit, and as many
    as there are cores, if the names go so far.
    """
    parts = max(-(-len(names) // limit), min(cores, len(names)))
    ends = [len(names) * part // parts for part in range(parts + 1)]
    return [list(names[start:end]) for start, end in pairwise(ends)]

"""What will a long build cost? It says so before it starts to train: by chapter, and in all."""

from __future__ import annotations

from collections.abc import Mapping

from promptlib.runs import Run
from workflow.archived import ARCHIVE_PROFILE
from workflow.profile_config import Profile
from workflow.progress import Progress
from workflow.workload import calibrated, seconds_of, works

LONG_SECONDS = 2 * 3600.0
"""A build of small models says what it will cost only if it takes longer than this."""
SITE_BYTES = 0.3e9
"""Of ``_build`` at its peak: executed notebooks, the staged book, the new site and the old one."""
RUN_BYTES = 40e3
"""Of a stored run, without what it learned."""


def announce(profile: Profile, progress: Progress, cores: int) -> None:
    """Print what a long build will cost; its progress then goes by the same numbers.

    Nothing is printed where nothing is to be trained, nor for small models that take up to
    `LONG_SECONDS` by the record.
    """
    missing = {name: run for name, run in profile.runs.items() if name in progress.expected}
    recorded = sum(progress.expected[name] for name in missing) / cores
    if not missing or (profile.base != ARCHIVE_PROFILE and recorded < LONG_SECONDS):
        return
    sizes = {work.size for run in missing.values() for work in works(run)}
    if sizes:
        print("Timing a few training steps …", flush=True)
    speeds = calibrated(sizes)
    if speeds is None:
        print("The cost of this build is unknown: no training step could be timed.", flush=True)
        return
    for name, run in missing.items():
        if works(run):
            progress.expected[name] = seconds_of(run, speeds)
    print(message(profile, {name: progress.expected[name] for name in missing}, cores), flush=True)


def message(profile: Profile, seconds: Mapping[str, float], cores: int) -> str:
    """What the missing runs cost, by chapter, and how to take a part.

    Parameters
    ----------
    profile
        Whose runs they are; one that several chapters want belongs to the first.
    seconds
        Of each missing run, by name.
    cores
        Processes at a time.
    """
    chapters: dict[str, list[Run]] = {}
    seen: set[str] = set()
    for plan in profile.notebooks:
        own = [run for run in plan.runs if run.name in seconds and run.name not in seen]
        seen.update(run.name for run in own)
        if own:
            chapters[plan.source.name] = own
    spent = {name: sum(seconds[run.name] for run in runs) for name, runs in chapters.items()}
    total = sum(seconds.values())
    together = max(total / cores, longest_wait(profile, seconds))
    disk = SITE_BYTES + sum(bytes_of(profile.runs[name]) for name in seconds)
    width = max(len(name) for name in (*chapters, "chapter"))
    lines = [
        f"This build trains {_counted(len(seconds), 'model')}: about {_hours(total)} core-hours on "
        "this machine, by the time of",
        f"a few training steps; about {_hours(together)} h on {_counted(cores, 'core')}, and "
        f"{disk / 1e9:.1f} GB of disk at its peak. Notebooks that compute",
        "without training come on top.",
        f"  {'chapter':{width}}   runs  core-hours",
    ]
    for name, runs in chapters.items():
        least = "" if all(works(run) for run in runs) else ", at least"
        lines.append(f"  {name:{width}}  {len(runs):5}  {_hours(spent[name]):>10}{least}")
    lines.append(f"  {'all':{width}}  {len(seconds):5}  {_hours(total):>10}")
    lines.append("Ctrl-C stops it; the next call goes on with what is missing. A part of it alone:")
    longest = max(chapters, key=lambda name: spent[name])
    fewer = ' SET="seeds=1"' if "seeds" in profile.notebook(longest).parameters else ""
    if profile.base != ARCHIVE_PROFILE:
        return "\n".join([*lines, f"  make notebook NOTEBOOK={longest}{fewer}"])
    lines += [
        f"  make archive NOTEBOOK={longest}{fewer}",
        "  make archive DEVICE=gpu MINUTES=10    the chapters with long runs, on a GPU",
    ]
    return "\n".join(lines)


def longest_wait(profile: Profile, seconds: Mapping[str, float]) -> float:
    """Seconds of the longest chain of missing runs that each need the one before."""
    ready: dict[str, float] = {}
    for name, run in profile.runs.items():  # each after those it needs
        needed = max((ready[one.name] for one in run.needs), default=0.0)
        ready[name] = needed + seconds.get(name, 0.0)
    return max(ready.values(), default=0.0)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else "< 0.1"


def bytes_of(run: Run) -> float:
    """Of a run in the store: weights where it learns them, else what is put into a frozen model."""
    config = run.config
    if "model" not in config:
        return RUN_BYTES
    model = config["model"]
    width, layers, cells = model["n_embd"], model["n_layer"], len(config.get("cells", []))
    weights = 12 * layers * width**2 + width * (2 * model["vocab_size"] + model["block_size"])
    vectors = 2 * cells * layers * width * max(config.get("length", 0), 6 * config.get("rank", 0))
    return RUN_BYTES + 4 * (vectors if cells or "batch_size" not in config else weights)

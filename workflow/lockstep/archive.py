"""Train what the archive lacks on a GPU, many runs at once, and keep it.

``python -m workflow.lockstep.archive --minutes 10`` writes the plan of the four chapters with long
runs, trains it within these minutes on the GPU of this machine, and merges what was measured into
``archive/``. The three parts can be done apart, for a GPU on a machine that has torch only:

    python -m workflow.lockstep.archive --plan FILE          here
    python -m workflow.lockstep.session …     there, with a copy of the sources
    python -m workflow.lockstep.archive --merge FOLDER       here, with what came back

A chapter is kept when all of its runs are there; the others are named, with what they lack.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptlib.runs import Run
from workflow.archive import committed, laid_out
from workflow.archived import ARCHIVE, ARCHIVE_PROFILE, by_identity, identity
from workflow.command import BuildError, Parser, command
from workflow.lockstep.store import (
    ENDING,
    Planned,
    read_shard,
    write_plan,
)
from workflow.profile_config import NotebookPlan, Profile, load_profile
from workflow.sources import ROOT, write_if_changed

WING = "prefix_tuning"
CHAPTERS = ("new_task", "eliciting", "combining", "prefix_or_lora")
"""Whose runs are kept; see also `worths`."""

SESSION = "workflow.lockstep.session"


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.lockstep.archive", description=__doc__)
    parser.add_argument("--profile", default=ARCHIVE_PROFILE)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plan", type=Path, metavar="FILE")
    parser.add_argument("--merge", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "lockstep")
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile)
    if sum(one is not None for one in (options.plan, options.merge, options.minutes)) != 1:
        parser.error("give one of --minutes, --plan FILE and --merge FOLDER")
    if options.plan is not None:
        return _plan(profile, options.plan)
    if options.merge is not None:
        return _merge(profile, options.merge)
    plan = options.out / "plan.json"
    _plan(profile, plan)
    done = subprocess.run(
        [
            *(sys.executable, "-m", SESSION, "--plan", str(plan), "--out", str(options.out)),
            *("--minutes", str(options.minutes), "--device", options.device),
        ],
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"the training ended with status {done.returncode}; it says why above")
    return _merge(profile, options.out)


def _plan(profile: Profile, path: Path) -> int:
    about = {"profile": profile.name, "commit": committed()}
    count = write_plan(path, worths(profile), about)
    print(f"{count} runs: {path}")
    return 0


def worths(profile: Profile) -> Iterator[Planned]:
    """The runs of the four chapters; which are worth most when time is short?

    What was published comes first; then what the text adds to it, and the controls.
    """
    plans = {name: profile.notebook(f"{WING}/{name}") for name in CHAPTERS}
    combining = plans["combining"].planned
    for run in combining.where(method="published prefix"):
        yield Planned(run, "combining", 0)
    for run in plans["prefix_or_lora"].planned:
        yield Planned(run, "prefix_or_lora", 1)
    for run in plans["eliciting"].planned:
        yield Planned(run, "eliciting", 2)
    for run in plans["new_task"].planned:
        yield Planned(run, "new_task", 3)
    for run in combining:
        yield Planned(run, "combining", 4)


def _merge(profile: Profile, folder: Path) -> int:
    commit = _commit_of(folder)
    entries = [entry for path in sorted(folder.glob(f"*{ENDING}")) for entry in read_shard(path)]
    if not entries:
        raise BuildError(f"{folder} holds no measured runs (*{ENDING})")
    for name in CHAPTERS:
        plan = profile.notebook(f"{WING}/{name}")
        content, lacking = merged(plan, profile, entries, commit)
        if lacking:
            print(f"{plan.source.name} is not archived; it lacks {_counted(lacking)}")
            continue
        target = ARCHIVE / f"{plan.source.name}.json"
        write_if_changed(target, f"{laid_out(content)}\n".encode())
        print(f"archived {len(content['runs'])} runs: {target.relative_to(ROOT)}")
    return 0


def _commit_of(folder: Path) -> str:
    """The commit whose plan was trained."""
    report = folder / "report.json"
    if not report.is_file():
        raise BuildError(f"{report} is missing, so nothing tells which sources gave these runs")
    return json.loads(report.read_bytes())["about"]["commit"]


def merged(
    plan: NotebookPlan,
    profile: Profile,
    entries: Sequence[Mapping[str, Any]],
    commit: str,
) -> tuple[dict[str, Any], list[Run]]:
    """The archive of a chapter from the entries of its runs, and the runs that have none.

    Parameters
    ----------
    plan
        Of the chapter, as today's profile has it.
    profile
        Its profile.
    entries
        Of any runs, in the format of the archive.
    commit
        What the sources are that the runs were trained with.
    """
    found = by_identity(entries)
    runs, lacking = [], []
    for run in plan.runs:
        entry = found.get(identity(run))
        if entry is None:
            lacking.append(run)
        else:
            runs.append(dict(entry))
    machines = [entry["machine"] for entry in runs if "batching" in entry["machine"]]
    content = {
        "provenance": {
            "profile": profile.name,
            "commit": commit,
            "machine": machines[0] if machines else None,
            "notebook": plan.source.name,
            "parameters": dict(plan.parameters),
            "changed": {},
            "seconds": round(sum(entry["seconds"] for entry in runs), 1),
            "peak_memory_mib": None,
        },
        "runs": runs,
        "measured": {},
    }
    return content, lacking


def _counted(runs: Sequence[Run]) -> str:
    counts = Counter(
        f"{run.train.partition(':')[2]} {run.config.get('task', '')}".strip() for run in runs
    )
    return ", ".join(f"{count} of {name}" for name, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())

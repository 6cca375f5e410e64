"""Do the verdicts travel? The quick profile again, from other seeds and on other processor paths.

``python -m workflow.robust`` (``make robust``) trains and executes the quick profile once for each
case: a first seed of all random numbers, and the instructions that the matrix products may use. It
prints how often each claim came out how, and keeps the table, with the machine of each case, in
``archive/robust.json`` for the page on reproducibility. The gate has to be open in every case.

The table is written after each case, and runs that are in the store are not trained again, so the
call may be stopped and repeated. ``--notebooks`` keeps to some chapters; the table is then printed
and not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import nbformat

from promptlib.runs import machine
from workflow.archive import laid_out
from workflow.archived import ARCHIVE
from workflow.collect import claim_tests, gate, notebook_records, recorded_verdicts
from workflow.command import Parser, command, cores
from workflow.driver import prepare, run_workflow
from workflow.environment import clean
from workflow.processes import started
from workflow.profile_config import load_profile
from workflow.sources import ROOT, BuildError, write_if_changed

PATHS: dict[str, dict[str, str]] = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
}
"""Processor paths: environment variables for torch, MKL and oneDNN.

"native" takes the best instructions there are, "avx2" those of most processors since 2014, and
"default" what any 64-bit x86 processor has.
"""

SEEDS = (0, 100, 200, 300, 400, 500)
"""First seeds; 0 is that of the book. Far enough apart that no case shares a seed with another."""
TABLE = ARCHIVE / "robust.json"


@dataclass(frozen=True)
class Case:
    """One repetition of the quick profile."""

    first_seed: int
    path: str

    @property
    def profile(self) -> str:
        """The variant of the quick profile; the book's own build is the first case."""
        label = "" if self.path == "native" else f"-{self.path}"
        return "quick" if self == Case(0, "native") else f"quick@{self.first_seed}{label}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the case: its path, and a run store that no other path writes to."""
        if self.path == "native":
            return {}
        return {**PATHS[self.path], "PROMPTLIB_RUNS": str(ROOT / "runs" / "paths" / self.path)}


def cases(seeds: Sequence[int], paths: Sequence[str]) -> list[Case]:
    """One case for each seed, the paths in turn; and every path at least once.

    Raises
    ------
    BuildError
        If there is no seed or path, a seed is negative, or a path unknown.
    """
    unknown = sorted(set(paths) - set(PATHS))
    if unknown or not paths:
        raise BuildError(f"PATHS must be of {', '.join(PATHS)}; got {', '.join(unknown) or 'none'}")
    if not seeds or min(seeds) < 0:
        raise BuildError(f"SEEDS must be whole numbers of at least 0, got {list(seeds)}")
    several = [seeds[place % len(seeds)] for place in range(max(len(seeds), len(paths)))]
    return list(
        dict.fromkeys(Case(seed, paths[at % len(paths)]) for at, seed in enumerate(several))
    )


def compute(case: Case, cores: int, notebooks: Sequence[str] = ()) -> dict[str, Any]:
    """Train and execute a case in this process's environment; returns what the table keeps of it.

    Parameters
    ----------
    notebooks
        Names of the chapters to repeat; all by default.

    Raises
    ------
    BuildError
        If a chapter is unknown, or a run or a notebook failed.
    """
    profile = load_profile(case.profile)
    if notebooks:
        profile = replace(profile, notebooks=tuple(map(profile.notebook, notebooks)))
    folder = ROOT / "_build" / profile.name
    executed = {
        plan.source.name: folder / "executed" / f"{plan.source.name}.ipynb"
        for plan in profile.notebooks
    }
    targets = [path.relative_to(ROOT).as_posix() for path in executed.values()]
    if not run_workflow(profile, cores, prepare(profile, cores), targets=targets):
        raise BuildError(f"the case {profile.name} failed; the messages above say why")
    tests = claim_tests(ROOT / "tests")
    records = [
        record
        for name, path in executed.items()
        for record in notebook_records(nbformat.read(path, as_version=4), name, tests)
    ]
    recorded = recorded_verdicts()
    if notebooks:
        recorded = {record["id"]: recorded[record["id"]] for record in records}
    return {
        "name": profile.name,
        "first_seed": case.first_seed,
        "path": case.path,
        "processor": machine()["processor"],
        "torch": machine()["torch"],
        "date": date.today().isoformat(),
        "problems": gate(profile.base, records, recorded),
        "verdicts": {record["id"]: record["verdict"] for record in records},
    }


def table(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``archive/robust.json`` holds: the cases, verdicts by claim, and what the gate said."""
    counts: dict[str, Counter[str]] = {}
    for case in found:
        for name, verdict in case["verdicts"].items():
            counts.setdefault(name, Counter())[verdict] += 1
    return {
        "cases": [
            {key: value for key, value in case.items() if key not in ("verdicts", "problems")}
            for case in found
        ],
        "claims": {name: dict(count.most_common()) for name, count in counts.items()},
        "gate": [f"{case['name']}: {problem}" for case in found for problem in case["problems"]],
    }


def lines(content: Mapping[str, Any]) -> list[str]:
    """The table as text: claims that did not come out the same way every time, then totals."""
    mixed = {name: counts for name, counts in content["claims"].items() if len(counts) > 1}
    width = max(map(len, mixed), default=0)
    shown = [
        f"{name:{width}}  {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}"
        for name, counts in mixed.items()
    ]
    same = Counter(next(iter(c)) for c in content["claims"].values() if len(c) == 1)
    totals = ", ".join(f"{count} {verdict}" for verdict, count in same.most_common())
    shown.append(f"the same in all {len(content['cases'])} cases: {totals or 'none'}")
    shown.append(
        "gate: " + ("; ".join(content["gate"]) if content["gate"] else "open in every case")
    )
    return shown


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.robust", description=__doc__)
    parser.add_argument("--cores", type=cores, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--paths", nargs="+", default=list(PATHS))
    parser.add_argument("--notebooks", nargs="*", default=[], metavar="WING/CHAPTER")
    parser.add_argument("--case", nargs=2, metavar=("SEED", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        case = Case(int(options.case[0]), options.case[1])
        result = compute(case, options.cores, options.notebooks)
        target = ROOT / "_build" / case.profile / "case.json"
        write_if_changed(target, json.dumps(result, indent=1).encode())
        return 0
    found = []
    wanted = cases(options.seeds, options.paths)
    for number, case in enumerate(wanted, 1):
        print(f"Case {number} of {len(wanted)}: first seed {case.first_seed}, {case.path}")
        again = [sys.executable, "-m", "workflow.robust", "--cores", str(options.cores)]
        again += ["--case", str(case.first_seed), case.path, "--notebooks", *options.notebooks]
        with started(again, cwd=ROOT, env=clean() | case.environment) as process:
            status = process.wait()
        if status != 0:
            raise BuildError(f"case {case.profile} was not computed; what is done stays")
        found.append(json.loads((ROOT / "_build" / case.profile / "case.json").read_bytes()))
        if not options.notebooks:
            write_if_changed(TABLE, f"{laid_out(table(found))}\n".encode())
    content = table(found)
    print("\n".join(lines(content)))
    return int(bool(content["gate"]))


if __name__ == "__main__":
    sys.exit(main())

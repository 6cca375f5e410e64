"""Bring a profile's site up to date: plan, run the workflow, publish.

Whatever stops it, ``_build/html`` stays the last good site, and the next call goes on from what is
complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from promptlib.digests import import_closure, source_path
from promptlib.runs import RunStore
from workflow.archived import archive_profile
from workflow.batches import batches, priorities
from workflow.cost import announce
from workflow.environment import clean
from workflow.freshness import record_build
from workflow.processes import clear_abandoned, started
from workflow.profile_config import Profile, load_profile
from workflow.progress import Progress, expected_seconds
from workflow.publish import publish
from workflow.sources import ROOT, BuildError, write_if_changed
from workflow.train import write_receipt
from workflow.warm.reach import warm

ENGINE = (
    "import sys; sys.stderr = open(sys.argv.pop(1), 'w', buffering=1); "
    "from snakemake.settings.types import MaxJobsPerTimespan as Rate; "
    "Rate.parse_choice = lambda text: None; "
    "from snakemake.cli import main; main()"
)
"""Snakemake's own words go to a log; standard error is for what the rules say.

Jobs start at any rate: with Snakemake's limit each job that has started wakes the scheduler once a
second till the end, which took a quarter of a core in a build of two hundred jobs.
"""
KILLED = "if the memory was full, fewer processes at a time need less: CORES=1"
_TROUBLE = re.compile(r"\b\w*(Error|Exception)\b", re.IGNORECASE)


def update(profile_name: str, cores: int, record: Path, gate: str = "refuse") -> None:
    """Build and publish a profile; ``record`` notes what the site was made of.

    With ``gate="warn"`` a site is published although the gate is closed, with a banner on every
    page; it is not noted as up to date, so that the next build asks the gate again.

    Raises
    ------
    BuildError
        If the profile is not in order, a rule of the workflow failed, or another build is running.
    """
    warnings.showwarning = _show_warning
    build = ROOT / "_build"
    folder = build / profile_name
    profile = load_profile(profile_name)
    build.mkdir(exist_ok=True)
    try:
        with FileLock(build / ".lock", timeout=0):
            record.unlink(missing_ok=True)
            clear_abandoned(build)
            progress = prepare(profile, cores)
            announce(profile, progress, cores)
            if not run_workflow(profile, cores, progress, gate):
                site = build / "html"
                kept = f"; {os.path.relpath(site, ROOT)} is still the last good site"
                raise BuildError(
                    "the book was not built; the messages above say why"
                    + (kept if site.exists() else "")
                )
            publish(build / (folder / "site.receipt").read_text().strip(), build / "html")
            if not json.loads((folder / "gate.json").read_bytes())["open"]:
                return
            store = RunStore.default()
            runs = [store.folder(run) for run in profile.runs.values()]
            outputs = [folder / "executed", folder / "claims.json", build / "html", *runs]
            needed = [plan.needs for plan in profile.notebooks if plan.needs]
            record_build(record, ROOT, outputs, needed)
    except Timeout:
        raise BuildError("another build is running in this folder; wait for it") from None


def prepare(profile: Profile, cores: int) -> Progress:
    """Write what the workflow goes by: the plan, and the receipts of all runs that are stored.

    Receipts of runs that are gone or damaged are withdrawn, and these runs, with those never
    trained, make up the batches of the plan. The Snakefile reads ``plan.json``, so that it need not
    load what parses notebooks. Returns what will tell how far the build is.
    """
    folder = ROOT / "_build" / profile.name
    notebooks: dict[str, dict[str, Any]] = {}
    stale: list[str] = []
    missing: set[str] = set()
    for plan in profile.notebooks:
        name = plan.source.name
        key = json.dumps(plan.key, indent=1, sort_keys=True)
        changed = write_if_changed(folder / "keys" / f"{name}.json", f"{key}\n".encode())
        executed = folder / "executed" / f"{name}.ipynb"
        if changed or not executed.is_file() or _older(executed, plan.source.dependencies):
            stale.append(name)
        notebooks[name] = {
            "library": [path.relative_to(ROOT).as_posix() for path in plan.source.dependencies],
            "runs": [run.name for run in plan.runs],
        }
    store = RunStore.default()
    for run in profile.runs.values():
        receipt = folder / "runs" / f"{run.name}.receipt"
        checksum = store.checksum(run)
        if checksum is None:
            receipt.unlink(missing_ok=True)
            missing.add(run.name)
        else:
            write_receipt(receipt, checksum)
    wanted = {name: by for name, by in profile.first_wanted.items() if name in missing}
    for plan in profile.notebooks:
        if plan.source.name not in stale and any(run.name in missing for run in plan.runs):
            stale.append(plan.source.name)
    by_run, by_notebook = expected_seconds(wanted, stale)
    plans = [plan.runs for plan in profile.notebooks]
    divided = batches(plans, missing, profile.runs_per_process, cores, by_run)
    for name, entry in notebooks.items():
        entry["priority"] = by_notebook.get(name, 0.0)
    content = {
        "notebooks": notebooks,
        "runs": {name: [needed.name for needed in run.needs] for name, run in profile.runs.items()},
        "batches": divided,
        "priorities": priorities(
            divided, plans, by_run, [entry["priority"] for entry in notebooks.values()]
        ),
        "archived": [path.relative_to(ROOT).as_posix() for path in recomputing_code()],
    }
    write_if_changed(folder / "plan.json", json.dumps(content, indent=1).encode())
    return Progress(by_run, by_notebook, cores)


def _older(path: Path, others: Iterable[Path]) -> bool:
    made = path.stat().st_mtime
    return any(other.stat().st_mtime > made for other in others)


def recomputing_code() -> list[Path]:
    """Modules that make claims of archived runs: the site changes with them."""
    profile = archive_profile()
    plans = profile.notebooks if profile else ()
    modules = {plan.archived.partition(":")[0] for plan in plans if plan.archived}
    return [source_path(module) for module in import_closure(*sorted(modules))]


def run_workflow(
    profile: Profile,
    cores: int,
    progress: Progress,
    gate: str = "refuse",
    targets: Sequence[str] = (),
    more: Mapping[str, str] | None = None,
) -> bool:
    """Run Snakemake; True when every rule succeeded.

    What the rules say of failures is passed on. Where a rule or Snakemake itself failed without a
    word, what Snakemake's log says of it is printed.

    Parameters
    ----------
    progress
        Is told every line that the rules print.
    gate
        ``"refuse"`` or ``"warn"``.
    targets
        Files to make; all by default.
    more
        Environment variables for the rules.
    """
    log = ROOT / "_build" / profile.name / "engine.log"
    command = [
        sys.executable,
        "-c",
        ENGINE,
        str(log),
        "--snakefile=workflow/Snakefile",
        f"--cores={cores}",
        "--scheduler=greedy",  # by priority alone, and without a solver to start
        "--keep-going",
        "--rerun-incomplete",  # after a kill, half-made outputs are made again
        "--nolock",  # ours dies with its process; Snakemake's would outlive a kill
        "--quiet=progress",
        "--config",
        f"profile={profile.name}",
        f"gate={gate}",
        *(["--", *targets] if targets else []),
    ]
    environment = clean() | {"TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1", **(more or {})}
    log.write_text("")  # what is read in the end is of this call
    said: list[str] = []
    stopping = threading.Event()

    def pass_on(lines: Iterable[str]) -> None:
        for line in lines:
            said.append(line)
            if not stopping.is_set():  # what the rules say of being stopped is not news
                progress.aside(line)

    progress.start()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with contextlib.ExitStack() as around:
        if sum(progress.total.values()) > 1:  # for one job it would not pay
            environment = around.enter_context(warm(profile.name, environment))
        engine = around.enter_context(started(command, cwd=ROOT, env=environment, **pipes))
        assert engine.stdout is not None
        assert engine.stderr is not None
        errors = threading.Thread(target=pass_on, args=(engine.stderr,), daemon=True)
        errors.start()
        try:
            for line in engine.stdout:
                progress.line(line)
            errors.join()
        except BaseException:
            stopping.set()
            raise
    progress.finish()
    if engine.returncode == 0:
        return True
    shown = log.relative_to(ROOT)
    for line in complaints(log.read_text(encoding="utf-8"), "".join(said)):
        print(f"error: {line}; the log is {shown}", file=sys.stderr)
    if engine.returncode < 0:
        print(f"error: the workflow was killed ({engine.returncode}); {KILLED}", file=sys.stderr)
    return False


def complaints(log: str, said: str) -> list[str]:
    """What Snakemake's log says of failures that nothing else was said of.

    Parameters
    ----------
    log
        Of Snakemake.
    said
        What the rules printed of failures.

    Returns
    -------
    list of str
        Sentences with remedies: one for each command that was killed, and what stopped Snakemake
        itself if neither it nor a rule said so.
    """
    ends = re.findall(r"(workflow\.\w+ [^'\n]*)'? returned non-zero exit status (\d+)", log)
    killed = [
        f"{command} was killed (status {status}); {KILLED}"
        for command, status in dict.fromkeys(ends)
        if int(status) > 128
    ]
    if killed or said.strip():
        return killed
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    first = next((at for at, line in enumerate(lines) if _TROUBLE.search(line)), None)
    cause = " ".join(lines[-1:] if first is None else lines[first : first + 3])
    return [
        f"the workflow engine stopped: {cause or 'it did not say why'}; run it again, and if it "
        "stops again, report it"
    ]


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)

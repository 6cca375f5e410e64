"""Bring a profile's site up to date: plan, run the workflow, publish.

Whatever stops it, ``_build/html`` stays the last good site, and the next call goes on from what is
complete.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from promptlib.runs import RunStore, import_closure, source_path
from workflow.archived import archive_profile
from workflow.batches import batches
from workflow.freshness import record_build
from workflow.profile_config import Profile, load_profile
from workflow.progress import Progress, expected_seconds
from workflow.publish import publish
from workflow.sources import ROOT, BuildError, write_if_changed
from workflow.train import write_receipt


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
            progress = prepare(profile, cores)
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
    notebooks, stale = {}, []
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
    missing = set()
    for run in profile.runs.values():
        receipt = folder / "runs" / f"{run.name}.receipt"
        checksum = store.checksum(run)
        if checksum is None:
            receipt.unlink(missing_ok=True)
            missing.add(run.name)
        else:
            write_receipt(receipt, checksum)
    content = {
        "notebooks": notebooks,
        "runs": {name: [needed.name for needed in run.needs] for name, run in profile.runs.items()},
        "batches": batches(
            (plan.runs for plan in profile.notebooks), missing, profile.runs_per_process, cores
        ),
        "archived": [path.relative_to(ROOT).as_posix() for path in recomputing_code()],
    }
    write_if_changed(folder / "plan.json", json.dumps(content, indent=1).encode())
    wanted: dict[str, tuple[str, str]] = {}
    for plan in profile.notebooks:
        for run in plan.runs:
            if run.name in missing:
                wanted.setdefault(run.name, (plan.source.name, run.train.partition(":")[2]))
                if plan.source.name not in stale:
                    stale.append(plan.source.name)
    return Progress(*expected_seconds(wanted, stale), cores)


def _older(path: Path, others: Iterable[Path]) -> bool:
    made = path.stat().st_mtime
    return any(other.stat().st_mtime > made for other in others)


def recomputing_code() -> list[Path]:
    """Library files that make claims of archived runs: the site changes with them."""
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
    """Run Snakemake; True when every rule succeeded, else what it complained about is printed.

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
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile=workflow/Snakefile",
        f"--cores={cores}",
        "--keep-going",
        "--rerun-incomplete",  # after a kill, half-made outputs are made again
        "--nolock",  # ours dies with its process; Snakemake's would outlive a kill
        "--quiet=all",  # the scripts speak for themselves
        "--config",
        f"profile={profile.name}",
        f"gate={gate}",
        *(["--", *targets] if targets else []),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",  # one process a core
        "TQDM_DISABLE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        **(more or {}),
    }
    progress.start()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_die_with_parent,
    ) as engine:
        assert engine.stdout is not None
        for line in engine.stdout:
            progress.line(line)
    progress.finish()
    if engine.returncode == 0:
        return True
    logs = (ROOT / ".snakemake" / "log").glob("*.snakemake.log")
    newest = max(logs, key=lambda path: path.stat().st_mtime, default=None)
    if newest is not None:
        for line in complaints(newest.read_text(encoding="utf-8")):
            print(line, file=sys.stderr)
    return False


def _die_with_parent() -> None:
    """Let the kernel end this process when the build is killed: no engine outlives its lock."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def complaints(log: str) -> list[str]:
    """What Snakemake's log says of failures: commands with their exit status, and exceptions."""
    found = re.findall(r"(workflow\.\w+ [^'\n]*)' returned non-zero exit status (\S+?)\.", log)
    exceptions = re.findall(r"^(?!RuleException)(\w+Exception.*(?:\n.+)*)", log, re.MULTILINE)
    return [f"{command} ended with status {status}" for command, status in found] + exceptions


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)

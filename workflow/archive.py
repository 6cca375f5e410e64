"""Keep what full-size notebooks measured, so that every later build can show it beside its own.

``python -m workflow.archive --profile paper`` keeps every notebook of a finished build, each in a
file ``archive/<wing>/<notebook>.json``. ``python -m workflow.archive prefix_tuning/new_task --set
seeds=1`` trains what this one notebook lacks, executes it to ``_build/archive`` with the profile's
parameters and these changes, and keeps it alone.

A file holds no verdict. It holds what was measured: the metrics of every training run that the
notebook shows; for claims that these do not decide, because they need weights or are no training,
the deciding numbers under ``measured``; and where all this comes from: commit, versions, machine,
seconds, parameters, and which of them are not the profile's. `workflow.archived` makes claims of it
with the functions of the day. Sources that are not committed are refused: nobody could repeat what
they gave.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from promptlib.claims import Claim
from promptlib.digests import code_digest
from promptlib.runs import RunStore, machine
from workflow import extras
from workflow.archived import ARCHIVE, from_runs, measurement
from workflow.collect import claim_tests, notebook_records
from workflow.command import BuildError, Parser, command
from workflow.execute import execute, parse_settings
from workflow.profile_config import NotebookPlan, Profile, load_profile
from workflow.sources import ROOT, Source, name_of, write_if_changed
from workflow.train import train

NEEDS_A_CLONE = "an archive names the commit it was made from, so it needs a clone made with git"


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.archive", description=__doc__)
    parser.add_argument("notebook", nargs="?", help="such as prefix_tuning/new_task; else all")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="settings")
    options = parser.parse_args(arguments)
    if options.profile == "quick":
        raise BuildError("the quick profile is what every build runs; archive PROFILE=paper")
    commit = committed()
    profile = load_profile(options.profile)
    if options.notebook is not None:
        name = name_of(options.notebook)
        contents = [archive_notebook(profile, name, options.settings, commit)]
    elif options.settings:
        raise BuildError("say whose parameters change: NOTEBOOK=<wing>/<notebook>")
    else:
        contents = archive_build(profile, commit)
    for content in contents:
        target = ARCHIVE / f"{content['provenance']['notebook']}.json"
        write_if_changed(target, f"{laid_out(content)}\n".encode())
        print(
            f"archived {len(content['runs'])} runs and what decides {len(content['measured'])} "
            f"further claims: {target.relative_to(ROOT)}"
        )
    return 0


def archive_build(profile: Profile, commit: str) -> list[dict[str, Any]]:
    """The archive of each notebook of a finished build.

    Raises
    ------
    BuildError
        If there is no such build, or it is not whole: a claim was not checked, a run is gone.
    """
    folder = ROOT / "_build" / profile.name
    if not (folder / "claims.json").is_file():
        raise BuildError(f"there is no build to archive; run: make book PROFILE={profile.name}")
    records = json.loads((folder / "claims.json").read_text(encoding="utf-8"))["claims"]
    return [
        archived(
            plan,
            profile,
            commit,
            folder / "executed",
            [record for record in records if record["notebook"] == plan.source.name],
        )
        for plan in profile.notebooks
    ]


def archive_notebook(
    profile: Profile, name: str, settings: Sequence[str], commit: str
) -> dict[str, Any]:
    """Train what one notebook lacks, execute it, and return its archive.

    Parameters
    ----------
    profile
        Whose parameters hold, where ``settings`` say nothing else.
    name
        ``<wing>/<notebook>``.
    settings
        Changed parameters as ``NAME=VALUE``.
    commit
        What the sources are.

    Raises
    ------
    BuildError
        If the notebook, a parameter or an extra is missing, a run or the notebook fails, or the
        notebook's sources change meanwhile. What was trained stays in the store.
    """
    source = Source(name)
    source.notebook  # noqa: B018  an unknown name is refused here
    given = parse_settings(list(settings))
    source.check_parameters(given, "--set")
    planned = profile.notebook(name)
    plan = dataclasses.replace(planned, parameters={**planned.parameters, **given})
    if plan.needs is not None and not extras.installed(plan.needs):
        raise BuildError(
            f"{name} checks its claims only with the extra {plan.needs!r}; "
            f"run: make archive NOTEBOOK={name} EXTRAS={plan.needs}"
        )
    before = _sources_digest(plan)
    lost = train(plan.runs, RunStore.default())
    if lost:
        raise BuildError(f"{name} is not archived; not trained: {', '.join(lost)}")
    folder = ROOT / "_build" / "archive"
    target = folder / "executed" / f"{name}.ipynb"
    execute(source, plan.parameters, target, folder / "failed" / f"{name}.ipynb")
    if _sources_digest(plan) != before:
        raise BuildError(
            f"{name} or code that it reaches changed while it ran; commit, and archive it again "
            "(what was trained stays)"
        )
    records = notebook_records(
        nbformat.read(target, as_version=4), name, claim_tests(ROOT / "tests")
    )
    return archived(plan, profile, commit, folder / "executed", records)


def archived(
    plan: NotebookPlan,
    profile: Profile,
    commit: str,
    executed: Path,
    records: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Provenance, runs and further measurements of an executed notebook, JSON-able.

    Parameters
    ----------
    plan
        The notebook, with the parameters that it was executed with.
    profile
        Whose parameters the changed ones are compared with.
    commit
        What the sources are.
    executed
        Folder with ``<wing>/<notebook>.measured.json``.
    records
        The notebook's claims, as ``claims.json`` holds them.

    Raises
    ------
    BuildError
        If a claim was not checked, or a run is not in the store.
    """
    name = plan.source.name
    unchecked = [record["id"] for record in records if record["verdict"] == "not checked"]
    if unchecked:
        raise BuildError(
            f"an archive holds every claim; not checked in {name}: {', '.join(unchecked)}; "
            f"run: make book PROFILE={profile.name} EXTRAS=real"
        )
    store = RunStore.default()
    runs = []
    for run in plan.runs:
        if store.checksum(run) is None:
            raise BuildError(
                f"{run.name} is not in the store; run: make book PROFILE={profile.name}"
            )
        provenance = store.provenance(run)
        metrics = json.loads((store.folder(run) / "metrics.json").read_bytes())
        runs.append(
            {
                "name": run.name,
                "train": run.train,
                "config": run.config,
                "needs": provenance["needs"],
                "seconds": provenance["seconds"],
                "machine": provenance["machine"],
                "metrics": metrics,
            }
        )
    recomputed = {claim.id for claim in from_runs(plan, runs)}
    usual = profile.notebook(name).parameters
    measured = json.loads((executed / f"{name}.measured.json").read_text(encoding="utf-8"))
    return {
        "provenance": {
            "profile": profile.name,
            "commit": commit,
            "machine": machine(),
            "notebook": name,
            "parameters": dict(plan.parameters),
            "changed": {
                parameter: {"archived": value, "profile": usual[parameter]}
                for parameter, value in plan.parameters.items()
                if value != usual[parameter]
            },
            "seconds": measured["seconds"],
            "peak_memory_mib": measured["peak_memory_mib"],
        },
        "runs": runs,
        "measured": {
            record["id"]: measurement(Claim.from_json(record))
            for record in records
            if record["id"] not in recomputed
        },
    }


def committed() -> str:
    """The commit that the sources are.

    Raises
    ------
    BuildError
        If what decides results is not committed, or git cannot tell.
    """
    top = _git("rev-parse", "--show-toplevel")
    if not os.path.samefile(top, ROOT):
        raise BuildError(
            f"{ROOT} is not a clone of its own but lies in that of {top}; {NEEDS_A_CLONE}"
        )
    changed = _git("status", "--porcelain", "--", "promptlib", "notebooks", "config")
    if changed:
        raise BuildError(f"commit first, so that the archive can name its sources:\n{changed}")
    return _git("rev-parse", "HEAD")


def laid_out(data: Any, indent: int = 0) -> str:
    """JSON for reading and comparing: what holds no list or mapping itself is on one line."""
    parts = list(data.values()) if isinstance(data, dict) else data
    if not isinstance(parts, list) or not any(isinstance(part, list | dict) for part in parts):
        return json.dumps(data, ensure_ascii=False)
    if isinstance(data, dict):
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}: {laid_out(value, indent + 1)}"
            for key, value in data.items()
        ]
    else:
        lines = [laid_out(part, indent + 1) for part in parts]
    space = " " * (indent + 1)
    opening, closing = "{}" if isinstance(data, dict) else "[]"
    inner = f",\n{space}".join(lines)
    return f"{opening}\n{space}{inner}\n{' ' * indent}{closing}"


def _sources_digest(plan: NotebookPlan) -> str:
    """Digest of the code of the notebook and of the modules that it reaches, as they are now."""
    source = Source(plan.source.name)  # read again
    parts = [source.code_key(plan.parameters), *map(code_digest, source.modules)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise BuildError(f"git is not installed; {NEEDS_A_CLONE}") from None
    if done.returncode != 0:
        words = " ".join(done.stderr.split())
        raise BuildError(f"git does not tell what the sources are: {words}; {NEEDS_A_CLONE}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

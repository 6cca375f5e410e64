"""Keep what a full-size build measured, so that every later build can show it beside its own.

``python -m workflow.archive --profile paper`` writes ``archive/paper.json``: the claims, the
metrics of every training run, and where they come from (commit, versions, machine, seconds, seeds).
It refuses a build whose sources are not committed: nobody could repeat it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from promptlib.runs import RunStore, machine
from workflow.profile_config import load_profile
from workflow.sources import ROOT, BuildError, write_if_changed


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m workflow.archive", description=__doc__)
    parser.add_argument("--profile", default="paper")
    options = parser.parse_args(arguments)
    try:
        target = ROOT / "archive" / f"{options.profile}.json"
        content = archive(options.profile)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_if_changed(target, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
    print(
        f"archived {len(content['claims'])} claims and {len(content['runs'])} runs: {target.name}"
    )
    return 0


def archive(profile_name: str) -> dict[str, Any]:
    """Claims, runs and provenance of a finished build, JSON-able."""
    if profile_name == "quick":
        raise BuildError("the quick profile is what every build runs; archive PROFILE=paper")
    profile = load_profile(profile_name)
    folder = ROOT / "_build" / profile_name
    claims_path = folder / "claims.json"
    if not claims_path.is_file():
        raise BuildError(f"there is no build to archive; run: make book PROFILE={profile_name}")
    changed = _git("status", "--porcelain", "--", "promptlib", "notebooks", "config")
    if changed:
        raise BuildError(f"commit first, so that the archive can name its sources:\n{changed}")
    found = json.loads(claims_path.read_text())["claims"]
    unchecked = [claim["id"] for claim in found if claim["verdict"] == "not checked"]
    if unchecked:
        raise BuildError(
            f"an archive holds every claim; not checked in this build: {', '.join(unchecked)}; "
            f"run: make book PROFILE={profile_name} EXTRAS=real"
        )
    store = RunStore.default()
    runs = []
    for run in profile.runs.values():
        if store.checksum(run) is None:
            raise BuildError(
                f"{run.name} is not in the store; run: make book PROFILE={profile_name}"
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
    notebooks = {}
    for plan in profile.notebooks:
        measured = folder / "executed" / f"{plan.source.name}.measured.json"
        notebooks[plan.source.name] = {
            "parameters": plan.parameters,
            **json.loads(measured.read_text()),
        }
    return {
        "provenance": {
            "profile": profile_name,
            "commit": _git("rev-parse", "HEAD"),
            "machine": machine(),
            "notebooks": notebooks,
        },
        "claims": found,
        "runs": runs,
    }


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

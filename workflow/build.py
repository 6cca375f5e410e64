"""``make book``: check the profile and the store, run the workflow, publish the site.

Whatever stops it, ``_build/html`` stays the last good site, and the next call goes on from what is
complete.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings

from filelock import FileLock, Timeout

from promptlib.runs import RunStore
from workflow.collect import summary
from workflow.profile_config import Profile, load_profile
from workflow.publish import publish
from workflow.sources import ROOT, BuildError, write_if_changed


def prepare(profile: Profile) -> None:
    """Write the notebooks' code keys, and withdraw receipts of runs that are gone or damaged."""
    folder = ROOT / "_build" / profile.name
    for plan in profile.notebooks:
        key = json.dumps(plan.source.code_key(plan.parameters), indent=1, sort_keys=True)
        write_if_changed(folder / "keys" / f"{plan.source.name}.json", f"{key}\n".encode())
    store = RunStore.default()
    for run in profile.runs.values():
        receipt = folder / "runs" / f"{run.name}.receipt"
        checksum = store.checksum(run)
        if receipt.is_file() and receipt.read_text().strip() != checksum:
            receipt.unlink()


def run_workflow(profile: Profile, cores: int) -> bool:
    """Run Snakemake; True when every rule succeeded."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile=workflow/Snakefile",
        f"--cores={cores}",
        "--keep-going",
        "--rerun-incomplete",  # after a kill, half-made outputs are made again
        "--nolock",  # ours below dies with its process; Snakemake's would outlive a kill
        "--quiet=all",
        "--config",
        f"profile={profile.name}",
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",  # one process a core
        "TQDM_DISABLE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m workflow.build", description=__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    warnings.showwarning = _show_warning
    build = ROOT / "_build"
    try:
        if options.cores < 1:
            raise BuildError(f"CORES must be a positive number, got {options.cores}")
        profile = load_profile(options.profile)
        build.mkdir(exist_ok=True)
        with FileLock(build / ".lock", timeout=0):
            prepare(profile)
            if not run_workflow(profile, options.cores):
                site = build / "html"
                kept = f"; {_relative(site)} is still the last good site" if site.exists() else ""
                raise BuildError(f"the book was not built; the messages above say why{kept}")
            folder = build / profile.name
            site = publish(build / (folder / "site.receipt").read_text().strip(), build / "html")
    except Timeout:
        print("error: another build is running in this folder; wait for it", file=sys.stderr)
        return 1
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    records = json.loads((folder / "claims.json").read_text())["claims"]
    print(summary(records))
    print(f"The book is at {site / 'index.html'} ({time.perf_counter() - started:.1f} s)")
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _relative(path: object) -> str:
    return os.path.relpath(str(path), ROOT)


if __name__ == "__main__":
    sys.exit(main())

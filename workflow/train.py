"""Bring one training run into the store and leave a receipt.

``python -m workflow.train <run name> --profile quick --receipt FILE``. The receipt holds the
checksum of the result: it stays the same, and nothing later is redone, when a run that was trained
again gave the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from promptlib.runs import RunStore
from workflow.profile_config import load_profile
from workflow.sources import BuildError, write_if_changed


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m workflow.train", description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--receipt", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        runs = load_profile(options.profile).runs
        if options.run not in runs:
            raise BuildError(
                f"{options.run} is not a run of profile {options.profile}: its code or config has "
                "changed since the build was planned; run make book again"
            )
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    run, store = runs[options.run], RunStore.default()
    started = time.perf_counter()
    store.get(run)
    checksum = store.checksum(run)
    write_if_changed(options.receipt, f"{checksum}\n".encode())
    print(f"trained {run.name}: {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

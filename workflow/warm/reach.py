"""Have a warm process for the duration of a build, and find it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from workflow.processes import PATIENCE_SECONDS, partial_folder, started
from workflow.sources import ROOT
from workflow.warm.client import PEAK, WARM

LAST_SOCKET = "kernels"
CLIENT = "workflow/warm/client.py"


@contextlib.contextmanager
def warm(profile: str, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The environment in which clients find a warm process that is there within the block.

    Only on Linux: elsewhere a process that has loaded numerical libraries may not be forked.
    """
    if sys.platform != "linux":
        yield dict(environment)
        return
    with partial_folder(ROOT / "_build") as folder:
        place = folder.relative_to(ROOT).as_posix()
        command = [sys.executable, "-m", "workflow.warm.server", place, profile]
        log = (ROOT / "_build" / profile / "warm.log").open("w")
        with log, started(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as server:
            while server.poll() is None and not (folder / LAST_SOCKET).exists():
                time.sleep(0.01)
            try:
                yield {**environment, WARM: place}
            finally:
                server.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(3 * PATIENCE_SECONDS)


def kernels_from_warm(folder: Path) -> None:
    """Let Jupyter start kernels of this process through the warm process, if this is its fork.

    Parameters
    ----------
    folder
        Where to tell Jupyter, and where `peak_memory` is written.
    """
    if WARM not in os.environ:
        return
    from ipykernel.kernelspec import KERNEL_NAME, get_kernel_dict

    kernel = get_kernel_dict()
    kernel["argv"] = [sys.executable, "-IS", str(ROOT / CLIENT), *kernel["argv"][2:]]
    place = folder / "jupyter" / "kernels" / KERNEL_NAME / "kernel.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(kernel), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    os.environ[PEAK] = str(folder / "peak")


def peak_memory() -> int:
    """Peak memory of the kernel that this process has started and that has ended, in the unit of
    the system: KiB on Linux, bytes on a Mac.
    """
    told, until = Path(os.environ.get(PEAK, os.devnull)), time.monotonic() + 2 * PATIENCE_SECONDS
    while not told.exists() and time.monotonic() < until:
        time.sleep(0.01)  # the kernel is ending
    said = told.read_bytes() if told.exists() else b""
    return int(said or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)

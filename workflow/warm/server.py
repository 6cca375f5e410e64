"""``python -m workflow.warm.server FOLDER quick``: load what jobs and kernels need; serve.

FOLDER, relative to the project, holds the sockets. There are two processes, so that a kernel holds
nothing but what kernels load: one forks training and the execution of notebooks, with the profile's
plan; the other forks kernels.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from workflow.environment import ROOT
from workflow.processes import die_with_parent
from workflow.warm.client import PEAK, WARM
from workflow.warm.serving import forked

JOBS = ("workflow.train", "workflow.execute")
FOR_KERNELS = ("ipykernel.kernelapp", "ipykernel.ipkernel")
PLOTTING = "promptlib.plotting"
"""What loads seaborn, with matplotlib and pandas, for the first figure."""
INLINE = "module://matplotlib_inline.backend_inline"
"""What ipykernel sets before matplotlib is loaded."""


def source_states() -> dict[str, tuple[int, int]]:
    """Time and size of all files that decide what a process of the workflow loads."""
    return {
        str(path): (state.st_mtime_ns, state.st_size)
        for folder in ("promptlib", "notebooks", "workflow", "config")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yml")
        for state in [path.stat()]
    }


def load(modules: Iterable[str]) -> None:
    """Import modules; what fails will say so where it is needed."""
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def load_torch() -> None:
    """Import torch, and what its first optimiser imports; no random number is drawn."""
    # A process that has asked the driver of a GPU may not be forked; NVML tells as well.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight], fused=True).step()


def listening(path: str) -> socket.socket:
    """A socket that clients can connect to from now on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(128)
    return listener


def main(folder: str, profile_name: str) -> NoReturn:
    """Serve until SIGTERM."""
    states = source_states()

    def usable() -> bool:
        return source_states() == states

    os.chdir(ROOT)  # the sockets' paths are short
    # What torch imports makes this folder, else one among the temporary files that nobody removes.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(ROOT / folder / "inductor")
    jobs, kernels = (listening(f"{folder}/{name}") for name in ("jobs", "kernels"))
    with contextlib.suppress(ImportError):
        load_torch()
    below = os.fork()
    if below == 0:
        die_with_parent()
        jobs.close()
        plan = json.loads((ROOT / "_build" / profile_name / "plan.json").read_bytes())
        os.environ["MPLBACKEND"] = INLINE
        library = _library(plan)
        load([*FOR_KERNELS, *library, *(["seaborn"] if PLOTTING in library else [])])
        gc.freeze()
        arguments = forked(kernels, usable)
        _end_with(lambda: _kernel(arguments))
    kernels.close()
    load(JOBS)
    from workflow.profile_config import keep_profile

    profile = keep_profile(profile_name)
    load(sorted({run.train.partition(":")[0] for run in profile.runs.values()}))
    gc.freeze()
    server = os.getpid()
    try:
        module, *rest = forked(jobs, usable)
    finally:
        if os.getpid() == server:
            os.kill(below, signal.SIGTERM)
            os.waitpid(below, 0)
    sys.argv[:] = [module, *rest]
    _end_with(lambda: importlib.import_module(module).main(rest))


def _end_with(run: Callable[[], int]) -> NoReturn:
    """Run, and end at once: taking down what is shared with the server would copy all of it."""
    status = 1
    try:
        status = run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    with contextlib.suppress(OSError):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _library(plan: dict[str, Any]) -> list[str]:
    """Modules of the library that the profile's notebooks reach."""
    files = {Path(path) for one in plan["notebooks"].values() for path in one["library"]}
    modules = {path.with_suffix("").as_posix().replace("/", ".") for path in files}
    return sorted(
        name.removesuffix(".__init__") for name in modules if name.startswith("promptlib")
    )


def _kernel(arguments: list[str]) -> int:
    """Be the kernel that ``python -m ipykernel_launcher`` would be."""
    for name in (WARM, PEAK):
        os.environ.pop(name, None)
    os.environ["JPY_PARENT_PID"] = str(os.getppid())  # which it looks for, to end with it
    sys.argv[:] = arguments
    sys.path.pop(0)  # the directory of the server
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
    return 0


if __name__ == "__main__":
    main(*sys.argv[1:])

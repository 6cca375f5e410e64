"""Execute one notebook through papermill and keep what it cost.

``python -m workflow.execute prefix_tuning/new_task --profile quick`` writes
``_build/quick/executed/prefix_tuning/new_task.ipynb`` and ``….measured.json`` (seconds, and the
peak memory of the kernel). With ``--set seeds=5`` parameters are changed for this once, and the
result goes to ``_build/reruns``. A notebook that fails leaves its partial one under ``failed``.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from workflow.profile_config import load_profile
from workflow.sources import ROOT, BuildError, Source


def execute(source: Source, parameters: Mapping[str, Any], target: Path, failed: Path) -> None:
    """Run a notebook; ``target`` and its measurements appear only when all cells succeeded.

    Raises
    ------
    BuildError
        If a cell fails: the message holds the traceback and names the partial notebook.
    """
    for path in (target, failed):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=failed.parent) as work:
        _execute_in(Path(work), source, parameters, target, failed)


def _execute_in(
    work: Path, source: Source, parameters: Mapping[str, Any], target: Path, failed: Path
) -> None:
    prepared, partial = work / "source.ipynb", work / "partial.ipynb"
    jupytext.write(source.notebook, prepared)
    started = time.perf_counter()
    try:
        _run(prepared, partial, parameters)
    except (PapermillExecutionError, RuntimeError) as error:
        kept = ""
        if partial.is_file():
            partial.replace(failed)
            kept = f"\nThe partial notebook is {_shown(failed)}"
        raise BuildError(f"{source.name} failed.\n{error}{kept}") from None
    seconds = time.perf_counter() - started
    notebook = nbformat.read(partial, as_version=4)
    nbformat.write(stable(notebook), partial)
    failed.unlink(missing_ok=True)
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the kernel is our child
    peak_mib = peak_kib / (2**20 if sys.platform == "darwin" else 2**10)
    measured = {"seconds": round(seconds, 2), "peak_memory_mib": round(peak_mib)}
    measured_path = target.with_suffix(".measured.json")
    measured_path.write_text(json.dumps(measured) + "\n")
    partial.replace(target)


def stable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs between two executions of the same code: times, random ids, paths."""
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        for volatile in ("papermill", "execution"):
            cell.metadata.pop(volatile, None)
    return notebook


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["seeds=5", "rates=[1e-3, 0.2]", "label=x"]`` as parameters: Python literals, else text."""
    parameters = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise BuildError(f"expected NAME=VALUE, got {setting!r}")
        try:
            parameters[name.strip()] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            parameters[name.strip()] = text
    return parameters


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m workflow.execute", description=__doc__)
    parser.add_argument("notebook", help="such as prefix_tuning/new_task")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="settings")
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        source = Source(options.notebook.removeprefix("notebooks/").removesuffix(".md"))
        source.notebook  # noqa: B018  an unknown name is refused here
        parameters = dict(profile.notebook(source.name).parameters)
        folder = ROOT / "_build" / options.profile
        if options.settings:
            given = parse_settings(options.settings)
            source.check_parameters(given, "--set")
            parameters |= given
            folder = ROOT / "_build" / "reruns"
        target = folder / "executed" / f"{source.name}.ipynb"
        execute(source, parameters, target, folder / "failed" / f"{source.name}.ipynb")
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    measured = json.loads(target.with_suffix(".measured.json").read_text())
    print(
        f"executed {source.name}: {measured['seconds']:.1f} s, "
        f"{measured['peak_memory_mib']} MiB -> {_shown(target)}"
    )
    return 0


def _run(prepared: Path, partial: Path, parameters: Mapping[str, Any]) -> None:
    """Papermill with a kernel behind files of its own: no ports to race for, or to listen on."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters were checked by us
    with tempfile.TemporaryDirectory(prefix="kernel-") as runtime:
        os.environ["JUPYTER_RUNTIME_DIR"] = runtime  # paths of sockets must stay short
        papermill.execute_notebook(
            str(prepared),
            str(partial),
            parameters=dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            cwd=str(ROOT),
            start_timeout=120,
            config=Config(
                KernelManager={"transport": "ipc", "ip": f"{runtime}/kernel"},
                NotebookClient={"extra_arguments": [f"--IPKernelApp.log_level={logging.CRITICAL}"]},
            ),
        )


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())

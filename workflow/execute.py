"""Execute one notebook through papermill and keep what it cost.

``python -m workflow.execute prefix_tuning/new_task --profile quick`` writes
``_build/quick/executed/prefix_tuning/new_task.ipynb`` and ``….measured.json`` (seconds, and the
peak memory of the kernel). With ``--set seeds=8`` parameters are changed for this once, and the
result goes to ``_build/reruns``. A notebook that fails leaves its partial one under ``failed``.
"""

from __future__ import annotations

import ast
import functools
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from workflow.command import Parser, command, say
from workflow.processes import partial_folder, stop_children
from workflow.profile_config import load_profile
from workflow.sources import ROOT, BuildError, Source, name_of
from workflow.warm.reach import kernels_from_warm, peak_memory

SOCKET_FOLDER_BYTES = 80
"""So long may the path of a folder of sockets be, with room for the sockets' own names."""
_NAME = re.compile(r"[^\W\d]\w*\s*=(?!=)")


def execute(source: Source, parameters: Mapping[str, Any], target: Path, failed: Path) -> None:
    """Run a notebook; ``target`` and its measurements appear only when all cells succeeded.

    Raises
    ------
    BuildError
        If a cell fails: the message holds the traceback and names the partial notebook.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(failed.parent) as work:
        _execute_in(work, source, parameters, target, failed)


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
    peak_mib = peak_memory() / (2**20 if sys.platform == "darwin" else 2**10)
    measured = {"seconds": round(seconds, 2), "peak_memory_mib": round(peak_mib)}
    measured_path = target.with_suffix(".measured.json")
    measured_path.write_text(json.dumps(measured) + "\n")
    partial.replace(target)


def stable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs between two executions of the same code: times, random ids, paths, and
    where a kernel that had to wait cut in two what a cell printed.
    """
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        for volatile in ("papermill", "execution"):
            cell.metadata.pop(volatile, None)
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    return notebook


def _joined(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs with what was printed in a row to one stream as one of them."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = found[-1] if found else nbformat.NotebookNode(output_type="none")
        if output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            found.append(output)
    return found


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """``["seeds=5 rates=[1e-3, 0.2]", "label=two words"]`` as parameters.

    Values are Python literals, else text. A value ends where the next ``NAME=`` begins, outside
    brackets and quotes.

    Raises
    ------
    BuildError
        If a setting does not begin with ``NAME=``, or a name is given twice.
    """
    parameters: dict[str, Any] = {}
    for setting in settings:
        starts = _assignments(setting)
        if not starts or setting[: starts[0]].strip():
            raise BuildError(f"expected NAME=VALUE, got {setting!r}")
        for start, end in zip(starts, [*starts[1:], len(setting)], strict=True):
            name, _, text = (part.strip() for part in setting[start:end].partition("="))
            if name in parameters:
                raise BuildError(f"{name} is given twice: {setting!r}")
            try:
                parameters[name] = ast.literal_eval(text)
            except (SyntaxError, ValueError):
                parameters[name] = text
    return parameters


def _assignments(setting: str) -> list[int]:
    """Where in a text a ``NAME=`` begins that is neither in brackets nor in quotes."""
    found, depth, quote = [], 0, ""
    for place, character in enumerate(setting):
        before = setting[place - 1] if place else " "
        if quote:
            if character == quote and before != "\\":
                quote = ""
        elif character in "'\"" and not before.isalnum():  # else it is an apostrophe
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and before.isspace() and _NAME.match(setting, place):
            found.append(place)
    return found


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.execute", description=__doc__)
    parser.add_argument("notebook", help="such as prefix_tuning/new_task")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", dest="settings")
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile)
    source = Source(name_of(options.notebook))
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
    measured = json.loads(target.with_suffix(".measured.json").read_text())
    say(
        f"executed {source.name}: {measured['seconds']:.1f} s, "
        f"{measured['peak_memory_mib']} MiB -> {_shown(target)}"
    )
    return 0


def _run(prepared: Path, partial: Path, parameters: Mapping[str, Any]) -> None:
    """Papermill with a kernel behind files of its own: no ports to race for, or to listen on.

    It runs in a thread: nbclient leaves signals alone only there, and would report a kernel that
    died where this process was told to stop.
    """
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters were checked by us
    with tempfile.TemporaryDirectory(prefix="k-", dir=_short_folder(partial.parent)) as runtime:
        os.environ["JUPYTER_RUNTIME_DIR"] = runtime
        kernels_from_warm(partial.parent)
        manager = {"transport": "ipc", "ip": f"{runtime}/kernel"}
        call = functools.partial(
            papermill.execute_notebook,
            str(prepared),
            str(partial),
            parameters=dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            cwd=str(partial.parent),  # a folder without settings of matplotlib
            start_timeout=120,
            config=Config(
                KernelManager=manager if _fits(runtime) else {},
                NotebookClient={"extra_arguments": [f"--IPKernelApp.log_level={logging.CRITICAL}"]},
            ),
        )
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(call).result()
            except BaseException:
                stop_children()  # without its kernel the thread ends
                raise


def _short_folder(usual: Path) -> str:
    """A folder for sockets, whose paths may have about 100 bytes; the shortest, if none fits."""
    folders = [str(usual), tempfile.gettempdir(), "/tmp"]
    writable = [folder for folder in folders if os.access(folder, os.W_OK)]
    return next(filter(_fits, writable), min(writable, key=len))


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) <= SOCKET_FOLDER_BYTES


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())

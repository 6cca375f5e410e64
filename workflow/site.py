"""Build the site: stage what it needs, let Sphinx render it, complete the pages.

``python -m workflow.site --profile quick`` stages ``_build/quick/stage`` from what the profile's
notebooks left behind and builds it to ``_build/sites/<digest>``; the name says what is in it, so a
site that is being read is never written to. With ``--receipt FILE`` the folder's path from
``_build`` is written there, for ``workflow.publish``.

``python -m workflow.site --stage FOLDER --to FOLDER`` only builds a folder staged before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow.archived import archive_profile
from workflow.command import Parser, command
from workflow.command import cores as number_of_cores
from workflow.environment import clean
from workflow.processes import partial_folder, started
from workflow.site_html import finish
from workflow.site_update import digest, keep, made_of, update
from workflow.sources import ROOT, BuildError
from workflow.stage import stage, trained_runs


def build(staged: Path, to: Path, cores: int = 1, kept: Path | None = None) -> None:
    """Render a staged folder.

    Parameters
    ----------
    staged
        What :func:`workflow.stage.stage` wrote.
    to
        Folder of the site; replaced as a whole when everything has succeeded.
    cores
        Processes at a time, >= 1.
    kept
        Folder for what the next call can go on from, see `workflow.site_update`; nothing is kept
        by default.

    Raises
    ------
    BuildError
        If Sphinx warned of anything, or a page is not fit to be shown; ``to`` is then left as it
        was.
    """
    if not (staged / "book" / "_toc.yml").is_file():
        raise BuildError(f"{staged} holds no staged book; run python -m workflow.stage first")
    inputs = made_of(staged) if kept is not None else {}

    def render_few(raw: Path, trees: Path, pages: Sequence[str]) -> bool:
        return _render(staged, raw, trees, "--only", *pages)[0] == 0

    with partial_folder(to.parent, f"{to.name}.") as work:
        site = None
        if kept is not None:
            site = update(inputs, staged, kept, work, render_few)
        if site is None:
            site, trees = work / "html", work / "all"
            status, said = _render(staged, site, trees, f"--cores={cores}")
            if status != 0:
                raise BuildError(f"jupyter-book refused the book:\n{complaints(said)}")
            finish(site)
            if kept is not None:
                keep(inputs, site, trees, kept)
        shutil.rmtree(to, ignore_errors=True)
        os.replace(site, to)


def _render(staged: Path, to: Path, trees: Path, *options: str) -> tuple[int, str]:
    """Exit status and words of `workflow.render` on a staged folder."""
    call = [sys.executable, "-m", "workflow.render", str(staged / "book"), str(to), str(trees)]
    environment = clean() | {"NO_COLOR": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with started([*call, *options], env=environment, **output) as process:
        said, _ = process.communicate()
    return process.returncode, said


def complaints(log: str) -> str:
    """What a log of jupyter-book complains about: its warnings and errors, else all of it."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    lines = [line for line in plain.splitlines() if re.search(r"\b(WARNING|ERROR|error)\b", line)]
    return "\n".join(dict.fromkeys(lines)) or plain.strip()


def build_profile(profile: str, cores: int = 1, root: Path = ROOT) -> Path:
    """Stage and build the site of a profile; returns the folder, named by its content."""
    folder = root / "_build" / profile
    remarks = stage(
        profile=profile,
        executed=folder / "executed",
        claims_file=folder / "claims.json",
        archive=root / "archive",
        archive_profile=archive_profile(),
        gate_file=folder / "gate.json",
        runs=trained_runs(profile),
        to=folder / "stage",
        root=root,
    )
    for remark in remarks:
        print(remark, file=sys.stderr)
    sites = root / "_build" / "sites"
    fresh = sites / f".{profile}"
    build(folder / "stage", fresh, cores, folder / "kept")
    site = sites / digest(fresh)[:16]
    if site.exists():
        shutil.rmtree(fresh)
    else:
        os.replace(fresh, site)
    return site


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.site", description="Build the site.")
    parser.add_argument("--profile", help="stage and build the notebooks of this profile")
    parser.add_argument("--cores", type=number_of_cores, default=1, help="processes at a time")
    parser.add_argument("--receipt", type=Path, help="file to write the site's path to")
    parser.add_argument("--stage", type=Path, help="build this staged folder")
    parser.add_argument("--to", type=Path, help="folder to write, with --stage")
    options = parser.parse_args(arguments)
    if (options.profile is None) == (options.stage is None) or (
        (options.stage is None) != (options.to is None)
    ):
        parser.error("give either --profile, or --stage together with --to")
    if options.stage is not None:
        build(options.stage, options.to, options.cores)
    else:
        site = build_profile(options.profile, options.cores)
        if options.receipt is not None:
            options.receipt.write_text(f"{site.relative_to(ROOT / '_build').as_posix()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Build the site: stage what it needs, let jupyter-book render it, complete the pages.

``python -m workflow.site --profile quick`` stages ``_build/quick/stage`` from what the profile's
notebooks left behind and builds it to ``_build/sites/<digest>``; the name says what is in it, so a
site that is being read is never written to. With ``--receipt FILE`` the folder's path from
``_build`` is written there, for ``workflow.publish``.

``python -m workflow.site --stage FOLDER --to FOLDER`` only builds a folder staged before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from workflow.archived import archive_profile
from workflow.command import Parser, command
from workflow.environment import clean
from workflow.processes import partial_folder, started
from workflow.site_html import finish
from workflow.sources import ROOT, BuildError
from workflow.stage import stage, trained_runs

# jsonschema would compile the grammars of rfc3987_syntax, if it is there, for a second; no page
# needs them.
_START = "import sys; sys.modules['rfc3987_syntax'] = None; from jupyter_book.cli.main import main"
JUPYTER_BOOK = (sys.executable, "-c", f"{_START}; main()", "build")
OPTIONS = ("-W", "--keep-going", "-n", "-q")  # warnings are errors; so are references to nothing


def build(staged: Path, to: Path) -> None:
    """Render a staged folder.

    Parameters
    ----------
    staged
        What :func:`workflow.stage.stage` wrote.
    to
        Folder of the site; replaced as a whole when everything has succeeded.

    Raises
    ------
    BuildError
        If jupyter-book warned of anything, or a page is not fit to be shown; ``to`` is then left
        as it was.
    """
    if not (staged / "book" / "_toc.yml").is_file():
        raise BuildError(f"{staged} holds no staged book; run python -m workflow.stage first")
    with partial_folder(to.parent, f"{to.name}.") as work:
        call = [*JUPYTER_BOOK, str(staged / "book"), "--path-output", str(work), *OPTIONS]
        environment = clean() | {"NO_COLOR": "1"}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with started(call, env=environment, **output) as process:
            said, _ = process.communicate()
        if process.returncode != 0:
            raise BuildError(f"jupyter-book refused the book:\n{complaints(said)}")
        site = work / "_build" / "html"
        finish(site)
        shutil.rmtree(to, ignore_errors=True)
        os.replace(site, to)


def complaints(log: str) -> str:
    """What a log of jupyter-book complains about: its warnings and errors, else all of it."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    lines = [line for line in plain.splitlines() if re.search(r"\b(WARNING|ERROR|error)\b", line)]
    return "\n".join(dict.fromkeys(lines)) or plain.strip()


def digest(site: Path) -> str:
    """Digest of a folder's content: names and bytes of all its files."""
    found = hashlib.sha256()
    for path in sorted(site.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{path.relative_to(site).as_posix()} {content}\n".encode())
    return found.hexdigest()


def build_profile(profile: str, root: Path = ROOT) -> Path:
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
    build(folder / "stage", fresh)
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
    parser.add_argument("--receipt", type=Path, help="file to write the site's path to")
    parser.add_argument("--stage", type=Path, help="build this staged folder")
    parser.add_argument("--to", type=Path, help="folder to write, with --stage")
    options = parser.parse_args(arguments)
    if (options.profile is None) == (options.stage is None) or (
        (options.stage is None) != (options.to is None)
    ):
        parser.error("give either --profile, or --stage together with --to")
    if options.stage is not None:
        build(options.stage, options.to)
    else:
        site = build_profile(options.profile)
        if options.receipt is not None:
            options.receipt.write_text(f"{site.relative_to(ROOT / '_build').as_posix()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

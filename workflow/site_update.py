"""Which pages does an edit change? Only they are rendered, if that gives the same site.

A site that was rendered whole is kept beside the build, with the digests of all that it was made
of and with what Sphinx remembers of it. While nothing but the sources of a few pages differs from
then, and these pages show the others nothing new, the next site is a copy of the kept one with
these pages in place of theirs: byte for byte what rendering everything would give. Every other
change has everything rendered, and that is kept in turn; what is kept is never written to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from workflow.site_html import finish_pages, stylesheet_links
from workflow.sources import ROOT, BuildError

FEW = 5
"""Of more pages than this, rendering everything takes about as long."""
INDEX = "searchindex.js"
OFFERED = "book/_extra/"
"""What lies here is part of the site as it is."""

Render = Callable[[Path, Path, Sequence[str]], bool]
"""Render pages of the staged book to a folder, by what Sphinx remembers; False if it cannot."""


def digest(folder: Path) -> str:
    """Digest of a folder's content: names and bytes of all its files."""
    found = hashlib.sha256()
    for name, content in digests(folder).items():
        found.update(f"{name} {content}\n".encode())
    return found.hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Path of each file in a folder -> digest of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def made_of(staged: Path) -> dict[str, str]:
    """Everything that a site depends on, by name: staged files, this workflow, the packages."""
    around = surroundings() | {"folder": str(staged.resolve())}
    hashed = {name: hashlib.sha256(of.encode()).hexdigest() for name, of in around.items()}
    return hashed | digests(staged)


def surroundings() -> dict[str, str]:
    """What decides what is made of the inputs: Python, packages, the workflow, the library."""
    code = sorted([*(ROOT / "workflow").glob("*.py"), *(ROOT / "promptlib").rglob("*.py")])
    packages = sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*-info"))
    return {
        "python": sys.version,
        "packages": " ".join(packages),
        **{f"code {path.relative_to(ROOT)}": path.read_text(encoding="utf-8") for path in code},
    }


def keep(staged_of: dict[str, str], site: Path, trees: Path, kept: Path) -> None:
    """Keep a site that was rendered whole.

    Parameters
    ----------
    staged_of
        What :func:`made_of` said before it was rendered.
    site
        The finished site; its files are linked to, so they must not be written to any more.
    trees
        What Sphinx remembers of it; moved away.
    kept
        Folder to keep it in; replaced.
    """
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    os.replace(trees, kept / "trees")
    shutil.copytree(site, kept / "site", copy_function=_link)
    record = {"made_of": staged_of, "site": digest(site)}
    (kept / "record.json").write_text(json.dumps(record), encoding="utf-8")


def update(
    staged_of: dict[str, str], staged: Path, kept: Path, work: Path, render: Render
) -> Path | None:
    """The finished site that rendering everything would give, if a few pages are enough for it.

    Parameters
    ----------
    staged_of
        What :func:`made_of` says now.
    staged
        The staged book.
    kept
        What :func:`keep` kept.
    work
        Empty folder to work in.

    Returns
    -------
    Path or None
        Folder of the site, in ``work``; None if everything has to be rendered.
    """
    pages = _changed_pages(staged_of, kept)
    if pages is None:
        return None
    trees, raw, site = work / "trees", work / "few", work / "site"
    shutil.copytree(kept / "trees", trees, copy_function=_link)
    for name in ["environment.pickle", *(f"{page}.doctree" for page in pages)]:
        _unlink_from(kept / "trees" / name, trees / name)
    if pages and not render(raw, trees, pages):
        return None
    shutil.copytree(kept / "site", site, copy_function=_link)
    if pages:
        names = [f"{page}.html" for page in pages]
        if len({stylesheet_links(raw, name) for name in [*names, "index.html"]}) > 1:
            return None
        try:
            finish_pages(raw, names)
        except BuildError:
            return None  # rendering everything says it in full
        for name in [*names, INDEX]:
            _unlink_from(raw / name, site / name)
    for path in (staged / OFFERED).rglob("*"):
        if path.is_file():
            _unlink_from(path, site / path.relative_to(staged / OFFERED))
    return site


def _changed_pages(staged_of: dict[str, str], kept: Path) -> list[str] | None:
    """The pages whose sources differ from those of the kept site; None if more differs."""
    try:
        record = json.loads((kept / "record.json").read_bytes())
    except (OSError, ValueError):
        return None
    before = record["made_of"]
    if before.keys() != staged_of.keys() or digest(kept / "site") != record["site"]:
        return None
    pages = []
    for name in (name for name in staged_of if staged_of[name] != before[name]):
        path = Path(name)
        if path.suffix in (".md", ".ipynb") and name.startswith("book/") and "/_" not in name:
            pages.append(path.relative_to("book").with_suffix("").as_posix())
        elif not name.startswith(OFFERED):
            return None
    return pages if len(pages) <= FEW else None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _unlink_from(source: Path, target: Path) -> None:
    """Replace a file that may be a link to a kept one by a copy of ``source``."""
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)

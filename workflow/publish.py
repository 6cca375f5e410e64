"""How does a reader never see a half-built site?

A finished site lies in a folder of its own, and ``_build/html`` is a symbolic link to one of them.
Publishing replaces the link in one step: whoever opens a page at any moment, or kills the build at
any moment, finds either the site before or the site after.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from workflow.sources import BuildError


def publish(site: Path, html: Path) -> Path:
    """Make ``html`` show the site, and delete sites beside the site that are out of use.

    In use are the site, the one published before, whose pages a reader may have open, and those
    that a profile's ``site.receipt`` names.

    Parameters
    ----------
    site
        Folder of a finished site; the folder around it holds sites only.
    html
        Address at which the site is read; a symbolic link, or nothing yet.

    Returns
    -------
    Path
        ``html``.

    Raises
    ------
    BuildError
        If the site has no home page, or ``html`` is a real folder or file.
    """
    if not (site / "index.html").is_file():
        raise BuildError(f"{site} is not a finished site: it has no index.html")
    if html.exists() and not html.is_symlink():
        raise BuildError(f"{html} is not a link made by this project; move it away first")
    before = html.resolve() if html.is_symlink() else None
    if before == site.resolve():
        return html
    html.parent.mkdir(parents=True, exist_ok=True)
    link = html.with_name(f".{html.name}.{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(
        os.path.relpath(site.resolve(), html.parent.resolve()), target_is_directory=True
    )
    os.replace(link, html)
    receipts = html.parent.glob("*/site.receipt")
    promised = {(html.parent / receipt.read_text().strip()).resolve() for receipt in receipts}
    _prune(site.parent, {site.resolve(), before, *promised})
    return html


def _prune(folder: Path, used: set[Path | None]) -> None:
    """Delete finished sites out of use; hidden folders belong to the builds that write them."""
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.resolve() not in used:
            shutil.rmtree(path, ignore_errors=True)

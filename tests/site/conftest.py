"""The built site, a server for it, and one browser for all tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.site.served import served

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "book" / "_ext"))

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def site() -> Path:
    """The built site: ``$PROMPTBOOK_SITE`` or ``_build/html``."""
    folder = Path(os.environ.get("PROMPTBOOK_SITE", PROJECT / "_build" / "html"))
    if not (folder / "index.html").is_file():
        pytest.fail(f"there is no site at {folder}; run: make book", pytrace=False)
    return folder.resolve()


@pytest.fixture(scope="session")
def address(site):
    """Address of the site on a local server, without a slash at the end."""
    with served(site) as there:
        yield there


@pytest.fixture(scope="session")
def browser():
    """Chromium, started once."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("Chromium is missing; to run the browser tests: sudo apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield started
        started.close()

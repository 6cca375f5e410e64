"""Books that are built once for all tests of the workflow, in however many processes they run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.pipeline import small_book
from tests.pipeline.small_book import FIGURE, Book


def built_once(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], Book]) -> Path:
    """Folder of a book; the first process to ask writes and builds it, the others wait."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "said").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            status, output = write(folder / "book").build()
            assert status == 0, output
            (folder / "said").write_text(output)
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A built book that no test changes, committed to git, and what its build printed."""

    def write(root):
        book = small_book.make(root)
        with (root / "notebooks" / "small" / "first" / "first.md").open("a") as file:
            file.write(FIGURE)
        name = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        for call in (["init"], ["add", "."], [*name, "commit", "--message", "All"]):
            subprocess.run(["git", *call], cwd=root, check=True, capture_output=True)
        return book

    folder = built_once(tmp_path_factory, "published", write)
    return Book(folder / "book"), (folder / "said").read_text()


@pytest.fixture(scope="session")
def sketched(tmp_path_factory):
    """A built book of one notebook whose pages are sketches; no test changes it."""
    folder = built_once(
        tmp_path_factory, "sketched", lambda root: small_book.make(root, ["first"], sketch=True)
    )
    return Book(folder / "book")

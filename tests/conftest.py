"""What tests share, and what each leaves behind: nothing that changes another one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def built_claims() -> list[dict[str, Any]]:
    """The claims of the last build of the quick profile, which `make test` makes first."""
    path = PROJECT / "_build" / "quick" / "claims.json"
    if not path.is_file():
        pytest.fail("the book has not been built; run: make book", pytrace=False)
    claims: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["claims"]
    return claims


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with builds first, then those with a browser: no long one is left for the end.

    `make test` hands out whole files in this order to as many processes as there are cores.
    """
    slow: dict[Path, int] = {}
    for item in items:
        for place, mark in enumerate(("browser", "pipeline"), 1):
            if item.get_closest_marker(mark):
                slow[item.path] = max(place, slow.get(item.path, 0))
    items.sort(key=lambda item: -slow.get(item.path, 0))


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    """Close figures after each test, and forget how many the book's theme allows to be open.

    A test may draw more figures than a notebook shows at once, and the theme is global: whether it
    warned would depend on which test of the same process came before.
    """
    yield
    if "matplotlib.pyplot" in sys.modules:
        import matplotlib
        import matplotlib.pyplot as plt

        plt.close("all")
        name = "figure.max_open_warning"
        matplotlib.rcParams[name] = matplotlib.rcParamsDefault[name]

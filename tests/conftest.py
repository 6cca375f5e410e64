"""What every test leaves behind: nothing that changes another one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


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

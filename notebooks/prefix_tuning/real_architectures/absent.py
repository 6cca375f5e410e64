"""What stands where a figure would be, when the optional extra is not installed?"""

from __future__ import annotations

import matplotlib.pyplot as plt

from notebooks.prefix_tuning.real_architectures import extra
from promptlib import plotting

__all__ = ["show_absent"]


def show_absent(what: str) -> None:
    """Show a small figure that says what would be seen here, and how to get it.

    Parameters
    ----------
    what : str
        Completes "This figure would show …".
    """
    figure, axes = plt.subplots(figsize=(plotting.WIDTH, 1.5))
    axes.axis("off")
    axes.text(0.5, 0.65, "not in this build", ha="center", va="center", transform=axes.transAxes)
    axes.text(
        0.5,
        0.3,
        f"to see it: {extra.HOW}",
        ha="center",
        va="center",
        transform=axes.transAxes,
        family="monospace",
    )
    plotting.show(
        figure,
        f"This figure would show {what}. It is not in this build, because the optional extra "
        f"'{extra.NAME}' is not installed. To see it, run: {extra.HOW}",
    )

"""The book's theme, without importing seaborn, is seaborn's with the book's changes."""

import matplotlib
import seaborn
from matplotlib.colors import to_hex

from promptlib import plotting


def test_the_theme_is_seaborns_with_our_changes():
    def settings(apply):
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            apply()
            found = {name: matplotlib.rcParams[name] for name in matplotlib.rcParams}
        colours = found.pop("axes.prop_cycle").by_key()["color"]
        families = found.pop("font.sans-serif")  # unused: the family is named
        assert "DejaVu Sans" in families
        return found, [to_hex(colour) for colour in colours]

    def seaborn_theme():
        palette = list(plotting.PALETTE.values())
        seaborn.set_theme(context="notebook", style="ticks", palette=palette, rc=plotting.OURS)
        matplotlib.rcParams["figure.max_open_warning"] = 4

    assert settings(plotting.use_theme) == settings(seaborn_theme)

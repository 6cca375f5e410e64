"""An explorer on a page of its own, served and opened as its tests need it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.site.served import served

ASSETS = Path(__file__).resolve().parents[2] / "book" / "assets"
PAGE = """<!doctype html>
<html lang="en" data-theme="{theme}"><head><meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'self';
 style-src 'self'" /><title>explorer</title>{head}</head>
<body><main>{above}<div id="e" class="{look}" data-explorer="{name}" role="group"
 aria-label="Explorer"></div></main>
<script defer src="explorers/page.js"></script>
<script defer src="explorers/{script}.js"></script></body></html>
"""


@contextmanager
def explorer_pages(folder: Path, name: str, look: str, **more: str) -> Iterator[str]:
    """Address of a server with ``light.html`` and ``dark.html``, each with the explorer.

    Parameters
    ----------
    folder
        Empty; the pages and the explorers are put there.
    name, look
        The explorer, with hyphens, and the class of its place.
    more
        ``head`` and ``above`` of the page; a ``{theme}`` in them is replaced.
    """
    shutil.copytree(ASSETS / "explorers", folder / "explorers")
    script = name.replace("-", "_")
    for theme in ("light", "dark"):
        parts = {part: more.get(part, "").format(theme=theme) for part in ("head", "above")}
        page = PAGE.format(theme=theme, name=name, look=look, script=script, **parts)
        (folder / f"{theme}.html").write_text(page, encoding="utf-8")
    with served(folder) as address:
        yield address


def opened(browser, address, ready, theme="light", width=900):
    """A page on which the selector ``ready`` is there; it collects its ``problems``."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(f"{address}/{theme}.html")
    page.wait_for_selector(ready)
    return page

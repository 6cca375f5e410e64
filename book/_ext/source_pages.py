"""Where can a reader see the code that a claim rests on, without leaving the book?

Every module that a claim speaks of, and every test file that a claim names, becomes a highlighted
page ``source/<path>.html`` with an anchor at each definition. So does the code of
each chapter, and every module that prose links to with the role ``{lib}``:
``{lib}`promptlib.claims.identity``` leads to the definition.
"""

from __future__ import annotations

import ast
import html
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from book_site import Relative, page_html, read_data
from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

LINKED = "source_pages_linked"
"""Key of a page's metadata: the sources that its prose links to."""


@dataclass(frozen=True)
class Place:
    """A definition in the sources: path of its file, qualified name (may be empty) and line."""

    path: str
    name: str
    line: int

    @property
    def page(self) -> str:
        """Address of the definition, from the site's root."""
        page = page_name(self.path) + ".html"
        return f"{page}#{self.name}" if self.name else page


def page_name(path: str) -> str:
    """Name of the page that shows the source file ``path``."""
    return "source/" + path.removesuffix(".py")


def definitions(source: str) -> dict[str, int]:
    """Qualified name -> first line (decorators included) of every definition in a module."""

    def visit(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, int]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
                yield prefix + node.name, first
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        yield prefix + target.id, node.lineno

    return dict(visit(ast.parse(source).body, ""))


class Sources:
    """The staged Python files, and where their definitions are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._definitions: dict[str, dict[str, int]] = {}

    def text(self, path: str) -> str:
        """The source of a file."""
        return (self.root / path).read_text(encoding="utf-8")

    def defined(self, path: str) -> dict[str, int]:
        """The definitions of a file."""
        if path not in self._definitions:
            self._definitions[path] = definitions(self.text(path))
        return self._definitions[path]

    def find(self, dotted: str) -> Place | None:
        """The definition that a dotted name means; names that a package re-exports are followed."""
        parts = dotted.split(".")
        for cut in range(len(parts), 0, -1):
            base, name = "/".join(parts[:cut]), ".".join(parts[cut:])
            if (self.root / f"{base}.py").is_file():
                return self._in_file(f"{base}.py", name)
            package = f"{base}/__init__.py"
            if (self.root / package).is_file():
                return self._in_file(package, name) or self._exported(parts[:cut], name)
        return None

    def find_test(self, node_id: str) -> Place | None:
        """The test that a pytest node id (``tests/test_x.py::test_y[case]``) means."""
        path, *names = node_id.split("[", 1)[0].split("::")
        if not (self.root / path).is_file():
            return None
        return self._in_file(path, ".".join(names))

    def _in_file(self, path: str, name: str) -> Place | None:
        if not name:
            return Place(path, "", 1)
        line = self.defined(path).get(name)
        return None if line is None else Place(path, name, line)

    def _exported(self, package: list[str], name: str) -> Place | None:
        first, _, rest = name.partition(".")
        for node in ast.walk(ast.parse(self.text("/".join([*package, "__init__.py"])))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    prefix = package[: len(package) - node.level + 1] if node.level else []
                    target = [*prefix, node.module, alias.name, *([rest] if rest else [])]
                    return self.find(".".join(target))
        return None


@cache
def sources(root: str) -> Sources:
    """The sources staged under ``root``; read once."""
    return Sources(Path(root))


def staged_sources(app: Sphinx) -> Sources:
    """The sources of this build."""
    return sources(str(Path(app.srcdir) / "_data" / "sources"))


class LibRole(SphinxRole):
    """``{lib}`promptlib.module.name``` links to the page of that definition."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link, or a warning when the name leads nowhere."""
        place = staged_sources(self.env.app).find(self.text)
        if place is None:
            message = self.inliner.reporter.warning(
                f"{{lib}}`{self.text}` is defined in no module", line=self.lineno
            )
            return [nodes.literal(text=self.text)], [message]
        metadata = self.env.metadata[self.env.docname]
        metadata[LINKED] = [*metadata.get(LINKED, []), place.path]
        return [page_html(lib_link, place.page, self.text)], []


def lib_link(relative: Relative, page: str, text: str) -> str:
    """A link to a definition."""
    return f'<a class="lib" href="{relative(page)}"><code>{html.escape(text)}</code></a>'


def render(source: str, marks: dict[str, int]) -> str:
    """A source file as HTML: one ``span`` a line, with anchors at lines and definitions.

    Parameters
    ----------
    source
        Python code.
    marks
        Name -> line of the definitions that get an anchor.
    """
    return with_anchors(highlighted(source), marks)


def highlighted(source: str) -> str:
    """The code with its colours, as many lines as it has."""
    return highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))


def with_anchors(code: str, marks: dict[str, int]) -> str:
    """Highlighted code as HTML, with the anchors of :func:`render`."""
    anchors: dict[int, list[str]] = {}
    for name, line in marks.items():
        anchors.setdefault(line, []).append(name)
    lines = []
    for number, line in enumerate(code.rstrip("\n").split("\n"), start=1):
        targets = "".join(f'<span id="{name}"></span>' for name in anchors.get(number, []))
        lines.append(f'{targets}<span class="line" id="L{number}">{line}</span>')
    body = "\n".join(lines)
    return (
        '<div class="highlight-python notranslate"><div class="highlight source-page">'
        f'<pre tabindex="0">{body}\n</pre></div></div>'
    )


def checked_by_path(app: Sphinx) -> dict[str, dict[str, dict[str, Any]]]:
    """Path of each file that claims rest on -> these claims by id."""
    found = staged_sources(app)
    checked: dict[str, dict[str, dict[str, Any]]] = {}
    for claim in read_data(app, "ledger.json"):
        places = [found.find(claim["checks"]), *map(found.find_test, claim["tests"])]
        for place in filter(None, places):
            checked.setdefault(place.path, {})[claim["id"]] = claim
    return checked


def chapter_paths(app: Sphinx) -> set[str]:
    """Paths of the chapters' own code."""
    notebooks = read_data(app, "build.json")["notebooks"]
    return {item["path"] for notebook in notebooks for item in notebook["code"]}


def highlight_beside(app: Sphinx) -> None:
    """Begin to highlight the sources on another core while Sphinx reads the pages."""
    _beside.clear()
    if app.parallel > 1:
        found = staged_sources(app)
        texts = [found.text(path) for path in {*checked_by_path(app), *chapter_paths(app)}]
        here, there = _FORK.Pipe(duplex=False)
        _FORK.Process(target=_highlight_each, args=(texts, there), daemon=True).start()
        there.close()
        _beside.append(here)


_FORK = get_context("fork")
_beside: list[Connection] = []
"""Where the process that highlights sends the highlighted code, by its text."""


def _highlight_each(texts: Sequence[str], to: Connection) -> None:
    to.send({text: highlighted(text) for text in texts})


def _highlighted_beside() -> dict[str, str]:
    """What :func:`highlight_beside` gave; nothing if it was not begun, or stopped."""
    try:
        return _beside.pop().recv() if _beside else {}
    except EOFError:
        return {}


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Write the source pages; none is left for Sphinx to write.

    They differ in their names and in what is in them only, so that one a folder's depth is written
    by the theme, and the others are made of it.
    """
    found, checked = staged_sources(app), checked_by_path(app)
    linked = {path for metadata in app.env.metadata.values() for path in metadata.get(LINKED, [])}
    linked |= chapter_paths(app)
    ready = _highlighted_beside()
    frames: dict[int, str] = {}
    for path in sorted(linked | set(checked)):
        name, text = page_name(path), found.text(path)
        depth = name.count("/")
        if depth not in frames:
            frames[depth] = _frame(app, depth)
        up = "../" * depth
        links = "".join(
            f'<li><a href="{up}{claim["notebook"]}.html#{claim["anchor"]}">'
            f"{html.escape(claim['id'])}</a></li>"
            for claim in checked.get(path, {}).values()
        )
        used = f'<p>Claims that rest on this file:</p><ul class="source-claims">{links}</ul>'
        code = with_anchors(ready.get(text) or highlighted(text), found.defined(path))
        body = f'<section id="source"><h1>{path}</h1>{used if links else ""}{code}</section>'
        target = Path(app.outdir) / f"{name}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        page = frames[depth].replace(_frame_name(depth), name).replace(_TITLE, html.escape(path))
        target.write_text(page.replace(_BODY, body), encoding="utf-8")
    yield from ()


_TITLE, _BODY = "title-of-the-frame", "body-of-the-frame"


def _frame_name(depth: int) -> str:
    return "/".join(["source-frame"] * (depth + 1))


def _frame(app: Sphinx, depth: int) -> str:
    """A page in a folder of this depth, with marks in place of its name, title and body."""
    name = _frame_name(depth)
    app.builder.handle_page(  # type: ignore[attr-defined]
        name, {"parents": [], "title": _TITLE, "body": _BODY}, "page.html"
    )
    page = (Path(app.outdir) / f"{name}.html").read_text(encoding="utf-8")
    shutil.rmtree(Path(app.outdir) / "source-frame")
    return page


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role and the pages."""
    app.add_role("lib", LibRole())
    app.connect("html-collect-pages", pages)
    app.connect("builder-inited", lambda app: sources.cache_clear())
    app.connect("env-before-read-docs", lambda app, env, names: highlight_beside(app))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""How do pages show what this build was made of?

Directives that render ``_data/build.json``, which staging writes, as plain HTML:

``{notebook-header} wing/name``
    downloads, profile, run time and peak memory, below the title of a notebook;
``{published-size} wing/name``
    the chapter's headline: what archived runs gave at the published size;
``{chapter-code} wing/name``
    the modules in the chapter's folder, each with what it answers;
``{parameter-table} profile``
    a caption around the table of parameters that a notebook was run with;
``{build-table} versions|notebooks|parameters|machine|runs|one-seed|published-cost|robust``
    the generated tables of the reproducibility page.

A copy that was published although the gate was closed has ``_data/gate.json``; its pages carry a
banner, which ``_templates/layout.html`` puts at their top.

Whatever differs between two builds of the same commit stands in an element with
``class="measured"``, so that builds can be compared without it.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from build_tables import TABLES, duration, table
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective


class PageHtml(nodes.General, nodes.Element):
    """HTML made when its page is written, so that it can hold links relative to the page.

    ``render(relative, *arguments)`` makes it, where ``relative`` takes a path from the site's root
    to an address relative to the page; both have to survive pickling. In contrast to a raw node
    its text does not enter the search index.
    """


Relative = Callable[[str], str]


def page_html(render: Callable[..., str], *arguments: Any) -> PageHtml:
    """A node for the HTML that ``render`` makes; see :class:`PageHtml`."""
    node = PageHtml()
    node["render"], node["arguments"] = render, arguments
    return node


def visit_page_html(translator: Any, node: PageHtml) -> None:
    """Write the HTML of the node."""
    depth = translator.builder.current_docname.count("/")
    translator.body.append(node["render"](lambda path: "../" * depth + path, *node["arguments"]))
    raise nodes.SkipNode


def skip_page_html(translator: Any, node: PageHtml) -> None:
    """Leave the node out of formats other than HTML."""
    raise nodes.SkipNode


def read_data(app: Sphinx, name: str) -> Any:
    """One of the JSON files that staging wrote for the extensions."""
    path = Path(app.srcdir) / "_data" / name
    if not path.is_file():
        raise ExtensionError(
            f"{path} is missing: this book is built from a staged copy; run 'make book'"
        )
    return json.loads(path.read_text(encoding="utf-8"))


class NotebookHeader(SphinxDirective):
    """Downloads and measurements of the notebook named."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the header's node."""
        build = read_data(self.env.app, "build.json")
        name = self.arguments[0]
        record = next((item for item in build["notebooks"] if item["name"] == name), None)
        if record is None:
            raise self.error(f"notebook {name!r} is not in build.json")
        return [page_html(notebook_header, record, build["profile"])]


def notebook_header(relative: Relative, record: dict[str, Any], profile: str) -> str:
    """The line below a notebook's title."""
    name = html.escape(record["name"])
    links = " ".join(
        f'<a class="notebook-download" href="{relative(f"notebooks/{name}.{suffix}")}" download>'
        f'{label} <span class="suffix">.{suffix}</span></a>'
        for suffix, label in (("md", "Notebook source"), ("ipynb", "Executed notebook"))
    )
    return (
        f'<div class="notebook-header"><p class="notebook-links">{links}</p>'
        f'<p class="notebook-run">Executed in the <b>{html.escape(profile)}</b> profile: '
        f'<span class="measured">{duration(record["seconds"])}, '
        f"{record['peak_memory_mib']:,.0f} MiB at its peak</span>. "
        f'<a href="{relative("rerun.html")}">How to rerun it</a></p></div>'
    )


class PublishedSize(SphinxDirective):
    """What archived runs of the chapter named gave at the published size."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        build = read_data(self.env.app, "build.json")
        name = self.arguments[0]
        record = next(item for item in build["notebooks"] if item["name"] == name)
        return [page_html(published_size, record, build["profile"])]


def published_size(relative: Relative, record: dict[str, Any], profile: str) -> str:
    """The tables below a chapter's title."""

    def sentence(row: dict[str, Any]) -> str:
        return f'<a href="#{row["anchor"]}">{row["sentence_html"]}</a>'

    def figure(row: dict[str, Any]) -> str:
        mean = f"{row['mean']:.2f}"
        if row["interval"] is None:
            return f"{mean} (one seed)"
        low, high = row["interval"]
        return f'{mean} <span class="nowrap">({low:.2f} to {high:.2f})</span>'

    def unit(rows: list[dict[str, Any]]) -> str:
        units = {row["unit"] for row in rows}
        return f", {units.pop()}" if len(units) == 1 else ""

    rows, turned = record["published_size"], record["turned"]
    seeds = sorted({row["seeds"] for row in [*rows, *turned]})
    many = " to ".join(str(number) for number in dict.fromkeys((seeds[0], seeds[-1])))
    plural = "s" if seeds[-1] > 1 else ""
    archive = f'<a href="{relative("reproducibility.html")}#the-archive">the archive</a>'
    text = (
        f"<p><b>At the published size</b>, over {many} seed{plural} and full sweeps, trained "
        f"before this build ({archive}), with 95 % intervals. The runs on this page, of the "
        f"{html.escape(profile)} profile, are a rehearsal of it.</p>"
    )
    if rows:
        body = [
            [
                sentence(row),
                f"{row['published']:g}",
                figure(row),
                f"{html.escape(row['verdict'])}; {html.escape(row['replication'])}",
            ]
            for row in rows
        ]
        head = ["Sentence", "Published", f"Here{unit(rows)}", "True? The same?"]
        text += fold(
            f"Published figures: {counted(row['replication'] for row in rows)}",
            table("Published figures", head, body),
        )
    if turned:
        body = [
            [sentence(row), figure(row), f"<b>{html.escape(row['verdict'])}</b>"] for row in turned
        ]
        head = ["Sentence", f"At the published size{unit(turned)}", "There"]
        text += fold(
            "Otherwise than in this build's small runs: "
            f"{counted(row['verdict'] for row in turned)}",
            table("Otherwise than in the small runs", head, body),
        )
    return f'<aside class="published-size" aria-label="At the published size">{text}</aside>'


def counted(words: Iterable[str]) -> str:
    """How often which word, such as "7 reproduced, 1 weaker"."""
    return ", ".join(f"{many} {word}" for word, many in Counter(words).most_common())


def fold(summary: str, inside: str) -> str:
    """What is shown when a reader opens it; in print it is open."""
    title = f"<summary>{html.escape(summary)}</summary>"
    return f'<details class="build-details">{title}{inside}</details>'


class ChapterCode(SphinxDirective):
    """The modules that serve the chapter named."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the list; nothing where the chapter has no code of its own."""
        build = read_data(self.env.app, "build.json")
        name = self.arguments[0]
        code = next(item["code"] for item in build["notebooks"] if item["name"] == name)
        return [page_html(chapter_code, name, code)] if code else []


def chapter_code(relative: Relative, name: str, code: list[dict[str, str]]) -> str:
    """The list at the end of a chapter."""
    items = "".join(
        f'<li><a class="lib" href="{relative(source_page(item["path"]))}">'
        f"<code>{html.escape(item['path'].rpartition('/')[2])}</code></a> "
        f"{html.escape(item['asks'])}</li>"
        for item in code
    )
    return (
        f'<aside class="chapter-code" aria-label="Code of this chapter"><p>The code that serves '
        f"this chapter alone, in <code>notebooks/{html.escape(name)}</code>:</p>"
        f"<ul>{items}</ul></aside>"
    )


def source_page(path: str) -> str:
    """Address, from the site's root, of the page that shows a source file."""
    return f"source/{path.removesuffix('.py')}.html"


class ParameterTable(SphinxDirective):
    """A heading and a frame around the table of a notebook's parameters."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the framed table."""
        frame = nodes.container(classes=["parameter-table"])
        frame += nodes.paragraph(
            "", f"Parameters in the {self.arguments[0]} profile", classes=["parameter-title"]
        )
        self.state.nested_parse(self.content, self.content_offset, frame)
        return [frame]


class BuildTable(SphinxDirective):
    """One of the generated tables of the reproducibility page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table's node."""
        kind = self.arguments[0]
        if kind not in TABLES:
            raise self.error(f"build-table must be one of {', '.join(TABLES)}; got {kind!r}")
        build = read_data(self.env.app, "build.json")
        if kind == "robust":
            ledger = read_data(self.env.app, "ledger.json")
            build["anchors"] = {claim["id"]: claim["anchor"] for claim in ledger}
        return [page_html(TABLES[kind], build)]


SHOWN_AT_ONCE = 3
"""So many failed checks the banner lists openly; more are folded."""


def gate_banner(problems: list[str], ledger: str) -> str:
    """The banner of a copy that was published although checks failed.

    Parameters
    ----------
    problems
        What failed, a line each.
    ledger
        Address of the ledger.
    """
    items = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
    listed = f"<ul>{items}</ul>"
    if len(problems) > SHOWN_AT_ONCE:
        listed = f"<details><summary>{len(problems)} checks failed</summary>{listed}</details>"
    return (
        '<section class="gate-banner" aria-label="Warning"><div><p><strong>This copy of the book '
        "was published although checks failed.</strong> Do not rely on what is named here; the "
        f'<a href="{ledger}">ledger</a> has what was measured.</p>{listed}</div></section>'
    )


def add_banner(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give a page the banner, if the gate was closed."""
    path = Path(app.srcdir) / "_data" / "gate.json"
    gate = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"open": True}
    if not gate["open"]:
        context["gate_banner"] = gate_banner(gate["problems"], context["pathto"]("ledger"))


class _RememberedTrees:
    """The build environment, but reading each page's tree from disk only once."""

    def __init__(self, env: BuildEnvironment) -> None:
        self._env = env
        self.get_doctree = cache(env.get_doctree)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class QuickStandardDomain(StandardDomain):
    """Sphinx reads the whole tree of a page for each reference to a numbered figure on it.

    With many figures in long chapters that took longer than writing the pages.
    """

    def _resolve_numref_xref(self, env: Any, *arguments: Any) -> Any:
        if not hasattr(self, "_remembered"):
            self._remembered = _RememberedTrees(env)
        return super()._resolve_numref_xref(self._remembered, *arguments)  # type: ignore[arg-type]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_node(
        PageHtml,
        html=(visit_page_html, None),
        latex=(skip_page_html, None),
        text=(skip_page_html, None),
    )
    app.add_domain(QuickStandardDomain, override=True)
    app.add_directive("notebook-header", NotebookHeader)
    app.add_directive("chapter-code", ChapterCode)
    app.add_directive("published-size", PublishedSize)
    app.add_directive("parameter-table", ParameterTable)
    app.add_directive("build-table", BuildTable)
    app.connect("html-page-context", add_banner)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

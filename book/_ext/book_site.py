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
``{build-table} versions|notebooks|parameters|machine|runs|one-seed|robust``
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

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from promptlib.claims import VERDICTS


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
        text += table("At the published size", head, body)
    if turned:
        body = [
            [sentence(row), figure(row), f"<b>{html.escape(row['verdict'])}</b>"] for row in turned
        ]
        head = ["Sentence", f"At the published size{unit(turned)}", "There"]
        text += "<p>Otherwise than in this build's small runs:</p>"
        text += table("Otherwise than in the small runs", head, body)
    return f'<aside class="published-size" aria-label="At the published size">{text}</aside>'


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


def duration(seconds: float) -> str:
    """A duration in words: ``8.3 s``, ``2 min 05 s``, ``1 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def table(
    caption: str,
    head: Iterable[str],
    rows: Iterable[Iterable[str]],
    show_caption: bool = False,
) -> str:
    """An HTML table; the first cell of a row is its heading. Cells are HTML already.

    The caption names the table for screen readers; it is shown where no heading above says it.
    """
    hidden = "" if show_caption else ' class="visually-hidden"'
    caption = html.escape(caption)
    header = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for first, *rest in rows:
        body += f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest)
        body += "</tr>\n"
    return (
        f'<div class="build-table" role="region" aria-label="{caption}" tabindex="0">'
        f'<table class="table"><caption{hidden}>{caption}</caption>'
        f"<thead><tr>{header}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>"
    )


def measured(text: str) -> str:
    """Mark what differs between two builds of the same commit."""
    return f'<span class="measured">{html.escape(text)}</span>'


def _versions(relative: Relative, build: dict[str, Any]) -> str:
    rows = [[html.escape(name), html.escape(text)] for name, text in build["versions"].items()]
    return table("Versions", ["Package", "Version"], rows)


def _machine(relative: Relative, build: dict[str, Any]) -> str:
    rows = [[name.capitalize(), measured(text)] for name, text in build["machine"].items()]
    return table("Machine", ["Part", "This build"], rows)


def _notebooks(relative: Relative, build: dict[str, Any]) -> str:
    rows = [
        [
            f'<a href="{relative(item["name"] + ".html")}">{html.escape(item["title"])}</a>',
            measured(duration(item["seconds"])),
            measured(f"{item['peak_memory_mib']:,.0f} MiB"),
        ]
        for item in build["notebooks"]
    ]
    return table("Notebooks", ["Notebook", "Time", "Peak memory"], rows)


def _parameters(relative: Relative, build: dict[str, Any]) -> str:
    tables = []
    for item in build["notebooks"]:
        rows = [
            [
                f"<code>{html.escape(parameter['name'])}</code>",
                f"<code>{html.escape(parameter['used'])}</code>",
                html.escape(parameter["meaning"]),
            ]
            for parameter in item["parameters"]
        ]
        head = ["Parameter", "This build", "Meaning"]
        tables.append(table(item["title"], head, rows, show_caption=True))
    return "\n".join(tables)


def _runs(relative: Relative, build: dict[str, Any]) -> str:
    """The runs of each training function together, and all of them one by one in a fold."""
    if not build["runs"]:
        return '<p class="build-empty">This build trained no model.</p>'
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in build["runs"]:
        groups.setdefault(run["train"], []).append(run)
    summary, single = [], []
    for train, runs in groups.items():
        took = [float(run["seconds"]) for run in runs]
        seeds = sorted({run["config"]["seed"] for run in runs if "seed" in run["config"]})
        summary.append(
            [
                f"<code>{html.escape(train.partition(':')[2])}</code>",
                str(len(runs)),
                ", ".join(map(str, seeds)) or "none",
                measured(duration(sum(took))),
                measured(duration(max(took))),
            ]
        )
        single += [
            [f"<code>{html.escape(run['name'])}</code>", measured(duration(float(run["seconds"])))]
            for run in runs
        ]
    head = ["Training function", "Runs", "Seeds", "All together", "Longest"]
    every = table("Every training run", ["Run", "Training time"], single)
    return (
        table("Training runs", head, summary)
        + '<details class="build-details"><summary>Every run, as it is called in the store'
        + f"</summary>{every}</details>"
    )


def _one_seed(relative: Relative, build: dict[str, Any]) -> str:
    """One seed of every experiment at the published size, as it was archived."""
    archived = build["one_seed"]
    if archived is None:
        return '<p class="build-empty">No run at the published sizes has been archived.</p>'
    rows = [
        [
            html.escape(f"{row['experiment']}, {row['what']}"),
            html.escape(row["task"].replace("_", " ")),
            "" if row["published"] is None else f"{row['published']:.2f}",
            f"{row['percent']:.2f}",
            f"{row['steps']:,}",
            duration(row["seconds"]) if row["seconds"] else "",
        ]
        for row in archived["rows"]
    ]
    total = duration(sum(row["seconds"] for row in archived["rows"]))
    rows.append(["All together, on one core", "", "", "", "", total])
    head = ["Experiment", "Task", "Published, %", "Here, %", "Steps", "Training time"]
    return table("One seed at the published sizes", head, rows)


def _robust(relative: Relative, build: dict[str, Any]) -> str:
    """How the claims came out in repetitions: those that differed one by one, the rest counted."""
    found = build["robust"]
    if found is None or not found["cases"]:
        return (
            '<p class="build-empty">The repetitions have not been run; '
            "<code>make robust</code> runs them.</p>"
        )
    cases = found["cases"]
    one_by_one = [
        [
            f"<code>{html.escape(case['name'])}</code>",
            str(case["first_seed"]),
            html.escape(case["path"]),
            html.escape(case["processor"]),
            f'<span class="nowrap">{html.escape(case["date"])}</span>',
        ]
        for case in cases
    ]
    head = ["Repetition", "First seed", "Instructions", "Processor", "Date"]
    machines = table("Repetitions and their machines", head, one_by_one, show_caption=True)
    mixed = {name: counts for name, counts in found["claims"].items() if len(counts) > 1}
    same = Counter(next(iter(counts)) for counts in found["claims"].values() if len(counts) == 1)
    words = ", ".join(f"{same[verdict]} {verdict}" for verdict in VERDICTS if same[verdict])
    gate = "The gate was open in every repetition."
    if found["gate"]:
        items = "".join(f"<li>{html.escape(problem)}</li>" for problem in found["gate"])
        gate = f"The gate was closed by:</p><ul>{items}</ul><p>"
    text = (
        f"<p>Of {len(found['claims'])} claims, {sum(same.values())} came out the same way in all "
        f"{len(cases)} repetitions{f' ({words})' if words else ''}. {gate}</p>"
    )
    if not mixed:
        return machines + text
    rows = []
    for name, counts in sorted(mixed.items(), key=lambda item: max(item[1].values())):
        shown = f"<code>{html.escape(name)}</code>"
        if name in build["anchors"]:
            address = f"{relative('ledger.html')}#ledger-{build['anchors'][name]}"
            shown = f'<a href="{address}">{shown}</a>'
        often = (f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
        rows.append([shown, ", ".join(often)])
    caption = "Claims that did not come out the same way every time, the least settled first"
    counted = table(caption, ["Claim", "How often which verdict"], rows, show_caption=True)
    return machines + text + counted.replace("build-table", "build-table build-counts", 1)


TABLES: dict[str, Callable[[Relative, dict[str, Any]], str]] = {
    "versions": _versions,
    "machine": _machine,
    "notebooks": _notebooks,
    "parameters": _parameters,
    "runs": _runs,
    "one-seed": _one_seed,
    "robust": _robust,
}


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

"""Which statements does the book make, and what became of them in this build?

``{claims-ledger}`` renders ``_data/ledger.json``, which staging derives from ``claims.json``: a
summary, filters by part, kind and verdict, and a table with a row for each claim. The filters are
plain form controls that ``assets/book.js`` brings to life; without scripts every row is shown.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from book_site import Relative, page_html, read_data
from docutils import nodes
from source_pages import Sources, sources, staged_sources
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

VERDICTS = (
    "holds",
    "reproduced",
    "stronger",
    "weaker",
    "not reproduced",
    "fails",
    "not checked",
)
"""Verdicts in the order in which the summary names them."""
FILTERS = ("part", "kind", "verdict")
"""What the reader can narrow the table by."""

HAS_FORMULAS = "claims_ledger_has_formulas"
"""Mark of a page whose sentences may hold formulas."""

logger = logging.getLogger(__name__)


class ClaimsLedger(SphinxDirective):
    """The ledger of all claims."""

    def run(self) -> list[nodes.Node]:
        """Return the ledger's node."""
        app = self.env.app
        claims = read_data(app, "ledger.json")
        found = staged_sources(app)
        for claim in claims:
            if found.find(claim["checks"]) is None:
                logger.warning(
                    "claim %s checks %s, which is not defined in the library",
                    claim["id"],
                    claim["checks"],
                )
            for test in claim["tests"]:
                if found.find_test(test) is None:
                    logger.warning(
                        "claim %s names the test %s, which does not exist", claim["id"], test
                    )
        self.env.metadata[self.env.docname][HAS_FORMULAS] = True
        return [page_html(ledger, claims, str(found.root))]


def ledger(relative: Relative, claims: Sequence[dict[str, Any]], root: str) -> str:
    """The whole ledger as HTML; ``root`` is the folder of the staged sources."""
    found = sources(root)
    if not claims:
        return '<p class="build-empty">This build made no claims.</p>'
    rows = "\n".join(row(claim, found, relative) for claim in claims)
    columns = ("Verdict", "Claim", "Published", "This build", "Archived full-size run")
    head = "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in columns)
    return (
        f"{summary(claims)}\n{filters(claims)}\n"
        '<table class="ledger" id="ledger" role="table"><caption class="visually-hidden">'
        "All claims of the book</caption>"
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">\n{rows}\n</tbody></table>'
        "<p>The same records for programs: "
        f'<a href="{relative("claims.json")}">claims.json</a>.</p>'
    )


def summary(claims: Sequence[dict[str, Any]]) -> str:
    """How many claims got which verdict."""
    counts = Counter(claim["verdict"] for claim in claims)
    items = "".join(
        f'<li class="claim-{_slug(verdict)}"><b>{counts[verdict]}</b> '
        f'<span class="claim-verdict">{verdict}</span></li>'
        for verdict in VERDICTS
        if counts[verdict]
    )
    return f'<ul class="ledger-summary" aria-label="Claims by verdict">{items}</ul>'


def filters(claims: Sequence[dict[str, Any]]) -> str:
    """The form that narrows the table."""
    fields = ""
    for key in FILTERS:
        values = list(dict.fromkeys(claim[key] for claim in claims))
        if key == "verdict":
            values.sort(key=VERDICTS.index)
        options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
        fields += (
            f'<span><label for="ledger-{key}">{key.capitalize()}</label>'
            f'<select id="ledger-{key}" data-key="{key}"><option value="">all</option>'
            f"{options}</select></span>"
        )
    return (
        '<form class="ledger-filters" aria-label="Filter the claims" hidden>'
        f'{fields}<button type="reset">Show all</button>'
        '<p class="ledger-count" role="status"></p></form>'
    )


def row(claim: dict[str, Any], found: Sources, relative: Relative) -> str:
    """One claim as a table row."""

    def cell(label: str, content: str | None, kind: str) -> str:
        text = numbers(content) if content else '<span class="none">none</span>'
        return f'<td role="cell" class="{kind}" data-label="{label}"><div>{text}</div></td>'

    place = found.find(claim["checks"])
    links = [
        f'<a href="{relative(claim["notebook"] + ".html")}#{claim["anchor"]}">'
        f"{html.escape(claim['chapter'])}</a>"
    ]
    if place is not None:
        links.append(
            f'<a href="{relative(place.page)}"><code>{breakable(claim["checks"])}</code></a>'
        )
    for test in claim["tests"]:
        place = found.find_test(test)
        if place is not None:
            name = breakable(test.split("::")[-1])
            links.append(f'<a href="{relative(place.page)}"><code>{name}</code></a>')
    chain = '<span aria-hidden="true"> → </span>'.join(links)
    keys = "".join(f' data-{key}="{html.escape(claim[key])}"' for key in FILTERS)
    return (
        f'<tr role="row" class="claim-{_slug(claim["verdict"])}"'
        f' id="ledger-{claim["anchor"]}"{keys}>'
        f'<td role="cell" class="verdict" data-label="Verdict">'
        f'<span class="claim-verdict">{claim["verdict"]}</span> '
        f'<span class="claim-kind">{claim["kind"]}</span></td>'
        f'<td role="cell" class="sentence"><p>{claim["sentence_html"]}</p>'
        f'<p class="where"><code>{claim["id"]}</code> · {html.escape(claim["source"])}</p>'
        f'<p class="where">{chain}</p></td>'
        + cell("Published", claim["published"], "published")
        + cell("This build", claim["this_build"], "ours")
        + cell("Archived", claim["archived"], "archived")
        + "</tr>"
    )


def breakable(name: str) -> str:
    """A dotted or underscored name that may break behind each part."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", html.escape(name))


def numbers(text: str) -> str:
    """Text whose numbers do not break at the sign of their exponent."""
    return re.sub(r"[\d.]+e-\d+", r'<span class="nowrap">\g<0></span>', html.escape(text))


def _slug(verdict: str) -> str:
    return verdict.replace(" ", "-")


def load_mathjax(app: Sphinx, env: BuildEnvironment) -> None:
    """Tell Sphinx which pages hold formulas that it did not parse: MathJax is loaded only there."""
    for page, metadata in env.metadata.items():
        if HAS_FORMULAS in metadata:
            env.get_domain("math").data["has_equations"][page] = True


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("claims-ledger", ClaimsLedger)
    app.connect("env-updated", load_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""Which statements does the book make, and what became of them in this build?

``{claims-ledger}`` renders ``_data/ledger.json``, which staging derives from ``claims.json``: a
summary, filters, and a table with a row for each claim. The filters are plain
form controls that ``assets/book.js`` brings to life; without scripts every row is shown.

``{claim}`wing/name``` prints in prose what became of one claim, as a link to its row. An id that
is no claim of the build stops it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from book_site import Relative, page_html, read_data
from docutils import nodes
from source_pages import Sources, sources, staged_sources
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from promptlib.claims import REPLICATIONS, VERDICTS
from promptlib.claims.box import replication_html, slug

FILTERS = {
    "part": "Part",
    "kind": "Kind",
    "verdict": "Verdict",
    "replication": "Published figure",
}
"""What the reader can narrow the table by, and how it is called."""
ORDERS = {"verdict": VERDICTS, "replication": REPLICATIONS}
"""The order of a filter's values, where it is not that of the book."""
FIGURES = {
    "published": "published",
    "this build": "this_build",
    "published size, archived": "archived",
}
"""What a row tells of a claim, where there is something to tell; as in the claim's box."""

HAS_FORMULAS = "claims_ledger_has_formulas"
"""Mark of a page whose sentences may hold formulas."""

CLAIMS = "claims_ledger_claims"
"""Key of a page's temporary data: the claims of the build by their ids."""

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
                    "claim %s checks %s, which no module defines",
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


class ClaimRole(SphinxRole):
    """What became of the claim whose id is the text, as a link to its row of the ledger."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link, or a warning when no claim has this id."""
        if CLAIMS not in self.env.temp_data:  # read once for a page
            found = read_data(self.env.app, "ledger.json")
            self.env.temp_data[CLAIMS] = {claim["id"]: claim for claim in found}
        claim = self.env.temp_data[CLAIMS].get(self.text)
        if claim is None:
            message = self.inliner.reporter.warning(
                f"{{claim}}`{self.text}` is no claim of this build", line=self.lineno
            )
            return [nodes.literal(text=self.text)], [message]
        return [page_html(claim_link, claim)], []


def claim_link(relative: Relative, claim: dict[str, Any]) -> str:
    """A claim's name and verdict, and what it is beside a published figure, where there is one."""
    words = [f"published figure: {claim['replication']}"] if claim["replication"] else []
    there = [claim["archived_replication"] or ""]
    if claim["archived_verdict"] not in (None, claim["verdict"]):
        there.insert(0, claim["archived_verdict"])
    if any(there):
        words.append(f"at the published size: {', '.join(filter(None, there))}")
    beside = f' <span class="claim-beside">{"; ".join(words)}</span>' if words else ""
    return (
        f'<span class="claim-link claim-{slug(claim["verdict"])}">'
        f'<a href="{relative("ledger.html")}#ledger-{claim["anchor"]}">'
        f"{html.escape(claim['id'].partition('/')[2])}</a> "
        f'<span class="claim-verdict">{claim["verdict"]}</span>{beside}</span>'
    )


def ledger(relative: Relative, claims: Sequence[dict[str, Any]], root: str) -> str:
    """The whole ledger as HTML; ``root`` is the folder of the staged sources."""
    found = sources(root)
    if not claims:
        return '<p class="build-empty">This build made no claims.</p>'
    rows = "\n".join(row(claim, found, relative) for claim in claims)
    columns = ("Verdict", "Claim", "What was measured")
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
    """How many claims came out how: true or not, and as published or not."""
    lists = [
        _counted("Is the sentence true?", "verdict", VERDICTS, (c["verdict"] for c in claims)),
        _counted(
            "Is it what was published?",
            "replication",
            REPLICATIONS,
            (claim["replication"] for claim in claims),
        ),
        _counted(
            "And the archived runs at the published size?",
            "replication",
            REPLICATIONS,
            (claim["archived_replication"] for claim in claims),
        ),
    ]
    return "\n".join(filter(None, lists))


def _counted(question: str, kind: str, words: Sequence[str], found: Iterable[str | None]) -> str:
    """A list of how often each word was found; empty if none was."""
    counts = Counter(found)
    items = "".join(
        f'<li class="claim-{slug(word)}"><b>{counts[word]}</b> '
        f'<span class="claim-{kind}">{word}</span></li>'
        for word in words
        if counts[word]
    )
    if not items:
        return ""
    return (
        f'<div class="ledger-question"><p>{question}</p>'
        f'<ul class="ledger-summary" aria-label="{question}">{items}</ul></div>'
    )


def filters(claims: Sequence[dict[str, Any]]) -> str:
    """The form that narrows the table."""
    fields = ""
    for key, name in FILTERS.items():
        values = [value for value in dict.fromkeys(claim[key] for claim in claims) if value]
        if not values:
            continue
        if key in ORDERS:
            values.sort(key=ORDERS[key].index)
        options = "".join(f"<option>{html.escape(value)}</option>" for value in values)
        fields += (
            f'<span><label for="ledger-{key}">{name}</label>'
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
    keys = "".join(f' data-{key}="{html.escape(claim[key] or "")}"' for key in FILTERS)
    figures = "".join(
        f"<dt>{label}</dt><dd>{numbers(claim[key])}</dd>"
        for label, key in FIGURES.items()
        if claim[key] is not None
    )
    recorded = ""
    if claim["recorded"] is not None:
        recorded = f'<span class="claim-recorded">recorded: {claim["recorded"]}</span> '
    return (
        f'<tr role="row" class="claim-{slug(claim["verdict"])}"'
        f' id="ledger-{claim["anchor"]}"{keys}>'
        f'<td role="cell" class="verdict">'
        f'<span class="claim-verdict">{claim["verdict"]}</span> {recorded}'
        f"{replication_html(claim['replication'])}"
        f'<span class="claim-kind">{claim["kind"]}</span></td>'
        f'<td role="cell" class="sentence"><p>{claim["sentence_html"]}</p>'
        f'<p class="where"><code>{claim["id"]}</code> · {html.escape(claim["source"])}</p>'
        f'<p class="where">{chain}</p></td>'
        f'<td role="cell" class="measures"><dl class="claim-figures">{figures}</dl></td></tr>'
    )


def breakable(name: str) -> str:
    """A dotted or underscored name that may break behind each part."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", html.escape(name))


def numbers(text: str) -> str:
    """Text whose numbers do not break at the sign of their exponent."""
    return re.sub(r"[\d.]+e-\d+", r'<span class="nowrap">\g<0></span>', html.escape(text))


def load_mathjax(app: Sphinx, env: BuildEnvironment) -> None:
    """Tell Sphinx which pages hold formulas that it did not parse: MathJax is loaded only there."""
    for page, metadata in env.metadata.items():
        if HAS_FORMULAS in metadata:
            env.get_domain("math").data["has_equations"][page] = True


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the role."""
    app.add_directive("claims-ledger", ClaimsLedger)
    app.add_role("claim", ClaimRole())
    app.connect("env-updated", load_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

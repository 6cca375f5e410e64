"""What a browser sees on every page, gathered in one visit to each."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AXE = Path(__file__).resolve().parents[1] / "vendor" / "axe-core" / "axe.min.js"
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}

COLOUR_RULES = ["color-contrast", "link-in-text-block"]
"""The rules of axe that look at colours."""

LISTEN = """
window.cspViolations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.cspViolations.push(event.violatedDirective + " " + event.blockedURI));
"""

LOOK = r"""
() => {
  const article = document.querySelector("article, #main-content");
  const formulas = document.querySelectorAll("span.math, div.math");
  return {
    violations: window.cspViolations,
    images: Array.from(document.querySelectorAll("img")).map((image) => ({
      source: image.getAttribute("src"),
      alt: image.getAttribute("alt"),
      shown: image.offsetParent !== null,
      loaded: image.complete && image.naturalWidth > 0,
    })),
    formulas: formulas.length,
    untypeset: Array.from(formulas).filter((part) => !part.querySelector("mjx-container"))
      .map((part) => part.textContent),
    broken: Array.from(document.querySelectorAll("mjx-merror, [data-mjx-error]"))
      .map((part) => part.textContent),
    raw: (article.innerText.match(/\\\(|\\\[|\$\$/g) || []).length,
    policy: document.querySelector('meta[http-equiv="Content-Security-Policy"]') !== null,
  };
}
"""

# Formulas are drawn with thousands of elements, hidden from screen readers and all alike. Axe
# judges the first drawing of each kind and the MathML of all; boxes of their size replace the rest.
# Of the words of code it judges the first of every kind in every kind of place; the rest become
# text. So does it of the rows of the ledger.
THIN_OUT = r"""
() => {
  const kept = new Set(["span.math", "div.math"].map((kind) => document.querySelector(kind)));
  const drawings = Array.from(document.querySelectorAll("mjx-math"))
    .filter((drawing) => !kept.has(drawing.closest(".math")))
    .map((drawing) => [drawing, drawing.getBoundingClientRect()]);
  for (const [drawing, box] of drawings) {
    drawing.replaceChildren();
    drawing.style.cssText =
      `display: inline-block; padding: 0; width: ${box.width}px; height: ${box.height}px`;
  }
  const seen = new Set();
  const isNew = (kind) => seen.size < seen.add(kind).size;
  const place = (part) =>
    part ? `${part.tagName}.${part.className} ${place(part.parentElement)}` : "";
  for (const code of document.querySelectorAll("pre")) {
    const where = place(code);
    for (const word of code.querySelectorAll("span")) {
      if (!word.firstElementChild && !isNew(`${where} ${word.className}`)) {
        word.replaceWith(word.textContent);
      }
    }
    for (const line of code.querySelectorAll(".line")) {
      if (!line.firstElementChild && !isNew(`${where} line`)) {
        line.replaceWith(line.textContent);
      }
    }
    code.normalize();
  }
  for (const row of document.querySelectorAll("#ledger tbody tr")) {
    const kinds = Array.from(row.querySelectorAll("*"), (part) =>
      `${place(part).split(" TBODY")[0]} ${part.textContent.trim() ? "full" : "empty"}`);
    row.hidden = !kinds.filter(isNew).length;
  }
}
"""

AUDIT = """
async (rules) => {
  const options = { resultTypes: ["violations"], preload: false };
  if (rules) {
    options.runOnly = rules;
  }
  const found = await axe.run(document, options);
  return found.violations.map((rule) => `${rule.id}: ` + rule.nodes.slice(0, 3)
    .map((node) => node.target.join(" ") + " " + (node.any[0] ? node.any[0].message : ""))
    .join(" | "));
}
"""


@dataclass
class Visit:
    """What was seen on one page."""

    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    requests: int = 0
    seen: dict[str, Any] = field(default_factory=dict)
    audits: dict[str, list[str]] = field(default_factory=dict)
    phone_width: int = 0


def pages_of(site: Path) -> list[str]:
    """Every page of the site, by path."""
    return sorted(
        path.relative_to(site).as_posix()
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    )


def worth_a_visit(site: Path) -> list[str]:
    """Every page but those of code, and of these as many as show all that differs among them.

    ``test_pages_of_code_differ_in_their_code_alone`` holds the others to be like them. Here are the
    longest name, a page of every depth, one with a list of claims, and every kind of word.
    Where ``$PROMPTBOOK_PAGES`` names pages, it is these: for a site of which only they are new.
    """
    pages = pages_of(site)
    if asked := os.environ.get("PROMPTBOOK_PAGES", "").split():
        assert set(asked) <= set(pages), f"PROMPTBOOK_PAGES names a page that is not there: {asked}"
        return asked
    code = [name for name in pages if name.startswith("source/")]
    text = {name: (site / name).read_text(encoding="utf-8") for name in code}
    features = {
        name: {
            f"depth {name.count('/')}",
            *re.findall(r'<span class="([^"]*)">', text[name].split("<pre")[1]),
            *(["claims"] if 'class="source-claims"' in text[name] else []),
        }
        for name in code
    }
    chosen = [max(code, key=len)]
    missing = set().union(*features.values()) - features[chosen[0]]
    while missing:
        chosen.append(max(code, key=lambda name: (len(features[name] & missing), -len(text[name]))))
        missing -= features[chosen[-1]]
    return sorted({*pages} - {*code} | {*chosen})


class Visitor:
    """One browser tab that goes from page to page and takes notes.

    Parameters
    ----------
    context
        A Playwright browser context; a tab is opened in it.
    base
        Address of the site, ``http://…`` or ``file://…``.
    """

    def __init__(self, context: Any, base: str) -> None:
        self.base = base
        self.notes = Visit()
        self.page = context.new_page()
        self.page.add_init_script(LISTEN)
        self.page.on("request", self._requested)
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        self.page.on("pageerror", lambda error: self.notes.console.append(str(error)))
        self.page.on("console", self._said)

    def _requested(self, request: Any) -> None:
        self.notes.requests += 1
        if not request.url.startswith((f"{self.base}/", "data:", "blob:")):
            self.notes.outside.append(request.url)

    def _failed(self, request: Any) -> None:
        # What leaving a page cuts short, such as the icon of a tab, is not missing.
        if request.failure != "net::ERR_ABORTED":
            self.notes.failed.append(f"{request.failure} {request.url}")

    def _answered(self, answer: Any) -> None:
        if answer.status >= 400:
            self.notes.failed.append(f"{answer.status} {answer.url}")

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.notes.console.append(message.text)

    def visit(self, name: str, audit: bool) -> Visit:
        """Open a page, and with ``audit`` also judge it.

        Then its width is measured on a phone and axe-core runs twice: all rules in light colours,
        and in dark ones the rules about colour, since nothing else differs.
        """
        self.notes = notes = Visit()
        page = self.page
        page.set_viewport_size(DESK)
        page.goto(f"{self.base}/{name}", wait_until="load")
        page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise; }")
        notes.seen = page.evaluate(LOOK)
        if audit:
            page.set_viewport_size(PHONE)
            notes.phone_width = page.evaluate("document.documentElement.scrollWidth")
            page.set_viewport_size(DESK)
            page.evaluate("() => new Promise((done) => setTimeout(done, 50))")  # it sees the size
            page.evaluate(THIN_OUT)
            page.evaluate(AXE.read_text(encoding="utf-8"))
            for scheme, rules in (("dark", COLOUR_RULES), ("light", None)):
                page.emulate_media(color_scheme=scheme)
                until(page, f"document.documentElement.dataset.theme === '{scheme}'")
                notes.audits[scheme] = page.evaluate(AUDIT, rules)
        return notes


def until(page: Any, expression: str, seconds: float = 5) -> None:
    """Wait for a JavaScript expression to be true; the pages' policy forbids Playwright's way."""
    limit = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < limit, f"never became true: {expression}"
        page.wait_for_timeout(20)


def report(problems: Iterable[tuple[str, object]]) -> str:
    """Problems page by page, as text for an assertion; empty when there are none."""
    return "\n".join(
        f"{name}: {json.dumps(what, ensure_ascii=False)}" for name, what in problems if what
    )

"""The built site as files: links and anchors, vendored parts, size, nothing private."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.site.visits import pages_of

PROJECT = Path(__file__).resolve().parents[2]
VENDORED = ("book/assets/vendor/mathjax", "tests/vendor/axe-core")


class Addresses(HTMLParser):
    """Ids and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[tuple[str, str]] = []
        self.headings: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what the tag names and refers to."""
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "action", "poster", "data"):
                self.addresses.append((tag, value or ""))
            elif name == "srcset":
                raise AssertionError("images with srcset are not checked")


@pytest.fixture(scope="module")
def parsed(site):
    """Every page, parsed."""
    return {name: Addresses((site / name).read_text(encoding="utf-8")) for name in pages_of(site)}


def test_every_link_and_anchor_resolves(site, parsed):
    problems = []
    for name, page in parsed.items():
        for tag, address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "mailto"):
                if tag != "a":
                    problems.append(f"{name}: <{tag}> loads {address}")
                continue
            if parts.scheme == "data":
                continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            if not target.is_file():
                problems.append(f"{name}: {address} leads nowhere")
                continue
            key = target.resolve().relative_to(site).as_posix()
            if parts.fragment and key in parsed and unquote(parts.fragment) not in parsed[key].ids:
                problems.append(f"{name}: {address} has no such anchor")
    assert "\n".join(sorted(set(problems))) == ""


def test_ids_are_unique(parsed):
    problems = {
        name: [key for key, count in Counter(page.ids).items() if count > 1]
        for name, page in parsed.items()
    }
    assert {name: ids for name, ids in problems.items() if ids} == {}


def test_headings_are_an_outline(parsed):
    for name, page in parsed.items():
        assert page.headings.count(1) == 1, f"{name}: {page.headings}"
        inside = page.headings[page.headings.index(1) :]
        steps = [after - before for before, after in itertools.pairwise(inside)]
        assert max(steps, default=0) <= 1, f"{name} skips a level: {page.headings}"


def test_every_file_of_the_site_is_used(site, parsed):
    referred = {
        ((site / name).parent / unquote(urlsplit(address).path)).resolve()
        for name, page in parsed.items()
        for _, address in page.addresses
        if not urlsplit(address).scheme and urlsplit(address).path
    }
    referred |= {path.with_suffix(".css") for path in referred}  # a script may bring its own styles
    idle = [
        path.relative_to(site).as_posix()
        for path in site.rglob("*")
        if path.is_file()
        and path.resolve() not in referred
        and path.suffix != ".html"
        and not path.relative_to(site).as_posix().startswith("_static/vendor/")
        and path.name not in ("objects.inv",)
    ]
    assert idle == []


def test_pages_of_code_differ_in_their_code_alone(site, parsed):
    """So that a browser need visit a few of them only, see ``worth_a_visit``."""
    shapes = {}
    for name in parsed:
        if name.startswith("source/"):
            page = (site / name).read_text(encoding="utf-8")
            before, article = page.split('<section id="source">')
            code, after = article.split("</pre>")
            assert re.fullmatch(
                r"<h1>[\w/]+\.py</h1>"
                r"(<p>Claims that rest on this file:</p><ul class=\"source-claims\">"
                r"(<li><a href=\"[^\"<>]*\">[\w/-]+</a></li>)+</ul>)?"
                r"<div class=\"highlight-python notranslate\"><div class=\"highlight source-page\">"
                r"<pre tabindex=\"0\">(</?span[^<>]*>|[^<>])*",
                code,
            ), name
            stem = name.removesuffix(".html")
            frame = re.sub(r"'sha256-[^']*'", "", before + after)
            for own in (stem, stem.removeprefix("source/") + ".py", "../" * name.count("/")):
                frame = frame.replace(own, "…")
            shapes.setdefault(frame, name)
    assert len(shapes) == 1, list(shapes.values())[:2]


def test_the_policy_of_every_page_names_its_own_scripts(site, parsed):
    for name in parsed:
        page = (site / name).read_text(encoding="utf-8")
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
        scripts = re.findall(
            r"<script(?![^>]*\b(?:src|application/json)\b)[^>]*>(.*?)</script>", page, re.DOTALL
        )
        allowed = {
            base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts
        }
        assert set(re.findall("'sha256-([^']*)'", policy)) == allowed, name


def test_every_claim_box_is_in_claims_json(site, parsed):
    claims = json.loads((site / "claims.json").read_text(encoding="utf-8"))["claims"]
    boxes = {
        (name, key)
        for name, page in parsed.items()
        for key in page.ids
        if key.startswith("claim-") and not name.startswith("source/")
    }
    assert boxes == {
        (f"{claim['notebook']}.html", "claim-" + claim["id"].replace("/", "-")) for claim in claims
    }


def test_published_and_archived_figures_stand_beside_ours(site):
    claims = json.loads((site / "claims.json").read_text(encoding="utf-8"))["claims"]
    for claim in claims:
        if claim["details"].get("published") is None:
            continue
        page = (site / f"{claim['notebook']}.html").read_text(encoding="utf-8")
        box = page.split(f'id="claim-{claim["id"].replace("/", "-")}"')[1].split("</dl>")[0]
        assert "<dt>published</dt>" in box
        assert "<dt>this build</dt>" in box


@pytest.mark.parametrize("folder", VENDORED)
def test_vendored_files_are_unchanged(folder):
    vendored = PROJECT / folder
    listed = dict(
        reversed(line.split("  ", 1)) for line in (vendored / "CHECKSUMS").read_text().splitlines()
    )
    found = {
        path.relative_to(vendored).as_posix()
        for path in vendored.rglob("*")
        if path.is_file() and path.name not in ("VERSION", "CHECKSUMS")
    }
    assert found == set(listed)
    for name, checksum in listed.items():
        assert hashlib.sha256((vendored / name).read_bytes()).hexdigest() == checksum, name
    assert any(name.startswith("LICENSE") for name in found)


def test_the_site_stays_small(site):
    sizes = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    chapters = sum(path.suffix == ".ipynb" for path in sizes)
    # Fonts and scripts; then each chapter, with its figures and the pages of its code.
    assert sum(sizes.values()) < 4e6 + 2.3e6 * chapters
    pages = {path: size for path, size in sizes.items() if path.suffix == ".html"}
    assert max(pages.values()) < 450e3  # the ledger, with what the archive says


def test_the_site_says_nothing_of_the_machine_that_built_it(site):
    home = str(Path.home())
    for path in site.rglob("*"):
        if path.suffix in (".html", ".json", ".ipynb", ".md", ".svg"):
            text = path.read_text(encoding="utf-8")
            assert str(PROJECT) not in text, path
            assert home == "/root" or home not in text, path


def test_the_home_page_maps_every_chapter(site, parsed):
    chapters = {name for name in parsed if "notebook-header" in (site / name).read_text("utf-8")}
    article = (site / "index.html").read_text("utf-8").split('<article class="bd-article">')[1]
    linked = {urlsplit(address).path for _, address in Addresses(article).addresses}
    assert chapters <= linked

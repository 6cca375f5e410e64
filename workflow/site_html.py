"""What do Jupyter Book's pages lack for a book that is offline, safe, accessible and small?

:func:`finish` completes a freshly built site in place:

- every figure drawn in the book's theme gets a twin for dark pages;
- every page gets a Content-Security-Policy that allows its own scripts by hash and nothing else;
- markup of the theme that screen readers stumble over is mended;
- stylesheets become one file, and files that no page uses are deleted.

Everything is a pure function of text; the same pages come out byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import html
import posixpath
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from promptlib.plotting import DARK_NEUTRALS
from workflow.sources import BuildError

UNUSED = (
    ".buildinfo",
    "_sphinx_design_static",
    "_static/basic.css",
    "_static/copy-button.svg",
    "_static/copybutton_funcs.js",
    "_static/file.png",
    "_static/minus.png",
    "_static/plus.png",
    "_static/check-solid.svg",
    "_static/images",
    "_static/locales",
    "_static/sbt-webpack-macros.html",
    "_static/webpack-macros.html",
    "_static/scripts/bootstrap.js",
    "_static/scripts/bootstrap.js.LICENSE.txt",
    "_static/scripts/fontawesome.js",
    "_static/scripts/fontawesome.js.LICENSE.txt",
    "_static/vendor/fontawesome",
)
"""Files and folders of the theme that no page of the book refers to."""

STYLES = "_static/pages.css"
"""The one stylesheet of all pages."""

WIDE = 480
"""Figures of more pixels than this keep a legible width on a phone and scroll in their frame."""

_SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<body>.*?)</script>", re.DOTALL)
_STYLESHEET = re.compile(r'[ \t]*<link[^>]*\brel="stylesheet"[^>]*>\n?')
_IMAGE = re.compile(r"<img\b[^>]*>")
_FORMULA_MARK = re.compile(
    r'<span class="math notranslate nohighlight">[^<]*</span>[,.;:!?)’]+(?!\w)'
)
_MEASURED = re.compile(r'<(\w+) class="measured">[^<]*</\1>')


def finish(site: Path) -> None:
    """Complete a freshly built site in place.

    Parameters
    ----------
    site
        Folder with the pages that jupyter-book built.

    Raises
    ------
    BuildError
        If a page shows an image that is missing, or one without alternative text.
    """
    pages = {
        path.relative_to(site).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(site.rglob("*.html"))
        if not path.relative_to(site).as_posix().startswith("_static/")
    }
    styles = _stylesheets(site, pages)
    finish_pages(site, pages)
    (site / STYLES).write_text(styles, encoding="utf-8")
    _delete_unused(site)


def finish_pages(site: Path, names: Iterable[str]) -> None:
    """Complete pages in place, as :func:`finish` does, and draw the twins of the site's figures.

    Parameters
    ----------
    site
        Folder of pages, with the images that they show.
    names
        Paths of the pages from there.
    """
    dark = _dark_twins(site)
    sizes = {name: _svg_size(site / name) for name in dark}
    for name in names:
        page = (site / name).read_text(encoding="utf-8")
        page = show_twins(page, name, dark, sizes)
        page = one_stylesheet(page, name)
        page = keep_punctuation(accessible(page))
        refuse_images(page, name, site)
        page = with_policy(page)
        (site / name).write_text(page, encoding="utf-8")


def stylesheet_links(site: Path, name: str) -> tuple[str, ...]:
    """Addresses, from the site's root, of the stylesheets that a page names, in its order."""
    page, up = (site / name).read_text(encoding="utf-8"), "../" * name.count("/")
    links = _STYLESHEET.findall(page)
    return tuple((_attribute(link, "href") or "").removeprefix(up) for link in links)


def without_measurements(page: str) -> str:
    """A page without what may differ between two builds of one commit: times, memory, machine."""
    return _MEASURED.sub(r'<\1 class="measured"></\1>', page)


def dark_twin(svg: str) -> str:
    """The figure for dark pages: the theme's neutral colours replaced, all else as it is."""
    pattern = re.compile("|".join(map(re.escape, DARK_NEUTRALS)), flags=re.IGNORECASE)
    return pattern.sub(lambda match: DARK_NEUTRALS[match[0].lower()], svg)


def show_twins(
    page: str, name: str, dark: Mapping[str, str], sizes: Mapping[str, tuple[int, int] | None]
) -> str:
    """Replace every image that has a dark twin by the pair of both.

    Parameters
    ----------
    page
        HTML of the page.
    name
        Path of the page from the site's root.
    dark
        Path of each image that has a twin -> path of the twin, from the site's root.
    sizes
        Width and height of those images, where known; reserves their place before they load.
    """
    up = "../" * name.count("/")

    def pair(match: re.Match[str]) -> str:
        tag = match[0]
        source = _attribute(tag, "src") or ""
        target = source.removeprefix(up)
        if target not in dark or "only-" in (_attribute(tag, "class") or ""):
            return tag
        size = sizes.get(target)
        if size is not None and _attribute(tag, "width") is None:
            tag = tag.replace("<img", f'<img width="{size[0]}" height="{size[1]}"', 1)
            tag = _add_class(tag, "wide") if size[0] > WIDE else tag
        twin = tag.replace(f'src="{source}"', f'src="{up}{dark[target]}"')
        both = _add_class(tag, "only-light") + _add_class(twin, "only-dark")
        return f'<span class="figure-frame">{both}</span>'

    return _IMAGE.sub(pair, page)


def one_stylesheet(page: str, name: str) -> str:
    """Refer to :data:`STYLES` in place of all stylesheets."""
    link = f'  <link rel="stylesheet" href="{"../" * name.count("/")}{STYLES}" />\n'
    first = _STYLESHEET.search(page)
    if first is None:
        raise BuildError(f"{name} has no stylesheet; the theme has changed")
    page = page[: first.start()] + "\0" + page[first.end() :]
    return _STYLESHEET.sub("", page).replace("\0", link, 1)


def accessible(page: str) -> str:
    """Mend markup that assistive technology stumbles over."""
    page = page.replace("<html lang=", '<html data-theme="light" lang=', 1)
    # The words inside these are their names; a label that says something else hides them.
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    # Landmarks belong outside others; boxes and sidebars inside the page are plain regions.
    page = re.sub(r"<aside (class=\"claim[^>]*)>(.*?)</aside>", _claim_box, page, flags=re.DOTALL)
    page = page.replace(
        '<div id="pst-primary-sidebar" class=',
        '<div id="pst-primary-sidebar" role="region" aria-label="Chapters" class=',
    ).replace(
        '<div id="pst-secondary-sidebar" class=',
        '<div id="pst-secondary-sidebar" role="region" aria-label="On this page" class=',
    )
    page = re.sub(r'<div class="pst-async-banner-revealer.*?</div>', "", page, flags=re.DOTALL)
    page = re.sub(
        r'<div class="sidebar-primary-item">\s*<div id="ethical-ad.*?</div></div>',
        "",
        page,
        flags=re.DOTALL,
    )
    # sphinx-proof and sphinx-exercise give every statement's body the same id.
    page = re.sub(r'(<section class="[a-z]+-content") id="proof-content"', r"\1", page)
    page = re.sub(
        r'<section id="(exercise|solution)-content">', r'<section class="\1-content">', page
    )
    page = re.sub(r'(<div class="proof admonition") id="proof(?:-\d+)?"', r"\1", page)
    # Roles that the standard has withdrawn, or that forbid what the entries hold.
    page = page.replace(' role="doc-biblioentry"', "").replace(
        '<div role="list" class="citation-list">', '<div class="citation-list">'
    )
    # A heading that is a formula alone counts as empty, because nothing in it is plain text.
    page = re.sub(
        r'(<th class="head"><p>)(<span class="math [^>]*>[^<]*</span></p></th>)',
        r'\1<span class="visually-hidden">column </span>\2',
        page,
    )
    # The empty corner of a table heads nothing.
    page = re.sub(r'<th(?: class="head")?>(?:<p></p>)?</th>', "<td></td>", page)
    page = re.sub(r'(<table) border="1" (class="dataframe")', r"\1 \2", page)
    return re.sub(r"<style scoped>.*?</style>\n?", "", page, flags=re.DOTALL)


def keep_punctuation(page: str) -> str:
    """Keep a comma on the line of the formula before it."""
    return _FORMULA_MARK.sub(r'<span class="math-run">\g<0></span>', page)


def refuse_images(page: str, name: str, site: Path) -> None:
    """Refuse a page whose images are missing or have no alternative text.

    Raises
    ------
    BuildError
        Naming the page, the image, and what is wrong.
    """
    folder = (site / name).parent
    for tag in _IMAGE.findall(page):
        source, alt = _attribute(tag, "src") or "", _attribute(tag, "alt")
        if alt is None or (not alt.strip() and 'role="presentation"' not in tag):
            raise BuildError(f"{name}: the image {source} has no alternative text")
        if re.fullmatch(r"(.*/)?[0-9a-f]{32,}(\.\w+)?", alt.strip()) or alt == source:
            raise BuildError(f"{name}: the alternative text of {source} is only a file name")
        if not source.startswith("data:") and not (folder / source.split("?")[0]).is_file():
            raise BuildError(f"{name} shows the image {source}, which is missing")


def with_policy(page: str) -> str:
    """Put a Content-Security-Policy at the top of the page's head.

    Scripts come from the site or are one of the inline scripts of this very page, by hash. Styles
    may be inline, because MathJax and Sphinx's tables write them. Nothing else is loaded, sent,
    framed or embedded.
    """
    hashes = sorted(
        {
            f"'sha256-{base64.b64encode(hashlib.sha256(match['body'].encode()).digest()).decode()}'"
            for match in _SCRIPT.finditer(page)
            if "src=" not in match["attributes"] and "json" not in match["attributes"]
        }
    )
    policy = "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src 'self'", *hashes]),
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
        ]
    )
    meta = (
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy, quote=True)}" />'
    )
    meta = meta.replace("&#x27;", "'")
    if '<meta charset="utf-8" />' not in page:
        raise BuildError("a page declares no character set; the theme has changed")
    return page.replace('<meta charset="utf-8" />', f'<meta charset="utf-8" />\n    {meta}', 1)


def _claim_box(match: re.Match[str]) -> str:
    return f'<div role="group" {match[1]}>{match[2]}</div>'


def _attribute(tag: str, name: str) -> str | None:
    found = re.search(rf'\s{name}="([^"]*)"', tag)
    return html.unescape(found[1]) if found else None


def _add_class(tag: str, name: str) -> str:
    if ' class="' in tag:
        return tag.replace(' class="', f' class="{name} ', 1)
    return tag.replace("<img", f'<img class="{name}"', 1)


def _dark_twins(site: Path) -> dict[str, str]:
    """Write the twin of every figure that uses the theme's neutrals; figure -> twin."""
    neutrals = tuple(DARK_NEUTRALS)
    twins = {}
    for path in sorted((site / "_images").glob("*.svg")):
        text = path.read_text(encoding="utf-8")
        if any(colour in text for colour in neutrals):
            twin = path.with_name(f"{path.stem}-dark.svg")
            twin.write_text(dark_twin(text), encoding="utf-8")
            twins[path.relative_to(site).as_posix()] = twin.relative_to(site).as_posix()
    return twins


def _svg_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a drawing in CSS pixels, from its own attributes or its view box."""
    head = path.read_text(encoding="utf-8")[:4000]
    size = re.search(r'<svg[^>]*\bviewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', head)
    if size is None:
        return None
    points = re.search(r'<svg[^>]*\bwidth="[\d.]+pt"', head) is not None
    scale = 4 / 3 if points else 1.0
    return round(float(size[1]) * scale), round(float(size[2]) * scale)


def _stylesheets(site: Path, pages: Mapping[str, str]) -> str:
    """All stylesheets of the pages in one text, in the order in which pages name them."""
    order: dict[str, None] = {}
    for name, page in pages.items():
        up = "../" * name.count("/")
        for link in _STYLESHEET.findall(page):
            address = (_attribute(link, "href") or "").split("?")[0]
            order[address.removeprefix(up)] = None
    texts = []
    for address in order:
        texts.append(_self_contained(site, address))
    for address in order:
        (site / address).unlink()
    return '@charset "utf-8";\n' + "\n".join(texts)


def _self_contained(site: Path, address: str) -> str:
    """A stylesheet with its imports in place and without the icon font; its addresses are data."""
    path = site / address
    if not path.is_file():
        raise BuildError(f"a page refers to the stylesheet {address}, which is missing")
    css = path.read_text(encoding="utf-8").removeprefix("\ufeff").replace('@charset "UTF-8";', "")
    folder = address.rpartition("/")[0]
    css = re.sub(
        r"@import\s+(?:url\()?['\"]([^'\"]+)['\"]\)?;",
        lambda match: _self_contained(site, posixpath.normpath(f"{folder}/{match[1]}")),
        css,
    )
    css = re.sub(r"/\*# sourceMappingURL=.*?\*/", "", css)
    css = re.sub(r"@font-face\{[^}]*fontawesome[^}]*\}", "", css)
    css = re.sub(r"(?<=[}/\n])(?:\.fa-[a-z0-9-]+::?before,?)+\{content:[^}]*\}", "", css)
    css = re.sub(r"url\((?:file|minus|plus)\.png\)", "none", css)  # pictures of Sphinx's old theme
    outside = [
        target for target in re.findall(r"url\(\s*['\"]?([^)'\"]+)", css) if target[:5] != "data:"
    ]
    if outside:
        raise BuildError(f"stylesheet {address} refers to {outside[0]}; keep styles self-contained")
    return css.strip()


def _delete_unused(site: Path) -> None:
    for name in UNUSED:
        path = site / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in site.rglob("*.map"):
        path.unlink()
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.suffix == ".js" and "_static/scripts" in path.as_posix():
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r"//# sourceMappingURL=\S+", "", text), encoding="utf-8")

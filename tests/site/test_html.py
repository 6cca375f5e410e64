"""What is done to jupyter-book's pages, piece by piece."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from promptlib.plotting import DARK_NEUTRALS, GRID, INK, PALETTE
from tests.site import little
from workflow.site_html import (
    accessible,
    dark_twin,
    finish,
    keep_punctuation,
    one_stylesheet,
    refuse_images,
    show_twins,
    with_policy,
    without_measurements,
)
from workflow.sources import BuildError

HEAD = '<html lang="en" >\n<head>\n<meta charset="utf-8" />'


def test_the_dark_twin_changes_neutrals_only():
    twin = dark_twin(little.SVG.replace(INK, INK.upper()))
    assert DARK_NEUTRALS[GRID] in twin
    assert DARK_NEUTRALS[INK] in twin
    assert PALETTE["blue"] in twin
    assert not re.search("|".join(DARK_NEUTRALS), twin, flags=re.IGNORECASE)


def test_no_dark_neutral_is_a_light_one():
    assert not set(DARK_NEUTRALS) & set(DARK_NEUTRALS.values())
    assert not set(DARK_NEUTRALS) & set(PALETTE.values())


def test_a_figure_becomes_a_pair():
    other = '<img alt="other" src="../_images/b.png">'
    page = f'<p><img alt="a line" src="../_images/a.svg" />{other}</p>'
    dark = {"_images/a.svg": "_images/a-dark.svg"}
    shown = show_twins(page, "wing/page.html", dark, {"_images/a.svg": (864, 480)})
    assert shown.count("<img") == 3
    assert 'src="../_images/a.svg"' in shown
    assert 'src="../_images/a-dark.svg"' in shown
    assert shown.count('alt="a line"') == 2
    assert shown.count('width="864" height="480"') == 2
    assert re.search(r'class="only-light[^"]*"[^>]*a\.svg', shown)
    assert re.search(r'class="only-dark[^"]*"[^>]*a-dark\.svg', shown)
    assert other in shown
    assert show_twins(shown, "wing/page.html", dark, {}) == shown


def test_the_policy_allows_the_inline_scripts_of_the_page_and_nothing_more():
    body = 'let a = "1";'
    page = with_policy(
        f'{HEAD}<script>{body}</script><script src="a.js"></script>'
        '<script type="application/json">{"x": 1}</script></head></html>'
    )
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert policy.count("sha256-") == 1
    assert "unsafe-eval" not in policy
    assert "http" not in policy
    assert page.index("Content-Security-Policy") < page.index("<script")


def test_a_page_without_a_character_set_is_refused():
    with pytest.raises(BuildError, match="character set"):
        with_policy("<html><head></head></html>")


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ('<img src="a.svg">', "no alternative text"),
        ('<img alt=" " src="a.svg">', "no alternative text"),
        (f'<img alt="{"0a" * 20}.svg" src="a.svg">', "only a file name"),
        ('<img alt="a.svg" src="a.svg">', "only a file name"),
        ('<img alt="a line that rises" src="b.svg">', "b.svg, which is missing"),
    ],
)
def test_bad_images_are_refused(tmp_path, tag, message):
    (tmp_path / "a.svg").write_text(little.SVG)
    refuse_images('<img alt="a line that rises" src="a.svg">', "page.html", tmp_path)
    with pytest.raises(BuildError, match=message):
        refuse_images(tag, "page.html", tmp_path)


def test_claim_boxes_are_no_landmarks():
    page = accessible(f'{HEAD}<aside class="claim claim-holds" id="claim-a"><p>x</p></aside>')
    assert '<div role="group" class="claim claim-holds" id="claim-a"><p>x</p></div>' in page


def test_theorems_have_no_ids_in_common():
    body = '<section class="theorem-content" id="proof-content">'
    page = accessible(f'{HEAD}<div id="thm-a">{body}</section></div><div>{body}</section></div>')
    assert "proof-content" not in page
    assert 'id="thm-a"' in page


def test_table_headings_have_words_or_are_none():
    formula = '<span class="math notranslate nohighlight">\\(a\\)</span>'
    page = accessible(
        f'{HEAD}<th class="head"><p>{formula}</p></th><th class="head"><p>b</p></th><th></th>'
    )
    assert f'<span class="visually-hidden">column </span>{formula}</p></th>' in page
    assert '<th class="head"><p>b</p></th><td></td>' in page


def test_pages_are_light_without_scripts():
    assert '<html data-theme="light" lang="en"' in accessible(HEAD)


def test_all_stylesheets_become_one():
    links = (
        '<link rel="stylesheet" href="../a.css" />\n<link href="../b.css?v=1" rel="stylesheet">\n'
    )
    page = one_stylesheet(f"{HEAD}{links}</head>", "wing/page.html")
    assert page.count("stylesheet") == 1
    assert 'href="../_static/pages.css"' in page
    with pytest.raises(BuildError, match="no stylesheet"):
        one_stylesheet(HEAD, "page.html")


def test_measurements_are_left_out_and_nothing_else():
    first = '<p>took <span class="measured">3.1 s, 5 MiB</span>, twice</p>'
    second = '<p>took <span class="measured">9.9 s, 7 MiB</span>, twice</p>'
    assert without_measurements(first) == without_measurements(second)
    assert without_measurements(first.replace("twice", "once")) != without_measurements(second)


@pytest.fixture
def site(tmp_path):
    """A site as jupyter-book leaves it, in small."""
    for name, text in {
        "_static/a.css": '@import "b.css";\n.x { background: url(data:image/png;base64,AA) }',
        "_static/b.css": "@font-face{src:url(vendor/fontawesome/a.woff2)}\n.y { color: red }",
        "_static/scripts/fontawesome.js": "1",
        "_static/scripts/a.js.map": "1",
        "_images/a.svg": little.SVG,
        "index.html": f'{HEAD}<link rel="stylesheet" href="_static/a.css" /></head><body>'
        '<img alt="a line that rises" src="_images/a.svg" /></body></html>',
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_finishing_leaves_what_pages_need(site):
    finish(site)
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert files == {
        "index.html",
        "_images/a.svg",
        "_images/a-dark.svg",
        "_static/pages.css",
        "_static/b.css",
    }
    styles = (site / "_static" / "pages.css").read_text()
    assert styles.index(".y { color: red }") < styles.index(".x {")
    assert "fontawesome" not in styles
    assert 'width="864" height="480"' in (site / "index.html").read_text()


def test_styles_that_load_something_are_refused(site):
    (site / "_static" / "b.css").write_text(".z { background: url(https://example.org/a.png) }")
    with pytest.raises(BuildError, match=r"refers to https://example\.org/a\.png"):
        finish(site)


def test_punctuation_stays_with_its_formula():
    formula = '<span class="math notranslate nohighlight">\\(a\\)</span>'
    assert keep_punctuation(f"{formula}, b") == f'<span class="math-run">{formula},</span> b'
    assert keep_punctuation(f"{formula} b") == f"{formula} b"
    assert keep_punctuation(f"{formula})-b") == f'<span class="math-run">{formula})</span>-b'
    assert keep_punctuation(f"{formula}.5") == f"{formula}.5"

"""What a reader does with the pages: keyboard, search, colours, ledger, folded solutions."""

from __future__ import annotations

import json

import pytest

from tests.site.visits import DESK, PHONE, pages_of, until

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser):
    """A fresh page on a desk, in light colours."""
    context = browser.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
    yield context.new_page()
    context.close()


@pytest.fixture
def quick_page(page):
    """The same page in half the time: its formulas stay as they are written."""
    page.route("**/mathjax/**", lambda route: route.abort())
    return page


@pytest.fixture
def claims(site):
    """The claims as the site offers them to programs."""
    return json.loads((site / "claims.json").read_text(encoding="utf-8"))["claims"]


def focus(page):
    """The focused element, described."""
    return page.evaluate(
        "(() => { const e = document.activeElement; return e.id || e.className || e.tagName; })()"
    )


def test_the_first_tab_stop_skips_to_the_content(page, address):
    page.goto(f"{address}/ledger.html")
    page.keyboard.press("Tab")
    link = page.locator("#pst-skip-link a")
    assert link.evaluate("e => e === document.activeElement")
    assert link.is_visible()
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")


def test_the_keyboard_reaches_and_uses_the_ledger_filters(page, address, claims):
    page.goto(f"{address}/ledger.html")
    for _ in range(60):
        if focus(page) == "ledger-kind":
            break
        page.keyboard.press("Tab")
    assert focus(page) == "ledger-kind"
    kind = claims[0]["kind"]
    page.keyboard.type(kind)
    wanted = sum(claim["kind"] == kind for claim in claims)
    status = page.locator(".ledger-count")
    assert status.get_attribute("role") == "status"
    assert status.inner_text() == f"Showing {wanted} of {len(claims)} claims"
    assert page.locator("#ledger tbody tr:visible").count() == wanted
    page.get_by_role("button", name="Show all").press("Enter")
    until(
        page,
        f"document.querySelectorAll('#ledger tbody tr:not([hidden])').length === {len(claims)}",
    )


def test_the_ledger_lists_exactly_the_claims(quick_page, address, claims):
    page = quick_page
    page.goto(f"{address}/ledger.html")
    rows = page.locator("#ledger tbody tr")
    shown = rows.evaluate_all(
        "rows => rows.map(row => [row.querySelector('.where code').textContent,"
        " row.querySelector('.claim-verdict').textContent, row.dataset.kind,"
        " row.dataset.replication])"
    )
    listed = [
        [claim["id"], claim["verdict"], claim["kind"], claim["replication"] or ""]
        for claim in claims
    ]
    assert sorted(shown) == sorted(listed)
    counts = [
        sum(map(int, one.locator("b").all_inner_texts()))
        for one in page.locator(".ledger-summary").all()
    ]
    assert counts[0] == len(claims)
    published = sum(claim["replication"] is not None for claim in claims)
    assert published == 0 or counts[1] == published


def test_every_claim_leads_to_its_box_its_code_and_its_tests(quick_page, address, claims):
    page = quick_page
    page.goto(f"{address}/ledger.html")
    links = page.locator("#ledger tbody tr").evaluate_all(
        "rows => Object.fromEntries(rows.map(row => [row.id,"
        " Array.from(row.querySelectorAll('.where a'), link => link.getAttribute('href'))]))"
    )
    for claim in claims:
        targets = links["ledger-claim-" + claim["id"].replace("/", "-")]
        assert targets[0].endswith("#claim-" + claim["id"].replace("/", "-"))
        assert targets[1].startswith(("source/promptlib/", "source/notebooks/"))
        assert claim["tests"], f"claim {claim['id']} names no test"
        assert len(targets) == 2 + len(claim["tests"])
        assert all(target.startswith("source/tests/") for target in targets[2:])


def test_the_ledger_reads_as_a_table_on_a_phone(quick_page, address, claims):
    page = quick_page
    page.set_viewport_size(PHONE)
    page.goto(f"{address}/ledger.html")
    assert page.get_by_role("table").count() == 1
    assert page.get_by_role("row").count() == len(claims) + 1


@pytest.mark.parametrize("word", ["softmax", "prefix"])
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_word(page, site, address, scheme, word):
    base = address if scheme == "http" else site.as_uri()
    page.goto(f"{base}/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type(word)
    page.keyboard.press("Enter")
    results = page.locator("#search-results ul.search li a")
    results.first.wait_for()
    targets = results.evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert any(target.split("#")[0].split("?")[0].endswith(".html") for target in targets)
    results.first.click()
    page.wait_for_load_state()
    assert word in page.locator("#main-content").inner_text().lower()


def test_the_colour_button_swaps_every_figure(page, site, address):
    name = next(
        name
        for name in pages_of(site)
        if "/" in name and 'class="only-dark' in (site / name).read_text(encoding="utf-8")
    )
    page.goto(f"{address}/{name}")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    light = page.locator("article img.only-light")
    dark = page.locator("article img.only-dark")
    assert light.count() == dark.count() > 0
    assert light.first.is_visible()
    assert not dark.first.is_visible()
    button = page.locator(".theme-switch-button")
    for _ in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert dark.first.is_visible()
    assert not light.first.is_visible()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_solutions_are_folded_until_asked_for(quick_page, site, address):
    page = quick_page
    names = [name for name in pages_of(site) if 'class="solution' in (site / name).read_text()]
    assert names, "no chapter has a solution"
    for name in names:
        page.goto(f"{address}/{name}")
        for solution in page.locator("div.solution").all():
            body = solution.locator(".solution-content")
            assert not body.is_visible(), f"{name} shows a solution at once"
            button = solution.locator("button.toggle-button")
            button.focus()
            page.keyboard.press("Enter")
            assert body.is_visible(), f"{name}: a solution cannot be opened with the keyboard"


def test_without_scripts_everything_is_still_there(browser, address, claims):
    context = browser.new_context(viewport=DESK, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/ledger.html")
    assert page.locator("#ledger tbody tr:visible").count() == len(claims)
    assert not page.locator("form.ledger-filters").is_visible()
    page.goto(f"{address}/index.html")
    assert page.locator("article img.only-light").first.is_visible()
    assert not page.locator("article img.only-dark").first.is_visible()
    context.close()


def test_notebooks_can_be_downloaded(quick_page, site, address):
    page = quick_page
    names = [name for name in pages_of(site) if "notebook-header" in (site / name).read_text()]
    assert len(names) >= 3
    for name in names:
        page.goto(f"{address}/{name}")
        for suffix in ("md", "ipynb"):
            with page.expect_download() as waiting:
                page.locator(f'.notebook-links a[href$=".{suffix}"]').click()
            text = waiting.value.path().read_text(encoding="utf-8")
            if suffix == "md":
                assert text.startswith("---\njupytext:")
            else:
                cells = json.loads(text)["cells"]
                assert any(cell.get("outputs") for cell in cells)

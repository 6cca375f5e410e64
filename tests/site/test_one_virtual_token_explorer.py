"""The explorer's transformer is the library's, and the page around it fits everybody."""

import math

import pytest
import torch

from notebooks.prefix_tuning.one_virtual_token import theory
from notebooks.prefix_tuning.one_virtual_token.texts import PRINTABLE, decode, encode
from promptlib.prefix_tuning import unconditional_generator
from promptlib.prefix_tuning.constructions import bounds
from tests.site.explorers import ASSETS, explorer_pages, opened
from tests.site.visits import AUDIT, AXE

READY = ".token-chart rect"
THEME = {
    "light": "body { background: #fefefe; color: #1f2329; }",
    "dark": "body { background: var(--pst-color-background); color: #e8eaed; }",
}
TEXTS = ["~", "no", "say anything", "  spaces  ", PRINTABLE[:24], PRINTABLE[-24:], "0 \\ \"<&'>~"]
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def explorer_address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorer")
    look = (ASSETS / "book.css").read_text(encoding="utf-8")
    for theme, ground in THEME.items():
        (folder / f"{theme}.css").write_text(look + ground, encoding="utf-8")
    more = {
        "head": '<link rel="stylesheet" href="{theme}.css" />',
        "above": "<h1>Explorer</h1>",
    }
    with explorer_pages(folder, "one-virtual-token", "token-explorer", **more) as address:
        yield address


@pytest.fixture
def page(browser, explorer_address):
    page = opened(browser, explorer_address, READY)
    yield page
    page.close()
    assert page.problems == []


@pytest.fixture(scope="module")
def calculator(browser, explorer_address):
    """A page whose functions are called and on which nothing is touched."""
    page = opened(browser, explorer_address, READY)
    yield page
    page.close()
    assert page.problems == []


def inside(text, beta):
    """What the library computes at every step: attention, read, hidden, value, scores."""
    speaker = unconditional_generator(95, len(text), inverse_temperature=beta, beyond_bounds=True)
    token = speaker.virtual_token(encode(text))
    said = speaker.generate(token)
    contents = torch.cat((token[None], speaker.embedding[said[:-1]]))
    stages = speaker.stages(contents)
    return {
        "speaker": speaker,
        "token": token,
        "said": said,
        "attention": stages[1].attention,
        "read": stages[1].stream[:, speaker.layout["read"]],
        "hidden": speaker.blocks[1].hidden(stages[1].stream)[0],
        "value": stages[2].stream[:, -1],
        "scores": speaker.score(stages[2].stream),
    }


@pytest.mark.parametrize("beta", [12.0, 7.5, 3.0, 0.0])
@pytest.mark.parametrize("text", TEXTS)
def test_every_number_agrees_with_the_library(calculator, text, beta):
    found = calculator.evaluate(
        "([text, beta]) => window.promptbook.oneVirtualToken.generate("
        "window.promptbook.oneVirtualToken.encode(text), beta)",
        [text, beta],
    )
    expected = inside(text, beta)
    assert found["symbols"] == expected["said"].tolist()
    for name in ("read", "hidden", "value", "scores"):
        measured = torch.tensor([step[name] for step in found["steps"]], dtype=torch.float64)
        torch.testing.assert_close(measured, expected[name], rtol=0, atol=1e-12)
    for at, step in enumerate(found["steps"]):
        measured = torch.tensor(step["attention"], dtype=torch.float64)
        torch.testing.assert_close(
            measured, expected["attention"][:, at, : at + 1], rtol=0, atol=1e-12
        )
    torch.testing.assert_close(
        torch.tensor(found["token"], dtype=torch.float64), expected["token"], rtol=0, atol=1e-15
    )
    assert found["proved"] == pytest.approx(bounds.least_inverse_temperature(95, len(text)))


def number(page, key):
    return float(page.get_attribute(f'td[data-number="{key}"]', "data-value"))


def test_what_the_page_shows_is_what_the_library_computes(page):
    for text in TEXTS[1:]:
        page.fill("#e-text", text)
        assert page.get_attribute(".token-said", "data-said") == text
        assert page.inner_text(".token-note").startswith("All characters are right.")
        last = len(text)
        for at in {1, last}:
            page.fill("#e-step", str(at))
            expected = inside(text, 12.0)
            row = expected["attention"][:, at - 1]
            assert number(page, "found") == pytest.approx(
                float(expected["value"][at - 1]), abs=1e-12
            )
            wanted = float(expected["token"][at - 1])
            assert number(page, "wanted") == pytest.approx(wanted, abs=1e-15)
            assert number(page, "leak-own") == pytest.approx(
                float(row[0].sum() - row[0, at - 1]), abs=1e-12
            )
            assert number(page, "leak-first") == pytest.approx(float(row[1, 1:].sum()), abs=1e-12)
            assert number(page, "critical") == pytest.approx(
                theory.critical_inverse_temperature(95, last), abs=1e-12
            )
            heights = [
                float(bar.get_attribute("height"))
                for bar in page.query_selector_all("figure:nth-of-type(2) rect")
            ]
            assert len(heights) == last
            assert max(heights) / 110 == pytest.approx(float(expected["token"].max()), abs=1e-9)


def test_a_reader_can_break_it(page):
    page.fill("#e-text", "       ~")
    page.fill("#e-step", "8")
    critical = theory.critical_inverse_temperature(95, 8)
    for beta, right in ((math.ceil(critical * 20) / 20, True), (critical // 0.05 / 20, False)):
        page.fill("#e-beta", f"{beta:.2f}")
        said = decode(inside("       ~", float(f"{beta:.2f}"))["said"])
        assert page.get_attribute(".token-said", "data-said") == said
        assert (said == "       ~") == right
        assert page.query_selector(".token-wrong") is None or not right
    assert "1 of 8 characters is wrong" in page.inner_text(".token-note")
    assert "too small" in page.inner_text(".token-note")
    assert number(page, "error") > 1
    label = page.get_attribute("figure:nth-of-type(1) svg", "aria-label")
    assert f"proved bound is {bounds.least_inverse_temperature(95, 8):.4f}"[:22] in label


def test_the_keyboard_types_steps_and_cools(page):
    page.focus("#e-text")
    page.keyboard.press("End")
    page.keyboard.type("!")
    assert page.get_attribute(".token-said", "data-said") == "say anything!"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "e-step"
    page.keyboard.press("End")
    assert page.inner_text("output[for=e-step]") == "13 of 13: !"
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#e-step", "aria-valuetext") == "12 of 13: g"
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert page.inner_text("output[for=e-beta]") == "0.00"
    assert "wrong" in page.inner_text(".token-note")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("caf\u00e9", "Character 4, “é” (U+00E9), is not printable ASCII."),
        ("\U0001f600", "Character 1, “\U0001f600” (U+1F600), is not printable ASCII."),
        ("", "The text is empty."),
        ("x" * 25, "The text has 25 characters. This transformer says at most 24."),
    ],
)
def test_texts_that_cannot_be_said_are_refused_in_words(page, text, message):
    page.fill("#e-text", text)
    assert message in page.inner_text("#e-problem")
    assert page.get_attribute("#e-text", "aria-invalid") == "true"
    assert page.get_attribute(".token-said", "data-said") == "say anything"
    page.fill("#e-text", "good")
    assert page.text_content("#e-problem") == ""
    assert page.get_attribute("#e-text", "aria-invalid") is None


def test_a_space_is_spoken_as_a_word(page):
    page.fill("#e-text", "a b")
    page.fill("#e-step", "2")
    assert page.inner_text("output[for=e-step]") == "2 of 3: ␣"
    assert page.get_attribute("#e-step", "aria-valuetext") == "2 of 3: space"
    labels = [chart.get_attribute("aria-label") for chart in page.query_selector_all("svg")]
    assert not any("␣" in label for label in labels)
    assert "the nearest is space, and space was asked for" in labels[-1]


def test_every_control_has_a_label_and_every_picture_a_description(page):
    for control in page.query_selector_all(".token-explorer input"):
        label = page.query_selector(f'label[for="{control.get_attribute("id")}"]')
        assert label
        assert label.inner_text().strip()
    pictures = page.query_selector_all(".token-chart")
    assert len(pictures) == 7
    for picture in pictures:
        assert len(picture.get_attribute("aria-label")) > 30


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_is_wide_enough(browser, explorer_address, theme):
    page = opened(browser, explorer_address, READY, theme, width=360)
    page.wait_for_function("document.styleSheets.length > 1")
    page.fill("#e-text", "~" * 24)
    page.fill("#e-beta", "2")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate(AXE.read_text(encoding="utf-8"))
    assert page.evaluate(AUDIT, None) == []
    page.fill("#e-text", "\u00e9")
    assert page.evaluate(AUDIT, None) == []
    assert page.problems == []
    page.close()


def test_without_its_place_on_the_page_nothing_happens(browser, explorer_address):
    page = opened(browser, explorer_address, READY)
    page.evaluate("document.querySelector('#e').removeAttribute('data-explorer')")
    before = page.evaluate("document.styleSheets.length")
    page.add_script_tag(url="explorers/one_virtual_token.js")
    assert page.evaluate("document.styleSheets.length") == before
    page.close()

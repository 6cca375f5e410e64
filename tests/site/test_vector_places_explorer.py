"""The explorer agrees with promptlib, obeys the site's policy, fits keyboards and phones."""

import itertools

import pytest
import torch

from notebooks.bridge.two_theories_one_layer import readings, streams
from promptlib.prompt_attention import ContextualMixture, aligned
from tests.site.explorers import explorer_pages, opened

READY = ".places-map rect"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def explorer_address(tmp_path_factory):
    with explorer_pages(
        tmp_path_factory.mktemp("explorer"), "vector-places", "places-explorer"
    ) as address:
        yield address


@pytest.fixture
def page(browser, explorer_address):
    page = opened(browser, explorer_address, READY)
    yield page
    page.close()
    assert page.problems == []


def expected(learned, delta, strength, factor, place):
    """What the library reads at the setting of the explorer."""
    deviations = ((0.0, 0.0), (delta, delta), (delta, -delta))
    mixture = ContextualMixture(5, 5, 0.2, deviations=deviations)
    vectors = torch.zeros(0, 5, dtype=torch.float64)
    if learned == "query":
        vectors = streams.asking_vector(strength)
    elif learned == "pair":
        pair = ContextualMixture(5, 5, 0.2, deviations=aligned(delta))
        A = streams.CONTENT_SCALE * torch.eye(5, dtype=torch.float64)
        vectors = streams.pair_vectors(
            mixture, readings.pair_scale(pair, A), strength * delta / mixture.sparsity
        )
    return streams.read(mixture, vectors, place, factor * readings.needed_logit(mixture))


def test_agrees_with_the_library(page):
    settings, readings_there = [], []
    values = itertools.product((1.0, 6.0, 80.0), (1.5, 4.0), (0.0, 0.5, 1.2))
    for delta, strength, factor in values:
        for learned, place in itertools.product(("query", "pair", "nothing"), streams.PLACES):
            if place.read == "own row" and learned != "query":
                continue
            settings.append(
                {
                    "learned": learned,
                    "delta": delta,
                    "strength": strength,
                    "factor": factor,
                    **place._asdict(),
                }
            )
            readings_there.append(expected(learned, delta, strength, factor, place))
    found = page.evaluate("all => all.map(window.promptbook.vectorPlaces.plain)", settings)
    for here, there in zip(found, readings_there, strict=True):
        scores = torch.tensor(here["scores"], dtype=torch.float64)
        torch.testing.assert_close(scores, there.scores, rtol=1e-9, atol=1e-9)
        attention = torch.tensor(here["attention"], dtype=torch.float64)
        torch.testing.assert_close(attention, there.attention, rtol=1e-9, atol=1e-12)
        assert here["right"] == there.right
        assert here["moved"] < 1e-12


def test_every_control_has_a_label(page):
    controls = page.query_selector_all("#e input, #e select")
    assert len(controls) == 7
    for control in controls:
        label = page.query_selector(f'label[for="{control.get_attribute("id")}"]')
        assert label
        assert label.inner_text().strip()
    assert "0 of 6" in page.get_attribute(".places-map", "aria-label")


def test_turning_the_vector_changes_who_is_right(page):
    assert page.inner_text(".places-note").startswith("0 of 6 cases right")
    page.select_option("#e-behind", "behind")
    assert page.inner_text(".places-note").startswith("6 of 6 cases right")
    page.select_option("#e-read", "reader")
    assert page.inner_text(".places-note").startswith("4 of 6 cases right")
    assert page.locator(".places-wrong").count() == 2
    page.focus("#e-factor")
    page.keyboard.press("End")  # a reader that needs no vector
    assert page.get_attribute("#e-factor", "aria-valuetext") == "2"
    assert page.inner_text(".places-note").startswith("6 of 6 cases right")


def test_two_vectors_have_no_own_row(page):
    page.select_option("#e-learned", "pair")
    assert page.input_value("#e-read") == "all content rows"
    assert page.locator('#e-read option[value="own row"]').is_disabled()
    assert page.inner_text(".places-note").startswith("6 of 6 cases right")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone(browser, explorer_address, theme):
    page = opened(browser, explorer_address, READY, theme, width=360)
    page.wait_for_function("document.styleSheets.length > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()

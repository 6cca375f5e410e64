"""The explorer agrees with promptlib, obeys the site's policy, fits keyboards and phones."""

import itertools

import pytest
import torch

from notebooks.prompt_attention.price_of_the_head.concentrated_head import (
    concentrated_known_error,
    concentrated_law,
)
from promptlib.prompt_attention.ridge_head import ridge_error
from tests.site.explorers import explorer_pages, opened

READY = ".explorer-chart polyline"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def explorer_address(tmp_path_factory):
    with explorer_pages(tmp_path_factory.mktemp("explorer"), "head-error", "explorer") as address:
        yield address


@pytest.fixture
def page(browser, explorer_address):
    page = opened(browser, explorer_address, READY)
    yield page
    page.close()
    assert page.problems == []


def test_agrees_with_the_library(page):
    generator = torch.Generator().manual_seed(0)
    names = ["Q", "zeta", "kappa", "alpha", "lambda", "W", "T", "sigma"]
    low = torch.tensor([0, 0.005, -0.5, 0.1, 0, 0.05, 10, 0.5], dtype=torch.float64)
    high = torch.tensor([4, 0.5, 2, 20, 3, 2, 5000, 2], dtype=torch.float64)
    points = low + (high - low) * torch.rand(500, 8, generator=generator, dtype=torch.float64)
    points[:20, 3] = 1.0  # as many bags as dimensions
    points[10:40, 4] = 0.0
    points[40:60, 4] *= 1e-6
    points[60:80, 2] = 0.0
    cases = [dict(zip(names, row, strict=True)) for row in points.tolist()]
    found = page.evaluate("cases => cases.map(window.promptbook.headError.errors)", cases)
    Q, zeta, kappa, alpha, lam, W, tokens, sigma = points.T
    law = concentrated_law(
        tokens, sparsity=zeta, context_norm=Q, signal_norm=W, noise_std=sigma, scale=kappa
    )
    expected = {
        "leastSquares": ridge_error(law, alpha, 0.0),
        "ridge": ridge_error(law, alpha, lam),
        "averaging": ridge_error(law, alpha, float("inf")),
        "known": concentrated_known_error((law.signal / law.noise)[:, 0]),
        "mass": law.signal[:, 0] / W,
    }
    for name, values in expected.items():
        measured = torch.tensor([case[name] for case in found], dtype=torch.float64)
        assert (measured - values).abs().max() < 1e-9, name


def test_normal_distribution_function(page):
    grid = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    found = page.evaluate("zs => zs.map(window.promptbook.headError.normalCdf)", grid.tolist())
    expected = torch.special.ndtr(grid)
    measured = torch.tensor(found, dtype=torch.float64)
    torch.testing.assert_close(measured, expected, rtol=1e-9, atol=1e-14)


def test_every_control_has_a_label(page):
    for control in page.query_selector_all(".explorer input, .explorer select"):
        identifier = control.get_attribute("id")
        label = page.query_selector(f'label[for="{identifier}"]')
        assert label
        assert label.inner_text().strip()
    assert page.get_attribute("#e", "role") == "group"
    assert "least squares" in page.get_attribute(".explorer-chart", "aria-label")


def test_the_keyboard_moves_a_knob_and_the_numbers_follow(page):
    before = page.inner_text('td[data-curve="averaging"]')
    assert float(before) == pytest.approx(0.0324, abs=1e-4)
    page.focus("#e-Q")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("output[for=e-Q]") == "1.7"
    assert page.get_attribute("#e-Q", "aria-valuetext") == "1.7"
    assert float(page.inner_text('td[data-curve="averaging"]')) < float(before)


def test_another_axis(page):
    for key in ("Q", "zeta", "kappa", "alpha", "lambda"):
        page.select_option("#e-axis", key)
        name = page.inner_text(f'#e-axis option[value="{key}"]')
        assert f"against {name}," in page.get_attribute(".explorer-chart", "aria-label")
        curves = page.query_selector_all(".explorer-chart polyline")
        assert len(curves) == 4
        for curve in curves:
            numbers = [
                float(n) for pair in curve.get_attribute("points").split() for n in pair.split(",")
            ]
            assert len(numbers) >= 2 * 201
            assert all(0 <= number <= 640 for number in numbers)


def test_a_prompt_too_long_for_the_bag_is_pointed_out(page):
    assert "about alike" in page.inner_text(".explorer-note")
    page.focus("#e-kappa")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert "approximate" in page.inner_text(".explorer-note")
    page.keyboard.press("End")
    assert "Caution" in page.inner_text(".explorer-note")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fits_a_phone(browser, explorer_address, theme):
    page = opened(browser, explorer_address, READY, theme, width=360)
    page.wait_for_function("document.styleSheets.length > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_without_its_place_on_the_page_nothing_happens(browser, explorer_address):
    page = browser.new_page()
    page.goto(f"{explorer_address}/light.html")
    page.evaluate("document.querySelector('#e').removeAttribute('data-explorer')")
    before = page.evaluate("document.styleSheets.length")
    page.add_script_tag(url="explorers/head_error.js")
    assert page.evaluate("document.styleSheets.length") == before
    page.close()


def test_the_axes_have_ticks_inside_the_frame(page):
    for key, knob in itertools.product(("zeta", "lambda"), ("#e-axis",)):
        page.select_option(knob, key)
        xs = [
            float(node.get_attribute("x"))
            for node in page.query_selector_all('.explorer-chart text[text-anchor="middle"]')
        ]
        assert len(xs) >= 4
        assert all(40 <= x <= 640 for x in xs)

"""An executed notebook becomes a page, or is refused with the reason."""

from __future__ import annotations

import copy
import json

import pytest

from promptlib import claims
from tests.site import little
from tests.site.little import NAME, Little, a_claim, claim_output, display, figure
from workflow.site_notebooks import WIDGET, Parameter, prepare, read_parameters
from workflow.sources import BuildError


@pytest.fixture
def book(tmp_path):
    """A little book whose notebook nobody has looked at."""
    return Little(tmp_path, {1: [figure()], 2: [claim_output(a_claim())]})


def source_of(prepared, kind="code"):
    return [cell["source"] for cell in prepared.notebook["cells"] if cell["cell_type"] == kind]


def test_the_alternative_text_moves_to_where_the_page_takes_it_from(book):
    prepared = prepare(book.notebook(), NAME, "quick")
    cells = [cell for cell in prepared.notebook["cells"] if cell["cell_type"] == "code"]
    assert cells[1]["metadata"]["mystnb"]["image"] == {"alt": little.ALT}
    assert cells[1]["metadata"]["mystnb"]["figure"]["name"] == "fig-line"


@pytest.mark.parametrize("alt", [None, "", "a figure", "x" * 19])
def test_a_figure_without_a_real_alternative_text_is_refused(book, alt):
    book.outputs[1] = [figure(alt)]
    with pytest.raises(BuildError, match=r"wing/chapter, cell 4 shows a figure without alt"):
        prepare(book.notebook(), NAME, "quick")


def test_two_figures_in_one_cell_are_refused(book):
    book.outputs[1] = [figure(), figure()]
    with pytest.raises(BuildError, match="cell 4 shows 2 figures"):
        prepare(book.notebook(), NAME, "quick")


def test_a_numbered_figure_is_alone_in_its_cell(book):
    book.outputs[1] = [figure(), {"output_type": "stream", "name": "stdout", "text": "hello"}]
    with pytest.raises(BuildError, match="cell 4 is a numbered figure and shows something else"):
        prepare(book.notebook(), NAME, "quick")


def test_a_failed_cell_is_refused(book):
    book.outputs[1] = [
        {"output_type": "error", "ename": "ValueError", "evalue": "bad rate", "traceback": []}
    ]
    with pytest.raises(BuildError, match="cell 4 failed with ValueError: bad rate"):
        prepare(book.notebook(), NAME, "quick")


def test_a_notebook_needs_a_heading(book):
    notebook = book.notebook()
    notebook.cells[0].source = "No heading.\n\n# Too late"
    with pytest.raises(BuildError, match="must open with a heading"):
        prepare(notebook, NAME, "quick")


@pytest.mark.parametrize("count", [0, 2])
def test_a_notebook_needs_one_cell_of_parameters(book, count):
    notebook = book.notebook()
    tagged = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    if count == 0:
        tagged.metadata.tags = []
    else:
        notebook.cells.append(copy.deepcopy(tagged))
    with pytest.raises(BuildError, match=f"tagged 'parameters', found {count}"):
        prepare(notebook, NAME, "quick")


def test_an_unknown_parameter_is_refused(book):
    book.injected = "speed = 3"
    with pytest.raises(BuildError, match="does not name: speed"):
        prepare(book.notebook(), NAME, "quick")


def test_the_parameters_used_are_shown_and_the_injected_cell_is_not(book):
    prepared = prepare(book.notebook(), NAME, "quick")
    assert prepared.parameters == (
        Parameter("seed", "0", "0", "seed of the instances, a whole number >= 0"),
        Parameter("rate", "0.5", "0.25", "dimensionless, in (0, 1)"),
    )
    assert not any("# Parameters" in source for source in source_of(prepared))
    table = next(text for text in source_of(prepared, "markdown") if "parameter-table" in text)
    assert "| `rate` | `0.25` | `0.5` | dimensionless, in (0, 1) |" in table
    assert r"a whole number \>= 0" in table


def test_defaults_need_no_second_column(book):
    book.injected = "rate = 0.5"
    prepared = prepare(book.notebook(), NAME, "quick")
    table = next(text for text in source_of(prepared, "markdown") if "parameter-table" in text)
    assert "In the notebook" not in table


def test_comments_of_parameters_are_read_beside_and_above():
    source = (
        "# learning rates,\n# each > 0\nrates = [\n    0.1,\n    0.2,\n]\nwidth: int = 8  # units\n"
    )
    assert read_parameters(source) == {
        "rates": ("[0.1, 0.2]", "learning rates, each > 0"),
        "width": ("8", "units"),
    }


@pytest.mark.parametrize("source", ["import os", "a, b = 1, 2", "rate = float('1')", "a = b = 1"])
def test_a_parameters_cell_holds_literals_only(source):
    with pytest.raises(ValueError, match="line 1"):
        read_parameters(source)


def test_a_claim_shows_the_published_and_the_archived_figure(book):
    archived = a_claim(values=[89.0, 90.0, 90.5, 91.0, 92.0])
    prepared = prepare(book.notebook(), NAME, "quick", {archived.id: archived})
    data = prepared.notebook["cells"][-3]["outputs"][0]["data"]
    assert "<dt>published</dt><dd>91.00 % of sequences; the same within" in data["text/html"]
    assert "<dt>this build</dt><dd>asked: above 50 % of sequences; mean 91.00" in data["text/html"]
    assert "<dd>supported; published figure: reproduced; asked: above" in data["text/html"]
    assert claims.MIME_TYPE not in data  # the page has the box; jupyter-book knows no such type
    assert prepared.claims == (archived.id,)


def test_a_verdict_that_changed_shows(book):
    book.outputs[2] = [claim_output(a_claim(values=[10.0, 12.0, 11.0]))]
    prepared = prepare(book.notebook(), NAME, "quick")
    assert "claim-contradicted" in json.dumps(prepared.notebook)


def test_the_box_shows_what_the_chapter_decided_and_what_is_recorded(book):
    decided = a_claim(values=[10.0, 90.0, 60.0])
    prepared = prepare(
        book.notebook(), NAME, "quick", None, {decided.id: decided}, {decided.id: "supported"}
    )
    page = prepared.notebook["cells"][-3]["outputs"][0]["data"]["text/html"]
    assert page == claims.box(decided, recorded="supported")
    assert "claim-undecided" in page


def test_messages_and_progress_bars_leave_the_page_but_not_unseen(book):
    book.outputs[1] = [
        {"output_type": "stream", "name": "stderr", "text": "building a cache\n"},
        display({WIDGET: "{}", "text/plain": "0% of 10"}),
        figure(),
    ]
    book.outputs[2] = [{"output_type": "stream", "name": "stdout", "text": "kept\n"}]
    prepared = prepare(book.notebook(), NAME, "quick")
    assert prepared.noise == (
        "wing/chapter, cell 4, on stderr: building a cache",
        "wing/chapter, cell 4, a widget: 0% of 10",
    )
    text = json.dumps(prepared.notebook)
    assert "kept" in text
    assert "building a cache" not in text
    assert "0% of 10" not in text


def test_preparing_changes_nothing_and_is_repeatable(book):
    notebook = book.notebook()
    before = json.dumps(notebook)
    first = prepare(notebook, NAME, "quick").notebook
    assert json.dumps(notebook) == before
    for cell in notebook.cells:
        cell["id"] = cell["id"] + "x"
    assert prepare(notebook, NAME, "quick").notebook["cells"] == first["cells"]

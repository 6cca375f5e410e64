"""Notebook sources: parameters are checked, code decides, prose is woven around old outputs."""

import textwrap

import nbformat
import pytest

from workflow import sources
from workflow.execute import parse_settings, stable
from workflow.sources import ROOT, BuildError, Source, weave, write_if_changed

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""

NOTEBOOK = """
# A title

```{code-cell} ipython3
:tags: [parameters]

seeds = 3
rates = [0.1, 0.2]
scale = 1.0
quiet = False
label = "a"
```

Some prose.

```{code-cell} ipython3
from promptlib.claims import Claim

seeds + 1
```
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "NOTEBOOKS", tmp_path / "notebooks")

    def write(text, name="wing/chapter"):
        path = tmp_path / "notebooks" / name / f"{name.partition('/')[2]}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + textwrap.dedent(text))
        return Source(name, tmp_path)

    return write


def executed_from(source, prose="old prose"):
    notebook = nbformat.from_dict(source.notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="out")]
            cell.execution_count = 1
        else:
            cell.source = prose
    injected = nbformat.v4.new_code_cell("seeds = 5", metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(2, injected)
    return notebook


def test_defaults_are_the_literals_of_the_tagged_cell(write):
    assert write(NOTEBOOK).defaults == {
        "seeds": 3,
        "rates": [0.1, 0.2],
        "scale": 1.0,
        "quiet": False,
        "label": "a",
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 5}, r"no parameter 'seed' \(did you mean 'seeds'\?\); it has: seeds, rates"),
        ({"seeds": 2.5}, "'seeds' of wing/chapter must be a whole number like its default 3, got"),
        ({"seeds": "5"}, "must be a whole number like its default 3, got '5'"),
        ({"seeds": True}, "must be a whole number"),
        ({"rates": 0.1}, "'rates' of wing/chapter must be a list of float"),
        ({"rates": ["x"]}, "must be a list of float"),
        ({"quiet": 1}, "must be true or false"),
        ({"scale": "big"}, "must be a number"),
    ],
)
def test_unknown_and_mistyped_parameters_are_refused(write, given, message):
    with pytest.raises(BuildError, match=message):
        write(NOTEBOOK).check_parameters(given, "config/quick.yml")


def test_whole_numbers_are_numbers(write):
    assert write(NOTEBOOK).check_parameters({"scale": 2}, "x")["scale"] == 2


def test_parameters_cell_must_be_there_once_and_hold_literals(write):
    with pytest.raises(BuildError, match="one cell must be tagged 'parameters', found 0"):
        _ = write(NOTEBOOK.replace(":tags: [parameters]", "")).defaults
    with pytest.raises(BuildError, match=r"only assign literals to names, found: x = f\(\)"):
        _ = write(NOTEBOOK.replace("seeds = 3", "x = f()")).defaults


def test_prose_does_not_change_the_code_key_and_code_and_parameters_do(write):
    key = write(NOTEBOOK).code_key({"seeds": 3})
    assert write(NOTEBOOK.replace("Some prose", "Other prose")).code_key({"seeds": 3}) == key
    assert write(NOTEBOOK.replace("seeds + 1", "seeds + 2")).code_key({"seeds": 3}) != key
    assert write(NOTEBOOK).code_key({"seeds": 4}) != key


def test_dependencies_are_the_modules_that_the_code_reaches(write):
    reached = {path.relative_to(ROOT).as_posix() for path in write(NOTEBOOK).dependencies}
    assert {"promptlib/claims/__init__.py", "promptlib/claims/outcomes.py"} <= reached
    assert all(path.startswith("promptlib/claims/") for path in reached)


def test_weave_puts_old_outputs_into_new_prose(write):
    executed = executed_from(write(NOTEBOOK))
    woven = weave(write(NOTEBOOK.replace("Some prose", "Fresh prose")), executed)
    assert [cell.source for cell in woven.cells if cell.cell_type == "markdown"] == [
        "# A title",
        "Fresh prose.",
    ]
    assert [cell.outputs[0].text for cell in woven.cells if cell.get("outputs")] == ["out", "out"]
    tags = [cell.metadata.get("tags", []) for cell in woven.cells]
    assert tags[1:3] == [["parameters"], ["injected-parameters"]]


def test_weave_refuses_outputs_of_other_code(write):
    executed = executed_from(write(NOTEBOOK))
    with pytest.raises(BuildError, match="executed with other code"):
        weave(write(NOTEBOOK.replace("seeds + 1", "seeds + 2")), executed)


def test_an_unknown_notebook_is_named_with_the_known_ones(write):
    write(NOTEBOOK)
    with pytest.raises(
        BuildError, match=r"'wing/chapte' \(did you mean 'wing/chapter'\?\); there are: w"
    ):
        _ = Source("wing/chapte").notebook


def test_settings_are_literals_or_text():
    assert parse_settings(["seeds=5", "rates=[1e-1, 2]", "label=x", "quiet=True"]) == {
        "seeds": 5,
        "rates": [0.1, 2],
        "label": "x",
        "quiet": True,
    }
    text = """rates=[1e-3, 0.2] seeds = 5 label=two words note="a=1 b" sizes={1: [1, 2]} it=it's"""
    assert parse_settings([text]) == {
        "rates": [0.001, 0.2],
        "seeds": 5,
        "label": "two words",
        "note": "a=1 b",
        "sizes": {1: [1, 2]},
        "it": "it's",
    }
    with pytest.raises(BuildError, match="seeds is given twice"):
        parse_settings(["seeds=5 seeds=6"])
    with pytest.raises(BuildError, match=r"expected NAME=VALUE, got '0\.2\] a=1'"):
        parse_settings(["0.2] a=1"])
    with pytest.raises(BuildError, match="expected NAME=VALUE, got 'seeds'"):
        parse_settings(["seeds"])


def test_stable_drops_times_and_random_ids():
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("1", metadata={"papermill": {"duration": 1.0}})],
        metadata={"papermill": {"start_time": "now"}},
    )
    stable(notebook)
    assert notebook.cells[0].id == "cell-0"
    assert "papermill" not in notebook.metadata | notebook.cells[0].metadata


def test_stable_joins_what_was_printed_in_a_row():
    def printed(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)

    shown = nbformat.v4.new_output("display_data", data={"text/plain": "x"})
    outputs = [printed("a\n"), printed("b\n"), printed("c\n", "stderr"), shown, printed("d\n")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=outputs)])
    (cell,) = stable(notebook).cells
    texts = [output.get("text", "shown") for output in cell.outputs]
    assert texts == ["a\nb\n", "c\n", "shown", "d\n"]


def test_write_if_changed_keeps_the_time_of_an_unchanged_file(tmp_path):
    path = tmp_path / "deep" / "file"
    assert write_if_changed(path, b"1")
    before = path.stat().st_mtime_ns
    assert not write_if_changed(path, b"1")
    assert path.stat().st_mtime_ns == before
    assert write_if_changed(path, b"2")

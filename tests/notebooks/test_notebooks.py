"""Notebooks run with other parameters, alone as in JupyterLab, and refuse values out of range.

Every notebook is executed once at the smallest size it allows, from its own folder, with its own
run store. At that size a statistical claim may come out otherwise; which claims are shown may not.
"""

import ast
import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from promptlib import claims
from workflow import sources
from workflow.collect import claims_of
from workflow.execute import parse_settings
from workflow.profile_config import load_profile, profile_names
from workflow.sources import NOTEBOOKS, ROOT, Source

SMALLEST = json.loads((Path(__file__).parent / "smallest.json").read_text())
BUILT = ROOT / "_build" / "quick" / "executed"


def run(name, parameters, target, monkeypatch, tmp_path):
    """Execute a notebook as JupyterLab would: from its folder, with no help of the workflow."""
    monkeypatch.setenv("PROMPTLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    source = Source(name)
    source.check_parameters(parameters, "the test")
    prepared = tmp_path / "source.ipynb"
    nbformat.write(source.notebook, prepared)
    papermill.execute_notebook(
        str(prepared),
        str(target),
        parameters=parameters,
        kernel_name="python3",
        progress_bar=False,
        cwd=str(source.path.parent),
    )
    return nbformat.read(target, as_version=4)


def test_every_notebook_is_tested_here_and_planned_in_every_profile():
    assert sorted(SMALLEST) == sources.names()
    for profile in profile_names():
        planned = sorted(plan.source.name for plan in load_profile(profile).notebooks)
        assert planned == sources.names()


@pytest.mark.parametrize("name", sources.names())
def test_defaults_are_the_values_of_the_quick_profile(name):
    plan = load_profile("quick").notebook(name)
    assert dict(plan.parameters) == Source(name).defaults


@pytest.mark.parametrize("name", sources.names())
def test_every_parameter_says_its_range(name):
    (cell,) = (
        cell.source
        for cell in Source(name).notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    for line in filter(None, cell.splitlines()):
        if line.startswith("#"):
            continue
        assert re.search(r"=.*#.{8,}", line), line


@pytest.mark.parametrize("name", sources.names())
def test_notebook_runs_alone_with_other_parameters(name, monkeypatch, tmp_path):
    executed = run(name, SMALLEST[name], tmp_path / "executed.ipynb", monkeypatch, tmp_path)
    shown = [claim.id for claim in claims_of(executed)]
    recorded = [claim.id for claim in claims_of(nbformat.read(BUILT / f"{name}.ipynb", 4))]
    assert shown == recorded


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("prefix_tuning/new_task", {"seeds": 0}, "seeds must be .* at least 1, got 0"),
        ("prefix_tuning/new_task", {"learning_rates": [-1.0]}, "learning_rates must be .* above 0"),
    ],
)
def test_values_out_of_range_are_named(name, parameters, message, monkeypatch, tmp_path):
    with pytest.raises(PapermillExecutionError, match=message):
        run(name, parameters, tmp_path / "executed.ipynb", monkeypatch, tmp_path)


@pytest.mark.parametrize("name", sources.names())
def test_executed_notebook_of_the_build_is_clean(name):
    """No error, no warning on stderr, no trace of time or place."""
    notebook = nbformat.read(BUILT / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
    text = json.dumps(notebook)
    assert str(ROOT) not in text
    assert not re.search(r"0x[0-9a-f]{9,}", text)
    assert claims_of(notebook)


def defined(dotted):
    """Whether a file of the library defines the function or class; nothing is imported."""
    module, _, name = dotted.rpartition(".")
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name for n in body)


@pytest.mark.parametrize("name", sources.names())
def test_what_a_claim_checks_is_in_the_library(name):
    for claim in claims_of(nbformat.read(BUILT / f"{name}.ipynb", as_version=4)):
        assert claim.kind in claims.KINDS
        if claim.verdict == "not checked":  # its module imports what is not installed
            assert defined(claim.checks), (claim.id, claim.checks)
            continue
        module, _, attribute = claim.checks.rpartition(".")
        found = None
        while module and found is None:
            try:
                found = __import__(module, fromlist=["_"])
            except ModuleNotFoundError:
                module, _, outer = module.rpartition(".")
                attribute = f"{outer}.{attribute}"
        for part in attribute.split("."):
            found = getattr(found, part)


@pytest.mark.parametrize("page", ["README.md", "book/rerun.md"])
def test_commands_that_readers_are_told_to_type_are_right(page):
    text = (ROOT / page).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.M):
        assert re.search(rf"^{''.join(command)}:", makefile, re.M), command
    commands = re.findall(r'make notebook NOTEBOOK=(\S+) SET="([^"]+)"', text)
    assert commands
    for name, settings in commands:
        Source(name).check_parameters(parse_settings(settings.split()), page)
    for name, setting in re.findall(r"papermill (\w+)\.ipynb .* -p (\w+ \w+)", text):
        parameters = parse_settings([setting.replace(" ", "=")])
        Source(f"prefix_tuning/{name}").check_parameters(parameters, page)


def test_notebooks_lie_where_readers_look():
    assert {path.parent.parent.name for path in NOTEBOOKS.rglob("*.md")} == {
        "prompt_attention",
        "bridge",
        "prefix_tuning",
    }

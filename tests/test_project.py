"""The project as a whole: pins agree, packages export what they say, nothing private is inside."""

import ast
import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".txt", ".json", ".cff", ".js", ".css", ".svg", ""}


def tracked():
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_conda_environment_has_the_pins_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = (item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    extras = PROJECT["optional-dependencies"]
    pins = PROJECT["dependencies"] + [
        pin for one in ("book", "test", "lab", "real") for pin in extras[one]
    ]
    assert [item for item in pip if not item.startswith("--")] == pins
    assert "--constraint constraints.txt" in pip
    assert "--editable ." in pip
    (python,) = (item for item in conda if item.startswith("python="))
    assert f">={python.removeprefix('python=')}" == PROJECT["requires-python"]


def test_every_direct_dependency_is_pinned_and_the_constraints_agree():
    constraints = dict(
        line.lower().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    extras = PROJECT["optional-dependencies"]
    for pin in PROJECT["dependencies"] + [pin for pins in extras.values() for pin in pins]:
        name, separator, version = pin.lower().partition("==")
        assert separator, pin
        assert constraints.get(name, version) == version


@pytest.mark.parametrize("package", ["promptlib.prompt_attention", "promptlib.prefix_tuning"])
def test_lazy_exports_are_the_names_that_type_checkers_see(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    seen = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert set(module.__all__) == seen
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (
            "promptlib.prompt_attention",
            "ContextualMixture prompt_attention self_attention linear_attention mean_pooling "
            "self_attention_threshold linear_attention_threshold",
        ),
        (
            "promptlib.prefix_tuning",
            "GPT GPTConfig Prefix add_lora remove_lora sequence_accuracy attend SORT_ASCENDING "
            "SORT_DESCENDING ADD_ONE ADD_TWO ASCENDING_ADD_ONE DOUBLE_HISTOGRAM MIXTURE",
        ),
    ],
)
def test_public_names_are_there(package, names):
    module = importlib.import_module(package)
    assert set(names.split()) <= set(module.__all__)


def test_every_public_name_of_the_library_has_a_docstring():
    missing = []
    for path in (ROOT / "promptlib").rglob("*.py"):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            missing.append(str(path))
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                missing.append(f"{path.name}:{node.name}")
    assert missing == []


def test_nothing_private_and_nothing_unfinished_is_in_the_repository():
    wrong = re.compile(
        r"(/(home|root|Users)/\w+|/work/|index-url\s*=?\s*http|files\.pythonhosted|pypi\.org/simple"
        r"|registry\.npmjs|\bTO"
        r"DO\b|\bFIX"
        r"ME\b|NotImplemented"
        r"Error)"
    )
    found = []
    for path in tracked():
        if "vendor" in path.parts or path.suffix not in TEXT or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if wrong.search(line) and path != Path(__file__):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_nothing_is_unpickled():
    loading = re.compile(r"\b(pickle\.load|torch\.load|np\.load\(.*allow_pickle=True)")
    for path in (ROOT / "promptlib").rglob("*.py"):
        assert not loading.search(path.read_text()), path


def test_the_makefile_lists_every_command_with_its_meaning():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    listed = re.findall(r"^([a-z-]+):.*## \S", makefile, re.M)
    assert set(phony.split()) == set(listed)

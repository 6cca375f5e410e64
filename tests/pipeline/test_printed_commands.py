"""Every command that the README or a page prints does what is said, typed as it is printed.

Commands of ``make`` are expanded; those in `TYPED` are run, in a small book with a chapter of the
name that they mention. A command that is neither is found here.
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from tests.pipeline import small_book
from tests.pipeline.small_book import PROJECT
from workflow import archive, serve
from workflow.command import BuildError

PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((PROJECT / "book").glob("*.md")),
    *sorted((PROJECT / "notebooks").glob("*/*/*.md")),
]
PROGRAMS = r"(?:make|pip|python3?|conda|git|jupyter|jupytext|papermill|bash|sh|\.venv/\S+)"

TYPED = [
    "make help",
    "make book",
    'make notebook NOTEBOOK=prefix_tuning/new_task SET="seeds=8"',
    'make notebook NOTEBOOK=prefix_tuning/new_task SET="seeds=8 learning_rates=[1e-3, 0.2]"',
    ".venv/bin/python -m jupytext --to ipynb --output new_task.ipynb "
    "notebooks/prefix_tuning/new_task/new_task.md",
    ".venv/bin/python -m papermill new_task.ipynb new_task_8_seeds.ipynb -p seeds 8",
    'make archive NOTEBOOK=prefix_tuning/new_task SET="seeds=1"',
    ".venv/bin/python -m pytest tests/promptlib/test_claims.py",
    "make record",
    "make clean",
    "make clean-runs",
]
MODULES = {".venv/bin/python -m benchmarks.one_seed": "benchmarks.one_seed"}
"""Commands that take hours: that the module is there is all that is tested."""


def printed():
    """Commands in the pages: those in blocks, and those in a line of prose or a table."""
    found = {}
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines += re.findall(rf"`({PROGRAMS}\s[^`]+)`", prose)
        lines += (
            f"make notebook NOTEBOOK=prefix_tuning/new_task {setting}"
            for setting in re.findall(r"`(SET=[^`]+)`", text)
        )
        for line in lines:
            command = " ".join(re.sub(r"\s#.*", "", line).split())
            if command:
                found.setdefault(command, page.relative_to(PROJECT).as_posix())
    return found


PRINTED = printed()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A small book with a chapter ``prefix_tuning/new_task``, its tools as after ``make``."""
    book = small_book.make(tmp_path_factory.mktemp("printed commands") / "book", sketch=True)
    root = book.root
    for name in ("Makefile", "constraints.txt"):
        shutil.copy2(PROJECT / name, root)
    chapter = root / "notebooks" / "prefix_tuning" / "new_task" / "new_task.md"
    chapter.parent.mkdir(parents=True)
    text = (root / "notebooks" / "small" / "first" / "first.md").read_text()
    parameters = "seeds = 3  # seeds, >= 1\nlearning_rates = [0.1]  # all > 0\nrate = 0.5"
    text = text.replace("rate = 0.5", parameters).replace("/first", "/new-task")
    chapter.write_text(text + "\n```{code-cell} ipython3\nprint(seeds, learning_rates)\n```\n")
    entry = "  prefix_tuning/new_task: {runs: 'promptlib.small.training:plan'}\n"
    quick = root / "config" / "quick.yml"
    quick.write_text(quick.read_text() + entry)
    shutil.copy(quick, root / "config" / "paper.yml")
    with (root / "config" / "verdicts.yml").open("a") as file:
        file.write("small/new-task: {kind: identity}\n")
    ledger, mark = "      - file: ledger", '@pytest.mark.claim("small/first")'
    book.edit("book/_toc.yml", ledger, f"      - file: prefix_tuning/new_task\n{ledger}")
    book.edit("tests/test_small.py", mark, f"{mark}\n{mark.replace('first', 'new-task')}")
    (root / "tests" / "promptlib").mkdir()
    shutil.copy(root / "tests" / "test_small.py", root / "tests" / "promptlib" / "test_claims.py")
    book.edit("tests/promptlib/test_claims.py", "@pytest.mark.claim", "# ")
    (root / ".gitignore").write_text((PROJECT / ".gitignore").read_text() + "*.log\n")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    commit(root)
    tools = root / ".venv" / "bin"
    tools.mkdir(parents=True)
    refuse = (
        'case "$word" in pip|uv|venv|*install.py) echo "nothing is installed" >&2; exit 97; esac'
    )
    (tools / "python").write_text(
        f"#!/bin/sh\nfor word; do {refuse}; done\n"
        f"PYTHONPATH='{root}' exec '{sys.executable}' \"$@\"\n"  # as if it were installed
    )
    (tools / "python").chmod(0o755)
    for name in ("book", "test", "lab"):
        (root / ".venv" / f".{name}-pip").touch()
    return book


def commit(root):
    """Commit all that there is."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for call in (["add", "."], ["commit", "--quiet", "--message", "All"]):
        subprocess.run(["git", *identity, *call], cwd=root, check=True)


def typed(book, command, seconds=300):
    """Exit status and output of a command in the folder of a book."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=book.root,
        env={name: value for name, value in os.environ.items() if name not in outer},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_pages_print_commands():
    assert len(PRINTED) > 15
    assert set(TYPED) - set(PRINTED) == set()


@pytest.mark.parametrize("command", PRINTED, ids=PRINTED.get)
def test_a_printed_command_is_one_that_there_is(command, book):
    if command.startswith("make "):
        status, output = typed(book, command.replace("make ", "make --dry-run ", 1))
        assert status == 0, output
        assert not re.search(r"/bin/(?!python\b|bash\b)", output), "a script that names its Python"
    elif command in MODULES:
        assert importlib.util.find_spec(MODULES[command])
    else:
        assert command in TYPED


@pytest.mark.pipeline
def test_printed_commands_do_what_is_said(book):
    said = {}
    for command in TYPED:
        status, said[command] = typed(book, command)
        assert status == 0, f"{command}\n{said[command]}"
        if command.startswith("make archive"):  # what follows judges without it
            shutil.rmtree(book.root / "archive")
    assert "make notebook" in said["make help"]
    assert "3 claims: 3 holds" in said["make book"]
    assert (book.root / "new_task_8_seeds.ipynb").read_text().count("8 [0.1]") == 1
    several = said[TYPED[3]].split("-> ")[1].strip()
    assert several == "_build/reruns/executed/prefix_tuning/new_task.ipynb"
    assert "archive/prefix_tuning/new_task.json" in said[TYPED[6]]
    assert "recorded 3 claims" in said["make record"]
    assert not (book.root / "_build").exists()
    assert not (book.root / "runs").exists()
    commit(book.root)  # `make record` changed files, and archives need a commit


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("make notebook", "error: say which: make notebook NOTEBOOK="),
        ("make notebook NOTEBOOK='small/firs t'", "there is no notebook 'small/firs t'"),
        ("make notebook NOTEBOOK=small/first SET='rate'", "expected NAME=VALUE, got 'rate'"),
        ('make notebook NOTEBOOK=small/first SET="rat=it\'s"', "did you mean 'rate'?"),
        ("make book CORES=0", "CORES must be a positive number, got 0"),
        ("make book CORES=", "CORES must be a positive number, got nothing"),
        ("make book PROFILE='qui ck'", "there is no profile 'qui ck' (did you mean 'quick'?)"),
        ("make book GATE=", "GATE must be refuse or warn, got ''"),
        ("make book EXTRAS=all", "EXTRAS must be real, or empty, got 'all'"),
        ("make test FULL=all", "FULL must be 1, or empty, got 'all'"),
        ("make book TORCH=rocm", "TORCH must be pip, cpu or gpu, got 'rocm'"),
        ("make robust SEEDS=one", "argument --seeds: invalid int value: 'one'"),
        ("make serve PORT=http", "PORT must be a number from 0 to 65535, got http"),
        ("make serve", "there is no site yet; run: make book"),
        ("make record PROFILE=paper", "is missing; run: make book PROFILE=paper"),
        ("make archive", "there is no build to archive; run: make book PROFILE=paper"),
        ("make archive SET=rate=1", "say whose parameters change"),
        ("make book VENV=.venv2 PYTHON=no-python", "Python 3.11 or newer is"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(book, command, said):
    status, output = typed(book, command)
    assert status != 0
    assert said in output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if "Makefile:" not in line]
    assert len(lines) <= 1, output


def test_a_port_that_is_taken_is_named_with_the_remedy(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(serve, "SITE", tmp_path)
    (tmp_path / "index.html").write_text("Home")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve.main(["--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: port {port} cannot be used (")
    assert said.endswith("make serve PORT=8001\n")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GIT_DIR": "/nowhere"}, "git does not tell what the sources are: fatal: not a git"),
        ({"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}, "fatal: detected dubious ownership"),
        ({"PATH": ""}, "git is not installed"),
    ],
)
def test_without_a_clone_git_is_quoted(book, monkeypatch, variables, said):
    monkeypatch.setattr(archive, "ROOT", book.root)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match="needs a clone made with git") as caught:
        archive.committed()
    assert said in str(caught.value)


def test_a_copy_inside_another_clone_is_not_taken_for_one(book, monkeypatch):
    monkeypatch.setattr(archive, "ROOT", book.root / "workflow")
    with pytest.raises(BuildError, match=r"lies in that of .*book; an archive names the commit"):
        archive.committed()

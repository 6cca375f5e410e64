"""A small library, and a room for every chapter: who may live where, and who may import whom."""

from __future__ import annotations

import ast
import builtins
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from promptlib.digests import import_closure, imported_modules
from workflow import sources
from workflow.profile_config import load_profile
from workflow.sources import Source

ROOT = Path(__file__).resolve().parent.parent
profile = cache(load_profile)
LONGEST = 400
"""Lines of a module."""
MOST_FILES = 20
"""Files of a folder."""


@cache
def modules() -> dict[str, Path]:
    """All modules of the library and the chapters, by dotted name."""
    found = {}
    for folder in ("promptlib", "notebooks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> tuple[str, ...]:
    """What a module imports when it runs: also inside functions, but not for type checkers."""

    class WithoutTypes(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            only_types = ast.unparse(node.test) == "TYPE_CHECKING"
            return None if only_types else self.generic_visit(node)

    tree = WithoutTypes().visit(ast.parse(modules()[module].read_text(encoding="utf-8")))
    return imported_modules(ast.unparse(tree))


def room(module: str) -> str:
    """The chapter that a module serves alone; empty for the library."""
    parts = module.split(".")
    return "/".join(parts[1:3]) if parts[0] == "notebooks" else ""


def used_by(chapter: str) -> set[str]:
    """Every module that a chapter reaches: from its page, its plan, and its archived claims."""
    plan = profile("paper").notebook(chapter)
    entries = [entry.partition(":")[0] for entry in (plan.plan, plan.archived) if entry]
    trained = {run.train.partition(":")[0] for run in plan.runs}
    return set(import_closure(*Source(chapter).modules, *entries, *sorted(trained)))


def test_the_library_imports_no_chapter():
    for module in modules():
        if not room(module):
            assert not [name for name in imports(module) if room(name)], module


def test_a_chapter_imports_the_plan_of_another_and_nothing_else():
    for module in modules():
        for name in imports(module):
            if room(module) and room(name) not in ("", room(module)):
                assert name.rpartition(".")[2] == "plan", f"{module} imports {name}"


@pytest.mark.parametrize("chapter", sources.names())
def test_a_page_imports_of_other_chapters_nothing_but_a_plan(chapter):
    code = "\n".join(Source(chapter).code_cells)
    for name in imported_modules(code):
        if name in modules() and room(name) not in ("", chapter):
            assert name.rpartition(".")[2] == "plan", f"{chapter} imports {name}"


def test_the_library_holds_what_is_public_or_used_by_two_chapters():
    public = set()
    wings = ("promptlib", "promptlib.prompt_attention", "promptlib.prefix_tuning")
    for door in (*wings, "promptlib.prefix_tuning.diagnosis"):
        public |= set(import_closure(door))  # a type checker's imports are those of its names
    users: dict[str, set[str]] = {}
    for chapter in sources.names():
        for module in used_by(chapter):
            users.setdefault(module, set()).add(chapter)
    lonely = [
        f"{module} serves {', '.join(users.get(module, ())) or 'nobody'}"
        for module, path in modules().items()
        if not room(module) and module not in public and len(users.get(module, ())) < 2
        if path.name != "__init__.py"
    ]
    assert lonely == []


def test_no_import_goes_in_a_circle():
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in imports(module):
                visit(name, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


@pytest.mark.parametrize("chapter", sources.names())
def test_a_chapter_has_one_name_everywhere(chapter):
    wing, _, name = chapter.partition("/")
    assert Source(chapter).path == ROOT / "notebooks" / wing / name / f"{name}.md"
    tests = ROOT / "tests" / "notebooks" / wing / name
    assert sorted(tests.glob("test_*.py")), f"{chapter} has no tests in {tests.relative_to(ROOT)}"
    archived = ROOT / "archive" / f"{chapter}.json"
    assert archived.parent.is_dir() or not archived.exists()
    for size in ("quick", "paper"):
        plan = profile(size).notebook(chapter).plan
        if plan is not None:
            assert plan.partition(":")[0] == f"notebooks.{wing}.{name}.plan"


def test_files_are_short_and_folders_hold_few():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules().values()
        if (lines := path.read_text(encoding="utf-8").count("\n")) >= LONGEST
    }
    assert long == {}
    for folder in {path.parent for path in modules().values()}:
        files = [path for path in folder.iterdir() if path.is_file()]
        assert len(files) <= MOST_FILES, folder.relative_to(ROOT)


def test_the_names_of_modules_are_those_of_the_house():
    """No prefix stands in for a folder: what serves a chapter does not repeat its name."""
    for module in modules():
        chapter = room(module).partition("/")[2]
        name = module.rpartition(".")[2]
        assert not chapter or name == chapter or not re.match(rf"{chapter}_", name), module


def test_every_module_says_in_its_first_sentence_what_it_answers():
    for module, path in modules().items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text, module
        assert text.endswith((".", "?", "\n")) or re.search(r"[.?]", text), module


def test_modules_of_a_wing_refuse_arguments_of_another_kind():
    for module, path in modules().items():
        if re.match(r"promptlib\.\w+_\w+\.", module) and path.name != "__init__.py":
            last = path.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
            assert last == "check_public(__name__)", module


@cache
def defined(module: str) -> set[str]:
    """Names of a module, of its functions, classes, methods, constants and imports."""
    names = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


def exists(dotted: str) -> bool:
    """Whether a dotted name leads to a folder, a module, or something that a module defines."""
    parts = re.split(r"[.:]", dotted)
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module in modules():
            return set(parts[end:]) <= defined(module)
        if ROOT.joinpath(*parts[:end]).is_dir():
            return end == len(parts)
    return False


def said(path: Path) -> str:
    """Strings, docstrings and comments of a module; all of another text."""
    if path.suffix != ".py":
        return path.read_text(encoding="utf-8")
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    return "\n".join(
        token.string for token in tokens if token.type in (tokenize.STRING, tokenize.COMMENT)
    )


def test_names_and_paths_in_prose_and_docstrings_lead_somewhere():
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "config").glob("*.yml")]
    for folder in ("promptlib", "notebooks", "workflow", "book", "benchmarks"):
        texts += [*(ROOT / folder).glob("**/[!_]*.md"), *(ROOT / folder).glob("**/*.py")]
    texts.remove(ROOT / "book" / "_ext" / "source_pages.py")  # its examples are made up
    folders = "promptlib|notebooks|workflow|tests|config|book|benchmarks"
    lost = []
    for path in texts:
        text, where = said(path), path.relative_to(ROOT)
        for name in re.findall(r"(?<![\w./])(?:promptlib|notebooks)(?:\.\w+)+(?::\w+)?", text):
            if not exists(name):
                lost.append(f"{where}: {name}")
        for name in re.findall(rf"(?<![\w./])(?:{folders})/[\w./-]+\.(?:py|md|yml|json)\b", text):
            if not (ROOT / name).is_file():
                lost.append(f"{where}: {name}")
    assert lost == []


@pytest.mark.parametrize("chapter", sources.names())
def test_code_that_a_page_shows_but_does_not_run_uses_what_is_there(chapter):
    """Solutions of exercises: every name is known on the page, everything of a module is in it."""
    source = Source(chapter)
    text = source.path.read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    tree = ast.parse("\n".join([*source.code_cells, *shown]))
    known, ours = set(dir(builtins)), {}
    for node in ast.walk(tree):
        match node:
            case ast.alias(name=name, asname=other):
                known.add(other or name.partition(".")[0])
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                known.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                known.add(name)
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                module = f"{node.module}.{name.name}"
                if module in modules():
                    ours[name.asname or name.name] = module
                elif node.module in modules():
                    assert name.name in defined(node.module), module
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                assert name in known, name
            case ast.Attribute(value=ast.Name(id=name), attr=part) if name in ours:
                assert part in defined(ours[name]), f"{ours[name]}.{part}"

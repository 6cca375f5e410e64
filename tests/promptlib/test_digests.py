"""What a run's key covers: the definitions that its training function reaches, wording aside."""

import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from promptlib.digests import (
    code_digest,
    import_closure,
    imported_modules,
    modules,
    reached,
    source_path,
)
from promptlib.digests.text import source_digest
from promptlib.prefix_tuning import planning
from promptlib.registry import Registry, covering
from promptlib.runs import Result, Run, RunStore
from tests.trained_in_memory import TrainedInMemory

TASKS = "promptlib.prefix_tuning.adapting"


class Project:
    """A project of a few files, in place of this one."""

    def __init__(self, root):
        self.root = root
        self.write({"pyproject.toml": "", "promptlib/__init__.py": ""})

    def write(self, files):
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def edit(self, name, old, new):
        text = (self.root / name).read_text()
        assert old in text
        (self.root / name).write_text(text.replace(old, new))

    def renames(self, name, old, new, train="promptlib.outer:f", config=()):
        """Whether an edit changes the digest of a training function; the edit is taken back."""
        path, before = self.root / name, reached(train, config)
        text = path.read_text()
        self.edit(name, old, new)
        after = reached(train, config)
        path.write_text(text)
        assert reached(train, config) == before
        return after.digest != before.digest


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(modules, "PACKAGE", tmp_path / "promptlib")
    return Project(tmp_path)


def test_the_digest_of_code_is_the_same_under_every_python():
    """Taken from Python 3.11, 3.12 and 3.13, which parse and print this sample differently."""
    sample = (Path(__file__).parent / "every_syntax.txt").read_text(encoding="utf-8")
    digest = source_digest(sample)
    assert digest == "79a14222a4929cb86c858094a5fa312286e743a4b71463139d4ad60c68d53f6a"


def test_what_is_reached_is_the_same_under_every_python(project):
    """Taken, like the last, from Python 3.11, 3.12 and 3.13."""
    sample = (Path(__file__).parent / "every_syntax.txt").read_text(encoding="utf-8")
    (project.root / "promptlib" / "outer.py").write_text(sample, encoding="utf-8")
    digest = reached("promptlib.outer:gather", ()).digest
    assert digest == "6dc18d671756c432e5832017d76047de07011c0536f5420b68fe3f56a519ca6b"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("f'{a}{b}'", "f'{b}{a}'"),
        ("f'{a!r}'", "f'{a!s}'"),
        ("f'{a:>3}'", "f'{a:>4}'"),
        ("f'{a}'", "'{a}'"),
        ("f'ab'", "f'a b'"),
        ("def f(): return f''", "def f(): return"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = []", "x = ()"),
        ("x = -1", "x = 1"),
        ("f(**a)", "f(a)"),
        ("x = {**a, b: 1}", "x = {a: 1, **b}"),
        ("def f(*, a, b=1): pass", "def f(*, a=1, b): pass"),
        ("def f(a, /): pass", "def f(a): pass"),
        ("a < b <= c", "a <= b < c"),
        ("[x for x in y if z]", "{x for x in y if z}"),
        ("if a: b", "while a: b"),
        ("from a import b", "from a import b as c"),
        ("from .a import b", "from ..a import b"),
        ("match x:\n case None: y", "match x:\n case True: y"),
        ("try: a\nexcept E: b", "try: a\nexcept* E: b"),
        ("try: a\nfinally: b", "try: a\nexcept E: b"),
    ],
)
def test_different_code_has_different_digests(one, other):
    assert source_digest(one) != source_digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = f'a' 'b' f'{c}'", 'x = f"ab{c}"'),
        ("x = f'{a:}'", "x = f'{a}'"),
        ("def f():\n  'docstring'", "def f(): pass"),
        ("x = 0x10", "x = 1_6  # sixteen"),
        ("x = u'a'", "x = 'a'"),
        ("x = (1, 2)", "x = 1, 2"),
    ],
)
def test_spelling_does_not_count(one, other):
    assert source_digest(one) == source_digest(other)


def test_modules_count_whole_and_wording_does_not(project):
    project.write({"promptlib/inner.py": "SCALE = 2\n"})

    def digest(text, inner="SCALE = 2\n"):
        project.write({"promptlib/outer.py": text, "promptlib/inner.py": inner})
        return code_digest("promptlib.outer")

    plain = digest("from promptlib.inner import SCALE\ndef f(x):\n    return SCALE * x\n")
    reworded = digest(
        '"""New docstring."""\nfrom promptlib.inner import SCALE  # why\n\n'
        'def f(x):\n    """Other words."""\n    return SCALE * x\n'
    )
    changed = digest("from promptlib.inner import SCALE\ndef f(x):\n    return SCALE + x\n")
    deeper = digest(
        "def f(x):\n    from promptlib.inner import SCALE\n    return SCALE * x\n", "SCALE = 3\n"
    )
    assert plain == reworded
    assert len({plain, changed, deeper}) == 3
    assert import_closure("promptlib.outer") == ("promptlib.inner", "promptlib.outer")


OUTER = '''
"""A module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from promptlib import inner
from promptlib.checks import check_public
from promptlib.inner import helper as assistant
from promptlib.kinds import Kind

if TYPE_CHECKING:
    from promptlib.other import Other

RATE = 0.5
"""A rate."""
BESIDE = 1


@dataclass
class Config:
    steps: int
    kind: Kind = None

    def doubled(self):
        return 2 * self.steps


@dataclass
class Unreached:
    steps: int

    def doubled(self):
        return 2 * self.steps + BESIDE


def f(config: Unreached, other: Other | None = None, rate=RATE):
    """Train."""
    shape: Unreached = Config(1).doubled()  # a comment
    return assistant(np.ones(shape)) * inner.SCALE


def g():
    return unused()


def unused():
    return 3


check_public(__name__)
'''
INNER = """
import math

SCALE = 2
OFFSET = 7


def helper(x):
    return _deep(x) + math.pi


def _deep(x):
    return x + 1


def stranger(x):
    return x - OFFSET
"""


@pytest.fixture
def small(project):
    project.write(
        {
            "promptlib/outer.py": OUTER,
            "promptlib/inner.py": INNER,
            "promptlib/kinds.py": "class Kind: pass\n",
            "promptlib/other.py": "class Other: pass\n",
            "promptlib/checks.py": "def check_public(module):\n    return 1\n",
        }
    )
    return project


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("outer", "RATE = 0.5", "RATE = 0.6"),  # the default of an argument
        ("outer", "np.ones", "np.zeros"),
        ("outer", "numpy as np", "torch as np"),
        ("outer", "    steps: int\n    kind", "    kinds: int\n    kind"),
        ("outer", "2 * self.steps\n\n", "3 * self.steps\n\n"),
        ("outer", "helper as assistant", "stranger as assistant"),
        ("outer", "@dataclass\nclass Config", "class Config"),
        ("inner", "SCALE = 2", "SCALE = 3"),
        ("inner", "x + 1", "x + 2"),
        ("inner", "math.pi", "math.e"),
    ],
)
def test_what_is_reached_counts(small, name, old, new):
    assert small.renames(f"promptlib/{name}.py", old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("outer", "A module", "Some module"),
        ("outer", '"""Train."""', '"""Train it."""'),
        ("outer", "A rate", "The rate"),
        ("outer", "# a comment", "# another"),
        ("outer", "return 3", "return 4"),
        ("outer", "BESIDE = 1", "BESIDE = 2"),
        ("outer", "+ BESIDE", "- BESIDE"),  # a method of a class that nobody uses
        ("outer", "config: Unreached", "config: Config"),
        ("outer", "shape: Unreached =", "shape ="),
        ("outer", "\ncheck_public(__name__)\n", "\n\n"),
        ("outer", "def g():", "def h():"),
        ("inner", "x - OFFSET", "x + OFFSET"),
        ("inner", "OFFSET = 7", "OFFSET = 8"),
        ("kinds", "pass", "steps = 1"),  # an annotation
        ("other", "pass", "steps = 1"),
        ("checks", "return 1", "return 2"),
    ],
)
def test_what_is_not_reached_does_not_count(small, name, old, new):
    assert not small.renames(f"promptlib/{name}.py", old, new)


def test_more_of_what_nobody_reaches_does_not_count(small):
    assert not small.renames("promptlib/inner.py", "SCALE = 2\n", "MORE = 1\nSCALE = 2\n")
    assert not small.renames("promptlib/outer.py", "RATE = 0.5\n", "ALSO = np.pi\nRATE = 0.5\n")


def test_names_that_change_places_count(project):
    project.write(
        {
            "promptlib/inner.py": "def one(x): return x\ndef two(x): return 2 * x\n",
            "promptlib/outer.py": (
                "from promptlib.inner import one as a, two as b\ndef f(x): return a(x) - b(x)\n"
            ),
        }
    )
    assert project.renames("promptlib/outer.py", "one as a, two as b", "two as a, one as b")


@pytest.mark.parametrize(
    "outer",
    [
        "from promptlib.box import helper\ndef f(): return helper()\n",
        "from promptlib.box import helper as other\ndef f(): return other()\n",
        "from promptlib import box\ndef f(): return box.helper()\n",
        "import promptlib.box\ndef f(): return promptlib.box.helper()\n",
        "import promptlib.box as case\ndef f(): return case.helper()\n",
        "from . import box\ndef f(): return box.helper()\n",
        "from .box import helper\ndef f(): return helper()\n",
        "def f():\n    from promptlib.box import helper\n    return helper()\n",
        "def f():\n    import promptlib.box as case\n    return case.helper()\n",
        "class Late:\n    from promptlib.box import helper\ndef f(): return Late.helper()\n",
        "try:\n    from promptlib.box import helper\nexcept ImportError:\n    helper = None\n"
        "def f(): return helper()\n",
        "def f():\n    def inside(box):\n        return box\n    return inside(box)\n"
        "from promptlib.box import helper as box\n",
        "from promptlib.box import helper\ndef f():\n    global helper\n"
        "    for helper in [helper]: helper()\n",
        "from promptlib.box import helper\ndef f(): return [helper for helper in helper()]\n",
    ],
)
def test_helpers_are_found_through_every_import(project, outer):
    project.write(
        {
            "promptlib/outer.py": outer,
            "promptlib/box/__init__.py": "from .deep import helper\n",
            "promptlib/box/deep.py": "def helper(): return 1\ndef beside(): return 1\n",
        }
    )
    deep = "promptlib/box/deep.py"
    assert project.renames(deep, "helper(): return 1", "helper(): return 2")
    assert not project.renames(deep, "beside(): return 1", "beside(): return 2")


@pytest.mark.parametrize(
    "outer",
    [
        "from promptlib.box import *\ndef f(): return helper()\n",
        "from promptlib import box\ndef f(name): return getattr(box, name)\n",
        "from promptlib import box\ndef f(name): return vars(box)[name]\n",
        "from promptlib import box\ndef f(name): return box.__dict__[name]\n",
        "import promptlib.box\ndef f(name): return globals()[name]\n",
        "import promptlib.box\ndef f(name): return eval(name)\n",
        "import sys, promptlib.box\ndef f(name): return getattr(sys.modules[name], name)\n",
        "import importlib, promptlib.box\ndef f(name): return importlib.import_module(name)\n",
        "from importlib import import_module as load\nimport promptlib.box\n"
        "def f(name): return load(name)\n",
        "from promptlib.box import lazy\ndef f(): return lazy\n",  # of a module's __getattr__
    ],
)
def test_what_cannot_be_followed_counts_whole(project, outer):
    project.write(
        {
            "promptlib/outer.py": outer,
            "promptlib/box.py": "from promptlib.deep import SCALE\ndef beside(): return 1\n",
            "promptlib/deep.py": "SCALE = 1\nOTHER = 1\n",
        }
    )
    assert project.renames("promptlib/box.py", "return 1", "return 2")
    assert project.renames("promptlib/deep.py", "OTHER = 1", "OTHER = 2")


def test_circular_imports_end(project):
    project.write(
        {
            "promptlib/outer.py": "from promptlib.inner import g\ndef f(): return g()\nX = 1\n",
            "promptlib/inner.py": (
                "from promptlib import outer\nfrom promptlib.outer import X, nowhere\n"
                "def g(): return outer.f() + X\ndef h(): return nowhere\n"
            ),
        }
    )
    project.edit("promptlib/outer.py", "import g\n", "import g, nowhere\n")
    assert project.renames("promptlib/outer.py", "X = 1", "X = 2")
    assert project.renames("promptlib/inner.py", "+ X", "- X")
    assert not project.renames("promptlib/inner.py", "return nowhere", "return 1")


def test_local_names_are_not_those_of_the_module(project):
    project.write(
        {
            "promptlib/outer.py": (
                "from promptlib import inner\nscale = 1\n"
                "def f(inner):\n    scale = 2\n    return lambda: [scale * x for x in inner]\n"
            ),
            "promptlib/inner.py": "SCALE = 1\n",
        }
    )
    assert not project.renames("promptlib/inner.py", "SCALE = 1", "SCALE = 2")
    assert not project.renames("promptlib/outer.py", "scale = 1", "scale = 3")


@pytest.mark.parametrize(
    "effect",
    [
        "STATE['a'] = 1",
        "STATE.update(a=1)",
        "STATE |= {'a': 1}",
        "for name in 'a': STATE[name] = 1",
        "if True: STATE = {'a': 1}",
        "def enter(f):\n    STATE[f.__name__] = f\n    return f\n@enter\ndef a(): return 1",
        "def enter(f):\n    STATE.update(a=f)\n    return f\na = enter(lambda: 1)",
        "class Base:\n    def __init_subclass__(cls): cls.all = 1\nclass A(Base): a = 1",
        "class Meta(type): pass\nclass A(metaclass=Meta): a = 1",
        "import functools\n@functools.singledispatch\ndef g(x): return 0\n"
        "@g.register\ndef _(x: int): return 1",
        "import numpy.a1",
        "import os\nos.environ['a'] = '1'",
    ],
)
@pytest.mark.parametrize("where", ["outer", "inner", "deep/__init__"])
def test_what_an_import_does_counts(project, effect, where):
    project.write(
        {
            "promptlib/outer.py": "from promptlib import inner\nSTATE = {}\ndef f(): return 1.5\n",
            "promptlib/inner.py": "import promptlib.deep.deeper\nSTATE = {}\n",
            "promptlib/deep/__init__.py": "STATE = {}\n",
            "promptlib/deep/deeper.py": "",
        }
    )
    path = f"promptlib/{where}.py"
    project.edit(path, "STATE = {}\n", f"STATE = {{}}\n{effect}\n")
    changed = effect[:-1] + "2" if effect[-1] == "1" else effect.replace("1", "2")
    assert project.renames(path, effect, changed)


def test_harmless_calls_of_an_import_do_not_count(project):
    project.write(
        {
            "promptlib/outer.py": """
            from dataclasses import dataclass
            from functools import lru_cache

            @dataclass
            class Task:
                name: str
                def __post_init__(self):
                    self.found = {}
                    self.found[self.name] = []
                    self.found[self.name].append(1)

            ONE = Task("one")

            @lru_cache
            def beside(): return 1

            def f(): return 1.5
            """
        }
    )
    path = "promptlib/outer.py"
    assert not project.renames(path, 'Task("one")', 'Task("two")')
    assert not project.renames(path, "beside(): return 1", "beside(): return 2")


def test_a_function_that_assigns_a_variable_of_the_module_counts(project):
    project.write(
        {
            "promptlib/outer.py": (
                "SCALE = 1\ndef enlarge():\n    global SCALE\n    SCALE = 2\n"
                "def f(): return SCALE\n"
            )
        }
    )
    assert project.renames("promptlib/outer.py", "SCALE = 2", "SCALE = 3")


REGISTERED = """
from promptlib.registry import Registry

def rule(x): return x
def other(x): return x + 1

ONE = [rule]
TWO = [other]
_BY_NAME: Registry = Registry("task", {"one": ONE, "two": TWO, "both": [ONE, TWO]})

def named(name): return _BY_NAME[name]
def f(config, needs, progress): return named(config["task"])
"""


def test_of_a_registry_the_entries_in_the_config_count(project):
    project.write({"promptlib/outer.py": REGISTERED})

    def renames(old, new, *names):
        return project.renames("promptlib/outer.py", old, new, config={"task": list(names)})

    more = ('both": [ONE, TWO]', 'both": [ONE, TWO], "three": [3]')
    rule, other = ("return x\n", "return -x\n"), ("return x + 1", "return x - 1")
    assert not renames(*more, "one")
    assert renames(*rule, "one")
    assert not renames(*other, "one")
    assert renames(*other, "one", "two")
    assert renames(*other, "both")
    assert renames('"one": ONE', '"one": TWO', "one")
    assert renames(*more, "unknown")  # nobody knows what is looked up
    assert renames(*other)
    assert reached("promptlib.outer:f", {"tasks": {"one": 1}}).entries == {"one"}


def test_names_of_entries_in_reached_code_count(project):
    project.write({"promptlib/outer.py": REGISTERED + "USUAL = named('two')\n"})
    other = ("return x + 1", "return x - 1")
    assert not project.renames("promptlib/outer.py", *other, config=["one"])
    project.edit("promptlib/outer.py", 'named(config["task"])', 'named(config["task"]), USUAL')
    assert project.renames("promptlib/outer.py", *other, config=["one"])


def test_entries_that_do_something_when_they_are_made_count(project):
    project.write({"promptlib/outer.py": REGISTERED})
    path = "promptlib/outer.py"
    project.edit(
        path,
        "ONE = [rule]",
        "MADE = []\ndef make(x):\n    MADE.append(x)\n    return x\nONE = [rule]",
    )
    assert not project.renames(path, "return x + 1", "return x - 1", config=["one"])
    project.edit(path, '"two": TWO', '"two": make(TWO)')
    assert project.renames(path, "return x + 1", "return x - 1", config=["one"])


@pytest.mark.parametrize(
    "entries", ["dict(one=ONE, two=TWO)", "{**{'two': TWO}, 'one': ONE}", "{n: TWO for n in 'ab'}"]
)
def test_a_registry_that_is_not_written_out_counts_whole(project, entries):
    project.write({"promptlib/outer.py": REGISTERED})
    project.edit("promptlib/outer.py", '{"one": ONE, "two": TWO, "both": [ONE, TWO]}', entries)
    assert project.renames("promptlib/outer.py", "return x + 1", "return x - 1", config=["one"])


def test_a_run_cannot_look_up_what_its_key_leaves_out(tmp_path):
    registry = Registry("task", {"one": 1, "two": 2})
    assert registry["two"] == 2
    with covering(frozenset({"one"})):
        assert registry["one"] == 1
        with pytest.raises(RuntimeError, match="key does not cover the task 'two'"):
            registry["two"]
    assert registry["two"] == 2
    with pytest.raises(ValueError, match="no task is called 'three'; there are one, two"):
        registry["three"]
    with pytest.raises(TypeError):
        iter(registry)


def test_training_is_held_to_the_entries_of_the_key(tmp_path, monkeypatch):
    from promptlib.prefix_tuning import adapting, tasks

    def pretrain(config, needs, progress):
        tasks.task_named(config["task"])
        return Result({"name": tasks.task_named("re" + "verse").name})

    monkeypatch.setattr(adapting, "pretrain", pretrain)
    store = RunStore(tmp_path)
    with pytest.raises(RuntimeError, match="key does not cover the task 'reverse'"):
        store.get(Run(f"{TASKS}:pretrain", {"task": "add_one"}))
    run = Run(f"{TASKS}:pretrain", {"task": "add_one", "evaluate": ["reverse"]})
    assert store.get(run).metrics == {"name": "reverse"}


@pytest.fixture
def copied(project):
    """The package as it is, copied."""
    real = Path(modules.__file__).parents[1]
    for path in real.rglob("*.py"):
        target = project.root / "promptlib" / path.relative_to(real)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return project


def test_another_task_renames_no_run_and_an_edited_one_those_that_use_it(copied):
    path = "promptlib/prefix_tuning/tasks.py"

    def renamed(old, new):
        used = [
            ("pretrain", {"task": "sort_ascending", "evaluate": ["sort_descending"]}),
            ("fine_tune", {"task": "reverse", "evaluate": ["add_one"]}),
            ("tune_prefixes", {"task": "either_sort", "evaluate": []}),
            ("tune_lora", {"task": "mixture", "evaluate": ["mixture"]}),
        ]
        runs = [(f"{TASKS}:{function}", config) for function, config in used]
        return [copied.renames(path, old, new, *run) for run in runs]

    assert not any(
        renamed(
            '        "reverse": REVERSE,\n',
            '        "reverse": REVERSE,\n        "same": Task("same", lambda x: x, N_DIGITS),\n',
        )
    )
    assert not any(renamed("x.roll(-1", "x.roll(-2"))
    assert renamed("x.flip(-1)", "x.flip(-1) + 0") == [False, True, False, False]
    assert renamed("inputs + 1, N", "1 + inputs, N") == [False, True, False, True]
    assert renamed("inputs.sort(dim=-1).values", "inputs.sort(-1).values") == [
        True,
        False,
        True,
        True,
    ]
    assert all(renamed("< 0.5", "< 0.6"))  # in what draws the digits of every task


@pytest.mark.parametrize("function", ["pretrain", "tune_prefixes", "tune_lora"])
def test_whatever_a_training_calls_is_reached(function):
    base = planning.pretrain(
        planning.model_of(1, 1, 8),
        "mixture",
        seed=0,
        steps=10,
        learning_rate=0.01,
        evaluate=["reverse"],
        test_sequences=5,
    )
    cells = planning.cells([0.1], [0.02])
    small = {"steps": 10, "sweep": cells}
    run = {
        "pretrain": base,
        "tune_prefixes": planning.tune_prefixes(
            base, "rotate", length=1, parametrisation="shared", **small
        ),
        "tune_lora": planning.tune_lora(base, "rotate", rank=1, modules=["mlp.expand"], **small),
    }[function]
    codes = set()
    package = f"{modules.PACKAGE}/"

    def note(frame, event, _):
        if frame.f_code.co_filename.startswith(package):
            codes.add(frame.f_code)

    store = TrainedInMemory()
    for needed in run.needs:
        store.get(needed)
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        store.get(run)
    finally:
        sys.setprofile(before)
    called = set()
    for code in codes:
        path, name = Path(code.co_filename), code.co_qualname.partition(".")[0]
        module = ".".join(path.relative_to(modules.PACKAGE.parent).with_suffix("").parts)
        if not modules.is_bystander(module) and name not in ("<module>", "<lambda>"):
            called.add(f"{module}:{name}")
    assert len(called) > 20
    assert called <= reached(run.train, run.config).definitions


def test_chapters_keep_code_of_their_own(project):
    project.write(
        {
            "notebooks/wing/chapter/training.py": (
                "from promptlib.inner import SCALE\nfrom .plan import STEPS\n"
                "from notebooks.wing.chapter import plan\n"
                "def train(): return SCALE * STEPS + plan.RATE\n"
            ),
            "notebooks/wing/chapter/plan.py": "STEPS = 1\nRATE = 1\nSEEDS = 1\n",
            "promptlib/inner.py": "SCALE = 2\nOTHER = 3\n",
        }
    )
    plan, training = (f"notebooks.wing.chapter.{name}" for name in ("plan", "training"))
    assert import_closure(training) == (plan, training, "promptlib.inner")
    assert source_path(plan) == project.root / "notebooks/wing/chapter/plan.py"
    assert imported_modules("from notebooks.wing.chapter import plan\nimport notebooks.wing") == (
        plan,
    )
    train = f"{training}:train"
    assert project.renames("notebooks/wing/chapter/plan.py", "STEPS = 1", "STEPS = 2", train)
    assert project.renames("notebooks/wing/chapter/plan.py", "RATE = 1", "RATE = 2", train)
    assert not project.renames("notebooks/wing/chapter/plan.py", "SEEDS = 1", "SEEDS = 2", train)
    assert project.renames("promptlib/inner.py", "SCALE = 2", "SCALE = 3", train)
    assert not project.renames("promptlib/inner.py", "OTHER = 3", "OTHER = 4", train)
    before = reached(train, ())
    project.write({"notebooks/wing/chapter/__init__.py": '"""A chapter."""\n'})
    assert reached(train, ()) == before
    assert import_closure(training)[0] == plan
    with pytest.raises(ValueError, match=r"'notebooks\.wing\.missing' is not a module"):
        source_path("notebooks.wing.missing")
    with pytest.raises(ValueError, match=r"'notebooks\.wing\.missing' is not a module"):
        _ = Run("notebooks.wing.missing:train", {}).key


def test_a_package_without_its_project_has_no_chapters(project):
    project.write({"notebooks/mine.py": "X = 1\n", "promptlib/outer.py": "import notebooks.mine\n"})
    assert "notebooks.mine" in import_closure("promptlib.outer")
    (project.root / "pyproject.toml").unlink()
    with pytest.raises(ValueError, match="is not a module"):
        source_path("notebooks.mine")

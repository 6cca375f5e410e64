"""A book of a notebook or two and one training run, made of the project's own workflow and theme.

Its training and its notebooks write a line to ``work.log`` when they really run, so that tests can
tell what was redone; both wait while a file named ``hold`` exists, so that tests can kill them. Of
what writes ``x``, ``hold-x`` holds it alone, and ``fail-x`` makes it fail.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

TRAINING = '''
"""Training of the small book."""
import os
import time
from pathlib import Path

import torch

from promptlib.runs import Result, Run

ROOT = Path(__file__).resolve().parents[2]


def work(name):
    with (ROOT / "work.log").open("a") as log:
        log.write(name + "\\n")
    while (ROOT / "hold").exists() or (ROOT / f"hold-{name}").exists():
        time.sleep(0.05)
    if (ROOT / f"fail-{name}").exists():
        raise RuntimeError(f"{name} was told to fail")


def train(config, needs, progress):
    name = config.get("name", "train")
    with (ROOT / "processes.log").open("a") as log:
        log.write(f"{name} {os.getpid()}\\n")
    work(name)
    w = torch.full((3,), config["rate"])
    return Result({"sum": float(w.sum())}, {"w": w})


def plan(rate):
    return [Run("promptlib.small.training:train", {"rate": rate, "seed": 0})]


def family(rate):
    """A run, three that start from it, one that starts from the first of them, and a lone one."""
    def member(name, *needs):
        return Run("promptlib.small.training:train", {"rate": rate, "name": name}, needs)

    a = member("a")
    b, c, d = (member(name, a) for name in "bcd")
    return [*plan(rate), a, b, c, d, member("e", b), member("f")]
'''

NOTEBOOK = """\
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

# Chapter {name}

Some prose.

```{{code-cell}} ipython3
:tags: [parameters]

rate = 0.5  # dimensionless, > 0
```

```{{code-cell}} ipython3
from promptlib import claims
from promptlib.runs import RunStore
from promptlib.small.training import plan, work

work("{name}")
total = RunStore.default().get(plan(rate)[0]).metrics["sum"]
claims.identity(
    "small/{name}",
    "The weights sum to three times the rate.",
    errors=[total - 3 * rate],
    tolerance=1e-6,
    source="this book",
    checks="promptlib.small.training.train",
)
```
"""

FIGURE = """
```{code-cell} ipython3
import matplotlib.pyplot as plt

from promptlib.plotting import show, use_theme

use_theme()
figure, axes = plt.subplots()
axes.plot([0, 1])
axes.set_title("A title")
show(figure, "A line that rises from 0 at the left to 1 at the right.")
```
"""

SKETCH = '''
"""In place of workflow.render, in no time: pages that hold what was staged for them, as it is."""
import html
import json
import sys
from pathlib import Path

if "--only" in sys.argv:
    sys.exit("a sketch is drawn whole")
staged, out, trees = map(Path, sys.argv[1:4])
(out / "_static").mkdir(parents=True)
trees.mkdir()
(trees / "environment.pickle").touch()
(out / "_static" / "plain.css").write_text("body { margin: 0 }")
gate = staged / "_data" / "gate.json"
banner = " ".join(json.loads(gate.read_text())["problems"]) if gate.is_file() else ""
for path in [staged / "index.md", staged / "ledger.md", *sorted(staged.glob("*/*.ipynb"))]:
    page = out / path.relative_to(staged).with_suffix(".html")
    tree = trees / path.relative_to(staged).with_suffix(".doctree")
    for made in (page, tree):
        made.parent.mkdir(exist_ok=True)
    tree.touch()
    up = "" if page.parent == out else "../"
    page.write_text(
        f\'<html lang="en"><meta charset="utf-8" /><link rel="stylesheet"\'
        f\' href="{up}_static/plain.css">{banner}<pre>{html.escape(path.read_text())}</pre>\'
    )
'''


@dataclass(frozen=True)
class Book:
    """A small book in a folder of its own."""

    root: Path

    def copy(self, root: Path) -> Book:
        """A copy with its store, its caches and its site, in which nothing was redone yet."""
        shutil.copytree(self.root, root, symlinks=True)
        (root / "work.log").unlink()
        return Book(root)

    @property
    def processes(self) -> dict[str, str]:
        """The process that last trained each run, by the name that the run wrote."""
        path = self.root / "processes.log"
        return dict(line.split() for line in path.read_text().splitlines())

    @property
    def stored(self) -> list[str]:
        """Folders of the training runs in the store."""
        return sorted(path.parent.name for path in self.root.glob("runs/*/provenance.json"))

    @property
    def site(self) -> Path:
        return self.root / "_build" / "html"

    @property
    def log(self) -> list[str]:
        path = self.root / "work.log"
        return sorted(path.read_text().split()) if path.is_file() else []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """``make book`` in a process group of its own."""
        return self.run("workflow.build", "--cores", "2", *arguments)

    def run(
        self,
        module: str,
        *arguments: str,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] = os.environ,
        umask: int = -1,
    ) -> subprocess.Popen[str]:
        """A command as the Makefile calls it, in a process group of its own; ``prefix`` starts it.

        It minds Ctrl-C, even where the tests run in the background.
        """
        return subprocess.Popen(
            [*prefix, sys.executable, "-E", "-m", module, *arguments],
            cwd=self.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            umask=umask,
            preexec_fn=_mind_interrupts,
        )

    def build(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of ``make book``."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.root / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def wait_for(self, entry: str, seconds: float = 180) -> None:
        """Until the log has an entry."""
        until = time.monotonic() + seconds
        while entry not in self.log:
            assert time.monotonic() < until, f"{entry} did not start; log: {self.log}"
            time.sleep(0.05)

    def pages(self) -> dict[str, bytes]:
        """Every file of the site by path, without what was measured."""
        measured = re.compile(
            rb'<(\w+)[^>]*class="[^"]*\bmeasured\b[^"]*"[^>]*>.*?</\1>', re.DOTALL
        )
        return {
            path.relative_to(self.site).as_posix(): measured.sub(b"", path.read_bytes())
            for path in sorted(self.site.resolve().rglob("*"))
            if path.is_file()
            for path in [self.site / path.relative_to(self.site.resolve())]
        }


def make(root: Path, names: Sequence[str] = ("first", "second"), sketch: bool = False) -> Book:
    """Write the sources of a small book.

    Parameters
    ----------
    root
        Its folder, which is made.
    names
        Of its notebooks, in the folder ``small``.
    sketch
        Let the site's pages be drawn by `SKETCH`: where a test does not ask what jupyter-book makes
        of them, this saves most of the time of a build.
    """
    for name in ("__init__", "plotting", "progress", "registry", "runs"):
        _copy(f"promptlib/{name}.py", root)
    for folder in ("claims", "digests"):
        for path in (PROJECT / "promptlib" / folder).glob("*.py"):
            _copy(f"promptlib/{folder}/{path.name}", root)
    for path in (*(PROJECT / "workflow").glob("*"), *(PROJECT / "workflow" / "warm").glob("*")):
        if path.is_file():
            _copy(path.relative_to(PROJECT).as_posix(), root)
    for folder in ("_ext", "_templates", "assets"):
        shutil.copytree(PROJECT / "book" / folder, root / "book" / folder)
    for name in ("_config.yml", "pyproject.toml", "book/references.bib", "book/ledger.md"):
        _copy(name, root)
    package = root / "promptlib" / "small"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "training.py").write_text(TRAINING)
    for name in names:
        path = root / "notebooks" / "small" / name / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTEBOOK.format(name=name))
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nparts:\n  - caption: Small\n    numbered: true\n"
        "    chapters:\n"
        + "".join(f"      - file: small/{name}\n" for name in names)
        + "      - file: ledger\n"
    )
    (root / "book" / "index.md").write_text(
        "# Home\n\nA small book.\n\n"
        "(the-verdicts)=\n## Verdicts\n\nHere.\n\n(the-gate)=\n## Gate\n\nHere.\n"
    )
    (root / "config").mkdir()
    (root / "config" / "quick.yml").write_text(
        "notebooks:\n"
        + "".join(f"  small/{name}: {{runs: 'promptlib.small.training:plan'}}\n" for name in names)
    )
    (root / "config" / "verdicts.yml").write_text(
        "".join(f"small/{name}: {{kind: identity}}\n" for name in names)
    )
    (root / "tests").mkdir()
    (root / "tests" / "test_small.py").write_text(
        "import pytest\n\n\n"
        + "".join(f'@pytest.mark.claim("small/{name}")\n' for name in names)
        + "def test_wrong(): ...\n"
    )
    book = Book(root)
    if sketch:
        (root / "sketch.py").write_text(SKETCH)
        renderer = '[sys.executable, "-m", "workflow.render", '
        book.edit("workflow/site.py", renderer, '[sys.executable, str(ROOT / "sketch.py"), ')
    return book


def _mind_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _copy(name: str, root: Path) -> None:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(PROJECT / name, target)

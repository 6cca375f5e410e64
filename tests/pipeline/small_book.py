"""A book of two notebooks and one training run, made of the project's own workflow and theme.

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

TOC = """\
format: jb-book
root: index
parts:
  - caption: Small
    numbered: true
    chapters:
      - file: small/first
      - file: small/second
      - file: ledger
"""

TESTS = """\
import pytest


@pytest.mark.claim("small/first")
@pytest.mark.claim("small/second")
def test_wrong(): ...
"""


@dataclass(frozen=True)
class Book:
    """A small book in a folder of its own."""

    root: Path

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

    def wait_for(self, entry: str, seconds: float = 120) -> None:
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


def make(root: Path) -> Book:
    """Write the sources of a small book."""
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
    for name in ("first", "second"):
        path = root / "notebooks" / "small" / name / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTEBOOK.format(name=name))
    (root / "book" / "_toc.yml").write_text(TOC)
    (root / "book" / "index.md").write_text(
        "# Home\n\nA small book.\n\n"
        "(the-verdicts)=\n## Verdicts\n\nHere.\n\n(the-gate)=\n## Gate\n\nHere.\n"
    )
    (root / "config").mkdir()
    (root / "config" / "quick.yml").write_text(
        "notebooks:\n"
        "  small/first: {runs: 'promptlib.small.training:plan'}\n"
        "  small/second: {runs: 'promptlib.small.training:plan'}\n"
    )
    (root / "config" / "verdicts.yml").write_text(
        "small/first: {kind: identity}\nsmall/second: {kind: identity}\n"
    )
    (root / "tests").mkdir()
    (root / "tests" / "test_small.py").write_text(TESTS)
    return Book(root)


def _mind_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _copy(name: str, root: Path) -> None:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(PROJECT / name, target)

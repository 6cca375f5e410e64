"""A book of one notebook, executed by hand: small enough to break in every way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from promptlib import claims
from promptlib.plotting import GRID, INK, PALETTE
from workflow.archived import measurement

PROJECT = Path(__file__).resolve().parents[2]
NAME = "wing/chapter"
ALT = "A blue line that rises from zero at the left to one at the right."

SOURCE = """\
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

# A chapter about prefixes

It has one theorem.

```{code-cell} ipython3
:tags: [parameters]

seed = 0  # seed of the instances, a whole number >= 0
rate = 0.5  # dimensionless, in (0, 1)
```

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-line
    caption: |
      A line.
---
draw()
```

```{code-cell} ipython3
claim()
```

:::{prf:theorem} A theorem
:label: thm-one
Here $a = a$, see {numref}`fig-line`.
:::
"""

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="648pt" height="360pt" viewBox="0 0 648 360">'
    f'<path d="M0 360H648" stroke="{GRID}"/><path d="M0 360V0" stroke="{INK}"/>'
    f'<path d="M0 360 648 0" stroke="{PALETTE["blue"]}"/></svg>'
)


def a_claim(**changes: Any) -> claims.Claim:
    """An outcome with a published value; its chapter has no other."""
    options: dict[str, Any] = {
        "values": [90.0, 92.0, 91.0],
        "limit": 50.0,
        "side": "above",
        "source": "Petrov et al. 2024",
        "checks": "promptlib.thing.measure",
        "unit": "% of sequences",
        "published": claims.Published(91.0, "higher"),
    }
    return claims.outcome("wing/line-rises", "The line rises, $a < b$.", **(options | changes))


def display(data: dict[str, str], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """An output as a notebook stores it."""
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


def figure(alt: str | None = ALT) -> dict[str, Any]:
    """The output of a figure, with or without alternative text."""
    return display({"image/svg+xml": SVG, "text/plain": "a figure"}, {"alt": alt} if alt else {})


def claim_output(claim: claims.Claim) -> dict[str, Any]:
    """The output of a cell that shows a claim."""
    return display(claim._repr_mimebundle_())


@dataclass
class Little:
    """The little book in a folder of its own."""

    root: Path
    outputs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    injected: str = "rate = 0.25"

    @property
    def executed(self) -> Path:
        return self.root / "_build" / "quick" / "executed"

    @property
    def claims_file(self) -> Path:
        return self.root / "_build" / "quick" / "claims.json"

    @property
    def gate_file(self) -> Path:
        return self.root / "_build" / "quick" / "gate.json"

    @property
    def staged(self) -> Path:
        return self.root / "_build" / "quick" / "stage"

    def notebook(self) -> nbformat.NotebookNode:
        """The executed notebook."""
        found = jupytext.reads(SOURCE, fmt="md:myst")
        code = [cell for cell in found.cells if cell.cell_type == "code"]
        for place, outputs in self.outputs.items():
            code[place].outputs = [nbformat.from_dict(output) for output in outputs]
        cell = nbformat.v4.new_code_cell(
            f"# Parameters\n{self.injected}", metadata={"tags": ["injected-parameters"]}
        )
        found.cells.insert(found.cells.index(code[0]) + 1, cell)
        return found

    def execute(self) -> None:
        """Write the executed notebook, its measurements and the collected, decided claims."""
        path = self.executed / f"{NAME}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(self.notebook(), path)
        path.with_suffix(".measured.json").write_text('{"seconds": 75.2, "peak_memory_mib": 310}')
        record = {
            **claims.decide([a_claim()])[0].to_json(),
            "notebook": NAME,
            "tests": ["tests/test_thing.py::test_measure"],
        }
        self.write_claims([record])

    def write_claims(self, records: list[dict[str, Any]]) -> None:
        """Write the collected claims."""
        self.claims_file.write_text(json.dumps({"profile": "quick", "claims": records}))

    def close_gate(self, problems: list[str]) -> None:
        """Write what the gate says when it is closed."""
        self.gate_file.write_text(json.dumps({"open": False, "problems": problems}))

    def archive(self, claim: claims.Claim) -> None:
        """Archive the numbers that decide a claim of the notebook, as measured at full size."""
        path = self.root / "archive" / f"{NAME}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "provenance": {"profile": "paper", "notebook": NAME, "parameters": {}},
            "runs": [],
            "measured": {claim.id: measurement(claim)},
        }
        path.write_text(json.dumps(content))


def make(root: Path) -> Little:
    """Write the little book; its look and its extensions are those of the real one."""
    book = root / "book"
    book.mkdir(parents=True)
    for name in ("_ext", "_templates", "assets"):
        (book / name).symlink_to(PROJECT / "book" / name, target_is_directory=True)
    (root / "_config.yml").symlink_to(PROJECT / "_config.yml")
    (root / "pyproject.toml").symlink_to(PROJECT / "pyproject.toml")
    (book / "references.bib").write_text("")
    (book / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nparts:\n  - caption: One part\n    numbered: true\n"
        f"    chapters:\n      - file: {NAME}\n      - file: ledger\n      - file: rerun\n"
    )
    (book / "index.md").write_text("# Home\n\nSee {doc}`wing/chapter` and {prf:ref}`thm-one`.\n")
    (book / "ledger.md").write_text("# Ledger\n\n```{claims-ledger}\n```\n")
    (book / "rerun.md").write_text("# Rerun\n\n```{build-table} notebooks\n```\n")
    package = root / "promptlib"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    (package / "thing.py").write_text('"""A module."""\n\n\ndef measure():\n    return 1\n')
    (root / "tests").mkdir()
    (root / "tests" / "test_thing.py").write_text("def test_measure():\n    pass\n")
    source = root / "notebooks" / NAME / "chapter.md"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    made = Little(root, {1: [figure()], 2: [claim_output(a_claim())]})
    made.execute()
    return made

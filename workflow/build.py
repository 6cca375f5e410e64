"""``make book``: build and publish the site of a profile, if there is anything to do.

This module loads nothing but the standard library until there is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from workflow.command import BuildError, Parser, command, cores
from workflow.freshness import is_fresh

ROOT = Path(__file__).resolve().parent.parent


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.build", description=__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--cores", type=cores, default=os.cpu_count() or 1)
    parser.add_argument("--gate", default="refuse", help="refuse, or warn on every page")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    if options.gate not in ("refuse", "warn"):
        raise BuildError(f"GATE must be refuse or warn, got {options.gate!r}")
    folder = ROOT / "_build" / options.profile
    record = folder / "built.json"
    if not is_fresh(record, ROOT):
        from workflow.driver import update

        update(options.profile, options.cores, record, options.gate)
    report(folder, started)
    return 0


def report(folder: Path, started: float) -> None:
    """Print the claims' summary, where the book is, and how long it took."""
    records = json.loads((folder / "claims.json").read_text(encoding="utf-8"))["claims"]
    counts = Counter(record["verdict"] for record in records)
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"{len(records)} claims: {verdicts}")
    for record in records:
        if "recorded" in record:
            print(
                f"not as recorded, and no fault: {record['id']} was {record['recorded']}, "
                f"is {record['verdict']} ({record['summary']})"
            )
    problems = json.loads((folder / "gate.json").read_text(encoding="utf-8"))["problems"]
    if problems:
        print(
            f"warning: {len(problems)} check{'s' if len(problems) > 1 else ''} failed; every page "
            "carries a banner that names what failed"
        )
    page = ROOT / "_build" / "html" / "index.html"
    print(f"The book is at {page} ({_took(time.perf_counter() - started)})")


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    sys.exit(main())

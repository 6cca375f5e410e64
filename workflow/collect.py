"""Which claims did this build check, and may the site be published?

``python -m workflow.collect --profile quick`` reads the claims out of the executed notebooks,
judges the outcomes of each chapter together (`promptlib.claims.decide`), finds the tests that show
each claim can fail (``@pytest.mark.claim(id)``), and writes ``_build/quick/claims.json``.
``--gate refuse`` compares what is there with ``config/verdicts.yml`` and writes
``_build/quick/gate.json``; ``--gate warn`` does so without refusing. ``--record`` writes the record
anew.

The gate asks for what holds on every machine. A mathematical claim has to hold, a claim that was
promised has to be there once, with a test that makes it fail, and no outcome may turn from
*supported* to *contradicted* or back. Trained results differ from one processor to the next, so a
change between *supported* and *undecided* closes nothing: it is printed, and marked on the ledger.

A claim recorded with ``needs: <extra>`` may come out as "not checked" while that optional extra is
not installed. It is still in the record, in ``claims.json`` and on the ledger page. Where the extra
is installed the claim must be checked.
"""

from __future__ import annotations

import ast
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import yaml

from promptlib.claims import MIME_TYPE, Claim, decide
from promptlib.runs import RunStore
from workflow import extras
from workflow.command import Parser, command
from workflow.profile_config import CONFIG, Profile, base_name, load_profile
from workflow.progress import EFFORT
from workflow.sources import ROOT, BuildError, write_if_changed

VERDICTS = CONFIG / "verdicts.yml"
REFUSED = """\
error: the site is not published: what is named above came out against what the book records.
If you only wanted to read the book: your installation is sound and nothing is lost, but a statement
of the book is in doubt on this machine. To get the site all the same, run `make book GATE=warn`; it
carries a banner on every page that names what failed.
If you changed something: mend what broke, or, where the new verdict is true, run `make record`."""
FIELDS = ("kind", "needs")
"""Of an entry of the record; the others are profiles."""
HEADER = """\
# Every claim of the book, with its kind and, for outcomes, the verdict of each profile; `needs`
# names the optional extra without which a build cannot check the claim. The gate compares each
# build with this record: it refuses a turn from supported to contradicted or back, and reports any
# other change. After a change that is right, `make record` writes the record anew; review the
# difference before you commit it.
"""
TURNS = ({"supported", "contradicted"},)
"""Pairs of verdicts that no noise explains: a change from one to the other closes the gate."""


def claims_of(notebook: nbformat.NotebookNode) -> list[Claim]:
    """The claims that an executed notebook shows, in order."""
    return [
        Claim.from_json(output["data"][MIME_TYPE])
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if MIME_TYPE in output.get("data", {})
    ]


def claim_tests(folder: Path) -> dict[str, list[str]]:
    """Test ids by claim id, from the ``claim`` marks in a folder of tests."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                for mark in node.decorator_list:
                    for claim_id in _marked(mark):
                        where = path.relative_to(folder.parent).as_posix()
                        found.setdefault(claim_id, []).append(f"{where}::{node.name}")
    return found


def collect(profile: Profile) -> dict[str, Any]:
    """All claims of the profile's executed notebooks, as ``claims.json`` holds them.

    Where an outcome's verdict is not the recorded one, the record is named under ``recorded``.
    """
    tests = claim_tests(ROOT / "tests")
    records = []
    for plan in profile.notebooks:
        path = ROOT / "_build" / profile.name / "executed" / f"{plan.source.name}.ipynb"
        records += notebook_records(nbformat.read(path, as_version=4), plan.source.name, tests)
    before = recorded_verdicts()
    for record in records:
        known = before.get(record["id"], {}).get(profile.base)
        if known is not None and known != record["verdict"] != "not checked":
            record["recorded"] = known
    return {"profile": profile.name, "claims": records}


def recorded_verdicts() -> dict[str, dict[str, Any]]:
    """``config/verdicts.yml``: kind, extra, verdicts by claim id; BuildError if it is no YAML."""
    try:
        return yaml.safe_load(VERDICTS.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise BuildError(f"config/{VERDICTS.name} is not valid YAML: {error}") from None


def notebook_records(
    executed: nbformat.NotebookNode, name: str, tests: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """The claims of an executed notebook, each with its summary, its place and its tests."""
    return [
        {
            **claim.to_json(),
            "summary": claim.summary(),
            "notebook": name,
            "anchor": claim.anchor,
            "tests": tests.get(claim.id, []),
        }
        for claim in decide(claims_of(executed))
    ]


def gate(
    profile: str,
    records: Iterable[Mapping[str, Any]],
    recorded: Mapping[str, Any],
    installed: Callable[[str], bool] = extras.installed,
) -> list[str]:
    """Why the site may not be published; empty when it may.

    Parameters
    ----------
    profile
        Whose recorded verdicts of outcomes count.
    records
        The ``claims`` of ``claims.json``.
    recorded
        ``config/verdicts.yml``: kind by claim id, verdict by profile for outcomes, and the extra
        that the check needs, if any.
    installed
        Says whether an extra is installed here.
    """
    records = list(records)
    counts = Counter(record["id"] for record in records)
    problems = [f"{name} is claimed {count} times" for name, count in counts.items() if count > 1]
    problems += [
        f"{name} is recorded, and no notebook claims it" for name in recorded if name not in counts
    ]
    for record in records:
        name, verdict = record["id"], record["verdict"]
        if verdict == "fails":
            problems.append(f"{name} fails: {record['summary']}")
        if not record["tests"]:
            problems.append(f"{name} has no test marked @pytest.mark.claim({name!r})")
        if name not in recorded:
            problems.append(f"{name} ({record['kind']}, {verdict}) is not in config/verdicts.yml")
            continue
        entry = recorded[name]
        if entry["kind"] != record["kind"]:
            problems.append(f"{name} is recorded as {entry['kind']}, claimed as {record['kind']}")
        elif entry.get("needs") != record.get("details", {}).get("needs"):
            problems.append(
                f"{name} is recorded as needing {entry.get('needs') or 'no extra'}, claimed as "
                f"needing {record.get('details', {}).get('needs') or 'no extra'}"
            )
        elif verdict == "not checked":
            if "needs" not in entry or installed(entry["needs"]):
                problems.append(f"{name} was not checked, though nothing that it needs is missing")
        elif {entry.get(profile), verdict} in TURNS:
            problems.append(
                f"{name}: recorded {entry.get(profile)!r} for {profile}, now {verdict!r} "
                f"({record['summary']})"
            )
    return problems


def record(profile: str, records: Iterable[Mapping[str, Any]], recorded: Mapping[str, Any]) -> str:
    """``config/verdicts.yml`` with the verdicts of this build; other profiles' are kept.

    Raises
    ------
    BuildError
        If a claim fails: a refuted statement is mended, not recorded.
    """
    lines = [HEADER]
    for notebook, group in groupby(records, key=lambda item: item["notebook"]):
        lines.append(f"\n# {notebook}\n")
        for item in group:
            if item["verdict"] == "fails":
                raise BuildError(f"{item['id']} fails ({item['summary']}); mend it first")
            entry = {"kind": item["kind"]}
            if "needs" in item.get("details", {}):
                entry["needs"] = item["details"]["needs"]
            if item["kind"] == "outcome":
                known = recorded.get(item["id"], {})
                entry |= {name: known[name] for name in sorted(known) if name not in FIELDS}
                if item["verdict"] != "not checked":
                    entry[profile] = item["verdict"]
            fields = ", ".join(f"{name}: {value}" for name, value in entry.items())
            lines.append(f"{item['id']}: {{{fields}}}\n")
    return "".join(lines)


def measured_effort(profile: Profile) -> dict[str, Any]:
    """What the last build's jobs took, for `workflow.progress`: processor seconds.

    Returns
    -------
    dict
        ``runs``: by notebook and training function the mean over the runs that are in the store;
        ``notebooks``: seconds by name.
    """
    store = RunStore.default()
    seconds: dict[str, dict[str, list[float]]] = {}
    for name, (notebook, function) in profile.first_wanted.items():
        run = profile.runs[name]
        if store.checksum(run) is not None:
            took = store.provenance(run)["processor_seconds"]
            seconds.setdefault(notebook, {}).setdefault(function, []).append(took)
    executed = ROOT / "_build" / profile.name / "executed"
    return {
        "runs": {
            notebook: {
                function: round(statistics.fmean(values), 2)
                for function, values in sorted(by_function.items())
            }
            for notebook, by_function in seconds.items()
        },
        "notebooks": {
            plan.source.name: json.loads(
                (executed / f"{plan.source.name}.measured.json").read_text(encoding="utf-8")
            )["seconds"]
            for plan in profile.notebooks
        },
    }


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.collect", description=__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--gate", choices=("refuse", "warn"), help="compare with the record")
    parser.add_argument("--record", action="store_true", help="write config/verdicts.yml anew")
    options = parser.parse_args(arguments)
    folder = ROOT / "_build" / options.profile
    target = folder / "claims.json"
    recorded = recorded_verdicts()
    if options.gate:
        content = json.loads(target.read_text(encoding="utf-8"))
    else:
        try:
            content = collect(load_profile(options.profile))
        except FileNotFoundError as error:
            raise BuildError(
                f"{error.filename} is missing; run: make book PROFILE={options.profile}"
            ) from None
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_if_changed(target, text.encode())
    if options.record:
        write_if_changed(VERDICTS, record(options.profile, content["claims"], recorded).encode())
        if options.profile == "quick":
            effort = json.dumps(measured_effort(load_profile("quick")), indent=1)
            write_if_changed(EFFORT, f"{effort}\n".encode())
        print(f"recorded {len(content['claims'])} claims; see: git diff config")
    if not options.gate:
        return 0
    problems = gate(base_name(options.profile), content["claims"], recorded)
    for problem in problems:
        print(f"gate: {problem}", file=sys.stderr)
    found = {"open": not problems, "problems": problems}
    write_if_changed(folder / "gate.json", (json.dumps(found, indent=1) + "\n").encode())
    if problems and options.gate == "refuse":
        print(REFUSED, file=sys.stderr)
        return 1
    return 0


def _marked(mark: ast.expr) -> list[str]:
    """The ids in ``pytest.mark.claim(…)``, else nothing."""
    if (
        isinstance(mark, ast.Call)
        and isinstance(mark.func, ast.Attribute)
        and mark.func.attr == "claim"
    ):
        return [str(part.value) for part in mark.args if isinstance(part, ast.Constant)]
    return []


if __name__ == "__main__":
    sys.exit(main())

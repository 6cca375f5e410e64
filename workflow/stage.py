"""Which files make the site? Gather prose, executed notebooks and claims into one folder.

    python -m workflow.stage --profile quick --executed _build/quick/executed \\
        --claims _build/quick/claims.json --gate _build/quick/gate.json --archive archive \\
        --to _build/quick/stage

The staged folder has the shape of the repository (``_config.yml`` beside ``book/``), holds every
file that the site depends on, and is built by ``workflow/site.py``:

    _config.yml
    book/            prose, assets and extensions as in the repository
    book/<wing>/     executed notebooks, ready to be pages
    book/_data/      build.json, ledger.json, gate.json, sources/   what the extensions render
    book/_extra/     claims.json, notebooks/             what the site offers for download
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml

from promptlib import claims
from promptlib.claims.box import beside, published
from promptlib.runs import RunStore
from promptlib.runs import machine as runs_machine
from workflow import archived as archives
from workflow import extras
from workflow.archived_memory import read_archive_again
from workflow.archived_tables import archived_tables, read_json
from workflow.command import Parser, command
from workflow.profile_config import Profile, load_profile
from workflow.site_notebooks import Prepared, prepare
from workflow.sources import ROOT, BuildError, Source, weave


def stage(
    *,
    profile: str,
    executed: Path,
    claims_file: Path,
    to: Path,
    archive: Path | None = None,
    archive_profile: Profile | None = None,
    gate_file: Path | None = None,
    runs: Sequence[Mapping[str, Any]] = (),
    root: Path = ROOT,
) -> list[str]:
    """Gather everything that the site needs in a fresh folder.

    Parameters
    ----------
    profile
        Name of the profile that the notebooks were executed under.
    executed
        Folder of executed notebooks ``<wing>/<name>.ipynb`` with ``<name>.measured.json`` beside.
    claims_file
        The collected ``claims.json``.
    to
        Folder to write; replaced as a whole when everything has succeeded.
    archive
        Folder of archived measurements, judged by `workflow.archived`.
    archive_profile
        Profile whose plans the archived runs belong to.
    gate_file
        What the gate said, ``gate.json``; where it is closed, every page carries a banner.
    runs
        Provenance of the training runs that the notebooks show: ``name``, ``key``, ``config``,
        ``seconds``.
    root
        The repository.

    Returns
    -------
    list of str
        Remarks for the build log: what of the archive is not shown, what was removed from pages.

    Raises
    ------
    BuildError
        If an input is missing or would make a bad page; ``to`` is then left as it was.
    """
    record = read_json(claims_file, "claims")
    decided = {item["id"]: claims.Claim.from_json(item) for item in record["claims"]}
    recorded = {item["id"]: item["recorded"] for item in record["claims"] if "recorded" in item}
    archive_says = read_archive_again(
        archive, decided, archive_profile, to.with_name("archived.pickle")
    )
    archived = archive_says.claims
    chapters = _chapters(root / "book" / "_toc.yml")
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    book = partial / "book"
    shutil.copytree(
        root / "book", book, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    )
    shutil.copy2(root / "_config.yml", partial / "_config.yml")
    _copy_sources(root, book / "_data" / "sources")

    remarks = [f"archive/{entry}" for entry in archive_says.stale]
    notebooks: list[dict[str, Any]] = []
    shown: dict[str, str] = {}
    for name, part in chapters.items():
        source = Source(name, root)
        woven = weave(source, _read_notebook(executed / f"{name}.ipynb", name))
        prepared = prepare(woven, name, profile, archived, decided, recorded)
        remarks += (f"removed from the page: {noise}" for noise in prepared.noise)
        for claim_id in prepared.claims:
            if claim_id in shown:
                raise BuildError(
                    f"claim {claim_id} is shown twice: in {shown[claim_id]} and {name}"
                )
            shown[claim_id] = name
        _write_json(book / f"{name}.ipynb", prepared.notebook)
        _offer_download(source, woven, book / "_extra" / "notebooks")
        notebooks.append(_notebook_record(source, part, prepared, executed))
    _refuse_strays(executed, chapters)
    _compare_claims(record, shown, claims_file)

    _write_json(book / "_extra" / "claims.json", record)
    _write_json(book / "_data" / "ledger.json", _ledger(record, notebooks, archived))
    _write_json(
        book / "_data" / "build.json",
        {
            "profile": profile,
            "notebooks": notebooks,
            "versions": _versions(root / "pyproject.toml"),
            "machine": machine(),
            "runs": list(runs),
            **archived_tables(archive),
        },
    )
    if gate_file is not None and gate_file.is_file():
        _write_json(book / "_data" / "gate.json", read_json(gate_file, "problems"))
    _check_pages(book)
    shutil.rmtree(to, ignore_errors=True)
    os.replace(partial, to)
    return remarks


def machine() -> dict[str, str]:
    """The machine in words: system, processor, cores, memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = {
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "processor": runs_machine()["processor"],
        "cores": str(usable),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        described["memory"] = f"{memory / 2**30:.1f} GiB"
    return described


def _chapters(toc: Path) -> dict[str, str]:
    """The notebooks that the table of contents names (``wing/name``), each with its part."""
    data = yaml.safe_load(toc.read_text(encoding="utf-8"))
    return {
        chapter["file"]: part["caption"]
        for part in data["parts"]
        for chapter in part["chapters"]
        if "/" in chapter["file"]
    }


def _write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy_sources(root: Path, to: Path) -> None:
    for folder in ("promptlib", "notebooks", "tests"):
        for source in sorted((root / folder).rglob("*.py")):
            target = to / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _read_notebook(path: Path, name: str) -> nbformat.NotebookNode:
    if not path.is_file():
        raise BuildError(
            f"book/_toc.yml names {name}, but {path} is missing; run: make notebook NOTEBOOK={name}"
        )
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise BuildError(f"{path} is no notebook: {error}") from None


def _offer_download(source: Source, woven: nbformat.NotebookNode, to: Path) -> None:
    """The source as it is, and the notebook with its outputs."""
    target = to / f"{source.name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.path, target)
    _write_json(to / f"{source.name}.ipynb", woven)


def _notebook_record(
    source: Source, part: str, prepared: Prepared, executed: Path
) -> dict[str, Any]:
    name = source.name
    measured = executed / f"{name}.measured.json"
    if not measured.is_file():
        raise BuildError(f"{measured} is missing; run: make notebook NOTEBOOK={name}")
    took = json.loads(measured.read_text(encoding="utf-8"))
    try:
        seconds, memory = float(took["seconds"]), float(took["peak_memory_mib"])
    except (KeyError, TypeError, ValueError):
        raise BuildError(f"{measured} must give numbers 'seconds' and 'peak_memory_mib'") from None
    return {
        "name": name,
        "title": prepared.title,
        "part": part,
        "seconds": seconds,
        "peak_memory_mib": memory,
        "parameters": [vars(parameter) for parameter in prepared.parameters],
        "published_size": [_at_published_size(claim) for claim in prepared.headline],
        "turned": [_at_published_size(claim) for claim in prepared.turned],
        "code": [
            {"path": path.relative_to(source.root).as_posix(), "asks": _asks(path)}
            for path in source.code
        ],
    }


def _at_published_size(claim: claims.Claim) -> dict[str, Any]:
    """What the headline of a chapter says of one archived claim."""
    given = claim.details
    return {
        "anchor": claim.anchor,
        "sentence_html": claims.sentence_html(claim.sentence),
        "published": None if given.get("published") is None else given["published"]["value"],
        "mean": claim.value,
        "interval": given["interval"],
        "seeds": given["seeds"],
        "unit": given["unit"],
        "verdict": claim.verdict,
        "replication": claim.replication,
    }


def _asks(module: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.?])\s", " ".join(text.split()), maxsplit=1)[0]


def _refuse_strays(executed: Path, chapters: Iterable[str]) -> None:
    names = {
        path.relative_to(executed).with_suffix("").as_posix()
        for path in executed.rglob("*.ipynb")
        if not re.search(r"\.(partial|failed)\.ipynb$|-checkpoint\.ipynb$", path.name)
    }
    strays = sorted(names - set(chapters))
    if strays:
        raise BuildError(
            "executed, but not in book/_toc.yml: " + ", ".join(strays) + "; add or remove them"
        )


def _compare_claims(record: Mapping[str, Any], shown: Mapping[str, str], path: Path) -> None:
    listed = {item["id"] for item in record["claims"]}
    for difference, meaning in (
        (set(shown) - listed, "shown in a notebook, but not listed there"),
        (listed - set(shown), "listed there, but shown in no notebook"),
    ):
        if difference:
            raise BuildError(f"{path} is out of date: {', '.join(sorted(difference))} {meaning}")


def _ledger(
    record: Mapping[str, Any],
    notebooks: list[dict[str, Any]],
    archived: Mapping[str, claims.Claim],
) -> list[dict[str, Any]]:
    """What the ledger page shows of each claim, in the order of the book."""
    place = {notebook["name"]: (number, notebook) for number, notebook in enumerate(notebooks)}
    rows = []
    for item in sorted(record["claims"], key=lambda item: place[item["notebook"]][0]):
        claim = claims.Claim.from_json(item)
        notebook = place[item["notebook"]][1]
        before = archived.get(claim.id)
        rows.append(
            {
                "id": claim.id,
                "anchor": claim.anchor,
                "sentence_html": claims.sentence_html(claim.sentence),
                "kind": claim.kind,
                "source": claim.source,
                "verdict": claim.verdict,
                "recorded": item.get("recorded"),
                "replication": claim.replication,
                "published": published(claim),
                "this_build": claim.summary(),
                "archived": None if before is None else beside(before),
                "archived_verdict": None if before is None else before.verdict,
                "archived_replication": None if before is None else before.replication,
                "notebook": notebook["name"],
                "chapter": notebook["title"],
                "part": notebook["part"],
                "checks": claim.checks,
                "tests": list(item.get("tests", [])),
            }
        )
    return rows


def _versions(pyproject: Path) -> dict[str, str]:
    """Python, what library and book need, and the optional extra `real`, as installed."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    book = project.get("optional-dependencies", {}).get("book", [])
    found = {"Python": platform.python_version()}
    for requirement in [*project["dependencies"], *book]:
        name = re.split(r"[\s=<>!~\[;]", requirement, maxsplit=1)[0]
        found[name] = importlib.metadata.version(name)
    if "real" in extras.extras(pyproject.parent):
        for name, version in extras.versions("real", pyproject.parent).items():
            found[name] = version or "not installed (EXTRAS=real)"
    return found


def _check_pages(book: Path) -> None:
    data = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    names = [data["root"]] + [
        chapter["file"] for part in data["parts"] for chapter in part["chapters"]
    ]
    for name in names:
        if not any((book / f"{name}{suffix}").is_file() for suffix in (".md", ".ipynb")):
            raise BuildError(f"book/_toc.yml names {name}, but there is no such page")


def trained_runs(profile: str) -> list[dict[str, Any]]:
    """Provenance of the profile's training runs, as the run store keeps it."""
    store = RunStore.default()
    found = []
    for run in load_profile(profile).runs.values():
        try:
            found.append({"name": run.name, **store.provenance(run)})
        except OSError:
            raise BuildError(
                f"training run {run.name} is not in the store {store.root}; run 'make book'"
            ) from None
    return found


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line of :func:`stage`; returns the exit status."""
    parser = Parser(description="Gather everything that the site is built from.")
    parser.add_argument("--profile", required=True, help="profile of the executed notebooks")
    parser.add_argument("--executed", required=True, type=Path, help="folder of executed notebooks")
    parser.add_argument("--claims", required=True, type=Path, help="the collected claims.json")
    parser.add_argument("--archive", type=Path, help="folder of archived results")
    parser.add_argument("--gate", type=Path, help="gate.json: what the gate said")
    parser.add_argument("--to", required=True, type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    remarks = stage(
        profile=options.profile,
        executed=options.executed,
        claims_file=options.claims,
        archive=options.archive,
        archive_profile=archives.archive_profile(),
        gate_file=options.gate,
        runs=trained_runs(options.profile),
        to=options.to,
    )
    for remark in remarks:
        print(remark, file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

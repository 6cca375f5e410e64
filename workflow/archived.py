"""What do the archived full-size runs say today?

``archive/<wing>/<notebook>.json`` holds measurements, not verdicts (`workflow.archive`). Here they
become claims, with the functions that judge this build's own runs:

- where the profile names a function under ``archived``, it computes the notebook's claims from the
  metrics of the archived runs. The runs are those that today's plan asks for, found by their
  training function and config, a sweep of LoRA cell by cell if need be; if one is missing, the
  entry is stale;
- any other claim is judged from its archived numbers by the sentence, limit and tolerance that this
  build's claim of the same id has. If this build has no such claim, or its sentence now speaks of
  something else, the entry is stale.

What is stale is not shown.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptlib.claims import Claim, decide, judge_again
from promptlib.runs import Result, Run
from workflow.profile_config import NotebookPlan, Profile, load_profile, named, profile_names
from workflow.sources import ROOT, BuildError

ARCHIVE = ROOT / "archive"
ARCHIVE_PROFILE = "paper"
"""The profile whose plans archived runs belong to."""
KEPT = ("value", "details", "kind", "sentence")
"""Of a claim that is archived by its numbers."""


def archive_profile() -> Profile | None:
    """The profile of the archive; None where a book has none."""
    return load_profile(ARCHIVE_PROFILE) if ARCHIVE_PROFILE in profile_names() else None


class Stale(Exception):
    """An archived entry that says nothing about today's book."""


@dataclasses.dataclass(frozen=True)
class Archived:
    """What an archive says.

    Attributes
    ----------
    claims
        By id, judged today.
    stale
        Entries that are not shown, each with the reason.
    """

    claims: Mapping[str, Claim]
    stale: Sequence[str]


def read_archive(
    folder: Path | None, today: Mapping[str, Claim], profile: Profile | None = None
) -> Archived:
    """Judge everything in an archive.

    Parameters
    ----------
    folder
        With one file a notebook; None for no archive.
    today
        This build's claims, by id.
    profile
        Whose plans the archived runs belong to; None where no file holds runs to recompute from.

    Raises
    ------
    BuildError
        If a file is no JSON or lacks an entry.
    """
    claims: dict[str, Claim] = {}
    stale: list[str] = []
    for path in sorted(folder.glob("*/*.json")) if folder is not None else []:
        found, old = _read(path, today, profile)
        stale += [f"{path.parent.name}/{path.name}: {reason}" for reason in old]
        for claim in decide(found):
            if claim.id in claims:
                raise BuildError(f"{path}: claim {claim.id} is archived twice")
            claims[claim.id] = claim
    return Archived(claims, stale)


def _read(
    path: Path, today: Mapping[str, Claim], profile: Profile | None
) -> tuple[list[Claim], list[str]]:
    """Claims of one file, and what in it is stale."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        provenance, runs, measured = (content[key] for key in ("provenance", "runs", "measured"))
        name, parameters = provenance["notebook"], provenance["parameters"]
    except json.JSONDecodeError as error:
        raise BuildError(f"{path} is no JSON: {error}") from None
    except (KeyError, TypeError) as error:
        raise BuildError(f"{path} is no archive of a notebook: it lacks {error}") from None
    claims: list[Claim] = []
    stale: list[str] = []
    if runs and profile is not None:
        try:
            claims += from_runs(planned(profile, name, parameters), runs)
        except Stale as reason:
            stale.append(str(reason))
    for claim_id, entry in measured.items():
        try:
            claims.append(from_numbers(claim_id, entry, today))
        except Stale as reason:
            stale.append(str(reason))
    return claims, stale


def planned(profile: Profile, name: str, parameters: Mapping[str, Any]) -> NotebookPlan:
    """The plan of a notebook with archived parameters.

    Raises
    ------
    Stale
        If there is no such notebook, or it does not take these parameters.
    """
    for plan in profile.notebooks:
        if plan.source.name == name:
            try:
                checked = plan.source.check_parameters(parameters, "the archive")
            except BuildError as error:
                raise Stale(str(error)) from None
            return dataclasses.replace(plan, parameters=checked)
    raise Stale(f"there is no notebook {name}")


def from_runs(plan: NotebookPlan, runs: Iterable[Mapping[str, Any]]) -> list[Claim]:
    """The claims that the notebook's function ``archived`` computes from the runs' metrics.

    Returns
    -------
    list of Claim
        Empty if the profile names no such function.

    Raises
    ------
    Stale
        If today's plan asks for a run that is not among them, or the function misses a number.
    """
    if plan.archived is None:
        return []
    compute = named(plan.archived, f"{plan.source.name}: no function")
    try:
        found: list[Claim] = compute(plan.planned, getter(runs))
    except Stale as reason:
        raise Stale(f"{plan.source.name}: {reason}") from None
    except (BuildError, KeyError, ValueError) as error:
        raise Stale(f"{plan.source.name}: {type(error).__name__}: {error}") from None
    return found


def getter(runs: Iterable[Mapping[str, Any]]) -> Callable[[Run], Result]:
    """The ``get`` of archived runs: metrics and no weights; Stale for a run that is not there.

    A cell of a LoRA sweep gets what a run of it alone gets, so such a sweep is there, too, if each
    of its cells is archived as a run of its own.
    """
    entries = by_identity(runs)

    def get(run: Run) -> Result:
        entry = entries.get(identity(run))
        if entry is not None:
            return Result(entry["metrics"])
        alone = [entries.get(identity(one)) for one in _cells_alone(run)]
        found = [one["metrics"]["cells"][0] for one in alone if one is not None]
        if not found or len(found) < len(alone):
            raise Stale(f"the plan asks for a run that is not archived: {run.name}")
        return Result({"cells": found})

    return get


def _cells_alone(run: Run) -> list[Run]:
    """A run for each cell of a LoRA sweep; none for other runs, whose cells share a stream."""
    if not run.train.endswith(":tune_lora"):
        return []
    cells = run.config["cells"]
    return [dataclasses.replace(run, config={**run.config, "cells": [cell]}) for cell in cells]


def by_identity(runs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Archived runs by the `identity` of the runs that they are."""
    by_name = {entry["name"]: entry for entry in runs}
    return {identity_of(entry, by_name): entry for entry in by_name.values()}


def identity(run: Run) -> str:
    """What makes a run what it is, apart from the code: function, config and needs."""
    needs = [identity(needed) for needed in run.needs]
    return json.dumps([run.train.partition(":")[2], run.config, needs], sort_keys=True)


def identity_of(entry: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]) -> str:
    needs = [identity_of(by_name[name], by_name) for name in entry["needs"] if name in by_name]
    return json.dumps([entry["train"].partition(":")[2], entry["config"], needs], sort_keys=True)


def measurement(claim: Claim) -> dict[str, Any]:
    """The numbers that decide a claim, and the sentence that they belong to."""
    return {key: getattr(claim, key) for key in KEPT}


def from_numbers(claim_id: str, entry: Mapping[str, Any], today: Mapping[str, Claim]) -> Claim:
    """Judge archived numbers by this build's claim of the same id.

    Raises
    ------
    Stale
        If this build has no such claim, or the numbers belong to another sentence.
    """
    claim = today.get(claim_id)
    if claim is None:
        raise Stale(f"no claim of this build is called {claim_id}")
    if claim.kind != entry["kind"] or _skeleton(claim.sentence) != _skeleton(entry["sentence"]):
        raise Stale(f"the sentence of {claim_id} is another now")
    kept, value = entry["details"], entry["value"]
    if claim.verdict == "not checked" or value is None:
        raise Stale(f"{claim_id} is not checked in this build")
    if claim.kind == "outcome":
        if claim.details["unit"] != kept["unit"]:
            raise Stale(f"{claim_id} was measured in {kept['unit']}, not {claim.details['unit']}")
        judged = judge_again(_with_difference(claim, kept), kept["values"], kept.get("trials"))
        return dataclasses.replace(judged, sentence=entry["sentence"])
    limits = {"identity": "tolerance", "bound": "tolerance", "estimate": "max_deviation"}
    limit = claim.details[limits[claim.kind]]
    holds = value >= -limit if claim.kind == "bound" else value <= limit
    return dataclasses.replace(
        claim,
        sentence=entry["sentence"],
        value=value,
        verdict="holds" if holds else "fails",
        details={**kept, limits[claim.kind]: limit},
    )


def _with_difference(claim: Claim, kept: Mapping[str, Any]) -> Claim:
    """The claim, with what differs from the published setting in the archived run, not in ours."""
    ours, theirs = claim.details.get("published"), kept.get("published")
    if ours is None or theirs is None:
        return claim
    published = {**ours, "differs": theirs["differs"]}
    return dataclasses.replace(claim, details={**claim.details, "published": published})


def _skeleton(sentence: str) -> str:
    """A sentence without its numbers, which differ between profiles."""
    return re.sub(r"\d[\d.,]*", "0", sentence)

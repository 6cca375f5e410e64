"""Archived measurements become claims by the functions of the day, or are not shown."""

import json

import pytest

from promptlib import claims
from promptlib.claims import Claim, Published
from promptlib.runs import Run
from workflow.archived import (
    ARCHIVE,
    Stale,
    from_numbers,
    from_runs,
    getter,
    measurement,
    read_archive,
)
from workflow.profile_config import load_profile
from workflow.sources import BuildError

COMMON = {"source": "this book", "checks": "promptlib.attention.attend"}


def trained(values=(90.0, 91.0, 92.0), sentence="With width 96 it learns.", limit=50.0, **options):
    return claims.outcome(
        "wing/trained", sentence, values=values, limit=limit, side="above", unit="%", **COMMON,
        **options,
    )  # fmt: skip


def same(errors=(1e-12,), tolerance=1e-10):
    return claims.identity("wing/same", "It is so.", errors=errors, tolerance=tolerance, **COMMON)


def test_archived_numbers_are_judged_by_todays_sentence_limit_and_side():
    entry = measurement(trained(sentence="With width 256 it learns."))
    assert "verdict" not in entry
    today = {"wing/trained": trained([10.0, 11.0, 12.0])}
    judged = from_numbers("wing/trained", entry, today)
    assert judged.verdict == "supported"
    assert judged.sentence == "With width 256 it learns."
    stricter = {"wing/trained": trained(limit=95.0)}
    assert from_numbers("wing/trained", entry, stricter).verdict == "contradicted"
    exact = measurement(same())
    assert from_numbers("wing/same", exact, {"wing/same": same()}).verdict == "holds"
    tight = {"wing/same": same([0.0], tolerance=1e-14)}
    assert from_numbers("wing/same", exact, tight).verdict == "fails"


def test_what_differs_from_the_published_setting_is_that_of_the_archived_run():
    full = trained(published=Published(91.0, "higher"))
    small = trained(published=Published(91.0, "higher", differs=("width 64, not 256",)))
    assert small.replication == "other size"
    judged = from_numbers("wing/trained", measurement(full), {"wing/trained": small})
    assert judged.replication == "reproduced"


@pytest.mark.parametrize(
    ("today", "reason"),
    [
        ({}, "no claim of this build is called wing/trained"),
        ({"wing/trained": trained(sentence="It forgets.")}, "the sentence .* is another now"),
        (
            {
                "wing/trained": claims.outcome(
                    "wing/trained",
                    "With width 96 it learns.",
                    values=[1, 2],
                    limit=0,
                    side="above",
                    unit="nats",
                    **COMMON,
                )
            },
            "was measured in %, not nats",
        ),
    ],
)
def test_numbers_of_another_sentence_are_stale(today, reason):
    with pytest.raises(Stale, match=reason):
        from_numbers("wing/trained", measurement(trained()), today)


class Plan:
    """As much of a notebook's plan as recomputing needs."""

    archived = "tests.pipeline.test_archived:recompute"

    class source:
        name = "wing/chapter"

    def __init__(self, *runs):
        self.planned = runs


def recompute(plan, get):
    return [trained([get(run).metrics["accuracy"] for run in plan])]


def entry_of(run, accuracy, name=None):
    return {
        "name": name or run.name,
        "train": run.train,
        "config": run.config,
        "needs": [needed.name for needed in run.needs],
        "metrics": {"accuracy": accuracy},
    }


def runs_and_entries():
    base = Run("promptlib.training:train", {"seed": 0})
    runs = [Run("promptlib.training:adapt", {"seed": n, "rate": 0.1}, (base,)) for n in range(3)]
    return runs, [entry_of(base, 0.0), *(entry_of(run, 90.0 + run.config["seed"]) for run in runs)]


def test_claims_are_recomputed_from_the_metrics_of_todays_runs():
    runs, entries = runs_and_entries()
    (claim,) = from_runs(Plan(*runs), entries)
    assert claim.details["values"] == [90.0, 91.0, 92.0]
    moved = [one | {"train": one["train"].replace("training", "elsewhere")} for one in entries]
    assert from_runs(Plan(*runs), moved) == [claim]  # a module that moved changes no run


def test_a_run_that_is_asked_for_and_not_archived_makes_the_entry_stale():
    runs, entries = runs_and_entries()
    other = Run(runs[0].train, {"seed": 0, "rate": 0.2}, runs[0].needs)
    with pytest.raises(Stale, match="asks for a run that is not archived: adapt-seed0"):
        from_runs(Plan(*runs, other), entries)
    with pytest.raises(Stale):
        from_runs(Plan(*runs), entries[1:])  # the base is part of what a run is


def test_a_lora_sweep_is_found_cell_by_cell_and_a_sweep_of_prefixes_is_not():
    rates = (0.1, 0.3)

    def sweep(function, rates):
        return Run(f"promptlib.training:{function}", {"cells": [{"rate": rate} for rate in rates]})

    def entries_of(function, rates):
        return [
            {**entry_of(sweep(function, [rate]), 0), "metrics": {"cells": [{"accuracy": rate}]}}
            for rate in rates
        ]

    entries = entries_of("tune_lora", (0.3, 0.01, 0.1))
    cells = getter(entries)(sweep("tune_lora", rates)).metrics["cells"]
    assert cells == [{"accuracy": 0.1}, {"accuracy": 0.3}]
    with pytest.raises(Stale, match="not archived: tune_lora"):
        getter(entries)(sweep("tune_lora", (0.1, 0.2)))
    with pytest.raises(Stale, match="not archived: tune_prefixes"):
        getter(entries_of("tune_prefixes", rates))(sweep("tune_prefixes", rates))


def test_stale_entries_are_named_and_not_shown(tmp_path):
    folder = tmp_path / "wing"
    folder.mkdir()
    content = {
        "provenance": {"notebook": "wing/chapter", "parameters": {}},
        "runs": [],
        "measured": {"wing/trained": measurement(trained()), "wing/same": measurement(same())},
    }
    (folder / "chapter.json").write_text(json.dumps(content))
    found = read_archive(tmp_path, {"wing/trained": trained()})
    assert list(found.claims) == ["wing/trained"]
    assert found.stale == ["wing/chapter.json: no claim of this build is called wing/same"]
    (folder / "chapter.json").write_text("{}")
    with pytest.raises(BuildError, match="lacks 'provenance'"):
        read_archive(tmp_path, {})
    (folder / "chapter.json").write_text("{")
    with pytest.raises(BuildError, match="no JSON"):
        read_archive(tmp_path, {})
    assert read_archive(None, {}).claims == {}


def test_nothing_in_the_books_archive_is_stale(built_claims):
    today = {record["id"]: Claim.from_json(record) for record in built_claims}
    found = read_archive(ARCHIVE, today, load_profile("paper"))
    assert list(found.stale) == []
    assert found.claims

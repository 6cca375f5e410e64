"""From the plan of four chapters to their archives, by way of a session in lockstep."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workflow.archived import from_runs, read_archive
from workflow.lockstep import archive as lockstep_archive
from workflow.lockstep import session as lockstep_session
from workflow.lockstep.store import (
    ENDING,
    Planned,
    Shards,
    lockstep_name,
    read_plan,
    read_shard,
    write_plan,
)
from workflow.profile_config import Profile, load_profile

SMALL: dict[str, dict[str, Any]] = {
    "new_task": {
        "seeds": 2,
        "pretrain_steps": 10,
        "adapt_steps": 10,
        "learning_rates": [0.1],
        "init_stds": [1.0],
        "weight_rates": [0.001, 0.01],
        "effort_rates": [0.1],
        "lengths": [4],
        "restarts": 2,
        "patience": 2,
        "tried_seeds": 2,
        "table_rates": [0.1],
        "table_starts": [1.0],
    },
    "eliciting": {
        "seeds": 2,
        "width": 8,
        "pretrain_steps": 10,
        "prefix_steps": 10,
        "learning_rates": [0.1],
        "init_stds": [1.0],
    },
    "combining": {
        "seeds": 2,
        "n_layer": 2,
        "width": 8,
        "pretrain_steps": 10,
        "known_steps": 10,
        "new_steps": 11,
        "learning_rates": [0.1],
        "weight_rates": [0.001],
    },
    "prefix_or_lora": {
        "seeds": 2,
        "n_layer": 2,
        "width": 8,
        "pretrain_steps": 10,
        "adapt_steps": 12,
        "prefix_rates": [0.1],
        "lora_rates": [0.01],
        "weight_rates": [0.001],
        "checkpoints": 2,
    },
}


@pytest.fixture(scope="module")
def profile() -> Profile:
    """The profile of the archive, four of its chapters tiny."""
    whole = load_profile("paper")
    plans = []
    for plan in whole.notebooks:
        small = SMALL.get(plan.source.name.removeprefix("prefix_tuning/"))
        if small is not None:
            parameters = {**plan.parameters, **small, "test_sequences": 40}
            plan = dataclasses.replace(plan, parameters=parameters)
        plans.append(plan)
    return dataclasses.replace(whole, notebooks=tuple(plans))


@pytest.fixture(scope="module")
def plan(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    write_plan(path, lockstep_archive.worths(profile), {"commit": "abc"})
    return path


def session(plan: Path, out: Path, minutes: str) -> int:
    where = ["--plan", str(plan), "--out", str(out), "--device", "cpu", "--cores", "1"]
    return lockstep_session.main([*where, "--minutes", minutes])


@pytest.fixture(scope="module")
def measured(plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a session with enough time brings back."""
    folder = tmp_path_factory.mktemp("measured")
    assert session(plan, folder, minutes="30") == 0
    return folder


def entries_of(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob(f"*{ENDING}")):
        yield from read_shard(path)


def test_a_plan_is_read_as_it_was_written(profile: Profile, plan: Path) -> None:
    planned, about = read_plan(plan)
    assert about == {"commit": "abc"}
    runs = {run.key for name in SMALL for run in profile.notebook(f"prefix_tuning/{name}").runs}
    assert [one.run.key for one in planned] == list(dict.fromkeys(one.run.key for one in planned))
    assert {one.run.key for one in planned} == runs
    seen: set[str] = set()
    for one in planned:
        assert all(needed.key in seen for needed in one.run.needs)
        seen.add(one.run.key)
    assert [one.worth for one in planned] == sorted(one.worth for one in planned)


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"runs": [{"train": "x"}]}')
    with pytest.raises(ValueError, match="is no plan of runs"):
        read_plan(tmp_path / "plan.json")


def test_a_session_measures_every_run(plan: Path, measured: Path) -> None:
    report = json.loads((measured / "report.json").read_text())
    assert report["missing"] == {}
    assert report["failed"] == {}
    assert report["about"] == {"commit": "abc"}
    assert sum(row["runs"] for row in report["groups"]) == len(
        [entry for entry in entries_of(measured) if "batching" in entry["machine"]]
    )


def test_entries_tell_device_and_batching_by_name_and_machine(plan: Path, measured: Path) -> None:
    runs = {one.run.name: one.run for one in read_plan(plan)[0]}
    for entry in entries_of(measured):
        if entry["train"].endswith("tables:train"):
            assert entry["name"] in runs  # trained alone, as always
        else:
            assert entry["name"] not in runs
            assert entry["machine"]["batching"] == "lockstep"
            device = entry["machine"]["device"]
            assert entry["name"] in {lockstep_name(run, device) for run in runs.values()}


def test_a_second_session_has_nothing_to_do(
    plan: Path, measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in measured.glob(f"*{ENDING}")}
    planned, _ = read_plan(plan)
    shards = Shards(measured, next(entries_of(measured))["machine"]["device"])
    assert all(shards.find(one.run) for one in planned)
    for path, content in before.items():
        assert path.read_bytes() == content


def test_chapters_are_merged_and_give_their_claims(
    profile: Profile, measured: Path, tmp_path: Path
) -> None:
    entries = list(entries_of(measured))
    for name in lockstep_archive.CHAPTERS:
        chapter = profile.notebook(f"prefix_tuning/{name}")
        content, lacking = lockstep_archive.merged(chapter, profile, entries, "abc")
        assert lacking == []
        assert content["provenance"]["machine"]["batching"] == "lockstep"
        assert from_runs(chapter, content["runs"])
        target = tmp_path / "prefix_tuning" / f"{name}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(content))
    archived = read_archive(tmp_path, {}, profile)
    assert archived.stale == []
    assert archived.claims


def test_what_a_chapter_lacks_is_named(profile: Profile, measured: Path) -> None:
    entries = [one for one in entries_of(measured) if not one["train"].endswith("tune_lora")]
    chapter = profile.notebook("prefix_tuning/prefix_or_lora")
    _, lacking = lockstep_archive.merged(chapter, profile, entries, "abc")
    assert {run.train.partition(":")[2] for run in lacking} == {"tune_lora"}


def test_at_the_limit_a_session_ends_as_if_it_were_done(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert session(plan, tmp_path, minutes="0.01") == 0
    assert list(entries_of(tmp_path)) == []
    assert "missing: " in capsys.readouterr().out


def test_what_others_need_is_as_worthy_as_they_are(plan: Path, tmp_path: Path) -> None:
    planned, _ = read_plan(plan)
    adapted = next(one for one in planned if one.run.needs)
    write_plan(
        tmp_path / "plan.json",
        [Planned(adapted.run.needs[0], "late", 5), Planned(adapted.run, "early", 1)],
        {},
    )
    again, _ = read_plan(tmp_path / "plan.json")
    assert [(one.chapter, one.worth) for one in again] == [("early", 1), ("early", 1)]

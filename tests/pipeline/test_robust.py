"""The quick profile from other seeds: the cases, what moves, and what the table says."""

import pytest

from workflow import robust
from workflow.profile_config import FIRST_SEEDS, load_profile
from workflow.robust import Case, cases, lines, table
from workflow.sources import BuildError


def test_every_seed_and_every_path_has_its_turn():
    assert cases([0, 100, 200, 300], ["native", "avx2", "default"]) == [
        Case(0, "native"),
        Case(100, "avx2"),
        Case(200, "default"),
        Case(300, "native"),
    ]
    assert cases([7], ["native", "avx2"]) == [Case(7, "native"), Case(7, "avx2")]
    usual = cases(robust.SEEDS, list(robust.PATHS))
    assert len({case.first_seed for case in usual} - {0}) >= 5
    assert {case.path for case in usual} == set(robust.PATHS)


@pytest.mark.parametrize(
    ("seeds", "paths", "message"),
    [
        ([0], ["sse9"], "PATHS must be of native, avx2, default; got sse9"),
        ([0], [], "got none"),
        ([-1], ["native"], r"SEEDS must be whole numbers of at least 0, got \[-1\]"),
        ([], ["native"], "SEEDS"),
    ],
)
def test_cases_that_cannot_be_are_refused(seeds, paths, message):
    with pytest.raises(BuildError, match=message):
        cases(seeds, paths)


def test_a_variant_moves_the_seeds_of_every_notebook_and_nothing_else():
    usual, moved = load_profile("quick"), load_profile("quick@100-avx2")
    assert (moved.name, moved.base) == ("quick@100-avx2", "quick")

    def differences(before, after, where):
        for name, value in before.items():
            if isinstance(value, dict):
                yield from differences(value, after[name], f"{where}.{name}")
            elif value != after[name]:
                assert name in FIRST_SEEDS
                assert after[name] == 100
                yield where

    for one, other in zip(usual.notebooks, moved.notebooks, strict=True):
        found = list(differences(one.parameters, other.parameters, one.source.name))
        assert found or one.plan is None, f"{one.source.name} trains the same runs again"
    seeds = {run.config["seed"] for run in moved.runs.values()}
    assert min(seeds) >= 100
    assert len(moved.runs) == len(usual.runs)
    assert not set(moved.runs) & set(usual.runs)


def test_other_paths_keep_their_runs_apart(monkeypatch):
    assert Case(0, "native").environment == {}
    assert Case(0, "native").profile == "quick"
    paths = {Case(0, name).environment["PROMPTLIB_RUNS"] for name in ("avx2", "default")}
    assert len(paths) == 2


FOUND = [
    {
        "name": f"case{number}",
        "path": "native",
        "verdicts": {"w/a": "holds", "w/b": verdict},
        "problems": ["w/b: turned"] if verdict == "contradicted" else [],
    }
    for number, verdict in enumerate(["supported", "undecided", "contradicted", "supported"])
]


def test_the_table_counts_verdicts_and_keeps_what_the_gate_said():
    content = table(FOUND)
    assert content["claims"]["w/b"] == {"supported": 2, "undecided": 1, "contradicted": 1}
    assert content["gate"] == ["case2: w/b: turned"]
    assert [set(case) for case in content["cases"]] == [{"name", "path"}] * 4
    assert lines(content) == [
        "w/b  2 supported, 1 undecided, 1 contradicted",
        "the same in all 4 cases: 1 holds",
        "gate: case2: w/b: turned",
    ]
    assert lines(table(FOUND[:1]))[-1] == "gate: open in every case"

"""The run store: a run is named by what decides it, whole or absent, trained once, mended."""

import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from promptlib import runs
from promptlib.runs import CorruptRunWarning, Result, Run, RunStore

TRAIN = "promptlib.runs:sample_training"  # any module of the package; tests put a function there


@pytest.fixture
def trainings(monkeypatch):
    """Put a training function where runs look for it; the list of configs it was called with."""
    calls = []

    def sample_training(config, needs, progress):
        calls.append(dict(config))
        start = needs[0].tensors["w"] if needs else torch.zeros(3)
        for _ in progress(range(2), "training"):
            start = start + config["step"]
        return Result({"sum": float(start.sum())}, {"w": start})

    monkeypatch.setattr(runs, "sample_training", sample_training, raising=False)
    return calls


def test_a_run_is_trained_once_and_then_read(tmp_path, trainings):
    store, run = RunStore(tmp_path), Run(TRAIN, {"step": 0.5, "seed": 0})
    first, second = store.get(run), store.get(run)
    assert trainings == [{"step": 0.5, "seed": 0}]
    assert first.metrics == second.metrics == {"sum": 3.0}
    assert torch.equal(first.tensors["w"], second.tensors["w"])
    assert not list(tmp_path.glob(".*partial*"))


def test_needed_runs_come_first_and_are_handed_over(tmp_path, trainings):
    base = Run(TRAIN, {"step": 1.0})
    store = RunStore(tmp_path)
    assert store.get(Run(TRAIN, {"step": 2.0}, (base,))).metrics == {"sum": 18.0}
    assert [call["step"] for call in trainings] == [1.0, 2.0]


def test_the_name_depends_on_all_that_decides_the_result():
    base = Run(TRAIN, {"step": 1.0})
    others = [
        Run(TRAIN, {"step": 1.5}),
        Run(TRAIN, {"step": 1.0, "seed": 1}),
        Run(TRAIN, {"step": 1.0}, (base,)),
        Run("promptlib.claims:sample_training", {"step": 1.0}),
    ]
    assert len({run.name for run in [base, *others]}) == 5
    assert base.name == Run(TRAIN, {"step": 1.0}).name


def test_the_name_is_the_same_under_every_hash_seed_locale_time_zone_and_folder(tmp_path):
    command = (
        "from promptlib.runs import Run;"
        "print(Run('promptlib.claims:f', {'b': 1, 'a': {'d': [1, 2], 'c': 0.1, '\\xe4': 1}}).key)"
    )
    path = os.pathsep.join([str(Path(runs.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    keys = {
        subprocess.run(
            [sys.executable, "-c", command],
            env={**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", **changed},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for changed, folder in (
            ({"PYTHONHASHSEED": "0"}, None),
            ({"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "HOME": "/nowhere"}, tmp_path),
            ({"PYTHONHASHSEED": "2", "LC_ALL": "C", "PYTHONUTF8": "0"}, tmp_path),
        )
    }
    assert len(keys) == 1


@pytest.mark.parametrize("name", ["metrics.json", "weights.safetensors", "provenance.json"])
def test_a_damaged_run_is_reported_put_aside_and_trained_again(tmp_path, trainings, name):
    store, run = RunStore(tmp_path), Run(TRAIN, {"step": 1.0})
    store.get(run)
    whole = store.checksum(run)
    damaged = store.folder(run) / name
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.warns(CorruptRunWarning, match="is damaged"):
        assert store.get(run).metrics == {"sum": 6.0}
    assert len(trainings) == 2
    assert store.checksum(run) == whole
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_what_a_killed_training_left_is_cleared(tmp_path, trainings):
    store, run = RunStore(tmp_path), Run(TRAIN, {"step": 1.0})
    leftover = tmp_path / f".{run.name}.partial-1"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    store.get(run)
    assert not leftover.exists()


def test_a_training_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def sample_training(config, needs, progress):
        raise FloatingPointError("loss is nan at step 3")

    monkeypatch.setattr(runs, "sample_training", sample_training, raising=False)
    store, run = RunStore(tmp_path), Run(TRAIN, {})
    with pytest.raises(FloatingPointError, match="step 3"):
        store.get(run)
    assert store.checksum(run) is None


def test_training_uses_one_thread_and_gives_the_rest_back(tmp_path, monkeypatch):
    seen = []

    def sample_training(config, needs, progress):
        seen.append(torch.get_num_threads())
        return Result({})

    monkeypatch.setattr(runs, "sample_training", sample_training, raising=False)
    before = torch.get_num_threads()
    RunStore(tmp_path).get(Run(TRAIN, {}))
    assert seen == [1]
    assert torch.get_num_threads() == before


def _race(root, log):
    """Ask for one run in another process; the training writes a line when it really runs."""

    def sample_training(config, needs, progress):
        import time

        with Path(log).open("a") as file:
            file.write("trained\n")
        time.sleep(0.3)
        return Result({"done": True}, {"w": torch.ones(2)})

    runs.sample_training = sample_training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RunStore(root).get(Run(TRAIN, {})).metrics == {"done": True}


def test_of_two_processes_that_want_a_run_one_trains(tmp_path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [context.Process(target=_race, args=(tmp_path / "runs", log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert log.read_text() == "trained\n"


def test_provenance_says_what_and_with_what(tmp_path, trainings):
    store, run = RunStore(tmp_path), Run(TRAIN, {"step": 1.0, "seed": 7})
    store.get(run)
    provenance = store.provenance(run)
    assert provenance["config"] == {"step": 1.0, "seed": 7}
    assert provenance["key"] == run.key
    assert provenance["machine"]["torch"].startswith("2.")
    assert json.loads((store.folder(run) / "metrics.json").read_text()) == {"sum": 6.0}


def test_bad_runs_are_refused():
    with pytest.raises(ValueError, match=r"package\.module:function"):
        Run("promptlib.claims", {})
    with pytest.raises(ValueError, match="JSON-able"):
        Run(TRAIN, {"x": float("nan")})
    with pytest.raises(ValueError, match=r"'promptlib\.missing' is not a module"):
        _ = Run("promptlib.missing:f", {}).key


def test_planning_and_packages_do_not_load_torch():
    command = (
        "import sys, promptlib.runs, promptlib.claims, promptlib.prompt_attention,"
        "promptlib.prefix_tuning, notebooks.prefix_tuning.new_task.plan;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", command], check=True)

"""What the archived full-size runs cost: counted once, on the card and on a core."""

import copy
import json

import pytest

from promptlib.prefix_tuning import planning
from workflow.archived_tables import archived_tables, published_cost
from workflow.sources import ROOT, BuildError
from workflow.workload import works

MODEL = planning.model_of(1, 1, 96)
BASE = planning.pretrain(
    MODEL,
    "sort_ascending",
    seed=0,
    steps=1000,
    learning_rate=1e-3,
    evaluate=["sort_ascending"],
    test_sequences=100,
)
CELLS = planning.cells([0.1, 0.3], [1.0])
PREFIX = planning.tune_prefixes(
    BASE, "sort_ascending", steps=1000, length=1, parametrisation="free", sweep=CELLS
)


def entry(run, seconds, **machine):
    described = machine or {"device": "A card", "batching": "lockstep"}
    config = json.loads(json.dumps(run.config))
    return {
        "name": run.name,
        "train": run.train,
        "config": config,
        "seconds": seconds,
        "machine": described,
    }


def operations(run):
    return sum(work.operations for work in works(run))


ONE_SEED = {
    "rows": [
        {"experiment": "B3", "what": "pretrained", "steps": 1000, "batch_size": 64, "seconds": 36.0}
    ]
}


@pytest.fixture
def archive(tmp_path):
    """Two chapters that share a model, and one without runs."""
    alone = copy.deepcopy(entry(PREFIX, 1800.0, processor="One"))
    alone["name"] += "-alone"
    chapters = {
        "new_task": [entry(BASE, 1.0), entry(PREFIX, 2.0), alone],
        "eliciting": [entry(BASE, 1.0)],
        "cannot_re_aim": [],
    }
    for name, runs in chapters.items():
        path = tmp_path / "prefix_tuning" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"runs": runs}))
    return tmp_path


def test_runs_are_counted_by_chapter_and_in_all_once(archive):
    shared, chapter, every = published_cost(archive, None)
    assert [shared["name"], chapter["name"], every["name"]] == [
        "prefix_tuning/eliciting",
        "prefix_tuning/new_task",
        None,
    ]
    assert (chapter["runs"], chapter["card_seconds"], chapter["card"]) == (2, 3.0, "A card")
    assert (chapter["alone"], chapter["alone_seconds"]) == (1, 1800.0)
    assert (every["runs"], every["card_seconds"]) == (2, 3.0)
    assert chapter["core_hours"] is None  # nothing tells how fast a core is


def test_the_core_of_one_seed_tells_how_long_all_would_take_there(archive):
    (archive / "prefix_tuning" / "eliciting.json").unlink()
    chapter, every = published_cost(archive, ONE_SEED)
    expected = 36.0 * (1 + operations(PREFIX) / operations(BASE)) + 1800.0  # one as measured
    assert chapter["core_hours"] == pytest.approx(expected / 3600)
    assert every["core_hours"] == chapter["core_hours"]


def test_an_archive_without_a_card_has_no_such_table(tmp_path):
    assert archived_tables(None) == {"one_seed": None, "robust": None, "published_cost": None}
    assert archived_tables(tmp_path)["published_cost"] is None
    (tmp_path / "one_seed.json").write_text("{}")
    with pytest.raises(BuildError, match=r"one_seed.json must hold an object with a list 'rows'"):
        archived_tables(tmp_path)


def test_all_that_is_archived_has_its_cost():
    costs = archived_tables(ROOT / "archive")["published_cost"]
    assert costs is not None
    for cost in costs:
        assert cost["runs"] > 0
        assert cost["card"]
        assert cost["core_hours"] > cost["card_seconds"] / 3600

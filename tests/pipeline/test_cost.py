"""A long build says what it will cost before it starts, by the configs of its runs."""

import io
from types import SimpleNamespace

import pytest

from promptlib.prefix_tuning import planning
from promptlib.runs import Run
from tests.pipeline import small_book
from workflow import cost
from workflow.profile_config import load_profile
from workflow.progress import Progress
from workflow.workload import Size, Speed, Work, seconds_of, timed, works

MODEL = planning.model_of(2, 4, 64)
SPEEDS = {
    Size(64, 4, "float32"): Speed(1e-3, 1e-11),
    Size(64, 4, "bfloat16"): Speed(1e-3, 1e-12),
}


def base(**changes):
    options = {
        "seed": 0,
        "steps": 100,
        "learning_rate": 1e-3,
        "evaluate": ["add_one"],
        "test_sequences": 100,
    }
    return planning.pretrain(MODEL, "add_one", **{**options, **changes})


def prefixes(rates=(0.1,), **changes):
    options = {"length": 4, "parametrisation": "free", "batch_size": 16, "steps": 100}
    sweep = planning.cells(rates, [1.0])
    return planning.tune_prefixes(base(), "add_one", sweep=sweep, **{**options, **changes})


def lora(rates=(0.1,)):
    sweep = planning.cells(rates, [0.02])
    modules = ["mlp.expand"]
    return planning.tune_lora(base(), "add_one", rank=1, modules=modules, sweep=sweep, steps=100)


def seconds(run):
    return seconds_of(run, SPEEDS)


@pytest.fixture(scope="module")
def paper():
    return load_profile("paper")


def test_the_estimate_grows_with_everything_that_is_computed():
    assert seconds(base(steps=200)) > 1.9 * seconds(base(test_sequences=1))
    assert seconds(base(test_sequences=200)) > seconds(base())
    assert seconds(base(evaluate=["add_one", "add_two"])) > seconds(base())
    assert seconds(prefixes(steps=200)) > seconds(prefixes())
    assert seconds(prefixes(batch_size=32)) > seconds(prefixes())
    assert seconds(prefixes(length=8)) > seconds(prefixes())
    assert seconds(prefixes(checkpoints=4)) > seconds(prefixes())
    assert seconds(base(precision="bfloat16")) < seconds(base())


def test_cells_share_their_passes():
    for make in (prefixes, lora):
        assert 1 < seconds(make((0.1, 0.3))) / seconds(make((0.1,))) < 1.6


def test_a_calibration_gives_the_expected_seconds():
    width, read, answered, layers = 64, 19, 10, 2
    products = 24 * width**2 * (read + answered) + 4 * width**2 * (read - answered)
    attention = 4 * width * read * (read + answered)
    one = products + attention + 2 * width * 11 * answered
    trained = Work(Size(64, 4, "float32"), 3 * 100 * layers, 3 * 100 * 64 * one)
    measured = Work(Size(64, 4, "float32"), layers, 2 * 100 * one)
    assert works(base()) == [trained, measured]
    passes, operations = trained.passes + layers, trained.operations + measured.operations
    assert seconds(base()) == pytest.approx(1e-3 * passes + 1e-11 * operations)


def test_every_run_of_the_published_sizes_is_estimated_or_known_to_tell_no_model(paper):
    unknown = {run.train.partition(":")[2] for run in paper.runs.values() if not works(run)}
    assert {"train_few_samples"} <= unknown <= {"train_few_samples", "steer"}  # of an extra
    for run in paper.runs.values():
        for work in works(run):
            assert work.passes > 0
            assert work.operations > 0
            assert Size.read(str(work.size)) == work.size


def test_the_table_names_each_chapter_and_a_part_to_take(paper):
    hours = dict.fromkeys(paper.runs, 3600.0)
    text = cost.message(paper, hours, 4)
    rows = {line.split()[0]: line.split()[1:3] for line in text.splitlines() if "/" in line[:20]}
    planned = {plan.source.name for plan in paper.notebooks if plan.runs}
    planned.discard("prefix_tuning/expressivity_or_optimisation")
    assert planned <= rows.keys()
    assert sum(int(runs) for runs, _ in rows.values()) == len(paper.runs)
    assert f"trains {len(paper.runs)} models: about {len(paper.runs)} core-hours" in text
    assert f"about {len(paper.runs) / 4:.0f} h on 4 cores" in text
    assert 'make archive NOTEBOOK=prefix_tuning/combining SET="seeds=1"' in text
    assert "make archive DEVICE=gpu MINUTES=10" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    assert not {"\x1b", "\r"} & set(text)


def test_more_cores_do_not_shorten_a_chain_of_runs():
    run = prefixes()
    chain = {run.name: 2.0, run.needs[0].name: 3.0}

    planned = SimpleNamespace(runs={one.name: one for one in (*run.needs, run)})
    assert cost.longest_wait(planned, chain) == 5.0
    assert cost.longest_wait(planned, {run.name: 2.0}) == 2.0


def test_weights_take_more_room_than_prefixes_and_strings_little():
    assert cost.bytes_of(base()) > 4 * 12 * 2 * 64**2
    assert cost.bytes_of(prefixes()) < cost.bytes_of(lora()) < cost.bytes_of(base())
    assert cost.bytes_of(Run("a:b", {"seed": 0})) == cost.RUN_BYTES


@pytest.mark.parametrize(("seconds", "said"), [(1.0, False), (4 * cost.LONG_SECONDS, True)])
def test_a_quick_build_says_nothing_unless_it_is_long(monkeypatch, capsys, seconds, said):
    quick = load_profile("quick")
    run = next(iter(quick.notebook("prefix_tuning/eliciting").runs))
    progress = Progress({run.name: seconds}, {}, 2, io.StringIO())
    slow = Speed(1.0, 0.0)
    monkeypatch.setattr(cost, "calibrated", lambda sizes: dict.fromkeys(sizes, slow))
    cost.announce(quick, progress, 2)
    text = capsys.readouterr().out
    assert ("This build trains 1 model: " in text) == said
    assert ("make notebook NOTEBOOK=" in text) == said
    passes = sum(work.passes for work in works(run))
    assert progress.expected[run.name] == (passes if said else seconds)  # the time left follows


def test_a_calibration_that_fails_stops_no_build(paper, monkeypatch, capsys):
    run = next(iter(paper.notebook("prefix_tuning/eliciting").runs))
    monkeypatch.setattr(cost, "calibrated", lambda sizes: None)
    cost.announce(paper, Progress({run.name: 1.0}, {}, 2, io.StringIO()), 2)
    assert "no training step could be timed" in capsys.readouterr().out


def test_training_steps_are_timed():
    speed = timed(Size(16, 2, "float32"))
    assert speed.seconds_a_pass >= 0
    assert speed.seconds_an_operation > 0


@pytest.mark.pipeline
def test_a_build_at_the_published_sizes_says_it_once_before_it_trains(tmp_path):
    book = small_book.make(tmp_path / "book")
    (book.root / "config" / "paper.yml").write_text((book.root / "config/quick.yml").read_text())
    (book.root / "fail-train").touch()  # what follows the training is not of interest
    _, output = book.build("--profile", "paper")
    assert output.count("This build trains 1 model: ") == 1
    assert "small/first" in output
    assert output.index("core-hours") < output.index("To do: 1 training runs")
    assert not {"\x1b", "\r"} & set(output)

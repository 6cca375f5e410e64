"""What the page says of the archived runs at the published size is what they measured."""

from __future__ import annotations

import json

import pytest

from notebooks.prefix_tuning.combining.plan import COMPOSITIONS, INVENTIONS
from promptlib.prefix_tuning.trials import read
from workflow.archived import ARCHIVE, ARCHIVE_PROFILE, archive_profile, getter, read_archive
from workflow.profile_config import load_profile

NAME = "prefix_tuning/combining"


@pytest.fixture(scope="module")
def trials():
    runs = json.loads((ARCHIVE / f"{NAME}.json").read_text(encoding="utf-8"))["runs"]
    return read(load_profile(ARCHIVE_PROFILE).notebook(NAME).planned, getter(runs))


@pytest.fixture(scope="module")
def archived():
    claims = read_archive(ARCHIVE, {}, archive_profile()).claims
    start = "prefix-tuning/combining-"
    return {name.removeprefix(start): one for name, one in claims.items() if name.startswith(start)}


def percent(trials, task):
    return trials.where(method="free prefix", task=task).best().percent()


def test_the_published_contrast_stands(archived):
    assert archived["ascending-add-one"].verdict == "supported"
    assert archived["double-histogram"].verdict == "supported"
    assert archived["double-histogram"].replication == "reproduced"
    assert archived["fine-tuning-counts"].verdict == "supported"


def test_prefixes_move_digits(archived, trials):
    assert archived["moving-fails"].verdict == "contradicted"
    for task in ("reverse", "rotate"):
        *most, fifth = sorted(percent(trials, task), reverse=True)
        assert min(most) > 90
        assert 30 < fifth < 50


def test_compositions_and_the_running_maximum_are_done_and_histograms_are_not(trials):
    done = {*COMPOSITIONS, "running_maximum"}
    for task in done:
        lowest, *others = sorted(percent(trials, task))
        assert min(others) > 95
        assert lowest > (80 if task == "descending_add_one" else 95)
    histograms = {"double_histogram", "ascending_histogram"}
    for task in histograms:
        assert max(percent(trials, task)) < 2
    assert {*COMPOSITIONS, *INVENTIONS} == {*done, *histograms, "reverse", "rotate"}

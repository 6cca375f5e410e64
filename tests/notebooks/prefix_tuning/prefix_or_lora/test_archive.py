"""What the page says of the archived runs at the published size is what they measured."""

from __future__ import annotations

import json

import pytest

from promptlib.prefix_tuning.trials import read
from workflow.archived import ARCHIVE, ARCHIVE_PROFILE, getter
from workflow.profile_config import load_profile

NAME = "prefix_tuning/prefix_or_lora"


@pytest.fixture(scope="module")
def trials():
    runs = json.loads((ARCHIVE / f"{NAME}.json").read_text(encoding="utf-8"))["runs"]
    return read(load_profile(ARCHIVE_PROFILE).notebook(NAME).planned, getter(runs))


def best(trials, **labels):
    return trials.where(**labels).best().percent()


def test_no_prefix_counts_with_four_times_the_parameters_either(trials):
    for way in trials.where(method="prefix").by("way").values():
        assert max(way.best().percent()) < 2


def test_lora_of_the_published_budget_counts_and_on_attention_alone_only_from_rank_four(trials):
    assert min(best(trials, method="LoRA", what="MLP and projection", size=1)) > 90
    assert max(best(trials, method="LoRA", what="attention", size=1)) < 2
    four = best(trials, method="LoRA", what="attention", size=4)
    assert min(four) > 50
    assert sum(value > 85 for value in four) == 4

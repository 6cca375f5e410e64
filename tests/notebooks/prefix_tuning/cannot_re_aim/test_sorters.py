"""The chapter looks into the models of the next chapter, and into no others."""

from __future__ import annotations

import pytest
import torch

from notebooks.prefix_tuning.cannot_re_aim.claims import (
    trained_biased_output,
    trained_layer_norm_limit,
    trained_relative_attention,
)
from notebooks.prefix_tuning.cannot_re_aim.results import trained_sorters
from notebooks.prefix_tuning.new_task import plan as new_task
from promptlib.runs import RunStore
from workflow.profile_config import load_profile, profile_names

TRAINING_PARAMETERS = (
    "seeds",
    "first_seed",
    "pretrain_steps",
    "adapt_steps",
    "learning_rates",
    "init_stds",
    "weight_rates",
    "test_sequences",
)


def test_the_sorters_of_a_tiny_plan_satisfy_the_claims(tmp_path):
    plan = new_task.first_sweep(
        seeds=2,
        first_seed=0,
        pretrain_steps=40,
        adapt_steps=10,
        learning_rates=[0.01, 0.1],
        init_stds=[1.0],
        weight_rates=[0.003, 0.01],
        test_sequences=7,
    )
    sorters = trained_sorters(plan, RunStore(tmp_path))
    assert len(sorters) == 2
    tokens = torch.randint(0, 8, (5, 19), generator=torch.Generator().manual_seed(0))
    for sorter in sorters:
        assert len(sorter.normalised) == len(sorter.free) == 2
        assert sorter.best in sorter.normalised
        assert all(prefix.layer_norm for prefix in sorter.normalised)
        assert not any(prefix.layer_norm for prefix in sorter.free)
        assert sorter.best.vectors.dtype == torch.float64
        pairs = [(sorter.pretrained, prefix) for prefix in (*sorter.normalised, *sorter.free)]
        assert trained_relative_attention(pairs, tokens).passes
        assert trained_biased_output(pairs, tokens).passes
        assert trained_layer_norm_limit(pairs[:2], tokens).passes
    first, second = (sorter.pretrained.token.weight for sorter in sorters)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("profile", profile_names())
def test_both_chapters_mean_the_same_training_runs(profile):
    notebooks = load_profile(profile)
    ours = notebooks.notebook("prefix_tuning/cannot_re_aim").parameters
    theirs = notebooks.notebook("prefix_tuning/new_task").parameters
    for name in TRAINING_PARAMETERS:
        assert ours[name] == theirs[name], name

"""The chapter looks into the models of "A new task", a deeper sorter, and into no others."""

from __future__ import annotations

import pytest
import torch

from notebooks.prefix_tuning.cannot_re_aim import measuring, plan, trained_layer
from notebooks.prefix_tuning.cannot_re_aim.claims import ROWS
from notebooks.prefix_tuning.cannot_re_aim.results import trained_sorters, with_prefix
from promptlib import claims
from promptlib.prefix_tuning import inside, trials
from tests.trained_in_memory import TrainedInMemory
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


def test_the_sorters_of_a_tiny_plan_satisfy_the_claims():
    runs = plan.chapter_plan(
        seeds=2,
        first_seed=0,
        pretrain_steps=40,
        adapt_steps=10,
        learning_rates=[0.01, 0.1],
        init_stds=[1.0],
        weight_rates=[0.003, 0.01],
        test_sequences=7,
        deep_steps=30,
    )
    get = TrainedInMemory().get
    trained = trials.read(runs, get)
    sorters = trained_sorters(trained, get)
    assert len(sorters) == 2
    tokens = torch.randint(0, 8, (5, 19), generator=torch.Generator().manual_seed(0))
    for sorter in sorters:
        assert len(sorter.normalised) == len(sorter.free) == 2
        assert sorter.best in sorter.normalised
        assert all(prefix.layer_norm for prefix in sorter.normalised)
        assert not any(prefix.layer_norm for prefix in sorter.free)
        assert sorter.best.vectors.dtype == torch.float64
        pairs = [(sorter.pretrained, prefix) for prefix in (*sorter.normalised, *sorter.free)]
        measured = {
            "trained-relative-attention": torch.cat(
                [inside.model_ratio_errors(*pair, tokens) for pair in pairs]
            ),
            "trained-biased-output": torch.cat(
                [trained_layer.model_output_errors(*pair, tokens) for pair in pairs]
            ),
            "trained-layer-norm-limit": measuring.trained_shares(pairs[:2], tokens),
        }
        found = claims.check_each("prefix-tuning/", ROWS, measured)
        assert all(claim.passes for claim in found.values())
    first, second = (sorter.pretrained.token.weight for sorter in sorters)
    assert not torch.equal(first, second)
    deep = [with_prefix(one, get) for one in trained.where(method="deep prefix")]
    assert [len(model.blocks) for model, _ in deep] == [3, 3]
    with pytest.raises(ValueError, match="a finetuned model has no prefix"):
        with_prefix(trained.where(method="finetuned")[0], get)


@pytest.mark.parametrize("profile", profile_names())
def test_both_chapters_mean_the_same_training_runs(profile):
    notebooks = load_profile(profile)
    ours = notebooks.notebook("prefix_tuning/cannot_re_aim").parameters
    theirs = notebooks.notebook("prefix_tuning/new_task").parameters
    for name in TRAINING_PARAMETERS:
        assert ours[name] == theirs[name], name

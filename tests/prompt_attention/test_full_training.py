"""Full training beside three steps: a small round of tuning, and its claims."""

import pytest
import torch

from promptlib.prompt_attention import first_gradient as chapter
from promptlib.prompt_attention import full_training
from promptlib.prompt_attention.mixture import ContextualMixture

EASY = ContextualMixture(4, 5, 0.4, 2.0, 1.5, 0.5, dtype=torch.float32)
BUDGET = full_training.Budget(90, 50, 400, 60, 30, (0.01, 0.1), (0.25, 1.0))


def test_every_method_learns_an_easy_mixture():
    errors = full_training.compare(EASY, BUDGET, seed=0)
    assert tuple(errors) == full_training.METHODS
    assert errors["three steps, labels centred"] < 0.1
    assert errors["prompt-attention"] < 0.05
    assert errors["mean pooling"] < 0.15


def test_a_method_does_not_depend_on_the_others():
    alone = full_training.compare(EASY, BUDGET, 3, ("self-attention",))
    together = full_training.compare(EASY, BUDGET, 3, ("mean pooling", "self-attention"))
    assert alone["self-attention"] == together["self-attention"]


def test_seeds_are_rows():
    table = full_training.compare_seeds(EASY, BUDGET, (0, 1), ("mean pooling",))
    assert table.shape == (2, 1)
    assert (
        float(table[1, 0])
        == full_training.compare(EASY, BUDGET, 1, ("mean pooling",))["mean pooling"]
    )


def test_budgets_must_be_equal():
    with pytest.raises(ValueError, match="2 learning rates and 1 scales"):
        full_training.Budget(90, 50, 400, 60, 30, (0.01, 0.1), (0.25,))
    with pytest.raises(ValueError, match="divisible by 3, got 100"):
        full_training.Budget(100, 50, 400, 60, 30, (0.01,), (0.25,))


@pytest.mark.claim("prompt-attention/three-steps-reach-training")
def test_reach_claim():
    assert chapter.close_to_training(torch.tensor([0.3, 0.9, 0.5]), 900).verdict == "reproduced"
    assert (
        chapter.close_to_training(torch.tensor([9.0, 12.0, 8.0]), 900).verdict == "not reproduced"
    )

    def without_a_prompt(*arguments, **options):
        # The prompt's scales at zero: three steps of mean pooling.
        mixture, _, *bags = arguments
        still = full_training.Budget(90, 50, 400, 60, 30, (0.01, 0.1), (0.0, 0.0))
        return full_training.three_steps(mixture, still, *bags, **options)

    hard = ContextualMixture(10, 10, 0.1, 3.0, 0.8, 1.0, dtype=torch.float32)
    source = torch.Generator().manual_seed(0)
    bags = [hard.sample(n, source) for n in (900, 300, 1000)]
    gap = 100 * (
        without_a_prompt(hard, BUDGET, *bags, centred=True)
        - full_training.three_steps(hard, BUDGET, *bags, centred=True)
    )
    assert chapter.close_to_training(torch.tensor([gap]), 900).verdict == "not reproduced"


@pytest.mark.claim("prompt-attention/training-needs-fewer-bags")
def test_fewer_bags_claim():
    gaps = torch.tensor([20.0, 5.0, 11.0])
    assert chapter.training_uses_fewer_bags(gaps, 150).verdict == "reproduced"
    # Training that does not move: it guesses, and three steps do better.
    frozen = full_training.Budget(90, 50, 400, 2, 30, (1e-9,), (1.0,))
    rows = full_training.compare_seeds(
        EASY, frozen, (0, 1), ("three steps, labels centred", "prompt-attention")
    )
    gaps = 100 * (rows[:, 0] - rows[:, 1])
    assert chapter.training_uses_fewer_bags(gaps, 90).verdict == "not reproduced"


@pytest.mark.claim("prompt-attention/three-steps-beat-rivals")
def test_rivals_claim():
    gaps = torch.tensor([4.0, 3.0, 5.0])
    assert chapter.attention_beats_its_rivals(gaps, 2400).verdict == "reproduced"
    # A prompt of length zero: three steps of mean pooling, no better than a trained rival.
    world = ContextualMixture(6, 10, 0.3, 2.5, 1.0, 1.0, dtype=torch.float32)
    still = full_training.Budget(300, 100, 2000, 100, 60, (0.05,), (0.0,))
    rows = full_training.compare_seeds(
        world, still, (0, 1), ("three steps, labels centred", "linear prompt-attention")
    )
    gaps = 100 * (rows[:, 1] - rows[:, 0])
    assert chapter.attention_beats_its_rivals(gaps, 300).verdict == "not reproduced"

"""Full training beside three steps: a small round of tuning, and its claims."""

import pytest
import torch
from torch import nn

from notebooks.prompt_attention.first_gradient import full_training
from notebooks.prompt_attention.first_gradient.claims_training import ROWS
from notebooks.prompt_attention.first_gradient.side_by_side import train_rows
from promptlib import claims
from promptlib.prompt_attention.mixture import ContextualMixture
from promptlib.training import Learner, Recipe, TrainingDiverged, train

EASY = ContextualMixture(4, 5, 0.4, 2.0, 1.5, 0.5, dtype=torch.float32)
BUDGET = full_training.Budget(90, 50, 400, 60, 30, (0.01, 0.1), (0.25, 1.0))


def test_every_method_learns_an_easy_mixture():
    tuned = full_training.compare(EASY, BUDGET, seed=0)
    assert tuple(tuned) == full_training.METHODS
    assert all(one.setting in (0, 1) for one in tuned.values())
    errors = {method: one.error for method, one in tuned.items()}
    assert errors["three steps, labels centred"] < 0.1
    assert errors["prompt-attention"] < 0.05
    assert errors["mean pooling"] < 0.15


def test_a_method_does_not_depend_on_the_others():
    alone = full_training.compare(EASY, BUDGET, 3, ("self-attention",))
    together = full_training.compare(EASY, BUDGET, 3, ("mean pooling", "self-attention"))
    assert alone["self-attention"] == together["self-attention"]


def test_rows_move_as_learners_of_the_one_training_loop_do():
    rates, steps = (0.3, 0.01), 7
    recipe = Recipe(steps, warmup=2, weight_decay=0.0, clip_norm=0.5)
    source = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, generator=source)
    batches = [torch.randn(5, 3, generator=source) for _ in range(steps)]

    def loss(weights, bags):
        return (bags @ weights.T).square().mean(0) + weights[:, 0]

    rows = [start.clone().requires_grad_()]
    losses = (lambda bags=bags: loss(rows[0], bags) for bags in batches)
    train_rows(rows, torch.tensor(rates), losses, recipe)
    alone = [nn.Parameter(part.clone()) for part in start]
    learners = [Learner("", (), [part], rate) for part, rate in zip(alone, rates, strict=True)]
    train(learners, lambda bags: loss(torch.stack(alone), bags), batches, recipe)
    torch.testing.assert_close(rows[0].detach(), torch.stack(alone).detach())
    assert not torch.allclose(rows[0].detach(), start)
    with pytest.raises(ValueError, match=r"without weight decay, got 0\.1"):
        train_rows(rows, torch.tensor(rates), losses, Recipe(steps, warmup=2))
    endless = [lambda: rows[0].sum(1) + torch.tensor([0.0, torch.inf])]
    with pytest.raises(TrainingDiverged, match=r"at step 0 of 7, with learning rate 0\.01"):
        train_rows(rows, torch.tensor(rates), endless, recipe)


def test_seeds_are_rows():
    table = full_training.compare_seeds(EASY, BUDGET, (0, 1), ("mean pooling",))
    assert table.errors.shape == table.settings.shape == (2, 1)
    alone = full_training.compare(EASY, BUDGET, 1, ("mean pooling",))["mean pooling"]
    assert (float(table.errors[1, 0]), int(table.settings[1, 0])) == alone
    assert full_training.compare_seeds(EASY, BUDGET, (), ("mean pooling",)).errors.shape == (0, 1)


def test_budgets_must_be_equal():
    with pytest.raises(ValueError, match="2 learning rates and 1 scales"):
        full_training.Budget(90, 50, 400, 60, 30, (0.01, 0.1), (0.25,))
    with pytest.raises(ValueError, match="divisible by 3, got 100"):
        full_training.Budget(100, 50, 400, 60, 30, (0.01,), (0.25,))


LEARNED = full_training.Trained(
    prompt=torch.tensor([1.0, 1.2, 0.9, 1.1]),
    rival=torch.tensor([5.0, 5.5, 4.8, 5.1]),
    excess=torch.tensor([0.3, 0.9, 0.5]),
    lead=torch.tensor([4.0, 3.0, 5.0]),
    ratio=torch.tensor([2.0, 5.0, 3.0, 4.0]),
    fewest=150,
    most=900,
    pooled=20.0,
    test_bags=10_000,
)
"""Errors with which every claim is supported."""


def verdict(name, **changed):
    tensors = {
        key: value if key in ("pooled", "test_bags") else torch.as_tensor(value)
        for key, value in changed.items()
    }
    measured = LEARNED._replace(**tensors)
    return claims.check("prompt-attention/", ROWS, measured)[name].verdict


@pytest.mark.claim("prompt-attention/training-finds-the-prompt")
@pytest.mark.claim("prompt-attention/rivals-learn")
@pytest.mark.parametrize(
    ("name", "field"), [("training-finds-the-prompt", "prompt"), ("rivals-learn", "rival")]
)
def test_controls(name, field):
    assert verdict(name) == "supported"
    # Weights that do not move guess.
    frozen = full_training.Budget(90, 50, 400, 2, 30, (1e-9,), (1.0,))
    rows = full_training.compare_seeds(
        EASY, frozen, range(10), ("prompt-attention", "linear prompt-attention", "mean pooling")
    ).errors
    guessed = (100 * rows).amin(1).tolist()
    assert verdict(name, **{field: guessed}, pooled=10.0) == "contradicted"
    assert verdict(name, **{field: (19.0, 21.0, 20.5, 19.5)}) == "undecided"


@pytest.mark.claim("prompt-attention/three-steps-reach-training")
def test_reach_claim():
    def reached(**changed):
        return verdict("three-steps-reach-training", **changed)

    assert reached() == "supported"
    assert reached(excess=[9.0, 12.0, 8.0]) == "contradicted"
    assert reached(excess=[1.5, 2.5, 2.0]) == "undecided"
    assert reached(prompt=(50.0, 49.0, 51.0, 50.0)) == "uninformative"

    def without_a_prompt(*arguments, **options):
        # The prompt's scales at zero: three steps of mean pooling.
        mixture, _, *bags = arguments
        still = full_training.Budget(90, 50, 400, 60, 30, (0.01, 0.1), (0.0, 0.0))
        return full_training.three_steps(mixture, still, *bags, **options)

    hard = ContextualMixture(10, 10, 0.1, 3.0, 0.8, 1.0, dtype=torch.float32)
    source = torch.Generator().manual_seed(0)
    gaps = []
    for _ in range(4):
        bags = [hard.sample(n, source) for n in (900, 300, 1000)]
        mine = without_a_prompt(hard, BUDGET, *bags, centred=True)
        right = full_training.three_steps(hard, BUDGET, *bags, centred=True)
        gaps.append(100 * (mine.error - right.error))
    assert reached(excess=gaps) == "contradicted"


@pytest.mark.claim("prompt-attention/training-needs-fewer-bags")
def test_fewer_bags_claim():
    name = "training-needs-fewer-bags"
    assert verdict(name) == "supported"
    assert verdict(name, ratio=[0.8, 1.3, 5.0, 0.9]) == "undecided"
    # Training that does not move: it guesses, and three steps do better.
    frozen = full_training.Budget(90, 50, 400, 2, 30, (1e-9,), (1.0,))
    rows = full_training.compare_seeds(
        EASY, frozen, range(4), ("three steps, labels centred", "prompt-attention")
    ).errors.clamp_min(0.5 / 400)
    assert verdict(name, ratio=rows[:, 0] / rows[:, 1]) == "contradicted"


@pytest.mark.claim("prompt-attention/three-steps-beat-rivals")
def test_rivals_claim():
    def beaten(**changed):
        return verdict("three-steps-beat-rivals", test_bags=2000, **changed)

    assert beaten() == "supported"
    assert beaten(rival=(50.0, 49.0, 51.0)) == "uninformative"
    # A prompt of length zero: three steps of mean pooling, no better than a trained rival.
    world = ContextualMixture(6, 10, 0.3, 2.5, 1.0, 1.0, dtype=torch.float32)
    still = full_training.Budget(300, 100, 2000, 100, 60, (0.05,), (0.0,))
    rows = full_training.compare_seeds(
        world, still, range(4), ("three steps, labels centred", "linear prompt-attention")
    ).errors
    assert beaten(lead=100 * (rows[:, 1] - rows[:, 0])) == "contradicted"

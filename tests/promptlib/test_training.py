"""The one training loop: what it does to parameters, and how it complains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from promptlib.training import (
    Learner,
    Recipe,
    TrainingDiverged,
    flushed_denormals,
    freeze,
    products_in,
    train,
    weights_of,
)


def quadratic(parameter: nn.Parameter) -> Tensor:
    return ((parameter - 3.0) ** 2).sum()


def test_it_minimises() -> None:
    parameter = nn.Parameter(torch.zeros(7))
    curve = train(
        [Learner("point", [], [parameter], 0.1)],
        lambda _: quadratic(parameter),
        range(300),
        Recipe(300, warmup=10),
    )
    assert curve.shape == (300, 1)
    assert curve[0, 0] == 63.0
    torch.testing.assert_close(parameter.detach(), torch.full((7,), 3.0), atol=1e-2, rtol=0.0)


def test_one_step_is_adamw_with_clipping_written_out() -> None:
    recipe = Recipe(1, warmup=0, weight_decay=0.25, clip_norm=0.5)
    start = torch.tensor([1.0, 2.0, -2.0])
    parameter = nn.Parameter(start.clone())
    train([Learner("w", [parameter], [], 0.1)], lambda _: quadratic(parameter), [0], recipe)
    gradient = 2 * (start - 3.0)
    gradient = gradient * 0.5 / gradient.norm()
    decayed = start * (1 - 0.1 * 0.25)
    # After one step both bias-corrected moments are those of the gradient itself.
    expected = decayed - 0.1 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=1e-5)


def test_learners_that_share_a_pass_move_as_they_would_alone() -> None:
    def run(learners_at_once: list[list[int]]) -> list[Tensor]:
        points = [nn.Parameter(torch.full((5,), float(i))) for i in range(3)]
        rates = [0.3, 0.03, 0.003]
        for chosen in learners_at_once:
            train(
                [Learner(f"point {i}", [], [points[i]], rates[i]) for i in chosen],
                lambda _, chosen=chosen: torch.stack([quadratic(points[i]) for i in chosen]),
                range(20),
                Recipe(20, warmup=5),
            )
        return [point.detach() for point in points]

    for together, alone in zip(run([[0, 1, 2]]), run([[0], [1], [2]]), strict=True):
        assert torch.equal(together, alone)


def test_the_schedule_rises_linearly_and_falls_along_a_cosine() -> None:
    recipe = Recipe(110, warmup=10)
    factors = [recipe.schedule(step) for step in range(110)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[109] < 0.001
    assert max(factors) == 1.0


def test_the_matrices_of_linear_layers_decay_and_nothing_else_of_linear_layers_only() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 7), nn.LayerNorm(7))
    learner = weights_of(model, 0.1)
    assert [tuple(p.shape) for p in learner.decayed] == [(7, 3)]
    assert sorted(tuple(p.shape) for p in learner.undecayed) == [(5, 3), (7,), (7,), (7,)]
    freeze(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate(bad: float) -> None:
    points = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    losses = iter([1.0, 1.0, bad])

    def loss(_: object) -> Tensor:
        return torch.stack([quadratic(points[0]), quadratic(points[1]) * next(losses)])

    learners = [Learner("calm", [], [points[0]], 0.5), Learner("wild", [], [points[1]], 0.25)]
    with pytest.raises(
        TrainingDiverged, match=rf"wild is {bad} at step 2 of 9, with learning rate 0\.25"
    ):
        train(learners, loss, range(9), Recipe(9, warmup=2))


def test_the_progress_bar_sees_every_step() -> None:
    seen = []

    def progress(items, label, total=None):  # type: ignore[no-untyped-def]
        seen.append((label, total))
        yield from items

    parameter = nn.Parameter(torch.zeros(1))
    train(
        [Learner("point", [], [parameter], 0.1)],
        lambda _: quadratic(parameter),
        range(4),
        Recipe(4, warmup=0),
        label="a point",
        progress=progress,
    )
    assert seen == [("a point", 4)]


def test_bad_recipes_are_named() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    learner = Learner("point", [], [parameter], 0.1)
    with pytest.raises(ValueError, match="steps >= 1, got 0"):
        Recipe(0, warmup=0)
    with pytest.raises(ValueError, match="warmup < steps=5, got 5"):
        Recipe(5, warmup=5)
    with pytest.raises(ValueError, match="learning_rate > 0 and finite, got -1"):
        Learner("point", [], [parameter], -1.0)
    with pytest.raises(ValueError, match="'nothing' has no parameters"):
        Learner("nothing", [], [], 1.0)
    with pytest.raises(ValueError, match="at least 1 learner"):
        train([], lambda _: quadratic(parameter), range(3), Recipe(3, warmup=0))
    with pytest.raises(ValueError, match="expected 3 batches, got 2"):
        train([learner], lambda _: quadratic(parameter), range(2), Recipe(3, warmup=0))
    with pytest.raises(ValueError, match="expected 1 losses, one a learner, got 2"):
        train([learner], lambda _: parameter.expand(2), range(3), Recipe(3, warmup=0))


def test_denormals_are_flushed_only_inside() -> None:
    tiny = torch.tensor(1e-40)
    with flushed_denormals():
        assert (tiny * 1.0).item() == 0.0
    assert (tiny * 1.0).item() > 0.0


def test_denormals_stay_flushed_after_a_use_inside_another() -> None:
    small = torch.tensor([1e-39])
    with flushed_denormals():
        with pytest.raises(ZeroDivisionError), flushed_denormals():
            raise ZeroDivisionError
        assert float(small * 0.5) == 0.0
    assert float(small * 0.5) > 0.0


def test_products_in_bfloat16_round_their_factors_and_leave_parameters_alone() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0 + 2.0**-12, 0.5]])
    x = torch.tensor([[1.0, 2.0]])
    with products_in("float32"):
        assert layer(x).dtype == torch.float32
        assert layer(x).item() == 2.0 + 2.0**-12
    with products_in("bfloat16"):
        output = layer(x)
    assert output.item() == 2.0
    output.float().sum().backward()
    assert layer.weight.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert layer(x).dtype == torch.float32


def test_products_in_refuses_other_precisions() -> None:
    with (
        pytest.raises(ValueError, match="'float32', 'bfloat16'; got 'int8'"),
        products_in("int8"),  # type: ignore[arg-type]
    ):
        pass

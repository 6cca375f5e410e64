"""What breaks the theorem, and what does not."""

from __future__ import annotations

import pytest
import torch

from notebooks.prefix_tuning.cannot_re_aim.breakers import BREAKERS, movements
from notebooks.prefix_tuning.cannot_re_aim.kernels import (
    POSITIVE_KERNELS,
    normalised,
    sigmoid,
    sparsemax,
)
from notebooks.prefix_tuning.cannot_re_aim.re_aiming import rank_one_errors, rank_one_key_update


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_the_update_has_rank_one_and_does_what_is_asked():
    content, query, weight = draw(5, 11, seed=1), draw(7, seed=2), draw(7, 11, seed=3)
    wanted = torch.tensor([0.01, 0.9, 0.02, 0.03, 0.04], dtype=torch.float64)
    assert (rank_one_errors(content, query, weight, wanted) < 1e-12).all()
    left, right = rank_one_key_update(content, query, wanted.flip(0), wanted)
    assert torch.linalg.matrix_rank(torch.outer(left, right)) == 1


def test_the_update_refuses_what_cannot_be():
    row = torch.full((5,), 0.2, dtype=torch.float64)
    with pytest.raises(ValueError, match="5 tokens of width 3"):
        rank_one_key_update(draw(5, 3), draw(7), row, row)
    with pytest.raises(ValueError, match="positive"):
        rank_one_key_update(draw(5, 11), draw(7), row, torch.eye(5, dtype=torch.float64)[0])
    with pytest.raises(ValueError, match="query is zero"):
        rank_one_key_update(draw(5, 11), torch.zeros(7, dtype=torch.float64), row, row)


def test_only_the_assumptions_of_the_theorem_keep_attention_in_place():
    moved = movements(20, torch.Generator().manual_seed(0))
    keeps = {"softmax", "sigmoid", "rotary, positions shift", "ALiBi, positions shift"}
    keeps |= {name for name in BREAKERS if name.startswith("linear")}
    for name, rows in moved.items():
        assert rows.numel() > 20
        if name in keeps:
            assert float(rows.max()) < 1e-9, name
        else:
            assert float(rows.median()) > 1e-3, name


def test_movements_needs_an_instance():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        movements(0, torch.Generator())


@pytest.mark.parametrize("name", POSITIVE_KERNELS)
def test_positive_kernels_are_positive_also_for_long_queries_and_keys(name):
    queries, keys = 60 * draw(5, 7, seed=1), 60 * draw(11, 7, seed=2)
    assert (POSITIVE_KERNELS[name](queries, keys) > 0).all()


@pytest.mark.parametrize("name", POSITIVE_KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_normalised_kernels_are_attention(name, causal):
    queries, keys, values = draw(3, 5, 7, seed=1), draw(3, 5, 7, seed=2), draw(3, 5, 11, seed=3)
    prefix = draw(3, 2, 7, seed=4), draw(3, 2, 11, seed=5)
    outputs, attention = normalised(POSITIVE_KERNELS[name])(
        queries, keys, values, *prefix, causal=causal
    )
    assert outputs.shape == (3, 5, 11)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    if causal:
        assert (attention[:, 0, 3:] == 0).all()


def test_sparsemax_is_the_projection_onto_the_simplex():
    """Its rows satisfy the optimality conditions: positive entries share one threshold."""
    queries, keys = 2 * draw(11, 7, seed=1), draw(5, 7, seed=2)
    _, rows = sparsemax()(queries, keys, keys)
    torch.testing.assert_close(rows.sum(-1), torch.ones(11, dtype=torch.float64))
    logits = queries @ keys.mT / 7**0.5
    threshold = (logits - rows).where(rows > 0, torch.tensor(torch.nan, dtype=torch.float64))
    shared = threshold.nanmean(-1, keepdim=True)
    assert ((threshold - shared).abs().nan_to_num() < 1e-12).all()
    assert ((rows > 0) | (logits <= shared + 1e-12)).all()


def test_sigmoid_attention_does_not_divide():
    queries, keys = draw(5, 7, seed=1), draw(3, 7, seed=2)
    _, rows = sigmoid()(queries, keys, keys)
    torch.testing.assert_close(rows, torch.sigmoid(queries @ keys.mT / 7**0.5))

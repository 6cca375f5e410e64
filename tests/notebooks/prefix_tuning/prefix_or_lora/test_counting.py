"""Counting numbers that matter, biases by LoRA, and the loss without looking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from notebooks.prefix_tuning.prefix_or_lora import bias, blind, counting, results
from notebooks.prefix_tuning.prefix_or_lora.claims import exact
from notebooks.prefix_tuning.prefix_or_lora.plan import MODULES
from promptlib.prefix_tuning.lora import add_lora
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import DOUBLE_HISTOGRAM
from tests.notebooks.prefix_tuning.prefix_or_lora.test_prefix_or_lora import (
    Learned,
    learned,
    tokens,
)

__all__ = ["learned", "tokens"]  # fixtures


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.claim("prefix-tuning/prefix-or-lora-counts")
def test_a_count_that_forgets_the_projections_is_refuted(learned: Learned) -> None:
    trials = learned[2]
    assert exact("counts", results.counting_errors(trials)).verdict == "holds"

    def forgets(modules: str, rank: int, n_layer: int, width: int) -> int:
        return 10 * rank * n_layer * width

    claim = exact("counts", results.counting_errors(trials, lora_count=forgets))
    assert claim.verdict == "fails"
    assert claim.value == 8192


def test_the_table_names_both_readings_of_the_published_budget() -> None:
    table = {name: (there, here) for name, there, here in results.table_of_budgets(3, 64)}
    assert table["shared prefix of length 12"] == (12_288, 2_304)
    assert table["free prefix of length 6"] == (12_288, 2_304)
    assert table["LoRA of rank 1, MLP and projection"] == (12_288, 2_304)
    assert table["LoRA of rank 1, MLP"] == (10_240, 1_920)


@pytest.mark.claim("prefix-tuning/prefix-or-lora-numbers")
def test_ranks_of_jacobians_refute_a_formula_that_counts_all_that_is_trained() -> None:
    counted = results.count_numbers(
        seeded(0), [("prefix", 2, 1, 6), ("MLP", 1, 1, 6), ("MLP and projection", 1, 1, 6)]
    )
    assert exact("numbers", counted).verdict == "holds"
    wrong = [(name, trained, trained, rank) for name, trained, _, rank in counted]
    assert exact("numbers", wrong).verdict == "fails"


def test_formulas_of_the_theorem() -> None:
    assert counting.prefix_numbers(12, 4, 256) == 4 * (12 * 256 - 24)
    assert counting.lora_numbers("MLP and projection", 1, 4, 256) == 4 * (12 * 256 - 5)
    for rank in (1, 2, 3):
        expected = 5 * rank * (12 * 16 - 2 - 3 * rank)
        assert counting.lora_numbers("MLP and projection", rank, 5, 16) == expected
    with pytest.raises(ValueError, match="counted are MLP, MLP and projection, got 'attention'"):
        counting.lora_numbers("attention", 1, 5, 16)


@pytest.mark.claim("prefix-tuning/prefix-or-lora-invariance")
def test_a_shift_of_what_does_not_pass_a_layer_norm_is_noticed(
    learned: Learned, tokens: Tensor
) -> None:
    _, runs, trials = learned
    errors = results.invariance_errors(trials, runs.get, tokens, seeded(1))
    assert exact("invariance", errors).verdict == "holds"
    model = counting.random_model(2, 12, seeded(2))
    free = Prefix(2, 3, 12, 1.0, seeded(3), layer_norm=False).double()
    errors = counting.shift_errors(model, free, tokens, seeded(4))
    assert exact("invariance", errors).verdict == "fails"


def test_a_gauge_that_writes_another_direction_is_noticed(
    tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = counting.random_model(2, 12, seeded(5))
    for factor in add_lora(model, 2, MODULES["MLP and projection"]):
        nn.init.normal_(factor, generator=seeded(6))
    assert counting.gauge_errors(model, tokens, seeded(7)).max() < 1e-10
    monkeypatch.setattr(counting, "WRITERS", ("mlp.expand",))
    assert counting.gauge_errors(model, tokens, seeded(7)).max() > 1e-3


@pytest.mark.claim("prefix-tuning/prefix-or-lora-scale")
def test_a_layer_norm_with_a_larger_epsilon_breaks_the_bound(
    learned: Learned,
) -> None:
    _, runs, trials = learned
    assert exact("scale", results.scale_moves(trials, runs.get)).verdict == "holds"
    norm = nn.LayerNorm(9).double()
    vectors = 0.1 * torch.randn(40, 9, generator=seeded(9), dtype=torch.float64)
    scales = torch.logspace(-1, 3, 40, dtype=torch.float64)
    moves, limits = counting.scale_moves(norm, vectors, scales)
    assert exact("scale", (moves, limits)).verdict == "holds"
    assert float((moves / limits).max()) > 0.5  # not an empty bound
    norm.eps = 1e-3
    moves, _ = counting.scale_moves(norm, vectors, scales)
    assert exact("scale", (moves, limits)).verdict == "fails"


@pytest.mark.claim("prefix-tuning/prefix-or-lora-bias")
def test_a_reader_that_forgets_the_gains_adds_no_bias() -> None:
    assert exact("bias", bias.bias_errors(20, seeded(10))).verdict == "holds"

    def forgets(norm: nn.LayerNorm) -> Tensor:
        return torch.ones_like(norm.bias) / norm.bias.sum()

    assert exact("bias", bias.bias_errors(20, seeded(10), forgets)).verdict == "fails"


def test_layer_norms_that_no_vector_reads_as_a_constant_are_named() -> None:
    norm = nn.LayerNorm(5)
    with pytest.raises(ValueError, match="no vector reads a constant"):
        bias.constant_reader(norm)
    with torch.no_grad():
        norm.weight[2] = 0
    with pytest.raises(ValueError, match="gain of the LayerNorm is 0"):
        bias.constant_reader(norm)


def test_the_blind_losses_agree_with_sampled_answers() -> None:
    """A table of what was seen, of the number of each answer, estimates both from below."""
    n = 60_000
    answers = DOUBLE_HISTOGRAM.sample(n, "train", seeded(11))[1]
    shares = answers.flatten().bincount(minlength=11).double() / (10 * n)
    shares = shares[shares > 0]
    marginal = float(-(shares * shares.log()).sum())
    assert blind.marginal_histogram_loss() == pytest.approx(marginal, abs=0.01)

    kinds = nn.functional.one_hot(answers, 11).sum(dim=1)
    _, counts = kinds.unique(dim=0, return_counts=True)
    of_kind = counts.double() / n
    orders = torch.lgamma(torch.tensor(11.0)) - torch.lgamma(kinds + 1.0).sum(dim=1)
    entropy = -(of_kind * of_kind.log()).sum() + orders.double().mean()
    assert blind.blind_histogram_loss() == pytest.approx(float(entropy) / 10, abs=0.01)


def test_positions_by_count_add_up() -> None:
    positions: Any = blind.positions_by_count()
    assert (positions.sum(dim=1) == 10).all()

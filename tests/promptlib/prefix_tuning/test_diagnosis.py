"""A diagnosis measures what was put into the model by hand, and says so."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from promptlib.prefix_tuning import GPT, GPTConfig, Prefix, add_lora
from promptlib.prefix_tuning.diagnosis import Diagnosis, diagnose
from promptlib.prefix_tuning.inside import in_float64, largest_shares, shares_taken
from promptlib.prefix_tuning.movement import movement

BATCH, TOKENS, HEADS, WIDTH, LENGTH, LAYERS = 5, 17, 3, 33, 4, 2


def a_model(n_layer: int = LAYERS, heads: int = HEADS, first_layer_norm: bool = True) -> GPT:
    generator = torch.Generator().manual_seed(0)
    config = GPTConfig(n_layer, heads, WIDTH // HEADS * heads, 11, 19, first_layer_norm)
    model = GPT(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def a_prefix(**options) -> Prefix:
    return Prefix(LAYERS, LENGTH, WIDTH, 1.0, torch.Generator().manual_seed(1), **options)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 8, (BATCH, TOKENS), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def without_queries(model: GPT) -> GPT:
    """Every position attends evenly to all that it sees."""
    for block in model.blocks:
        block.attention.query.weight.zero_()
        block.attention.query.bias.zero_()
        block.attention.key.bias.zero_()
    return model


def test_even_attention_gives_a_prefix_its_part_of_all_positions(tokens):
    found = diagnose(without_queries(a_model()), a_prefix(), tokens)
    share = np.mean([LENGTH / (LENGTH + seen) for seen in range(1, TOKENS + 1)])
    np.testing.assert_allclose(found.shares, np.full((LAYERS, HEADS), share))
    np.testing.assert_allclose(found.vectors_used, LENGTH)
    np.testing.assert_allclose(found.bias_rank, 1.0, atol=1e-9)  # multiples of the mean value
    np.testing.assert_allclose(found.moved, 0.0, atol=found.rounding)
    np.testing.assert_allclose(found.reach, 1.0)  # no other key would get more
    said = found.sentences()
    assert f"takes {100 * share:.0f} % of the attention" in said[0]
    assert "unchanged in every head" in said[1]
    assert said[2] == "Vectors in use: 4.0 of 4, mean over heads; at most 4.0 (layer 1, head 1)."
    assert "along one line" in said[3]
    assert "There it is the limit" in said[4]
    assert str(found).split() == " ".join(said).split()
    assert max(map(len, str(found).splitlines())) <= 76


def test_vectors_for_different_symbols_give_as_many_directions():
    """Symbol 0 reads the first vector only, symbol 1 the second; the third is read by none."""
    model = GPT(GPTConfig(1, 1, 6, 2, 8, first_layer_norm=False))
    layer, prefix = model.blocks[0].attention, Prefix(1, 3, 6, layer_norm=False)
    prefix.value_vectors = nn.Parameter(torch.eye(6)[None, [3, 4, 5]])
    with torch.no_grad():
        for linear in (layer.query, layer.key, layer.value):
            linear.weight.copy_(torch.eye(6))
        model.position.weight.zero_()
        model.token.weight.copy_(torch.eye(6)[:2])
        prefix.vectors.copy_(500 * torch.eye(6)[[0, 1, 2]])
    found = diagnose(model, prefix, torch.tensor([[0, 1, 0, 1]]))
    assert found.kind == "free prefix"
    assert found.reach is None
    np.testing.assert_allclose(found.shares, 1.0)
    np.testing.assert_allclose(found.vectors_used, 2.0)
    np.testing.assert_allclose(found.bias_rank, 2.0)
    np.testing.assert_allclose(found.moved, 0.0, atol=found.rounding)
    said = found.sentences()
    assert "1 of 1 heads give it more than 95 %" in said[0]
    assert "different positions are pushed different ways" in said[3]
    assert "no limit" in said[4]
    one = diagnose(model, prefix, torch.tensor([[0, 0, 0]]))
    np.testing.assert_allclose(one.vectors_used, 1.0)
    assert "Fewer than half" in one.sentences()[2]


def test_it_agrees_with_the_modules_that_measure_one_thing(tokens):
    model, prefix = a_model(), a_prefix()
    found = diagnose(model, prefix, tokens, last=10)
    exact, drawn = in_float64(model), in_float64(prefix)
    np.testing.assert_allclose(found.moved, movement(exact, exact, tokens, drawn), atol=1e-12)
    shares = shares_taken(exact, drawn, tokens)[..., -10:]
    limits = largest_shares(exact, tokens, LENGTH)[..., -10:]
    np.testing.assert_allclose(found.shares[0], shares.mean((0, 2)))
    np.testing.assert_allclose(found.reach[0], (shares / limits).mean((0, 2)))
    assert (found.moved[0] <= found.rounding).all()
    assert (found.moved[1] > 0.01).all()
    assert (found.reach < 1).all()
    assert "unchanged in layer 1, as it must be; above at most" in found.sentences()[1]


def test_a_prefix_that_nobody_reads_is_said_to_be_weak(tokens):
    model, prefix = without_queries(a_model()), a_prefix(layer_norm=False, separate_values=True)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query.bias.fill_(1.0)
            block.attention.key.weight.copy_(torch.eye(WIDTH))
        prefix.vectors.fill_(-20.0)
        prefix.value_vectors.zero_()
        for block in model.blocks:
            block.attention.value.bias.zero_()
    found = diagnose(model, prefix, tokens)
    assert found.shares.max() < 1e-9
    assert "raise the learning rate" in found.sentences()[0]
    np.testing.assert_array_equal(found.bias_rank, 0.0)  # the values are zero


def test_a_layer_without_norm_allows_any_share(tokens):
    model, prefix = a_model(first_layer_norm=False), a_prefix()
    found = diagnose(model, prefix, tokens)
    assert found.kind == "prefix"
    np.testing.assert_allclose(found.reach[0], found.shares[0])
    assert (found.reach[1] > found.shares[1]).all()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("attention.query", "It re-aims layer 1, which no prefix can."),
        ("mlp.expand", "unchanged in layer 1, at most"),
    ],
)
def test_a_lora_that_re_aims_is_said_to_move_attention(tokens, module, said):
    model, plain = a_model(), a_model()
    learned = add_lora(model, 1, [module], torch.Generator().manual_seed(3), init_std=0.5)
    start = diagnose(model, None, tokens)
    assert (start.moved <= start.rounding).all()
    assert "The LoRA re-aims nothing" in start.sentences()[1]
    for parameter in learned:
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(4))
    found = diagnose(model, None, tokens, last=10)
    moved = movement(in_float64(plain), in_float64(model), tokens)
    np.testing.assert_allclose(found.moved, moved, atol=1e-12)
    assert (found.moved[1] > 0.01).all()
    assert said in found.sentences()[1]
    assert found.length == 0
    assert found.shares is found.vectors_used is found.bias_rank is found.reach is None
    assert [sentence.count("does not apply") for sentence in found.sentences()] == [1, 0, 1, 1, 1]
    assert any("down" in name for name, _ in model.named_parameters())  # it is still corrected


def test_a_prefix_that_moves_the_first_layer_is_reported():
    """It cannot be; a model, mask or position that differs makes it seem so."""
    found = Diagnosis("soft prompt", 2, np.array([[0.25]]), 1e-6, *3 * [np.array([[0.5]])])
    assert "25 % moves in layer 1, which no soft prompt can do" in found.sentences()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(2, 2), None, torch.zeros(1, 2, dtype=torch.long)), "GPT or a PeftModel, got L"),
        ((a_model(), None, torch.zeros(1, 2, dtype=torch.long)), "nothing to diagnose: pass"),
        ((a_model(), a_prefix(), {"input_ids": torch.zeros(1, 2)}), "Tensor of tokens, got dict"),
        ((a_model(), a_prefix(), torch.zeros(3, dtype=torch.long)), "tokens"),
        ((a_model(1), a_prefix(), torch.zeros(1, 2, dtype=torch.long)), "n_layer=2"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        diagnose(*arguments)


@pytest.mark.parametrize("last", [0, TOKENS + 1])
def test_rows_that_are_not_there_are_refused(tokens, last):
    with pytest.raises(ValueError, match=f"last must be .*{last}"):
        diagnose(a_model(), a_prefix(), tokens, last=last)


@pytest.mark.parametrize(("heads", "written"), [(HEADS, True), (9, False)])
def test_the_figure_has_a_panel_for_each_array(tokens, heads, written):
    model = a_model(heads=heads)
    prefix = Prefix(LAYERS, LENGTH, model.config.n_embd, 1.0, torch.Generator().manual_seed(1))
    found = diagnose(model, prefix, tokens)
    figure, alt = found.figure()
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 5
    texts = [text.get_text() for text in panels[0].texts if text.get_text()]
    assert len(texts) == (LAYERS * heads if written else 0)
    assert f"share taken (%): {100 * found.shares.min():.0f} to" in alt
    plt.close(figure)

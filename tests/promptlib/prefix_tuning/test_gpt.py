"""The GPT against a plain implementation of the same formulas, and with prefixes and LoRA.

Sizes are distinct primes where they can be, so that a swapped axis fails.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from promptlib.prefix_tuning.evaluation import greedy_decode, sequence_accuracy, sequence_loss
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.lora import LoRALinear, add_lora, remove_lora
from promptlib.prefix_tuning.prefix import Prefix, PrefixBatch
from promptlib.prefix_tuning.tasks import (
    DOUBLE_HISTOGRAM,
    SORT_ASCENDING,
    SORT_DESCENDING,
    batches,
    read_and_answer,
)
from promptlib.training import freeze

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make_model(
    dtype: torch.dtype = torch.float64, n_layer: int = 2, first_layer_norm: bool = True
) -> GPT:
    """Build a small model whose weights, biases and gains are all far from trivial."""
    generator = torch.Generator().manual_seed(0)
    config = GPTConfig(n_layer, 3, 21, 11, 19, first_layer_norm)
    model = GPT(config, generator).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).to(dtype))
    return model


def make_batch(n: int) -> tuple[Tensor, Tensor]:
    return next(batches(SORT_DESCENDING, 1, n, torch.Generator().manual_seed(1)))


def plain_logits(
    model: GPT, tokens: Tensor, vectors: Tensor | None = None, through_norm: bool = True
) -> Tensor:
    """Compute the logits position by position and head by head, from the textbook formulas.

    `vectors`, ``(n_layer, p, D)``, are put in front of the content of each layer.
    """
    D, H = model.config.n_embd, model.config.n_head
    d = D // H
    x = model.token.weight[tokens] + model.position.weight[: tokens.shape[1]]
    for layer, block in enumerate(model.blocks):
        content = block.norm_attention(x)
        p = 0
        if vectors is not None:
            extra = vectors[layer]
            extra = block.norm_attention(extra) if through_norm else extra
            content = torch.cat([extra.expand(len(x), -1, -1), content], dim=1)
            p = extra.shape[0]
        q, k, v = (
            content @ part.weight.T + part.bias
            for part in (block.attention.query, block.attention.key, block.attention.value)
        )
        rows = []
        for i in range(p, content.shape[1]):
            heads = []
            for h in range(H):
                mine = slice(h * d, (h + 1) * d)
                logits = (k[:, : i + 1, mine] @ q[:, i, mine].unsqueeze(-1)) / math.sqrt(d)
                heads.append((logits.softmax(dim=1) * v[:, : i + 1, mine]).sum(dim=1))
            rows.append(torch.cat(heads, dim=-1))
        read = torch.stack(rows, dim=1)
        x = x + read @ block.attention.project.weight.T + block.attention.project.bias
        h = block.norm_mlp(x) @ block.mlp.expand.weight.T + block.mlp.expand.bias
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + h @ block.mlp.contract.weight.T + block.mlp.contract.bias
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return (x * model.norm.weight + model.norm.bias) @ model.head.weight.T


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n", [5, 13], ids=["direct", "one lookup a pair"])
@pytest.mark.parametrize("first_layer_norm", [True, False])
def test_logits_loss_and_gradients_equal_the_plain_ones(
    dtype: torch.dtype, n: int, first_layer_norm: bool
) -> None:
    model = make_model(dtype, first_layer_norm=first_layer_norm)
    tokens, targets = make_batch(n)
    expected = plain_logits(model, tokens)
    torch.testing.assert_close(
        model(tokens), expected, atol=20 * TOLERANCE[dtype], rtol=TOLERANCE[dtype]
    )
    plain_loss = F.cross_entropy(expected[:, -10:].flatten(0, 1), targets.flatten())
    loss = sequence_loss(model, tokens, targets)
    torch.testing.assert_close(loss, plain_loss, atol=0.0, rtol=TOLERANCE[dtype])
    parameters = list(model.parameters())
    ours = torch.autograd.grad(loss, parameters)
    plain = torch.autograd.grad(plain_loss, parameters)
    scale = max(float(gradient.abs().max()) for gradient in plain)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE[dtype] * scale, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("n", [5, 13])
def test_a_prefix_is_content_without_token_and_position(layer_norm: bool, n: int) -> None:
    model = make_model()
    generator = torch.Generator().manual_seed(2)
    prefix = Prefix(2, 7, 21, 1.0, generator, layer_norm=layer_norm).double()
    tokens, _ = make_batch(n)
    expected = plain_logits(model, tokens, prefix.vectors, through_norm=layer_norm)
    torch.testing.assert_close(model(tokens, prefix), expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(
        model(tokens, prefix, last=3), expected[:, -3:], atol=1e-10, rtol=1e-10
    )


def test_separate_values_replace_the_values_only() -> None:
    model = make_model(n_layer=1)
    generator = torch.Generator().manual_seed(3)
    prefix = Prefix(1, 2, 21, 1.0, generator, separate_values=True).double()
    shared = Prefix(1, 2, 21, 1.0).double()
    shared.vectors.data = prefix.vectors.data
    tokens, _ = make_batch(5)
    logits, attention = model(tokens, prefix, return_attention=True)
    shared_logits, shared_attention = model(tokens, shared, return_attention=True)
    assert torch.equal(attention, shared_attention)
    assert (logits - shared_logits).abs().max() > 0.01
    assert prefix.value_vectors is not None
    prefix.value_vectors.data = prefix.vectors.data
    torch.testing.assert_close(model(tokens, prefix), shared_logits)


def test_attention_has_the_promised_shape_and_sums_to_one() -> None:
    model = make_model()
    tokens, _ = make_batch(13)
    logits, attention = model(tokens, Prefix(2, 7, 21).double(), return_attention=True)
    assert logits.shape == (13, 19, 11)
    assert attention.shape == (2, 13, 3, 19, 7 + 19)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 13, 3, 19, dtype=torch.float64))
    content = attention[..., 7:]
    assert (content.triu(1) == 0).all()
    assert (attention[..., :7] > 0).all()


@pytest.mark.parametrize("separate_values", [False, True])
def test_prefixes_in_one_pass_learn_as_they_would_alone(separate_values: bool) -> None:
    model = make_model()
    freeze(model)
    generator = torch.Generator().manual_seed(4)
    prefixes = [
        Prefix(2, 5, 21, 1.0, generator, separate_values=separate_values).double() for _ in range(3)
    ]
    tokens, targets = make_batch(13)
    together = sequence_loss(model, tokens, targets, PrefixBatch(prefixes))
    assert together.shape == (3,)
    together.sum().backward()
    for prefix, loss in zip(prefixes, together, strict=True):
        gradients = [parameter.grad for parameter in prefix.parameters()]
        alone = sequence_loss(model, tokens, targets, prefix)
        expected = torch.autograd.grad(alone, list(prefix.parameters()))
        torch.testing.assert_close(loss, alone, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(gradients, list(expected), atol=1e-12, rtol=1e-10)


def test_frozen_weights_get_no_gradient() -> None:
    model = make_model()
    freeze(model)
    prefix = Prefix(2, 1, 21).double()
    sequence_loss(model, *make_batch(13), prefix).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert prefix.vectors.grad is not None
    assert (prefix.vectors.grad != 0).all()


def test_accuracy_without_decoding_equals_accuracy_of_decoding() -> None:
    """A head that copies the token read last makes some sequences right and some wrong."""
    model = make_model(n_layer=1)
    inputs, _ = DOUBLE_HISTOGRAM.sample(2000, "test", torch.Generator().manual_seed(5))
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.zero_()
        model.position.weight.zero_()
        model.token.weight.copy_(torch.randn(11, 21, generator=torch.Generator().manual_seed(6)))
        model.norm.weight.fill_(1.0)
        model.norm.bias.zero_()
        model.head.weight.copy_(model.norm(model.token.weight))
    for task in (SORT_ASCENDING, SORT_DESCENDING):
        answers = task.solve(inputs)
        decoded = (greedy_decode(model, inputs) == answers).all(dim=-1)
        fed = model(read_and_answer(inputs, answers), last=10).argmax(-1)
        assert torch.equal(decoded, (fed == answers).all(dim=-1))
    decoded_all = greedy_decode(model, inputs)
    assert torch.equal(decoded_all, inputs[:, -1:].expand(-1, 10))
    copied = (inputs == inputs[:, -1:]).all(dim=-1)
    assert torch.equal((decoded_all == inputs).all(dim=-1), copied)


@pytest.mark.parametrize("n", [2, 13])  # fewer sequences than symbols, and more
def test_embeddings_stand_in_for_tokens(n: int) -> None:
    model = make_model()
    tokens = torch.randint(11, (n, 7), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(model.token(tokens)), model(tokens), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"tokens.* must have shape \(B, T, 21\), got \(1, 3"):
        model(torch.zeros(1, 3, 5, dtype=torch.float64))


@torch.no_grad()
def test_models_stay_causal_after_one_of_them_was_exported() -> None:
    model, other = make_model(), make_model(torch.float32, n_layer=1)
    tokens, _ = make_batch(3)
    program = torch.export.export(model, (tokens,))
    torch.testing.assert_close(model(tokens), program.module()(tokens))
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 11
    for each in (model, other):
        torch.testing.assert_close(each(changed)[:, :-1], each(tokens)[:, :-1])


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="n_head=5 does not divide n_embd=21"):
        GPTConfig(1, 5, 21, 11, 19)
    with pytest.raises(ValueError, match="n_layer >= 1, got 0"):
        GPTConfig(0, 1, 21, 11, 19)
    model = make_model()
    with pytest.raises(ValueError, match=r"block_size=19 tokens, got 20"):
        model(torch.zeros(1, 20, dtype=torch.long))
    with pytest.raises(ValueError, match=r"n_embd=24, but the model has n_embd=21"):
        model(torch.zeros(1, 3, dtype=torch.long), Prefix(2, 1, 24))
    with pytest.raises(ValueError, match=r"n_layer=1, but the model has n_layer=2"):
        model(torch.zeros(1, 3, dtype=torch.long), Prefix(1, 1, 21))
    with pytest.raises(ValueError, match="length >= 1, got 0"):
        Prefix(1, 0, 21)
    with pytest.raises(ValueError, match="init_std > 0 and finite, got 0"):
        Prefix(1, 1, 21, 0.0)
    with pytest.raises(ValueError, match="different shapes"):
        PrefixBatch([Prefix(1, 1, 21), Prefix(1, 2, 21)])
    small = GPT(GPTConfig(1, 1, 8, 10, 19))
    with pytest.raises(ValueError, match="double_histogram needs 11 symbols"):
        sequence_accuracy(small, DOUBLE_HISTOGRAM, 10)


ALL_LAYERS = [
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.project",
    "mlp.expand",
    "mlp.contract",
]


def test_lora_starts_as_the_base_model() -> None:
    model = make_model()
    tokens, _ = make_batch(13)
    before = model(tokens)
    learned = add_lora(model, 2, ALL_LAYERS, torch.Generator().manual_seed(7))
    torch.testing.assert_close(model(tokens), before, atol=1e-12, rtol=1e-12)
    assert len(learned) == 2 * len(ALL_LAYERS) * 2
    learning = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in learning} == {id(p) for p in learned}


def test_merged_lora_equals_unmerged_and_changes_the_attention() -> None:
    model = make_model()
    tokens, _ = make_batch(13)
    _, attention_before = model(tokens, return_attention=True)
    for parameter in add_lora(model, 2, ALL_LAYERS):
        parameter.data = torch.randn_like(parameter)
    expected, attention = model(tokens, return_attention=True)
    assert (attention - attention_before).abs().max() > 0.01
    remove_lora(model, merge=True)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    torch.testing.assert_close(model(tokens), expected, atol=1e-10, rtol=1e-10)


def everything_of(model: GPT) -> list[tuple]:
    """Every module and parameter by name and identity, with modes, flags and numbers."""
    return [
        *((name, id(part), part.training) for name, part in model.named_modules()),
        *(
            (name, id(part), part.requires_grad, part.tolist())
            for name, part in model.named_parameters()
        ),
    ]


def partly_frozen_model() -> GPT:
    model = make_model()
    model.eval()
    model.blocks[1].train()
    model.head.requires_grad_(False)
    model.blocks[0].mlp.expand.bias.requires_grad_(False)
    return model


def test_removed_lora_leaves_no_trace() -> None:
    model = partly_frozen_model()
    before = everything_of(model)
    for parameter in add_lora(model, 3, ["mlp.expand", "attention.key"]):
        parameter.data = torch.randn_like(parameter)
    assert not model.blocks[0].mlp.expand.training
    assert model.blocks[1].mlp.expand.training
    model.train()
    remove_lora(model)
    assert everything_of(model) == before
    remove_lora(model)  # there is nothing to remove
    assert everything_of(model) == before


def test_a_copy_of_a_corrected_model_loses_its_corrections_like_the_model() -> None:
    model = partly_frozen_model()
    add_lora(model, 3, ["mlp.expand"])
    twin = copy.deepcopy(model)
    for each in (model, twin):
        remove_lora(each)
    flags = [[part.requires_grad for part in each.parameters()] for each in (model, twin)]
    assert flags[0] == flags[1]
    assert not all(flags[0])


def test_merging_changes_the_weights_and_nothing_else() -> None:
    model = partly_frozen_model()
    before = everything_of(model)
    for parameter in add_lora(model, 3, ["mlp.expand"]):
        parameter.data = torch.randn_like(parameter)
    remove_lora(model, merge=True)
    after = everything_of(model)
    assert [entry[:3] for entry in after] == [entry[:3] for entry in before]
    changed = [new[0] for new, old in zip(after, before, strict=True) if new != old]
    assert changed == [f"blocks.{layer}.mlp.expand.weight" for layer in range(2)]


@pytest.mark.parametrize(
    ("rank", "modules", "options"),
    [
        (1, ["mlp.expand", "mlp.missing"], {}),
        (12, ["mlp.expand", "head"], {}),  # the head has 11 rows
        (1, [], {}),
        (1, ["mlp.expand"], {"init_std": 0.0}),
        (1, ["mlp.expand"], {"init_std": math.nan}),
    ],
)
def test_corrections_that_fail_change_nothing(rank, modules, options) -> None:
    model, generator = partly_frozen_model(), torch.Generator().manual_seed(1)
    before, state = everything_of(model), generator.get_state()
    with pytest.raises(ValueError):
        add_lora(model, rank, modules, generator, **options)
    assert everything_of(model) == before
    assert torch.equal(generator.get_state(), state)
    corrected = add_lora(model, 1, ["mlp.expand"])
    with pytest.raises(ValueError, match="call remove_lora first"):
        add_lora(model, 1, ["mlp.contract"])
    assert [part for part in model.parameters() if part.requires_grad] == corrected
    remove_lora(model)
    assert everything_of(model) == before


def test_lora_reaches_exactly_the_named_layers() -> None:
    """12,288 parameters of rank one are the published count: MLP and output projection."""
    model = GPT(GPTConfig(4, 4, 256, 11, 19))
    learned = add_lora(model, 1, ["mlp.expand", "mlp.contract", "attention.project"])
    assert sum(parameter.numel() for parameter in learned) == 12_288
    remove_lora(model)
    learned = add_lora(model, 1, ["mlp.expand", "mlp.contract"])
    assert sum(parameter.numel() for parameter in learned) == 10_240
    assert sum(p.numel() for p in Prefix(4, 12, 256).parameters()) == 12_288


def test_bad_lora_is_named() -> None:
    model = make_model()
    with pytest.raises(ValueError, match=r"'mlp.c_fc'; there are attention.key"):
        add_lora(model, 1, ["mlp.c_fc"])
    with pytest.raises(ValueError, match="rank from 1 to 21"):
        add_lora(model, 22, ["attention.key"])
    remove_lora(model)
    add_lora(model, 1, ["mlp.expand"])
    with pytest.raises(ValueError, match="call remove_lora first"):
        add_lora(model, 1, ["mlp.expand"])

"""LoRAs that share the passes through a frozen model get what each would get alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from promptlib.prefix_tuning import adapting, planning
from promptlib.prefix_tuning.evaluation import sequence_loss
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.lora import add_lora, share_pass
from promptlib.runs import Result, Run
from tests.promptlib.prefix_tuning.test_gpt import ALL_LAYERS, make_batch, make_model
from tests.trained_in_memory import silent

MLP = ["mlp.expand", "mlp.contract"]
CELLS = planning.cells([0.1, 0.003], [0.02, 0.3])


@pytest.fixture
def in_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def corrected(
    modules: Sequence[str], count: int = 3, rank: int = 2
) -> tuple[list[GPT], list[Tensor]]:
    """Models with the same weights, each with corrections of its own that are far from zero."""
    generator = torch.Generator().manual_seed(5)
    models = [make_model() for _ in range(count)]
    learned = [
        parameter for model in models for parameter in add_lora(model, rank, modules, generator)
    ]
    for parameter in learned:
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return models, learned


@pytest.mark.parametrize("modules", [ALL_LAYERS, MLP, ["attention.query"], ["attention.value"]])
@pytest.mark.parametrize("sequences", [5, 13])
def test_each_gets_the_logits_and_gradients_that_it_gets_alone(
    modules: Sequence[str], sequences: int
) -> None:
    """Of 13 sequences the first block reads each of 11 symbols once, of 5 each token."""
    models, learned = corrected(modules)
    tokens, targets = make_batch(sequences)
    together = share_pass(models)
    logits = together(tokens, last=10)
    assert logits.shape == (3, sequences, 10, 11)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    losses = sequence_loss(together, tokens, targets)
    shared = torch.autograd.grad(losses.sum(), learned)
    for model, answers, loss in zip(models, logits, losses, strict=True):
        torch.testing.assert_close(answers, model(tokens, last=10), atol=1e-9, rtol=0)
        torch.testing.assert_close(loss, sequence_loss(model, tokens, targets), atol=1e-9, rtol=0)
    alone = [sequence_loss(model, tokens, targets) for model in models]
    torch.testing.assert_close(shared, torch.autograd.grad(sum(alone), learned), atol=1e-9, rtol=0)


def test_nothing_but_the_corrections_learns_and_the_models_stay_as_they_were() -> None:
    models, learned = corrected(MLP)
    names = [name for name, _ in models[0].named_modules()]
    together = share_pass(models)
    learning = {id(one) for one in together.parameters() if one.requires_grad}
    assert learning == {id(one) for one in learned}
    assert [name for name, _ in models[0].named_modules()] == names


def test_models_that_cannot_share_a_pass_are_named() -> None:
    with pytest.raises(ValueError, match="of one rank on the same modules"):
        share_pass([])
    with pytest.raises(ValueError, match="of one rank on the same modules"):
        share_pass([make_model()])
    pairs = [corrected(MLP, 1)[0][0], corrected(MLP, 1, rank=3)[0][0]]
    with pytest.raises(ValueError, match=r"got ranks .*expand': 2.*expand': 3"):
        share_pass(pairs)


def sweep(of: Run, cells: Sequence[dict[str, float]]) -> Run:
    return planning.tune_lora(
        of,
        "reverse",
        steps=12,
        rank=2,
        modules=["mlp.expand", "attention.key"],
        sweep=cells,
        batch_size=16,
        checkpoints=2,
    )


@pytest.mark.usefixtures("in_float64")
def test_a_cell_of_a_sweep_gets_what_a_run_of_it_alone_gets() -> None:
    pretrained = planning.pretrain(
        planning.model_of(2, 2, 14),
        "mixture",
        seed=3,
        steps=10,
        learning_rate=3e-3,
        evaluate=["reverse"],
        test_sequences=50,
    )
    needs = [adapting.pretrain(pretrained.config, [], silent)]

    def tune(cells: Sequence[dict[str, float]]) -> Result:
        return adapting.tune_lora(sweep(pretrained, cells).config, needs, silent)

    together = tune(CELLS)
    found = together.metrics["cells"]
    assert len({one["loss"]["reverse"] for one in found}) == len(CELLS)
    for index, cell in enumerate(CELLS):
        alone = tune([cell])
        (expected,) = alone.metrics["cells"]
        assert found[index].keys() == expected.keys()
        for name in ("loss", "accuracy", "validation"):
            assert found[index][name] == pytest.approx(expected[name], abs=1e-9)
        assert found[index]["curve"] == pytest.approx(expected["curve"], abs=1e-9)
        assert found[index]["checkpoints"] == expected["checkpoints"]
        for name, tensor in alone.tensors.items():
            own = together.tensors[f"{index}.{name.removeprefix('0.')}"]
            torch.testing.assert_close(own, tensor, atol=1e-9, rtol=0)
    assert len(together.tensors) == len(CELLS) * len(alone.tensors)

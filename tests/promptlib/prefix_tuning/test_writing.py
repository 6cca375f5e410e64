"""Decoding that keeps keys and values, against decoding that reads everything again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptlib.prefix_tuning import writing
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.planning import PARAMETRISATIONS
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.writing import write_greedily


def model(n_layer: int = 2) -> GPT:
    """Weights so large that attention, and so the prefix, decides what is written."""
    made = GPT(GPTConfig(n_layer, 2, 8, 7, 9), torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(20.0)
    return made


@torch.no_grad()
def reread(made: GPT, read: Tensor, length: int, prefix: Prefix | None = None) -> Tensor:
    """Greedy decoding by definition: all that was read or written passes through the model."""
    written = torch.empty(len(read), 0, dtype=torch.int64)
    for _ in range(length):
        symbol = made(read, prefix, last=1).argmax(dim=-1)
        written = torch.cat([written, symbol], dim=1)
        read = torch.cat([read, made.token(symbol) if read.is_floating_point() else symbol], dim=1)
    return written


@pytest.mark.parametrize("n_layer", [1, 3])
@pytest.mark.parametrize("length", [1, 5])
def test_keeping_keys_and_values_changes_no_symbol(n_layer: int, length: int) -> None:
    made, generator = model(n_layer), torch.Generator().manual_seed(2)
    tokens = torch.randint(7, (40, 4), generator=generator)
    expected = reread(made, tokens, length)
    assert torch.equal(write_greedily(made, tokens, length), expected)
    assert torch.equal(write_greedily(made, made.token(tokens).detach(), length), expected)
    vectors = torch.randn(40, 3, 8, generator=generator, dtype=torch.float64)
    assert torch.equal(write_greedily(made, vectors, length), reread(made, vectors, length))


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_every_symbol_sees_the_prefix(kind: str) -> None:
    made, generator = model(), torch.Generator().manual_seed(3)
    tokens = torch.randint(7, (60, 4), generator=generator)
    prefix = Prefix(2, 3, 8, 2.0, generator, **PARAMETRISATIONS[kind]).double()
    written = write_greedily(made, tokens, 6, prefix)
    assert torch.equal(written, reread(made, tokens, 6, prefix))
    assert (written != write_greedily(made, tokens, 6)).any(dim=0)[1:].all()


def test_parts_are_written_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    tokens = torch.randint(7, (11, 4), generator=torch.Generator().manual_seed(4))
    whole = write_greedily(made, tokens, 3)
    monkeypatch.setattr(writing, "CHUNK", 16)  # four sequences
    assert torch.equal(write_greedily(made, tokens, 3), whole)
    monkeypatch.setattr(writing, "CHUNK", 1)
    assert torch.equal(write_greedily(made, tokens, 3), whole)


def test_what_cannot_be_written_is_named() -> None:
    made = model()
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    assert write_greedily(made, tokens, 6).shape == (2, 6)
    with pytest.raises(ValueError, match=r"length .* 6, got 7"):
        write_greedily(made, tokens, 7)
    with pytest.raises(ValueError, match=r"length .* 1 .*got 0"):
        write_greedily(made, tokens, 0)
    with pytest.raises(ValueError, match="tokens must be int64"):
        write_greedily(made, tokens.bool(), 1)
    with pytest.raises(ValueError, match="n_layer=1, but the model has n_layer=2"):
        write_greedily(made, tokens, 1, Prefix(1, 3, 8).double())

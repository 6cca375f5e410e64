"""The benchmark compares two implementations of the same thing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import baseline, bench
from promptlib.prefix_tuning.gpt import GPT
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SORT_DESCENDING, read_and_answer


def same_weights() -> tuple[GPT, baseline.GPT]:
    """Return our model and the baseline's with the same random weights."""
    generator = torch.Generator().manual_seed(0)
    ours = GPT(bench.B3, generator)
    theirs = baseline.GPT(1, 1, 96, 11, 19)
    mine, block = ours.blocks[0], theirs.blocks[0]
    attention = mine.attention
    pairs = [
        (theirs.wte, ours.token),
        (theirs.wpe, ours.position),
        (block.ln_1, mine.norm_attention),
        (block.c_proj, attention.project),
        (block.ln_2, mine.norm_mlp),
        (block.mlp[0], mine.mlp.expand),
        (block.mlp[2], mine.mlp.contract),
        (theirs.ln_f, ours.norm),
        (theirs.lm_head, ours.head),
    ]
    for to, source in pairs:
        to.load_state_dict(source.state_dict())
    joint = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        block.c_attn.weight.copy_(torch.cat([part.weight for part in joint]))
        block.c_attn.bias.copy_(torch.cat([part.bias for part in joint]))
    return ours, theirs


@pytest.mark.parametrize("with_prefix", [False, True])
def test_both_compute_the_same_logits(with_prefix: bool) -> None:
    ours, theirs = same_weights()
    prefix = Prefix(1, 3, 96, 1.0) if with_prefix else None
    inputs, targets = SORT_DESCENDING.sample(64, "test", torch.Generator().manual_seed(1))
    tokens = read_and_answer(inputs, targets)
    expected = theirs(tokens, None if prefix is None else prefix.vectors)
    torch.testing.assert_close(ours(tokens, prefix), expected, atol=1e-5, rtol=1e-5)


def test_the_baseline_draws_examples_of_the_same_kind() -> None:
    torch.manual_seed(0)
    data = baseline.SortDataset(descending=True)
    for index in range(20):
        tokens, targets = data[index]
        answer = SORT_DESCENDING.solve(tokens[:10].unsqueeze(0))[0]
        assert torch.equal(tokens, read_and_answer(tokens[None, :10], answer[None])[0])
        assert (targets[:9] == -1).all()
        assert torch.equal(targets[9:], answer)


def test_the_table_has_a_ratio_in_every_row() -> None:
    lines = list(bench.table(turns=1, steps=2))
    rows = [line for line in lines if line.startswith(("pretraining", "prefix"))]
    assert len(rows) == 3
    assert all("x" in row and row.endswith("%") for row in rows)

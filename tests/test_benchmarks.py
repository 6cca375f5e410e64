"""The benchmark compares two implementations of the same thing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import baseline, bench, one_seed
from promptlib.prefix_tuning import planning, published
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.planning import MIXED
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SORT_DESCENDING, read_and_answer
from promptlib.runs import RunStore


def same_weights(config: GPTConfig) -> tuple[GPT, baseline.GPT]:
    """Return our model and the baseline's with the same random weights."""
    generator = torch.Generator().manual_seed(0)
    ours = GPT(config, generator)
    theirs = baseline.GPT(config)
    pairs = [
        (theirs.wte, ours.token),
        (theirs.wpe, ours.position),
        (theirs.ln_f, ours.norm),
        (theirs.lm_head, ours.head),
    ]
    for mine, block in zip(ours.blocks, theirs.blocks, strict=True):
        attention = mine.attention
        pairs += [
            (block.ln_1, mine.norm_attention),
            (block.c_proj, attention.project),
            (block.ln_2, mine.norm_mlp),
            (block.mlp[0], mine.mlp.expand),
            (block.mlp[2], mine.mlp.contract),
        ]
        joint = (attention.query, attention.key, attention.value)
        with torch.no_grad():
            block.c_attn.weight.copy_(torch.cat([part.weight for part in joint]))
            block.c_attn.bias.copy_(torch.cat([part.bias for part in joint]))
    for to, source in pairs:
        to.load_state_dict(source.state_dict())
    return ours, theirs


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("size", bench.SIZES)
def test_both_compute_the_same_logits(size: str, with_prefix: bool) -> None:
    config = bench.SIZES[size].config
    ours, theirs = same_weights(config)
    prefix = Prefix(config.n_layer, 3, config.n_embd, 1.0) if with_prefix else None
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


@pytest.mark.parametrize(
    ("method", "learned"),
    [("prefix", 2 * 3 * 8), ("LoRA", 2 * 10 * 8), ("pretraining", None)],
)
def test_the_baseline_learns_what_the_method_says(
    method: baseline.Method, learned: int | None
) -> None:
    config = GPTConfig(2, 1, 8, 11, 19)
    model, prefix, parameters = baseline.prepare(config, method, prefix_length=3)
    assert (prefix is not None) == (method == "prefix")
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == (learned or everything)
    step = baseline.training_step(config, method, prefix_length=3, batch_size=5)
    assert 0.5 < step() < 5.0


def test_the_products_that_a_step_needs() -> None:
    """Written out for four layers: of 48 maps of the width at every position, some are saved."""
    row = bench.Row("B5, B6", "prefix", 1, "float32")
    maps = 64 * (19 * (9 + 12 + 12 + 2) + 10 * 10)
    assert bench.needed_gflop(row) == pytest.approx(2 * 2 * maps * 256**2 / 1e9)
    assert maps < 0.85 * 64 * 19 * 48


def test_the_table_has_a_ratio_in_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "B4": bench.Size(GPTConfig(1, 2, 8, 11, 19, first_layer_norm=False), 1, "bfloat16"),
        "B5, B6": bench.Size(GPTConfig(2, 2, 8, 11, 19), 3, "float32"),
    }
    monkeypatch.setattr(bench, "SIZES", small)
    first, *_ = bench.rows()
    lines = list(bench.table(turns=1, steps=2, before={first.key: 98.7}))
    rows = [line for line, row, _ in lines if row is not None]
    assert len(rows) == len(list(bench.rows())) == 12
    assert all("x " in row and "%" in row for row in rows)
    assert ["98.7x" in row for row in rows] == [True] + 11 * [False]
    assert all(ratio > 0 for _, row, ratio in lines if row is not None)


def test_the_parts_of_a_cold_build_add_up() -> None:
    _, *parts, total = (line.rsplit(maxsplit=2) for line in bench.cold_build())
    assert {name.strip() for name, *_ in parts} >= {"prefix_tuning/eliciting"}
    for column in (1, 2):
        assert sum(float(part[column]) for part in parts) == pytest.approx(
            float(total[column]), abs=len(parts) / 2 + 1
        )


def test_one_seed_counts_each_run_once_and_keeps_its_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = {"steps": 10, "learning_rate": 1e-3, "test_sequences": 4}
    base = planning.pretrain(planning.model_of(1, 1, 8), "mixture", seed=0, evaluate=MIXED, **tiny)
    prefix = one_seed.one_prefix(base, "add_one", 10, 0.1, length=1, parametrisation="shared")
    rows = [
        one_seed.Row("B4", "pretrained", base, "add_one", 30.0),
        one_seed.Row("B4", "pretrained", base, "add_two", None),
        one_seed.Row("B4", "prefix", prefix, "add_one", 99.62),
    ]
    monkeypatch.setattr(one_seed, "rows", lambda seed: rows)
    store = RunStore(tmp_path / "runs")
    measured = list(one_seed.measure(0, store))
    assert [row["seconds"] > 0 for row in measured] == [True, False, True]
    assert (
        measured[2]["percent"] == 100 * store.get(prefix).metrics["cells"][0]["accuracy"]["add_one"]
    )
    assert "99.62" in one_seed.line(measured[2])
    one_seed.archive(0, measured, tmp_path / "one_seed.json")
    kept = json.loads((tmp_path / "one_seed.json").read_text())
    assert kept["rows"] == measured
    assert {"seed", "commit", "machine"} < set(kept)


def test_every_published_number_of_the_experiments_is_a_row() -> None:
    rows = one_seed.rows(0)
    keys = [run.key for run in dict.fromkeys(row.run for row in rows)]
    for row in rows:
        assert all(needed.key in keys[: keys.index(row.run.key)] for needed in row.run.needs)
    shown = {(row.experiment, row.task, row.published) for row in rows}
    for experiment, numbers in (("B4", published.ELICIT), ("B5", published.COMBINE)):
        for task, accuracy in numbers["prefix"].items():
            assert (experiment, task, accuracy) in shown
    for accuracy in published.LORA_BUDGET.values():
        assert ("B6", "double_histogram", accuracy) in shown

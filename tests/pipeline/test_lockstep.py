"""Runs in lockstep get what they would get alone: in float64, but for the order of sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from promptlib.prefix_tuning import planning
from promptlib.prefix_tuning.planning import PARAMETRISATIONS
from promptlib.runs import Result, Run
from promptlib.training import TrainingDiverged
from tests.trained_in_memory import TrainedInMemory
from workflow.lockstep import groups as lockstep
from workflow.lockstep import kernels as lockstep_kernels
from workflow.lockstep.results import train_together
from workflow.lockstep.training import Lockstep

MODEL = planning.model_of(n_layer=2, n_head=2, n_embd=12)
STEPS = 12


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def base(seed: int = 0, model: Mapping[str, Any] = MODEL, rate: float = 1e-2) -> Run:
    return planning.pretrain(
        model,
        "mixture",
        seed=seed,
        steps=STEPS,
        learning_rate=rate,
        evaluate=["sort_ascending", "add_one"],
        test_sequences=40,
    )


OPTIONS: dict[str, Any] = {"batch_size": 5, "checkpoints": 3}


def prefixes(of: Run, task: str, length: int, kind: str, rates: Sequence[float]) -> Run:
    return planning.tune_prefixes(
        of,
        task,
        steps=STEPS,
        length=length,
        parametrisation=kind,
        sweep=planning.cells(rates, [0.3, 1.0]),
        **OPTIONS,
    )


def lora(of: Run, rank: int, modules: Sequence[str], rates: Sequence[float]) -> Run:
    return planning.tune_lora(
        of,
        "reverse",
        steps=STEPS,
        rank=rank,
        modules=modules,
        sweep=planning.cells(rates, [0.2]),
        **OPTIONS,
    )


def fine_tune(of: Run, task: str, rate: float, learned: Sequence[str] = ("",)) -> Run:
    return planning.fine_tune(of, task, steps=STEPS, learning_rate=rate, learned=learned, **OPTIONS)


def together(runs: Sequence[Run], alone: TrainedInMemory) -> list[Result | TrainingDiverged]:
    needs = [[alone.get(needed) for needed in run.needs] for run in runs]
    return train_together(runs, needs, torch.device("cpu"))


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, Mapping):
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert_same(found[name], wanted[name])
    elif isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def check(runs: Sequence[Run]) -> None:
    alone = TrainedInMemory()
    (group,) = lockstep.groups(runs)
    assert group == list(runs)
    for run, found in zip(runs, together(runs, alone), strict=True):
        assert isinstance(found, Result)
        wanted = alone.get(run)
        assert_same(found.metrics, wanted.metrics)
        assert_same(found.tensors, wanted.tensors)


def test_new_models() -> None:
    check([base(0), base(1), base(1, rate=1e-3)])


def test_new_models_without_the_first_norm() -> None:
    model = planning.model_of(n_layer=1, n_head=2, n_embd=12, first_layer_norm=False)
    check([base(0, model), base(1, model)])


def test_fine_tuning() -> None:
    first, second = base(0), base(1)
    check(
        [
            fine_tune(first, "reverse", 1e-2),
            fine_tune(first, "reverse", 1e-3),
            fine_tune(second, "double_histogram", 1e-2),
        ]
    )


def test_fine_tuning_of_some_weights() -> None:
    check([fine_tune(base(seed), "reverse", 1e-2, ["mlp", "norm_mlp"]) for seed in (0, 1)])


def test_prefixes_of_all_kinds_and_lengths() -> None:
    first, second = base(0), base(1)
    runs = [
        prefixes(first, "reverse", length, kind, [0.1])
        for length, kind in zip((1, 3, 9, 2), PARAMETRISATIONS, strict=True)
    ]
    runs.append(prefixes(second, "add_one", 2, "free", [0.1, 0.01]))
    runs.append(prefixes(second, "sort_ascending", 1, "shared", [0.3]))
    check(runs)


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
@pytest.mark.parametrize("first_layer_norm", [True, False])
def test_prefixes_of_one_layer(kind: str, first_layer_norm: bool) -> None:
    model = planning.model_of(1, 2, 12, first_layer_norm)
    check([prefixes(base(seed, model), "reverse", 2, kind, [0.1]) for seed in (0, 1)])


def test_lora_of_all_ranks_and_modules() -> None:
    first, second = base(0), base(1)
    mlp = ["mlp.expand", "mlp.contract"]
    attention = ["attention.query", "attention.key", "attention.value", "attention.project"]
    check(
        [
            lora(first, 1, [*mlp, "attention.project"], [0.1]),
            lora(first, 3, mlp, [0.1, 0.01]),
            lora(second, 2, attention, [0.1]),
            lora(second, 1, [*mlp, *attention], [0.03]),
        ]
    )


def test_a_group_of_one_is_a_group_of_many() -> None:
    alone = TrainedInMemory()
    runs = [prefixes(base(seed), "reverse", 2, "free", [0.1, 0.01]) for seed in (0, 1)]
    for run, found in zip(runs, together(runs, alone), strict=True):
        (single,) = together([run], alone)
        assert isinstance(found, Result)
        assert isinstance(single, Result)
        assert_same(found.metrics, single.metrics)
        assert_same(found.tensors, single.tensors)


def test_who_diverges_harms_nobody() -> None:
    alone = TrainedInMemory()
    of = base(0)
    good, bad = fine_tune(of, "reverse", 1e-2), fine_tune(of, "reverse", 1e150)
    found = together([bad, good], alone)
    assert isinstance(found[0], TrainingDiverged)
    assert "1e+150" in str(found[0])
    assert isinstance(found[1], Result)
    assert_same(found[1].metrics, alone.get(good).metrics)
    with pytest.raises(TrainingDiverged):
        alone.get(bad)


def test_groups() -> None:
    of = base(0)
    slow = dataclasses.replace(of, config={**of.config, "steps": 13})
    wide = base(0, planning.model_of(2, 2, 16))
    runs = [of, slow, wide, base(1), prefixes(of, "reverse", 1, "free", [0.1])]
    assert lockstep.groups(runs) == [[of, runs[3]], [slow], [wide], [runs[4]]]
    with pytest.raises(ValueError, match="no lockstep for"):
        lockstep.groups(
            [Run("notebooks.prefix_tuning.expressivity_or_optimisation.training:plant", {})]
        )


def test_runs_of_two_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="2 groups"):
        train_together([base(0), base(0, rate=1e-2, model={**MODEL, "n_layer": 1})], [[], []])


def test_the_timing_of_steps_undoes_them() -> None:
    group = Lockstep([base(0)], [[]], torch.device("cpu"))
    before = [tensor.detach().clone() for tensor in group._state]
    assert group.seconds_a_step(4) > 0
    for tensor, value in zip(group._state, before, strict=True):
        torch.testing.assert_close(tensor.detach(), value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the fused kernels need a GPU")
def test_fused_kernels_compute_what_the_usual_operations_do() -> None:
    torch.set_default_dtype(torch.float32)
    assert lockstep_kernels.worst_error(torch.device("cuda")) < lockstep_kernels.LARGEST_ERROR

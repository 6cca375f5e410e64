"""Any prefix is a table: the theorem, its converse, training, and claims that can fail."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from notebooks.prefix_tuning.new_task import figures, results_tables, tables_theory
from notebooks.prefix_tuning.new_task import plan as new_task
from notebooks.prefix_tuning.new_task import tables as training
from notebooks.prefix_tuning.new_task.claims import BUILT, CHAPTER, THEORY
from notebooks.prefix_tuning.new_task.results_tables import DIGITS, OUTPUTS, Built
from notebooks.prefix_tuning.new_task.tables import Table, Tabled
from promptlib import claims
from promptlib.prefix_tuning import adapting, planning
from promptlib.prefix_tuning.gpt import GPT, GPTConfig
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.tasks import SORT_DESCENDING, read_and_answer
from promptlib.prefix_tuning.trials import Trial
from promptlib.runs import Result, Run
from tests.notebooks.prefix_tuning.new_task.fakes import CONFIG, metrics, verdicts
from tests.trained_in_memory import TrainedInMemory, silent, train_nothing


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


@pytest.fixture
def models(generator: torch.Generator) -> list[GPT]:
    """One head with LayerNorm, and three heads without."""
    return [
        results_tables.random_model(generator, True, 1),
        results_tables.random_model(generator, False, 2),
    ]


def random_table(model: GPT, generator: torch.Generator) -> Table:
    shape = training.start_table(model, 0.0).vectors.shape
    logits = 3 * torch.randn(shape[:-1], generator=generator, dtype=torch.float64)
    return Table(logits, torch.randn(shape, generator=generator, dtype=torch.float64))


def theory(errors: Any = (0.0,), excesses: Tensor | None = None) -> dict[str, str]:
    """The verdicts on the theorems."""
    measured = {"errors": errors, "excesses": -torch.ones(1, 1) if excesses is None else excesses}
    found = claims.check(CHAPTER, THEORY, measured)
    return {name: claim.verdict for name, claim in found.items()}


@pytest.mark.claim("prefix-tuning/new-task-prefix-is-table")
def test_a_table_that_averages_instead_of_adding_up_is_refuted(
    models: list[GPT], generator: torch.Generator
) -> None:
    lengths = [1, 2, 7]

    def verdict(*given: Any) -> str:
        return theory(errors=results_tables.table_errors(models, *given))["prefix-is-table"]

    def averaged(model: GPT, prefix: Prefix) -> Table:
        table = tables_theory.table_of(model, prefix)
        return Table(table.logits.data - math.log(prefix.length), table.vectors.data)

    assert verdict(lengths, generator) == "holds"
    assert verdict([1], generator, averaged) == "holds"
    assert verdict(lengths, generator, averaged) == "fails"


def test_several_tables_share_a_pass_and_last_means_last(
    models: list[GPT], generator: torch.Generator
) -> None:
    for model in models:
        tables = [random_table(model, generator) for _ in range(3)]
        tokens = torch.randint(11, (13, 19), generator=generator)
        together = Tabled(model, tables)(tokens, last=10)
        assert together.shape == (3, 13, 10, 11)
        for one, table in zip(together, tables, strict=True):
            alone = Tabled(model, [table])(tokens)
            assert alone.shape == (13, 19, 11)
            assert torch.allclose(one, alone[:, -10:], atol=1e-10)


def test_tables_are_of_one_layer_and_of_fitting_shapes(generator: torch.Generator) -> None:
    deep = GPT(GPTConfig(2, 1, 14, 11, 19), generator)
    with pytest.raises(ValueError, match="models of one layer, got 2"):
        Tabled(deep, [training.start_table(deep, 0.0)])
    with pytest.raises(ValueError, match="models of one layer, got 2"):
        tables_theory.table_of(deep, Prefix(2, 1, 14))
    flat = GPT(GPTConfig(1, 1, 14, 11, 19), generator)
    with pytest.raises(ValueError, match="at least 1 table, got none"):
        Tabled(flat, [])
    with pytest.raises(ValueError, match=r"got \(1, 19, 11\) and \(1, 19, 7, 14\)"):
        Table(torch.zeros(1, 19, 11), torch.zeros(1, 19, 7, 14))


# The converse.


def test_exposing_keys_see_every_pair_but_their_own(models: list[GPT]) -> None:
    for model in models:
        keys = tables_theory.exposing_keys(model, OUTPUTS, DIGITS)
        queries = tables_theory.queries_of_pairs(model)[:, OUTPUTS.start :, : len(DIGITS)]
        products = queries.flatten(1, 2) @ keys.mT
        own = torch.eye(80, dtype=torch.bool)
        assert products[:, own].abs().max() < 1e-7
        assert products[:, ~own].max() < -1 + 1e-7


def test_the_parts_make_the_queries(models: list[GPT]) -> None:
    """q = r A (e + p) + a with a positive r."""
    for model in models:
        parts = tables_theory.parts_of_queries(model, range(19), range(11))
        symbols, places, shift = parts.split([11, 19, 1], dim=1)
        sums = places.unsqueeze(2) + symbols.unsqueeze(1)  # (H, T, V, d)
        rest = tables_theory.queries_of_pairs(model) - shift.unsqueeze(1)
        r = (rest * sums).sum(dim=-1, keepdim=True) / sums.square().sum(dim=-1, keepdim=True)
        assert (r > 0).all()
        assert torch.allclose(r * sums, rest, atol=1e-10)
        if not model.config.first_layer_norm:
            assert torch.allclose(r, torch.ones_like(r))


def test_dependent_queries_are_refused() -> None:
    narrow = results_tables.random_model(torch.Generator().manual_seed(0), True, 3)  # 14 wide
    with pytest.raises(ValueError, match="19 parts of queries in 14 dimensions"):
        tables_theory.exposing_keys(narrow, OUTPUTS, DIGITS)
    assert tables_theory.exposing_keys(narrow, [9, 12], DIGITS).shape == (3, 16, 14)


@pytest.mark.claim("prefix-tuning/new-task-built-prefix")
def test_a_prefix_that_is_not_sharp_enough_is_refuted(
    models: list[GPT], generator: torch.Generator
) -> None:
    def built(model: GPT, margin: float) -> Built:
        table = random_table(model, generator)
        prefix = tables_theory.prefix_of(model, table, OUTPUTS, DIGITS, margin)
        assert prefix.length == 80
        trial = Trial({}, Run("a:b", {**CONFIG, "task": "sort_descending"}), None, metrics(0, 0))
        return Built(model, table, prefix, trial)

    def verdict(sorters: list[Built]) -> str:
        return claims.check(CHAPTER, BUILT, sorters)["built-prefix"].verdict

    assert verdict([built(model, tables_theory.MARGIN) for model in models]) == "holds"
    assert verdict([built(model, 1.0) for model in models]) == "fails"
    with pytest.raises(ValueError, match="expected margin > 0, got 0"):
        built(models[0], 0.0)


def test_the_logit_of_a_built_prefix_is_off_by_no_more_than_it_may(
    models: list[GPT], generator: torch.Generator
) -> None:
    margin = 6.0
    for model in models:
        table = random_table(model, generator)
        again = tables_theory.table_of(
            model, tables_theory.prefix_of(model, table, OUTPUTS, DIGITS, margin)
        )
        here = (slice(None), slice(OUTPUTS.start, None), slice(len(DIGITS)))
        excess = again.logits[here] - table.logits[here]
        assert excess.min() > -1e-7
        assert excess.max() < 79 * math.exp(-margin)


@pytest.mark.claim("prefix-tuning/new-task-log-convex")
def test_a_logit_that_is_not_convex_is_refuted(generator: torch.Generator) -> None:
    def verdict(*implementation: Any) -> str:
        excesses = results_tables.convexity_excesses(10, generator, *implementation)
        return theory(excesses=excesses)["log-convex"]

    assert verdict() == "holds"

    def of_shares(queries: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        """Forget the logarithm."""
        mixture = (weights.unsqueeze(-1) * queries).sum(dim=-2, keepdim=True)
        total = torch.stack(
            [
                (q @ keys.mT).logsumexp(dim=-1).sigmoid().sum(dim=-1)
                for q in (mixture, queries * weights.unsqueeze(-1))
            ]
        )
        return total[0] - total[1] / 5

    assert verdict(of_shares) == "fails"


def test_one_vector_has_a_linear_logit(generator: torch.Generator) -> None:
    queries = torch.randn(9, 5, 6, generator=generator, dtype=torch.float64)
    key = torch.randn(9, 1, 6, generator=generator, dtype=torch.float64)
    weights = torch.rand(9, 5, generator=generator, dtype=torch.float64).softmax(dim=-1)
    assert tables_theory.log_convexity_excess(queries, key, weights).abs().max() < 1e-12


def test_the_exercise() -> None:
    """Three queries on a line: (1, 0, 1) with two vectors."""
    queries = torch.tensor([[1.0, -1], [1, 0], [1, 1]], dtype=torch.float64)
    steep = math.acosh(math.e)
    keys = torch.tensor([[-math.log(2), steep], [-math.log(2), -steep]], dtype=torch.float64)
    logits = (queries @ keys.mT).logsumexp(dim=-1)
    assert torch.allclose(logits, torch.tensor([1.0, 0, 1], dtype=torch.float64))
    assert round(steep, 3) == 1.657


# Training.

WIDTH = 20


def table_run(task: str = "sort_descending", steps: int = 12, **config: Any) -> Run:
    base = planning.pretrain(
        planning.model_of(1, 1, WIDTH),
        "sort_ascending",
        seed=1,
        steps=12,
        learning_rate=3e-3,
        evaluate=["sort_descending"],
        test_sequences=40,
    )
    cells = [{"learning_rate": 0.1, "start_logit": 0.0}, {"learning_rate": 0.3, "start_logit": 3.0}]
    run = new_task.tune_tables(base, task, steps, cells)
    return Run(run.train, {**run.config, **config}, run.needs)


def test_tables_learn_from_the_batches_of_the_prefixes() -> None:
    config = table_run().config
    ours = list(training._training_batches(config))
    model = GPT(GPTConfig(**config["model"]))
    theirs = list(adapting._training_batches(model, config))
    assert len(ours) == len(theirs) == 12
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_run_gives_the_same_numbers_again_and_is_rebuilt() -> None:
    run, runs = table_run(), TrainedInMemory()
    first, second = runs.get(run), TrainedInMemory().get(run)
    assert first.metrics == second.metrics
    model = adapting.load_model(run.config, runs.get(run.needs[0]))
    for index, found in ((0, first.metrics["cells"][0]), (None, first.metrics["combined"])):
        table = training.load_table(first, index)
        again = adapting.measure(Tabled(model, [table]), run.config)
        assert again["loss"] == pytest.approx(found["loss"])
    cell = first.metrics["cells"][1]
    assert len(cell["curve"]) == 12
    assert cell["curve"][-1] < cell["curve"][0]
    assert (cell["learning_rate"], cell["start_logit"]) == (0.3, 3.0)


def test_combining_takes_the_better_entry_of_each_pair() -> None:
    run, runs = table_run(), TrainedInMemory()
    model = adapting.load_model(run.config, runs.get(run.needs[0]))
    result = runs.get(run)
    tables = [training.load_table(result, index) for index in (0, 1)]
    combined = training.combine(model, tables, "sort_descending", 1)
    from_second = (combined.vectors == tables[1].vectors).all(dim=-1)
    from_first = (combined.vectors == tables[0].vectors).all(dim=-1)
    assert (from_first | from_second).all()
    inputs, targets = SORT_DESCENDING.sample(
        training.COMPARED, "train", adapting.generator_for(1, "compare")
    )
    tokens = read_and_answer(inputs, targets)

    @torch.no_grad()
    def loss(table: Table) -> float:
        logits = Tabled(model, [table])(tokens, last=10)
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))

    assert loss(combined) <= min(loss(table) for table in tables) + 1e-6


@pytest.mark.claim("prefix-tuning/new-task-best-table")
@pytest.mark.claim("prefix-tuning/new-task-built-descending")
def test_a_model_that_sorts_by_itself_and_one_that_nothing_helps_refute_the_claims() -> None:
    sorter = planning.pretrain(
        planning.model_of(1, 1, 96),
        "sort_descending",
        seed=0,
        steps=300,
        learning_rate=3e-3,
        evaluate=["sort_descending"],
        test_sequences=500,
    )
    cells = [{"learning_rate": 1e-3, "start_logit": -20.0}]
    run, runs = new_task.tune_tables(sorter, "sort_descending", 10, cells), TrainedInMemory()
    sorts = runs.get(run).metrics["combined"]
    built = results_tables.build(run, runs.get)
    assert built.trial.metrics["accuracy"] == sorts["accuracy"]

    def verdict(trial: Trial) -> str:
        sorters = [dataclasses.replace(built, trial=trial)] * 2
        return claims.check(CHAPTER, BUILT, sorters)["built-descending"].verdict

    assert verdicts(best_table=[sorts] * 2)["best-table"] == "contradicted"
    assert verdict(built.trial) == "supported"
    # Entries of the wrong digits: built for pairs that the outputs do not read.
    silenced = Table(
        torch.full_like(built.table.logits, 30.0), torch.zeros_like(built.table.vectors)
    )
    prefix = tables_theory.prefix_of(built.model, silenced, OUTPUTS, DIGITS)
    lost = adapting.measure(built.model, run.config, prefix)
    low_loss = {**lost, "loss": {"sort_descending": 0.1}}  # so that the control is met
    assert verdicts(best_table=[low_loss] * 2)["best-table"] == "supported"
    assert verdict(dataclasses.replace(built.trial, metrics=lost)) == "contradicted"
    at_limit = {"accuracy": {"sort_descending": 0.01}}
    assert verdict(dataclasses.replace(built.trial, metrics=at_limit)) == "undecided"


@pytest.mark.claim("prefix-tuning/new-task-table-gap")
def test_tables_that_do_not_learn_refute_that_they_are_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert verdicts()["table-gap"] == "supported"

    monkeypatch.setattr(training, "minimise", train_nothing)
    run, runs = table_run(evaluate=["sort_descending"]), TrainedInMemory()
    base: Result = runs.get(run.needs[0])
    wrong = training.train(run.config, [base], silent).metrics["combined"]
    found = verdicts(best_table=[{**wrong, "accuracy": {"sort_descending": 0.0}}] * 2)
    assert found["table-gap"] == "contradicted"
    assert found["best-table"] == "uninformative"


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_figure_says_what_it_shows(seeds: int) -> None:
    import matplotlib.pyplot as plt

    curves = {
        name: [torch.linspace(start, 90, 10, dtype=torch.float64)] * seeds
        for name, start in (("pretrained", 0.0), ("one vector", 10.0), ("all weights", 80.0))
    }
    figure, alt = figures.outputs_right(curves)
    assert "pretrained 45 % on average, from 0 % at output 1 to 90 % at output 10" in alt
    figure.canvas.draw()
    plt.close(figure)

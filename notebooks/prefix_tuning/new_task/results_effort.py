"""What did all the ways to train a prefix for the new task come to?

`collect` lists the ways of the chapter "A new task", the first sweep included. The best of each way
and the best of all are chosen on the validation split (`experiment_results.best_cell`, and where
losses are compared `experiment_results.lowest_loss_cell`) and read on the test split. Each claim
function takes what was measured and returns the claim; `claims_of` calls all that need nothing but
metrics, with their controls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from notebooks.prefix_tuning.new_task import results as new_task_results
from notebooks.prefix_tuning.new_task import results_tables as any_prefix_results
from notebooks.prefix_tuning.new_task.plan import LENGTHENED, ChapterPlan, EffortPlan
from notebooks.prefix_tuning.new_task.results import DESCENDING, Measured, accuracy
from promptlib import claims
from promptlib.checks import check_public
from promptlib.prefix_tuning import adapting
from promptlib.prefix_tuning.adapting import load_prefix
from promptlib.prefix_tuning.blind import blind_sorting_loss
from promptlib.prefix_tuning.prefix import Prefix
from promptlib.prefix_tuning.sweeps import (
    HERE,
    Cell,
    Get,
    Metrics,
    best_cell,
    best_first,
    cells_of,
    lowest_loss_cell,
)
from promptlib.runs import Run


@dataclass(frozen=True)
class Way:
    """One way to try: its prefixes, by seed; not every way was tried for every seed.

    Attributes
    ----------
    name : str
    length : int
        Vectors of each prefix.
    sweeps : sequence of sequences of Cell
        By seed, from the first on, then cell.
    """

    name: str
    length: int
    sweeps: Sequence[Sequence[Cell]]

    @property
    def best(self) -> list[Cell]:
        """The cell of each seed that does best at the new task."""
        return [best_cell(cells, DESCENDING) for cells in self.sweeps]

    @property
    def lowest_losses(self) -> list[float]:
        """Test loss of the cell of each seed with the lowest validation loss, nats a symbol."""
        return [lowest_loss_cell(cells).loss(DESCENDING) for cells in self.sweeps]

    @property
    def highest_accuracies(self) -> list[float]:
        """Test accuracy of `best` of each seed, in percent of sequences."""
        return [cell.percent(DESCENDING) for cell in self.best]


def collect(plan: ChapterPlan, get: Get) -> list[Way]:
    """Read all trained prefixes of the chapter; `get` is the ``get`` of a run store."""

    def way(name: str, runs: Sequence[Run]) -> Way:
        return Way(name, runs[0].config["length"], [cells_of(run, get) for run in runs])

    effort: EffortPlan = plan.effort
    one_vector = {**plan.experiment.prefixes, **effort.parametrisations}
    restarts = len(effort.restarts[0].config["cells"])
    patience = effort.longer[0].config["steps"] // effort.restarts[0].config["steps"]
    return [
        *(way(name, runs) for name, runs in one_vector.items()),
        way(f"free, {restarts} starts", effort.restarts),
        way(f"free, {patience} × steps", effort.longer),
        *(way(f"{LENGTHENED}, {length} vectors", runs) for length, runs in effort.lengths.items()),
    ]


def best_of_all(ways: Sequence[Way]) -> list[tuple[str, Cell]]:
    """Return the best prefix of each seed by any way, with the name of the way."""
    best = []
    for seed in range(_seeds(ways)):
        names = {id(cell): way.name for way, cell in _tried(ways, seed)}
        cell = best_cell([cell for _, cell in _tried(ways, seed)], DESCENDING)
        best.append((names[id(cell)], cell))
    return best


def lowest_of_all(ways: Sequence[Way]) -> list[float]:
    """Return the test loss of each seed's prefix with the lowest validation loss, by any way."""
    return [
        lowest_loss_cell([cell for _, cell in _tried(ways, seed)]).loss(DESCENDING)
        for seed in range(_seeds(ways))
    ]


def _seeds(ways: Sequence[Way]) -> int:
    return max(len(way.sweeps) for way in ways)


def _tried(ways: Sequence[Way], seed: int) -> list[tuple[Way, Cell]]:
    """Everything that was tried for a seed."""
    return [(way, cell) for way in ways if seed < len(way.sweeps) for cell in way.sweeps[seed]]


def prefix_of(cell: Cell, get: Get) -> Prefix:
    """Return the trained prefix of a cell."""
    return load_prefix(cell.run.config, get(cell.run), cell.index)


def counts(ways: Sequence[Way]) -> list[tuple[str, int, int, int, int]]:
    """Return name, length, numbers learned, steps and prefixes trained of each way."""
    rows = []
    for way in ways:
        first = way.sweeps[0][0]
        numbers = int(first.metrics["parameters"])
        trained = sum(len(cells) for cells in way.sweeps)
        rows.append((way.name, way.length, numbers, int(first.run.config["steps"]), trained))
    return rows


def claims_of(
    measured: Measured, ways: Sequence[Way], tables: Sequence[Metrics]
) -> dict[str, claims.Claim]:
    """Return every claim of the chapter that needs no weights, by the last part of its id.

    The page and the archive both take them from here, so they cannot differ.

    Parameters
    ----------
    measured : Measured
    ways : sequence of Way
        From `collect`.
    tables : sequence of metrics
        Of the best table of each seed.
    """
    old = new_task_results.pretrained_ascending(measured)
    learned = new_task_results.finetuned_descending(measured)
    works = longer_learns(measured, ways)
    gap = any_prefix_results.table_gap(lowest_of_all(ways), tables)
    everything = [
        old,
        new_task_results.pretrained_descending(measured),
        learned,
        new_task_results.finetuned_ascending(measured, [old]),
        new_task_results.prefix_descending(measured, [learned, works]),
        new_task_results.prefix_ascending(measured, [old]),
        longer_descending(ways, [learned, works]),
        worse_than_blind(ways, requires=[learned, works]),
        works,
        new_task_results.besides_attention(
            measured, [cell.percent(DESCENDING) for _, cell in best_of_all(ways)]
        ),
        any_prefix_results.best_table(tables, measured.trials, [learned, gap]),
        gap,
    ]
    return {claim.id.removeprefix("prefix-tuning/new-task-"): claim for claim in everything}


def claims_at_published_size(plan: ChapterPlan, get: Get) -> list[claims.Claim]:
    """Judge what an archive of metrics holds, as the page judges its own runs.

    Parameters
    ----------
    plan : ChapterPlan
        Of the profile that the archive was made with.
    get : callable
        Returns the result of a run, perhaps without tensors.
    """
    measured = new_task_results.collect(plan.experiment, get)
    return list(claims_of(measured, collect(plan, get), best_tables(plan, get)).values())


def best_tables(plan: ChapterPlan, get: Get) -> list[Metrics]:
    """Return the metrics of each seed's best table."""
    return [get(run).metrics["combined"] for run in plan.tables]


def longer_descending(ways: Sequence[Way], requires: Sequence[claims.Claim] = ()) -> claims.Claim:
    """Several vectors do not learn it as fine-tuning does."""
    longer = _longer(ways)
    lengths = " or ".join(str(length) for length in sorted({way.length for way in longer}))
    return accuracy(
        "longer-descending",
        f"With the best prefix of {lengths} vectors the pretrained model sorts fewer than half of "
        "the sequences descending, after as many steps as fine-tuning had and with as many cells "
        "in the sweep of each length.",
        [cell.percent(DESCENDING) for _, cell in best_of_all(longer)],
        limit=50.0,
        side="below",
        trials=longer[0].sweeps[0][0].run.config["test_sequences"],
        checks=adapting.tune_prefixes,
        requires=requires,
    )


def worse_than_blind(
    ways: Sequence[Way],
    blind: Callable[[], float] = blind_sorting_loss,
    requires: Sequence[claims.Claim] = (),
) -> claims.Claim:
    """However one vector was trained, it does worse than not to look at the input."""
    limit, single = blind(), _one_vector(ways)
    trained = sum(row[-1] for row in counts(single))
    return claims.outcome(
        "prefix-tuning/new-task-worse-than-blind",
        f"With the best of all {trained} prefixes of one vector, whatever their parametrisation, "
        "learning rate, initial scale, start and number of steps, the loss on descending stays "
        f"above that of a predictor that does not look at the input ({limit:.3f} nats a symbol); "
        "the excess is above 0.",
        values=[loss - limit for loss in lowest_of_all(single)],
        limit=0.0,
        side="above",
        source=HERE,
        checks=blind_sorting_loss,
        unit="nats a symbol",
        requires=requires,
    )


def longer_learns(measured: Measured, ways: Sequence[Way]) -> claims.Claim:
    """Longer prefixes learn something: the control of the claims that prefixes fail."""
    without = [entry["loss"][DESCENDING] for entry in measured.pretrained]
    return claims.outcome(
        "prefix-tuning/new-task-longer-learns",
        "Control: on the same models and the same task the same code trains longer prefixes, the "
        "best of which cuts the loss on descending to less than half of that without a prefix.",
        values=[
            reached / before
            for reached, before in zip(lowest_of_all(_longer(ways)), without, strict=True)
        ],
        limit=0.5,
        side="below",
        scale="log",
        source=HERE,
        checks=adapting.tune_prefixes,
        unit="times the loss without a prefix",
        note="The control was first that this loss is below that of a predictor that does not look "
        "at the input. Trials with few steps came out on both sides of that, and whether training "
        "works is another question, so it was replaced; half is simply a lot.",
    )


def _one_vector(ways: Sequence[Way]) -> list[Way]:
    return [way for way in ways if way.length == 1]


def _longer(ways: Sequence[Way]) -> list[Way]:
    return [way for way in ways if way.length > 1]


def table_of_counts(ways: Sequence[Way]) -> str:
    """Return the counts as the lines of a table, for print."""
    rows = counts(ways)
    lines = [f"{'way':24}{'vectors':>8}{'numbers':>9}{'steps':>7}{'trained':>9}"]
    lines += [
        f"{name:24}{length:8}{n:9,}{steps:7,}{many:9}" for name, length, n, steps, many in rows
    ]
    lines.append(f"{'all':24}{'':24}{sum(row[-1] for row in rows):9}")
    return "\n".join(lines)


def table_of_rates(
    measured: Measured, ways: Sequence[Way], tables: Iterable[Sequence[Metrics]]
) -> str:
    """Return how often the best learning rate of a sweep lies at its end, as lines for print.

    Parameters
    ----------
    measured : Measured
    ways : sequence of Way
        Those with a single rate are left out.
    tables : iterable of sequences of metrics
        The single tables of each seed.
    """
    sweeps: dict[str, list[list[tuple[float, Metrics]]]] = {
        "fine-tuning": [
            [(cell["learning_rate"], cell) for cell in seed] for seed in measured.finetuned
        ]
    }
    for way in ways:
        sweeps[way.name] = [
            [(cell.learning_rate, cell.metrics) for cell in seed] for seed in way.sweeps
        ]
    sweeps["table"] = [[(cell["learning_rate"], cell) for cell in seed] for seed in tables]
    lines = []
    for name, seeds in sweeps.items():
        rates = sorted({rate for rate, _ in seeds[0]})
        if len(rates) < 2:
            continue
        best = [min(seed, key=lambda pair: best_first(pair[1]))[0] for seed in seeds]
        low, high = best.count(rates[0]), best.count(rates[-1])
        lines.append(
            f"{name:18} {rates[0]:g} to {rates[-1]:g}: best at the lowest for {low}, at the "
            f"highest for {high} of {len(best)} seeds"
        )
    return "\n".join(lines)


check_public(__name__)

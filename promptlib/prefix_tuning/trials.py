"""What did the training runs of a chapter measure? One flat table of trials, whatever was trained.

A plan labels its runs (method, task, length, …). Read from a store, each run gives one trial, or as
many as its sweep has cells. Then

    trials = read(plan, get)
    best = trials.where(method="prefix", task="add_three").best()    # one for each seed
    best.percent("add_three")                                        # accuracies by seed

Settings are chosen on the validation split, results are read on the test split, so the larger of
two sweeps gains nothing by its size alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from promptlib.checks import check_public
from promptlib.runs import Result, Run

if TYPE_CHECKING:
    from promptlib.prefix_tuning.gpt import GPT
    from promptlib.prefix_tuning.prefix import Prefix

Metrics = Mapping[str, Any]
"""``accuracy`` (in [0, 1]) and ``loss`` (nats a symbol) by task on the test split, ``curve``, of
what adapts a model ``validation`` with both for its own task, and for cells of a sweep
``learning_rate`` and ``init_std``."""
UNIT = "% of sequences"
"""Of accuracies."""
Get = Callable[[Run], Result]
"""The ``get`` of a run store."""


@dataclass(frozen=True)
class Plan:
    """Runs with labels; iterating yields each run once, in order.

    Attributes
    ----------
    entries : tuple of (Run, mapping)
        A run, and what the chapter calls it.
    """

    entries: tuple[tuple[Run, Mapping[str, Any]], ...]

    def __iter__(self) -> Iterator[Run]:
        yield from dict.fromkeys(run for run, _ in self.entries)

    def __add__(self, other: Plan) -> Plan:
        return Plan((*self.entries, *other.entries))

    def where(self, **labels: Any) -> Plan:
        """The runs with these labels; see `Trials.where`."""
        return Plan(tuple(entry for entry in self.entries if _fits(entry[1], labels)))

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, each once."""
        return tuple(self)


def labelled(runs: Run | Iterable[Run], **labels: Any) -> Plan:
    """A plan of some runs that have these labels in common."""
    listed = [runs] if isinstance(runs, Run) else runs
    return Plan(tuple((run, labels) for run in listed))


@dataclass(frozen=True)
class Trial:
    """One setting that was trained, and what it measured.

    Attributes
    ----------
    labels : mapping
        What its plan calls it.
    run : Run
        That holds it.
    cell : int or None
        Its place in the sweep of its run; None if the run is no sweep.
    metrics : mapping
        Of this trial alone.
    """

    labels: Mapping[str, Any]
    run: Run
    cell: int | None
    metrics: Metrics

    def __getitem__(self, label: str) -> Any:
        return self.labels[label]

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.run.config["seed"])

    @property
    def task(self) -> str:
        """What it was trained for."""
        return str(self.run.config["task"])

    @property
    def learning_rate(self) -> float:
        """The highest of its schedule."""
        return float({**self.run.config, **self.metrics}["learning_rate"])

    @property
    def init_std(self) -> float | None:
        """Standard deviation of what was learned before training; None for fine-tuning."""
        return self.metrics.get("init_std")

    def percent(self, task: str | None = None) -> float:
        """Accuracy on a task, its own by default, in percent of test sequences."""
        return 100 * float(self.metrics["accuracy"][task or self.task])

    def loss(self, task: str | None = None) -> float:
        """Test loss on a task, its own by default, in nats a symbol."""
        return float(self.metrics["loss"][task or self.task])

    @property
    def validation(self) -> Mapping[str, float]:
        """``accuracy`` in [0, 1] and ``loss`` in nats a symbol on the validation split.

        Raises
        ------
        ValueError
            If nothing was measured there, as for pretraining, which chooses nothing.
        """
        if "validation" not in self.metrics:
            raise ValueError(
                "nothing was measured on the validation split, so nothing can be chosen; the "
                f"metrics hold {', '.join(self.metrics)}"
            )
        return self.metrics["validation"]


@dataclass(frozen=True)
class Trials(Sequence[Trial]):
    """A table of trials, in the order of their plan."""

    rows: tuple[Trial, ...]

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> Trials: ...
    def __getitem__(self, index: int | slice) -> Trial | Trials:
        return Trials(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Trials) -> Trials:
        return Trials((*self.rows, *other.rows))

    def where(self, **labels: Any) -> Trials:
        """The trials with these labels, in order.

        Parameters
        ----------
        **labels
            A value, or a set, list or tuple of values that will do, or a function that tells. A
            trial without the label does not fit. ``seed`` can be asked for, too.
        """
        return Trials(
            tuple(row for row in self.rows if _fits({**row.labels, "seed": row.seed}, labels))
        )

    def by(self, label: str) -> dict[Any, Trials]:
        """The trials by the value of a label (or ``"seed"``), in order of appearance."""
        groups: dict[Any, list[Trial]] = {}
        for row in self.rows:
            groups.setdefault(row.seed if label == "seed" else row[label], []).append(row)
        return {value: Trials(tuple(rows)) for value, rows in groups.items()}

    def best(self, *, by: str = "accuracy") -> Trials:
        """Return the best trial of each seed, chosen on the validation split.

        Parameters
        ----------
        by : {"accuracy", "loss"}
            The highest accuracy, and of equal ones the lowest loss; or the lowest loss.

        Raises
        ------
        ValueError
            If there is no trial, they were trained for several tasks, or one has no validation
            numbers.
        """
        if by not in ("accuracy", "loss"):
            raise ValueError(f"by must be 'accuracy' or 'loss', got {by!r}")
        if not self.rows:
            raise ValueError("there is no trial to choose from")
        tasks = sorted({row.run.config.get("task", "") for row in self.rows})
        if len(tasks) > 1:
            raise ValueError(f"trials for several tasks have no best one: {', '.join(tasks)}")

        def key(row: Trial) -> tuple[float, ...]:
            found = row.validation
            return (found["loss"],) if by == "loss" else (-found["accuracy"], found["loss"])

        return Trials(tuple(min(rows, key=key) for rows in self.by("seed").values()))

    def percent(self, task: str | None = None) -> list[float]:
        """Accuracy of each trial on a task, its own by default, in percent."""
        return [row.percent(task) for row in self.rows]

    def losses(self, task: str | None = None) -> list[float]:
        """Test loss of each trial on a task, its own by default, in nats a symbol."""
        return [row.loss(task) for row in self.rows]


def read(plan: Plan, get: Get) -> Trials:
    """Read all runs of a plan; those that are not in the store are trained.

    Parameters
    ----------
    plan : Plan
    get : callable
        The ``get`` of a run store, or of an archive of metrics.
    """
    rows = []
    for run, labels in plan.entries:
        metrics = get(run).metrics
        cells = metrics.get("cells")
        if cells is None:
            rows.append(Trial(labels, run, None, metrics))
        else:
            rows += [Trial(labels, run, index, cell) for index, cell in enumerate(cells)]
    return Trials(tuple(rows))


def rates_chosen(chosen: Iterable[Trial], rates: Iterable[float]) -> str:
    """Say how often each rate of a sweep was chosen, and that a sweep ends where it was."""
    counts = Counter(one.learning_rate for one in chosen)
    listed = sorted({*counts, *rates})
    told = ", ".join(f"{rate:g}: {counts[rate]}" for rate in listed)
    ended = [f"{rate:g}" for rate in dict.fromkeys([listed[0], listed[-1]]) if counts[rate]]
    if ended:
        told += f" (the sweep ends at {' and '.join(ended)}: beyond may be better)"
    return told


def sequences_tested(trials: Iterable[Trial]) -> int:
    """Return how many test sequences are behind each accuracy; the fewest if trials differ.

    Raises
    ------
    ValueError
        If there is no trial.
    """
    return min(int(trial.run.config["test_sequences"]) for trial in trials)


def rebuild(trial: Trial, get: Get) -> tuple[GPT, Prefix | None]:
    """Return the model that a trial ended with, and the prefix that goes with it, if any.

    Raises
    ------
    ValueError
        If the run is none of those of `promptlib.prefix_tuning.adapting`.
    """
    from promptlib.prefix_tuning.adapting import load_lora, load_model, load_prefix

    run, function = trial.run, trial.run.train.partition(":")[2]
    if function in ("pretrain", "fine_tune"):
        return load_model(run.config, get(run)), None
    if function not in ("tune_prefixes", "tune_lora") or trial.cell is None:
        raise ValueError(f"no model can be rebuilt of a run of {run.train}")
    base = get(run.needs[0])
    if function == "tune_lora":
        return load_lora(run.config, base, get(run), trial.cell), None
    return load_model(run.config, base), load_prefix(run.config, get(run), trial.cell)


def _fits(labels: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    for name, value in wanted.items():
        if name not in labels:
            return False
        has = labels[name]
        if callable(value):
            if not value(has):
                return False
        elif isinstance(value, set | frozenset | list | tuple) and not isinstance(has, type(value)):
            if has not in value:
                return False
        elif has != value:
            return False
    return True


check_public(__name__)

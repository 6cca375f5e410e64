"""What are the models of Part II asked to do?

Ten digits from 0 to 7 go in, ten symbols come out. A task is a function of the whole sequence,
written for a batch. The tasks differ in the attention that they need: sorting gathers, adding one
copies, counting compares.

Sequences fall into three disjoint splits. Models learn from the first, settings are chosen on the
second, and results are read on the third.

Source: the tasks of Petrov, Torr and Bibi, ICLR 2024. Two things differ on purpose. The split is a
fixed function of the digits (a salted hash would change it from one process to the next), and the
vocabulary has eleven symbols, so that a count of ten fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from promptlib.checks import check_public, shape_of, whole_number
from promptlib.registry import Registry

Split = Literal["train", "validation", "test"]

SEQUENCE_LENGTH = 10
"""Digits in an input, and symbols in an output."""

N_DIGITS = 8
"""Inputs are made of the digits 0 to 7."""

MOST_DISTINCT = 5
"""Half of the samples have at most this many distinct digits."""

VOCABULARY = SEQUENCE_LENGTH + 1
"""Symbols 0 to 10: a digit can occur ten times."""

SPLIT_SHARES: dict[Split, float] = {"train": 10 / 16, "validation": 2 / 16, "test": 4 / 16}
"""Part of all sequences that belongs to each split; see `in_split`."""


@dataclass(frozen=True)
class Task:
    """A function from ten digits to ten symbols, with examples drawn on demand.

    One example by hand, for `SORT_DESCENDING`::

        input   3 1 3 0 7 1 1 5 0 3
        target  7 5 3 3 3 1 1 1 0 0

    The model reads ``3 1 3 0 7 1 1 5 0 3 7 5 3 3 3 1 1 1 0`` (19 tokens, the last target is
    never read) and is asked for the next symbol at the last ten of them: after the tenth token, 3,
    it has to say 7; after that 7, it has to say 5; and so on. The input has five distinct digits,
    0 1 3 5 7, so it could have come from either face of the coin of `sample`. The code that
    decides its split is ``3 + 1·8 + 3·8² + 0·8³ + …``, scrambled by `in_split`.

    Attributes
    ----------
    name : str
        Name in lower case, as it appears in run configurations.
    rule : callable
        Maps digits ``[n, 10]`` to symbols ``[n, 10]``.
    symbols : int
        The symbols of inputs and targets are 0 to ``symbols - 1``.
    """

    name: str
    rule: Callable[[Tensor], Tensor]
    symbols: int

    def __post_init__(self) -> None:
        whole_number("symbols", self.symbols, at_least=1)

    def solve(self, inputs: Tensor) -> Tensor:
        """Return the right answers ``[n, 10]`` to the digits ``inputs [n, 10]``.

        Raises
        ------
        ValueError
            If `inputs` is not ``[n, 10]`` or holds anything but the digits 0 to 7.
        """
        check_digits(inputs)
        return self.rule(inputs)

    def sample(
        self, n: int, split: Split, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw `n` examples of one split: inputs ``[n, 10]`` and targets ``[n, 10]``, int64.

        A fair coin for each example decides whether its digits are drawn freely or redrawn until
        at most `MOST_DISTINCT` of them are distinct; examples of other splits are rejected.

        Raises
        ------
        ValueError
            If `n` is below 1 or `split` is none of "train", "validation" and "test".
        """
        inputs = sample_digits(n, split, generator)
        return inputs, self.solve(inputs)


@dataclass(frozen=True)
class Mixture:
    """One of several tasks for each example, drawn evenly; nothing in the input tells which.

    No model can answer better than by guessing the task at the first symbol that tells the tasks
    apart, so four tasks cost about log(4)/10 nats a symbol however long one trains.
    """

    name: str
    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("expected at least 1 task in tasks, got none")

    @property
    def symbols(self) -> int:
        """The largest alphabet among the tasks."""
        return max(task.symbols for task in self.tasks)

    def solve(self, inputs: Tensor) -> Tensor:
        """Refuse: an input of a mixture has several right answers.

        Raises
        ------
        TypeError
            Always; solve with one of `tasks`, or use the targets of `sample`.
        """
        names = ", ".join(task.name for task in self.tasks)
        raise TypeError(f"{self.name} has no single answer; solve with one of its tasks: {names}")

    def sample(
        self, n: int, split: Split, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw `n` examples like `Task.sample`, each solved by a task of its own."""
        inputs = sample_digits(n, split, generator)
        answers = torch.stack([task.rule(inputs) for task in self.tasks])
        choice = torch.randint(len(self.tasks), (n,), generator=generator)
        return inputs, answers[choice, torch.arange(n)]


def _descending(inputs: Tensor) -> Tensor:
    return inputs.sort(dim=-1, descending=True).values


def _ascending(inputs: Tensor) -> Tensor:
    return inputs.sort(dim=-1).values


def _count(inputs: Tensor) -> Tensor:
    return (inputs.unsqueeze(-1) == inputs.unsqueeze(-2)).sum(dim=-1)


SORT_ASCENDING = Task("sort_ascending", _ascending, N_DIGITS)
SORT_DESCENDING = Task("sort_descending", _descending, N_DIGITS)
ADD_ONE = Task("add_one", lambda inputs: inputs + 1, N_DIGITS + 1)
ADD_TWO = Task("add_two", lambda inputs: inputs + 2, N_DIGITS + 2)
MIXTURE = Mixture("mixture", (SORT_ASCENDING, SORT_DESCENDING, ADD_ONE, ADD_TWO))
EITHER_SORT = Mixture("either_sort", (SORT_ASCENDING, SORT_DESCENDING))

# Compositions: one task of the mixture after another.
ASCENDING_ADD_ONE = Task("ascending_add_one", lambda x: _ascending(x) + 1, N_DIGITS + 1)
DESCENDING_ADD_ONE = Task("descending_add_one", lambda x: _descending(x) + 1, N_DIGITS + 1)
ADD_THREE = Task("add_three", lambda x: x + 3, N_DIGITS + 3)

# Tasks that no chain of tasks of the mixture makes.
DOUBLE_HISTOGRAM = Task("double_histogram", _count, SEQUENCE_LENGTH + 1)
ASCENDING_HISTOGRAM = Task(
    "ascending_histogram", lambda x: _count(_ascending(x)), SEQUENCE_LENGTH + 1
)
REVERSE = Task("reverse", lambda x: x.flip(-1), N_DIGITS)
ROTATE = Task("rotate", lambda x: x.roll(-1, dims=-1), N_DIGITS)
RUNNING_MAXIMUM = Task("running_maximum", lambda x: x.cummax(dim=-1).values, N_DIGITS)

_BY_NAME: Registry[Task | Mixture] = Registry(
    "task",
    {
        "sort_ascending": SORT_ASCENDING,
        "sort_descending": SORT_DESCENDING,
        "add_one": ADD_ONE,
        "add_two": ADD_TWO,
        "ascending_add_one": ASCENDING_ADD_ONE,
        "descending_add_one": DESCENDING_ADD_ONE,
        "add_three": ADD_THREE,
        "double_histogram": DOUBLE_HISTOGRAM,
        "ascending_histogram": ASCENDING_HISTOGRAM,
        "reverse": REVERSE,
        "rotate": ROTATE,
        "running_maximum": RUNNING_MAXIMUM,
        "mixture": MIXTURE,
        "either_sort": EITHER_SORT,
    },
)


def task_named(name: str) -> Task | Mixture:
    """Return the task of that name, as run configurations store it.

    Raises
    ------
    ValueError
        If there is none.
    """
    return _BY_NAME[name]


def sample_digits(n: int, split: Split, generator: torch.Generator | None = None) -> Tensor:
    """Draw the inputs ``[n, 10]`` of `n` examples of one split; see `Task.sample`."""
    if n < 1:
        raise ValueError(f"expected at least 1 example, got n={n}")
    _check_split(split)
    share = SPLIT_SHARES[split]
    accepted: list[Tensor] = []
    missing = n
    while missing > 0:
        digits = _draw_digits(int(missing / share) + 16, generator)
        digits = digits[in_split(digits, split)]
        accepted.append(digits[:missing])
        missing -= len(accepted[-1])
    return torch.cat(accepted)


def _draw_digits(n: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``[n, 10]`` digits before the split: the coin, then redraw the rows that must repeat."""
    digits = torch.randint(N_DIGITS, (n, SEQUENCE_LENGTH), generator=generator)
    must_repeat = torch.rand(n, generator=generator) < 0.5
    rows = (must_repeat & (count_distinct(digits) > MOST_DISTINCT)).nonzero().squeeze(1)
    while len(rows) > 0:
        redrawn = torch.randint(N_DIGITS, (len(rows), SEQUENCE_LENGTH), generator=generator)
        digits[rows] = redrawn
        rows = rows[count_distinct(redrawn) > MOST_DISTINCT]
    return digits


def count_distinct(digits: Tensor) -> Tensor:
    """Count the different digits of each row: ``[n, 10] -> [n]``."""
    ordered = digits.sort(dim=-1).values
    return (ordered[:, 1:] != ordered[:, :-1]).sum(dim=-1) + 1


def in_split(digits: Tensor, split: Split) -> Tensor:
    """Tell which sequences ``[n, 10]`` belong to a split: ``[n]``, bool.

    The digits, read as a number in base 8, go through the finaliser of SplitMix64 (Steele, Lea
    and Flood, 2014), a fixed scrambling of 64-bit integers. With the scrambled code ``c``, a
    sequence is for testing if ``c mod 4 = 0``, for validation if ``c mod 8 = 1``, and for training
    otherwise: 4, 2 and 10 of the 16 remainders mod 16. The answer depends on the digits alone, in
    every process and on every machine.

    Raises
    ------
    ValueError
        If `split` is none of "train", "validation" and "test".
    """
    _check_split(split)
    _check_rows("digits", digits)
    code = (digits << (3 * torch.arange(SEQUENCE_LENGTH, device=digits.device))).sum(dim=-1)
    code = code + _signed(0x9E3779B97F4A7C15)
    code = (code ^ _shift_right(code, 30)) * _signed(0xBF58476D1CE4E5B9)
    code = (code ^ _shift_right(code, 27)) * _signed(0x94D049BB133111EB)
    code = code ^ _shift_right(code, 31)
    if split == "test":
        return code % 4 == 0
    if split == "validation":
        return code % 8 == 1
    return (code % 4 != 0) & (code % 8 != 1)


def _check_split(split: str) -> None:
    if split not in get_args(Split):
        raise ValueError(f"expected split 'train', 'validation' or 'test', got {split!r}")


def _signed(constant: int) -> int:
    return constant - (1 << 64)


def _shift_right(code: Tensor, bits: int) -> Tensor:
    """Shift as unsigned: torch's int64 shift would copy the sign bit."""
    return (code >> bits) & ((1 << (64 - bits)) - 1)


def check_digits(inputs: Tensor) -> None:
    """Raise a ValueError unless `inputs` is ``[n, 10]`` with digits 0 to 7, int64."""
    _check_rows("inputs", inputs)
    if len(inputs) and (inputs.min() < 0 or inputs.max() >= N_DIGITS):
        raise ValueError(
            f"expected digits 0 to {N_DIGITS - 1}, got values from "
            f"{int(inputs.min())} to {int(inputs.max())}"
        )


def _check_rows(name: str, rows: Tensor) -> None:
    if rows.ndim != 2 or rows.shape[1] != SEQUENCE_LENGTH:
        raise ValueError(f"expected {name} [n, {SEQUENCE_LENGTH}], got {list(rows.shape)}")
    if rows.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {rows.dtype}; use .long()")


def check_vocabulary(task: Task | Mixture, vocab_size: int) -> None:
    """Raise a ValueError if a model of `vocab_size` symbols cannot write the answers of `task`."""
    if task.symbols > vocab_size:
        raise ValueError(
            f"{task.name} needs {task.symbols} symbols (0 to {task.symbols - 1}), but the model "
            f"has vocab_size={vocab_size}; build it with vocab_size={VOCABULARY}"
        )


def read_and_answer(inputs: Tensor, targets: Tensor) -> Tensor:
    """Join inputs and targets ``[n, 10]`` to what a model reads: ``[n, 19]``.

    The last target is never read. The logits at the last ten positions answer for `targets`.

    Raises
    ------
    ValueError
        If they are not two batches of tokens of one size, int64.
    """
    shape_of("inputs", inputs, "n", "length", integer=True)
    shape_of("targets", targets, inputs.shape[0], "length", integer=True)
    return torch.cat([inputs, targets[:, :-1]], dim=1)


def batches(
    task: Task | Mixture, steps: int, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `steps` training batches, as tokens ``[batch, 19]`` and targets ``[batch, 10]``.

    Examples are drawn for many steps at once: a draw costs some forty small operations however
    many rows it has.

    Raises
    ------
    ValueError
        If `steps` or `batch_size` is below 1.
    """
    whole_number("steps", steps, at_least=1)
    whole_number("batch_size", batch_size, at_least=1)
    return _batches(task, steps, batch_size, generator)


def _batches(
    task: Task | Mixture, steps: int, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    steps_per_draw = 256
    for start in range(0, steps, steps_per_draw):
        in_this_draw = min(steps_per_draw, steps - start)
        inputs, targets = task.sample(in_this_draw * batch_size, "train", generator)
        tokens = read_and_answer(inputs, targets)
        yield from zip(tokens.split(batch_size), targets.split(batch_size), strict=True)


check_public(__name__)

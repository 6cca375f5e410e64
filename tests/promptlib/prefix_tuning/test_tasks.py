"""The tasks: right answers, the promised distribution, and a split that never changes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from math import factorial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptlib.prefix_tuning import tasks
from promptlib.prefix_tuning.tasks import (
    ADD_ONE,
    ADD_THREE,
    ADD_TWO,
    ASCENDING_ADD_ONE,
    ASCENDING_HISTOGRAM,
    DESCENDING_ADD_ONE,
    DOUBLE_HISTOGRAM,
    MIXTURE,
    REVERSE,
    ROTATE,
    RUNNING_MAXIMUM,
    SORT_ASCENDING,
    SORT_DESCENDING,
    Task,
)

COMPOSITIONS = [ASCENDING_ADD_ONE, DESCENDING_ADD_ONE, ADD_THREE]
INVENTIONS = [DOUBLE_HISTOGRAM, ASCENDING_HISTOGRAM, REVERSE, ROTATE, RUNNING_MAXIMUM]
SPLITS: tuple[tasks.Split, ...] = ("train", "validation", "test")
SINGLE_TASKS = [*MIXTURE.tasks, *COMPOSITIONS, *INVENTIONS]
EXAMPLE = [3, 1, 3, 0, 7, 1, 1, 5, 0, 3]


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        (SORT_ASCENDING, [0, 0, 1, 1, 1, 3, 3, 3, 5, 7]),
        (SORT_DESCENDING, [7, 5, 3, 3, 3, 1, 1, 1, 0, 0]),
        (ADD_ONE, [4, 2, 4, 1, 8, 2, 2, 6, 1, 4]),
        (ADD_TWO, [5, 3, 5, 2, 9, 3, 3, 7, 2, 5]),
        (ASCENDING_ADD_ONE, [1, 1, 2, 2, 2, 4, 4, 4, 6, 8]),
        (DESCENDING_ADD_ONE, [8, 6, 4, 4, 4, 2, 2, 2, 1, 1]),
        (ADD_THREE, [6, 4, 6, 3, 10, 4, 4, 8, 3, 6]),
        (DOUBLE_HISTOGRAM, [3, 3, 3, 2, 1, 3, 3, 1, 2, 3]),
        (ASCENDING_HISTOGRAM, [2, 2, 3, 3, 3, 3, 3, 3, 1, 1]),
        (REVERSE, [3, 0, 5, 1, 1, 7, 0, 3, 1, 3]),
        (ROTATE, [1, 3, 0, 7, 1, 1, 5, 0, 3, 3]),
        (RUNNING_MAXIMUM, [3, 3, 3, 3, 7, 7, 7, 7, 7, 7]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_example_by_hand(task: Task, answer: list[int]) -> None:
    assert task.solve(torch.tensor([EXAMPLE])).tolist() == [answer]


@given(st.lists(st.integers(0, 7), min_size=10, max_size=10))
@settings(max_examples=50, deadline=None)
def test_answers_agree_with_python(digits: list[int]) -> None:
    inputs = torch.tensor([digits])
    counts = Counter(digits)
    assert SORT_ASCENDING.solve(inputs).tolist() == [sorted(digits)]
    assert SORT_DESCENDING.solve(inputs).tolist() == [sorted(digits, reverse=True)]
    assert ASCENDING_ADD_ONE.solve(inputs).tolist() == [[d + 1 for d in sorted(digits)]]
    assert DOUBLE_HISTOGRAM.solve(inputs).tolist() == [[counts[d] for d in digits]]
    assert tasks.count_distinct(inputs).tolist() == [len(counts)]


def test_a_count_of_ten_fits_the_vocabulary() -> None:
    answer = DOUBLE_HISTOGRAM.solve(torch.full((1, 10), 7))
    assert answer.max() == 10 == tasks.VOCABULARY - 1


@pytest.mark.parametrize("task", [*SINGLE_TASKS, MIXTURE], ids=lambda task: task.name)
@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_of_their_split_and_solved(task: Task, split: str) -> None:
    inputs, targets = task.sample(503, split, torch.Generator().manual_seed(1))
    assert inputs.shape == targets.shape == (503, 10)
    assert tasks.in_split(inputs, split).all()
    assert targets.max() < task.symbols <= tasks.VOCABULARY
    if isinstance(task, Task):
        assert torch.equal(targets, task.solve(inputs))


def test_the_mixture_draws_its_tasks_evenly_and_independently_of_the_input() -> None:
    n = 20_000
    inputs, targets = MIXTURE.sample(n, "train", torch.Generator().manual_seed(2))
    answers = torch.stack([task.solve(inputs) for task in MIXTURE.tasks])
    fits = (answers == targets).all(dim=-1)
    assert (fits.sum(dim=0) >= 1).all()
    shares = fits.double().mean(dim=1)
    standard_error = (0.25 * 0.75 / n) ** 0.5
    assert ((shares - 0.25).abs() < 5 * standard_error).all()


def test_the_same_seed_gives_the_same_sample() -> None:
    first, second = (
        SORT_ASCENDING.sample(37, "train", torch.Generator().manual_seed(3))[0] for _ in range(2)
    )
    assert torch.equal(first, second)


def exact_share_of_few_distinct() -> Fraction:
    """Count the sequences with at most five distinct digits by inclusion and exclusion."""
    digits, length = tasks.N_DIGITS, tasks.SEQUENCE_LENGTH

    def binomial(n: int, k: int) -> int:
        return factorial(n) // factorial(k) // factorial(n - k)

    few = 0
    for used in range(1, tasks.MOST_DISTINCT + 1):
        onto = sum((-1) ** i * binomial(used, i) * (used - i) ** length for i in range(used + 1))
        few += binomial(digits, used) * onto
    return Fraction(few, digits**length)


def test_the_coin_and_the_redrawing_give_the_promised_shares() -> None:
    """Half the samples are free, half are conditioned: P(few) = (1 + q) / 2."""
    n = 40_000
    inputs = tasks._draw_digits(n, torch.Generator().manual_seed(4))
    few = float((tasks.count_distinct(inputs) <= tasks.MOST_DISTINCT).double().mean())
    expected = float((1 + exact_share_of_few_distinct()) / 2)
    assert abs(few - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


def test_redrawing_keeps_the_distribution_among_sequences_with_few_distinct_digits() -> None:
    """The number of distinct digits, given that there are few, is as in free draws."""
    generator = torch.Generator().manual_seed(5)
    free = torch.randint(8, (60_000, 10), generator=generator)
    mixed = tasks._draw_digits(60_000, generator)
    shares = []
    for digits in (free, mixed):
        distinct = tasks.count_distinct(digits)
        few = distinct[distinct <= tasks.MOST_DISTINCT]
        shares.append((few.bincount(minlength=6)[:6].double() / len(few), len(few)))
    (a, n_a), (b, n_b) = shares
    standard_error = (a * (1 - a) * (1 / n_a + 1 / n_b)).sqrt().clamp(min=1e-4)
    assert ((a - b).abs() < 4.5 * standard_error).all()
    frequencies = mixed.flatten().bincount().double() / mixed.numel()
    assert (frequencies - 1 / 8).abs().max() < 0.005


def test_every_sequence_has_one_split_of_its_share_and_all_look_alike() -> None:
    digits = torch.randint(8, (100_000, 10), generator=torch.Generator().manual_seed(6))
    members = {split: tasks.in_split(digits, split) for split in SPLITS}
    assert (sum(member.int() for member in members.values()) == 1).all()
    assert sum(tasks.SPLIT_SHARES.values()) == 1
    for split, member in members.items():
        share = tasks.SPLIT_SHARES[split]
        error = (share * (1 - share) / 1e5) ** 0.5
        assert abs(float(member.double().mean()) - share) < 4 * error
        some = digits[member].double()
        assert (some.mean(0) - 3.5).abs().max() < 5 * 2.3 / len(some) ** 0.5


def test_neighbours_do_not_share_their_split() -> None:
    """Changing one digit is like a new draw, at every place of the sequence."""
    digits = torch.randint(8, (20_000, 10), generator=torch.Generator().manual_seed(7))
    for place in range(10):
        changed = digits.clone()
        changed[:, place] = (changed[:, place] + 1) % 8
        for split, share in tasks.SPLIT_SHARES.items():
            agree = tasks.in_split(digits, split) == tasks.in_split(changed, split)
            assert abs(float(agree.double().mean()) - (share**2 + (1 - share) ** 2)) < 0.02


def test_the_split_is_splitmix64() -> None:
    """Against the same scrambling written with Python's integers."""

    def python_split(digits: list[int]) -> str:
        mask = (1 << 64) - 1
        code = sum(digit * 8**place for place, digit in enumerate(digits))
        code = (code + 0x9E3779B97F4A7C15) & mask
        code = ((code ^ (code >> 30)) * 0xBF58476D1CE4E5B9) & mask
        code = ((code ^ (code >> 27)) * 0x94D049BB133111EB) & mask
        remainder = (code ^ (code >> 31)) % 16
        return "test" if remainder % 4 == 0 else "validation" if remainder in (1, 9) else "train"

    digits = torch.randint(8, (500, 10), generator=torch.Generator().manual_seed(8))
    expected = [python_split(row) for row in digits.tolist()]
    assert set(expected) == set(SPLITS)
    for split in SPLITS:
        assert tasks.in_split(digits, split).tolist() == [one == split for one in expected]


def test_the_split_is_the_same_in_every_process() -> None:
    code = (
        "import torch; from promptlib.prefix_tuning import tasks;"
        "d = torch.arange(640).reshape(64, 10) * 5 % 8;"
        "print([tasks.in_split(d, s).int().tolist() for s in ('train', 'validation', 'test')])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    digits = torch.arange(640).reshape(64, 10) * 5 % 8
    assert printed.strip() == str([tasks.in_split(digits, one).int().tolist() for one in SPLITS])


def test_batches_are_what_a_model_reads() -> None:
    generator = torch.Generator().manual_seed(9)
    drawn = list(tasks.batches(SORT_DESCENDING, 259, 3, generator))
    assert len(drawn) == 259
    for tokens, targets in itertools.islice(drawn, 250, 259):
        assert tokens.shape == (3, 19)
        assert targets.shape == (3, 10)
        inputs, answers_read = tokens[:, :10], tokens[:, 10:]
        assert torch.equal(SORT_DESCENDING.solve(inputs), targets)
        assert torch.equal(answers_read, targets[:, :-1])


def test_every_task_is_found_by_its_name() -> None:
    for task in (*SINGLE_TASKS, MIXTURE, tasks.EITHER_SORT):
        assert tasks.task_named(task.name) is task
    with pytest.raises(ValueError, match=r"no task is called 'sort'; there are sort_ascending"):
        tasks.task_named("sort")


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"values from 0 to 8"):
        SORT_ASCENDING.solve(torch.arange(10).clamp(max=8).unsqueeze(0))
    with pytest.raises(ValueError, match=r"\[1, 9\]"):
        SORT_ASCENDING.solve(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="n=0"):
        SORT_ASCENDING.sample(0, "train")
    for ask in (SORT_ASCENDING.sample, tasks.sample_digits):
        with pytest.raises(ValueError, match=r"split must be one of 'train', .*'test'; got 'dev'"):
            ask(1, "dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"split must be one of 'train', .*'test'; got 'dev'"):
        tasks.in_split(torch.zeros(1, 10, dtype=torch.long), "dev")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no single answer"):
        MIXTURE.solve(torch.zeros(1, 10, dtype=torch.long))


def test_a_vocabulary_that_is_too_small_is_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"double_histogram needs 11 .* vocab_size=10; .*=11"):
        tasks.check_vocabulary(DOUBLE_HISTOGRAM, 10)
    tasks.check_vocabulary(ADD_TWO, 10)

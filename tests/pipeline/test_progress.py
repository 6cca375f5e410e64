"""What a build says while it runs: counts that are true, and a time that follows its own speed."""

import io

import pytest

from workflow.progress import Progress, expected_seconds


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    """Text that is written to a terminal."""

    def isatty(self):
        return True

    def fileno(self):
        raise OSError("no file")


@pytest.fixture
def clock():
    return Clock()


def test_the_estimate_follows_the_speed_of_the_build(clock):
    progress = Progress(dict.fromkeys("abcd", 100.0), {"w/n": 40.0}, 2, io.StringIO(), clock)
    assert progress.left() == "about 4 min"  # 440 s on two cores and the site
    for name in "ab":
        progress.line(f"trained {name}: 100.0 s\n")
    clock.seconds = 400.0  # four times as slow as expected
    slow = progress.left()
    assert slow == "about 9 min"
    for name in "cd":
        progress.line(f"trained {name}: 100.0 s\n")
    progress.line("executed w/n: 3.0 s, 90 MiB\n")
    assert progress.state().startswith("[4/4 runs, 1/1 notebooks, about ")


def test_a_log_has_a_line_a_notebook_and_few_for_runs(clock):
    out = io.StringIO()
    progress = Progress(dict.fromkeys(map(str, range(100)), 1.0), {"w/n": 1.0}, 1, out, clock)
    progress.start()
    for name in range(100):
        clock.seconds += 1
        progress.line(f"trained {name}: 1.0 s\n")
    progress.line("executed w/n: 1.0 s, 90 MiB\n")
    progress.line("warning: something else\n")
    text = out.getvalue()
    assert text.startswith("To do: 100 training runs, up to 1 notebooks")
    assert 3 <= text.count("trained") <= 8
    assert "[100/100 runs, 1/1 notebooks, about" in text
    assert "warning: something else" in text
    assert not {"\x1b", "\r"} & set(text)


def test_nothing_to_do_says_nothing(clock):
    out = io.StringIO()
    Progress({}, {}, 2, out, clock).start()
    assert out.getvalue() == ""


def test_a_dumb_terminal_gets_lines(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not Progress({}, {}, 1, Terminal(), clock).rewrites
    monkeypatch.setenv("TERM", "xterm")
    assert Progress({}, {}, 1, Terminal(), clock).rewrites


def test_lines_of_unknown_jobs_are_passed_on(clock):
    out = io.StringIO()
    Progress({"a": 1.0}, {}, 1, out, clock).line("trained b: 1.0 s\n")
    assert out.getvalue() == "trained b: 1.0 s\n"


def test_expected_seconds_come_from_the_record_and_never_fail(tmp_path):
    effort = tmp_path / "effort.json"
    effort.write_text('{"runs": {"w/n": {"train": 7.5}}, "notebooks": {"w/n": 3}}')
    missing = {"r1": ("w/n", "train"), "r2": ("w/n", "other")}
    runs, notebooks = expected_seconds(missing, ["w/n", "w/m"], effort)
    assert runs == {"r1": 7.5, "r2": 4.0}
    assert notebooks == {"w/n": 3.0, "w/m": 4.0}
    assert expected_seconds(missing, [], tmp_path / "none")[0] == {"r1": 4.0, "r2": 4.0}

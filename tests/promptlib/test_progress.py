"""The progress bar shows itself where a person watches, and leaves no trace in a notebook."""

import tqdm.notebook

from promptlib import progress


def test_items_pass_unchanged_and_the_bar_names_the_work(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert list(progress.progress_bar(iter("abc"), "counting", total=3)) == ["a", "b", "c"]
    assert "counting" in capsys.readouterr().err


def test_the_variable_silences_bars_in_terminals_and_notebooks(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    for bar in (progress.tqdm, tqdm.notebook.tqdm):
        monkeypatch.setattr(progress, "tqdm", bar)
        assert list(progress.progress_bar([1, 2], "silent")) == [1, 2]
    captured = capsys.readouterr()
    assert captured.err + captured.out == ""

"""The archive is judged again only when something that decides its answer has changed."""

import dataclasses

import pytest

from tests.site import little
from workflow import archived_memory, site_update
from workflow.archived import read_archive
from workflow.archived_memory import read_archive_again


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A way to ask of a little archive: what it says, and whether it was judged for that."""
    book = little.make(tmp_path / "book")
    book.archive(little.a_claim(values=[91.0] * 5))
    judged = []

    def watched(*given):
        judged.append(given)
        return read_archive(*given)

    monkeypatch.setattr(archived_memory, "read_archive", watched)
    kept = tmp_path / "kept" / "archived.pickle"

    def ask(claim=None):
        judged.clear()
        claim = claim or little.a_claim()
        found = read_archive_again(book.root / "archive", {claim.id: claim}, None, kept)
        assert found == read_archive(book.root / "archive", {claim.id: claim})
        return found, bool(judged)

    ask.book, ask.kept = book, kept
    return ask


def test_the_same_question_is_answered_from_memory(asked):
    first, judged = asked()
    assert judged
    assert list(first.claims) == ["wing/line-rises"]
    again, judged = asked()
    assert not judged
    assert again == first


def test_another_archive_claim_or_library_is_judged(asked, monkeypatch):
    asked()
    asked.book.archive(little.a_claim(values=[61.0] * 5))
    found, judged = asked()
    assert judged
    assert found.claims["wing/line-rises"].value == 61.0
    moved = dataclasses.replace(little.a_claim(), sentence="The line falls.")
    found, judged = asked(moved)
    assert judged
    assert len(found.stale) == 1
    monkeypatch.setattr(site_update.sysconfig, "get_path", lambda name: "other-packages")
    assert asked(moved)[1]
    assert not asked(moved)[1]


def test_a_damaged_memory_is_forgotten(asked):
    first, _ = asked()
    asked.kept.write_bytes(asked.kept.read_bytes()[:40])
    assert asked() == (first, True)

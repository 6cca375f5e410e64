"""After an edit the site is what rendering everything gives, whatever of it was rendered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.site import little
from tests.site.test_stage import stage_it
from workflow import site, site_update
from workflow.sources import BuildError

PROSE = "It has one theorem."


def edit_source(book: little.Little, old: str, new: str) -> None:
    """Change the prose of the chapter; its outputs stay."""
    source = book.root / "notebooks" / little.NAME / "chapter.md"
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))


def append(book: little.Little, name: str, text: str) -> None:
    path = book.root / "book" / name
    path.write_text(path.read_text() + text)


def add_page(book: little.Little) -> None:
    append(book, "_toc.yml", "      - file: more\n")
    (book.root / "book" / "more.md").write_text("# More\n\nSee {doc}`wing/chapter`.\n")


def remove_page(book: little.Little) -> None:
    toc = book.root / "book" / "_toc.yml"
    toc.write_text(toc.read_text().replace("      - file: extra\n", ""))
    (book.root / "book" / "extra.md").unlink()


def rename_label(book: little.Little) -> None:
    edit_source(book, ":label: thm-one", ":label: thm-first")
    home = book.root / "book" / "index.md"
    home.write_text(home.read_text().replace("thm-one", "thm-first"))


def change_verdict(book: little.Little) -> None:
    record = json.loads(book.claims_file.read_text())["claims"][0]
    assert record["verdict"] == "supported"
    book.write_claims([record | {"verdict": "contradicted"}])


def edit_two_pages(book: little.Little) -> None:
    edit_source(book, PROSE, "It has a theorem and an aardvark.")
    append(book, "index.md", "\nThe home has an aardvark, and `code`.\n")


def change_style(book: little.Little) -> None:
    assets = book.root / "book" / "assets"
    linked = assets.resolve()
    assets.unlink()
    assets.mkdir()
    for path in linked.iterdir():
        (assets / path.name).symlink_to(path)
    style = assets / "book.css"
    text = style.read_text()
    style.unlink()
    style.write_text(text + "\n.aardvark { color: red }\n")


@dataclass
class Kept:
    """A little book whose site was built and kept, and the pages rendered since, call by call."""

    book: little.Little
    rendered: list[tuple[str, ...]]

    @property
    def site(self) -> Path:
        return self.book.root / "site"

    def build(self) -> None:
        stage_it(self.book)
        site.build(self.book.staged, self.site, kept=self.book.root / "kept")

    def fresh(self) -> dict[str, str]:
        """What a build of everything gives."""
        site.build(self.book.staged, self.book.root / "fresh")
        return site_update.digests(self.book.root / "fresh")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    book = little.make(tmp_path / "book")
    book.archive(little.a_claim(values=[91.0] * 5))
    append(book, "_toc.yml", "      - file: extra\n")
    (book.root / "book" / "extra.md").write_text(
        "# Extra\n\n## A part\n\nThe only yak lives here.\n"
    )
    rendered: list[tuple[str, ...]] = []
    render = site._render

    def watched(staged: Path, to: Path, trees: Path, *options: str) -> tuple[int, str]:
        rendered.append(options)
        return render(staged, to, trees, *options)

    monkeypatch.setattr(site, "_render", watched)
    made = Kept(book, rendered)
    made.build()
    rendered.clear()
    return made


ALL = "--cores=1"


@pytest.mark.parametrize(
    ("edit", "rendered"),
    [
        (lambda book: edit_source(book, PROSE, "It has an aardvark."), [little.NAME]),
        (
            lambda book: edit_source(
                book, PROSE, f"{PROSE}\n\n- A list, `x`, {{doc}}`../rerun`.\n"
            ),
            [little.NAME],
        ),
        (edit_two_pages, ["index", little.NAME]),
        (
            lambda book: (book.root / "book/extra.md").write_text(
                "# Extra\n\n## A part\n\nNone.\n"
            ),
            ["extra"],
        ),
        (lambda book: edit_source(book, "A line.", "Another line."), None),
        (lambda book: edit_source(book, "about prefixes", "about prompts"), None),
        (lambda book: edit_source(book, PROSE, "{lib}`promptlib.thing.measure`"), None),
        (add_page, None),
        (remove_page, None),
        (rename_label, None),
        (change_verdict, None),
        (change_style, None),
    ],
)
def test_an_update_gives_the_bytes_of_a_fresh_build(
    kept: Kept, edit: Callable[[little.Little], object], rendered: list[str] | None
):
    before = site_update.digests(kept.site)
    edit(kept.book)
    kept.build()
    if rendered is None:
        assert kept.rendered[-1] == (ALL,)
    else:
        assert [set(options) for options in kept.rendered] == [{"--only", *rendered}]
    after = site_update.digests(kept.site)
    assert after != before
    assert after == kept.fresh()


def test_edits_add_up_and_can_be_taken_back(kept):
    before = site_update.digests(kept.site)
    edit_source(kept.book, PROSE, "It has an aardvark.")
    kept.build()
    append(kept.book, "extra.md", "\nAnd a zebra.\n")
    kept.build()
    assert site_update.digests(kept.site) == kept.fresh()
    stage_it(kept.book)
    edit_source(kept.book, "It has an aardvark.", PROSE)
    path = kept.book.root / "book" / "extra.md"
    path.write_text(path.read_text().replace("\nAnd a zebra.\n", ""))
    kept.rendered.clear()
    kept.build()
    assert kept.rendered == []
    assert site_update.digests(kept.site) == before


def test_a_page_with_a_warning_is_refused_each_time_and_nothing_of_it_is_kept(kept):
    before = site_update.digests(kept.site)
    append(kept.book, "extra.md", "\nSee {ref}`nothing`.\n")
    for _ in range(2):
        with pytest.raises(BuildError, match="undefined label: 'nothing'"):
            kept.build()
        assert site_update.digests(kept.site) == before
    path = kept.book.root / "book" / "extra.md"
    path.write_text(path.read_text().replace("{ref}`nothing`", "nothing"))
    kept.build()
    assert site_update.digests(kept.site) == kept.fresh()


def test_a_kept_site_that_was_damaged_or_made_otherwise_is_not_used(kept, monkeypatch):
    (kept.book.root / "kept" / "site" / "index.html").write_text("not what was kept")
    kept.build()
    assert kept.rendered == [(ALL,)]
    kept.build()
    assert kept.rendered == [(ALL,)]
    monkeypatch.setattr(site_update.sysconfig, "get_path", lambda name: "other-packages")
    kept.build()
    assert kept.rendered == [(ALL,), (ALL,)]


def test_two_cores_give_the_bytes_of_one(kept):
    site.build(kept.book.staged, kept.book.root / "two", cores=2)
    assert site_update.digests(kept.book.root / "two") == site_update.digests(kept.site)

"""Readers of the published site never see half of one."""

from __future__ import annotations

import threading

import pytest

from workflow.publish import publish
from workflow.sources import BuildError


def make_site(build, name):
    site = build / "sites" / name
    (site / "pages").mkdir(parents=True)
    (site / "index.html").write_text(name)
    (site / "pages" / "deep.html").write_text(name)
    return site


@pytest.fixture
def build(tmp_path):
    """An empty build folder."""
    (tmp_path / "_build").mkdir()
    return tmp_path / "_build"


def test_the_address_shows_the_site(build):
    html = publish(make_site(build, "one"), build / "html")
    assert html == build / "html"
    assert (html / "index.html").read_text() == "one"
    publish(make_site(build, "two"), html)
    assert (html / "index.html").read_text() == "two"


def test_publishing_again_changes_nothing(build):
    site = make_site(build, "one")
    publish(site, build / "html")
    inode = (build / "html").lstat().st_ino
    publish(site, build / "html")
    assert (build / "html").lstat().st_ino == inode


def test_the_site_may_move_with_its_folder(build):
    publish(make_site(build, "one"), build / "html")
    moved = build.rename(build.with_name("elsewhere"))
    assert (moved / "html" / "index.html").read_text() == "one"


def test_an_unfinished_site_is_refused_and_the_last_good_one_stays(build):
    publish(make_site(build, "one"), build / "html")
    broken = make_site(build, "broken")
    (broken / "index.html").unlink()
    with pytest.raises(BuildError, match="not a finished site"):
        publish(broken, build / "html")
    assert (build / "html" / "index.html").read_text() == "one"


def test_a_folder_of_somebody_else_is_not_replaced(build):
    (build / "html").mkdir()
    (build / "html" / "mine.txt").write_text("mine")
    with pytest.raises(BuildError, match="move it away first"):
        publish(make_site(build, "one"), build / "html")
    assert (build / "html" / "mine.txt").read_text() == "mine"


def test_old_sites_go_and_the_one_before_stays(build):
    for name in ("one", "two", "three"):
        publish(make_site(build, name), build / "html")
    assert sorted(path.name for path in (build / "sites").iterdir()) == ["three", "two"]


def test_a_site_that_a_receipt_promises_stays(build):
    for profile in ("paper", "quick"):
        (build / profile).mkdir()
    publish(make_site(build, "one"), build / "html")
    (build / "paper" / "site.receipt").write_text("sites/one\n")
    (build / "sites" / ".quick.partial").mkdir()
    for name in ("two", "three"):
        publish(make_site(build, name), build / "html")
    names = sorted(path.name for path in (build / "sites").iterdir())
    assert names == [".quick.partial", "one", "three", "two"]


def test_a_reader_always_finds_a_whole_site(build):
    sites = []
    for name in ("one", "two"):
        sites.append(make_site(build, name))
        publish(sites[-1], build / "html")
    done = threading.Event()
    seen: set[str] = set()
    faults: list[OSError] = []

    def read():
        while not done.is_set():
            try:
                seen.add((build / "html" / "pages" / "deep.html").read_text())
            except OSError as fault:
                faults.append(fault)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(400):
            publish(sites[turn % 2], build / "html")
    finally:
        done.set()
        reader.join()
    assert faults == []
    assert seen == {"one", "two"}

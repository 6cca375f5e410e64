"""Optional extras: what is installed decides a notebook's key, and nothing is installed unasked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from notebooks.prefix_tuning.real_architectures import extra
from workflow import extras, freshness, profile_config
from workflow.extras import installed, state, versions
from workflow.profile_config import NotebookPlan
from workflow.sources import BuildError, Source

ROOT = Path(__file__).resolve().parents[2]
PROJECT = """\
[project]
name = "x"
[project.optional-dependencies]
real = ["pytest==1", "no-such-package==2"]  # one is here, one is not
half = ["no-such-package"]
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return tmp_path


@pytest.fixture
def pretend(monkeypatch):
    """Let the given versions be installed, and nothing else."""

    def pretend(**found):
        def version(package):
            name = package.replace("-", "_")
            if name not in found:
                raise extras.importlib.metadata.PackageNotFoundError(package)
            return found[name]

        monkeypatch.setattr(extras.importlib.metadata, "version", version)

    return pretend


def test_an_extra_is_installed_when_all_of_it_is(project, pretend):
    pretend(pytest="1.5")
    assert versions("real", project) == {"pytest": "1.5", "no-such-package": None}
    assert not installed("real", project)
    assert state("real", project) == {"real": None}
    pretend(pytest="1.5", no_such_package="2")
    assert installed("real", project)
    assert state("real", project) == {"real": {"pytest": "1.5", "no-such-package": "2"}}
    assert state(None, project) == {}


def test_installing_or_upgrading_an_extra_changes_the_key_of_its_notebook_only(pretend):
    name = "prefix_tuning/cannot_re_aim"
    plain = NotebookPlan(Source(name), {"seed": 0})
    needing = NotebookPlan(Source(name), {"seed": 0}, needs="real")
    packages = [package.replace("-", "_") for package in extras.extras()["real"]]
    pretend()
    before = plain.key, needing.key
    assert before[0] != before[1]
    pretend(**dict.fromkeys(packages[:1], "1"))
    assert (plain.key, needing.key) == before  # a part of an extra is no extra
    pretend(**dict.fromkeys(packages, "1"))
    after = plain.key, needing.key
    assert after[0] == before[0]
    assert after[1] != before[1]
    pretend(**dict.fromkeys(packages, "2"))
    assert needing.key != after[1]


def test_a_site_is_stale_when_an_extra_that_it_needs_changed(project, pretend):
    record, output = project / "built.json", project / "out"
    output.write_text("x")
    pretend(pytest="1")
    freshness.record_build(record, project, [output], ["real"])
    assert freshness.is_fresh(record, project)
    pretend(pytest="1", no_such_package="2")
    assert not freshness.is_fresh(record, project)
    freshness.record_build(record, project, [output])  # a book that needs none
    assert freshness.is_fresh(record, project)
    pretend()
    assert freshness.is_fresh(record, project)


def test_a_profile_may_only_ask_for_extras_that_there_are(tmp_path, monkeypatch):
    plans = {name: None for name in profile_config.names()}
    plans["prefix_tuning/new_task"] = {"needs": "rael"}
    (tmp_path / "quick.yml").write_text(json.dumps({"notebooks": plans}))
    monkeypatch.setattr(profile_config, "CONFIG", tmp_path)
    with pytest.raises(BuildError, match=r"no extra 'rael' .*did you mean 'real'"):
        profile_config.load_profile("quick")


def test_the_library_and_the_project_name_the_same_packages():
    assert list(extra.PACKAGES) == extras.extras()["real"]
    assert extra.missing() == [name for name, found in versions("real").items() if found is None]
    assert extra.HOW in extra.explanation()


def test_asking_for_extras_loads_neither_torch_nor_the_extra():
    code = (
        "import sys, workflow.build, workflow.extras;"
        "from notebooks.prefix_tuning.real_architectures import extra;"
        "extra.versions(); workflow.extras.state('real');"
        "assert not {'torch', 'transformers', 'peft', 'yaml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def make(*arguments):
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["book", "test"])
@pytest.mark.parametrize("torch", ["pip", "cpu", "gpu"])
def test_make_installs_the_extra_when_asked_with_every_torch(command, torch):
    asked = make(command, "EXTRAS=real", f"TORCH={torch}")
    assert asked.returncode == 0, asked.stderr
    (line,) = (line for line in asked.stdout.splitlines() if "'.[real]'" in line)
    assert "--constraint constraints.txt" in line
    assert "--upgrade" not in asked.stdout
    unasked = make(command, "EXTRAS=", f"TORCH={torch}")
    assert "[real]" not in unasked.stdout


@pytest.mark.parametrize("command", ["notebook", "lab", "bench", "record", "archive"])
def test_no_command_that_installs_forgets_the_extra(command):
    """When pins change, whichever command comes first must renew the extra, too."""
    assert "'.[real]'" in make(command, "EXTRAS=real").stdout


def test_make_refuses_extras_that_there_are_not():
    refused = make("book", "EXTRAS=rael")
    assert refused.returncode != 0
    assert "EXTRAS must be real, or empty, got 'rael'" in refused.stderr

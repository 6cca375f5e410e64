"""uv installs by the settings of pip, and pip where there is no word for one, or uv fails."""

import stat
import sys

import pytest

from workflow import install

LISTED = """\
global.cert='/etc/ssl/all.crt'
global.extra-index-url='https://one.example/simple\\nfile:///two'
install.find-links='/wheels'
download.no-deps='true'
:env:.find-links='/other'
:env:.disable_pip_version_check='1'
:env:.default-timeout='180'
"""


def test_settings_of_pip_are_said_to_uv():
    given = install.settings(LISTED)
    assert given["find-links"] == "/other"  # variables come last
    assert "no-deps" not in given
    options, variables = install.for_uv(given)
    assert options[:2] == ["--index-strategy", "unsafe-best-match"]
    told = {(name, value) for name, value in zip(options[2::2], options[3::2], strict=True)}
    assert told == {
        ("--extra-index-url", "https://one.example/simple"),
        ("--extra-index-url", "file:///two"),
        ("--find-links", "/other"),
    }
    assert variables == {"SSL_CERT_FILE": "/etc/ssl/all.crt", "UV_HTTP_TIMEOUT": "180"}


def test_a_setting_that_uv_has_no_word_for_leaves_it_to_pip():
    assert install.for_uv({"keyring-provider": "import"}) is None
    assert install.settings("") == {}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """What a Python is called with that has the settings above, and installs nothing."""

    def recording(*, settings=LISTED, fails=()):
        log, python = tmp_path / "calls", tmp_path / "python"
        (tmp_path / "settings").write_text(settings)
        refuse = "".join(f'case "$*" in *{word}*) exit 3;; esac\n' for word in fails)
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *config*) exec cat "{tmp_path / "settings"}";; esac\n'
            f'echo "$* [$SSL_CERT_FILE]" >> "{log}"\n{refuse}'
        )
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(python))
        status = install.install(["--constraint", "c.txt", "one==1"])
        return status, log.read_text().splitlines()

    return recording


def test_uv_installs_and_pip_only_uv(calls):
    status, (uv, rest) = calls()
    assert status == 0
    assert uv.startswith(f"-E -m pip install --quiet {install.UV} ")
    assert rest.startswith("-E -m uv pip install ")
    assert rest.endswith("--constraint c.txt one==1 [/etc/ssl/all.crt]")


@pytest.mark.parametrize("fails", ["-m uv", "uv=="])
def test_what_uv_fails_at_pip_tries_again_and_its_status_holds(calls, fails):
    status, called = calls(fails=[f'"{fails}"'])
    assert status == 0
    assert called[-1].startswith("-E -m pip install --quiet --constraint c.txt one==1 ")
    status, called = calls(fails=['"one=="', f'"{fails}"'])
    assert status == 3


def test_pip_alone_where_a_setting_has_no_word(calls):
    status, called = calls(settings="global.no-binary=':all:'\n")
    assert status == 0
    assert [line.split(" [")[0] for line in called] == [
        "-E -m pip install --quiet --constraint c.txt one==1"
    ]

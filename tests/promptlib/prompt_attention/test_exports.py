"""The package shows its public names without loading torch."""

import subprocess
import sys

import pytest

import promptlib.prompt_attention as package


def test_importing_the_package_does_not_load_torch():
    script = "import sys, promptlib.prompt_attention; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name):
    value = getattr(package, name)
    assert name in dir(package)
    if callable(value):
        assert value.__doc__


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'softmax'"):
        package.softmax  # noqa: B018

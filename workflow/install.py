"""Install packages into the environment of this Python: with uv, or where that fails, with pip.

``python -E workflow/install.py ARGUMENTS``, with arguments that both know. uv takes a third of the
time and goes by pip's settings here: the index, the certificates, the constraints. It is not used
where there is a setting that it has no word for, and whatever it fails at, pip tries again, and
says what is wrong. A script, not a module: the clean environment would hide the settings.
"""

import ast
import os
import re
import signal
import subprocess
import sys

UV = "uv==0.13.9"
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
"""Options of uv for settings of pip that hold one value or several."""
VARIABLES = {
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""Variables of uv for settings of pip."""
NO_MATTER = {"disable-pip-version-check", "user", "quiet", "verbose", "progress-bar", "no-color"}
NO_MATTER |= {"no-input", "cache-dir", "retries", "break-system-packages", "root-user-action"}


def settings(listed: str) -> dict[str, str]:
    """Settings of ``pip install`` by name, from what ``pip config list`` prints."""
    found: dict[tuple[int, str], str] = {}
    for section, name, value in re.findall(
        r"^(global|install|:env:)\.([\w-]+)=(.*)$", listed, re.M
    ):
        rank = ("global", "install", ":env:").index(section)
        found[rank, name.replace("_", "-")] = str(ast.literal_eval(value))
    return {name: found[rank, name] for rank, name in sorted(found)}  # the last one holds


def for_uv(given: dict[str, str]) -> tuple[list[str], dict[str, str]] | None:
    """Options and variables that say the same to uv; None if there are none for a setting."""
    options, variables = ["--index-strategy", "unsafe-best-match"], {}  # as pip chooses
    for name, value in given.items():
        if name in OPTIONS:
            options += [word for part in value.split() for word in (OPTIONS[name], part)]
        elif name in VARIABLES:
            variables[VARIABLES[name]] = value
        elif name not in NO_MATTER:
            return None
    return options, variables


def install(arguments: list[str]) -> int:
    """Exit status of the installation."""
    pip = [sys.executable, "-E", "-m", "pip"]
    listed = subprocess.run(
        [*pip, "config", "list"], stdout=subprocess.PIPE, text=True, check=False
    )
    translated = for_uv(settings(listed.stdout)) if listed.returncode == 0 else None
    if translated is not None:
        options, variables = translated
        uv = [sys.executable, "-E", "-m", "uv", "pip", "install", "--quiet", "--compile-bytecode"]
        for step in (
            [*pip, "install", "--quiet", UV],
            [*uv, "--python", sys.executable, *options, *arguments],
        ):
            done = subprocess.run(
                step, env=os.environ | variables, stderr=subprocess.DEVNULL, check=False
            )
            if done.returncode != 0:
                break
        else:
            return 0
    return subprocess.run([*pip, "install", "--quiet", *arguments], check=False).returncode


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(install(sys.argv[1:]))

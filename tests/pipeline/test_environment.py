"""What is the reader's own stays outside the book: settings, home folder, rights, odd places."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.pipeline.small_book import Book
from workflow import environment, execute

STARTUP = "raise SystemExit('the reader has a start-up file')\n"


def test_only_what_is_allowed_passes_and_cleaning_again_changes_nothing(tmp_path):
    (tmp_path / ".gitconfig").touch()
    given = {
        "HOME": str(tmp_path),
        "PATH": "/bin",
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "error",
        "OMP_NUM_THREADS": "7",
        "LC_ALL": "C",
        "MKL_CBWR": "AVX2",
        "GIT_DIR": "/git",
        "SOME_FUTURE_SETTING": "1",
    }
    found = environment.clean(given)
    assert found == environment.FIXED | {
        "PATH": "/bin",
        "MKL_CBWR": "AVX2",
        "GIT_DIR": "/git",
        "GIT_CONFIG_GLOBAL": str(tmp_path / ".gitconfig"),
    }
    assert environment.clean(found) == found
    assert "GIT_CONFIG_GLOBAL" not in environment.clean({"HOME": str(tmp_path / "nowhere")})


def test_every_command_enters_the_clean_environment():
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.flags.optimize]))"
    done = subprocess.run(
        [sys.executable, "-m", "workflow.clean", "timeit", "-n1", "-r1", code],
        cwd=environment.ROOT,
        env={**os.environ, "PYTHONOPTIMIZE": "1", "MPLBACKEND": "nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    variables, optimized = json.loads(done.stdout.splitlines()[0])
    assert variables == environment.clean()
    assert optimized == 0


def test_closed_streams_are_no_trouble():
    code = "import sys; assert None not in (sys.stdin, sys.stdout, sys.stderr)"
    call = f"'{sys.executable}' -m workflow.clean timeit -n1 -r1 '{code}' <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", call], cwd=environment.ROOT, check=False).returncode == 0


def test_a_folder_for_sockets_is_short(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert execute._short_folder(tmp_path.parents[-2]) == str(tmp_path.parents[-2])
    assert execute._short_folder(deep) == "/tmp"
    assert not execute._fits(str(deep))
    assert not execute._fits("é" * 50)  # bytes count


@pytest.fixture(scope="module")
def without_rights():
    """What starts a process that may write only where the permissions say so."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and setpriv is missing; run the tests as a user")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def hostile(folder):
    """Variables of a reader with settings for everything, whose home cannot be written to."""
    home = folder / "home"
    for name, text in {
        ".config/matplotlib/matplotlibrc": "text.usetex: True\nsavefig.bbox: tight\n",
        ".config/snakemake/default/config.yaml": "cores: 99\nno-such-option: true\n",
        ".config/jupytext/jupytext.toml": "formats = 'ipynb,py:percent'\n",
        ".ipython/profile_default/startup/00.py": STARTUP,
        ".jupyter/jupyter_config.json": '{"KernelManager": {"shutdown_wait_time": "never"}}',
        ".local/share/jupyter/kernels/python3/kernel.json": json.dumps(
            {"argv": ["false"], "display_name": "Mine", "language": "python"}
        ),
        "path/seaborn.py": STARTUP,
        "path/sitecustomize.py": STARTUP,
        "path/usercustomize.py": STARTUP,
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    long = folder / ("t" * 110)
    long.mkdir()
    home.chmod(0o500)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(long),
        "LC_ALL": "C",
        "TZ": "Asia/Kathmandu",
        "COLUMNS": "20",
        "FORCE_COLOR": "1",
        "MATPLOTLIBRC": str(home / ".config/matplotlib/matplotlibrc"),
        "MPLBACKEND": "nowhere",
        "MKL_NUM_THREADS": "3",
        "OMP_NUM_THREADS": "7",
        "PYTHONOPTIMIZE": "2",
        "PYTHONPATH": str(home / "path"),
        "PYTHONSAFEPATH": "1",
        "PYTHONSTARTUP": str(home / "path" / "seaborn.py"),
        "PYTHONWARNINGS": "error",
        "SNAKEMAKE_PROFILE": "nowhere",
        "SOURCE_DATE_EPOCH": "1",
        "JUPYTER_PATH": str(home / ".local/share/jupyter"),
        "IPYTHONDIR": str(home / ".ipython"),
    }


@pytest.mark.pipeline
def test_anybody_anywhere_builds_the_same_bytes(published, tmp_path, without_rights):
    plain, _ = published
    copy = ["git", "archive", f"--output={tmp_path / 'book.tar'}", "HEAD"]
    subprocess.run(copy, cwd=plain.root, check=True)
    book = Book(tmp_path / "mon livre é")
    book.root.mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "book.tar"], cwd=book.root, check=True)
    (book.root / "matplotlibrc").write_text("svg.fonttype: none\n")
    call = {"prefix": without_rights, "env": hostile(tmp_path), "umask": 0o077}

    book.root.chmod(0o500)
    process = book.run("workflow.build", **call)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.startswith("error: Permission denied: _build")
    assert output.count("\n") == 1
    book.root.chmod(0o700)

    process = book.run("workflow.build", "--cores", "2", **call)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    ours, theirs = book.pages(), plain.pages()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert list((tmp_path / ("t" * 110)).iterdir()) == []

"""Jobs and kernels are forks of a process that has loaded everything: as if each had its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.pipeline import small_book
from workflow.environment import clean
from workflow.processes import started

pytestmark = pytest.mark.pipeline

MODULE = '''
"""What a fork sees, and how it ends."""
import os
import sys
import time


def main(arguments):
    what, *rest = arguments
    if what == "show":
        print(os.getcwd(), os.environ.get("GIVEN"), sys.stdin.read(), rest, os.getppid())
        print("complaint", file=sys.stderr)
        return 7
    if what == "modules":
        print("torch" in sys.modules, len(os.listdir("/proc/self/task")))
        return 0
    if what == "die":
        os.kill(os.getpid(), 9)
    open(rest[0], "w").write(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small book with a planned build and a module that tells what it sees, in a long folder."""
    folder = tmp_path_factory.mktemp("warm") / ("f" * 100)
    book = small_book.make(folder / "book")
    (book.root / "workflow" / "told.py").write_text(MODULE)
    plan = "from workflow.driver import *; prepare(load_profile('quick'), 1)"
    subprocess.run(
        [sys.executable, "-c", plan], cwd=book.root, env=variables(book.root), check=True
    )
    return book.root


def variables(root):
    return clean() | {"PYTHONPATH": str(root), "HOME": str(root / "_build" / ".home")}


@contextlib.contextmanager
def serving(root, name):
    """A server, and the environment in which clients find it."""
    sockets = root / "_build" / name
    sockets.mkdir()
    command = [sys.executable, "-m", "workflow.warm.server", f"_build/{name}", "quick"]
    with started(command, cwd=root, env=variables(root)) as server:
        until = time.monotonic() + 120
        while not (sockets / "kernels").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        yield server, variables(root) | {"PROMPTBOOK_WARM": f"_build/{name}"}
        if server.poll() is None:
            server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def server(root):
    with serving(root, "shared") as (process, environment):
        yield process, environment


def client(root, environment, *arguments, cwd=None):
    command = [sys.executable, "-IS", str(root / "workflow" / "warm" / "client.py")]
    return subprocess.Popen(
        [*command, "workflow.told", *arguments],
        cwd=cwd or root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, seconds=60):
    """The process that wrote its number into a file."""
    until = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    return psutil.Process(int(path.read_text()))


def has_ended(process, seconds=30):
    until = time.monotonic() + seconds
    while process.is_running() and process.status() != "zombie":
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_a_fork_has_the_place_of_its_client(root, server, tmp_path):
    process, environment = server
    called = client(root, environment | {"GIVEN": "a=b c"}, "show", "é", "", cwd=tmp_path)
    output, errors = called.communicate("typed", timeout=120)
    assert output == f"{tmp_path} a=b c typed ['é', ''] {process.pid}\n"
    assert errors == "complaint\n"
    assert called.returncode == 7


def test_a_fork_finds_torch_loaded_and_no_other_thread(root, server):
    output, _ = client(root, server[1], "modules").communicate(timeout=120)
    assert output == "True 1\n"


def test_a_fork_that_is_killed_is_told_as_killed(root, server):
    called = client(root, server[1], "die")
    called.communicate(timeout=120)
    assert called.returncode == 128 + signal.SIGKILL


def test_a_fork_ends_with_its_client(root, server, tmp_path):
    called = client(root, server[1], "wait", str(tmp_path / "pid"))
    fork = wait_for(tmp_path / "pid")
    called.kill()
    called.communicate()
    assert has_ended(fork)


def test_after_a_change_of_the_sources_a_process_of_its_own_runs_it(root, server):
    told = root / "workflow" / "told.py"
    before = told.stat()
    told.write_text(MODULE.replace('"complaint"', '"changed"'))
    output, errors = client(root, server[1], "show").communicate("", timeout=120)
    assert errors == "changed\n"
    assert str(server[0].pid) not in output
    told.write_text(MODULE)
    os.utime(told, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_without_a_server_a_process_of_its_own_runs_it(root):
    for environment in (variables(root), variables(root) | {"PROMPTBOOK_WARM": "_build/none"}):
        called = client(root, environment, "modules")
        output, _ = called.communicate(timeout=120)
        assert output == "False 1\n"
        assert called.returncode == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, 137)])
def test_a_server_that_ends_leaves_nothing(root, tmp_path, number, status):
    with serving(root, number.name) as (process, environment):
        called = client(root, environment, "wait", str(tmp_path / "pid"))
        fork = wait_for(tmp_path / "pid")
        below = psutil.Process(process.pid).children(recursive=True)
        assert fork in below
        assert len(below) == 2  # the other forks kernels
        process.send_signal(number)
        called.communicate(timeout=60)
        assert called.returncode == status
        assert all(map(has_ended, below))

"""Run ``python -m MODULE ARGUMENTS`` in a fork of the build's warm process, if there is one.

    python -IS workflow/warm/client.py workflow.train RUN … --profile quick --receipts FILE …

Directory, environment and standard streams are those of this process, and it ends as the fork does.
The fork is ended when this process ends first. This file loads almost nothing, so that it starts at
once.
"""

import os
import signal
import socket
import sys
from array import array

WARM = "PROMPTBOOK_WARM"
"""Variable that names the folder of the sockets, relative to the project."""
PEAK = "PROMPTBOOK_PEAK"
"""Variable that names the file in which the server says the peak memory of the fork."""
KILLED = 128 + signal.SIGKILL
KERNEL = "ipykernel_launcher"


def connected(folder: str, module: str) -> socket.socket | None:
    """A connection to the process that forks for this module, if it is there."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.getcwd()
    try:
        os.chdir(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
        found.connect(f"{folder}/{'kernels' if module == KERNEL else 'jobs'}")  # a short path
    except OSError:
        return None
    finally:
        os.chdir(before)
    return found


def asked(server: socket.socket, arguments: list[str]) -> int | None:
    """Exit status of a fork that ran it; None if the server did not start one."""
    variables = [name + b"=" + value for name, value in os.environb.items()]
    words = [os.getcwdb(), b"%d" % len(arguments), *map(os.fsencode, arguments), *variables]
    request = b"\0".join(words)
    streams = array("i", [0, 1, 2])
    try:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)]
        server.sendmsg([b"%16d" % len(request)], rights)
        server.sendall(request)
        with server.makefile("rb") as answers:
            if not answers.readline():
                return None
            status = answers.readline()
    except OSError:
        return None
    return int(status) if status else KILLED  # else the server was killed, and with it the fork


def main(arguments: list[str]) -> int:
    """Exit status of the command, wherever it ran."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    folder = os.environ.get(WARM)
    server = connected(folder, arguments[0]) if folder else None
    status = asked(server, arguments) if server else None
    if status is None:
        os.environ.pop(WARM, None)
        if PEAK in os.environ:
            open(os.environ.pop(PEAK), "w").close()  # the system will say it
        os.execv(sys.executable, [sys.executable, "-m", *arguments])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

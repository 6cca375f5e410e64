"""``make serve``: show the built site at an address of this machine.

It needs the standard library only, so that any Python serves a site that was built elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import sys
from pathlib import Path

from workflow.command import BuildError, Parser, Stopped, command

SITE = Path(__file__).resolve().parent.parent / "_build" / "html"


@command
def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = Parser(prog="python -m workflow.serve", description=__doc__)
    parser.add_argument("--port", default="8000")
    port = parser.parse_args(arguments).port
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BuildError(f"PORT must be a number from 0 to 65535, got {port or 'nothing'}")
    if not (SITE / "index.html").is_file():
        raise BuildError("there is no site yet; run: make book")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(SITE))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler)
    except OSError as error:
        raise BuildError(
            f"port {port} cannot be used ({error.strerror}); take another one: make serve PORT=8001"
        ) from None
    with server:
        print(f"http://localhost:{server.server_address[1]}/ (stop with Ctrl-C)", flush=True)
        with contextlib.suppress(Stopped):
            server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One connection of the front, served by a handler class: greeting, envelope, one HTTP exchange (docs/protocol.md, section 5).

As a program, a new interpreter per call: `once.py APP INSTANCE`, the connection as standard input, the handler class of APP/main.py.
"""

import importlib
import os
import socket
import sys
from typing import Any


class Server:
    """What `BaseHTTPRequestHandler` wants to know of its server."""

    server_name = "bench"
    server_port = 0


def handler_of(app: str) -> Any:
    """The handler class of `app`/main.py."""
    sys.path.insert(0, os.path.realpath(app))
    return importlib.import_module("main").Handler


def serve(connection: socket.socket, handler: Any, instance: str) -> None:
    """One call; nothing beyond the envelope is taken before the handler reads."""
    connection.sendall(b"MAYFLY/1 %s\n" % instance.encode())
    while True:
        seen = connection.recv(512, socket.MSG_PEEK)
        if not seen:
            return
        if b"\n" in seen:
            break
    connection.recv(seen.index(b"\n") + 1)
    handler(connection, ("127.0.0.1", 0), Server())


if __name__ == "__main__":
    with socket.socket(fileno=0) as accepted:
        serve(accepted, handler_of(sys.argv[1]), sys.argv[2])
